"""vnotch's own endpoint for `vnotch wipe`: a running server makes its state a fresh one.

    POST /vnotch/v1/wipe      vnotch:Wipe

The answer comes first. Then the server ends its requests, wipes (`vnotch.store.wipe`) and begins anew on the same port,
whose new connections wait meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.routing import Route

from vnotch.api.own_routes import SignedRequest, signed_route


class Wipe:
    """`routes()` goes into `build_app(extra_routes=...)`; `end` is how the server is ended, `asked` why."""

    def __init__(self) -> None:
        self.asked = False
        self.end: Callable[[], None] = lambda: None

    def routes(self) -> list[Route]:
        return [signed_route("/vnotch/v1/wipe", self.post, ["POST"])]

    async def post(self, request: SignedRequest) -> dict[str, Any]:
        request.authorise("vnotch:Wipe", "*")
        self.asked = True
        self.end()
        return {"wiping": True}

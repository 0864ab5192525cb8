"""vnotch's own endpoint for `vnotch explain`: why a packet would be accepted or rejected, layer by layer.

    GET /vnotch/v1/explanation?source=&destination=&port=&protocol=&icmp_type=      vnotch:Explain

`source` and `destination` are addresses, or ids of interfaces or instances. The answer is `explain.Explanation.to_json`
with `text`, its lines for people.
"""

from __future__ import annotations

from typing import Any

from starlette.routing import Route

from vnotch.api.own_routes import SignedRequest, signed_route
from vnotch.api.service import ApiError
from vnotch.errors import InputError
from vnotch.explain import explain
from vnotch.store import agents
from vnotch.store.accounts import Accounts
from vnotch.store.state import State


class Explanations:
    """`routes()` goes into `build_app(extra_routes=...)`."""

    def __init__(self, state: State, accounts: Accounts) -> None:
        self.state = state
        self.accounts = accounts

    def routes(self) -> list[Route]:
        return [signed_route("/vnotch/v1/explanation", self.get, ["GET"])]

    async def get(self, request: SignedRequest) -> dict[str, Any]:
        request.authorise("vnotch:Explain", "*")
        found: dict[str, Any] = await request.in_pool(self._explain, request.query_params)
        return found

    def _explain(self, asked: dict[str, str]) -> dict[str, Any]:
        unknown = asked.keys() - {"source", "destination", "port", "protocol", "icmp_type"}
        if unknown or not {"source", "destination"} <= asked.keys():
            raise invalid(f"the parameters are source, destination, port, protocol and icmp_type, not {sorted(asked)}")
        with self.state.read() as session:
            configuration = agents.all_interfaces(session, self.accounts.account, self.accounts.region)
        try:
            found = explain(
                configuration,
                asked["source"],
                asked["destination"],
                number(asked, "port"),
                asked.get("protocol", "tcp"),
                icmp_type=number(asked, "icmp_type"),
            )
        except InputError as error:
            raise invalid(str(error)) from error
        return found.to_json() | {"text": found.text}


def number(asked: dict[str, str], name: str) -> int | None:
    if name not in asked:
        return None
    if not asked[name].isascii() or not asked[name].isdigit() or int(asked[name]) > 65535:
        raise invalid(f"{name} is {asked[name]!r}, not a number from 0 to 65535")
    return int(asked[name])


def invalid(message: str) -> ApiError:
    return ApiError("InvalidParameterException", message)

"""vnotch's own endpoints about access: which keys there are, and what decided a request.

GET /vnotch/v1/keys                       vnotch:ListKeys         all access keys, without their secrets
GET /vnotch/v1/decisions/{request_id}     vnotch:GetDecision      the line of the access log, as far as it goes back
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from starlette.routing import Route

from vnotch.api.access_log import AccessLog
from vnotch.api.own_routes import SignedRequest, signed_route
from vnotch.api.service import ApiError
from vnotch.store.accounts import Accounts
from vnotch.store.principals import AccessKey, User


class Access:
    """`routes()` goes into `build_app(extra_routes=...)`."""

    def __init__(self, accounts: Accounts, access_log: AccessLog) -> None:
        self.accounts = accounts
        self.access_log = access_log

    def routes(self) -> list[Route]:
        return [
            signed_route("/vnotch/v1/keys", self.keys, ["GET"]),
            signed_route("/vnotch/v1/decisions/{request_id}", self.decision, ["GET"]),
        ]

    async def keys(self, request: SignedRequest) -> dict[str, Any]:
        request.authorise("vnotch:ListKeys", "*")
        found: dict[str, Any] = await request.in_pool(self._keys)
        return found

    def _keys(self) -> dict[str, Any]:
        with self.accounts.state.read() as session:
            rows = select(AccessKey, User.name).join(User, User.name_key == AccessKey.user_key, isouter=True)
            found = session.execute(rows.order_by(AccessKey.agent, User.name_key, AccessKey.created_ms)).all()
            uses = self.accounts.last_uses.of(session, [key.access_key_id for key, _ in found])
        return {
            "keys": [
                {
                    "access_key_id": key.access_key_id,
                    "user": user,
                    "agent": key.agent,
                    "status": key.status,
                    "created_ms": key.created_ms,
                    "used_ms": use.used_ms if (use := uses.get(key.access_key_id)) is not None else None,
                }
                for key, user in found
            ]
        }

    async def decision(self, request: SignedRequest) -> dict[str, Any]:
        request.authorise("vnotch:GetDecision", "*")
        line: dict[str, Any] | None = await request.in_pool(self.access_log.find, request.path_params["request_id"])
        if line is None:
            text = "The access log has no request of that id; it may go back less far."
            raise ApiError("ResourceNotFoundException", text)
        return line

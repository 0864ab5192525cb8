"""Idempotency by client token (EC2 API reference, ensuring idempotency).

The same token with the same parameters answers what the first request made and makes nothing; with other parameters it
is an error. AWS does not publish how long a token is remembered.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from sqlalchemy import delete
from sqlalchemy.orm import Session

from vnotch.api.service import ApiError, Call
from vnotch.store import network

CHARACTERS_MAX = 64
REMEMBERED_MS = 7 * 24 * 3600 * 1000


def replay(session: Session, call: Call) -> dict[str, Any] | None:
    """What the call's token already made, or None. Call within the transaction that would make it.

    Raises ApiError for a token that is too long or not ASCII, and IdempotentParameterMismatch.
    """
    token = call.params.get("ClientToken")
    if not token:
        return None
    if len(token) > CHARACTERS_MAX or not token.isascii():
        raise ApiError(
            "InvalidParameterValue",
            f"Value ({token}) for parameter clientToken is invalid. It has up to {CHARACTERS_MAX} ASCII characters.",
        )
    seen = network.ClientToken
    session.execute(delete(seen).where(seen.created_ms < call.now_ms - REMEMBERED_MS))
    earlier = session.get(seen, (call.operation, token))
    if earlier is None:
        return None
    if earlier.fingerprint != _fingerprint(call):
        # The text is that of EC2's error list.
        raise ApiError(
            "IdempotentParameterMismatch",
            "The request uses the same client token as a previous, but non-identical request. Do not reuse a client "
            "token with different requests, unless the requests are identical.",
        )
    return earlier.answer


def remember(session: Session, call: Call, answer: dict[str, Any]) -> None:
    """Keeps what the call made for `replay`. `answer` is JSON."""
    if token := call.params.get("ClientToken"):
        session.add(
            network.ClientToken(
                operation=call.operation,
                token=token,
                fingerprint=_fingerprint(call),
                answer=answer,
                created_ms=call.now_ms,
            )
        )


def _fingerprint(call: Call) -> str:
    others = {name: value for name, value in call.params.items() if name not in ("ClientToken", "DryRun")}
    return hashlib.sha256(json.dumps(others, sort_keys=True, default=str).encode()).hexdigest()

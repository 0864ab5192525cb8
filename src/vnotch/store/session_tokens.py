"""Session tokens: what STS gives out beside a key, and what tells the server everything of a session.

A token carries its claims, authenticated with a key that the state keeps, and the session's secret is derived from the
token with that same key. So sessions are in no table: they survive a restart, serve every server on the same state, and
cost no write. What ends them is in the claims' subject: a role or user that is gone.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import zlib
from dataclasses import dataclass
from typing import Any

from vnotch.store.principals import new_unique_id


@dataclass(frozen=True)
class SessionCredentials:
    access_key_id: str
    secret_access_key: str
    session_token: str
    expires_s: int


class SessionTokens:
    def __init__(self, key: bytes) -> None:
        self._key = key

    def issue(self, subject: dict[str, Any], now_s: int, duration_seconds: int) -> SessionCredentials:
        """Credentials of a session; `subject` says whose it is (JSON)."""
        access_key_id = new_unique_id("ASIA")
        expires_s = now_s + duration_seconds
        claims = {**subject, "key": access_key_id, "issued": now_s, "expires": expires_s}
        payload = zlib.compress(json.dumps(claims, separators=(",", ":")).encode())
        token = base64.b64encode(self._tag(payload) + payload).decode()
        return SessionCredentials(access_key_id, self.secret(token), token, expires_s)

    def claims(self, access_key_id: str, token: str) -> dict[str, Any] | None:
        """What a token of ours says, None for any other and for another key's."""
        try:
            data = base64.b64decode(token, validate=True)
        except ValueError:
            return None
        tag, payload = data[:32], data[32:]
        if not hmac.compare_digest(tag, self._tag(payload)):
            return None
        claims: dict[str, Any] = json.loads(zlib.decompress(payload))  # ours, by the tag
        return claims if claims["key"] == access_key_id else None

    def derived(self, purpose: str) -> bytes:
        """A key for another purpose, from which this one cannot be told."""
        return hmac.digest(self._key, b"derived:" + purpose.encode(), "sha256")

    def _tag(self, payload: bytes) -> bytes:
        return hmac.digest(self._key, b"token" + payload, "sha256")

    def secret(self, token: str) -> str:
        digest = hmac.digest(self._key, b"secret" + token.encode(), hashlib.sha256)
        return base64.b64encode(digest[:30]).decode()

"""The encoded message that EC2 puts into a denial, and what DecodeAuthorizationMessage makes of it (STS API Reference).

A message names the request, authenticated with the account's key; what was decided is in the access log, under that
name. Nobody who holds a message learns anything from it, and as long as the log goes back, the details are there.
"""

from __future__ import annotations

import base64
import hmac
import uuid
from collections.abc import Mapping
from typing import Any

import orjson

from vnotch.store.session_tokens import SessionTokens

_TAG_BYTES = 16


class AuthorizationMessages:
    def __init__(self, tokens: SessionTokens) -> None:
        self._key = tokens.derived("authorization message")

    def encode(self, request_id: str) -> str:
        name = uuid.UUID(request_id).bytes
        return base64.urlsafe_b64encode(self._tag(name) + name).decode().rstrip("=")

    def request_id(self, message: str) -> str | None:
        """The request that a message of ours names; None for any other text."""
        try:
            data = base64.b64decode(message + "=" * (-len(message) % 4), altchars=b"-_", validate=True)
        except ValueError:
            return None
        tag, name = data[:_TAG_BYTES], data[_TAG_BYTES:]
        if len(name) != 16 or not hmac.compare_digest(tag, self._tag(name)):
            return None
        return str(uuid.UUID(bytes=name))

    def _tag(self, name: bytes) -> bytes:
        return hmac.digest(self._key, name, "sha256")[:_TAG_BYTES]


def decoded(line: Mapping[str, Any]) -> str:
    """The JSON document of a denial, from its line of the access log."""
    denied = line["denied"]
    statement = denied["statement"]
    conditions = [
        {"key": key, "values": {"items": [{"value": value} for value in values]}}
        for key, values in sorted(denied["context"].items())
    ]
    document = {
        "allowed": False,
        "explicitDeny": denied["outcome"] == "explicitDeny",
        "matchedStatements": {"items": [_statement(statement)] if statement else []},
        "failures": {"items": []},
        "context": {
            "principal": {"id": denied["principal_id"], "arn": line["principal_arn"]},
            "action": denied["action"],
            "resource": denied["resource"],
            "conditions": {"items": conditions},
        },
    }
    return orjson.dumps(document).decode()


def _statement(statement: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "statementId": statement["sid"],
        "effect": "DENY",
        "sourcePolicyId": statement["policy"],
        "number": statement["number"],
    }

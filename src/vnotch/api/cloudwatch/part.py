"""What the operations of CloudWatch share: errors, tokens, ARNs."""

from __future__ import annotations

import base64
import binascii
from typing import Any, TypeVar

import orjson

from vnotch.api.cloudwatch.webhooks import Webhooks
from vnotch.api.service import ApiError, Call, Service
from vnotch.store.state import State

Position = TypeVar("Position", int, str)


class CloudWatchPart(Service):
    """Base of the groups of operations."""

    def __init__(self, state: State, webhooks: Webhooks) -> None:
        self.state = state
        self.webhooks = webhooks


def invalid_value(message: str) -> ApiError:
    return ApiError("InvalidParameterValue", message)


def invalid_combination(message: str) -> ApiError:
    return ApiError("InvalidParameterCombination", message)


def validation(message: str) -> ApiError:
    """PutMetricAlarm has no error of its own for values that do not go together."""
    return ApiError("ValidationError", message)


def page_token(call: Call, position: int | str) -> str:
    """An opaque token that says where the operation goes on."""
    return base64.urlsafe_b64encode(orjson.dumps([call.operation, position])).decode()


def token_position(call: Call, kind: type[Position]) -> Position | None:
    """What `page_token` was given, None without a token. Raises ApiError for what is no token of this operation."""
    token = call.params.get("NextToken")
    if token is None:
        return None
    try:
        operation, position = orjson.loads(base64.b64decode(token.encode(), altchars=b"-_", validate=True))
    except (binascii.Error, UnicodeError, ValueError, TypeError):
        operation, position = None, None
    if operation == call.operation and type(position) is kind:
        return position
    raise ApiError("InvalidNextToken", "The next token specified is invalid.")


def dimensions_of(items: list[dict[str, str]] | None) -> dict[str, str]:
    """Name -> value; ApiError for a name that is given twice."""
    found = {item["Name"]: item["Value"] for item in items or ()}
    if len(found) != len(items or ()):
        raise invalid_value("No duplicate dimensions are allowed.")
    return found


def dimension_list(pairs: Any) -> list[dict[str, str]]:
    return [{"Name": name, "Value": value} for name, value in pairs]


def alarm_arn(account: str, region: str, name: str) -> str:
    return f"arn:aws:cloudwatch:{region}:{account}:alarm:{name}"

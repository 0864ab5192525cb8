"""What the operations of CloudWatch share: errors, tokens, ARNs."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import orjson

from vnotch.api.cloudwatch.webhooks import Webhooks
from vnotch.api.service import ApiError, Call, Service
from vnotch.store.state import State


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


def page_token(position: Any) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(position)).decode()


def token_position(call: Call) -> Any:
    token = call.params.get("NextToken")
    if token is None:
        return None
    try:
        return orjson.loads(base64.b64decode(token.encode(), altchars=b"-_", validate=True))
    except (binascii.Error, UnicodeError, ValueError):
        raise ApiError("InvalidNextToken", "The next token specified is invalid.") from None


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

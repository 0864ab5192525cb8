"""What the operations of CloudWatch Logs share: names, ARNs, errors, tokens.

Texts of errors are AWS's where they are known (recorded answers); others say what is right in AWS's manner.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from typing import Any

import orjson
from sqlalchemy.orm import Session

from vnotch.api.quotas import Quotas
from vnotch.api.service import ApiError, Call, Resources, Service
from vnotch.errors import InputError
from vnotch.store.filter_pattern import FilterPattern
from vnotch.store.known_formats import KnownFormats
from vnotch.store.lake import Lake
from vnotch.store.log_groups import LogGroup, LogStream, find_group, find_stream
from vnotch.store.log_totals import LogTotals
from vnotch.store.state import State
from vnotch.store.stream_maker import StreamMaker

GROUP_NAME = re.compile(r"[.\-_/#A-Za-z0-9]+")
STREAM_NAME = re.compile(r"[^:*]*")
NAME_CHARACTERS_MAX = 512
PAGE_MAX = 50


class LogsPart(Service):
    """Base of the groups of operations: the state, the lake and the totals that tie them."""

    def __init__(self, state: State, lake: Lake, totals: LogTotals, quotas: Quotas | None = None) -> None:
        self.state = state
        self.lake = lake
        self.totals = totals
        self.quotas = quotas or Quotas()
        self.known_formats = KnownFormats(state, lake)
        self.stream_maker = StreamMaker(state)


def invalid(message: str) -> ApiError:
    return ApiError("InvalidParameterException", message)


def constraint(member: str, value: object, rule: str) -> ApiError:
    """The text with which AWS's services refuse a member that breaks its model."""
    return invalid(
        f"1 validation error detected: Value '{value}' at '{member}' failed to satisfy constraint: Member must {rule}"
    )


def no_such_group() -> ApiError:
    return ApiError("ResourceNotFoundException", "The specified log group does not exist.")


def no_such_stream() -> ApiError:
    return ApiError("ResourceNotFoundException", "The specified log stream does not exist.")


def limit_exceeded() -> ApiError:
    return ApiError("LimitExceededException", "Resource limit exceeded.")


def filter_pattern(text: str) -> FilterPattern:
    """The pattern of a request; ApiError that names the place where it is not understood."""
    try:
        return FilterPattern.parse(text)
    except InputError as error:
        raise invalid(str(error)) from error


def unavailable(message: str) -> ApiError:
    return ApiError("ServiceUnavailableException", message, status=500)


def throttled() -> ApiError:
    return ApiError("ThrottlingException", "Rate exceeded")


def integer_between(call: Call, member: str, low: int, high: int, default: int) -> int:
    value = call.params.get(member)
    if value is None:
        return default
    if value < low:
        raise constraint(member, value, f"have value greater than or equal to {low}")
    if value > high:
        raise constraint(member, value, f"have value less than or equal to {high}")
    return int(value)


def group_name(call: Call, member: str = "logGroupName") -> str:
    return checked_name(member, call.params.get(member), GROUP_NAME, r"[\.\-_/#A-Za-z0-9]+")


def stream_name(call: Call, member: str = "logStreamName") -> str:
    return checked_name(member, call.params.get(member), STREAM_NAME, "[^:*]*")


def checked_name(member: str, name: Any, pattern: re.Pattern[str], shown: str) -> str:
    if name is None:
        raise constraint(member, "null", "not be null")
    if not name:
        raise constraint(member, name, "have length greater than or equal to 1")
    if len(name) > NAME_CHARACTERS_MAX:
        raise constraint(member, name, f"have length less than or equal to {NAME_CHARACTERS_MAX}")
    if not pattern.fullmatch(name):
        raise constraint(member, name, f"satisfy regular expression pattern: {shown}")
    return str(name)


def group_in(call: Call) -> str:
    """The group's name from logGroupName or logGroupIdentifier (a name or an ARN), of which exactly one is given."""
    name, identifier = call.params.get("logGroupName"), call.params.get("logGroupIdentifier")
    if (name is None) == (identifier is None):
        raise invalid("Exactly one of logGroupName and logGroupIdentifier must be specified.")
    if identifier is None:
        return group_name(call)
    return name_from_identifier(call, "logGroupIdentifier", identifier)


def name_from_identifier(call: Call, member: str, identifier: str) -> str:
    if not identifier.startswith("arn:"):
        return checked_name(member, identifier, GROUP_NAME, r"[\w#+=/:,.@-]*")
    return group_name_of_arn(call, identifier.removesuffix(":*"))


def group_name_of_arn(call: Call, arn: str) -> str:
    """The name in the ARN of a log group, which does not end in `:*`. Raises ApiError; so does another account's."""
    if not arn.startswith("arn:") or arn.endswith("*"):
        raise invalid(f"{arn!r} is not the ARN of a log group; it cannot end with an asterisk.")
    prefix = f"arn:aws:logs:{call.region}:{call.account}:log-group:"
    name = arn.removeprefix(prefix)
    if not arn.startswith(prefix) or not GROUP_NAME.fullmatch(name):
        raise no_such_group()
    return name


def group_arn(call: Call, name: str) -> str:
    """AWS's `logGroupArn`; its `arn` is the same with `:*`."""
    return f"arn:aws:logs:{call.region}:{call.account}:log-group:{name}"


def stream_arn(call: Call, group: str, stream: str) -> str:
    return f"{group_arn(call, group)}:log-stream:{stream}"


def _named_group(call: Call) -> str:
    members = ("logGroupName", "logGroupIdentifier", "resourceArn")
    identifier = str(next((call.params[member] for member in members if call.params.get(member)), ""))
    return identifier.rpartition(":log-group:")[2].removesuffix(":*")


# AWS's own denials show these forms: a group as `log-group:NAME:log-stream:`, which `NAME:*` in a policy matches.
ON_GROUP: Resources = lambda call: [stream_arn(call, _named_group(call), "")]  # noqa: E731
ON_STREAM: Resources = lambda call: [  # noqa: E731
    stream_arn(call, _named_group(call), str(call.params.get("logStreamName") or ""))
]
ON_ALL_GROUPS: Resources = lambda call: [stream_arn(call, "", "")]  # noqa: E731


def existing_group(session: Session, name: str) -> LogGroup:
    group = find_group(session, name)
    if group is None:
        raise no_such_group()
    return group


def existing_stream(session: Session, group: LogGroup, name: str) -> LogStream:
    stream = find_stream(session, group.id, name)
    if stream is None:
        raise no_such_stream()
    return stream


def page_token(call: Call, asked: dict[str, Any], position: Any) -> str:
    """An opaque nextToken that says where to go on and for which question it was made."""
    return base64.urlsafe_b64encode(orjson.dumps([_question(call, asked), position])).decode()


def token_position(call: Call, asked: dict[str, Any]) -> Any:
    """What `page_token` was given, None without a token. Raises ApiError for a token of another question."""
    token = call.params.get("nextToken")
    if token is None:
        return None
    try:
        question, position = orjson.loads(base64.b64decode(token.encode(), altchars=b"-_", validate=True))
    except (binascii.Error, UnicodeError, ValueError, TypeError):
        question, position = None, None
    if position is None or question != _question(call, asked):
        raise invalid("The specified nextToken is invalid.")
    return position


def _question(call: Call, asked: dict[str, Any]) -> str:
    text = orjson.dumps([call.account, call.region, call.operation, asked], option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(text, digest_size=9).hexdigest()

"""Condition operators and context keys of policies (IAM user guide, "IAM JSON policy elements: Condition operators").

`compile_condition` turns a Condition element into a function of the request's context, or raises ValueError with the
reason for which it is refused. Operators are AND-ed, keys are AND-ed, the values of one key are OR-ed; for the negated
operators several values mean that none may match. A missing key makes a positive operator false and a negated one true;
with ...IfExists it is always true.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

Context = Mapping[str, str | tuple[str, ...]]
"""Context keys in lower case, with one value (text) or several (a tuple)."""

Condition = Callable[[Context], bool]
Match = Callable[[str, Context], bool]
"""Whether one value of the request matches one value of the policy."""

SUPPLIED_KEYS = frozenset(
    {
        "aws:currenttime",
        "aws:epochtime",
        "aws:principalaccount",
        "aws:principalarn",
        "aws:principalservicename",
        "aws:principaltype",
        "aws:requestedregion",
        "aws:securetransport",
        "aws:sourceaccount",
        "aws:sourcearn",
        "aws:sourceip",
        "aws:tokenissuetime",
        "aws:useragent",
        "aws:userid",
        "aws:username",
        "ec2:createaction",
        "iam:awsservicename",
        "iam:passedtoservice",
        "sts:externalid",
        "sts:rolesessionname",
    }
)
"""The keys that the server fills in, where AWS would."""

ABSENT_KEYS = frozenset(
    {
        "aws:multifactorauthage",
        "aws:multifactorauthpresent",
        "aws:principalorgid",
        "aws:principalorgpaths",
        "aws:sourceorgid",
        "aws:sourceorgpaths",
        "aws:sourcevpc",
        "aws:sourcevpce",
        "aws:vpcsourceip",
        "aws:federatedprovider",
        "aws:calledvia",
        "aws:calledviafirst",
        "aws:calledvialast",
    }
)
"""Keys that are rightly absent: there is no organisation, no MFA device, no VPC endpoint and no federation here."""


def key_is_known(key: str) -> bool:
    return key in SUPPLIED_KEYS or key in ABSENT_KEYS


@lru_cache(maxsize=4096)
def wildcard(pattern: str, ignore_case: bool = False) -> re.Pattern[str]:
    """`*` is any run of characters, `?` is one; everything else stands for itself."""
    return re.compile(_wildcard_source(pattern), re.DOTALL | (re.IGNORECASE if ignore_case else 0))


def any_wildcard(patterns: tuple[str, ...]) -> re.Pattern[str] | None:
    """What any of the patterns matches, or None for no pattern."""
    return re.compile("|".join(map(_wildcard_source, patterns)), re.DOTALL) if patterns else None


def _wildcard_source(pattern: str) -> str:
    # Plain `.*` for each star would take time in a power of the text's length. The pieces between stars may be found
    # one after the other, each leftmost and for good (an atomic group), and runs of stars are one star.
    pieces = [_piece(piece) for piece in re.split(r"\*+", pattern)]
    if len(pieces) == 1:
        return pieces[0]
    middle = "".join(f"(?>.*?{piece})" for piece in pieces[1:-1] if piece)
    return f"{pieces[0]}{middle}.*{pieces[-1]}"


def _piece(text: str) -> str:
    return "".join("." if character == "?" else re.escape(character) for character in text)


# --- operators: (policy value, known when compiled) -> match of a request's value ---

_VARIABLE = re.compile(r"\$\{([^{}]*)\}")
_LITERALS = {"*": "*", "?": "?", "$": "$"}


def has_variable(text: str) -> bool:
    return "${" in text


def check_variables(text: str) -> None:
    """ValueError for a policy variable that is not understood."""
    for match in _VARIABLE.finditer(text):
        name = match[1].partition(",")[0].strip().lower()
        if match[1] not in _LITERALS and not key_is_known(name):
            raise ValueError(f"the policy variable {match[0]} is not known")
    if "${" in _VARIABLE.sub("", text):
        raise ValueError(f"the policy variable in {text!r} is not closed")


def substituted(text: str, context: Context, escape: Callable[[str], str] = str) -> str | None:
    """`text` with its variables filled in, or None where one has no value and no default: then nothing matches."""
    missing = False

    def value(match: re.Match[str]) -> str:
        nonlocal missing
        name, comma, default = match[1].partition(",")
        if match[1] in _LITERALS:
            return escape(_LITERALS[match[1]])
        found = context.get(name.strip().lower())
        if isinstance(found, str):
            return escape(found)
        if comma:
            return escape(default.strip().strip("'"))
        missing = True
        return ""

    filled = _VARIABLE.sub(value, text)
    return None if missing else filled


# A wildcard in a variable's value must not act as one, so such characters are put into private code points while the
# pattern is compiled, in the pattern and in the value that is matched against it.
_SHELTER = str.maketrans({"*": "\ue000", "?": "\ue001"})


def sheltered(text: str) -> str:
    return text.translate(_SHELTER)


def glob_matches(pattern: str, value: str, context: Context) -> bool:
    """Whether `value` matches a pattern that may hold wildcards and policy variables. Case matters."""
    if not has_variable(pattern):
        return wildcard(pattern).fullmatch(value) is not None
    filled = substituted(pattern, context, sheltered)
    return filled is not None and wildcard(filled).fullmatch(sheltered(value)) is not None


def _string_equals(policy: str) -> Match:
    if not has_variable(policy):
        return lambda value, context: value == policy
    return lambda value, context: value == substituted(policy, context)


def _string_equals_ignoring_case(policy: str) -> Match:
    def match(value: str, context: Context) -> bool:
        filled = substituted(policy, context)
        return filled is not None and value.casefold() == filled.casefold()

    return match


def _string_like(policy: str) -> Match:
    return lambda value, context: glob_matches(policy, value, context)


def _arn(policy: str) -> Match:
    parts = policy.split(":", 5)
    if len(parts) != 6 and policy != "*":
        raise ValueError(f"{policy!r} is not an ARN of six parts")

    def match(value: str, context: Context) -> bool:
        given = value.split(":", 5)
        if policy == "*":
            return len(given) == 6
        return len(given) == 6 and all(glob_matches(p, g, context) for p, g in zip(parts, given, strict=True))

    return match


def _numeric(compare: Callable[[float, float], bool]) -> Callable[[str], Match]:
    def compile_value(policy: str) -> Match:
        bound = _number(policy)

        def match(value: str, context: Context) -> bool:
            try:
                return compare(_number(value), bound)
            except ValueError:
                return False

        return match

    return compile_value


def _number(text: str) -> float:
    if not re.fullmatch(r"[+-]?[0-9]+(\.[0-9]+)?", text, re.ASCII):
        raise ValueError(f"{text!r} is not a number")
    return float(text)


def _date(compare: Callable[[float, float], bool]) -> Callable[[str], Match]:
    def compile_value(policy: str) -> Match:
        bound = _moment(policy)

        def match(value: str, context: Context) -> bool:
            try:
                return compare(_moment(value), bound)
            except ValueError:
                return False

        return match

    return compile_value


def _moment(text: str) -> float:
    if re.fullmatch(r"[0-9]{1,12}(\.[0-9]+)?", text, re.ASCII) and not re.fullmatch(r"[0-9]{4}", text, re.ASCII):
        return float(text)
    try:
        moment = datetime.fromisoformat(text + "-01-01" if re.fullmatch(r"[0-9]{4}", text, re.ASCII) else text)
    except ValueError:
        raise ValueError(f"{text!r} is not a date of ISO 8601 nor Unix seconds") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _bool(policy: str) -> Match:
    if not has_variable(policy) and policy.lower() not in ("true", "false"):
        raise ValueError(f"{policy!r} is neither true nor false")

    def match(value: str, context: Context) -> bool:
        filled = substituted(policy, context)
        return filled is not None and value.lower() == filled.lower()

    return match


def _binary(policy: str) -> Match:
    try:
        wanted = base64.b64decode(policy, validate=True)
    except binascii.Error:
        raise ValueError(f"{policy!r} is not base64") from None

    def match(value: str, context: Context) -> bool:
        try:
            return base64.b64decode(value, validate=True) == wanted
        except binascii.Error:
            return False

    return match


def _ip(policy: str) -> Match:
    try:
        network = ipaddress.ip_network(policy, strict=False)
    except ValueError:
        raise ValueError(f"{policy!r} is not an address or CIDR") from None

    def match(value: str, context: Context) -> bool:
        try:
            return ipaddress.ip_address(value) in network
        except ValueError:
            return False

    return match


# Name -> (compiler of one policy value, negated). The one table of operators.
OPERATORS: dict[str, tuple[Callable[[str], Match], bool]] = {
    "StringEquals": (_string_equals, False),
    "StringNotEquals": (_string_equals, True),
    "StringEqualsIgnoreCase": (_string_equals_ignoring_case, False),
    "StringNotEqualsIgnoreCase": (_string_equals_ignoring_case, True),
    "StringLike": (_string_like, False),
    "StringNotLike": (_string_like, True),
    "NumericEquals": (_numeric(lambda value, bound: value == bound), False),
    "NumericNotEquals": (_numeric(lambda value, bound: value == bound), True),
    "NumericLessThan": (_numeric(lambda value, bound: value < bound), False),
    "NumericLessThanEquals": (_numeric(lambda value, bound: value <= bound), False),
    "NumericGreaterThan": (_numeric(lambda value, bound: value > bound), False),
    "NumericGreaterThanEquals": (_numeric(lambda value, bound: value >= bound), False),
    "DateEquals": (_date(lambda value, bound: value == bound), False),
    "DateNotEquals": (_date(lambda value, bound: value == bound), True),
    "DateLessThan": (_date(lambda value, bound: value < bound), False),
    "DateLessThanEquals": (_date(lambda value, bound: value <= bound), False),
    "DateGreaterThan": (_date(lambda value, bound: value > bound), False),
    "DateGreaterThanEquals": (_date(lambda value, bound: value >= bound), False),
    "Bool": (_bool, False),
    "BinaryEquals": (_binary, False),
    "IpAddress": (_ip, False),
    "NotIpAddress": (_ip, True),
    "ArnEquals": (_arn, False),
    "ArnLike": (_arn, False),
    "ArnNotEquals": (_arn, True),
    "ArnNotLike": (_arn, True),
}
_VARIABLES_IN = ("String", "Arn", "Bool")
_BY_LOWER_NAME = {name.lower(): name for name in OPERATORS}


def compile_condition(element: Any) -> tuple[Condition, ...]:
    """The conditions of a statement, all of which must hold; ValueError with the reason for what is not understood."""
    if not isinstance(element, dict):
        raise ValueError("Condition must be an object")
    conditions = []
    for operator, keys in element.items():
        if not isinstance(keys, dict) or not keys:
            raise ValueError(f"the condition operator {operator} must hold an object of keys")
        for key, values in keys.items():
            conditions.append(_one_condition(operator, key, _values(key, values)))
    return tuple(conditions)


def _values(key: str, values: Any) -> list[str]:
    texts = []
    for value in values if isinstance(values, list) else [values]:
        if isinstance(value, bool):
            texts.append("true" if value else "false")
        elif isinstance(value, (str, int, float)):
            texts.append(str(value))
        else:
            raise ValueError(f"the values of the condition key {key} must be texts")
    if not texts:
        raise ValueError(f"the condition key {key} has no values")
    return texts


def _one_condition(operator: str, key: str, values: Sequence[str]) -> Condition:
    name = key.lower()
    if not key_is_known(name):
        raise ValueError(f"the condition key {key} is not supported")
    prefix, colon, base = operator.rpartition(":")
    if colon and prefix.lower() not in ("forallvalues", "foranyvalue"):
        raise ValueError(f"the condition operator {operator} is not known")
    if base.lower() == "null" and not colon:
        return _null(name, values)
    if_exists = base.lower().endswith("ifexists")
    known = _BY_LOWER_NAME.get(base[: -len("IfExists")].lower() if if_exists else base.lower())
    if known is None:
        raise ValueError(f"the condition operator {operator} is not known")
    compiler, negated = OPERATORS[known]
    for value in values:
        if has_variable(value) and not known.startswith(_VARIABLES_IN):
            raise ValueError(f"{known} takes no policy variables")
        check_variables(value)
    matches = [compiler(value) for value in values]

    def holds(value: str, context: Context) -> bool:
        return any(match(value, context) for match in matches) is not negated

    if prefix.lower() == "forallvalues":
        return lambda context: all(holds(value, context) for value in _several(context.get(name)))
    if prefix.lower() == "foranyvalue":
        missing_is = if_exists

        def any_value(context: Context) -> bool:
            given = context.get(name)
            return missing_is if given is None else any(holds(value, context) for value in _several(given))

        return any_value
    missing = negated or if_exists

    def condition(context: Context) -> bool:
        given = context.get(name)
        if given is None:
            return missing
        if isinstance(given, str):
            return holds(given, context)
        # A plain operator on a key of several values: one match is enough, and for negated ones all must differ.
        return all(holds(v, context) for v in given) if negated else any(holds(v, context) for v in given)

    return condition


def _several(given: str | tuple[str, ...] | None) -> tuple[str, ...]:
    if given is None:
        return ()
    return (given,) if isinstance(given, str) else given


def _null(name: str, values: Sequence[str]) -> Condition:
    wanted = {value.lower() for value in values}
    if not wanted <= {"true", "false"}:
        raise ValueError("Null takes true or false")
    return lambda context: ("false" if name in context else "true") in wanted

"""Condition operators of policies (IAM user guide, "IAM JSON policy elements: Condition operators").

`compile_condition` turns a Condition element into functions of the request's context, or raises ValueError with the
reason for which it is refused. Operators are AND-ed, keys are AND-ed, the values of one key are OR-ed; for the negated
operators several values mean that none may match. A missing key makes a positive operator false and a negated one true;
with ...IfExists it is always true. Which keys there are is in `vnotch.iam.context_keys`.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from vnotch.iam.context_keys import key_is_known
from vnotch.iam.variables import Context, Unresolved, Variants, check_variables, glob_matches, has_variable, substituted

Condition = Callable[[Context], bool]
Match = Callable[[str, Context], bool]
"""Whether one value of the request matches one value of the policy."""

# --- operators: (policy value, known when compiled) -> match of a request's value ---


def _string_equals(policy: str) -> Match:
    if not has_variable(policy):
        return lambda value, context: value == policy
    return lambda value, context: value == substituted(policy, context)


def _string_equals_ignoring_case(policy: str) -> Match:
    return lambda value, context: value.casefold() == substituted(policy, context).casefold()


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

    return lambda value, context: value.lower() == substituted(policy, context).lower()


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


@lru_cache(maxsize=1024)
def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.ip_address(text)


def _ip(policy: str) -> Match:
    try:
        network = ipaddress.ip_network(policy, strict=False)
    except ValueError:
        raise ValueError(f"{policy!r} is not an address or CIDR") from None

    def match(value: str, context: Context) -> bool:
        try:
            return _address(value) in network
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


def compile_condition(
    element: Any, *, variables: bool = True, any_key: bool = False, allows: bool = True
) -> tuple[Condition, ...]:
    """The conditions of a statement, all of which must hold; ValueError with the reason for what is not understood.

    Without `variables` (policies of 2008) `${...}` is a literal. With `any_key` keys need not be known: a simulation
    brings its own. `allows`: the statement's effect, which decides about tags that are there in two spellings.
    """
    if not isinstance(element, dict):
        raise ValueError("Condition must be an object")
    conditions = []
    for operator, keys in element.items():
        if not isinstance(keys, dict) or not keys:
            raise ValueError(f"the condition operator {operator} must hold an object of keys")
        for key, values in keys.items():
            if not any_key and not key_is_known(key.lower()):
                raise ValueError(f"the condition key {key} is not supported")
            texts = _values(key, values)
            if not variables:
                texts = [text.replace("${", "${$}{") for text in texts]
            conditions.append(_one_condition(operator, key.lower(), texts, any_key, allows))
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


def _one_condition(operator: str, name: str, values: Sequence[str], any_key: bool, allows: bool) -> Condition:
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
        check_variables(value, any_key)
    holds = _holds([compiler(value) for value in values], negated)
    if prefix.lower() == "forallvalues":
        return _for_values(name, holds, every=True, if_absent=True, allows=allows)
    if prefix.lower() == "foranyvalue":
        return _for_values(name, holds, every=False, if_absent=if_exists, allows=allows)
    return _plain(name, holds, negated, if_exists, allows)


def _holds(matches: Sequence[Match], negated: bool) -> Match:
    """Whether one of the request's values fits the values of the policy, taken together."""
    if len(matches) == 1:
        only = matches[0]
        return (lambda value, context: not only(value, context)) if negated else only

    def holds(value: str, context: Context) -> bool:
        unresolved: Unresolved | None = None
        for match in matches:
            try:
                if match(value, context):
                    return not negated
            except Unresolved as missing:
                unresolved = missing
        if unresolved is not None:
            raise unresolved
        return negated

    return holds


def _plain(name: str, holds: Match, negated: bool, if_exists: bool, allows: bool) -> Condition:
    missing = negated or if_exists

    def condition(context: Context) -> bool:
        given = context.get(name)
        if given is None:
            return missing
        if isinstance(given, str):
            return holds(given, context)
        # A plain operator on a key of several values: one match is enough, and for negated ones all must differ.
        every = allows if isinstance(given, Variants) else negated
        return (all if every else any)(holds(value, context) for value in given)

    return condition


def _for_values(name: str, holds: Match, every: bool, if_absent: bool, allows: bool) -> Condition:
    """ForAllValues (`every`) and ForAnyValue over the set of values that a key has."""

    def of_set(given: str | tuple[str, ...] | None, context: Context) -> bool:
        return (all if every else any)(holds(value, context) for value in _several(given))

    def condition(context: Context) -> bool:
        given = context.get(name)
        if given is None:
            return if_absent
        if isinstance(given, Variants):
            return (all if allows else any)(of_set(value, context) for value in given)
        return of_set(given, context)

    return condition


def _several(given: str | tuple[str, ...] | None) -> tuple[str, ...]:
    if not given:  # an empty text is an empty set (IAM user guide, "Multivalued context keys")
        return ()
    return (given,) if isinstance(given, str) else given


def _null(name: str, values: Sequence[str]) -> Condition:
    wanted = {value.lower() for value in values}
    if not wanted <= {"true", "false"}:
        raise ValueError("Null takes true or false")
    return lambda context: ("true" if context.get(name) is None else "false") in wanted

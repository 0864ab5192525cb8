"""Filter patterns on one message, in Python: what TestMetricFilter and small batches are answered by.

The SQL of `sql` says the same of a table; tests hold the two to each other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vnotch.store.filter_pattern.nodes import (
    All,
    AnyOf,
    Column,
    Columns,
    Compare,
    Comparison,
    Condition,
    Is,
    Json,
    Missing,
    Step,
    Syntax,
    Terms,
    Text,
    Wildcard,
)

TOKEN = r'"[^"]*"|\[[^\[\]]*\]|[^ \t\n\f\r]+'
"""One column of a message: between quotation marks, between brackets, or up to a blank. A bracket inside brackets
begins no column of its own, so that no message takes more than time linear in its length."""

PLAIN_NUMBER = r"[-+]?[0-9]+(\.[0-9]+)?"
"""A column that compares as a number; words such as inf and nan do not."""

_TOKEN = re.compile(TOKEN)
_PLAIN_NUMBER = re.compile(PLAIN_NUMBER)


def matches(pattern: Syntax, message: str) -> bool:
    """Whether the message matches."""
    if pattern is None:
        return True
    if isinstance(pattern, Terms):
        return _terms_match(pattern, message)
    if isinstance(pattern, Columns):
        return extracted(pattern, message) is not None
    return _json_matches(pattern, message)


def extracted(pattern: Syntax, message: str) -> dict[str, str] | None:
    """None where the message does not match, else the columns of a space-delimited pattern: `$name`, or `$3` for one
    without a name. Other patterns extract nothing (user guide)."""
    if not isinstance(pattern, Columns):
        return {} if matches(pattern, message) else None
    values = column_values(pattern, message)
    if values is None or not all(_column_matches(column, value) for column, value in _named(pattern, values)):
        return None
    first, last = len(pattern.first), len(values) - len(pattern.last or ())
    columns = [*pattern.first, *[Column(None)] * (last - first), *(pattern.last or ())]
    pairs = enumerate(zip(columns, values, strict=True), 1)
    return {f"${column.name or number}": value for number, (column, value) in pairs}


def _terms_match(pattern: Terms, message: str) -> bool:
    return (
        all(_has(text, message) for text in pattern.required)
        and not any(_has(text, message) for text in pattern.excluded)
        and (not pattern.optional or any(_has(text, message) for text in pattern.optional))
    )


def _has(text: Text, message: str) -> bool:
    return regex_finds(text.text, message) if text.is_regex else text.text in message


def regex_finds(expression: str, text: str) -> bool:
    """By RE2 (of Arrow), as in SQL."""
    return bool(pc.match_substring_regex(pa.array([text]), expression)[0].as_py())


# Columns


def column_values(pattern: Columns, message: str) -> list[str] | None:
    """The columns of a message as the pattern divides it; None where there are too few."""
    tokens = list(_TOKEN.finditer(message))
    named = len(pattern.columns)
    if len(tokens) < named:
        return None
    values = [_unwrapped(token.group()) for token in tokens]
    if pattern.last is None and len(tokens) > named:
        rest = message[tokens[named - 1].start() :].rstrip(" \t\n\f\r")
        values[named - 1 :] = [rest]
    return values


def _unwrapped(token: str) -> str:
    wrapped = len(token) > 1 and token[0] + token[-1] in ('""', "[]")
    return token[1:-1] if wrapped else token


def _named(pattern: Columns, values: list[str]) -> Iterator[tuple[Column, str]]:
    yield from zip(pattern.first, values, strict=False)
    if pattern.last:
        yield from zip(pattern.last, values[-len(pattern.last) :], strict=True)


def _column_matches(column: Column, value: str) -> bool:
    if not column.alternatives:
        return True
    number = float(value) if _PLAIN_NUMBER.fullmatch(value) else None
    return any(all(compares(part, value, number) for part in parts) for parts in column.alternatives)


def compares(comparison: Comparison, text: str, number: float | None) -> bool:
    """Whether a value, as text and where it is one as number, compares so."""
    wanted = comparison.number
    if comparison.operator not in ("=", "!="):
        assert wanted is not None
        if number is None:
            return False
        return {
            "<": number < wanted,
            "<=": number <= wanted,
            ">": number > wanted,
            ">=": number >= wanted,
        }[comparison.operator]
    if comparison.is_regex:
        same = regex_finds(comparison.value, text)
    elif "*" in comparison.value:
        same = _glob(comparison.value.split("*"), text)
    else:
        same = text == comparison.value or (wanted is not None and number == wanted)
    return same == (comparison.operator == "=")


def _glob(parts: list[str], text: str) -> bool:
    """`a*b*c` in time linear in the text for each part: the first place of each part is the best one."""
    first, *middle, last = parts
    if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
        return False
    at, end = len(first), len(text) - len(last)
    for part in middle:
        found = text.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


# JSON


class _Number(str):
    """A number of a JSON message, in the text that compares."""


def _json_matches(pattern: Json, message: str) -> bool:
    try:
        document = json.loads(
            message,
            object_pairs_hook=_first_wins,
            parse_int=_Number,
            parse_float=lambda text: _Number(_float_text(float(text))),
            parse_constant=_no_constant,
        )
    except (ValueError, RecursionError):
        return False
    return isinstance(document, dict) and _holds(pattern.condition, document)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _first_wins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return dict(reversed(pairs))


def _float_text(value: float) -> str:
    """A number with a fraction or an exponent, as JSON writers give it: 1000.0, 1.5e-7."""
    number = Decimal(repr(value))
    if not number.is_finite() or number.is_zero():
        return repr(value)
    if -7 <= number.adjusted() < 21:
        text = format(number, "f")
        return text if "." in text else text + ".0"
    sign, digits, _ = number.normalize().as_tuple()
    mantissa = str(digits[0]) + ("." + "".join(map(str, digits[1:])) if len(digits) > 1 else "")
    return f"{'-' if sign else ''}{mantissa}e{number.adjusted()}"


def _holds(condition: Condition, document: Any) -> bool:
    if isinstance(condition, All):
        return all(_holds(part, document) for part in condition.parts)
    if isinstance(condition, AnyOf):
        return any(_holds(part, document) for part in condition.parts)
    nodes = list(_select(document, condition.selector))
    if isinstance(condition, Missing):
        return not nodes
    if isinstance(condition, Is):
        return any(node is {"null": None, "true": True, "false": False}[condition.keyword] for node in nodes)
    return any(_node_compares(condition, node) for node in nodes)


def _select(node: Any, steps: tuple[Step, ...]) -> Iterator[Any]:
    if not steps:
        yield node
        return
    step, rest = steps[0], steps[1:]
    if step is Wildcard.FIELD and isinstance(node, dict):
        for child in node.values():
            yield from _select(child, rest)
    elif step is Wildcard.ELEMENT and isinstance(node, list):
        for child in node:
            yield from _select(child, rest)
    elif isinstance(step, str):
        if isinstance(node, dict) and step in node:
            yield from _select(node[step], rest)
    elif isinstance(step, int) and isinstance(node, list) and step < len(node):
        yield from _select(node[step], rest)


def _node_compares(condition: Compare, node: Any) -> bool:
    """A selector that points to an object, an array or null makes no match, with != neither (user guide)."""
    if isinstance(node, bool):
        return compares(condition.comparison, "true" if node else "false", None)
    if isinstance(node, _Number):
        return compares(condition.comparison, str(node), float(node))
    return isinstance(node, str) and compares(condition.comparison, node, None)

"""Values of a query as SQL, and the one place that says how values of different kinds meet.

A value is a number, a text, a point in time, a truth or a structure (a JSON map or list); a field of a log event may be
a number here and a text there. Where AWS's documentation is silent, this is what holds (docs/insights.md says it to
users):

- A text that reads as a decimal number is one, wherever a number is asked for: "22", 22 and 22.0 are equal.
- Arithmetic is in double precision. What has no number as its result (of a text, a division by zero, a root of -1) is
  missing.
- A comparison with something that is missing is false, `!=` as well; so is `<` between a text and a number. `not` turns
  false into true: `not (x = 1)`, `x not in [1]` and `x not like "a"` hold where x is missing.
- Two texts are compared by the code points of their characters, two that both read as numbers as numbers.
- A time is compared as its milliseconds since 1970, and shown as `2026-01-31 18:00:00.000`, UTC.
- A truth is shown, and counts, as 1 or 0. A structure equals nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from vnotch.errors import LimitError

CHARACTERS_MAX = 500_000
"""Of the SQL of one expression. A query of 10,000 characters can ask for more only if it is built to."""

NUMBER = r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
_NUMBER = re.compile(NUMBER, re.ASCII)
TIME_FORMAT = "%Y-%m-%d %H:%M:%S.%g"


class TooComplex(LimitError):
    """The SQL would be too long."""


@dataclass(frozen=True)
class Sql:
    """Text with `?` and the parameters for them, in order."""

    text: str
    parameters: tuple[Any, ...] = ()


def sql(template: str, *parts: Sql | str) -> Sql:
    """The template with each `{}` replaced by a part, in order, and the parts' parameters in that order.

    A part that is a text is SQL of ours. What a user wrote comes in by `bound` alone.
    """
    pieces = template.split("{}")
    assert len(pieces) == len(parts) + 1, template
    text = pieces[0]
    parameters: list[Any] = []
    for part, piece in zip(parts, pieces[1:], strict=True):
        if isinstance(part, Sql):
            text += part.text + piece
            parameters.extend(part.parameters)
        else:
            text += part + piece
    if len(text) > CHARACTERS_MAX:
        raise TooComplex("the query is too complex")
    return Sql(text, tuple(parameters))


def bound(value: Any) -> Sql:
    return Sql("?", (value,))


def joined(separator: str, parts: list[Sql]) -> Sql:
    return sql(separator.join(["{}"] * len(parts)), *parts)


class Kind(Enum):
    NUMBER = "number"
    TEXT = "text"
    MIXED = "mixed"
    TIME = "time"
    TRUTH = "truth"
    STRUCTURE = "structure"


@dataclass(frozen=True)
class Alternatives:
    """A field that is a column of records and something else in other events: `column` is its SQL, NULL where the event
    is no record that has it; `dash` holds where the line has `-` for it; `other` is its text in events that are no
    records. A condition is asked of each by itself, so that records are asked by their typed column alone."""

    column: Value
    dash: Sql
    other: Value


@dataclass(frozen=True)
class Value:
    """`main` is a DOUBLE or an integer (NUMBER), a VARCHAR (TEXT), milliseconds as BIGINT (TIME), a BOOLEAN (TRUTH) or
    a JSON text (STRUCTURE); NULL is missing. MIXED: `main` is an integer, and where it is NULL `other` is a text.

    `literal` is what a constant is, with a text that reads as a number as that number.
    """

    kind: Kind
    main: Sql
    other: Sql | None = None
    literal: str | float | None = None
    alternatives: Alternatives | None = None


def number_value(of: Sql) -> Value:
    return Value(Kind.NUMBER, of)


def text_value(of: Sql) -> Value:
    return Value(Kind.TEXT, of)


def truth_value(of: Sql) -> Value:
    return Value(Kind.TRUTH, of)


def constant(value: str | float) -> Value:
    if isinstance(value, float):
        return Value(Kind.NUMBER, bound(value), literal=value)
    if _NUMBER.fullmatch(value) and math.isfinite(float(value)):
        return Value(Kind.TEXT, bound(value), literal=float(value))
    return Value(Kind.TEXT, bound(value), literal=value)


NOTHING = Value(Kind.TEXT, Sql("NULL::VARCHAR"))


def number_of_text(text: Sql) -> Sql:
    return sql("try_cast(regexp_extract({}, '^" + NUMBER + "$') AS DOUBLE)", text)


def number(value: Value) -> Sql:
    """As a DOUBLE or an integer; NULL where it is no number."""
    if isinstance(value.literal, float):
        return bound(_whole(value.literal))
    match value.kind:
        case Kind.NUMBER | Kind.TIME:
            return value.main
        case Kind.TEXT:
            return number_of_text(value.main)
        case Kind.MIXED:
            assert value.other is not None
            return sql(
                "CASE WHEN {} IS NOT NULL THEN {} ELSE {} END",
                value.main, double(value.main), number_of_text(value.other),
            )  # fmt: skip
        case Kind.TRUTH:
            return sql("CAST({} AS INTEGER)", value.main)
        case Kind.STRUCTURE:
            return Sql("NULL::DOUBLE")


def _whole(value: float) -> int | float:
    """A whole number as an integer, which is compared with columns of integers as they are."""
    return int(value) if value == math.trunc(value) and abs(value) < 2**53 else value


def double(of: Sql) -> Sql:
    return sql("CAST({} AS DOUBLE)", of)


def integer(value: Value) -> Sql:
    """As a BIGINT, cut towards zero; NULL where it is none."""
    return sql("try_cast(trunc({}) AS BIGINT)", double(number(value)))


def text(value: Value) -> Sql:
    """As a VARCHAR, as answers show it; NULL where it is missing."""
    if value.kind is Kind.NUMBER and isinstance(value.literal, float):
        return bound(number_text(value.literal))
    match value.kind:
        case Kind.TEXT:
            return value.main
        case Kind.NUMBER:
            # Doubles of whole numbers have no fraction to show; others have four digits of it, as answers have.
            return sql(
                "list_transform([{}], lambda x: CASE WHEN x = trunc(x) AND abs(x) < 1e18 "
                "THEN CAST(CAST(x AS BIGINT) AS VARCHAR) WHEN isfinite(x) "
                "THEN CAST(round(x, 4) AS VARCHAR) END)[1]",
                double(value.main),
            )
        case Kind.MIXED:
            assert value.other is not None
            return sql("coalesce(CAST({} AS VARCHAR), {})", value.main, value.other)
        case Kind.TIME:
            return sql("strftime(make_timestamp({} * 1000), '" + TIME_FORMAT + "')", value.main)
        case Kind.TRUTH:
            return sql("CAST(CAST({} AS INTEGER) AS VARCHAR)", value.main)
        case Kind.STRUCTURE:
            return Sql("NULL::VARCHAR")


def number_text(number: float | int) -> str | None:
    """As `text` of a number, for answers. None where it is not finite."""
    if isinstance(number, int):
        return str(number)
    if not math.isfinite(number):
        return None
    if number == math.trunc(number) and abs(number) < 1e18:
        return str(int(number))
    shown = repr(round(number, 4))
    return shown.removesuffix(".0") if "e" not in shown else shown


def present(value: Value) -> Sql:
    """TRUE where it is there, never NULL."""
    if value.alternatives is not None:
        parts = value.alternatives
        return sql(
            "(({} IS NOT NULL OR {} OR {} IS NOT NULL) IS TRUE)", parts.column.main, parts.dash, parts.other.main
        )
    if value.kind is Kind.MIXED:
        assert value.other is not None
        return sql("({} IS NOT NULL OR {} IS NOT NULL)", value.main, value.other)
    return sql("({} IS NOT NULL)", value.main)


def truth(value: Value) -> Sql:
    """As a condition: TRUE, or FALSE or NULL, which are the same to a filter. A number is true unless it is 0."""
    if value.kind is Kind.TRUTH:
        return value.main
    return sql("({} != 0)", number(value))


def each(value: Value, condition: Callable[[Value], Sql]) -> Sql:
    """The condition of a value; of a field of records, of each of its alternatives."""
    parts = value.alternatives
    if parts is None:
        return condition(value)
    return sql(
        "({} OR ({} IS NULL AND (({} AND {}) OR {})))",
        condition(parts.column), parts.column.main, parts.dash, condition(constant("-")), condition(parts.other),
    )  # fmt: skip


def opposite(condition: Sql) -> Sql:
    return sql("(({}) IS NOT TRUE)", condition)


def compare(operator: str, left: Value, right: Value) -> Sql:
    """`left operator right` as a condition."""
    if left.literal is not None and right.literal is None:
        return compare({"<": ">", ">": "<", "<=": ">=", ">=": "<="}.get(operator, operator), right, left)
    if right.literal is not None:
        return each(left, lambda one: _compare(operator, one, right))
    return _compare(operator, left, right)


_NUMERIC = (Kind.NUMBER, Kind.TIME, Kind.TRUTH)


def _compare(operator: str, left: Value, right: Value) -> Sql:
    if Kind.STRUCTURE in (left.kind, right.kind):
        return Sql("FALSE")
    if left.kind in _NUMERIC or right.kind in _NUMERIC or isinstance(right.literal, float):
        return _compare_numbers(operator, left, right)
    equality = operator in ("=", "!=")
    if isinstance(right.literal, str):
        # It reads as no number, so that no number equals it, and none is smaller or larger.
        ordered = sql("({} " + operator + " {})", text(left), right.main)
        return ordered if equality else sql("({} IS NULL AND {})", number(left), ordered)
    numbers = sql("{} " + operator + " {}", number(left), number(right))
    texts = sql("{} " + operator + " {}", text(left), text(right))
    if equality:
        return sql("coalesce({}, {})", numbers, texts)
    return sql("CASE WHEN {} IS NULL AND {} IS NULL THEN {} ELSE {} END", number(left), number(right), texts, numbers)


def _compare_numbers(operator: str, left: Value, right: Value) -> Sql:
    if operator == "!=":
        equal = _compare_numbers("=", left, right)
        return sql("({} AND {} AND {})", present(left), present(right), opposite(equal))
    if isinstance(right.literal, str):
        return Sql("FALSE")
    return sql("({} " + operator + " {})", number(left), number(right))


def is_one_of(value: Value, items: list[Value]) -> Sql:
    """Whether the value equals one of the items."""
    texts = [item.literal for item in items if isinstance(item.literal, str)]
    numbers = [item.literal for item in items if isinstance(item.literal, float)]
    others = [item for item in items if item.literal is None]

    def condition(one: Value) -> Sql:
        parts = [compare("=", one, item) for item in others]
        if numbers and one.kind is not Kind.STRUCTURE:
            parts.append(_one_of(number(one), [_whole(value) for value in numbers]))
        if texts and one.kind not in (*_NUMERIC, Kind.STRUCTURE):
            parts.append(_one_of(text(one), texts))
        return sql("({})", joined(" OR ", parts)) if parts else Sql("FALSE")

    return each(value, condition)


def _one_of(of: Sql, values: list[Any]) -> Sql:
    if len(values) == 1:
        return sql("({} = {})", of, bound(values[0]))
    return sql("({} IN ({}))", of, joined(", ", [bound(value) for value in values]))


def natural_key(of: Sql) -> Sql:
    """By which texts sort (user guide, "sort"): runs of digits by length and then as numbers, all else by code point.

    A run of digits begins with a 0 and its length, so that it stands where digits do among other characters.
    """
    return sql(
        "list_transform(regexp_extract_all({}, '[0-9]+|[^0-9]+'), lambda x: "
        "CASE WHEN x >= '0' AND x < ':' THEN '0' || lpad(CAST(length(x) AS VARCHAR), 7, '0') || x ELSE x END)",
        of,
    )


def sort_terms(value: Value, descending: bool) -> list[Sql]:
    """ORDER BY terms: missing, then what is no number, then numbers; the other way round if descending."""
    order = "DESC NULLS LAST" if descending else "ASC NULLS FIRST"
    if value.kind in _NUMERIC:
        return [sql("{} " + order, value.main)]
    if value.kind is Kind.MIXED:
        assert value.other is not None
        return [sql("{} " + order, value.main), sql("{} " + order, natural_key(value.other))]
    if value.kind is Kind.STRUCTURE:
        return [Sql("1")]
    key = sql(
        "CASE WHEN {} IS NULL THEN {} ELSE [{}] END",
        number_of_text(value.main), natural_key(value.main), value.main,
    )  # fmt: skip
    return [sql("{} " + order, number_of_text(value.main)), sql("{} " + order, key)]

"""Filter patterns on records, whose values stand in typed columns: no line is written to be looked through.

A record's line is the values of its format with one blank between them. No value has a blank in it or begins a quoted
or bracketed column (store.event_rows), so that the values are the columns of a space-delimited pattern; a term is in
the line where it is in one of the values, and a phrase where its words are in neighbours. Only a regular expression
among terms is asked of the line itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from vnotch.fields import ABSENT, SEPARATOR, Field, Format
from vnotch.store.filter_pattern import matching
from vnotch.store.filter_pattern.conditions import FALSE, TRUE, all_of, alternatives, any_of, compare, negated
from vnotch.store.filter_pattern.nodes import Column, Columns, Comparison, Terms, Text
from vnotch.store.relation import Predicate, line_sql


def on_records(pattern: Terms | Columns, in_text: Predicate, formats: Mapping[int, Format]) -> Predicate:
    """The condition on events as they are stored: on the typed columns of these formats, `in_text` on other messages.

    Formats that the pattern asks the same of share one alternative.
    """
    conditions: dict[Predicate, list[int]] = {}
    for format_id, format in sorted(formats.items()):
        condition = _terms(pattern, format) if isinstance(pattern, Terms) else _columns(pattern, format)
        if condition != FALSE:
            conditions.setdefault(condition, []).append(format_id)
    parts = [all_of([Predicate(f"format_id IN ({_listed(ids)})"), condition]) for condition, ids in conditions.items()]
    parts.append(all_of([Predicate("format_id IS NULL"), in_text]))
    return replace(any_of(parts), alternatives=tuple(parts))


def _listed(ids: Sequence[int]) -> str:
    return ", ".join(str(int(number)) for number in ids)


# Terms


@dataclass(frozen=True)
class _Test:
    """How a value is asked for a part of a term: in Python of a text that is known, in SQL of a column."""

    holds: Callable[[str, str], bool]
    sql: str


_IN = _Test(lambda value, part: part in value, "contains({}, ?)")
_BEGINS = _Test(str.startswith, "starts_with({}, ?)")
_ENDS = _Test(str.endswith, "ends_with({}, ?)")
_IS = _Test(str.__eq__, "{} = ?")

_PRINTABLE = re.compile(r"[!-~]+")
_DIGITS = re.compile(r"[0-9]{1,19}")
_ADDRESS = re.compile(r"[0-9A-Fa-f.:]+")
"""What texts, numbers and addresses are made of (vnotch.line): no other part of a term is in one."""


def _terms(pattern: Terms, format: Format) -> Predicate:
    parts = [_has(text, format) for text in pattern.required]
    parts += [negated(_has(text, format)) for text in pattern.excluded]
    if pattern.optional:
        parts.append(any_of(_has(text, format) for text in pattern.optional))
    return all_of(parts)


def _has(text: Text, format: Format) -> Predicate:
    if text.is_regex:
        return Predicate(f"regexp_matches({line_sql(format)}, ?)", (text.text,))
    words = text.text.split(SEPARATOR)
    if len(words) == 1:
        return any_of(_value(item, _IN, text.text, format) for item in format.fields)
    tests = [_ENDS, *[_IS] * (len(words) - 2), _BEGINS]
    places = range(len(format.fields) - len(words) + 1)
    return any_of(
        all_of(
            _value(item, test, word, format)
            for item, test, word in zip(format.fields[place:], tests, words, strict=False)
        )
        for place in places
    )


def _value(item: Field, test: _Test, part: str, format: Format) -> Predicate:
    """Whether the value of a field, as the line shows it, has the part; never NULL."""
    if not part:
        return TRUE if test is not _IS else FALSE
    if item.name == "version":  # the same in all lines of a format
        return TRUE if test.holds(str(format.version), part) else FALSE
    found = _there(item, test, part)
    if item.required:
        return found
    quoted = f'"{item.column}"'
    absent = test.holds(ABSENT, part)
    if found == FALSE:
        return Predicate(f"{quoted} IS NULL") if absent else FALSE
    if absent:
        return Predicate(f"({quoted} IS NULL OR {found.sql})", found.parameters)
    return Predicate(f"({quoted} IS NOT NULL AND {found.sql})", found.parameters)


def _there(item: Field, test: _Test, part: str) -> Predicate:
    """The same of a value that is there."""
    quoted = f'"{item.column}"'
    if item.values:
        fitting = [value for value in item.values if test.holds(value, part)]
        return Predicate(f"{quoted} IN ({', '.join('?' * len(fitting))})", tuple(fitting)) if fitting else FALSE
    if item.type != pa.string():
        if not _DIGITS.fullmatch(part):
            return FALSE
        if test is _IS:
            return Predicate(f"{quoted} = ?", (int(part),)) if str(int(part)) == part else FALSE
        return Predicate(test.sql.format(f"CAST({quoted} AS VARCHAR)"), (part,))
    characters = _ADDRESS if item.address else _PRINTABLE
    return Predicate(test.sql.format(quoted), (part,)) if characters.fullmatch(part) else FALSE


# Space-delimited columns


def _columns(pattern: Columns, format: Format) -> Predicate:
    fields = format.fields
    named = len(pattern.columns)
    if len(fields) < named:
        return FALSE
    parts = []
    for number, column in enumerate(pattern.first, 1):
        rest = fields[number - 1 :] if pattern.last is None and number == named else fields[number - 1 : number]
        parts.append(_compared(column, rest))
    named_last = len(fields) - len(pattern.last or ())
    parts += [_compared(column, [item]) for column, item in zip(pattern.last or (), fields[named_last:], strict=False)]
    return all_of(parts)


def _compared(column: Column, fields: Sequence[Field]) -> Predicate:
    if not column.alternatives:
        return TRUE
    if len(fields) == 1:
        return alternatives(column, lambda comparison: _compared_value(comparison, fields[0]))
    text = " || ' ' || ".join(text_of(item) for item in fields)
    return alternatives(column, lambda comparison: compare(comparison, text, "NULL::DOUBLE"))


def text_of(item: Field) -> str:
    quoted = f'"{item.column}"'
    value = quoted if item.type == pa.string() else f"CAST({quoted} AS VARCHAR)"
    return value if item.required else f"coalesce({value}, '{ABSENT}')"


def _compared_value(comparison: Comparison, item: Field) -> Predicate:
    """One value of a record: NULL is `-`, which is a text and no number."""
    quoted = f'"{item.column}"'
    if item.type == pa.string():
        if comparison.number is None and not comparison.is_regex and "*" not in comparison.value:
            return _plain_text(comparison, item)
        text = text_of(item)
        number = f"CASE WHEN regexp_full_match({text}, '{matching.PLAIN_NUMBER}') THEN TRY_CAST({text} AS DOUBLE) END"
        return compare(comparison, text, number)
    if comparison.is_regex or "*" in comparison.value:
        return compare(comparison, text_of(item), "NULL::DOUBLE")
    if comparison.number is None:  # a text that no number has, but for the one of absence
        return _plain_text(comparison, item) if comparison.value == ABSENT else _never(comparison)
    wanted = comparison.number
    operator = "<>" if comparison.operator == "!=" else comparison.operator
    exact = int(wanted) if wanted.is_integer() and abs(wanted) < 2**53 else wanted
    if operator == "<>" and not item.required:
        return Predicate(f"({quoted} IS NULL OR {quoted} <> ?)", (exact,))
    return Predicate(f"{quoted} {operator} ?", (exact,))


def _plain_text(comparison: Comparison, item: Field) -> Predicate:
    quoted = f'"{item.column}"'
    if comparison.value == ABSENT:
        return Predicate(f"{quoted} IS {'NOT ' if comparison.operator == '!=' else ''}NULL")
    if comparison.operator == "=":
        return Predicate(f"{quoted} = ?", (comparison.value,))
    return Predicate(f"({quoted} IS NULL OR {quoted} <> ?)", (comparison.value,))


def _never(comparison: Comparison) -> Predicate:
    return FALSE if comparison.operator == "=" else TRUE

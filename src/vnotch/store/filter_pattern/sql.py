"""Filter patterns as a condition on the events of a lake's relation: DuckDB SQL with bound parameters.

Messages are looked through as text. Records have their values in typed columns, and a space-delimited pattern asks
those: the text of a record is rendered only where a pattern needs all of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import pyarrow as pa

from vnotch.errors import InputError
from vnotch.fields import ABSENT, Field, Format
from vnotch.store.filter_pattern import matching
from vnotch.store.filter_pattern.syntax import (
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
    parse,
)
from vnotch.store.lake import Predicate

Compile = Callable[[Comparison], Predicate]

FALSE = Predicate("false")
TRUE = Predicate("true")


def predicate(pattern: Syntax, formats: Mapping[int, Format] | None = None) -> Predicate | None:
    """The pattern as a condition on `message` and, for records of the `formats`, on their typed columns.

    None where it matches everything. Without `formats` the relation needs no column but `message`.
    """
    if pattern is None:
        return None
    if isinstance(pattern, Terms):
        return _terms(pattern)
    in_text = _columns(pattern) if isinstance(pattern, Columns) else _json(pattern)
    if not formats:
        return in_text
    if isinstance(pattern, Json):
        # A record's line begins with the first value of its format and never with a brace.
        return all_of([Predicate("format_id IS NULL"), in_text])
    return _on_records(pattern, in_text, formats)


def all_of(parts: Iterable[Predicate]) -> Predicate:
    return _joined(" AND ", list(parts), TRUE)


def any_of(parts: Iterable[Predicate]) -> Predicate:
    return _joined(" OR ", list(parts), FALSE)


def _joined(operator: str, parts: Sequence[Predicate], empty: Predicate) -> Predicate:
    if len(parts) < 2:
        return parts[0] if parts else empty
    sql = "(" + operator.join(part.sql for part in parts) + ")"
    return Predicate(sql, tuple(parameter for part in parts for parameter in part.parameters))


def _negated(part: Predicate) -> Predicate:
    return Predicate(f"NOT ({part.sql})", part.parameters)


# Terms


def _terms(pattern: Terms) -> Predicate:
    parts = [_has(text) for text in pattern.required]
    parts += [_negated(_has(text)) for text in pattern.excluded]
    if pattern.optional:
        parts.append(any_of(_has(text) for text in pattern.optional))
    return all_of(parts)


def _has(text: Text) -> Predicate:
    return Predicate("regexp_matches(message, ?)" if text.is_regex else "contains(message, ?)", (text.text,))


# Values


def value(pattern: Syntax, name: str, formats: Mapping[int, Format] | None = None) -> Predicate:
    """SQL text of what a matching event has under `$name` of a space-delimited or `$.name` of a JSON pattern; NULL
    where it has nothing there. Raises InputError where the pattern has no such name."""
    if isinstance(pattern, Json) and name.startswith("$."):
        selector = parse("{ " + name + " = * }")
        if isinstance(selector, Json) and isinstance(selector.condition, Compare):
            path = _path(selector.condition.selector)
            return Predicate(f"json_extract_string({_DOCUMENT}, ?)", (path,))
    if isinstance(pattern, Columns):
        names = [column.name for column in pattern.columns]
        if name.removeprefix("$") in names and name.startswith("$"):
            return _column_value(pattern, names.index(name[1:]), formats or {})
    raise InputError(f"the filter pattern has no {name}")


def _column_value(pattern: Columns, number: int, formats: Mapping[int, Format]) -> Predicate:
    named = len(pattern.columns)
    from_end = number - named if number >= len(pattern.first) else None
    is_rest = pattern.last is None and number == named - 1
    position = number + 1 if from_end is None else from_end
    in_text = _rest(named) if is_rest else _UNWRAPPED.format(f"{_TOKENS}[{position}]")
    cases = []
    for format_id, format in sorted(formats.items()):
        if len(format.fields) >= named:
            at = number if from_end is None else len(format.fields) + from_end
            texts = " || ' ' || ".join(_text_of(item) for item in format.fields[at : None if is_rest else at + 1])
            cases.append(f"WHEN format_id = {format_id} THEN {texts}")
    return Predicate(f"CASE {' '.join(cases)} ELSE {in_text} END" if cases else in_text)


# Comparisons


def _compare(comparison: Comparison, text: str, number: str) -> Predicate:
    """`text` and `number` are the SQL of the value; a number that is NULL is none."""
    if comparison.operator not in ("=", "!="):
        return Predicate(f"coalesce({number} {comparison.operator} ?, false)", (comparison.number,))
    if comparison.is_regex:
        same = Predicate(f"regexp_matches({text}, ?)", (comparison.value,))
    elif "*" in comparison.value:
        same = _wildcards(text, comparison.value)
    elif comparison.number is not None:
        same = Predicate(f"({text} = ? OR coalesce({number} = ?, false))", (comparison.value, comparison.number))
    else:
        same = Predicate(f"{text} = ?", (comparison.value,))
    return same if comparison.operator == "=" else _negated(same)


def _wildcards(text: str, value: str) -> Predicate:
    """Not by LIKE, whose time in DuckDB doubles with each further wildcard."""
    parts = value.split("*")
    if len(parts) == 2 and not parts[1]:
        return Predicate(f"starts_with({text}, ?)", (parts[0],))
    if len(parts) == 2 and not parts[0]:
        return Predicate(f"ends_with({text}, ?)", (parts[1],))
    if len(parts) == 3 and not parts[0] and not parts[2]:
        return Predicate(f"contains({text}, ?)", (parts[1],))
    literal = (re.sub(r"([^\w])", lambda match: f"\\x{{{ord(match[1]):x}}}", part) for part in parts)
    return Predicate(f"regexp_full_match({text}, ?)", ("(?s)" + ".*".join(literal),))


def _alternatives(column: Column, compiled: Compile) -> Predicate:
    return any_of(all_of(compiled(part) for part in parts) for parts in column.alternatives)


# Space-delimited columns of a text


_TOKENS = f"regexp_extract_all(message, '{matching.TOKEN}')"
_UNWRAPPED = r"""regexp_replace({}, '^(?:"((?s:.*))"|\[((?s:.*))\])$', '\1\2')"""


def _columns(pattern: Columns) -> Predicate:
    named = len(pattern.columns)
    cheap = [Predicate("contains(message, ?)", (text,)) for text in _required_texts(pattern)]
    parts = [Predicate(f"len({_TOKENS}) >= {named}")]
    for number, column in enumerate(pattern.first, 1):
        is_rest = pattern.last is None and number == named
        parts += _column(column, _rest(named) if is_rest else _UNWRAPPED.format(f"{_TOKENS}[{number}]"))
    for number, column in enumerate(pattern.last or ()):
        position = number - len(pattern.last or ())
        parts += _column(column, _UNWRAPPED.format(f"{_TOKENS}[{position}]"))
    return all_of([*cheap, *parts])


def _column(column: Column, text: str) -> list[Predicate]:
    if not column.alternatives:
        return []
    number = f"CASE WHEN regexp_full_match({text}, '{matching.PLAIN_NUMBER}') THEN TRY_CAST({text} AS DOUBLE) END"
    return [_alternatives(column, lambda comparison: _compare(comparison, text, number))]


def _rest(named: int) -> str:
    """The last column: all that is left of the message where it has more columns than the pattern."""
    token = matching.TOKEN
    before = rf"^[ \t\n\f\r]*(?:(?:{token})[ \t\n\f\r]*){{{named - 1}}}" if named > 1 else r"^[ \t\n\f\r]*"
    rest = f"regexp_extract(message, '{before}((?s:.*?))[ \\t\\n\\f\\r]*$', 1)"
    last = _UNWRAPPED.format(f"{_TOKENS}[{named}]")
    return f"CASE WHEN len({_TOKENS}) = {named} THEN {last} ELSE {rest} END"


def _required_texts(pattern: Columns) -> list[str]:
    """Texts that every match has somewhere: a cheap test before the columns are split."""
    texts = []
    for column in pattern.columns:
        if len(column.alternatives) == 1:
            (only, *more) = column.alternatives[0]
            plain = only.operator == "=" and not only.is_regex and "*" not in only.value and only.number is None
            if plain and not more and only.value:
                texts.append(only.value)
    return texts


# Space-delimited columns of a record


def _on_records(pattern: Columns, in_text: Predicate, formats: Mapping[int, Format]) -> Predicate:
    """Formats that the pattern asks the same of share one condition. No value of a stored record begins a quoted or
    bracketed column (store.event_rows), so that its values are the columns."""
    conditions: dict[Predicate, list[int]] = {}
    for format_id, format in sorted(formats.items()):
        condition = _record(pattern, format)
        if condition != FALSE:
            conditions.setdefault(condition, []).append(format_id)
    parts = [all_of([Predicate(f"format_id IN ({_listed(ids)})"), condition]) for condition, ids in conditions.items()]
    parts.append(all_of([Predicate("format_id IS NULL"), in_text]))
    return replace(any_of(parts), alternatives=tuple(parts))


def _listed(ids: Sequence[int]) -> str:
    return ", ".join(str(int(number)) for number in ids)


def _record(pattern: Columns, format: Format) -> Predicate:
    fields = format.fields
    named = len(pattern.columns)
    if len(fields) < named:
        return FALSE
    parts = []
    for number, column in enumerate(pattern.first, 1):
        rest = fields[number - 1 :] if pattern.last is None and number == named else fields[number - 1 : number]
        parts.append(_values(column, rest))
    named_last = len(fields) - len(pattern.last or ())
    parts += [_values(column, [item]) for column, item in zip(pattern.last or (), fields[named_last:], strict=False)]
    parts = [part for part in parts if part != TRUE]
    return FALSE if FALSE in parts else all_of(parts)


def _values(column: Column, fields: Sequence[Field]) -> Predicate:
    if not column.alternatives:
        return TRUE
    if len(fields) == 1:
        return _alternatives(column, lambda comparison: _value(comparison, fields[0]))
    text = " || ' ' || ".join(_text_of(item) for item in fields)
    return _alternatives(column, lambda comparison: _compare(comparison, text, "NULL::DOUBLE"))


def _text_of(item: Field) -> str:
    quoted = f'"{item.column}"'
    value = quoted if item.type == pa.string() else f"CAST({quoted} AS VARCHAR)"
    return value if item.required else f"coalesce({value}, '{ABSENT}')"


def _value(comparison: Comparison, item: Field) -> Predicate:
    """One value of a record: NULL is `-`, which is a text and no number."""
    quoted = f'"{item.column}"'
    if item.type == pa.string():
        if comparison.number is None and not comparison.is_regex and "*" not in comparison.value:
            return _plain_text(comparison, item)
        text = _text_of(item)
        number = f"CASE WHEN regexp_full_match({text}, '{matching.PLAIN_NUMBER}') THEN TRY_CAST({text} AS DOUBLE) END"
        return _compare(comparison, text, number)
    if comparison.is_regex or "*" in comparison.value:
        return _compare(comparison, _text_of(item), "NULL::DOUBLE")
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


# JSON


_DOCUMENT = "TRY_CAST(message AS JSON)"
_IS_VALUE = "json_type({}) NOT IN ('OBJECT', 'ARRAY', 'NULL')"
_IS_NUMBER = "json_type({}) IN ('BIGINT', 'UBIGINT', 'HUGEINT', 'UHUGEINT', 'DOUBLE')"


def _json(pattern: Json) -> Predicate:
    # The first test spares messages of other kinds the attempt to read them.
    is_object = Predicate(
        f"(ltrim(message, ' \t\n\r')[1] = '{{' AND coalesce(json_type({_DOCUMENT}) = 'OBJECT', false))"
    )
    return all_of([is_object, _condition(pattern.condition)])


def _condition(condition: Condition) -> Predicate:
    if isinstance(condition, All):
        return all_of(_condition(part) for part in condition.parts)
    if isinstance(condition, AnyOf):
        return any_of(_condition(part) for part in condition.parts)
    found = f"json_extract({_DOCUMENT}, ?)"
    parameters: tuple[str, ...] = (_path(condition.selector),)
    if any(isinstance(step, Wildcard) for step in condition.selector):
        nodes = found
    else:
        nodes = f"CASE WHEN {found} IS NOT NULL THEN [{found}] END"
        parameters *= 2
    if isinstance(condition, Missing):
        return Predicate(f"coalesce(len({nodes}), 0) = 0", parameters)
    node = _node(condition, "node")
    sql = f"coalesce(len(list_filter({nodes}, lambda node: {node.sql})), 0) > 0"
    return Predicate(sql, (*parameters, *node.parameters))


def _node(condition: Is | Compare, node: str) -> Predicate:
    if isinstance(condition, Is):
        kind = "NULL" if condition.keyword == "null" else "BOOLEAN"
        sql = f"json_type({node}) = '{kind}'"
        if kind == "BOOLEAN":
            sql += f" AND CAST({node} AS VARCHAR) = '{condition.keyword}'"
        return Predicate(f"coalesce({sql}, false)")
    text = f"json_extract_string({node}, '$')"
    number = f"CASE WHEN {_IS_NUMBER.format(node)} THEN TRY_CAST({text} AS DOUBLE) END"
    compared = _compare(condition.comparison, text, number)
    return Predicate(f"coalesce({_IS_VALUE.format(node)} AND {compared.sql}, false)", compared.parameters)


def _path(steps: tuple[Step, ...]) -> str:
    parts = ["$"]
    for step in steps:
        if isinstance(step, Wildcard):
            parts.append(step.value)
        else:
            parts.append(f"[{step}]" if isinstance(step, int) else f'."{step}"')
    return "".join(parts)

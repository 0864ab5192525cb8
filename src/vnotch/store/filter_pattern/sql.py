"""Filter patterns as a condition on the events of the lake as they are stored: DuckDB SQL with bound parameters.

Messages are looked through as text; what is asked of records, whose message is NULL, is in `records`.
"""

from __future__ import annotations

from collections.abc import Mapping

from vnotch.errors import InputError
from vnotch.fields import Format
from vnotch.store.filter_pattern import matching
from vnotch.store.filter_pattern.conditions import all_of, alternatives, any_of, compare, negated
from vnotch.store.filter_pattern.grammar import parse
from vnotch.store.filter_pattern.nodes import (
    All,
    AnyOf,
    Column,
    Columns,
    Compare,
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
from vnotch.store.filter_pattern.records import on_records, text_of
from vnotch.store.relation import Predicate


def predicate(pattern: Syntax, formats: Mapping[int, Format] | None = None) -> Predicate | None:
    """The pattern as a condition on `message` and, for records of the `formats`, on their typed columns.

    None where it matches everything. Without `formats` no column but `message` is asked.
    """
    if pattern is None:
        return None
    if isinstance(pattern, Json):
        in_text = _json(pattern)
        # A record's line begins with the first value of its format and never with a brace.
        return all_of([Predicate("format_id IS NULL"), in_text]) if formats else in_text
    in_text = _terms(pattern) if isinstance(pattern, Terms) else _columns(pattern)
    return on_records(pattern, in_text, formats) if formats else in_text


# Terms


def _terms(pattern: Terms) -> Predicate:
    parts = [_has(text) for text in pattern.required]
    parts += [negated(_has(text)) for text in pattern.excluded]
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
            texts = " || ' ' || ".join(text_of(item) for item in format.fields[at : None if is_rest else at + 1])
            cases.append(f"WHEN format_id = {format_id} THEN {texts}")
    return Predicate(f"CASE {' '.join(cases)} ELSE {in_text} END" if cases else in_text)


# Space-delimited columns


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
    return [alternatives(column, lambda comparison: compare(comparison, text, number))]


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
    compared = compare(condition.comparison, text, number)
    return Predicate(f"coalesce({_IS_VALUE.format(node)} AND {compared.sql}, false)", compared.parameters)


def _path(steps: tuple[Step, ...]) -> str:
    parts = ["$"]
    for step in steps:
        if isinstance(step, Wildcard):
            parts.append(step.value)
        else:
            parts.append(f"[{step}]" if isinstance(step, int) else f'."{step}"')
    return "".join(parts)

"""Conditions of filter patterns in SQL: joined, negated, and a value that is compared."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from vnotch.store.filter_pattern.nodes import Column, Comparison
from vnotch.store.relation import Predicate

FALSE = Predicate("false")
TRUE = Predicate("true")


def all_of(parts: Iterable[Predicate]) -> Predicate:
    """What is known without asking is left out, so that a condition that cannot hold is FALSE."""
    wanted = [part for part in parts if part != TRUE]
    return FALSE if FALSE in wanted else _joined(" AND ", wanted, TRUE)


def any_of(parts: Iterable[Predicate]) -> Predicate:
    wanted = [part for part in parts if part != FALSE]
    return TRUE if TRUE in wanted else _joined(" OR ", wanted, FALSE)


def _joined(operator: str, parts: Sequence[Predicate], empty: Predicate) -> Predicate:
    if len(parts) < 2:
        return parts[0] if parts else empty
    sql = "(" + operator.join(part.sql for part in parts) + ")"
    return Predicate(sql, tuple(parameter for part in parts for parameter in part.parameters))


def negated(part: Predicate) -> Predicate:
    known = {FALSE: TRUE, TRUE: FALSE}.get(part)
    return known or Predicate(f"NOT ({part.sql})", part.parameters)


def compare(comparison: Comparison, text: str, number: str) -> Predicate:
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
    return same if comparison.operator == "=" else negated(same)


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


def alternatives(column: Column, compiled: Callable[[Comparison], Predicate]) -> Predicate:
    return any_of(all_of(compiled(part) for part in parts) for parts in column.alternatives)

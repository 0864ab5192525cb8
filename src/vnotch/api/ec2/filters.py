"""Filters of EC2's Describe operations: which names there are, and whether a row matches.

Values are compared as text and case-sensitively; `*` stands for any text, `?` for one character, a backslash takes the
next character as it is (EC2 user guide, list and filter your resources). The values of a filter are OR-ed, the filters
AND-ed. A name that the table does not have is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vnotch.api.service import ApiError

VALUES_MAX = 200
"""Filter values in one call (EC2 user guide)."""


@dataclass(frozen=True)
class Filter:
    """What a filter name stands for: the row's values of it and, where it is one column, that column."""

    values: Callable[[Any], Iterable[Any]]
    column: Any = None


Table = Mapping[str, Filter]


@dataclass(frozen=True)
class Condition:
    """One filter of a call."""

    filter: Filter
    patterns: tuple[str, ...]

    @property
    def among(self) -> tuple[Any, tuple[str, ...]] | None:
        """The column and its values, where that says it all; None where only `matches` can tell."""
        plain = not any(set(pattern) & set("*?\\") for pattern in self.patterns)
        return (self.filter.column, self.patterns) if plain and self.filter.column is not None else None

    def matches(self, row: Any) -> bool:
        texts = [as_text(value) for value in self.filter.values(row)]
        return any(_regex(pattern).fullmatch(text) for pattern in self.patterns for text in texts)


def column(attribute: Any) -> Filter:
    """The filter on one text column of the row."""
    return Filter(lambda row: present(getattr(row, attribute.key)), attribute)


def constant(value: Any) -> Filter:
    """The filter on what is the same for every row of ours."""
    return Filter(lambda row: (value,))


NEVER = Filter(lambda row: ())
"""For what AWS's resources may have and none of ours has: such a filter finds nothing."""


def present(value: Any) -> tuple[Any, ...]:
    return () if value is None else (value,)


def as_text(value: Any) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


TAG_KEY: Table = {"tag-key": Filter(lambda row: (tag.key for tag in row.tags))}
"""The filter that every table of rows with tags includes."""


def tag_value(key: str) -> Filter:
    """`tag:Owner`, on rows with tags."""
    return Filter(lambda row: (tag.value for tag in row.tags if tag.key == key))


def parse(
    given: Iterable[Mapping[str, Any]] | None,
    table: Table,
    *,
    unknown_code: str = "InvalidParameterValue",
    by_tag: Callable[[str], Filter] | None = None,
) -> list[Condition]:
    """A call's `Filters` -> conditions. Raises ApiError for unknown names, no values and too many of them.

    `unknown_code` is the code for a name that is not in `table`; `by_tag` makes the filter for `tag:<key>`.
    """
    conditions = [_condition(item, table, unknown_code, by_tag) for item in given or ()]
    if sum(len(condition.patterns) for condition in conditions) > VALUES_MAX:
        raise ApiError(
            "FilterLimitExceeded", f"The maximum number of filter values specified on a single call is {VALUES_MAX}"
        )
    return conditions


def _condition(
    item: Mapping[str, Any], table: Table, unknown_code: str, by_tag: Callable[[str], Filter] | None
) -> Condition:
    name, values = item.get("Name") or "", tuple(item.get("Values") or ())
    found = table.get(name)
    if found is None and by_tag and name.startswith("tag:") and name != "tag:":
        found = by_tag(name.removeprefix("tag:"))
    if found is None:
        raise ApiError(unknown_code, f"The filter '{name}' is invalid")
    if not values:
        raise ApiError("InvalidParameterValue", f"The filter '{name}' has no value")
    return Condition(found, values)


def _regex(pattern: str) -> re.Pattern[str]:
    parts = re.findall(r"\\.|.", pattern, re.DOTALL)
    translate = {"*": ".*", "?": "."}
    return re.compile("".join(translate.get(part) or re.escape(part[-1]) for part in parts), re.DOTALL)

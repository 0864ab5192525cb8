"""A query as plain values, as it was written: no names are resolved and no types known yet.

Each node knows where it stands in the text (`Place`), which is no part of its equality.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias


@dataclass(frozen=True)
class Place:
    """Characters [start, end) of the query's text."""

    start: int = 0
    end: int = 0


# Expressions


@dataclass(frozen=True)
class Name:
    """A field. `keys` are what was joined by dots and brackets: `user.roles[0]` is ("user", "roles", "0")."""

    keys: tuple[str, ...]
    place: Place = field(default=Place(), compare=False, repr=False)


@dataclass(frozen=True)
class Number:
    text: str
    place: Place = field(default=Place(), compare=False, repr=False)

    @property
    def value(self) -> float:
        return float(self.text)


@dataclass(frozen=True)
class String:
    value: str
    place: Place = field(default=Place(), compare=False, repr=False)


@dataclass(frozen=True)
class Regex:
    """What stood between two slashes, with `\\/` as `/`."""

    pattern: str
    place: Place = field(default=Place(), compare=False, repr=False)


@dataclass(frozen=True)
class Truth:
    value: bool
    place: Place = field(default=Place(), compare=False, repr=False)


@dataclass(frozen=True)
class Period:
    """`5m`. `unit` is one of times.UNITS' keys."""

    count: int
    unit: str
    place: Place = field(default=Place(), compare=False, repr=False)


@dataclass(frozen=True)
class Call:
    """A function by its name in lower case. `star` is `count(*)`."""

    function: str
    arguments: tuple[Expression, ...]
    star: bool = False
    place: Place = field(default=Place(), compare=False, repr=False)


@dataclass(frozen=True)
class Negative:
    operand: Expression
    place: Place = field(default=Place(), compare=False, repr=False)


@dataclass(frozen=True)
class Arithmetic:
    """Operators of one rank from left to right: `a - b + c`. A power has one operator."""

    first: Expression
    rest: tuple[tuple[str, Expression], ...]
    place: Place = field(default=Place(), compare=False, repr=False)


@dataclass(frozen=True)
class Comparison:
    operator: str
    left: Expression
    right: Expression
    place: Place = field(default=Place(), compare=False, repr=False)


@dataclass(frozen=True)
class Like:
    """`like`, `not like`, `=~` with a substring or a regular expression."""

    operand: Expression
    pattern: String | Regex
    negated: bool
    place: Place = field(default=Place(), compare=False, repr=False)


@dataclass(frozen=True)
class In:
    operand: Expression
    items: tuple[Expression, ...]
    negated: bool
    place: Place = field(default=Place(), compare=False, repr=False)


@dataclass(frozen=True)
class Not:
    operand: Expression
    place: Place = field(default=Place(), compare=False, repr=False)


@dataclass(frozen=True)
class Logic:
    """`and` or `or` of two operands or more."""

    operator: str
    operands: tuple[Expression, ...]
    place: Place = field(default=Place(), compare=False, repr=False)


Expression: TypeAlias = (
    Name | Number | String | Truth | Period | Call | Negative | Arithmetic | Comparison | Like | In | Not | Logic
)


# Commands


@dataclass(frozen=True)
class Item:
    """An expression and what the answer calls it: its alias, or the text as it was written."""

    expression: Expression
    alias: str | None
    label: str = field(default="", compare=False)
    place: Place = field(default=Place(), compare=False, repr=False)


@dataclass(frozen=True)
class Fields:
    items: tuple[Item, ...]
    place: Place = field(default=Place(), compare=False, repr=False)


@dataclass(frozen=True)
class Display:
    items: tuple[Item, ...]
    place: Place = field(default=Place(), compare=False, repr=False)


@dataclass(frozen=True)
class Filter:
    condition: Expression
    place: Place = field(default=Place(), compare=False, repr=False)


@dataclass(frozen=True)
class Stats:
    items: tuple[Item, ...]
    by: tuple[Item, ...]
    place: Place = field(default=Place(), compare=False, repr=False)


@dataclass(frozen=True)
class SortKey:
    name: Name
    descending: bool


@dataclass(frozen=True)
class Sort:
    keys: tuple[SortKey, ...]
    place: Place = field(default=Place(), compare=False, repr=False)


@dataclass(frozen=True)
class Limit:
    rows: int
    place: Place = field(default=Place(), compare=False, repr=False)


@dataclass(frozen=True)
class Dedup:
    names: tuple[Name, ...]
    place: Place = field(default=Place(), compare=False, repr=False)


@dataclass(frozen=True)
class ParseGlob:
    source: Name
    pattern: String
    names: tuple[Name, ...]
    place: Place = field(default=Place(), compare=False, repr=False)


@dataclass(frozen=True)
class ParseRegex:
    source: Name
    regex: Regex
    place: Place = field(default=Place(), compare=False, repr=False)


Command: TypeAlias = Fields | Display | Filter | Stats | Sort | Limit | Dedup | ParseGlob | ParseRegex


@dataclass(frozen=True)
class Query:
    commands: tuple[Command, ...]


MESSAGE = Name(("@message",))
"""What `parse` reads where no field is named."""

"""The tree of a filter pattern.

Syntax = Terms | Columns | Json | None
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True)
class Text:
    """A term, a phrase or a regular expression that a message must have somewhere."""

    text: str
    is_regex: bool = False


@dataclass(frozen=True)
class Comparison:
    """A value against a text, a text with wildcards (`*`), a number or a regular expression.

    `number` is the value where it is one; the operators but = and != have nothing else.
    """

    operator: str
    value: str
    is_regex: bool
    number: float | None


@dataclass(frozen=True)
class Terms:
    """`optional` is empty where other terms stand beside: the guide says that they are ignored then."""

    required: tuple[Text, ...]
    excluded: tuple[Text, ...]
    optional: tuple[Text, ...]


@dataclass(frozen=True)
class Column:
    """One column of a space-delimited pattern. Of the `alternatives` one must hold, with all its comparisons."""

    name: str | None
    alternatives: tuple[tuple[Comparison, ...], ...] = ()


@dataclass(frozen=True)
class Columns:
    """A space-delimited pattern: columns from the beginning and, where it has `...`, columns from the end.

    Without `...` the last column takes the rest of the message, as in AWS's own `[timestamp=*Z, request_id="*-*",
    event]` and in the guide's `[w1=ERROR, w2]` for lines of seven words.
    """

    first: tuple[Column, ...]
    last: tuple[Column, ...] | None

    @property
    def columns(self) -> tuple[Column, ...]:
        return self.first + (self.last or ())


class Wildcard(Enum):
    FIELD = ".*"
    ELEMENT = "[*]"


Step = str | int | Wildcard
"""One step of a selector: a property, an index of an array, or any of them."""


@dataclass(frozen=True)
class Compare:
    selector: tuple[Step, ...]
    comparison: Comparison


@dataclass(frozen=True)
class Is:
    """The value is null, true or false; `keyword` as JSON writes it."""

    selector: tuple[Step, ...]
    keyword: str


@dataclass(frozen=True)
class Missing:
    selector: tuple[Step, ...]


@dataclass(frozen=True)
class All:
    parts: tuple[Condition, ...]


@dataclass(frozen=True)
class AnyOf:
    parts: tuple[Condition, ...]


Condition = Compare | Is | Missing | All | AnyOf


@dataclass(frozen=True)
class Json:
    condition: Condition


Syntax = Terms | Columns | Json | None
"""None matches everything."""

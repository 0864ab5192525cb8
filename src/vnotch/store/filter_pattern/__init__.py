"""Filter patterns of CloudWatch Logs: read once, asked of a message in Python or of the lake in SQL.

    ""                                   everything
    ERROR "two words" -timeout           all terms occur, none of the excluded; case matters
    ?ERROR ?WARN                         any of them; ignored where another kind of term stands beside them
    %10\\.0\\.[0-9]+%                      a regular expression in AWS's subset, without parentheses
    [a, b = 10.0.*, c >= 400 || c = 7]   columns split on blanks; "..." and [...] in the message are one column
    [..., action = REJECT, status]       any number of columns before
    { $.a.b[0] = "x" && $.n >= 4 }       values of a JSON message

`grammar` reads them, `matching` and `sql` say which messages match, and tests hold those two to each other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from vnotch.fields import Format
from vnotch.store.filter_pattern import matching, sql
from vnotch.store.filter_pattern.grammar import parse
from vnotch.store.filter_pattern.nodes import Syntax
from vnotch.store.relation import Predicate


@dataclass(frozen=True)
class FilterPattern:
    """A pattern that was understood."""

    text: str
    syntax: Syntax

    @classmethod
    def parse(cls, text: str) -> FilterPattern:
        """Raises InputError that names the place."""
        return cls(text, parse(text))

    def matches(self, message: str) -> bool:
        return matching.matches(self.syntax, message)

    def extract(self, message: str) -> dict[str, str] | None:
        """The named columns of a message, `$name` to text; None where it does not match."""
        return matching.extracted(self.syntax, message)

    def predicate(self, formats: Mapping[int, Format] | None = None) -> Predicate | None:
        """A condition on events as they are stored; None where all match. With `formats`, all that records may have,
        their typed columns are asked; without, no column but `message`."""
        return sql.predicate(self.syntax, formats)

    def value(self, name: str, formats: Mapping[int, Format] | None = None) -> Predicate:
        """SQL of the text that a matching event has under `$name` or `$.name`. Raises InputError."""
        return sql.value(self.syntax, name, formats)

    @property
    def has_regex(self) -> bool:
        return re.search(r"%[^%]*%", re.sub(r'"(?:\\.|[^"\\])*"', "", self.text)) is not None


__all__ = ["FilterPattern"]

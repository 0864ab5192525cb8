"""The one error of a query that is not understood."""

from __future__ import annotations

from vnotch.errors import InputError
from vnotch.insights.nodes import Place


class MalformedQuery(InputError):
    """A query that is not understood, and where: characters [start, end) of its text.

    The message is worded as the service words it: lines are counted from 1, positions in a line from 0.
    """

    def __init__(self, what: str, place: Place, remedy: str | None = None) -> None:
        super().__init__(what, remedy)
        self.what = what
        self.place = place
        self.line = 0
        self.position = 0

    def located(self, text: str) -> MalformedQuery:
        """With the line and the position in it, which the text of the query tells."""
        before = text[: self.place.start]
        self.line = before.count("\n") + 1
        self.position = self.place.start - (before.rfind("\n") + 1)
        self.message = f"{self.what} at line {self.line} and position {self.position}"
        return self

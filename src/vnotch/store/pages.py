"""Pages of events: the time is searched in windows that grow, events are chosen by what is stored of them, and only the
lines that a page has are rendered.

A search for what is rare would have to look through all there is before it has a page. With a `Budget` it ends sooner,
with what it has found and the place where the next one goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from vnotch.store.event_table import quoted
from vnotch.store.relation import Predicate, Relation, message_sql

WINDOW_GROWTH = 4
WINDOW_MARGIN = 1.2
WORTHWHILE = 0.2
"""A further window of less than this part of what is searched already costs more than it finds."""

SEQUENCE_MAX = 2**63 - 1

Position = tuple[int, int]
"""A place between events: (timestamp_ms, sequence) of the event that it is after or before."""


@dataclass(frozen=True)
class Found:
    """Events of a page, in order. `ended` is where a search that ended early goes on; None where it did not."""

    events: pa.Table
    ended: Position | None = None


def ended_early(place: Position) -> bool:
    """Whether the search that gave this place to go on from found little: no event is there."""
    return place[1] in (0, SEQUENCE_MAX)


@dataclass(frozen=True)
class Budget:
    """A search looks through at least `least_ms` of event time, and through more while `seconds` are not over."""

    least_ms: int
    seconds: float

    def begin(self) -> Callable[[int], int]:
        """-> how wide the next window may be, in ms, after so many ms were searched; 0 where the search is over."""
        began = time.monotonic()

        def widest(searched_ms: int) -> int:
            elapsed = time.monotonic() - began
            left_ms = self.least_ms - searched_ms
            more_ms = int(searched_ms * (self.seconds - elapsed) / elapsed) if elapsed else left_ms
            return max(left_ms, more_ms if more_ms >= searched_ms * WORTHWHILE else 0, 0)

        return widest


def windows(
    start_ms: int,
    end_ms: int,
    first_ms: int | None,
    descending: bool,
    widest: Callable[[int], int] | None = None,
) -> Generator[tuple[int, int], float | None, Position | None]:
    """Consecutive windows [low, high) that cover [start_ms, end_ms), each up to WINDOW_GROWTH times the one before it.

    Who knows it sends how many times as much as in the last window is still wanted. With `widest` a window is as wide
    as that allows, since what is looked for may be nowhere; where it ends the search, the place where it ended is
    returned.
    """
    width = max(1, first_ms) if first_ms is not None else max(1, end_ms - start_ms)
    searched_ms = 0
    while start_ms < end_ms:
        if widest is not None and searched_ms:
            width = min(width, widest(searched_ms))
            if not width:
                return (end_ms, 0) if descending else (start_ms - 1, SEQUENCE_MAX)
        if descending:
            low, high = max(start_ms, end_ms - width), end_ms
            end_ms = low
        else:
            low, high = start_ms, min(end_ms, start_ms + width)
            start_ms = high
        wanted = yield low, high
        searched_ms += high - low
        width = width * WINDOW_GROWTH if widest is None else end_ms - start_ms
        if wanted is not None:
            width = max(1, min(width, int((high - low) * wanted * WINDOW_MARGIN)))
    return None


def page_sql(
    relation: Relation,
    names: Sequence[str],
    conditions: Sequence[str],
    predicate: Predicate | None,
    order: str | None,
    limit: int,
) -> tuple[str, list[Any]]:
    """The columns `names`, with `message` rendered, of the first `limit` events in an order, by statement and
    parameters."""
    stored = [*dict.fromkeys([*names, "message", "format_id"]), *relation.typed_columns]
    listed = ", ".join(quoted(name) for name in stored)
    found, parameters = [], []
    for part in (predicate.alternatives or (predicate,)) if predicate is not None else (Predicate("true"),):
        where = " AND ".join([relation.where, *conditions, f"({part.sql})"])
        found.append(f"SELECT {listed} FROM {relation.table} WHERE {where}")
        parameters += [*relation.parameters, *part.parameters]
    by = f" ORDER BY {order}" if order is not None else ""
    page = f"SELECT * FROM ({' UNION ALL '.join(found)}){by} LIMIT {int(limit)}"
    shown = ", ".join(f"{message_sql(relation.formats)} AS message" if name == "message" else name for name in names)
    return f"SELECT {shown} FROM ({page}){by}", parameters

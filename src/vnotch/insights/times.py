"""Periods of time as `bin`, `datefloor` and `dateceil` take them (user guide, "Datetime functions")."""

from __future__ import annotations

from dataclasses import dataclass

SECOND_MS = 1000
DAY_MS = 86_400_000
WEEK_ORIGIN_MS = 4 * DAY_MS
"""1970-01-05, the first Monday. What a week begins with is not documented: Monday, as in ISO 8601."""


@dataclass(frozen=True)
class Unit:
    """A unit of time: so many milliseconds, or so many months. `cap` is the largest number of it that AWS takes; a
    larger one is silently this one there, and so here: `bin(300s)` is 60 seconds."""

    names: tuple[str, ...]
    milliseconds: int = 0
    months: int = 0
    cap: int | None = None


UNITS = {
    "ms": Unit(("ms", "msec", "millisecond"), 1, cap=1000),
    "s": Unit(("s", "sec", "second"), SECOND_MS, cap=60),
    "m": Unit(("m", "min", "minute"), 60 * SECOND_MS, cap=60),
    "h": Unit(("h", "hr", "hour"), 3600 * SECOND_MS, cap=24),
    "d": Unit(("d", "day"), DAY_MS),
    "w": Unit(("w", "week"), 7 * DAY_MS),
    "mo": Unit(("mo", "mon", "month"), months=1),
    "q": Unit(("q", "qtr", "quarter"), months=3),
    "y": Unit(("y", "yr", "year"), months=12),
}

UNIT_OF = {
    name: key
    for key, unit in UNITS.items()
    for short in unit.names
    for name in ({short, short + "s"} if len(short) > 1 else {short})
}
"""Every spelling in lower case -> key. All but single letters have a plural."""

COUNT_MAX = 1_000_000


def capped(count: int, unit: str) -> int:
    cap = UNITS[unit].cap
    return count if cap is None else min(count, cap)

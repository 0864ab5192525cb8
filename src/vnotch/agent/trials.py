"""Enforcement on trial: it ends by itself unless it is confirmed, so that nobody is locked out for good.

This host ends it, since the packets that are dropped may be those of its own connection to the server. The end is
reckoned by this host's clock from the moment at which the agent first hears of the trial, and is saved with the slot
before the first packet can be dropped: after a restart what is left of it goes on, and is over where its time has
passed meanwhile. A clock that is set forward ends a trial early; one that is set back lengthens none beyond its
seconds. The datapath knows the end, too, and drops nothing after it: an agent that is killed and never started again
leaves no enforcement behind.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from vnotch.inventory import Interface

UNCONFIRMED = "it observes: its enforcement was not confirmed in time"


class Begun(Protocol):
    """What was saved of a slot."""

    @property
    def interface(self) -> Interface: ...
    @property
    def observe_from_ms(self) -> int | None: ...


class Trials:
    """By slot. `clock` gives seconds of a clock that nobody sets, CLOCK_MONOTONIC; `now_ns` the time."""

    def __init__(self, clock: Callable[[], float], now_ns: Callable[[], int]) -> None:
        self._clock = clock
        self._now_ns = now_ns
        self._ends: dict[int, float] = {}  # by `clock`
        self._over: set[int] = set()

    def end_of(self, number: int, interface: Interface, before: Begun | None) -> int | None:
        """Begins the slot's trial or goes on with it; -> when it ends, in ms of the time, None where there is none."""
        if not interface.enforce or interface.enforce_seconds is None:
            self._ends.pop(number, None)
            self._over.discard(number)
            return None
        end_ms = None
        if before is not None and before.interface.enforce_until_ms == interface.enforce_until_ms:
            end_ms = before.observe_from_ms
        now_ms = self._now_ns() // 1_000_000
        if end_ms is None:
            end_ms = now_ms + 1000 * interface.enforce_seconds
            self._over.discard(number)
            self._ends.pop(number, None)
        if number not in self._over and number not in self._ends:
            left = min((end_ms - now_ms) / 1000, interface.enforce_seconds)
            if left > 0:
                self._ends[number] = self._clock() + left
            else:
                self._over.add(number)
        return end_ms

    def end_ns(self, number: int) -> int | None:
        """When the slot's trial ends, by CLOCK_MONOTONIC in ns; None where there is none under way."""
        end = self._ends.get(number)
        return int(end * 1e9) if end is not None else None

    def seconds_left(self) -> float | None:
        return max(0.0, min(self._ends.values()) - self._clock()) if self._ends else None

    def over(self) -> list[int]:
        """Slots whose trial has ended, until `done` says that they observe."""
        now = self._clock()
        found = [number for number, end in self._ends.items() if end <= now]
        self._over.update(found)
        return found

    def done(self, number: int) -> None:
        self._ends.pop(number, None)

    def is_over(self, number: int) -> bool:
        return number in self._over

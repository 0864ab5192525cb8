"""The sleep of the agents' long polls: woken when an agent's revision changes, on the event loop, holding no thread.

A committed write may happen on any thread. It only schedules one check on the loop; the check reads, in one query,
which agents changed since the last one, and wakes those. However many writes and waiters there are, one check runs at
a time.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from anyio import to_thread

from vnotch.store import agents
from vnotch.store.state import State

WAITERS_MAX = 4096
WAITERS_OF_AGENT_MAX = 4
"""An agent has one poll; a few more may linger after it was restarted. The oldest goes first."""


class TooManyWaiters(Exception):
    """No more long polls can be held."""


@dataclass(eq=False)
class Waiter:
    """One long poll. `woken` is set when the agent's revision is no longer `known`, and when it must make room."""

    known: int
    woken: asyncio.Event = field(default_factory=asyncio.Event)


class ConfigurationWatch:
    """Used from one event loop. `turned_away` counts the polls that found no room."""

    def __init__(self, state: State, waiters_max: int = WAITERS_MAX) -> None:
        self._state = state
        self._waiters_max = waiters_max
        self._waiters: dict[str, list[Waiter]] = defaultdict(list)
        self._count = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._seen = 0
        self._checking: asyncio.Task[None] | None = None
        self._again = False
        self._closed = False
        self.turned_away = 0
        state.on_change.append(self._heard)

    @contextmanager
    def waiter(self, agent: str, known: int) -> Iterator[Waiter]:
        """Holds a poll of an agent that knows the revision `known`.

        Read the revision after this is entered: a change from then on is never missed. Raises TooManyWaiters.
        """
        if self._count >= self._waiters_max:
            self.turned_away += 1
            raise TooManyWaiters
        self._loop = asyncio.get_running_loop()
        waiter, mine = Waiter(known), self._waiters[agent]
        if self._closed:
            waiter.woken.set()
        if len(mine) >= WAITERS_OF_AGENT_MAX:
            mine[0].woken.set()
        mine.append(waiter)
        self._count += 1
        try:
            yield waiter
        finally:
            self._count -= 1
            mine.remove(waiter)
            if not mine:
                self._waiters.pop(agent, None)

    def close(self) -> None:
        """Lets all polls answer, so that the server can stop. From any thread; new polls answer at once."""
        self._closed = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._release)

    def _release(self) -> None:
        for waiters in self._waiters.values():
            for waiter in waiters:
                waiter.woken.set()

    def _heard(self) -> None:
        """On any thread, after a committed write."""
        loop = self._loop
        if loop is not None and self._count:
            try:
                loop.call_soon_threadsafe(self._schedule)
            except RuntimeError:
                self._loop = None  # the loop is closed, and its waiters with it

    def _schedule(self) -> None:
        self._again = True
        if self._checking is None or self._checking.done():
            self._checking = asyncio.get_running_loop().create_task(self._check())

    async def _check(self) -> None:
        while self._again:
            self._again = False
            changed = await to_thread.run_sync(self._changed)
            self._seen = max([self._seen, *changed.values()])
            for agent, revision in changed.items():
                for waiter in self._waiters.get(agent, ()):
                    if waiter.known != revision:
                        waiter.woken.set()

    def _changed(self) -> dict[str, int]:
        with self._state.read() as session:
            return agents.changed_since(session, self._seen)

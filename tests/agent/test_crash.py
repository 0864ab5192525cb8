"""kill -9 at every step: whatever was captured is delivered exactly once.

The process dies at the n-th thing it does to the disk or to the kernel, before or after it took effect; a new one
starts from what is left. This is done for every n of a scenario that has windows closing, a flow log coming
mid-window, an interface leaving and another taking its place.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest
from fake_datapath import FakeDatapath
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from world import SECOND, T0, World, flow_log

from vnotch.agent.tracks import EARLY_SECONDS

DISK = ("write", "fsync", "rename", "replace", "unlink")
KERNEL = ("flip_and_drain", "commit", "attach", "detach", "clear")


class Killed(BaseException):
    """The process is gone: nothing of it may clean up."""


class Killer:
    """Kills at the moments `at`, each counted from the one before; `moments` counts all."""

    def __init__(self, at: list[int]) -> None:
        self._left = list(at)
        self._count = 0
        self.moments = 0
        self.active = True

    def moment(self) -> None:
        if not self.active:
            raise Killed  # clean-up code of ours ran on: what it does after the kill must not happen
        self.moments += 1
        self._count += 1
        if self._left and self._count > self._left[0]:
            self._left.pop(0)
            self._count = 0
            self.active = False
            raise Killed

    def around(self, function: Callable, half: Callable | None = None) -> Callable:
        def call(*arguments, **more):  # type: ignore[no-untyped-def]
            try:
                self.moment()
            except Killed:
                if half and self._half_allowed:
                    half(*arguments)
                raise
            result = function(*arguments, **more)
            self.moment()
            return result

        return call

    def rest(self) -> None:
        self._left.clear()
        self.active = True

    _half_allowed = True


@contextmanager
def killing(killer: Killer) -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    real_write = os.write
    for name in DISK:
        half = (lambda fd, data: real_write(fd, bytes(data)[: len(data) // 2])) if name == "write" else None
        real = getattr(os, name) if name != "fsync" else lambda _: None  # a kill loses no page of the kernel's cache
        patch.setattr(os, name, killer.around(real, half))
    for name in KERNEL:
        patch.setattr(FakeDatapath, name, killer.around(getattr(FakeDatapath, name)))
    try:
        yield
    finally:
        patch.undo()


class Scenario:
    """What happens, and what must have arrived."""

    def __init__(self, folder: Path, killer: Killer) -> None:
        self.world = World(folder)
        self.killer = killer
        self.wanted: dict[str, Counter[tuple[str, str]]] = {"group-a": Counter(), "group-b": Counter()}
        self.restarts = 0

    def run(self) -> None:
        world = self.world
        a, b = flow_log("a", [5, 6], 10), flow_log("b", [5], 10)
        world.configure([5, 6], [a])
        self.survive(world.start)
        self.send(5, "192.0.2.1", 3, "group-a")
        self.tick(5)
        self.send(6, "192.0.2.2", 4, "group-a")
        self.tick(13)
        self.send(5, "192.0.2.3", 5, "group-a")
        self.survive(lambda: world.configure([5, 6], [a, b]))
        self.send(5, "192.0.2.4", 6, "group-a", "group-b")
        self.send(6, "192.0.2.5", 7, "group-a")
        self.tick(16)
        self.survive(lambda: world.configure([5, 7], [flow_log("a", [5, 7], 10), b]))
        self.send(7, "192.0.2.6", 8, "group-a")
        self.tick(35)
        self.survive(lambda: world.configure([5, 7, 8], [flow_log("a", [5, 7, 8], 10), b]))
        self.send(8, "192.0.2.7", 9, "group-a")
        self.tick(60)
        self.send(5, "192.0.2.8", 1, "group-a", "group-b")
        for _ in range(3):
            self.survive(world.finish)

    def send(self, number: int, src: str, count: int, *groups: str) -> None:
        assert self.world.send(number, src, count) == count, "captured also while no process lives"
        for group in groups:
            self.wanted[group][f"eni-{number}", src] += count

    def tick(self, second: int) -> None:
        """A process that died at a tick is started again after it."""
        while self.world.time_ns < (T0 + second) * SECOND:
            self.survive(lambda: self.world.tick_to(second))

    def survive(self, action: Callable[[], object]) -> None:
        try:
            action()
            return
        except Killed:
            pass
        while True:
            self.restarts += 1
            self.killer.active = True
            try:
                self.world.start()
                self.world.deliver()
                return
            except Killed:
                continue

    def check(self) -> None:
        for group, wanted in self.wanted.items():
            assert self.world.packets(group) == wanted, group
        ledger = self.world.capture.status()["ledger"]
        seen = {(row["slot"], row["direction"]): row["packets"] for row in ledger["seen"]}
        booked = {(row["slot"], row["direction"]): row["packets"] for row in ledger["interfaces"]}
        assert booked == seen
        assert self.world.repeated <= self.restarts
        status = self.world.capture.status()
        assert status["spool"]["dropped"] == []
        assert status["capture"]["unclaimed_packets"] == 0
        assert status["capture"]["journal_drains"] == 0
        assert status["capture"]["journal_damaged"] == 0


class CutScenario(Scenario):
    """First windows that end early: of a flow log that is alone, and of one that comes into an open window. Last ones
    that end when their interface goes."""

    def run(self) -> None:
        world = self.world
        world.early_seconds = EARLY_SECONDS
        a, b = flow_log("a", [5], 20), flow_log("b", [5], 20)
        world.configure([5], [a])
        self.survive(world.start)
        self.send(5, "192.0.2.1", 3, "group-a")
        self.tick(3)
        self.send(5, "192.0.2.2", 4, "group-a")
        self.tick(7)
        self.send(5, "192.0.2.3", 5, "group-a")
        self.survive(lambda: world.configure([5], [a, b]))
        self.send(5, "192.0.2.4", 6, "group-a", "group-b")
        self.tick(16)
        self.send(5, "192.0.2.5", 7, "group-a", "group-b")
        self.tick(45)
        self.send(5, "192.0.2.6", 8, "group-a", "group-b")
        self.survive(lambda: world.configure([], []))
        for _ in range(3):
            self.survive(world.finish)


Kind = TypeVar("Kind", bound=Scenario)


def play(kills: list[int], kind: type[Kind] = Scenario) -> Kind:  # type: ignore[assignment]
    """A scenario to its end, killed at those moments, each counted from the one before."""
    folder = Path(tempfile.mkdtemp(prefix="vnotch-crash-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    killer = Killer(kills)
    scenario = kind(folder, killer)
    try:
        with killing(killer):
            scenario.run()
        # The last kill may have been at the very end; what it left is done now, and nobody kills any more.
        killer.rest()
        scenario.world.finish()
        scenario.world.finish()
        scenario.check()
    except BaseException as error:
        error.add_note(f"killed at {kills}")
        raise
    finally:
        shutil.rmtree(folder)
    return scenario


def test_the_scenario_without_a_kill() -> None:
    scenario = play([])
    assert scenario.restarts == 0
    assert scenario.killer.moments > 200
    assert scenario.world.repeated == 0


@pytest.mark.parametrize("ninth", [pytest.param(n, marks=[pytest.mark.soak] if n % 3 else []) for n in range(9)])
def test_a_kill_at_every_moment(ninth: int) -> None:
    """A third of the moments in every run, all of them in the long one."""
    moments = play([]).killer.moments
    for moment in range(ninth, moments, 9):
        assert play([moment]).restarts >= 1


@pytest.mark.parametrize("fifth", [pytest.param(n, marks=[pytest.mark.soak] if n else []) for n in range(5)])
def test_a_kill_at_every_moment_round_a_cut(fifth: int) -> None:
    moments = play([], CutScenario).killer.moments
    for moment in range(fifth, moments, 5):
        assert play([moment], CutScenario).restarts >= 1


@settings(max_examples=30, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(st.lists(st.integers(0, 120), min_size=2, max_size=8))
def test_kills_one_after_another(kills: list[int]) -> None:
    play(kills)

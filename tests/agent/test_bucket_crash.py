"""kill -9 at every step on the way into a bucket: each record is in exactly one object, whatever was repeated.

As `test_crash`, with files between the spool and the destination. An upload may happen and its end not be noticed.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from bucket_world import BucketWorld, bucket_log
from test_crash import Killer, Scenario, play
from world import T0

from vnotch.bucket_keys import slot_of


class BucketScenario(Scenario):
    """A text and a Parquet flow log over the end of a slot, one coming and an interface going meanwhile; one loses its
    last interface, the other is deleted."""

    def __init__(self, folder: Path, killer: Killer) -> None:
        super().__init__(folder, killer)
        self.world: BucketWorld = BucketWorld(folder)
        put = self.world.put
        self.world.put = killer.around(put)  # type: ignore[method-assign]

    def run(self) -> None:
        world = self.world
        a, b = bucket_log("a", [5, 6], 10), bucket_log("b", [5], 10, "parquet")
        world.configure([5, 6], [a])
        self.survive(world.start)
        self.send(5, "192.0.2.1", 3, "group-a")
        self.send(6, "192.0.2.2", 4, "group-a")
        self.tick(13)
        self.survive(lambda: world.configure([5, 6], [a, b]))
        self.send(5, "192.0.2.3", 5, "group-a", "group-b")
        self.tick(35)
        self.send(6, "192.0.2.4", 7, "group-a")
        self.send(5, "192.0.2.5", 6, "group-a", "group-b")
        self.tick(67)
        assert slot_of(T0) != slot_of(T0 + 67)
        self.send(5, "192.0.2.6", 2, "group-a", "group-b")
        self.survive(lambda: world.configure([6], [bucket_log("a", [6], 10)]))
        self.send(6, "192.0.2.7", 8, "group-a")
        self.survive(lambda: world.configure([6], []))
        self.tick(80)
        for _ in range(3):
            self.survive(world.finish)

    def check(self) -> None:
        super().check()
        status = self.world.capture.status()
        assert status["uploads"]["files"] == 0
        assert status["spool"]["gathering"] == 0
        assert status["uploads"]["damaged_files"] == 0
        left = [path.name for path in (self.world.folder / "uploads").iterdir()]
        assert left == [], "nothing is left on disk"
        assert self.world.uploads <= len(self.world.objects) + self.restarts


def test_the_scenario_without_a_kill() -> None:
    scenario = play([], BucketScenario)
    assert scenario.restarts == 0
    assert scenario.world.uploads == len(scenario.world.objects)
    slots = Counter((flow_log, slot) for flow_log, slot, _ in scenario.world.objects)
    assert set(slots) == {
        ("fl-a", slot_of(T0)),
        ("fl-a", slot_of(T0 + 67)),
        ("fl-b", slot_of(T0)),
        ("fl-b", slot_of(T0 + 67)),
    }
    assert slots["fl-a", slot_of(T0)] == 2, "the first file comes at once, the rest with the end of the slot"


@pytest.mark.parametrize("ninth", [pytest.param(n, marks=[pytest.mark.soak] if n else []) for n in range(9)])
def test_a_kill_at_every_moment(ninth: int) -> None:
    """A ninth of the moments in every run, all of them in the long one."""
    moments = play([], BucketScenario).killer.moments
    for moment in range(ninth, moments, 9):
        assert play([moment], BucketScenario).restarts >= 1


@pytest.mark.parametrize("kills", [[40, 3], [90, 5, 7], [120, 2, 2, 2], [150, 11], [200, 20, 1], [260, 4, 9]])
def test_kills_one_after_another(kills: list[int]) -> None:
    play(kills, BucketScenario)

"""An agent finds the maps of a release with another layout, which it cannot read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_datapath import FakeDatapath, Kernel
from world import World, flow_log

FORMAT = "${interface-id} ${srcaddr} ${log-status} ${packets} ${x-lost-packets}"


class Killed(BaseException):
    pass


def upgraded(world: World) -> Kernel:
    """The new release's maps are empty; -> those of the old one, whose programs count on."""
    before, world.kernel = world.kernel, Kernel(lambda: world.time_ns, devices=set(world.kernel.devices))
    return before


@pytest.fixture
def world(tmp_path: Path) -> World:
    """60 packets are in the journal, then one release ends; its programs count 7 more."""
    world = World(tmp_path)
    world.configure([5], [flow_log("a", [5], format=FORMAT)])
    world.start()
    world.send(count=60)
    world.tick_to(10)
    world.send(count=7)
    return world


def ledger(world: World) -> tuple[int, int, int]:
    """Packets seen, in the ledger, and of these lost by the upgrade."""
    status = world.capture.status()["ledger"]
    lost = status["total"]["lost"].get("UPGRADE", {"packets": 0})["packets"]
    return sum(row["packets"] for row in status["seen"]), status["total"]["packets"], lost


def skipped(world: World) -> int:
    lines = [line.split() for line in world.lines("group-a")]
    return sum(int(fields[4]) for fields in lines if fields[2] == "SKIPDATA")


def counted(world: World) -> int:
    return sum(int(fields[3]) for fields in (line.split() for line in world.lines("group-a")) if fields[2] == "OK")


def test_what_the_old_release_counted_and_did_not_drain_is_lost_and_said(world: World) -> None:
    before = upgraded(world)
    world.start(taken_over=False, before=before)
    world.send(count=20)
    world.tick_to(60)
    assert ledger(world) == (87, 87, 7)
    assert not before.attached
    world.finish()
    assert (counted(world), skipped(world)) == (80, 7)


def test_nothing_is_lost_where_the_old_release_had_drained_all(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.configure([5], [flow_log("a", [5], format=FORMAT)])
    world.start()
    world.send(count=60)
    world.tick_to(10)
    world.start(taken_over=False, before=upgraded(world))
    world.send(count=20)
    world.tick_to(60)
    world.finish()
    assert ledger(world) == (80, 80, 0)
    assert (counted(world), skipped(world)) == (80, 0)


def killed_at(world: World, method: str, after: bool, before: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    original: Callable[..., Any] = getattr(FakeDatapath, method)

    def die(datapath: FakeDatapath, *arguments: Any) -> None:
        if after:
            original(datapath, *arguments)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(FakeDatapath, method, die)
        with pytest.raises(Killed):
            world.start(taken_over=False, before=before)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("method", ["attach", "end_predecessor", "forget_predecessor"])
def test_killed_in_the_middle_it_is_done_once(
    world: World, method: str, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`forget_predecessor` is the end: after it the predecessor is not found again."""
    before = upgraded(world)
    killed_at(world, method, after, before, monkeypatch)
    world.send(count=20)  # where it is attached already, the new programs count
    gone = method == "forget_predecessor" and after
    world.start(before=None if gone else before)
    world.send(count=3)
    world.tick_to(60)
    world.finish()
    new = 3 if (method, after) == ("attach", False) else 23
    assert ledger(world) == (67 + new, 67 + new, 7)
    assert (counted(world), skipped(world)) == (60 + new, 7)


def test_a_second_upgrade_adds_to_the_first(world: World) -> None:
    world.start(taken_over=False, before=upgraded(world))
    world.send(count=20)
    world.tick_to(20)
    world.send(count=5)
    world.start(taken_over=False, before=upgraded(world))
    world.send(count=1)
    world.tick_to(60)
    world.finish()
    assert ledger(world) == (93, 93, 12)
    assert (counted(world), skipped(world)) == (81, 12)


def test_without_a_ledger_no_number_is_made_up(world: World, caplog: pytest.LogCaptureFixture) -> None:
    (world.folder / "progress.json").unlink()
    world.start(taken_over=False, before=upgraded(world))
    world.send(count=20)
    world.tick_to(60)
    assert "how much that is cannot be told" in caplog.text
    assert ledger(world)[2] == 0


def test_new_maps_without_a_predecessor_begin_at_zero(world: World) -> None:
    world.start(taken_over=False, before=upgraded(world))
    upgraded(world)
    world.start(taken_over=False)
    world.send(count=4)
    world.tick_to(60)
    assert ledger(world) == (4, 4, 0)

"""The first window of a new flow log ends early, the last one with its interface; that costs and repeats no packet."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from world import SECOND, T0, World, flow_log

from vnotch.agent.tracks import EARLY_SECONDS

FIRST_RECORD_SECONDS = 15
"""What a person who has just attached an interface waits at most."""


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.early_seconds = EARLY_SECONDS
    return world


def fields(line: str) -> tuple[int, int, int | str]:
    """(start, end, packets or log status), times relative to T0"""
    parts = line.split(" ")
    return int(parts[10]) - T0, int(parts[11]) - T0, int(parts[8]) if parts[13] == "OK" else parts[13]


@pytest.mark.parametrize("interval", [60, 600])
@pytest.mark.parametrize("begin", [0, 1, 7, 31, 44, 54, 55, 57, 59])
def test_the_first_record_comes_soon_whenever_the_flow_log_comes(world: World, begin: int, interval: int) -> None:
    base = 0 if interval == 60 else 480  # T0 + 540 is a multiple of 600
    world.time_ns += (base + begin) * SECOND + 300_000_000
    world.configure([5], [flow_log("a", [5], interval)])
    world.start()
    sent, first = 0, None
    for second in range(base + begin + 1, base + begin + 1300):
        sent += world.send()
        world.tick_to(second)
        if first is None and world.lines("group-a"):
            first = second
    assert first is not None
    assert first - (base + begin) <= FIRST_RECORD_SECONDS - 3
    world.finish()
    assert sum(world.packets("group-a").values()) == sent
    ends = [fields(line)[1] for line in world.lines("group-a")]
    assert len(ends) == len(set(ends)), "no stretch of time is told of twice"
    assert len(ends) <= 1300 // interval + 3, "only the first window is cut"


def test_a_cut_window_goes_on_where_it_was_cut(world: World) -> None:
    world.configure([5], [flow_log("a", [5])])
    world.start()
    world.send(count=3)
    world.tick_to(5)
    assert [fields(line) for line in world.lines("group-a")] == [(0, 0, 3)]
    world.tick_to(60)
    assert [fields(line) for line in world.lines("group-a")][1:] == [(5, 60, "NODATA")]
    world.send(count=2)
    world.tick_to(120)
    assert [fields(line) for line in world.lines("group-a")][2:] == [(60, 60, 2)]


def test_ticks_are_short_only_until_the_cut(world: World) -> None:
    world.configure([5], [flow_log("a", [5]), flow_log("b", [5], 8)])
    world.start()
    assert world.capture.tick_seconds == 4, "divides both intervals"
    world.configure([5], [flow_log("a", [5])])
    assert world.capture.tick_seconds == 5
    world.tick_to(6)
    assert world.capture.tick_seconds == 10


def test_a_flow_log_that_comes_into_an_open_window_is_early_and_gets_nothing_of_before(world: World) -> None:
    world.configure([5], [flow_log("a", [5])])
    world.start()
    world.send(src="192.0.2.1", count=3)
    world.tick_to(22)
    world.send(src="192.0.2.2", count=4)
    world.configure([5], [flow_log("a", [5]), flow_log("b", [5])])
    world.send(src="192.0.2.3", count=5)
    world.tick_to(30)
    assert world.packets("group-b") == {("eni-5", "192.0.2.3"): 5}
    world.send(src="192.0.2.4", count=6)
    world.tick_to(120)
    assert world.packets("group-b") == {("eni-5", "192.0.2.3"): 5, ("eni-5", "192.0.2.4"): 6}
    assert sum(world.packets("group-a").values()) == 18
    assert world.capture.status()["capture"]["journal_drains"] == 0


def test_a_short_interval_is_left_as_it_is(world: World) -> None:
    world.configure([5], [flow_log("a", [5], 10)])
    world.start()
    world.send()
    world.tick_to(9)
    assert world.lines("group-a") == []
    assert world.capture.tick_seconds == 10


@pytest.mark.parametrize("restart_at", [2, 5, 7, 59, 61])
def test_a_restart_at_any_time_counts_each_packet_once(world: World, restart_at: int) -> None:
    world.configure([5], [flow_log("a", [5])])
    world.start()
    sent = 0
    for second in range(1, 130):
        sent += world.send()
        world.tick_to(second)
        if second == restart_at:
            world.start()
    world.finish()
    assert sum(world.packets("group-a").values()) == sent
    assert len([line for line in world.lines("group-a") if "NODATA" in line]) == 0


def test_a_cut_whose_progress_is_never_saved_is_made_again_with_all_that_came_since(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.configure([5], [flow_log("a", [5])])
    world.start()
    real = os.replace

    def replace(source, target):  # type: ignore[no-untyped-def]
        if str(target).endswith("progress.json"):
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    world.send(src="192.0.2.1", count=2)
    world.tick_to(5)
    world.send(src="192.0.2.2", count=3)
    world.tick_to(20)
    assert world.lines("group-a") == []
    monkeypatch.setattr(os, "replace", real)
    world.start()  # the process was killed: what it held back is gone, its drains are in the journal
    world.tick_to(60)
    assert world.packets("group-a") == {("eni-5", "192.0.2.1"): 2, ("eni-5", "192.0.2.2"): 3}


@pytest.mark.parametrize("back", [3, 30, 90])
def test_a_clock_that_is_set_back_before_the_cut_costs_nothing(world: World, back: int) -> None:
    world.configure([5], [flow_log("a", [5])])
    world.start()
    sent = world.send(count=2)
    world.tick_to(3)
    world.time_ns -= back * SECOND
    for _ in range(30):
        sent += world.send(count=2)
        world.tick_to((world.time_ns // SECOND) - T0 + 10)
        world.start()
    world.finish()
    assert world.packets("group-a") == {("eni-5", "192.0.2.1"): sent}


def test_the_last_window_ends_when_the_last_interface_of_its_flow_log_goes(world: World) -> None:
    of_interface, of_vpc = flow_log("a", [5]), flow_log("b", [5, 6])
    world.configure([5, 6], [of_interface, of_vpc])
    world.start()
    world.send(5, src="192.0.2.1", count=2)
    world.send(6, src="192.0.2.1", count=3)
    world.tick_to(75)
    world.send(5, src="192.0.2.2", count=4)
    world.send(6, src="192.0.2.2", count=5)
    world.configure([6], [flow_log("b", [6])])
    world.deliver()
    assert world.packets("group-a") == {("eni-5", "192.0.2.1"): 2, ("eni-5", "192.0.2.2"): 4}
    world.tick_to(120)
    assert sum(world.packets("group-a").values()) == 6
    assert sum(world.packets("group-b").values()) == 14
    assert world.capture.status()["capture"]["journal_drains"] == 0
    world.tick_to(140)
    assert [interface.interface_id for interface in world.capture.interfaces.by_slot.values()] == ["eni-6"]

"""The loop's steps: windows, records and who gets them, with a fake kernel and a fake clock."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
from world import SECOND, T0, World, flow_log, interface

from vnotch.agent.journal import Entry
from vnotch.flow import Direction, Exclusion, Outcome
from vnotch.inventory import Peer
from vnotch.service_ranges import ServiceRanges


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def ok(second: int, packets: int, size: int, last: int | None = None, src: str = "192.0.2.1", eni: int = 5) -> str:
    last = second if last is None else last
    return (
        f"2 123456789012 eni-{eni} {src} 10.0.0.{eni} 40000 443 6 {packets} {size} {T0 + second} {T0 + last} ACCEPT OK"
    )


def status(second: int, status: str, interval: int = 60, eni: int = 5) -> str:
    return f"2 123456789012 eni-{eni} - - - - - - - {T0 + second} {T0 + second + interval} - {status}"


def test_a_window_becomes_a_record_when_it_ends(world: World) -> None:
    world.configure([5], [flow_log("a", [5])])
    world.start()
    world.send(count=3)
    world.tick_to(30)
    world.send(count=2)
    world.tick_to(59)
    assert world.lines("group-a") == []
    world.tick_to(60)
    assert world.arrived["group-a"] == [("eni-5-all", ok(0, 5, 500, last=30))]


def test_nodata_only_after_the_first_record(world: World) -> None:
    world.configure([5, 6], [flow_log("a", [5, 6])])
    world.start()
    world.tick_to(120)
    assert world.lines("group-a") == [], "no record, no group before there was traffic"
    world.send()
    world.tick_to(240)
    assert world.lines("group-a") == [ok(120, 1, 100), status(180, "NODATA")]
    world.start()
    world.tick_to(300)
    assert world.lines("group-a")[2:] == [status(240, "NODATA")], "remembered over a restart"


def test_lost_packets_become_skipdata(world: World) -> None:
    log_format = "${interface-id} ${log-status} ${x-lost-packets} ${x-lost-bytes} ${packets}"
    world.configure([5], [flow_log("a", [5], format=log_format)])
    world.start()
    world.send(count=2)
    world.send(count=7, lost=True)
    world.tick_to(60)
    assert sorted(world.lines("group-a")) == ["eni-5 OK - - 2", "eni-5 SKIPDATA 7 700 -"]


def test_peers_ranges_and_tags_reach_records(world: World) -> None:
    world.ranges = ServiceRanges([("192.0.2.0/24", "S3")])
    log_format = "${pkt-src-aws-service} ${next-hop-interface-id} ${interface-tag}"
    tagged = replace(interface(5), tags=(("Name", "web"),))
    peers = (Peer("eni-9", "vpc-1", "subnet-1", "use1-az1", None, ("10.0.0.9",)),)
    of_log = replace(flow_log("a", [5], format=log_format), tag_keys=(("network-interface", ("Name",)),))
    world.configure([5], [of_log], peers=peers, peers_omitted=3)
    world.configuration = replace(world.configuration, interfaces=(tagged,))
    world.start()
    assert world.capture.status()["capture"]["peers_omitted"] == 3
    world.send()
    world.send(src="10.0.0.9")
    world.tick_to(60)
    assert sorted(world.lines("group-a")) == ["- eni-9 web", "S3 - web"]
    world.send(src="10.0.0.9")
    world.start()
    world.configuration = replace(
        world.configuration, revision=9, interfaces=(replace(tagged, tags=(("Name", "front"),)),), peers=()
    )
    world.capture.apply(world.configuration)
    world.tick_to(120)
    assert world.lines("group-a")[2:] == ["- - front"], "a change counts for the windows that close after it"


def test_excluded_traffic_is_in_the_ledger_and_in_no_record(world: World) -> None:
    world.configure([5], [flow_log("a", [5])])
    world.start()
    world.send(count=4, outcome=Outcome.EXCLUDED, exclusion=Exclusion.ARP)
    world.send(count=2, outcome=Outcome.REJECT)
    world.send(count=1, direction=Direction.EGRESS)
    world.tick_to(60)
    ledger = world.capture.status()["ledger"]
    assert ledger["total"]["packets"] == 7
    assert ledger["total"]["reject"]["packets"] == 2
    assert ledger["total"]["excluded"] == {"ARP": {"packets": 4, "bytes": 400}}
    assert {row["direction"]: row["packets"] for row in ledger["seen"]} == {"ingress": 6, "egress": 1}
    assert sum(world.packets("group-a").values()) == 3


def test_traffic_types_have_their_own_streams(world: World) -> None:
    world.configure([5], [flow_log(kind, [5], traffic=kind) for kind in ("ALL", "ACCEPT", "REJECT")])
    world.start()
    world.send(count=1)
    world.send(count=2, outcome=Outcome.REJECT)
    world.tick_to(60)
    streams = {
        group: sorted((stream, line.split()[8]) for stream, line in found) for group, found in world.arrived.items()
    }
    assert streams == {
        "group-ALL": [("eni-5-all", "1"), ("eni-5-all", "2")],
        "group-ACCEPT": [("eni-5-accept", "1")],
        "group-REJECT": [("eni-5-reject", "2")],
    }


def test_intervals_with_different_ticks_share_one_capture(world: World) -> None:
    world.configure([5], [flow_log("a", [5], 60), flow_log("b", [5], 8), flow_log("c", [5], 600)])
    world.start()
    assert world.capture.tick_seconds == 4
    for second in range(0, 120, 4):
        world.send(src=f"192.0.2.{second}")
        world.tick_to(second + 4)
    world.tick_to(600)
    for group in ("group-a", "group-b", "group-c"):
        assert world.packets(group) == {("eni-5", f"192.0.2.{second}"): 1 for second in range(0, 120, 4)}, group
    starts = {int(line.split()[10]) - T0 for line in world.lines("group-a") if "NODATA" in line}
    assert starts == {120, 180, 240, 300, 360, 420, 480, 540}


def test_a_flow_log_that_comes_mid_window_gets_what_comes_after_it_and_no_more(world: World) -> None:
    world.configure([5], [flow_log("a", [5])])
    world.start()
    world.send(src="192.0.2.1", count=3)
    world.tick_to(20)
    world.send(src="192.0.2.2", count=4)
    world.time_ns += 3 * SECOND
    world.configure([5], [flow_log("a", [5]), flow_log("b", [5]), flow_log("c", [5], 600)])
    world.send(src="192.0.2.3", count=5)
    world.tick_to(60)
    world.send(src="192.0.2.4", count=6)
    world.tick_to(600)
    later = {("eni-5", "192.0.2.3"): 5, ("eni-5", "192.0.2.4"): 6}
    assert world.packets("group-b") == later
    assert world.packets("group-c") == later
    assert world.packets("group-a") == {("eni-5", "192.0.2.1"): 3, ("eni-5", "192.0.2.2"): 4, **later}


def test_a_deleted_flow_log_gets_what_was_collected_until_then_and_nothing_more(world: World) -> None:
    """VPC user guide: deleting a flow log ends the collection; it takes nothing back."""
    world.configure([5, 6], [flow_log("a", [5, 6]), flow_log("b", [5, 6])])
    world.start()
    world.send()
    world.send(6)
    world.tick_to(60)
    world.send(src="192.0.2.2")
    world.tick_to(80)
    world.send(src="192.0.2.2", count=2)
    world.configure([5, 6], [flow_log("b", [5, 6])])
    world.send(src="192.0.2.3")
    world.tick_to(180)
    before = {("eni-5", "192.0.2.1"): 1, ("eni-6", "192.0.2.1"): 1, ("eni-5", "192.0.2.2"): 3}
    assert world.packets("group-a") == before
    assert world.packets("group-b") == {**before, ("eni-5", "192.0.2.3"): 1}
    assert not any("NODATA" in line for line in world.lines("group-a"))
    assert world.capture.status()["spool"]["dropped"] == []
    world.configure([5, 6], [])
    assert world.capture.tick_seconds == 10
    world.tick_to(300)
    assert world.capture.status()["capture"]["journal_drains"] == 0


def test_a_flow_log_that_was_deleted_while_the_agent_was_away_gets_what_it_had_collected(world: World) -> None:
    world.configure([5], [flow_log("a", [5]), flow_log("b", [5])])
    world.start()
    world.send(count=2)
    world.tick_to(20)
    world.configuration = replace(world.configuration, flow_logs=(flow_log("b", [5]),))
    world.start()
    world.capture.apply(world.configuration)
    world.tick_to(120)
    assert world.packets("group-a") == world.packets("group-b") == {("eni-5", "192.0.2.1"): 2}


def test_an_interface_that_joins_later_is_captured_by_itself(world: World) -> None:
    world.configure([5], [flow_log("a", [5])])
    world.start()
    world.tick_to(30)
    assert world.send(6) == 0
    world.configure([5, 6], [flow_log("a", [5, 6])])
    assert world.send(6, count=2) == 2
    world.tick_to(60)
    assert world.arrived["group-a"] == [("eni-6-all", ok(30, 2, 200, eni=6))]


def test_an_interface_that_left_is_in_its_last_window(world: World) -> None:
    world.configure([5, 6], [flow_log("a", [5, 6])])
    world.start()
    world.send(6, count=2)
    world.tick_to(20)
    world.send(6, src="192.0.2.2", count=3)
    world.configure([5], [flow_log("a", [5])])
    assert world.send(6) == 0, "it is not captured any more"
    world.tick_to(240)
    assert world.packets("group-a") == {("eni-6", "192.0.2.1"): 2, ("eni-6", "192.0.2.2"): 3}
    assert not any("NODATA" in line for line in world.lines("group-a"))


def test_the_last_interface_of_a_flow_log_leaves_and_its_window_is_delivered_over_a_restart(world: World) -> None:
    world.configure([5], [flow_log("a", [5])])
    world.start()
    world.send(count=2)
    world.configure([], [])
    world.start()
    world.tick_to(60)
    assert world.packets("group-a") == {("eni-5", "192.0.2.1"): 2}
    world.tick_to(120)
    assert world.capture.tick_seconds == 10
    assert world.capture.interfaces.by_slot == {}


def test_a_slot_is_not_given_out_again_before_its_window_is_spooled(world: World) -> None:
    world.configure([5], [flow_log("a", [5, 6])])
    world.start()
    world.send(5, count=2)
    world.configure([6], [flow_log("a", [5, 6])])
    world.send(6, count=3)
    world.tick_to(50)
    world.configure([6, 7], [flow_log("a", [5, 6, 7])])
    assert len(world.capture.interfaces.by_slot) == 3
    world.send(7, count=4)
    world.tick_to(60)
    assert world.packets("group-a") == {(f"eni-{n}", "192.0.2.1"): n - 3 for n in (5, 6, 7)}
    world.tick_to(70)
    world.configure([6, 7, 8], [flow_log("a", [6, 7, 8])])
    assert world.datapath.cleared == [0]
    assert world.capture.interfaces.by_slot[0].interface_id == "eni-8"


def test_an_interface_that_comes_back_at_once_keeps_its_slot(world: World) -> None:
    world.configure([5], [flow_log("a", [5])])
    world.start()
    world.send()
    world.configure([], [flow_log("a", [])])
    world.configure([5], [flow_log("a", [5])])
    world.send()
    world.tick_to(60)
    assert world.packets("group-a") == {("eni-5", "192.0.2.1"): 2}
    assert list(world.capture.interfaces.by_slot) == [0]


def test_a_device_that_is_not_there_yet_is_attached_when_it_comes(world: World) -> None:
    world.configure([5], [flow_log("a", [5])])
    world.kernel.devices.clear()
    world.start()
    assert [(s["interface_id"], s["state"]) for s in world.capture.interfaces.states()] == [("eni-5", "absent")]
    assert not world.capture.interfaces.retry()
    world.kernel.devices.add("veth5")
    assert world.capture.interfaces.retry()
    assert world.capture.interfaces.states() == [
        {"interface_id": "eni-5", "state": "attached", "message": None, "mode": "fake", "device": "veth5"}
    ]
    assert world.send() == 1


def test_what_the_datapath_is_told_of_an_interface(world: World) -> None:
    world.configure([5], [])
    world.start()
    assert world.kernel.values[0] == {
        "adopt": True,  # its connections began before its capture
        "enforce": False,
        "enforce_until_ns": None,
        "inside": False,
        "mac": None,
        "dns_v4": bytes([10, 0, 0, 2]),
        "routers_v4": (bytes([10, 0, 0, 1]), bytes([10, 0, 0, 1])),
        "router_v6": bytes.fromhex("fd000001000000000000000000000001"),
        "addresses": (bytes([10, 0, 0, 5]),),
    }


def test_dropped_batches_are_told_of_in_the_next_record(world: World) -> None:
    log_format = "${interface-id} ${log-status} ${x-lost-packets} ${packets}"
    world.configure([5], [flow_log("a", [5], format=log_format)])
    world.start()
    world.send(count=9)
    world.spool_bytes_max = 10
    world.start()
    world.tick_to(60)
    assert world.lines("group-a") == []
    assert world.capture.status()["spool"]["dropped"][0]["packets"] == 9
    world.spool_bytes_max = 10**9
    world.start()
    world.send(count=2)
    world.tick_to(120)
    assert sorted(world.lines("group-a")) == ["eni-5 OK - 2", "eni-5 SKIPDATA 9 -"]
    world.tick_to(180)
    assert world.lines("group-a")[2:] == ["eni-5 NODATA - -"], "told once"


def test_a_late_tick_still_belongs_to_the_window_that_ended(world: World) -> None:
    world.configure([5], [flow_log("a", [5])])
    world.start()
    world.tick_to(50)
    world.send()
    world.time_ns = (T0 + 63) * SECOND
    world.capture.step()
    world.deliver()
    assert world.packets("group-a") == {("eni-5", "192.0.2.1"): 1}


@pytest.mark.parametrize("back", [3, 30, 90, 4000])
def test_a_clock_that_is_set_back_costs_nothing_also_over_a_restart(world: World, back: int) -> None:
    world.configure([5], [flow_log("a", [5])])
    world.start()
    sent = 0
    for second in range(0, 300, 10):
        sent += world.send(count=2)
        world.tick_to(second + 10)
    world.time_ns -= back * SECOND
    for _ in range(30):
        sent += world.send(count=2)
        world.tick_to((world.time_ns // SECOND) - T0 + 10)
        world.start()
    world.finish()
    assert world.packets("group-a") == {("eni-5", "192.0.2.1"): sent}


@pytest.mark.parametrize("interval", [5, 60])
@pytest.mark.parametrize("forward", [1, 7, 30, 90, 4000, 200_000])
def test_a_clock_that_is_set_forward_costs_nothing_also_over_a_restart(
    world: World, forward: int, interval: int
) -> None:
    """The windows that were open close, the ones that time left out have no records, and no packet counts twice."""
    world.configure([5], [flow_log("a", [5], interval)])
    world.start()
    sent = 0
    for step in range(60):
        sent += world.send(count=2)
        world.tick_to(world.time_ns // SECOND - T0 + 3)
        if step in (20, 40):
            sent += world.send(count=1)
            world.set_clock_forward(forward)
        if step % 7 == 0:
            world.start()
    world.finish()
    assert world.packets("group-a") == {("eni-5", "192.0.2.1"): sent}
    windows = set()
    for line in world.lines("group-a"):
        fields = line.split(" ")
        start, end = int(fields[10]), int(fields[11])
        assert start <= end
        windows.add(end // interval if fields[13] == "OK" else start // interval)
        assert start >= T0
        assert end <= world.time_ns // SECOND + interval  # the last window is closed before its end
    assert len(windows) <= 60 * 3 // interval + 6, "no windows are made of time that never was"


def test_what_waits_in_the_spool_is_not_older_when_the_clock_is_set_forward(world: World) -> None:
    """A host starts with the clock of its last shutdown and learns the time later; its server is away meanwhile."""
    world.configure([5], [flow_log("a", [5])])
    world.start()
    deliver, world.deliver = world.deliver, lambda: None  # type: ignore[method-assign]
    world.send(count=3)
    world.tick_to(120)
    world.set_clock_forward(10 * 24 * 3600)
    world.send(count=4)
    world.tick_to(world.time_ns // SECOND - T0 + 120)
    assert world.capture.spool.counters()["dropped"] == []
    assert sum(world.capture.spool.waiting().values()) >= 2
    # But time that passes does count.
    world.time_ns += 25 * 3600 * SECOND
    before = sum(world.capture.spool.waiting().values())
    world.capture.step()
    [dropped] = world.capture.spool.counters()["dropped"]
    assert (dropped["reason"], dropped["batches"]) == ("spool-expired", before)
    world.deliver = deliver  # type: ignore[method-assign]


def test_a_full_disk_costs_no_packet_while_the_agent_lives(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.configure([5], [flow_log("a", [5])])
    world.start()
    real = os.fsync

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    world.send(count=2)
    world.tick_to(40)
    monkeypatch.setattr(os, "fsync", full)
    world.send(count=3)
    world.tick_to(50)
    assert world.capture.intake.journal_failures == 1
    monkeypatch.setattr(os, "fsync", real)
    world.tick_to(60)
    assert world.packets("group-a") == {("eni-5", "192.0.2.1"): 5}


def test_a_slot_is_kept_for_what_the_journal_did_not_take(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The window has packets of an interface that is gone, in memory alone: its slot is nobody else's yet."""
    watched = flow_log("a", [5, 6, 7])
    world.configure([5, 6], [watched])
    world.start()

    def full(entry: Entry) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(world.capture.intake.journal, "append", full)
        world.send(5, count=2)
        world.tick_to(10)
        world.configure([6], [watched])
        world.tick_to(40)
    world.tick_to(50)
    world.configure([6, 7], [watched])
    world.send(7, count=3)
    world.tick_to(60)
    assert world.packets("group-a") == {("eni-5", "192.0.2.1"): 2, ("eni-7", "192.0.2.1"): 3}


def test_progress_that_cannot_be_saved_holds_its_batches_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.configure([5], [flow_log("a", [5])])
    world.start()
    world.send(count=2)
    world.tick_to(59)
    real = os.replace

    def replace(source, target):  # type: ignore[no-untyped-def]
        if str(target).endswith("progress.json"):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    world.tick_to(60)
    assert world.lines("group-a") == []
    monkeypatch.setattr(os, "replace", real)
    world.tick_to(70)
    assert world.packets("group-a") == {("eni-5", "192.0.2.1"): 2}


def test_new_maps_begin_a_new_ledger(world: World) -> None:
    world.configure([5], [flow_log("a", [5])])
    world.start()
    world.send(count=2)
    world.tick_to(10)
    world.kernel.__init__(lambda: world.time_ns, {"veth5"})  # type: ignore[misc]
    world.start(taken_over=False)
    world.send(count=3)
    world.tick_to(60)
    assert world.packets("group-a") == {("eni-5", "192.0.2.1"): 5}
    ledger = world.capture.status()["ledger"]
    assert ledger["total"]["packets"] == 3 == sum(row["packets"] for row in ledger["seen"])

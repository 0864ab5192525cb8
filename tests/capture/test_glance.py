"""Looking at the map in use: what it holds is found, nothing is taken away, and a flip in between is told."""

from __future__ import annotations

import threading

import pytest
from drains import drain_all, totals
from links import SLOT, Pair
from traffic import flood_bytes, start_flood

from vnotch.capture.glance import flows_in
from vnotch.capture.kernel import Datapath
from vnotch.flow import FLOW_SCHEMA, Direction

pytestmark = pytest.mark.root

OUT = int(Direction.EGRESS)
FLOWS = 500


def packets(datapath: Datapath) -> int:
    rows = datapath.glance().flows.to_pylist()
    return sum(row["packets"] for row in rows if (row["slot"], row["direction"], row["dstport"]) == (SLOT, OUT, 9))


def test_what_is_in_the_map_is_found_as_often_as_one_looks_and_drained_once(pair: Pair, datapath: Datapath) -> None:
    pair.settle()
    drain_all(datapath)
    start_flood(pair, 5000, FLOWS).wait()
    pair.settle()
    glance = datapath.glance()
    assert glance.generation == datapath.generation
    assert glance.flows.schema.equals(FLOW_SCHEMA)
    assert [packets(datapath) for _ in range(3)] == [5000] * 3
    drain = drain_all(datapath)
    sizes = [row for row in drain.flows.to_pylist() if row["dstport"] == 9 and row["direction"] == OUT]
    assert sum(row["packets"] for row in sizes) == 5000
    assert sum(row["bytes"] for row in sizes) == flood_bytes(5000, FLOWS)
    assert packets(datapath) == 0


def test_what_went_through_the_ring_buffer_is_found_too(pair: Pair, mode: str) -> None:
    with Datapath.open(netns=pair.host, attach_mode=mode, flows_per_map=64) as datapath:
        datapath.set_interface(SLOT)
        datapath.attach(pair.host_device, SLOT)
        start_flood(pair, 2000, FLOWS).wait()
        pair.settle()
        assert datapath.counts()["spilled"] > 0
        assert packets(datapath) == 2000
        drain_all(datapath)
        assert packets(datapath) == 0


def test_under_load_nothing_is_lost_by_looking(pair: Pair, datapath: Datapath) -> None:
    pair.settle()
    drains = [drain_all(datapath)]
    stop = threading.Event()
    looked = [0, 0]

    def look() -> None:
        while not stop.is_set():
            generation = datapath.glance().generation
            looked[generation is not None] += 1

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    flood = start_flood(pair, 100_000, 3000)
    while flood.poll() is None:
        drains.append(drain_all(datapath))
    stop.set()
    for thread in threads:
        thread.join()
    pair.settle()
    drains.append(drain_all(datapath))
    seen = datapath.seen()[SLOT, OUT]
    assert totals(drains, SLOT, OUT) == seen
    assert seen[0] >= 100_000
    assert sum(looked) > 0


def test_a_flip_while_it_reads_is_told(pair: Pair, datapath: Datapath, monkeypatch: pytest.MonkeyPatch) -> None:
    def slowly(*arguments: object) -> object:
        drain_all(datapath)
        return flows_in(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("vnotch.capture.kernel.flows_in", slowly)
    assert datapath.glance().generation is None

"""A process that captures with pins dies; its successor loses nothing and counts nothing twice."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from drains import Sum, drain_all, totals
from killing import killed_under_load
from letting import let_in
from links import SLOT, Pair
from traffic import flood_bytes, start_flood

from vnotch.capture import libbpf
from vnotch.capture.kernel import Datapath, Drain
from vnotch.capture.layout import META
from vnotch.capture.ring import Ring
from vnotch.errors import HostError
from vnotch.flow import Direction

pytestmark = pytest.mark.root

OUT = int(Direction.EGRESS)


def test_kill_minus_nine_under_load(pair: Pair, pin_dir: Path, mode: str, tmp_path: Path) -> None:
    """Half of the flows find no room in the map, so the ring buffer is taken over as well."""
    count, kinds = 120_000, 1000
    lines = killed_under_load(pair, pin_dir, mode, tmp_path / "journal", count, kinds)
    drains = []
    with Datapath.open(netns=pair.host, pin_dir=pin_dir, attach_mode=mode) as datapath:
        assert datapath.taken_over
        for _ in range(2):  # what was not committed, and what came after it
            drain = drain_all(datapath)
            if drain.generation not in {line[0] for line in lines}:
                drains.append(drain)
        rest = totals(drains, SLOT, OUT)
        packets = sum(line[1] + line[3] for line in lines) + rest.packets
        assert packets == count == datapath.seen()[SLOT, OUT][0]
        if not any(line[3] for line in lines):
            assert sum(line[2] for line in lines) + rest.bytes == flood_bytes(count, kinds)
        generations = [line[0] for line in lines] + [drain.generation for drain in drains]
        assert generations == list(range(1, generations[-1] + 1)), "a generation is missing or came twice"
        assert datapath.counts()["spilled"] > 0
        datapath.destroy()
    assert not pin_dir.exists()


def test_the_capture_goes_on_while_nobody_is_there(pair: Pair, pin_dir: Path, mode: str) -> None:
    first = Datapath.open(netns=pair.host, pin_dir=pin_dir, attach_mode=mode, flows_per_map=512)
    assert not first.taken_over
    first.set_interface(SLOT, enforce=True)
    first.attach(pair.host_device, SLOT)
    assert start_flood(pair, 100, 10).wait() == 0
    first.close()
    assert start_flood(pair, 100, 10, seed=1).wait() == 0

    second = Datapath.open(netns=pair.host, pin_dir=pin_dir)
    assert second.taken_over
    assert second.attach_mode == mode
    assert start_flood(pair, 100, 10, seed=2).wait() == 0
    second.set_interface(SLOT, enforce=True)
    second.attach(pair.host_device, SLOT)
    assert start_flood(pair, 100, 10, seed=3).wait() == 0
    pair.settle()
    assert totals([drain_all(second)], SLOT, OUT) == Sum(400, 40 * flood_bytes(10, 10))
    second.destroy()
    assert start_flood(pair, 100, 10, seed=4).wait() == 0
    assert not pin_dir.exists()


def test_a_successor_updates_the_program(pair: Pair, pin_dir: Path) -> None:
    """The links stay, the program in them is the successor's."""
    with Datapath.open(netns=pair.host, pin_dir=pin_dir, attach_mode="tcx") as first:
        first.attach(pair.host_device, SLOT)
        links = [libbpf.link_info(fd) for fd in first._captured.attached()[SLOT].links]
    with Datapath.open(netns=pair.host, pin_dir=pin_dir) as second:
        second.attach(pair.host_device, SLOT)
        updated = [libbpf.link_info(fd) for fd in second._captured.attached()[SLOT].links]
        assert [link.id for link in updated] == [link.id for link in links]
        ours = [libbpf.program_info(fd).id for fd in second._programs[:2]]
        assert [link.prog_id for link in updated] == ours
        assert [link.prog_id for link in links] != ours
        second.destroy()


class Crash(BaseException):
    """Stands for the end of the process."""


@contextmanager
def crash_at(number: int, after: bool, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The `number`-th change of a map, of all that follow, does not happen, or (`after`) is the last thing that does.

    Yields the names of the changes that were begun.
    """
    begun: list[str] = []

    def crashing(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            begun.append(name)
            if len(begun) == number and not after:
                raise Crash
            result = function(*arguments)
            if len(begun) == number:
                raise Crash
            return result

        return call

    with monkeypatch.context() as patch:
        for name in ("map_update", "update_batch", "take_batch"):
            patch.setattr(libbpf, name, crashing(name, getattr(libbpf, name)))
        patch.setattr(Ring, "consume", crashing("consume", Ring.consume))
        yield begun


@pytest.mark.parametrize("after", [pytest.param(False, marks=pytest.mark.soak), True])
def test_every_point_of_a_drain_at_which_a_process_can_end(
    pair: Pair, pin_dir: Path, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With flows in the map, in the ring buffer and lost, so that each of them is taken over."""
    journal: dict[int, Drain] = {}

    def keep(drain: Drain) -> None:
        if drain.generation in journal:
            # Nothing came between: the same drain in every part.
            known = journal[drain.generation]
            assert totals([drain], SLOT, OUT) == totals([known], SLOT, OUT)
            assert drain.flows.num_rows == known.flows.num_rows
            assert drain.losses == known.losses
        journal[drain.generation] = drain

    kinds, sent, seed = 150, 0, 0
    points: set[str] = set()
    for number in range(1, 12):
        datapath = Datapath.open(netns=pair.host, pin_dir=pin_dir, flows_per_map=64, ring_bytes=4096)
        datapath.attach(pair.host_device, SLOT)
        assert start_flood(pair, kinds, kinds, seed=seed).wait() == 0
        sent, seed = sent + kinds, seed + 1
        pair.settle()
        with crash_at(number, after, monkeypatch) as begun:
            try:
                for _ in range(2):
                    drain = datapath.flip_and_drain()
                    keep(drain)
                    datapath.commit(drain.generation)
            except Crash:
                points.add(begun[-1])
        datapath.close()  # only closes descriptors: pins stay

        assert start_flood(pair, kinds, kinds, seed=seed).wait() == 0
        sent, seed = sent + kinds, seed + 1
        pair.settle()
        with Datapath.open(netns=pair.host, pin_dir=pin_dir) as successor:
            successor.attach(pair.host_device, SLOT)
            for _ in range(2):
                drain = successor.flip_and_drain()
                keep(drain)
                successor.commit(drain.generation)
            assert totals(journal.values(), SLOT, OUT).packets == sent, f"crash {number} lost or doubled something"
            assert sorted(journal) == list(range(1, len(journal) + 1))
    assert points == {"map_update", "update_batch", "take_batch", "consume"}
    assert any(drain.losses.num_rows for drain in journal.values())
    assert any(drain.flows.num_rows > 64 for drain in journal.values())
    with Datapath.open(netns=pair.host, pin_dir=pin_dir) as last:
        last.destroy()


def test_a_crash_before_the_pins_are_complete_begins_anew(pair: Pair, pin_dir: Path) -> None:
    with Datapath.open(netns=pair.host, pin_dir=pin_dir) as first:
        first.attach(pair.host_device, SLOT)
    (pin_dir / "meta").unlink()
    with Datapath.open(netns=pair.host, pin_dir=pin_dir) as second:
        assert not second.taken_over
        assert second.generation == 1
        second.attach(pair.host_device, SLOT)
        assert start_flood(pair, 100, 10).wait() == 0
        pair.settle()
        assert totals([drain_all(second)], SLOT, OUT).packets == 100
        second.destroy()


def as_another_release(datapath: Datapath) -> None:
    """The pinned maps say of themselves that they have another layout."""
    meta = libbpf.map_lookup(datapath._fds["meta"], bytes(4), META.itemsize)
    assert meta
    libbpf.map_update(datapath._fds["meta"], bytes(4), (99).to_bytes(4, "little") + meta[4:])


def before(pin_dir: Path) -> list[str]:
    return [name for name in os.listdir(pin_dir) if name.startswith("before_")]


def test_another_layout_is_succeeded_under_load_without_a_gap(pair: Pair, pin_dir: Path, mode: str) -> None:
    with Datapath.open(netns=pair.host, pin_dir=pin_dir, attach_mode=mode) as first:
        first.set_interface(SLOT)
        first.attach(pair.host_device, SLOT)
        as_another_release(first)
    for _ in range(2):  # killed before anything is attached
        Datapath.open(netns=pair.host, pin_dir=pin_dir).close()
    count = 200_000
    with Datapath.open(netns=pair.host, pin_dir=pin_dir) as second:
        assert second.predecessor is not None
        assert second.attach_mode == mode
        second.set_interface(SLOT)
        sender = start_flood(pair, count, 100)
        while not second.predecessor.seen():
            time.sleep(0.01)
        second.attach(pair.host_device, SLOT)
        assert sender.poll() is None, "the load has ended before the succession"
    with Datapath.open(netns=pair.host, pin_dir=pin_dir) as third:  # killed in the middle
        assert third.taken_over
        assert third.predecessor is not None
        third.attach(pair.host_device, SLOT)
        seen = third.end_predecessor()
        assert seen is not None
        assert sender.wait() == 0
        pair.settle()
        assert third.end_predecessor() == seen, "the old programs have ended"
        third.forget_predecessor()
        assert before(pin_dir) == []
        old, new = seen[SLOT, OUT][0], totals([drain_all(third)], SLOT, OUT).packets
        assert old > 0
        assert new > 0
        assert old + new == count
        third.destroy()
    assert start_flood(pair, 10, 1).wait() == 0
    assert not pin_dir.exists()


def test_what_another_layout_enforced_is_enforced_until_it_is_succeeded(pair: Pair, pin_dir: Path, mode: str) -> None:
    with Datapath.open(netns=pair.host, pin_dir=pin_dir, attach_mode=mode) as first:
        first.set_interface(SLOT, enforce=True)
        let_in(first, SLOT)  # nothing
        first.attach(pair.host_device, SLOT)
        as_another_release(first)
    assert not arrives(pair)
    with Datapath.open(netns=pair.host, pin_dir=pin_dir) as second:
        assert not arrives(pair)
        second.set_interface(SLOT, enforce=True)
        let_in(second, SLOT)  # nothing
        second.attach(pair.host_device, SLOT)
        assert not arrives(pair)
        second.end_predecessor()
        second.forget_predecessor()
        assert not arrives(pair)
        second.set_interface(SLOT)
        assert arrives(pair)
        second.destroy()


def test_what_a_successor_does_not_want_ends_with_its_predecessor(pair: Pair, pin_dir: Path, mode: str) -> None:
    with Datapath.open(netns=pair.host, pin_dir=pin_dir, attach_mode=mode) as first:
        first.set_interface(SLOT, enforce=True)
        let_in(first, SLOT)  # nothing
        first.attach(pair.host_device, SLOT)
        as_another_release(first)
    with Datapath.open(netns=pair.host, pin_dir=pin_dir) as second:
        second.end_predecessor()
        assert arrives(pair)
        second.forget_predecessor()
        second.destroy()
    assert not pin_dir.exists()


def arrives(pair: Pair) -> bool:
    """Whether a datagram of the host reaches the instance."""
    with (
        pair.in_instance(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as here,
        pair.in_host(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as there,
    ):
        here.bind((pair.instance_v4, 9999))
        here.settimeout(0.3)
        there.sendto(b"hello", (pair.instance_v4, 9999))
        with suppress(TimeoutError):
            return bool(here.recv(16) == b"hello")
        return False


def test_pins_that_are_incomplete_are_refused(pair: Pair, pin_dir: Path) -> None:
    Datapath.open(netns=pair.host, pin_dir=pin_dir).close()
    (pin_dir / "flows_1").unlink()
    with pytest.raises(HostError, match=r"flows_1 is missing"):
        Datapath.open(netns=pair.host, pin_dir=pin_dir)


def test_pins_of_another_namespace_keep_their_flows_and_lose_their_links(pair: Pair, pin_dir: Path, mode: str) -> None:
    """As after `lab down` and `lab up`: the same name, another namespace, perhaps the same ifindex."""
    with Datapath.open(netns=pair.host, pin_dir=pin_dir, attach_mode=mode) as first:
        first.attach(pair.host_device, SLOT)
        assert start_flood(pair, 100, 10).wait() == 0
        pair.settle()
    with Datapath.open(netns=pair.instance, pin_dir=pin_dir) as second:
        assert second.taken_over
        assert totals([drain_all(second)], SLOT, OUT).packets == 100
        links = [name for name in os.listdir(pin_dir) if name.startswith("link")]
        assert links == ([] if second.host_firewall().unseen else ["link_firewall"]), "its own, which stays"
        second.attach(pair.instance_device, 7)
        assert start_flood(pair, 100, 10).wait() == 0
        pair.settle()
        drain = drain_all(second)
        assert totals([drain], 7, int(Direction.INGRESS)).packets == 100
        assert totals([drain], SLOT, OUT).packets == 0
        second.destroy()

"""Drops of the host firewall across flips, crashes and takeovers: each is told once, with its packet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from drains import Flow, Sum, drain_all, flipping, flows, totals
from killing import killed_under_load
from links import SLOT
from routed import Routed, chain
from test_takeover import Crash, crash_at
from traffic import flood_bytes, start_flood

from vnotch.capture import host_firewall, libbpf
from vnotch.capture.generations import Generations
from vnotch.capture.kernel import Datapath, Drain
from vnotch.capture.policy import JudgedBy
from vnotch.deciders import HOST_FIREWALL_NUMBER, Decider, Layer, RuleNumbers
from vnotch.flow import Direction, Outcome
from vnotch.rules import RuleBook, SecurityGroup, SecurityGroupRule

pytestmark = pytest.mark.root

IN, OUT = int(Direction.INGRESS), int(Direction.EGRESS)
FLOODED = "198.51.100.1"
FLOOD = f"ip daddr {FLOODED} "


def rejected(drains: list[Drain]) -> Sum:
    return _sum(drains, lambda flow: flow.outcome == Outcome.REJECT)


def flooded(drains: list[Drain]) -> Sum:
    """Of either outcome."""
    return _sum(drains, lambda flow: flow.destination == FLOODED)


def _sum(drains: list[Drain], wanted: Callable[[Flow], bool]) -> Sum:
    sums = [total for flow, total in flows(*drains).items() if wanted(flow)]
    return Sum(sum(total.packets for total in sums), sum(total.bytes for total in sums))


def nothing_is_left(datapath: Datapath) -> bool:
    return datapath.host_firewall().to_json() == {"seen": True, "message": None, "untold": 0, "unmatched": 0}


@pytest.mark.parametrize("hook", ["ingress", "prerouting"])
def test_a_flood_across_flips(routed: Routed, mode: str, hook: str) -> None:
    """A third of two floods, by nftables' count; what else befalls them (there is no route) is not a drop of its."""
    device = routed.host_device if hook == "ingress" else ""
    routed.nft(chain(hook, [FLOOD + "numgen inc mod 3 == 0 counter drop"], device=device))
    count, kinds = 60_000, 2000
    with Datapath.open(netns=routed.host, attach_mode=mode, flows_per_map=8192) as datapath:
        datapath.attach(routed.host_device, SLOT)
        with flipping(datapath) as drains:
            senders = [start_flood(routed, count, kinds, seed, routed.host_mac.replace(":", "")) for seed in (0, 1)]
            assert [sender.wait() for sender in senders] == [0, 0]
            routed.settle()
        drains.append(drain_all(datapath))
        assert len(drains) > 5
        assert rejected(drains) == routed.dropped()
        assert routed.dropped().packets == 2 * count // 3
        assert flooded(drains) == Sum(2 * count, 2 * flood_bytes(count, kinds))
        by_flow: dict[Flow, int] = {}
        for flow, total in flows(*drains).items():
            if flow.destination == FLOODED:
                key = flow._replace(outcome=Outcome.ACCEPT)
                by_flow[key] = by_flow.get(key, 0) + total.packets
        assert set(by_flow.values()) == {count // kinds}
        assert nothing_is_left(datapath)


def test_a_flood_on_tiny_maps(routed: Routed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flows in the ring buffer, or lost; drops of both. All are in the ledger, once."""
    routed.nft(chain("ingress", [FLOOD + "numgen inc mod 3 == 0 counter drop"], device=routed.host_device))
    count, kinds = 30_000, 3000
    with Datapath.open(netns=routed.host, flows_per_map=64, ring_bytes=1 << 16) as datapath:
        datapath.attach(routed.host_device, SLOT)
        with flipping(datapath) as drains:
            assert start_flood(routed, count, kinds).wait() == 0
            routed.settle()
        drains.append(drain_all(datapath))
        assert datapath.counts()["spilled"] > 1000
        assert totals(drains, SLOT, OUT) == Sum(*datapath.seen()[SLOT, OUT])
        state = datapath.host_firewall()
        assert rejected(drains).packets + state.unmatched + sum(state.untold.values()) == routed.dropped().packets
        lost = sum(row["packets"] for drain in drains for row in drain.losses.to_pylist())
        assert state.unmatched <= lost, "only what was lost has no flow"


def test_drops_of_as_many_new_flows_as_there_is_room_for_find_memory(routed: Routed) -> None:
    """Their entries are allocated as they come, in the path of packets that come as fast as they can."""
    routed.nft(chain("ingress", [FLOOD + "counter drop"], device=routed.host_device))
    count = host_firewall.DROPS_PER_MAP - 100  # what else is dropped there meanwhile has room, too
    with Datapath.open(netns=routed.host) as datapath:
        datapath.attach(routed.host_device, SLOT)
        for turn in (1, 2):
            assert start_flood(routed, count, count, seed=turn).wait() == 0
            routed.settle()
            assert rejected([drain_all(datapath)]).packets == count
            assert routed.dropped().packets == turn * count
            assert nothing_is_left(datapath)


def test_a_full_map_of_drops(routed: Routed, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has no room there stays accepted, and is told."""
    monkeypatch.setattr(host_firewall, "DROPS_PER_MAP", 16)
    routed.nft(chain("ingress", [FLOOD + "counter drop"], device=routed.host_device))
    with Datapath.open(netns=routed.host) as datapath:
        datapath.attach(routed.host_device, SLOT)
        for turn in (1, 2):  # the room comes back with the commit
            assert start_flood(routed, 200, 100, seed=turn).wait() == 0
            routed.settle()
            drain = drain_all(datapath)
            assert rejected([drain]) == Sum(32, sum(total.bytes for total in _of(drain, Outcome.REJECT)))
            assert flooded([drain]) == Sum(200, flood_bytes(200, 100))
            assert datapath.host_firewall().untold == {(SLOT, OUT): 168 * turn}
            assert datapath.host_firewall().unmatched == 0
        datapath.detach(SLOT)
        drain_all(datapath)
        datapath.clear(SLOT)
        assert datapath.host_firewall().untold == {}, "another ENI does not inherit them"


def _of(drain: Drain, outcome: Outcome) -> list[Sum]:
    return [total for flow, total in flows(drain).items() if flow.outcome == outcome]


def test_drops_between_the_two_flips_are_told_with_their_packets(
    routed: Routed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The packets are in the new map of flows, their drops in the old map of drops."""
    routed.nft(chain("ingress", [FLOOD + "counter drop"], device=routed.host_device))
    with Datapath.open(netns=routed.host) as datapath:
        datapath.attach(routed.host_device, SLOT)
        with between_flips(monkeypatch, lambda: start_flood(routed, 20, 10).wait()):
            first = drain_all(datapath)
        assert flows(first) == {}
        second = drain_all(datapath)
        assert rejected([second]) == flooded([second]) == Sum(20, flood_bytes(20, 10))
        assert flows(drain_all(datapath)) == {}
        assert nothing_is_left(datapath)


@contextmanager
def between_flips(monkeypatch: pytest.MonkeyPatch, action: Callable[[], Any]) -> Iterator[None]:
    """Does something between the flip of flows and that of drops."""
    flip = Generations._flip_drops

    def acting(self: Generations) -> None:
        action()
        flip(self)

    with monkeypatch.context() as patch:
        patch.setattr(Generations, "_flip_drops", acting)
        yield


def test_kill_minus_nine_under_load(routed: Routed, pin_dir: Path, mode: str, tmp_path: Path) -> None:
    """The program goes on counting drops without a process, and the next one takes up what the last had begun."""
    routed.nft(chain("ingress", [FLOOD + "numgen inc mod 3 == 0 counter drop"], device=routed.host_device))
    count = 60_000
    lines = killed_under_load(routed, pin_dir, mode, tmp_path / "journal", count, 400)
    with Datapath.open(netns=routed.host, pin_dir=pin_dir, attach_mode=mode) as datapath:
        rest = [drain for _ in range(3) if (drain := drain_all(datapath)).generation not in {line[0] for line in lines}]
        assert sum(line[1] for line in lines) + sum(totals(rest, SLOT, way).packets for way in (IN, OUT)) == sum(
            packets for packets, _ in datapath.seen().values()
        )
        assert sum(line[4] for line in lines) + rejected(rest).packets == routed.dropped().packets == count // 3
        assert nothing_is_left(datapath)
        datapath.destroy()
    assert not pin_dir.exists()


@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.soak)])
def test_every_point_of_a_drain_at_which_a_process_can_end(
    routed: Routed, pin_dir: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Before each change of a map, with drops of the drain itself and of packets that are counted in the next."""
    routed.nft(chain("input", ["udp dport 4000 numgen inc mod 3 == 0 counter drop"]))
    journal: dict[int, Drain] = {}

    def keep(drain: Drain) -> None:
        if (known := journal.get(drain.generation)) is not None:
            assert flows(drain) == flows(known), "a repeated drain is the same drain"
        journal[drain.generation] = drain

    def drain_twice(datapath: Datapath) -> None:
        for _ in range(2):
            drain = datapath.flip_and_drain()
            keep(drain)
            datapath.commit(drain.generation)

    sent = 0

    def send() -> None:
        nonlocal sent
        routed.send_from_instance("udp", 4, routed.host_v4, 10)
        sent += 10

    points = 0
    for number in range(1, 30, step):
        datapath = Datapath.open(netns=routed.host, pin_dir=pin_dir, flows_per_map=256)
        datapath.attach(routed.host_device, SLOT)
        send()
        with between_flips(monkeypatch, send), crash_at(number, False, monkeypatch) as begun:
            try:
                drain_twice(datapath)
            except Crash:
                points += 1
        datapath.close()
        send()
        with Datapath.open(netns=routed.host, pin_dir=pin_dir) as successor:
            successor.attach(routed.host_device, SLOT)
            drain_twice(successor)
            drain_twice(successor)
            drains = list(journal.values())
            assert _sum(drains, lambda flow: flow.destination_port == 4000).packets == sent, (
                f"crash {number} ({begun}) lost or doubled a packet"
            )
            assert rejected(drains) == routed.dropped(), f"crash {number} ({begun}) lost or doubled a drop"
            assert nothing_is_left(successor)
        if len(begun) < number:
            break
    assert points >= 20 // step
    with Datapath.open(netns=routed.host, pin_dir=pin_dir) as last:
        last.destroy()


def test_a_successor_keeps_the_program_that_it_would_load(routed: Routed, pin_dir: Path) -> None:
    with Datapath.open(netns=routed.host, pin_dir=pin_dir) as first:
        assert first._sight.firewall
        program = libbpf.program_info(first._sight.firewall.program).id
    with Datapath.open(netns=routed.host, pin_dir=pin_dir) as second:
        assert second._sight.firewall
        assert libbpf.program_info(second._sight.firewall.program).id == program
    # Another release's: here one that has no tag to compare.
    (pin_dir / "firewall").unlink()
    routed.nft(chain("ingress", [FLOOD + "counter drop"], device=routed.host_device))
    with Datapath.open(netns=routed.host, pin_dir=pin_dir) as third:
        assert third._sight.firewall
        assert libbpf.program_info(third._sight.firewall.program).id != program
        third.attach(routed.host_device, SLOT)
        assert start_flood(routed, 20, 10).wait() == 0
        assert rejected([drain_all(third)]).packets == 20, "once, not by two programs"
        third.destroy()


def test_the_first_verdict_stands(routed: Routed) -> None:
    """A group that rejects without enforcement; the packet goes on and the host firewall drops it, too."""
    routed.nft(chain("input", ["udp dport 4000 counter drop"]))
    group = SecurityGroup("sg-1", "vpc-1", "web", (SecurityGroupRule("sgr-1", True, 17, 53, 53, cidr="10.0.0.0/8"),))
    numbers = RuleNumbers()
    with Datapath.open(netns=routed.host) as datapath:
        datapath.set_rules(RuleBook((group,), ()), {SLOT: JudgedBy(("sg-1",), None, ("10.77.0.0/24",))}, numbers)
        datapath.attach(routed.host_device, SLOT)
        routed.send_from_instance("udp", 4, routed.host_v4, 10)
        routed.settle()
        assert routed.dropped().packets == 10
        for _ in range(2):
            rows = [row for row in drain_all(datapath).flows.to_pylist() if row["dstport"] == 4000]
            for row in rows:
                assert (row["packets"], row["outcome"]) == (10, Outcome.REJECT)
                assert row["rule"] != HOST_FIREWALL_NUMBER
        assert nothing_is_left(datapath)


def test_an_accepting_rule_gives_way(routed: Routed) -> None:
    """Groups accept, the host firewall drops: it has decided."""
    routed.nft(chain("input", ["udp dport 4000 numgen inc mod 2 == 0 counter drop"]))
    group = SecurityGroup(
        "sg-1", "vpc-1", "web", (SecurityGroupRule("sgr-1", True, 17, 4000, 4000, cidr="10.0.0.0/8"),)
    )
    numbers = RuleNumbers()
    with Datapath.open(netns=routed.host) as datapath:
        datapath.set_rules(RuleBook((group,), ()), {SLOT: JudgedBy(("sg-1",), None, ("10.77.0.0/24",))}, numbers)
        datapath.attach(routed.host_device, SLOT)
        routed.send_from_instance("udp", 4, routed.host_v4, 10)
        routed.settle()
        rows = [row for row in drain_all(datapath).flows.to_pylist() if row["dstport"] == 4000]
        by_outcome = {row["outcome"]: row for row in rows}
        assert by_outcome[Outcome.REJECT]["packets"] == by_outcome[Outcome.ACCEPT]["packets"] == 5
        assert by_outcome[Outcome.REJECT]["rule"] == HOST_FIREWALL_NUMBER
        assert by_outcome[Outcome.ACCEPT]["rule"] == numbers.number(Decider(Layer.SECURITY_GROUP, "sgr-1"))


@pytest.mark.parametrize("fault", ["no BTF", "no reasons", "no tracepoint"])
def test_a_kernel_that_cannot_tell(
    routed: Routed, pin_dir: Path, fault: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Capture goes on, and says what it does not see."""
    if fault == "no BTF":
        monkeypatch.setattr(libbpf, "KERNEL_BTF", tmp_path / "vmlinux")
        said = "CONFIG_DEBUG_INFO_BTF"
    elif fault == "no reasons":
        (tmp_path / "vmlinux").write_bytes(b"\0skb_drop_reason\0SKB_DROP_REASON_NO_SOCKET\0")
        monkeypatch.setattr(libbpf, "KERNEL_BTF", tmp_path / "vmlinux")
        said = "Linux 5.18"
    else:
        monkeypatch.setattr(host_firewall, "TRACEPOINT", "vnotch_no_such_tracepoint")
        said = "tracepoint vnotch_no_such_tracepoint"
    routed.nft(chain("input", ["udp dport 4000 counter drop"]))
    with Datapath.open(netns=routed.host, pin_dir=pin_dir) as datapath:
        datapath.attach(routed.host_device, SLOT)
        routed.send_from_instance("udp", 4, routed.host_v4, 10)
        routed.settle()
        assert _of(drain_all(datapath), Outcome.ACCEPT) == [Sum(10, 1280)]
        state = datapath.host_firewall()
        assert state.unseen
        assert said in state.unseen
        assert host_firewall.check() is None or said in str(host_firewall.check())
    monkeypatch.undo()
    with Datapath.open(netns=routed.host, pin_dir=pin_dir) as successor:  # another kernel, say
        assert successor.host_firewall().unseen is None
        successor.attach(routed.host_device, SLOT)
        routed.send_from_instance("udp", 4, routed.host_v4, 10)
        routed.settle()
        assert _of(drain_all(successor), Outcome.REJECT) == [Sum(10, 1280)]
        successor.destroy()
    assert not pin_dir.exists()

"""What the datapath costs, by the kernel's own run statistics: `make bench-datapath`, as root.

A flood of 64-byte Ethernet frames crosses a veth pair between two namespaces. Behind our program on the same hook hangs
one that does nothing: its ns a packet, in the same run, is what measuring costs and is subtracted. Workloads are
interleaved, the median of all rounds is shown; the last line is one JSON object.

    hot_ns        one UDP flow                  flows10k_ns   10,000 flows in turn
    new_ns        every packet a new flow
    unaccounted   packets that the device has seen and no drain told of: of all rounds, and of 30 s of full flood, with
                  maps of the default size and with such as are too small for its flows
    hot_enforced_ns, hot_enforced1000_ns   one flow, by its connection, with 50 rules and 20 ACL entries; 1000 and 40
    first_packet1000_ns   every packet a new flow and a new connection against 1000 rules and 40 ACL entries
    firewall_drop_ns      a packet that the host's own firewall drops, beside counting it; null without nft
    rule_change_s         1000 rules on 100 interfaces, from the rule book until they are in force
    drain_per_s   flows a second, from the flip to the Arrow table        agent_rss_mb, kernel_map_mb   at the defaults
    iperf_ratio   one TCP stream through two hooks, to the same without; null without iperf3
    peers         what other flow tools that are installed spend a packet in user space on the same flood, and miss
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import statistics
import struct
import subprocess
import sys
import time
from typing import Any

import conservation
import peers
import pyarrow.compute as pc
import throughput
from veth import Frames, Veth

from vnotch.capture import libbpf
from vnotch.capture.kernel import Datapath
from vnotch.capture.policy import JudgedBy
from vnotch.config import FLOWS_PER_MAP
from vnotch.deciders import RuleNumbers
from vnotch.rules import AclEntry, NetworkAcl, RuleBook, SecurityGroup, SecurityGroupRule

SLOT = 3
NEW_FLOWS = 100_000
TARGETS = {"hot_ns": (130, 90), "flows10k_ns": (350, 250), "new_ns": (700, 450), "first_packet1000_ns": (900, "")}
"""Targets and goals, ns a packet."""


class Empty:
    """A program of two instructions at the same hook, behind ours."""

    def __init__(self, veth: Veth) -> None:
        code = struct.pack("=BBhi", 0xB7, 0, 0, -1) + struct.pack("=BBhi", 0x95, 0, 0, 0)  # r0 = TCX_NEXT; exit
        self.fd = libbpf.library().bpf_prog_load(3, b"vnotch_empty", b"GPL", code, 2, None)
        index = veth.outside.index(veth.device)
        self._link = veth.outside.run(libbpf.library().bpf_link_create, self.fd, index, libbpf.ATTACH_TCX_INGRESS, None)
        assert self._link > 0, "the empty program needs tcx"

    def close(self) -> None:
        os.close(self._link)
        os.close(self.fd)


def statistics_of(fd: int) -> tuple[int, int]:
    info = libbpf.program_info(fd)
    return info.run_time_ns, info.run_cnt


def net_ns(veth: Veth, datapath: Datapath, empty: Empty, frames: Frames, count: int) -> float:
    """ns a packet of our program less those of the empty one, in one flood."""
    fds = datapath._programs[0], empty.fd
    before = [statistics_of(fd) for fd in fds]
    veth.flood(frames, count)
    after = [statistics_of(fd) for fd in fds]
    ours, nothing = ((a[0] - b[0]) / (a[1] - b[1]) for a, b in zip(after, before, strict=True))
    return ours - nothing


def drained(datapath: Datapath) -> int:
    """One drain, committed; the packets that it told of."""
    drain = datapath.flip_and_drain()
    datapath.commit(drain.generation)
    return sum(pc.sum(table["packets"]).as_py() or 0 for table in (drain.flows, drain.losses))


def rule_book(rules: int, entries: int) -> RuleBook:
    """Rules for as many networks and ports; of both layers the last one lets the flood pass."""
    outbound = tuple(
        SecurityGroupRule(f"sgr-{n:04}", True, 17, 1000 + n, 1000 + n, cidr=f"10.{n >> 8}.{n & 255}.0/24")
        for n in range(rules - 1)
    )
    last = SecurityGroupRule("sgr-9999", True, 17, 9, 9, cidr="198.51.100.0/24")
    denied = tuple(AclEntry(n, True, 6, False, f"192.0.{n}.0/24", n, n) for n in range(1, entries))
    acl = NetworkAcl("acl-1", "vpc-1", (*denied, AclEntry(entries, True, -1, True, "0.0.0.0/0")))
    return RuleBook((SecurityGroup("sg-1", "vpc-1", "bench", (*outbound, last)),), (acl,))


JUDGED = JudgedBy(("sg-1",), "acl-1", ("10.77.0.0/24",))


def enforced(veth: Veth, count: int, repeat: int) -> dict[str, list[float]]:
    """The same flood with rules in force; counting alone in the same rounds, to compare."""
    hot, new = Frames(1), Frames(NEW_FLOWS, 1 << 17)
    found: dict[str, list[float]] = {
        name: [] for name in ("counted_ns", "hot_enforced_ns", "hot_enforced1000_ns", "first_packet1000_ns")
    }
    with Datapath.open(netns=veth.host, connections=1 << 17) as datapath:
        datapath.set_interface(SLOT, enforce=True)
        datapath.attach(veth.device, SLOT)
        empty = Empty(veth)
        numbers = RuleNumbers()
        for _ in range(repeat):
            for name, frames, packets, rules, entries in (
                ("counted_ns", hot, count, 0, 0),
                ("hot_enforced_ns", hot, count, 50, 20),
                ("hot_enforced1000_ns", hot, count, 1000, 40),
                ("first_packet1000_ns", new, NEW_FLOWS, 1000, 40),
            ):
                if rules:
                    datapath.set_rules(rule_book(rules, entries), {SLOT: JUDGED}, numbers)
                else:
                    datapath._rules.clear(SLOT)
                found[name].append(net_ns(veth, datapath, empty, frames, packets))
                drain = datapath.flip_and_drain()
                datapath.commit(drain.generation)
                assert set(drain.flows["outcome"].to_pylist()) == {0}, "the flood was rejected"
                datapath._connections.forget(SLOT)
        assert datapath.counts()["connections_full"] == 0
        empty.close()
    return found


def firewall_drops(veth: Veth, count: int, repeat: int) -> list[float]:
    """ns a packet that nftables drops, of the program that sees it; net of an empty one at the interface."""
    rules = f'table netdev bench {{ chain c {{ type filter hook ingress device "{veth.device}" priority 0; drop; }}; }}'
    veth.outside.run(subprocess.check_call, ["nft", rules])
    found = []
    with Datapath.open(netns=veth.host) as datapath:
        assert datapath._sight.firewall, datapath.host_firewall().unseen
        datapath.attach(veth.device, SLOT)
        empty = Empty(veth)
        fds = datapath._sight.firewall.program, empty.fd
        for _ in range(repeat):
            before = [statistics_of(fd) for fd in fds]
            veth.flood(Frames(1), count)
            after = [statistics_of(fd) for fd in fds]
            # The rare other drop of this host is passed over in the same program.
            ours, nothing = ((a[0] - b[0]) / (a[1] - b[1]) for a, b in zip(after, before, strict=True))
            found.append(ours - nothing)
            drain = datapath.flip_and_drain()
            datapath.commit(drain.generation)
            assert set(drain.flows["outcome"].to_pylist()) == {1}, "something else than drops"
        empty.close()
    veth.outside.run(subprocess.check_call, ["nft", "delete table netdev bench"])
    return found


def rule_change_s() -> float:
    """The median of five changes of one rule among 1000, of a group that 100 interfaces carry."""
    took = []
    with Datapath.open() as datapath:
        numbers = RuleNumbers()
        for n in range(6):
            book = rule_book(1000 - n, 40)
            began = time.perf_counter()
            changed = datapath.set_rules(book, dict.fromkeys(range(100), JUDGED), numbers)
            took.append(time.perf_counter() - began)
            assert len(changed) == 100
    return round(statistics.median(took[1:]), 3)


def rounds(veth: Veth, count: int, repeat: int) -> dict[str, Any]:
    """All workloads, `repeat` times in turn."""
    workloads = {
        "hot_ns": (Frames(1), count),
        "flows10k_ns": (Frames(10_000, 1), count),
        "new_ns": (Frames(NEW_FLOWS, 1 << 17), NEW_FLOWS),
    }
    found: dict[str, list[float]] = {name: [] for name in workloads}
    told = 0
    with Datapath.open(netns=veth.host) as datapath:
        datapath.set_interface(SLOT)
        datapath.attach(veth.device, SLOT)
        empty = Empty(veth)
        start = veth.received()
        for _ in range(repeat):
            for name, (frames, packets) in workloads.items():
                if name == "flows10k_ns":  # hot: they are in the map when the measuring begins
                    veth.flood(frames, 10_000)
                found[name].append(net_ns(veth, datapath, empty, frames, packets))
                told += drained(datapath)
        told += drained(datapath)
        unaccounted = veth.received() - start - told
        map_bytes = datapath.usage()["memory_bytes"]
        empty.close()
    return {"runs": found, "unaccounted": unaccounted, "kernel_map_mb": round(map_bytes / 1e6, 1)}


def drain_rate(veth: Veth, flows: int = 500_000) -> float:
    """Flows a second from the flip on, the median of three, on a map that has room for them."""
    rates = []
    with Datapath.open(netns=veth.host, flows_per_map=1 << 19) as datapath:
        datapath.attach(veth.device, SLOT)
        for turn in range(3):
            veth.flood(Frames(flows, turn * flows), flows)
            gc.collect()
            began = time.perf_counter()
            drain = datapath.flip_and_drain()
            took = time.perf_counter() - began
            datapath.commit(drain.generation)
            rates.append(drain.flows.num_rows / took)
    return statistics.median(rates)


AGENT = """
import vnotch.agent.process
from vnotch.capture.kernel import Datapath
with Datapath.open() as datapath:
    drain = datapath.flip_and_drain()
    print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmRSS")))
"""


def agent_rss_mb() -> float:
    """Of a process with the agent's modules and an open datapath that has drained once."""
    told = subprocess.run([sys.executable, "-c", AGENT], check=True, capture_output=True, text=True).stdout
    return round(int(told) / 1024, 1)


def floods(veth: Veth, seconds: float) -> dict[str, Any]:
    """Half of the time with maps of the default size, half with too small ones."""
    frames = Frames(NEW_FLOWS, 1 << 18)
    found: dict[str, Any] = {"flood_packets": 0, "flood_unaccounted": 0}
    for flows_per_map in (FLOWS_PER_MAP, conservation.SMALL_MAP):
        seen, unaccounted, lost = conservation.flooded(veth, SLOT, frames, seconds / 2, flows_per_map)
        print(f"flood, {flows_per_map} flows a map: {seen} packets in {seconds / 2:.0f} s, {lost} lost and counted")
        found["flood_packets"] += seen
        found["flood_unaccounted"] += abs(unaccounted)
    return found


def beside(veth: Veth, count: int, repeat: int) -> dict[str, Any]:
    """The floods of one flow and of new flows against each installed peer, in turn: CPU ns a packet, packets missed."""
    workloads = {"hot": (Frames(1), 10 * count), "new": (Frames(NEW_FLOWS, 1 << 17), NEW_FLOWS)}
    results: dict[str, dict[str, list[peers.Result]]] = {}
    for _ in range(repeat):
        for peer in peers.installed():
            for name, (frames, packets) in workloads.items():
                result = peers.run(peer, veth, frames, packets)
                results.setdefault(peer.name, {}).setdefault(name, []).append(result)
    found = {}
    for peer_name, by_workload in results.items():
        found[peer_name] = figures = {}
        for name, runs in by_workload.items():
            figures[f"{name}_cpu_ns"] = round(statistics.median(run.cpu_ns for run in runs))
            figures[f"{name}_missed_percent"] = round(
                statistics.median(run.missed for run in runs) / workloads[name][1] * 100, 2
            )
        print(f"{peer_name:20}" + "  ".join(f"{key} {value}" for key, value in figures.items()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packets", type=int, default=300_000, help="packets a run (default 300,000)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds, at least 5 for figures to publish (default 7)")
    parser.add_argument("--flood-seconds", type=float, default=30, help="how long the flood lasts (default 30)")
    parser.add_argument("--quick", action="store_true", help="costs a packet alone")
    options = parser.parse_args()
    stats = libbpf.check(libbpf.library().bpf_enable_stats(0), "switching the kernel's run statistics on")
    try:
        with Veth() as veth:
            figures = costs(veth, options.packets, options.rounds)
            if not options.quick:
                figures |= floods(veth, options.flood_seconds)
                figures["unaccounted"] += figures.pop("flood_unaccounted")
                figures["drain_per_s"] = round(drain_rate(veth))
                figures["agent_rss_mb"] = agent_rss_mb()
                figures |= throughput.iperf(veth, SLOT, 5) or {"iperf_ratio": None}
                figures["peers"] = beside(veth, options.packets, 3)
    finally:
        os.close(stats)
    for name, value in figures.items():
        if name not in TARGETS and name != "peers":
            print(f"{name:20}{value!s:>8}")
    print(json.dumps(figures))


def costs(veth: Veth, packets: int, repeat: int) -> dict[str, Any]:
    """The costs a packet, as a table and as figures."""
    measured = rounds(veth, packets, repeat)
    measured["runs"] |= enforced(veth, packets, repeat)
    if shutil.which("nft"):
        measured["runs"]["firewall_drop_ns"] = firewall_drops(veth, packets, repeat)
    figures: dict[str, Any] = {}
    print(f"{'ns a packet':20}{'median':>8}{'least':>8}{'most':>8}{'target':>8}{'goal':>8}")
    for name, runs in measured["runs"].items():
        figures[name] = round(statistics.median(runs), 1)
        target, goal = TARGETS.get(name, ("", ""))
        print(f"{name:20}{figures[name]:8.0f}{min(runs):8.0f}{max(runs):8.0f}{target:>8}{goal:>8}")
    figures["unaccounted"] = measured["unaccounted"]
    figures["kernel_map_mb"] = measured["kernel_map_mb"]
    figures["rule_change_s"] = rule_change_s()
    return figures


if __name__ == "__main__":
    main()

"""What the datapath costs, by the kernel's own run statistics: `make bench-datapath`, as root.

A flood of 64-byte Ethernet frames crosses a veth pair between two namespaces. Behind our program on the same hook hangs
one that does nothing: its ns a packet, in the same run, is what measuring costs and is subtracted. Workloads are
interleaved, the median of all rounds is shown; the last line is one JSON object.

    hot_ns        one UDP flow                  flows10k_ns   10,000 flows in turn
    new_ns        every packet a new flow       unaccounted   packets that the device has seen and no drain told of
    hot_enforced_ns, hot_enforced1000_ns   one flow, by its connection, with 50 rules and 20 ACL entries; 1000 and 40
    first_packet1000_ns   every packet a new flow and a new connection against 1000 rules and 40 ACL entries
    rule_change_s         1000 rules on 100 interfaces, from the rule book until they are in force
    drain_per_s   flows a second, from the flip to the Arrow table        agent_rss_mb, kernel_map_mb   at the defaults
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import socket
import statistics
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from vnotch.capture import libbpf
from vnotch.capture.interfaces import Namespace
from vnotch.capture.kernel import Datapath
from vnotch.capture.policy import JudgedBy
from vnotch.deciders import RuleNumbers
from vnotch.rules import AclEntry, NetworkAcl, RuleBook, SecurityGroup, SecurityGroupRule

SLOT = 3
NEW_FLOWS = 100_000
FRAME_BYTES = 64  # with the frame check sequence, which no veth carries
TARGETS = {"hot_ns": (130, 90), "flows10k_ns": (350, 250), "new_ns": (700, 450), "first_packet1000_ns": (900, "")}
"""Targets and goals, ns a packet."""


class Veth:
    """Two namespaces; frames sent at the instance's side come in at the host's, which is captured."""

    host, instance, device = "vnbench-h", "vnbench-i", "vnb0"

    def __enter__(self) -> Veth:
        self.__exit__()
        for name in (self.host, self.instance):
            _run("ip", "netns", "add", name)
            _run("ip", "netns", "exec", name, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
        link = f"ip -n {self.host} link add {self.device} type veth peer name {self.device} netns {self.instance}"
        _run(*link.split())
        for name in (self.host, self.instance):
            _run("ip", "-n", name, "link", "set", self.device, "up")
        self._inside, self.outside = Namespace(self.instance), Namespace(self.host)
        self._socket = self._inside.run(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._inside.run(self._socket.bind, (self.device, 0))
        return self

    def __exit__(self, *_: object) -> None:
        for name in (self.host, self.instance):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)

    def flood(self, frames: Frames, count: int) -> None:
        """Sends `count` frames, in turn; the receiving side's program has run for all of them when this returns."""
        before = self.received()
        frames.send(self._socket.fileno(), count)
        while self.received() - before < count:
            time.sleep(0.001)

    def received(self) -> int:
        """Frames that came in at the host's side, by the device's own count."""

        def read() -> int:
            for line in Path("/proc/thread-self/net/dev").read_text().splitlines():
                if line.strip().startswith(f"{self.device}:"):
                    return int(line.split(":")[1].split()[1])
            raise AssertionError(self.device)

        return self.outside.run(read)


class Frames:
    """UDP over IPv4, `flows` different ones, prepared for sendmmsg(2)."""

    BATCH = 500

    def __init__(self, flows: int, first: int = 0) -> None:
        number = np.arange(first, first + flows, dtype=np.uint32)
        head = bytes.fromhex("020000007702020000007701") + b"\x08\x00"
        ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 46, 0, 0, 64, 17, 0, b"\x0a\x4d\0\x02", b"\xc6\x33\x64\x01")
        frame = (head + ip + struct.pack("!HHHH", 0, 9, 26, 0)).ljust(FRAME_BYTES - 4, b"\0")
        self._frames = np.tile(np.frombuffer(frame, np.uint8), (flows, 1))
        self._frames[:, 34] = number & 0xFF | 0x40  # source port
        self._frames[:, 35] = number >> 8 & 0xFF
        self._frames[:, 28] = number >> 16 & 0xFF  # source address
        self._frames[:, 29] = number & 0xFF
        address = self._frames.ctypes.data + np.arange(flows, dtype=np.uint64) * np.uint64(self._frames.shape[1])
        self._vectors = np.empty((flows, 2), np.uint64)  # struct iovec
        self._vectors[:, 0], self._vectors[:, 1] = address, self._frames.shape[1]
        self._messages = np.zeros((flows, 8), np.uint64)  # struct mmsghdr
        self._messages[:, 2] = self._vectors.ctypes.data + np.arange(flows, dtype=np.uint64) * np.uint64(16)
        self._messages[:, 3] = 1

    def send(self, fd: int, count: int) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        flows, at = len(self._messages), 0
        if flows < self.BATCH and count > flows:
            self._messages = np.tile(self._messages, (self.BATCH // flows, 1))
            flows = len(self._messages)
        while count:
            batch = min(self.BATCH, flows - at, count)
            sent = libc.sendmmsg(fd, ctypes.c_void_p(self._messages[at:].ctypes.data), batch, 0)
            if sent < 0:
                raise OSError(ctypes.get_errno(), "sendmmsg")
            count -= sent
            at = (at + sent) % flows


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
    return sum(sum(table["packets"].to_pylist()) for table in (drain.flows, drain.losses))


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
                datapath._forget_connections(SLOT)
        assert datapath.counts()["connections_full"] == 0
        empty.close()
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
        map_bytes = sum(_memory(fd) for fd in datapath._fds.values())
        empty.close()
    return {"runs": found, "unaccounted": unaccounted, "kernel_map_mb": round(map_bytes / 2**20, 1)}


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


def _memory(fd: int) -> int:
    for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines():
        if line.startswith("memlock:"):
            return int(line.split()[1])
    return 0


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packets", type=int, default=300_000, help="packets a run (default 300,000)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds, at least 5 for figures to publish (default 7)")
    parser.add_argument("--quick", action="store_true", help="costs a packet alone")
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    stats = libbpf.check(libbpf.library().bpf_enable_stats(0), "switching the kernel's run statistics on")
    try:
        with Veth() as veth:
            measured = rounds(veth, options.packets, options.rounds)
            measured["runs"] |= enforced(veth, options.packets, options.rounds)
            print(f"{'ns a packet':20}{'median':>8}{'least':>8}{'most':>8}{'target':>8}{'goal':>8}")
            for name, runs in measured["runs"].items():
                figures[name] = round(statistics.median(runs), 1)
                target, goal = TARGETS.get(name, ("", ""))
                print(f"{name:20}{figures[name]:8.0f}{min(runs):8.0f}{max(runs):8.0f}{target:>8}{goal:>8}")
            figures["unaccounted"] = measured["unaccounted"]
            figures["kernel_map_mb"] = measured["kernel_map_mb"]
            figures["rule_change_s"] = rule_change_s()
            if not options.quick:
                figures["drain_per_s"] = round(drain_rate(veth))
                figures["agent_rss_mb"] = agent_rss_mb()
    finally:
        os.close(stats)
    for name in ("rule_change_s", "unaccounted", "drain_per_s", "agent_rss_mb", "kernel_map_mb"):
        if name in figures:
            print(f"{name:20}{figures[name]:8}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

"""Rules in force on a real link: what is REJECTed did not arrive, what is ACCEPTed did. The receiver counts."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import packets as pk
import pytest
from drains import drain_all
from links import SLOT, Pair

from vnotch.capture import libbpf
from vnotch.capture.kernel import Datapath, Drain
from vnotch.capture.policy import JudgedBy
from vnotch.deciders import RuleNumbers
from vnotch.flow import Direction, Outcome
from vnotch.rules import AclEntry, NetworkAcl, RuleBook, SecurityGroup, SecurityGroupRule

pytestmark = pytest.mark.root

IN, OUT = int(Direction.INGRESS), int(Direction.EGRESS)
GROUPS = JudgedBy(("sg-1",))
NUMBERS = RuleNumbers()
COARSE_NS = 10**9 // 100
"""The kernel's coarse clock is behind by a tick, at most a hundredth of a second (CONFIG_HZ=100)."""


def book(*rules: SecurityGroupRule, entries: Iterable[AclEntry] = ()) -> RuleBook:
    return RuleBook((SecurityGroup("sg-1", "vpc-1", "one", rules),), (NetworkAcl("acl-1", "vpc-1", tuple(entries)),))


def inbound(rule_id: str, port: int, cidr: str = "10.77.0.0/24") -> SecurityGroupRule:
    return SecurityGroupRule(rule_id, False, 17, port, port, cidr=cidr)


def outbound(rule_id: str, port: int, protocol: int = 17) -> SecurityGroupRule:
    return SecurityGroupRule(rule_id, True, protocol, port, port, cidr="10.77.0.0/24")


def datagram(port: int, source: str = Pair.host_v4) -> bytes:
    """From the host to the instance; to another MAC, so that nobody there answers."""
    return pk.ethernet(pk.ipv4(source, Pair.instance_v4, pk.udp(5000, port, b"x" * 20)))


def named(drains: Iterable[Drain], direction: int) -> Counter[str]:
    """Outcome, layer and rule -> packets."""
    found: Counter[str] = Counter()
    for drain in drains:
        for row in drain.flows.to_pylist():
            if row["direction"] != direction:
                continue
            decider = NUMBERS.decider(row["rule"])
            name = f"{decider.layer} {decider.rule_id or '-'}" if decider else str(row["exclusion"])
            found[f"{Outcome(row['outcome']).name} {name}"] += row["packets"]
    return found


def arrived(pair: Pair, frames: list[bytes]) -> int:
    """How many of the frames came out at the instance's side."""
    before = pair.instance_counters()
    pair.inject_from_host(frames)
    pair.settle()
    return pair.instance_counters().rx_packets - before.rx_packets


def test_what_is_rejected_does_not_arrive(pair: Pair, datapath: Datapath) -> None:
    datapath.set_interface(SLOT, enforce=True)
    datapath.set_rules(book(inbound("sgr-1", 7000)), {SLOT: GROUPS}, NUMBERS)
    frames = [datagram(7000)] * 30 + [datagram(7001)] * 20 + [datagram(7000, "192.0.2.9")] * 10
    assert arrived(pair, frames) == 30
    assert named([drain_all(datapath)], IN) == {
        "ACCEPT security-group sgr-1": 30,
        "REJECT security-group sg-1": 30,
    }


def test_observing_names_and_drops_nothing(pair: Pair, datapath: Datapath) -> None:
    datapath.set_interface(SLOT)
    datapath.set_rules(book(inbound("sgr-1", 7000)), {SLOT: GROUPS}, NUMBERS)
    assert arrived(pair, [datagram(7000)] * 5 + [datagram(7001)] * 7) == 12
    assert named([drain_all(datapath)], IN) == {"ACCEPT security-group sgr-1": 5, "REJECT security-group sg-1": 7}


def test_malformed_packets_are_dropped_and_reserved_ones_are_not(pair: Pair, datapath: Datapath) -> None:
    datapath.set_interface(SLOT, enforce=True, dns_v4=bytes([10, 77, 0, 53]))
    datapath.set_rules(book(), {SLOT: GROUPS}, NUMBERS)
    broken = pk.ethernet(pk.ipv4(Pair.host_v4, Pair.instance_v4, pk.udp(1, 2), total_length=400))
    answer = pk.ethernet(pk.ipv4("10.77.0.53", Pair.instance_v4, pk.udp(53, 9999, b"x")))
    assert arrived(pair, [broken] * 3 + [answer] * 4) == 4
    rows = drain_all(datapath).flows.to_pylist()
    assert sorted((row["outcome"], row["packets"]) for row in rows) == [(2, 3), (2, 4)]


def test_a_network_acl_drops_what_comes_from_outside(pair: Pair, datapath: Datapath) -> None:
    entries = (
        AclEntry(100, False, 17, False, "192.0.2.0/24", 7000, 7000),
        AclEntry(200, False, -1, True, "192.0.2.0/23"),
    )
    datapath.set_interface(SLOT, enforce=True)
    judged = JudgedBy(None, "acl-1", ("10.77.0.0/24",))
    datapath.set_rules(book(entries=entries), {SLOT: judged}, NUMBERS)
    frames = [datagram(7000, source) for source in ("192.0.2.1", "192.0.3.1", "198.51.100.1", Pair.host_v4)]
    assert arrived(pair, frames) == 2
    assert named([drain_all(datapath)], IN) == {
        "REJECT network-acl acl-1/ingress/100": 1,
        "ACCEPT network-acl acl-1/ingress/200": 1,
        "REJECT network-acl acl-1/ingress/*": 1,
        "ACCEPT default -": 1,
    }


def test_replies_come_back_and_nothing_else(pair: Pair, datapath: Datapath) -> None:
    """TCP both ways through sockets: the handshake, data and the close pass by the connection alone."""
    datapath.set_interface(SLOT, enforce=True)
    datapath.set_rules(book(outbound("sgr-1", 8080, 6)), {SLOT: GROUPS}, NUMBERS)
    server = pair.in_host(socket.socket, socket.AF_INET, socket.SOCK_STREAM)
    client = pair.in_instance(socket.socket, socket.AF_INET, socket.SOCK_STREAM)
    with server, client:
        server.bind((pair.host_v4, 8080))
        server.listen()

        def echo() -> None:
            accepted, _ = server.accept()
            with accepted:
                while data := accepted.recv(65536):
                    accepted.sendall(data)

        thread = threading.Thread(target=echo)
        thread.start()
        client.settimeout(20)
        client.connect((pair.host_v4, 8080))
        sent = b"v" * 300_000
        back = bytearray()
        sender = threading.Thread(target=client.sendall, args=(sent,))
        sender.start()
        while len(back) < len(sent):
            back += client.recv(65536)
        sender.join()
        client.close()
        thread.join()
    assert bytes(back) == sent
    pair.settle()
    drain = drain_all(datapath)
    assert set(named([drain], OUT)) == {"ACCEPT security-group sgr-1"}
    assert set(named([drain], IN)) == {"ACCEPT tracked sgr-1"}
    other = pair.in_instance(socket.socket, socket.AF_INET, socket.SOCK_STREAM)
    with other:
        other.settimeout(0.3)
        with pytest.raises(OSError, match=r"timed out|Connection refused"):
            other.connect((pair.host_v4, 8081))
    assert set(named([drain_all(datapath)], OUT)) == {"REJECT security-group sg-1"}


def test_rules_that_change_under_load(pair: Pair, datapath: Datapath) -> None:
    """Every packet meets one rule book or the other, and arrives exactly if that one accepts it."""
    datapath.set_interface(SLOT, enforce=True)
    books = [book(inbound("sgr-1", 7000, "0.0.0.0/0")), book(inbound("sgr-2", 7001)), book(inbound("sgr-3", 7000))]
    frames = [
        pk.ethernet(pk.ipv4(f"10.77.{n >> 8}.{n & 255}", Pair.instance_v4, pk.udp(n & 0x3FF | 1024, 7000, b"x" * 20)))
        for n in range(4000)
    ]
    before, drains, count = pair.instance_counters(), [], 0
    # The first connections are opened by the first book; strangers to all of them meet the second one at the end.
    datapath.set_rules(books[0], {SLOT: GROUPS}, NUMBERS)
    pair.inject_from_host(frames[:100])
    count += 100
    strangers = [
        pk.ethernet(pk.ipv4(f"10.78.0.{n}", Pair.instance_v4, pk.udp(1024, 7000, b"x" * 20))) for n in range(1, 101)
    ]
    stop = threading.Event()

    def send() -> None:
        nonlocal count
        while not stop.is_set():
            pair.inject_from_host(frames)
            count += len(frames)

    sender = threading.Thread(target=send)
    sender.start()
    for turn in range(1, 62):
        changed = datapath.set_rules(books[turn % 3], {SLOT: GROUPS}, NUMBERS)
        assert changed == {SLOT}
        drains.append(drain_all(datapath))
    stop.set()
    sender.join()
    pair.inject_from_host(strangers)
    count += len(strangers)
    pair.settle()
    drains.append(drain_all(datapath))
    found = named(drains, IN)
    accepted = sum(packets for name, packets in found.items() if name.startswith("ACCEPT"))
    assert pair.instance_counters().rx_packets - before.rx_packets == accepted
    assert sum(found.values()) == count
    assert found["ACCEPT security-group sgr-1"] > 0
    assert found["REJECT security-group sg-1"] > 0


def test_a_full_table_rejects_and_is_counted(pair: Pair, mode: str) -> None:
    with Datapath.open(netns=pair.host, attach_mode=mode, flows_per_map=1024, connections=10) as datapath:
        datapath.set_interface(SLOT, enforce=True)
        datapath.set_rules(book(inbound("sgr-1", 7000)), {SLOT: GROUPS}, NUMBERS)
        datapath.attach(pair.host_device, SLOT)
        frames = [
            pk.ethernet(pk.ipv4(Pair.host_v4, Pair.instance_v4, pk.udp(5000 + n, 7000, b"x" * 20))) for n in range(25)
        ]
        assert arrived(pair, frames) == 10
        assert named([drain_all(datapath)], IN) == {"ACCEPT security-group sgr-1": 10, "REJECT tracked -": 15}
        assert (datapath.counts()["connections_full"], datapath.connections()) == (15, 10)


def test_connections_and_rules_outlive_the_process(pair: Pair, mode: str, pin_dir) -> None:
    first = Datapath.open(netns=pair.host, attach_mode=mode, pin_dir=pin_dir, flows_per_map=1024)
    first.set_interface(SLOT, enforce=True)
    first.set_rules(book(inbound("sgr-1", 7000)), {SLOT: GROUPS}, NUMBERS)
    first.attach(pair.host_device, SLOT)
    assert arrived(pair, [datagram(7000), datagram(7001)]) == 1
    first.close()
    assert arrived(pair, [datagram(7000), datagram(7001)]) == 1, "between two processes"
    second = Datapath.open(netns=pair.host, attach_mode=mode, pin_dir=pin_dir, flows_per_map=1024)
    try:
        assert second.connections() == 1
        assert second.set_rules(book(inbound("sgr-1", 7000)), {SLOT: GROUPS}, NUMBERS) == set(), "nothing has changed"
        assert second.set_rules(book(inbound("sgr-2", 7001)), {SLOT: GROUPS}, NUMBERS) == {SLOT}
        second.attach(pair.host_device, SLOT)
        # The connection to 7000 lives on though its rule has gone, and what is new needs the new rule.
        assert arrived(pair, [datagram(7000), datagram(7001)]) == 2
        assert libbpf.map_info(second._fds["connections"]).max_entries == 65536
    finally:
        second.destroy()


TRIAL = """
import os, sys, time
from pathlib import Path
from letting import let_in
from vnotch.capture.kernel import Datapath
netns, pin_dir, mode, device, slot, seconds = sys.argv[1:]
datapath = Datapath.open(netns=netns, pin_dir=Path(pin_dir), attach_mode=mode)
let_in(datapath, int(slot))  # nothing
end_ns = time.monotonic_ns() + int(seconds) * 10**9
datapath.set_interface(int(slot), enforce=True, enforce_until_ns=end_ns)
datapath.attach(device, int(slot))
print(end_ns, flush=True)
sys.stdin.read()
"""


def test_a_trial_ends_although_its_process_was_killed_and_never_came_back(pair: Pair, mode: str, pin_dir: Path) -> None:
    sources = f"{Path(__file__).resolve().parents[2] / 'src'}:{Path(__file__).parent}"
    process = subprocess.Popen(
        [sys.executable, "-c", TRIAL, pair.host, str(pin_dir), mode, pair.host_device, str(SLOT), "3"],
        env={**os.environ, "PYTHONPATH": sources},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    end_ns = int(process.stdout.readline())
    process.kill()
    process.wait()
    sent = 0
    while True:
        began_ns = time.monotonic_ns()
        came = arrived(pair, [datagram(7000)] * 5)
        sent += 5
        if time.monotonic_ns() < end_ns:
            assert came == 0, "it is enforced while it lasts, also without a process"
        elif began_ns > end_ns + COARSE_NS:
            assert came == 5
            break
    with Datapath.open(netns=pair.host, pin_dir=pin_dir) as successor:
        assert successor.taken_over
        rejected = [row for row in drain_all(successor).flows.to_pylist() if row["direction"] == IN]
        assert {row["outcome"] for row in rejected} == {int(Outcome.REJECT)}
        assert sum(row["packets"] for row in rejected) == sent, "what was let through is counted as what was dropped"
        successor.destroy()

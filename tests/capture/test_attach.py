"""Attaching, detaching, what becomes of a device that goes, and what is refused with which words."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import packets as pk
import pytest
from drains import Flow, Sum, drain_all, flows, totals
from letting import let_in
from links import SLOT, Pair, run
from oracle.tap import INGRESS, Tap
from packets import ethernet, ipv4, ipv6, tcp, udp
from traffic import start_flood

from vnotch.capture import layout, libbpf
from vnotch.capture.interfaces import LinkChange, LinkWatcher, Namespace
from vnotch.capture.kernel import Datapath
from vnotch.errors import HostError, InputError, KernelError
from vnotch.flow import Direction, Outcome

pytestmark = pytest.mark.root

IN, OUT = int(Direction.INGRESS), int(Direction.EGRESS)
A4, B4 = Pair.instance_v4, "198.51.100.7"
FRAME = ethernet(ipv4(A4, B4, udp(1, 2)))


def packets_of(datapath: Datapath, slot: int = SLOT, direction: int = OUT) -> int:
    return totals([drain_all(datapath)], slot, direction).packets


# Verdict -------------------------------------------------------------------------------------------------------------


def received_in_instance(pair: Pair, frames: list[bytes]) -> list[bytes]:
    """What of the frames, sent by the host, arrives at the instance's device."""

    def listen() -> socket.socket:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        made.bind((pair.instance_device, 3))
        made.settimeout(0.2)
        return made

    with pair.in_instance(listen) as listener:
        pair.inject_from_host(frames)
        arrived = []
        try:
            while True:
                data, (_, _, kind, *_) = listener.recvfrom(65536)
                if kind != socket.PACKET_OUTGOING:
                    arrived.append(data)
        except TimeoutError:
            return arrived


def test_what_is_rejected_does_not_arrive_when_enforced(pair: Pair, datapath: Datapath) -> None:
    let_in(datapath, SLOT, (6, 80), (17, 53))
    parts = pk.ipv4_fragments(B4, A4, udp(4000, 161, b"x" * 1600), identification=1, fragment_bytes=1024)
    cases = [
        (ethernet(ipv4(B4, A4, tcp(4000, 80, pk.SYN))), Outcome.ACCEPT),
        (ethernet(ipv4(B4, A4, tcp(4000, 22, pk.SYN))), Outcome.REJECT),
        (ethernet(ipv4(B4, A4, tcp(4000, 53, pk.SYN))), Outcome.REJECT),  # it is open to UDP
        (ethernet(ipv4(B4, A4, tcp(22, 4000, pk.SYN | pk.ACK))), Outcome.REJECT),  # an answer to nothing
        (ethernet(ipv4(B4, A4, tcp(4000, 22, pk.SYN | pk.ECE | pk.CWR))), Outcome.REJECT),
        (ethernet(ipv4(B4, A4, udp(4000, 53))), Outcome.ACCEPT),
        (ethernet(ipv4(B4, A4, udp(4000, 161))), Outcome.REJECT),
        (ethernet(ipv4(B4, A4, pk.icmp(8))), Outcome.REJECT),
        (ethernet(ipv6("2001:db8::7", "fd77::2", tcp(4000, 22, pk.SYN))), Outcome.REJECT),
        (ethernet(ipv6("2001:db8::7", "fd77::2", tcp(4000, 80, pk.SYN), extensions=[pk.routing()])), Outcome.ACCEPT),
        *((ethernet(part), Outcome.REJECT) for part in parts),
        # Never dropped, since excluded: DHCP, metadata, ARP.
        (ethernet(ipv4("10.77.0.1", A4, udp(67, 68))), Outcome.EXCLUDED),
        (ethernet(ipv4("169.254.169.254", A4, tcp(80, 22, pk.SYN))), Outcome.EXCLUDED),
        (ethernet(pk.arp(), pk.ETHERTYPE_ARP), Outcome.EXCLUDED),
        # Excluded and yet dropped: what nobody can read.
        (ethernet(ipv4(B4, A4, tcp(4000, 22, pk.SYN, header_words=4))), Outcome.EXCLUDED),
    ]
    frames = [frame for frame, _ in cases]
    for enforce in (False, True):
        datapath.set_interface(SLOT, enforce=enforce)
        passing = [frame for frame, outcome in cases if outcome is not Outcome.REJECT or not enforce]
        assert received_in_instance(pair, frames) == (passing[:-1] if enforce else passing)
        drain = drain_all(datapath)
        found = dict.fromkeys(Outcome, 0)
        for row in drain.flows.to_pylist():
            found[Outcome(row["outcome"])] += row["packets"]
        assert found == {outcome: [o for _, o in cases].count(outcome) for outcome in Outcome}
    # A group without an inbound rule lets nothing in; egress is not concerned.
    let_in(datapath, SLOT)
    assert received_in_instance(pair, frames[:1]) == []
    drain_all(datapath)
    pair.inject_from_instance([ethernet(ipv4(A4, B4, tcp(4000, 22, pk.SYN)))])
    assert set(flows(drain_all(datapath))) == {Flow(OUT, A4, 4000, B4, 22, 6)}


def test_where_no_rules_were_given_everything_is_let_in(pair: Pair, datapath: Datapath) -> None:
    frames = [
        ethernet(ipv4(B4, A4, tcp(4000, 22, pk.SYN))),
        ethernet(ipv4(B4, A4, udp(4000, 161))),
        ethernet(ipv4(B4, A4, tcp(4000, 22, pk.SYN, header_words=4))),
    ]
    datapath.set_interface(SLOT, enforce=True)
    assert received_in_instance(pair, frames) == frames[:-1]


def test_a_drop_is_in_no_device_counter_but_in_ours(pair: Pair, datapath: Datapath) -> None:
    let_in(datapath, SLOT)
    datapath.set_interface(SLOT, enforce=True)
    before = pair.host_counters().tx_packets
    pair.inject_from_host([ethernet(ipv4(B4, A4, tcp(1, 22, pk.SYN)))] * 10)
    pair.settle()
    assert pair.host_counters().tx_packets == before
    flow = Flow(IN, B4, 1, A4, 22, 6, Outcome.REJECT)
    assert flows(drain_all(datapath)) == {flow: Sum(10, 400)}


# Attaching -----------------------------------------------------------------------------------------------------------


def test_counting_begins_at_attach_and_ends_at_detach(pair: Pair, mode: str) -> None:
    with Datapath.open(netns=pair.host, attach_mode=mode) as datapath:
        pair.inject_from_instance([FRAME])
        datapath.attach(pair.host_device, SLOT)
        pair.inject_from_instance([FRAME] * 2)
        datapath.attach(pair.host_device, SLOT)  # changes nothing
        pair.inject_from_instance([FRAME] * 4)
        datapath.detach(SLOT)
        pair.inject_from_instance([FRAME] * 8)
        datapath.detach(SLOT)
        assert packets_of(datapath) == 6
        assert datapath.attached() == {}
        assert datapath.counts()["unknown_interface"] == 0
        datapath.attach(pair.host_device, SLOT)
        pair.inject_from_instance([FRAME])
        assert datapath.attached() == {SLOT: pair.host_device}
        assert packets_of(datapath) == 1
    pair.inject_from_instance([FRAME])
    assert "vnotch" not in run("tc", "-n", pair.host, "filter", "show", "dev", pair.host_device, "ingress")
    assert "clsact" not in run("tc", "-n", pair.host, "qdisc", "show", "dev", pair.host_device)


def test_an_interface_is_captured_from_its_first_packet(pair: Pair, datapath: Datapath) -> None:
    """Attached before it is up."""
    run("ip", "-n", pair.host, "link", "set", pair.host_device, "down")
    datapath.detach(SLOT)
    datapath.attach(pair.host_device, SLOT)
    before = pair.host_counters()
    run("ip", "-n", pair.host, "link", "set", pair.host_device, "up")
    pair.inject_from_instance([FRAME])
    pair.settle()
    after = pair.host_counters()
    drain = drain_all(datapath)
    assert totals([drain], SLOT, OUT).packets == after.rx_packets - before.rx_packets == 1
    assert totals([drain], SLOT, IN).packets == after.tx_packets - before.tx_packets


def test_a_device_that_goes_and_comes_back(pair: Pair, datapath: Datapath) -> None:
    pair.inject_from_instance([FRAME] * 3)
    pair.remove_link()
    assert datapath.attached() == {}
    with pytest.raises(KernelError, match=f"has no interface {pair.host_device}"):
        datapath.attach(pair.host_device, SLOT)
    assert packets_of(datapath) == 3
    pair.add_link()
    pair.inject_from_instance([FRAME])
    datapath.attach(pair.host_device, SLOT)
    pair.inject_from_instance([FRAME] * 5)
    pair.settle()
    assert packets_of(datapath) == 5
    assert datapath.seen()[SLOT, OUT][0] == 8
    pair.remove_link()
    datapath.detach(SLOT)
    assert libbpf.map_lookup(datapath._fds["slots"], b"\0" * 4, 4) is None
    assert datapath._slots.indexes() == {}


@pytest.mark.parametrize("index", [layout.NEAR_INDEXES - 1, layout.NEAR_INDEXES, 1_000_000])
def test_indexes_on_both_sides_of_the_array_are_captured(pair: Pair, datapath: Datapath, index: int) -> None:
    pair.remove_link()
    pair.add_link(index)
    datapath.attach(pair.host_device, SLOT)
    pair.inject_from_instance([FRAME] * 3)
    pair.settle()
    assert packets_of(datapath) == 3
    datapath.detach(SLOT)
    assert datapath._slots.indexes() == {}
    assert datapath.counts()["unknown_interface"] == 0


def test_a_device_that_goes_under_load(pair: Pair, datapath: Datapath) -> None:
    sender = start_flood(pair, 200_000, 10)
    while datapath.seen()[SLOT, OUT][0] < 1000:
        pass
    pair.remove_link()
    assert sender.wait() != 0
    counted = datapath.seen()[SLOT, OUT]
    assert totals([drain_all(datapath)], SLOT, OUT) == Sum(*counted)
    assert counted[0] >= 1000


def test_a_renamed_device_is_still_captured(pair: Pair, datapath: Datapath) -> None:
    run("ip", "-n", pair.host, "link", "set", pair.host_device, "name", "other")
    pair.inject_from_instance([FRAME])
    datapath.attach("other", SLOT)
    pair.inject_from_instance([FRAME])
    assert packets_of(datapath) == 2
    assert datapath.attached() == {SLOT: "other"}


@pytest.mark.parametrize("mode", ["tcx", "clsact"])
def test_a_device_renamed_while_nobody_looked_is_found_again(pair: Pair, mode: str, pin_dir: Path) -> None:
    options = {"netns": pair.host, "attach_mode": mode, "flows_per_map": 64, "pin_dir": pin_dir}
    with Datapath.open(**options) as first:  # type: ignore[arg-type]
        assert first.device_of(SLOT) is None
        first.set_interface(SLOT)
        first.attach(pair.host_device, SLOT)
        pair.inject_from_instance([FRAME] * 2)
    run("ip", "-n", pair.host, "link", "set", pair.host_device, "name", "other")
    pair.inject_from_instance([FRAME] * 3)
    second = Datapath.open(**options)  # type: ignore[arg-type]
    try:
        assert second.device_of(SLOT) == "other"
        second.attach("other", SLOT)
        pair.inject_from_instance([FRAME] * 4)
        assert packets_of(second) == 9
    finally:
        second.destroy()


def test_a_device_that_moves_to_another_namespace_is_captured_no_more(pair: Pair, datapath: Datapath) -> None:
    """Its programs move with it where they are tcx links, until it is detached; a clsact qdisc ends by itself."""
    pair.inject_from_instance([FRAME] * 3)
    pair.settle()
    other = f"{pair.host}-m"
    run("ip", "netns", "add", other)
    try:
        run("ip", "-n", pair.host, "link", "set", pair.host_device, "netns", other)
        assert datapath.device_of(SLOT) is None
        datapath.detach(SLOT)
        run("ip", "-n", other, "link", "set", pair.host_device, "up")
        pair.inject_from_instance([FRAME] * 5)
        pair.settle_instance()
        drain = drain_all(datapath)
        assert totals([drain], SLOT, OUT).packets == 3
        assert datapath.seen()[SLOT, OUT][0] == 3
        assert "vnotch" not in run("tc", "-n", other, "filter", "show", "dev", pair.host_device, "ingress")
        assert "clsact" not in run("tc", "-n", other, "qdisc", "show", "dev", pair.host_device)
        run("ip", "-n", other, "link", "set", pair.host_device, "netns", pair.host)
        run("ip", "-n", pair.host, "link", "set", pair.host_device, "up")
        datapath.attach(pair.host_device, SLOT)
        pair.inject_from_instance([FRAME] * 7)
        pair.settle()
        assert packets_of(datapath) == 7
    finally:
        run("ip", "netns", "del", other)


@pytest.mark.parametrize("theirs", [False, True])
def test_detaching_after_a_restart_removes_the_qdisc_that_we_made_and_no_other(
    pair: Pair, pin_dir: Path, theirs: bool
) -> None:
    if theirs:
        run("tc", "-n", pair.host, "qdisc", "add", "dev", pair.host_device, "clsact")
    options = {"netns": pair.host, "attach_mode": "clsact", "flows_per_map": 64, "pin_dir": pin_dir}
    with Datapath.open(**options) as first:  # type: ignore[arg-type]
        first.set_interface(SLOT)
        first.attach(pair.host_device, SLOT)
    second = Datapath.open(**options)  # type: ignore[arg-type]
    try:
        second.attach(pair.host_device, SLOT)
        second.detach(SLOT)
        assert [name for name in second._pins.names() if name.startswith("qdisc")] == []  # type: ignore[union-attr]
        assert "vnotch" not in run("tc", "-n", pair.host, "filter", "show", "dev", pair.host_device, "ingress")
        assert ("clsact" in run("tc", "-n", pair.host, "qdisc", "show", "dev", pair.host_device)) == theirs
    finally:
        second.destroy()


def test_a_slot_moves_to_another_device(pair: Pair, datapath: Datapath) -> None:
    run("ip", "-n", pair.host, "link", "add", "second", "type", "veth", "peer", "name", "peer")
    for device in ("second", "peer"):
        run("ip", "-n", pair.host, "link", "set", device, "up")
    with pytest.raises(InputError, match=f"captured under slot {SLOT} already"):
        datapath.attach(pair.host_device, SLOT + 1)
    datapath.attach("second", SLOT)
    pair.inject_from_instance([FRAME])
    assert packets_of(datapath) == 0
    datapath.attach(pair.host_device, SLOT + 1)
    pair.inject_from_instance([FRAME])
    assert packets_of(datapath, SLOT + 1) == 1


def test_other_programs_keep_running_behind_ours(pair: Pair, datapath: Datapath, tap_folder: Path) -> None:
    with Tap(tap_folder, pair.host) as tap:
        tap.attach(pair.host_device)
        pair.inject_from_instance([FRAME] * 7)
        assert tap.totals(pair.host_device, INGRESS).packets == 7
        assert packets_of(datapath) == 7


def test_a_clsact_qdisc_and_filters_of_others_are_left_alone(pair: Pair) -> None:
    tc = ("tc", "-n", pair.host)
    run(*tc, "qdisc", "add", "dev", pair.host_device, "clsact")
    theirs = "filter add dev {} ingress prio 9 protocol ip u32 match u32 0 0 flowid 1:1"
    run(*tc, *theirs.format(pair.host_device).split())
    with Datapath.open(netns=pair.host, attach_mode="clsact") as datapath:
        datapath.attach(pair.host_device, SLOT)
        pair.inject_from_instance([FRAME])
        assert packets_of(datapath) == 1
    left = run(*tc, "filter", "show", "dev", pair.host_device, "ingress")
    assert "u32" in left
    assert "vnotch" not in left


def test_filters_of_a_process_that_was_killed_are_replaced(pair: Pair, mode: str) -> None:
    """Without pins, clsact's filters outlive the process with maps that nobody reads."""
    script = (
        "import os, sys; from vnotch.capture.kernel import Datapath; from letting import let_in\n"
        "d = Datapath.open(netns=sys.argv[1], attach_mode='clsact'); let_in(d, 5)\n"
        "d.set_interface(5, enforce=True); d.attach(sys.argv[2], 5); os.kill(os.getpid(), 9)\n"
    )
    command = [sys.executable, "-c", script, pair.host, pair.host_device]
    sources = f"{Path(__file__).resolve().parents[2] / 'src'}:{Path(__file__).parent}"
    assert subprocess.run(command, env={**os.environ, "PYTHONPATH": sources}, check=False).returncode == -9
    syn = [ethernet(ipv4(B4, A4, tcp(1, 22, pk.SYN)))]
    assert received_in_instance(pair, syn) == []
    with Datapath.open(netns=pair.host, attach_mode=mode) as datapath:
        datapath.attach(pair.host_device, SLOT)
        assert received_in_instance(pair, syn) == syn
        assert packets_of(datapath, direction=IN) == 1


def test_the_callers_thread_stays_in_its_namespace(pair: Pair) -> None:
    before = os.readlink("/proc/thread-self/ns/net")
    with Datapath.open(netns=pair.host) as datapath:
        datapath.attach(pair.host_device, SLOT)
        assert os.readlink("/proc/thread-self/ns/net") == before
        assert pair.host_device not in dict(socket.if_nameindex()).values()


def test_a_namespace_by_path(pair: Pair) -> None:
    with Datapath.open(netns=f"/run/netns/{pair.host}") as datapath:
        datapath.attach(pair.host_device, SLOT)
        pair.inject_from_instance([FRAME])
        assert packets_of(datapath) == 1


def test_a_slot_that_is_cleared_begins_at_zero(pair: Pair, datapath: Datapath) -> None:
    let_in(datapath, SLOT, (6, 22))
    datapath.set_interface(SLOT, enforce=True)
    pair.inject_from_instance([FRAME])
    datapath.detach(SLOT)
    datapath.clear(SLOT)
    assert (SLOT, OUT) not in datapath.seen()
    datapath.attach(pair.host_device, SLOT)
    assert datapath.seen()[SLOT, OUT] == (0, 0)
    syn = [ethernet(ipv4(B4, A4, tcp(1, 23, pk.SYN)))]
    assert received_in_instance(pair, syn) == syn


# Refusals ------------------------------------------------------------------------------------------------------------


def test_what_is_not_right_is_refused(pair: Pair, datapath: Datapath) -> None:
    with pytest.raises(InputError, match=r"^lo is the loopback interface, where each packet passes twice"):
        datapath.attach("lo", 6)
    with pytest.raises(KernelError, match=r"has no interface nothing.*ip link"):
        datapath.attach("nothing", 6)
    for slot in (-1, 4096):
        with pytest.raises(InputError, match="not from 0 to 4095"):
            datapath.attach(pair.host_device, slot)
    with pytest.raises(InputError, match="packed"):
        datapath.set_interface(SLOT, mac=b"02:00:00:00:00:01")
    with pytest.raises(InputError, match="packed"):
        datapath.set_interface(SLOT, dns_v4=b"10.0.0.2")
    with pytest.raises(InputError, match="two routers"):
        datapath.set_interface(SLOT, routers_v4=[bytes(4)] * 3)
    with pytest.raises(InputError, match="attach mode xdp"):
        Datapath.open(attach_mode="xdp")
    with pytest.raises(InputError, match="power of two"):
        Datapath.open(ring_bytes=5000)
    with pytest.raises(InputError, match="at least 1"):
        Datapath.open(flows_per_map=0)
    with pytest.raises(HostError, match=r"no network namespace .*ip netns"):
        Datapath.open(netns="vntest-there-is-none")


def test_nothing_is_left_of_a_closed_datapath(pair: Pair, mode: str) -> None:
    def once() -> None:
        with Datapath.open(netns=pair.host, attach_mode=mode) as datapath:
            datapath.attach(pair.host_device, SLOT)
            drain_all(datapath)

    once()
    fds, threads = os.listdir("/proc/self/fd"), threading.active_count()
    once()
    once()
    assert len(os.listdir("/proc/self/fd")) == len(fds)
    assert threading.active_count() == threads


# Watching ------------------------------------------------------------------------------------------------------------


def test_the_watcher_tells_what_came_and_went(pair: Pair) -> None:
    namespace = Namespace(pair.host)
    watcher = LinkWatcher(namespace)
    ip = ("ip", "-n", pair.host, "link")

    def told(count: int) -> list[LinkChange]:
        found: list[LinkChange] = []
        for _ in range(50):
            found += watcher.changes(0.1)
            if len(found) >= count:
                break
        return found

    assert watcher.changes(0.05) == []
    run(*ip, "add", "w0", "type", "veth", "peer", "name", "w1")
    assert {(change.kind, change.name) for change in told(2)} == {("appeared", "w0"), ("appeared", "w1")}
    run(*ip, "set", "w0", "name", "w2")
    (renamed,) = told(1)
    assert (renamed.kind, renamed.old_name, renamed.name) == ("renamed", "w0", "w2")
    run(*ip, "set", "w2", "up")
    assert watcher.changes(0.2) == [], "nothing that concerns names"
    run(*ip, "del", "w1")
    assert {(change.kind, change.name) for change in told(2)} == {("vanished", "w2"), ("vanished", "w1")}
    # Gone and back under the same index before anybody looked: both are told, in order.
    index = next(number for number, name in watcher.links.items() if name == pair.host_device)
    run(*ip, "del", pair.host_device)
    run(*ip, "add", pair.host_device, "index", str(index), "type", "veth", "peer", "name", "w3")
    changes = [change.kind for change in told(3) if change.name == pair.host_device]
    assert changes == ["vanished", "appeared"]

    waiting = threading.Thread(target=watcher.changes, args=(30,))
    waiting.start()
    watcher.close()
    waiting.join(5)
    assert not waiting.is_alive()
    namespace.close()

"""What the host's own firewall drops becomes REJECT: nftables at each of its hooks, held against its own counters."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import packets as pk
import pytest
from drains import Flow, Sum, drain_all, flipping, flows, totals
from links import SLOT, run
from routed import MATCH, Routed, chain, mac_bytes, packet_bytes, protocol_number, send_udp
from test_record import flow_log, interface
from traffic import bulk, udp_gso

from vnotch.agent.rule_numbers import SavedNumbers
from vnotch.capture.kernel import Datapath, Drain
from vnotch.deciders import HOST_FIREWALL_NUMBER
from vnotch.flow import Direction, Outcome
from vnotch.record import WindowRecords
from vnotch.window import Windows

pytestmark = pytest.mark.root

IN, OUT = int(Direction.INGRESS), int(Direction.EGRESS)
COUNT = 30


@pytest.fixture
def datapath(routed: Routed) -> Iterator[Datapath]:
    opened = Datapath.open(netns=routed.host, flows_per_map=8192)
    try:
        assert opened.host_firewall().unseen is None
        opened.set_interface(SLOT)
        opened.attach(routed.host_device, SLOT)
        yield opened
    finally:
        opened.destroy()


PACKETS = [(protocol, family) for protocol in ("udp", "tcp", "icmp") for family in (4, 6)]


def every_third(verdict: str) -> list[str]:
    return [f"{MATCH[packet]} numgen inc mod 3 == 0 counter {verdict}" for packet in PACKETS]


def expected(direction: int, addresses: Mapping[int, Sequence[str]]) -> dict[Flow, Sum]:
    """A third of the packets of each protocol and family is rejected."""
    found = {}
    for protocol, family in PACKETS:
        source, destination = addresses[family]
        ports = (0, 0) if protocol == "icmp" else (5000, 4000)
        flow = Flow(direction, source, ports[0], destination, ports[1], protocol_number(protocol, family))
        size = packet_bytes(protocol, family)
        found[flow] = Sum(COUNT - COUNT // 3, (COUNT - COUNT // 3) * size)
        found[flow._replace(outcome=Outcome.REJECT)] = Sum(COUNT // 3, COUNT // 3 * size)
    return found


def rejected(found: dict[Flow, Sum]) -> Sum:
    sums = [total for flow, total in found.items() if flow.outcome == Outcome.REJECT]
    return Sum(sum(total.packets for total in sums), sum(total.bytes for total in sums))


def assert_exact(datapath: Datapath, drains: list[Drain]) -> None:
    """The ledger: a neighbour's probe may come at any time, so both counts are taken without one in between."""
    while True:
        seen = datapath.seen()
        drains.append(drain_all(datapath))
        if seen == datapath.seen():
            break
    for way in (IN, OUT):
        assert totals(drains, SLOT, way) == Sum(*seen[SLOT, way])
    assert datapath.host_firewall().to_json() == {"seen": True, "message": None, "untold": 0, "unmatched": 0}


@pytest.mark.parametrize(
    ("hook", "verdict"),
    [
        ("prerouting", "drop"),
        ("prerouting", "reject"),
        ("input", "drop"),
        ("input", "reject"),
        ("forward", "drop"),
        ("forward", "reject"),
        ("postrouting", "drop"),
        ("ingress", "drop"),
    ],
)
def test_what_came_in_and_is_dropped(routed: Routed, datapath: Datapath, hook: str, verdict: str) -> None:
    """Every third packet of each flow."""
    to = "far" if hook in ("forward", "postrouting") else "host"
    device = routed.host_device if hook == "ingress" else ""
    routed.nft(chain(hook, every_third(verdict), device=device))
    drains = [drain_all(datapath)]
    for protocol, family in PACKETS:
        routed.send_from_instance(protocol, family, routed.address(to, family), COUNT)
    routed.settle()
    drains.append(drain_all(datapath))
    found = flows(drains[1])
    addresses = {family: (routed.address("instance", family), routed.address(to, family)) for family in (4, 6)}
    sent = expected(OUT, addresses)
    assert {flow: found.get(flow) for flow in sent} == sent
    assert rejected(found) == routed.dropped()
    rules = {row["rule"] for row in drains[1].flows.to_pylist() if row["outcome"] == Outcome.REJECT}
    assert rules == {HOST_FIREWALL_NUMBER}
    assert_exact(datapath, drains)


@pytest.mark.parametrize(
    ("hook", "verdict"), [("output", "drop"), ("output", "reject"), ("postrouting", "drop"), ("egress", "drop")]
)
def test_what_would_have_gone_out_and_is_dropped(routed: Routed, datapath: Datapath, hook: str, verdict: str) -> None:
    """Our program at the interface never sees them: they are added, to what was seen as well."""
    device = routed.host_device if hook == "egress" else ""
    routed.nft(chain(hook, every_third(verdict), device=device))
    drains = [drain_all(datapath)]
    for protocol, family in PACKETS:
        routed.send_from_host(protocol, family, routed.address("instance", family), COUNT)
    routed.settle()
    drains.append(drain_all(datapath))
    found = flows(drains[1])
    addresses = {family: (routed.address("host", family), routed.address("instance", family)) for family in (4, 6)}
    sent = expected(IN, addresses)
    assert {flow: found.get(flow) for flow in sent} == sent
    told = routed.dropped()
    # At egress the packet has its Ethernet header already, and nftables counts it.
    assert rejected(found) == Sum(told.packets, told.bytes - (14 * told.packets if hook == "egress" else 0))
    assert_exact(datapath, drains)


@pytest.mark.parametrize(("hook", "way"), [("input", IN), ("ingress", IN), ("output", OUT), ("egress", OUT)])
def test_the_hosts_own_interface_seen_from_inside(routed: Routed, datapath: Datapath, hook: str, way: int) -> None:
    """What comes in there comes to the ENI."""
    datapath.set_interface(SLOT, inside=True)
    datapath.attach(routed.host_device, SLOT)
    device = routed.host_device if hook in ("ingress", "egress") else ""
    routed.nft(chain(hook, every_third("drop"), device=device))
    drains = [drain_all(datapath)]
    sides = ("instance", "host") if way == IN else ("host", "instance")
    for protocol, family in PACKETS:
        send = routed.send_from_instance if way == IN else routed.send_from_host
        send(protocol, family, routed.address(sides[1], family), COUNT)
    routed.settle()
    drains.append(drain_all(datapath))
    sent = expected(way, {family: tuple(routed.address(side, family) for side in sides) for family in (4, 6)})
    found = flows(drains[1])
    assert {flow: found.get(flow) for flow in sent} == sent
    assert rejected(found).packets == routed.dropped().packets
    assert_exact(datapath, drains)


def test_a_sender_that_is_not_captured(routed: Routed, datapath: Datapath) -> None:
    """Dropped on its way to the ENI: rejected there, as ingress."""
    routed.nft(chain("forward", ["udp dport 4000 counter drop"]))
    drains = [drain_all(datapath)]
    routed.in_far(send_udp, routed.instance_v4, 10)
    routed.settle()
    drains.append(drain_all(datapath))
    flow = Flow(IN, routed.far_v4, 5000, routed.instance_v4, 4000, 17, Outcome.REJECT)
    assert flows(drains[1]) == {flow: Sum(10, 10 * 128)}
    assert_exact(datapath, drains)


@pytest.mark.parametrize("hook", ["prerouting", "forward", "postrouting"])
def test_between_two_enis_the_sender_has_it(routed: Routed, datapath: Datapath, hook: str) -> None:
    """As on AWS: what is rejected at the sender never appears at the receiver."""
    datapath.attach(routed.far_device, SLOT + 1)
    routed.nft(chain(hook, ["udp dport 4000 counter drop"]))
    routed.send_from_instance("udp", 4, routed.far_v4, 10)
    routed.settle()
    drain = drain_all(datapath)
    flow = Flow(OUT, routed.instance_v4, 5000, routed.far_v4, 4000, 17, Outcome.REJECT)
    assert flows(drain) == {flow: Sum(10, 10 * 128)}
    assert set(drain.flows["slot"].to_pylist()) == {SLOT}


def test_segments_count_as_packets(routed: Routed, datapath: Datapath) -> None:
    """UDP: nine datagrams of 1028 bytes and one of 1021 a frame (RFC 768, RFC 791)."""
    routed.nft(chain("input", ["udp dport 9 numgen inc mod 2 == 0 counter drop"]))
    udp_gso(routed, 100, 1000, 10)
    routed.settle()
    found = flows(drain_all(datapath))
    for outcome in (Outcome.ACCEPT, Outcome.REJECT):
        sums = [total for flow, total in found.items() if flow.destination_port == 9 and flow.outcome == outcome]
        assert sums == [Sum(500, 50 * (9 * 1028 + 1021))]
    assert routed.dropped().packets == 50, "frames"


def test_segments_of_tcp(routed: Routed, datapath: Datapath) -> None:
    """nftables counts frames and their bytes; each further segment of a frame has headers of 20 and 32 bytes more."""
    routed.nft(chain("input", ["tcp dport 5001 numgen inc mod 40 == 39 counter drop"]))
    drains = [drain_all(datapath)]
    with flipping(datapath) as under_way:
        bulk(routed, 8)
        routed.settle()
    drains += under_way
    told = routed.dropped()
    total = rejected(flows(*drains))
    assert told.packets > 0
    assert total.packets > told.packets, "no frame of several segments was dropped"
    assert total.bytes == told.bytes + (total.packets - told.packets) * 52
    assert_exact(datapath, drains)


@pytest.mark.parametrize(
    ("family", "hook", "rule"),
    [
        (4, "input", "udp dport 4000"),  # IPv4 puts them together before it
        (4, "prerouting", "ct state new udp dport 4000"),  # connection tracking does
        (6, "prerouting", "ct state new udp dport 4000"),
        (4, "prerouting", "meta l4proto udp"),  # nobody does
        (6, "prerouting", "meta l4proto udp"),
        (6, "input", "meta l4proto udp"),  # IPv6 does it behind this hook
    ],
)
def test_fragments(routed: Routed, datapath: Datapath, family: int, hook: str, rule: str) -> None:
    """Each datagram is three packets, however many nftables saw."""
    payload = pk.udp(5000, 4000, b"x" * 2500)
    source, destination = routed.address("instance", family), routed.address("host", family)
    fragment = {4: pk.ipv4_fragments, 6: pk.ipv6_fragments}[family]
    parts = [
        part
        for number in range(10)
        for part in fragment(source, destination, payload, identification=number, fragment_bytes=1024)
    ]
    routed.nft(chain(hook, [f"{rule} counter drop"]))
    macs = {"source": mac_bytes(routed.instance_mac), "destination": mac_bytes(routed.host_mac)}
    routed.inject_from_instance([pk.ethernet(part, **macs) for part in parts])
    routed.settle()
    assert routed.dropped().packets in (10, 30)
    flow = Flow(OUT, source, 5000, destination, 4000, 17, Outcome.REJECT)
    assert flows(drain_all(datapath)) == {flow: Sum(30, sum(len(part) for part in parts))}


def test_translated_addresses(routed: Routed, datapath: Datapath) -> None:
    """The packet is dropped behind the translation and was counted before it."""
    routed.nft(chain("prerouting", ["udp dport 4000 dnat ip to 10.78.0.2:53"], kind="nat", priority=-100))
    routed.nft(chain("forward", ["udp dport 53 counter drop"]))
    routed.send_from_instance("udp", 4, routed.host_v4, 10)
    routed.settle()
    assert routed.dropped().packets == 10
    flow = Flow(OUT, routed.instance_v4, 5000, routed.host_v4, 4000, 17, Outcome.REJECT)
    assert flows(drain_all(datapath)) == {flow: Sum(10, 10 * 128)}


def test_answers_of_translated_connections(routed: Routed, datapath: Datapath) -> None:
    """The far side asks through a translation of its source; what comes back comes in to the translated address: an
    ICMP error that quotes the question (RFC 792: 20 + 8 bytes, then the packet, as Linux quotes it), then answers."""
    routed.nft(chain("postrouting", ["udp dport 4000 masquerade"], kind="nat", priority=100))
    routed.nft(chain("forward", ['iifname "vn-eni" counter drop']))
    routed.in_far(send_udp, routed.instance_v4, 1)
    routed.settle()
    error = Flow(OUT, routed.instance_v4, 0, routed.host_v4, 0, 1, Outcome.REJECT)
    assert flows(drain_all(datapath))[error] == Sum(1, 28 + 128)
    answer = pk.ethernet(
        pk.ipv4(routed.instance_v4, routed.host_v4, pk.udp(4000, 5000, b"x" * 100)),
        source=mac_bytes(routed.instance_mac),
        destination=mac_bytes(routed.host_mac),
    )
    routed.inject_from_instance([answer] * 5)
    routed.settle()
    assert routed.dropped().packets == 1 + 5
    flow = Flow(OUT, routed.instance_v4, 4000, routed.host_v4, 5000, 17, Outcome.REJECT)
    assert flows(drain_all(datapath)) == {flow: Sum(5, 5 * 128)}


@pytest.mark.parametrize("program", ["iptables-nft", "iptables-legacy"])
@pytest.mark.parametrize("target", ["DROP", "REJECT"])
def test_iptables(routed: Routed, datapath: Datapath, program: str, target: str) -> None:
    rule = ["INPUT", "-p", "udp", "--dport", "4000", "-j", target]
    routed.in_host(run, program, "-A", *rule)
    try:
        routed.send_from_instance("udp", 4, routed.host_v4, 10)
        routed.settle()
    finally:
        routed.in_host(run, program, "-D", *rule)
    flow = Flow(OUT, routed.instance_v4, 5000, routed.host_v4, 4000, 17)
    found = flows(drain_all(datapath))
    assert found[flow._replace(outcome=Outcome.REJECT)] == Sum(10, 10 * 128)
    assert flow not in found


def test_what_is_dropped_for_another_reason_stays_accepted(routed: Routed, datapath: Datapath) -> None:
    """No route, no room in the socket's buffer."""
    with routed.in_host(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as full:
        full.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        full.bind((routed.host_v4, 4000))
        routed.send_from_instance("udp", 4, routed.host_v4, 200)
        routed.send_from_instance("udp", 4, "198.51.100.1", 10)
        routed.settle()
        waiting = routed.in_host(Path("/proc/thread-self/net/udp").read_text).splitlines()[1:]
        assert sum(int(line.split()[-1]) for line in waiting) > 100, "the buffer took nearly all"
    found = flows(drain_all(datapath))
    assert rejected(found) == Sum(0, 0)
    assert found[Flow(OUT, routed.instance_v4, 5000, routed.host_v4, 4000, 17)].packets == 200
    assert found[Flow(OUT, routed.instance_v4, 5000, "198.51.100.1", 4000, 17)].packets == 10


def test_the_firewall_of_another_namespace(routed: Routed, datapath: Datapath) -> None:
    """Its interface has the captured one's index."""
    index = routed.in_host(socket.if_nametoindex, routed.host_device)
    assert routed.in_far(socket.if_nametoindex, "eth0") == index
    routed.nft(chain("prerouting", ["udp dport 4000 counter drop"]), routed.far)
    try:
        drains = [drain_all(datapath)]
        routed.in_host(send_udp, routed.far_v4, 10)
        assert routed.dropped(routed.far).packets == 10
        drains += [drain_all(datapath), drain_all(datapath)]
        assert flows(*drains) == {}
        assert_exact(datapath, drains)
    finally:
        routed.nft("flush ruleset", routed.far)


def test_records_show_it(routed: Routed, datapath: Datapath, tmp_path: Path) -> None:
    """In AWS's default format, and with the layer that decided; the kernel does not tell which table and chain."""
    routed.nft(chain("input", ["udp dport 4000 counter drop"]))
    routed.send_from_instance("udp", 4, routed.host_v4, 10)
    routed.settle()
    windows = Windows(60)
    windows.add(drain_all(datapath).flows, time.time_ns())
    (window,) = windows.close_all()
    records = WindowRecords(window, {SLOT: interface()}, SavedNumbers(tmp_path / "numbers.json"))
    (line,) = [line for item in records.events(flow_log(), ()) for line in item.messages.to_pylist()]
    assert f" {routed.instance_v4} {routed.host_v4} 5000 4000 17 10 1280 " in line
    assert line.endswith(" REJECT OK")
    format_ = "${action} ${x-rule-layer} ${x-rule-id}"
    (line,) = [line for item in records.events(flow_log(format_), ()) for line in item.messages.to_pylist()]
    assert line == "REJECT host-firewall -"

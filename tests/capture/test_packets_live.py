"""Packets injected on a real link: what the kernel's program makes of them, at both hooks, attached both ways."""

from __future__ import annotations

import random

import packets as pk
import pytest
from drains import Flow, Sum, drain_all, excluded, flows, totals
from letting import let_in
from links import SLOT, Pair
from packets import ethernet, ipv4, ipv6, tcp, udp

from vnotch.capture.kernel import Datapath
from vnotch.flow import Direction, Exclusion, Outcome

pytestmark = pytest.mark.root

IN, OUT = int(Direction.INGRESS), int(Direction.EGRESS)
A4, B4 = Pair.instance_v4, "198.51.100.7"
A6, B6 = Pair.instance_v6, "2001:db8::7"

LINK_LOCAL = "169.254.169"


def sent(pair: Pair, datapath: Datapath, frames: list[bytes], direction: int = OUT) -> tuple[dict[Flow, Sum], dict]:
    """Sends frames to or from the ENI and accounts for each of them."""
    before = pair.host_counters()
    inject = pair.inject_from_instance if direction == OUT else pair.inject_from_host
    inject(frames)
    pair.settle()
    drain = drain_all(datapath)
    after = pair.host_counters()
    moved = after.rx_packets - before.rx_packets if direction == OUT else after.tx_packets - before.tx_packets
    assert moved == len(frames), "the device itself counted something else than was sent"
    assert totals([drain], SLOT, direction).packets == len(frames)
    return flows(drain), {reason: packets for (way, reason), packets in excluded(drain).items() if way == direction}


FLOWS = {
    "tcp": (ethernet(ipv4(A4, B4, tcp(40000, 443))), Flow(OUT, A4, 40000, B4, 443, 6), Sum(1, 40)),
    "udp": (ethernet(ipv4(A4, B4, udp(53124, 123, b"x" * 48))), Flow(OUT, A4, 53124, B4, 123, 17), Sum(1, 76)),
    "ping, ports 0 0": (ethernet(ipv4(A4, B4, pk.icmp(8))), Flow(OUT, A4, 0, B4, 0, 1), Sum(1, 84)),
    "icmpv6 echo": (ethernet(ipv6(A6, B6, pk.icmpv6(128))), Flow(OUT, A6, 0, B6, 0, 58), Sum(1, 104)),
    "ethernet padding is not counted": (
        ethernet(ipv4(A4, B4, tcp(1, 2)), pad_to=60),
        Flow(OUT, A4, 1, B4, 2, 6),
        Sum(1, 40),
    ),
    "802.1Q": (ethernet(ipv4(A4, B4, tcp(1, 2)), vlans=[7]), Flow(OUT, A4, 1, B4, 2, 6), Sum(1, 40)),
    "802.1ad and 802.1Q": (
        ethernet(ipv6(A6, B6, udp(1, 2)), vlans=[(pk.ETHERTYPE_QINQ, 3), 7]),
        Flow(OUT, A6, 1, B6, 2, 17),
        Sum(1, 48),
    ),
    # The kernel takes the outermost tag into the skb, so two are left in the bytes.
    "three tags": (
        ethernet(ipv4(A4, B4, udp(1, 2)), vlans=[(pk.ETHERTYPE_QINQ, 2), 3, 7]),
        Flow(OUT, A4, 1, B4, 2, 17),
        Sum(1, 28),
    ),
    "IPv4 options": (
        ethernet(ipv4(A4, B4, tcp(1, 2), options=b"\x01" * 12)),
        Flow(OUT, A4, 1, B4, 2, 6),
        Sum(1, 52),
    ),
    "IPv6 extension headers": (
        ethernet(ipv6(A6, B6, tcp(1, 2), extensions=[pk.hop_by_hop(), pk.routing(), pk.authentication()])),
        Flow(OUT, A6, 1, B6, 2, 6),
        Sum(1, 40 + 8 + 8 + 24 + 20),
    ),
    "eight extension headers, the most there may be": (
        ethernet(ipv6(A6, B6, udp(1, 2), extensions=[pk.destination_options()] * 8)),
        Flow(OUT, A6, 1, B6, 2, 17),
        Sum(1, 40 + 64 + 8),
    ),
    "GRE": (ethernet(ipv4(A4, B4, b"\0" * 30, protocol=47)), Flow(OUT, A4, 0, B4, 0, 47), Sum(1, 50)),
    "SCTP has no ports here": (ethernet(ipv4(A4, B4, pk.sctp(5, 6))), Flow(OUT, A4, 0, B4, 0, 132), Sum(1, 36)),
}


@pytest.mark.parametrize("direction", [OUT, IN])
def test_each_kind_of_packet_is_a_flow(pair: Pair, datapath: Datapath, direction: int) -> None:
    for name, (frame, flow, expected) in FLOWS.items():
        seen, excluded_ = sent(pair, datapath, [frame, frame, frame], direction)
        wanted = {flow._replace(direction=direction): Sum(3 * expected.packets, 3 * expected.bytes)}
        if (name, direction) == ("three tags", IN):
            # A packet socket sends all tags in the bytes, and at the egress hook nobody has taken one out yet.
            assert (seen, excluded_) == ({}, {Exclusion.NON_IP: 3})
            continue
        assert (name, seen, excluded_) == (name, wanted, {})


MALFORMED = {
    "version": ethernet(ipv4(A4, B4, tcp(1, 2), version=5), pk.ETHERTYPE_IPV4),
    "header shorter than 20": ethernet(ipv4(A4, B4, tcp(1, 2), header_words=4)),
    "header longer than the packet": ethernet(ipv4(A4, B4, b"", protocol=6, header_words=15)),
    "total length too long": ethernet(ipv4(A4, B4, tcp(1, 2), total_length=41)),
    "total length shorter than the header": ethernet(ipv4(A4, B4, tcp(1, 2), total_length=19)),
    "TCP cut": ethernet(ipv4(A4, B4, b"\0" * 19, protocol=6), pad_to=60),
    "UDP cut": ethernet(ipv4(A4, B4, b"\0" * 7, protocol=17)),
    "TCP data offset": ethernet(ipv4(A4, B4, tcp(1, 2, header_words=4))),
    "IPv6 version": ethernet(ipv6(A6, B6, tcp(1, 2), version=4), pk.ETHERTYPE_IPV6),
    "IPv6 payload length": ethernet(ipv6(A6, B6, tcp(1, 2), payload_length=21)),
    "nine extension headers, the last one a later fragment's": ethernet(
        ipv6(
            A6,
            B6,
            b"\0" * 8,
            next_header=17,
            extensions=[*[pk.destination_options()] * 8, pk.fragment_header(1, 8, False)],
        )
    ),
    "extension header cut": ethernet(ipv6(A6, B6, b"\x06\x01" + b"\0" * 6, next_header=60)),
    "nine extension headers": ethernet(ipv6(A6, B6, udp(1, 2), extensions=[pk.destination_options()] * 9)),
}

EXCLUDED = {
    # The port of this protocol at the service's end; the reason. Reference: VPC user guide, limitations.
    "arp": (ethernet(pk.arp(), pk.ETHERTYPE_ARP), Exclusion.ARP),
    "lldp": (ethernet(b"\0" * 46, pk.ETHERTYPE_LLDP), Exclusion.NON_IP),
    "neighbour solicitation": (
        ethernet(ipv6("fe80::1", "ff02::1:ff00:2", pk.icmpv6(135))),
        Exclusion.NEIGHBOUR_DISCOVERY,
    ),
    "router advertisement": (ethernet(ipv6("fe80::1", A6, pk.icmpv6(134))), Exclusion.NEIGHBOUR_DISCOVERY),
    "multicast": (ethernet(ipv4(A4, "239.1.2.3", udp(1, 2))), Exclusion.MULTICAST),
    "IPv6 multicast": (ethernet(ipv6(A6, "ff05::9", udp(1, 2))), Exclusion.MULTICAST),
    "broadcast": (ethernet(ipv4(A4, "255.255.255.255", udp(1, 2))), Exclusion.MULTICAST),
    "a subnet's broadcast": (
        ethernet(ipv4(A4, "10.77.0.255", udp(1, 2)), destination=pk.BROADCAST_MAC),
        Exclusion.MULTICAST,
    ),
    "dns": (ethernet(ipv4(A4, f"{LINK_LOCAL}.253", udp(4000, 53))), Exclusion.DNS),
    "dns answer by tcp": (ethernet(ipv4(f"{LINK_LOCAL}.253", A4, tcp(53, 4000))), Exclusion.DNS),
    "dns by IPv6": (ethernet(ipv6(A6, "fd00:ec2::253", udp(4000, 53))), Exclusion.DNS),
    "dns at VPC base + 2": (ethernet(ipv4(A4, "10.77.0.66", udp(4000, 53))), Exclusion.DNS),
    "activation": (ethernet(ipv4(A4, f"{LINK_LOCAL}.250", tcp(4000, 1688))), Exclusion.ACTIVATION),
    "activation, other server": (ethernet(ipv4(f"{LINK_LOCAL}.251", A4, tcp(1688, 4000))), Exclusion.ACTIVATION),
    "activation by IPv6": (ethernet(ipv6(A6, "fd00:ec2::250", tcp(4000, 1688))), Exclusion.ACTIVATION),
    "metadata": (ethernet(ipv4(A4, f"{LINK_LOCAL}.254", tcp(4000, 80))), Exclusion.METADATA),
    "metadata by IPv6": (ethernet(ipv6("fd00:ec2::254", A6, tcp(80, 4000))), Exclusion.METADATA),
    "time": (ethernet(ipv4(A4, f"{LINK_LOCAL}.123", udp(123, 123))), Exclusion.TIME),
    "time by IPv6": (ethernet(ipv6(A6, "fd00:ec2::123", udp(4000, 123))), Exclusion.TIME),
    "dhcp": (ethernet(ipv4("0.0.0.0", "255.255.255.255", udp(68, 67))), Exclusion.DHCP),
    "dhcp renewal": (ethernet(ipv4("10.77.0.65", A4, udp(67, 68))), Exclusion.DHCP),
    "dhcpv6": (ethernet(ipv6("fe80::2", "ff02::1:2", udp(546, 547))), Exclusion.DHCP),
    "router of the VPC": (ethernet(ipv4(A4, "10.77.0.65", pk.icmp(8))), Exclusion.ROUTER),
    "router of the subnet": (ethernet(ipv4("10.77.0.97", A4, tcp(1, 2))), Exclusion.ROUTER),
    "router by IPv6": (ethernet(ipv6(A6, "2001:db8:77::1", tcp(1, 2))), Exclusion.ROUTER),
    "router's link-local": (ethernet(ipv6(A6, "fe80:ec2::1", pk.icmpv6(128))), Exclusion.ROUTER),
}

LOGGED = {
    # What lies next to an exclusion and is none.
    "dns of one's own": ethernet(ipv4(A4, "10.77.0.50", udp(4000, 53))),
    "not the dns port": ethernet(ipv4(A4, f"{LINK_LOCAL}.253", tcp(4000, 80))),
    "the dns port at the wrong end": ethernet(ipv4(A4, f"{LINK_LOCAL}.253", udp(53, 4000))),
    "not the activation port": ethernet(ipv4(A4, f"{LINK_LOCAL}.250", tcp(4000, 80))),
    "another link-local address": ethernet(ipv4(A4, f"{LINK_LOCAL}.252", tcp(4000, 80))),
    "another address ending in 254": ethernet(ipv4(A4, "169.254.170.254", tcp(4000, 80))),
    "ntp of the public": ethernet(ipv4(A4, B4, udp(123, 123))),
    "an ephemeral port to 67": ethernet(ipv4(A4, B4, udp(4000, 67))),
    "dhcp's ports over tcp": ethernet(ipv4(A4, B4, tcp(68, 67))),
    "dhcpv6's ports over IPv4": ethernet(ipv4(A4, B4, udp(546, 547))),
    "::1 of another subnet": ethernet(ipv6(A6, "2001:db8:78::1", tcp(1, 2))),
    "fd00:ec2::252": ethernet(ipv6(A6, "fd00:ec2::252", tcp(4000, 80))),
}


@pytest.mark.parametrize("direction", [OUT, IN])
def test_malformed_and_excluded_packets_are_counted_as_what_they_are(
    pair: Pair, datapath: Datapath, direction: int
) -> None:
    datapath.set_interface(
        SLOT,
        dns_v4=bytes([10, 77, 0, 66]),
        routers_v4=[bytes([10, 77, 0, 65]), bytes([10, 77, 0, 97])],
        router_v6=bytes.fromhex("20010db8007700000000000000000001"),
    )
    for name, frame in MALFORMED.items():
        assert (name, *sent(pair, datapath, [frame] * 2, direction)) == (name, {}, {Exclusion.MALFORMED: 2})
    for name, (frame, reason) in EXCLUDED.items():
        assert (name, *sent(pair, datapath, [frame] * 2, direction)) == (name, {}, {reason: 2})
    for name, frame in LOGGED.items():
        seen, excluded_ = sent(pair, datapath, [frame] * 2, direction)
        assert (name, sum(flow.packets for flow in seen.values()), excluded_) == (name, 2, {})


def test_a_fragmented_datagram_is_one_flow(pair: Pair, datapath: Datapath) -> None:
    frames, bytes_ = [], 0
    for number in range(300):
        frames += [
            ethernet(part)
            for part in pk.ipv4_fragments(
                A4, B4, udp(4000, 5000, b"x" * 3000), identification=number, fragment_bytes=1480
            )
        ]
        bytes_ += 3 * 20 + 3008
    seen, excluded_ = sent(pair, datapath, frames)
    assert seen == {Flow(OUT, A4, 4000, B4, 5000, 17): Sum(900, bytes_)}
    assert excluded_ == {}


def test_ipv6_fragments_behind_other_headers(pair: Pair, datapath: Datapath) -> None:
    parts = pk.ipv6_fragments(
        A6,
        B6,
        tcp(4000, 5000, pk.SYN, b"x" * 2000),
        identification=0x80000001,
        fragment_bytes=1024,
        extensions=[pk.destination_options()],
    )
    seen, _ = sent(pair, datapath, [ethernet(part) for part in parts])
    assert seen == {Flow(OUT, A6, 4000, B6, 5000, 6): Sum(2, 2 * (40 + 8 + 8) + 2020)}


def test_a_later_fragment_without_its_first_has_no_ports(pair: Pair, datapath: Datapath) -> None:
    first, second = pk.ipv4_fragments(A4, B4, udp(4000, 5000, b"x" * 1600), identification=9, fragment_bytes=1024)
    seen, _ = sent(pair, datapath, [ethernet(second)])
    assert seen == {Flow(OUT, A4, 0, B4, 0, 17): Sum(1, 20 + 584)}
    # Another datagram's first fragment, of another id and of the other direction, is not its own.
    other, _ = pk.ipv4_fragments(A4, B4, udp(4000, 5000, b"x" * 1600), identification=10, fragment_bytes=1024)
    sent(pair, datapath, [ethernet(other)])
    sent(pair, datapath, [ethernet(first)], IN)
    seen, _ = sent(pair, datapath, [ethernet(second)])
    assert seen == {Flow(OUT, A4, 0, B4, 0, 17): Sum(1, 20 + 584)}


def test_fragments_of_an_excluded_datagram_are_excluded(pair: Pair, datapath: Datapath) -> None:
    parts = pk.ipv4_fragments(
        f"{LINK_LOCAL}.253", A4, udp(53, 4000, b"x" * 1600), identification=9, fragment_bytes=1024
    )
    seen, excluded_ = sent(pair, datapath, [ethernet(part) for part in parts], IN)
    assert (seen, excluded_) == ({}, {Exclusion.DNS: 2})


def test_tcp_flags_in_awss_sense(pair: Pair, datapath: Datapath) -> None:
    # VPC user guide, tcp-flags: each packet's value, and the OR of a short connection's two directions.
    def flags_of(*packets: int) -> int:
        pair.inject_from_instance([ethernet(ipv4(A4, B4, tcp(1, 2, flags))) for flags in packets])
        pair.settle()
        (row,) = drain_all(datapath).flows.to_pylist()
        return int(row["tcp_flags"])

    assert flags_of(pk.SYN) == 2
    assert flags_of(pk.SYN | pk.ACK) == 18
    assert flags_of(pk.ACK) == 0
    assert flags_of(pk.PSH | pk.ACK) == 0
    assert flags_of(pk.FIN | pk.ACK) == 1
    assert flags_of(pk.RST | pk.ACK) == 4
    assert flags_of(pk.SYN | pk.ECE | pk.CWR) == 2
    assert flags_of(0) == 0
    assert flags_of(pk.SYN, pk.ACK, pk.PSH | pk.ACK, pk.FIN | pk.ACK) == 3
    assert flags_of(pk.SYN | pk.ACK, pk.ACK, pk.FIN | pk.ACK) == 19


def test_times_are_unix_times_of_first_and_last_packet(pair: Pair, datapath: Datapath) -> None:
    import time

    frame = ethernet(ipv4(A4, B4, udp(1, 2)))
    before = time.time_ns()
    pair.inject_from_instance([frame])
    between = time.time_ns()
    time.sleep(0.3)
    again = time.time_ns()
    pair.inject_from_instance([frame])
    after = time.time_ns()
    drain = drain_all(datapath)
    (row,) = drain.flows.to_pylist()
    slack = 2_000_000  # reading two clocks is not one step
    tick = 13_000_000  # the coarse clock is late by a timer tick of up to 10 ms, a moment is about 1 ms
    assert before - tick <= row["start_ns"] <= between + slack
    assert again - tick <= row["end_ns"] <= after + slack
    assert after - slack <= drain.flipped_ns <= time.time_ns()


def test_random_bytes_never_stall_the_datapath(pair: Pair, datapath: Datapath) -> None:
    generator = random.Random(20260101)
    base = [frame for frame, _, _ in FLOWS.values()] + list(MALFORMED.values())
    frames = []
    for _ in range(2000):
        frame = bytearray(generator.choice(base))
        for _ in range(generator.randint(1, 6)):
            frame[generator.randrange(12, len(frame))] = generator.randrange(256)
        # A tagged frame of less than 20 bytes never gets as far as tc ingress: the kernel fails to take the tag out
        # (net/core/skbuff.c: skb_vlan_untag) and the device alone has counted it. Ethernet has none: 60 is the least.
        frames.append(bytes(frame[: generator.randint(20, len(frame))]))
    sent(pair, datapath, frames)
    sent(pair, datapath, frames, IN)


def test_outcomes_are_not_mixed(pair: Pair, datapath: Datapath) -> None:
    accepted, rejected = (ethernet(ipv4(B4, A4, tcp(4000, port, pk.SYN))) for port in (80, 81))
    let_in(datapath, SLOT, (6, 80))
    seen, _ = sent(pair, datapath, [accepted, rejected, accepted, rejected], IN)
    assert seen == {
        Flow(IN, B4, 4000, A4, 80, 6): Sum(2, 80),
        Flow(IN, B4, 4000, A4, 81, 6, Outcome.REJECT): Sum(2, 80),
    }


def test_one_flow_of_two_outcomes_is_two(pair: Pair, datapath: Datapath) -> None:
    """Rules that change between its packets."""
    frames = [ethernet(ipv4(B4, A4, udp(4000, 81)))] * 2
    pair.inject_from_host(frames)
    let_in(datapath, SLOT, (17, 80))
    pair.inject_from_host(frames)
    pair.settle()
    flow = Flow(IN, B4, 4000, A4, 81, 17)
    assert flows(drain_all(datapath)) == {flow: Sum(2, 56), flow._replace(outcome=Outcome.REJECT): Sum(2, 56)}

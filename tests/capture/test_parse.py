"""The parser: what RFCs and AWS say of a packet, and a second parser, in Python, that has to agree on all others.

The first half is a table of packets, each with what is expected of it, written from the standards. The second half
generates stacks of headers, whole and damaged, and holds the C against `understand`, which shares no code with it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address
from random import Random
from typing import Any

import packets as pk
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packets import ethernet, ipv4, ipv6, tcp, udp

from vnotch.capture.library import ParsedPacket, SlotPolicy, parse_packet
from vnotch.errors import InputError
from vnotch.flow import Exclusion

A4, B4 = "10.0.1.5", "198.51.100.7"
A6, B6 = "2001:db8::5", "2001:db8:1::7"
ETHERNET = 14


def seen(packet: ParsedPacket) -> tuple[Any, ...]:
    return (packet.protocol, packet.srcaddr, packet.srcport, packet.dstaddr, packet.dstport, packet.bytes)


# Flows ---------------------------------------------------------------------------------------------------------------

FLOWS = {
    # RFC 791 total length: 20 + 20.
    "tcp": (ethernet(ipv4(A4, B4, tcp(40000, 443))), (6, A4, 40000, B4, 443, 40)),
    # VPC user guide, ping example: 84 bytes a packet, ports 0 0.
    "ping": (ethernet(ipv4(A4, B4, pk.icmp(8))), (1, A4, 0, B4, 0, 84)),
    "udp": (ethernet(ipv4(A4, B4, udp(123, 123, b"\0" * 48))), (17, A4, 123, B4, 123, 76)),
    "padding of a short frame is not counted": (
        ethernet(ipv4(A4, B4, udp(1, 2)), pad_to=60),
        (17, A4, 1, B4, 2, 28),
    ),
    "ipv4 options": (
        ethernet(ipv4(A4, B4, tcp(1, 2, options=b"\x02\x04\x05\xb4"), options=b"\x94\x04\0\0")),
        (6, A4, 1, B4, 2, 48),
    ),
    "ipv4 options at their longest": (ethernet(ipv4(A4, B4, udp(1, 2), options=b"\x01" * 40)), (17, A4, 1, B4, 2, 68)),
    "one tag": (ethernet(ipv4(A4, B4, udp(1, 2)), vlans=[42]), (17, A4, 1, B4, 2, 28)),
    "two tags": (ethernet(ipv4(A4, B4, udp(1, 2)), vlans=[(0x88A8, 7), 42]), (17, A4, 1, B4, 2, 28)),
    "tcp over ipv6": (ethernet(ipv6(A6, B6, tcp(40000, 443))), (6, A6, 40000, B6, 443, 60)),
    "ping over ipv6": (ethernet(ipv6(A6, B6, pk.icmpv6(128))), (58, A6, 0, B6, 0, 104)),
    "extension headers are walked": (
        ethernet(
            ipv6(
                A6,
                B6,
                udp(5, 6),
                extensions=[pk.hop_by_hop(), pk.destination_options(), pk.routing(), pk.authentication()],
            )
        ),
        (17, A6, 5, B6, 6, 40 + 8 + 8 + 8 + 24 + 8),
    ),
    "a long extension header": (
        ethernet(ipv6(A6, B6, udp(5, 6), extensions=[pk.destination_options(b"\x01\x0c" + b"\0" * 12)])),
        (17, A6, 5, B6, 6, 40 + 16 + 8),
    ),
    "an atomic fragment is whole (RFC 6946)": (
        ethernet(ipv6(A6, B6, udp(5, 6), extensions=[pk.fragment_header(9, 0, False)])),
        (17, A6, 5, B6, 6, 56),
    ),
    "no next header": (ethernet(ipv6(A6, B6, b"", next_header=59)), (59, A6, 0, B6, 0, 40)),
    "esp": (ethernet(ipv4(A4, B4, pk.esp())), (50, A4, 0, B4, 0, 60)),
    "esp over ipv6": (ethernet(ipv6(A6, B6, pk.esp())), (50, A6, 0, B6, 0, 80)),
    "ah is a protocol of ipv4": (ethernet(ipv4(A4, B4, pk.other(51))), (51, A4, 0, B4, 0, 36)),
    "gre is not looked into": (
        ethernet(ipv4(A4, B4, pk.gre(ipv4("1.1.1.1", "2.2.2.2", udp(1, 2))))),
        (47, A4, 0, B4, 0, 52),
    ),
    "sctp has no ports here": (ethernet(ipv4(A4, B4, pk.sctp(5, 6))), (132, A4, 0, B4, 0, 36)),
    "udp-lite has no ports here": (ethernet(ipv4(A4, B4, pk.udp_lite(5, 6))), (136, A4, 0, B4, 0, 28)),
    "ipv6 in ipv4": (ethernet(ipv4(A4, B4, ipv6(A6, B6, udp(1, 2)), protocol=41)), (41, A4, 0, B4, 0, 68)),
    "icmpv6 in ipv4 is just a number": (ethernet(ipv4(A4, B4, pk.other(58, b"\x87\0\0\0"))), (58, A4, 0, B4, 0, 24)),
    "reserved protocol": (ethernet(ipv4(A4, B4, pk.other(255))), (255, A4, 0, B4, 0, 36)),
    "protocol 0": (ethernet(ipv4(A4, B4, pk.other(0))), (0, A4, 0, B4, 0, 36)),
    "empty payload": (ethernet(ipv4(A4, B4, b"", protocol=253)), (253, A4, 0, B4, 0, 20)),
    "port zero": (ethernet(ipv4(A4, B4, udp(0, 0))), (17, A4, 0, B4, 0, 28)),
    "highest ports": (ethernet(ipv4(A4, B4, udp(65535, 65534))), (17, A4, 65535, B4, 65534, 28)),
}


@pytest.mark.parametrize("name", FLOWS)
def test_a_packet_becomes_its_flow(name: str) -> None:
    frame, expected = FLOWS[name]
    packet = parse_packet(frame)
    assert packet.exclusion is None
    assert seen(packet) == expected
    assert packet.packets == 1
    assert packet.family == (6 if ":" in packet.srcaddr else 4)


# VPC user guide, tcp-flags: FIN 1, SYN 2, RST 4, SYN-ACK 18; ACK, PSH and all others by themselves are 0.
TCP_FLAGS = [
    (0, 0),
    (pk.SYN, 2),
    (pk.SYN | pk.ACK, 18),
    (pk.ACK, 0),
    (pk.PSH | pk.ACK, 0),
    (pk.FIN, 1),
    (pk.FIN | pk.ACK, 1),
    (pk.FIN | pk.PSH | pk.ACK, 1),
    (pk.RST, 4),
    (pk.RST | pk.ACK, 4),
    (pk.SYN | pk.ECE | pk.CWR, 2),
    (pk.SYN | pk.ACK | pk.ECE, 18),
    (pk.URG, 0),
    (pk.SYN | pk.FIN, 3),
    (0xFF, 23),
]


@pytest.mark.parametrize(("flags", "expected"), TCP_FLAGS)
def test_tcp_flags_are_those_of_aws(flags: int, expected: int) -> None:
    packet = parse_packet(ethernet(ipv4(A4, B4, tcp(1, 2, flags))))
    assert packet.tcp_flags == expected
    assert packet.opens == (flags & (pk.SYN | pk.ACK) == pk.SYN)


def test_only_tcp_has_tcp_flags() -> None:
    assert parse_packet(ethernet(ipv4(A4, B4, pk.other(132, b"\xff" * 20)))).tcp_flags == 0


# Fragments -----------------------------------------------------------------------------------------------------------


def test_fragments_of_ipv4() -> None:
    pieces = pk.ipv4_fragments(A4, B4, udp(53, 4000, b"z" * 100), identification=777, fragment_bytes=40)
    first, second, last = (parse_packet(ethernet(piece)) for piece in pieces)
    assert (first.fragment, second.fragment, last.fragment) == (1, 2, 2)
    assert {packet.fragment_id for packet in (first, second, last)} == {777}
    assert seen(first) == (17, A4, 53, B4, 4000, 60)
    assert seen(second) == (17, A4, 0, B4, 0, 60)
    assert seen(last) == (17, A4, 0, B4, 0, 48)


def test_fragments_of_ipv6() -> None:
    pieces = pk.ipv6_fragments(
        A6, B6, udp(53, 4000, b"z" * 100), identification=0xDEADBEEF, fragment_bytes=48, extensions=[pk.hop_by_hop()]
    )
    first, second, last = (parse_packet(ethernet(piece)) for piece in pieces)
    assert (first.fragment, second.fragment, last.fragment) == (1, 2, 2)
    assert {packet.fragment_id for packet in (first, second, last)} == {0xDEADBEEF}
    assert seen(first) == (17, A6, 53, B6, 4000, 40 + 8 + 8 + 48)
    assert seen(second) == (17, A6, 0, B6, 0, 40 + 8 + 8 + 48)
    assert seen(last) == (17, A6, 0, B6, 0, 40 + 8 + 8 + 12)


def test_do_not_fragment_is_no_fragment() -> None:
    assert parse_packet(ethernet(ipv4(A4, B4, udp(1, 2), dont_fragment=True))).fragment == 0


def test_a_later_fragment_of_ipv6_is_not_walked_into() -> None:
    # Its bytes would be an endless extension header, were they one.
    piece = ipv6(A6, B6, b"\xff" * 8, next_header=60, extensions=[pk.fragment_header(1, 64, True)])
    packet = parse_packet(ethernet(piece))
    assert packet.exclusion is None
    assert packet.protocol == 60


# Not a flow ----------------------------------------------------------------------------------------------------------

EXCLUDED = {
    "arp": (ethernet(pk.arp(), pk.ETHERTYPE_ARP), Exclusion.ARP, 28),
    "arp in a vlan": (ethernet(pk.arp(), pk.ETHERTYPE_ARP, vlans=[3]), Exclusion.ARP, 28),
    "lldp": (ethernet(b"\0" * 46, pk.ETHERTYPE_LLDP), Exclusion.NON_IP, 46),
    "802.3 length instead of a type": (ethernet(b"\x42\x42\x03" + b"\0" * 43, 38), Exclusion.NON_IP, 46),
    "three tags": (ethernet(ipv4(A4, B4, udp(1, 2)), vlans=[1, 2, 3]), Exclusion.NON_IP, 32),
    # RFC 4861: 133 to 137.
    **{
        f"neighbour discovery {kind}": (
            ethernet(ipv6("fe80::1", "ff02::1", pk.icmpv6(kind, payload=b"\0" * 20))),
            Exclusion.NEIGHBOUR_DISCOVERY,
            64,
        )
        for kind in (133, 134, 135, 136, 137)
    },
    "ipv4 multicast": (ethernet(ipv4(A4, "224.0.0.251", udp(5353, 5353))), Exclusion.MULTICAST, 28),
    "highest ipv4 multicast": (ethernet(ipv4(A4, "239.255.255.255", udp(1, 2))), Exclusion.MULTICAST, 28),
    "ipv6 multicast": (ethernet(ipv6(A6, "ff02::fb", udp(5353, 5353))), Exclusion.MULTICAST, 48),
    "multicast listener report": (
        ethernet(ipv6("fe80::1", "ff02::16", pk.icmpv6(143), extensions=[pk.hop_by_hop()])),
        Exclusion.MULTICAST,
        112,
    ),
    "limited broadcast": (ethernet(ipv4(A4, "255.255.255.255", udp(1, 2))), Exclusion.MULTICAST, 28),
    "a subnet's broadcast, by its mac": (
        ethernet(ipv4(A4, "10.0.1.255", udp(1, 2)), destination=pk.BROADCAST_MAC),
        Exclusion.MULTICAST,
        28,
    ),
    # VPC user guide, flow log limitations.
    "dns by link local": (ethernet(ipv4(A4, "169.254.169.253", udp(4000, 53))), Exclusion.DNS, 28),
    "dns answers": (ethernet(ipv4("10.0.0.2", A4, udp(53, 4000))), Exclusion.DNS, 28),
    "dns by tcp": (ethernet(ipv4(A4, "10.0.0.2", tcp(4000, 53, pk.SYN))), Exclusion.DNS, 40),
    "dns over ipv6": (ethernet(ipv6(A6, "fd00:ec2::253", udp(4000, 53))), Exclusion.DNS, 48),
    "activation": (ethernet(ipv4(A4, "169.254.169.250", tcp(4000, 1688))), Exclusion.ACTIVATION, 40),
    "activation, the other": (ethernet(ipv4(A4, "169.254.169.251", tcp(4000, 1688))), Exclusion.ACTIVATION, 40),
    "activation answers": (ethernet(ipv4("169.254.169.250", A4, tcp(1688, 4000))), Exclusion.ACTIVATION, 40),
    "activation over ipv6": (ethernet(ipv6(A6, "fd00:ec2::250", tcp(4000, 1688))), Exclusion.ACTIVATION, 60),
    "metadata": (ethernet(ipv4(A4, "169.254.169.254", tcp(4000, 80))), Exclusion.METADATA, 40),
    "metadata answers": (ethernet(ipv4("169.254.169.254", A4, tcp(80, 4000))), Exclusion.METADATA, 40),
    "metadata by ping": (ethernet(ipv4(A4, "169.254.169.254", pk.icmp())), Exclusion.METADATA, 84),
    "metadata over ipv6": (ethernet(ipv6(A6, "fd00:ec2::254", tcp(4000, 80))), Exclusion.METADATA, 60),
    "time": (ethernet(ipv4(A4, "169.254.169.123", udp(123, 123))), Exclusion.TIME, 28),
    "time over ipv6": (ethernet(ipv6("fd00:ec2::123", A6, udp(123, 123))), Exclusion.TIME, 48),
    "dhcp": (ethernet(ipv4("0.0.0.0", "255.255.255.255", udp(68, 67))), Exclusion.DHCP, 28),
    "dhcp renewal": (ethernet(ipv4(A4, "10.0.1.1", udp(68, 67))), Exclusion.DHCP, 28),
    "dhcpv6": (ethernet(ipv6("fe80::1", "ff02::1:2", udp(546, 547))), Exclusion.DHCP, 48),
    "the vpc's router": (ethernet(ipv4(A4, "10.0.0.1", pk.icmp())), Exclusion.ROUTER, 84),
    "the subnet's router": (ethernet(ipv4("10.0.1.1", A4, pk.icmp(0))), Exclusion.ROUTER, 84),
    "the subnet's router over ipv6": (ethernet(ipv6("2001:db8::1", A6, pk.icmpv6())), Exclusion.ROUTER, 104),
    "the router's link local address": (ethernet(ipv6("fe80:ec2::1", A6, pk.icmpv6())), Exclusion.ROUTER, 104),
}

POLICY = SlotPolicy(dns_ipv4="10.0.0.2", routers_ipv4=("10.0.0.1", "10.0.1.1"), router_ipv6="2001:db8::1")


@pytest.mark.parametrize("name", EXCLUDED)
def test_a_packet_is_excluded(name: str) -> None:
    frame, exclusion, length = EXCLUDED[name]
    packet = parse_packet(frame, policy=POLICY)
    assert packet.exclusion is exclusion
    assert (packet.packets, packet.bytes) == (1, length)


NOT_EXCLUDED = {
    "a resolver of one's own": ethernet(ipv4(A4, "10.0.0.53", udp(4000, 53))),
    "another port of the amazon resolver": ethernet(ipv4(A4, "10.0.0.2", udp(4000, 123))),
    "activation's address, another port": ethernet(ipv4(A4, "169.254.169.250", tcp(4000, 80))),
    "public time": ethernet(ipv4(A4, "203.0.113.9", udp(123, 123))),
    "link local without a meaning": ethernet(ipv4(A4, "169.254.169.1", tcp(4000, 80))),
    "dhcp's port with another": ethernet(ipv4(A4, B4, udp(67, 4000))),
    "dhcp's ports by tcp": ethernet(ipv4(A4, B4, tcp(67, 68))),
    "ipv6's dhcp ports over ipv4": ethernet(ipv4(A4, B4, udp(546, 547))),
    "unicast ping over ipv6": ethernet(ipv6(A6, B6, pk.icmpv6(129))),
    "a destination just before multicast": ethernet(ipv4(A4, "223.255.255.255", udp(1, 2))),
    "class e": ethernet(ipv4(A4, "240.0.0.1", udp(1, 2))),
    "fd00:ec2::/32's neighbour": ethernet(ipv6(A6, "fd00:ec3::254", tcp(4000, 80))),
    "an address that only ends like the router's": ethernet(ipv6("2001:db8:0:1::1", A6, pk.icmpv6())),
}


@pytest.mark.parametrize("name", NOT_EXCLUDED)
def test_a_packet_is_not_excluded(name: str) -> None:
    assert parse_packet(NOT_EXCLUDED[name], policy=POLICY).exclusion is None


def test_reserved_addresses_are_those_of_the_policy() -> None:
    frame = ethernet(ipv4(A4, "10.0.0.2", udp(4000, 53)))
    assert parse_packet(frame).exclusion is None
    assert parse_packet(frame, policy=SlotPolicy(dns_ipv4="10.0.0.2")).exclusion is Exclusion.DNS


def test_an_unset_address_is_not_0_0_0_0() -> None:
    assert parse_packet(ethernet(ipv4("0.0.0.0", B4, udp(4000, 53)))).exclusion is None
    assert parse_packet(ethernet(ipv6("::", B6, udp(4000, 53)))).exclusion is None


@pytest.mark.parametrize(
    "policy",
    [
        SlotPolicy(dns_ipv4="10.0.0"),
        SlotPolicy(router_ipv6="10.0.0.1"),
        SlotPolicy(routers_ipv4=("10.0.0.1", "10.0.1.1", "10.0.2.1")),
    ],
)
def test_a_policy_that_cannot_be_is_refused(policy: SlotPolicy) -> None:
    with pytest.raises(InputError):
        parse_packet(ethernet(pk.arp(), pk.ETHERTYPE_ARP), policy=policy)


# Malformed -----------------------------------------------------------------------------------------------------------

MALFORMED = {
    "nothing": b"",
    "half an ethernet header": ethernet(b"", 0x0800)[:13],
    "no ip header": ethernet(b"", 0x0800),
    "half an ipv4 header": ethernet(ipv4(A4, B4, udp(1, 2))[:19]),
    "half an ipv6 header": ethernet(ipv6(A6, B6, udp(1, 2))[:39]),
    "half a tag": ethernet(ipv4(A4, B4, udp(1, 2)), vlans=[1])[:16],
    "ipv4 of version 5": ethernet(ipv4(A4, B4, udp(1, 2), version=5)),
    "ipv6 of version 4": ethernet(ipv6(A6, B6, udp(1, 2), version=4), pk.ETHERTYPE_IPV6),
    "a header of four words": ethernet(ipv4(A4, B4, udp(1, 2), header_words=4)),
    "total length shorter than the header": ethernet(ipv4(A4, B4, udp(1, 2), total_length=19)),
    "total length zero": ethernet(ipv4(A4, B4, udp(1, 2), total_length=0)),
    "total length longer than the frame": ethernet(ipv4(A4, B4, udp(1, 2), total_length=29)),
    "payload length longer than the frame": ethernet(ipv6(A6, B6, udp(1, 2), payload_length=9)),
    "half a udp header": ethernet(ipv4(A4, B4, b"\0\1\0\2\0\0\0", protocol=17)),
    "half a tcp header": ethernet(ipv4(A4, B4, b"\0\1\0\2" + b"\0" * 15, protocol=6)),
    "a udp header in the padding": ethernet(ipv4(A4, B4, udp(1, 2), total_length=27)),
    "a tcp header of four words": ethernet(ipv4(A4, B4, tcp(1, 2, header_words=4))),
    "a tcp header longer than the packet": ethernet(ipv4(A4, B4, tcp(1, 2, header_words=6))),
    "half an icmpv6 header": ethernet(ipv6(A6, B6, b"\x80\0\0", next_header=58)),
    "an extension header without end": ethernet(ipv6(A6, B6, b"\x11\xff" + b"\0" * 30, next_header=0)),
    "half an extension header": ethernet(ipv6(A6, B6, b"\x11\0\0\0", next_header=60)),
    "nine extension headers": ethernet(ipv6(A6, B6, udp(1, 2), extensions=[pk.destination_options()] * 9)),
    "a fragment of a fragment": ethernet(
        ipv6(A6, B6, udp(1, 2), extensions=[pk.fragment_header(1, 0, True), pk.fragment_header(2, 0, True)])
    ),
    # RFC 1858: tiny first fragments.
    "a first fragment without its tcp header": ethernet(
        ipv4(A4, B4, b"\0\1\0\2\0\0\0\0", protocol=6, more_fragments=True)
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_packet_is_counted_as_such(name: str) -> None:
    frame = MALFORMED[name]
    packet = parse_packet(frame)
    assert packet.exclusion is Exclusion.MALFORMED
    assert packet.packets == 1
    assert packet.bytes <= len(frame)


def test_eight_extension_headers_are_not_too_many() -> None:
    packet = parse_packet(ethernet(ipv6(A6, B6, udp(1, 2), extensions=[pk.destination_options()] * 8)))
    assert seen(packet) == (17, A6, 1, B6, 2, 40 + 64 + 8)


def test_a_snap_length_takes_nothing_from_the_lengths() -> None:
    frame = ethernet(ipv4(A4, B4, tcp(1, 2, payload=b"x" * 1000)))
    assert seen(parse_packet(frame[:54], len(frame))) == (6, A4, 1, B4, 2, 1040)


def test_a_snap_length_that_takes_a_needed_header_makes_the_packet_malformed() -> None:
    frame = ethernet(ipv4(A4, B4, tcp(1, 2, payload=b"x" * 1000)))
    assert parse_packet(frame[:40], len(frame)).exclusion is Exclusion.MALFORMED


# Several packets in one frame ----------------------------------------------------------------------------------------


def test_a_gso_frame_counts_as_its_segments() -> None:
    # 10 segments of 1448 bytes and one of 520: each repeats 20 + 20 + 12 bytes of headers.
    frame = ethernet(ipv4(A4, B4, tcp(1, 2, payload=b"x" * 15000, options=b"\x01" * 12)))
    for segments in (11, 0):  # 0: the kernel does not know, and the parser counts
        packet = parse_packet(frame, gso_size=1448, gso_segments=segments)
        assert packet.packets == 11
        assert packet.bytes == 15000 + 11 * 52


def test_a_udp_gso_frame_counts_as_its_segments() -> None:
    frame = ethernet(ipv6(A6, B6, udp(1, 2, b"x" * 3000)))
    packet = parse_packet(frame, gso_size=1200)
    assert (packet.packets, packet.bytes) == (3, 3000 + 3 * 48)


# Link types ----------------------------------------------------------------------------------------------------------

IPV4_PACKET, IPV6_PACKET = ipv4(A4, B4, udp(1, 2)), ipv6(A6, B6, udp(1, 2))


@pytest.mark.parametrize(
    ("link_type", "frame", "expected"),
    [
        (12, IPV4_PACKET, A4),
        (101, IPV4_PACKET, A4),
        (101, IPV6_PACKET, A6),
        (228, IPV4_PACKET, A4),
        (229, IPV6_PACKET, A6),
        (113, pk.linux_cooked(IPV4_PACKET, 0x0800), A4),
        (113, pk.linux_cooked(IPV6_PACKET, 0x86DD, packet_type=4), A6),
        (113, pk.linux_cooked(struct.pack("!HH", 5, 0x0800) + IPV4_PACKET, 0x8100), A4),
        (276, pk.linux_cooked_2(IPV4_PACKET, 0x0800), A4),
        (276, pk.linux_cooked_2(IPV6_PACKET, 0x86DD, packet_type=4), A6),
    ],
)
def test_link_types(link_type: int, frame: bytes, expected: str) -> None:
    packet = parse_packet(frame, link_type=link_type)
    assert packet.exclusion is None
    assert (packet.srcaddr, packet.srcport, packet.dstport) == (expected, 1, 2)
    assert packet.bytes == (48 if ":" in expected else 28)


@pytest.mark.parametrize(
    ("link_type", "frame", "exclusion"),
    [
        (101, b"", Exclusion.MALFORMED),
        (101, b"\x50" + b"\0" * 40, Exclusion.MALFORMED),
        (228, IPV6_PACKET, Exclusion.MALFORMED),
        (229, IPV4_PACKET, Exclusion.MALFORMED),
        (113, pk.linux_cooked(pk.arp(), 0x0806), Exclusion.ARP),
        (276, pk.linux_cooked_2(pk.arp(), 0x0806), Exclusion.ARP),
        (113, pk.linux_cooked(b"\0" * 40, 0x0004), Exclusion.NON_IP),
        (113, pk.linux_cooked(IPV4_PACKET, 0x0800, packet_type=1), Exclusion.MULTICAST),
        (276, pk.linux_cooked_2(IPV4_PACKET, 0x0800, packet_type=1), Exclusion.MULTICAST),
        (113, pk.linux_cooked(IPV4_PACKET, 0x0800)[:15], Exclusion.MALFORMED),
        (276, pk.linux_cooked_2(IPV4_PACKET, 0x0800)[:19], Exclusion.MALFORMED),
    ],
)
def test_link_types_of_what_is_no_flow(link_type: int, frame: bytes, exclusion: Exclusion) -> None:
    assert parse_packet(frame, link_type=link_type).exclusion is exclusion


# A second opinion ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Understood:
    """What a packet is, as far as the tests compare it. A malformed packet has nothing but its exclusion."""

    exclusion: Exclusion | None = None
    family: int = 0
    protocol: int = 0
    srcaddr: str = ""
    dstaddr: str = ""
    srcport: int = 0
    dstport: int = 0
    bytes: int = 0
    tcp_flags: int = 0
    fragment: int = 0

    @classmethod
    def by_c(cls, packet: ParsedPacket) -> Understood:
        if packet.exclusion is Exclusion.MALFORMED:
            return cls(exclusion=packet.exclusion)
        if packet.exclusion is not None:
            return cls(exclusion=packet.exclusion, bytes=packet.bytes)
        return cls(**{name: getattr(packet, name) for name in cls.__dataclass_fields__})


class MalformedError(Exception):
    pass


def take(data: memoryview, count: int) -> tuple[bytes, memoryview]:
    if len(data) < count:
        raise MalformedError
    return bytes(data[:count]), data[count:]


def understand(frame: bytes) -> Understood:
    """An Ethernet frame, read as RFC 791, 8200, 9293, 768 and 4443 have it and as AWS reports it, the slow way."""
    try:
        return _frame(memoryview(frame))
    except MalformedError:
        return Understood(exclusion=Exclusion.MALFORMED)


def _frame(data: memoryview) -> Understood:
    header, data = take(data, 14)
    (ethertype,) = struct.unpack("!H", header[12:])
    for _ in range(2):
        if ethertype in (0x8100, 0x88A8):
            tag, data = take(data, 4)
            (ethertype,) = struct.unpack("!H", tag[2:])
    if ethertype == 0x0806:
        return Understood(exclusion=Exclusion.ARP, bytes=len(data))
    if ethertype == 0x0800:
        found = _ipv4(data)
    elif ethertype == 0x86DD:
        found = _ipv6(data)
    else:
        return Understood(exclusion=Exclusion.NON_IP, bytes=len(data))
    reason = found.exclusion or _exclusion(found, bool(header[0] & 1))
    return Understood(exclusion=reason, bytes=found.bytes) if reason else found


def _ipv4(data: memoryview) -> Understood:
    header, _ = take(data, 20)
    first, _, total, _, fragment, _, protocol, _ = struct.unpack("!BBHHHBBH", header[:12])
    words = first & 15
    if first >> 4 != 4 or words < 5 or total < words * 4:
        raise MalformedError
    packet, _ = take(data, total)
    found = Understood(
        family=4,
        protocol=protocol,
        srcaddr=str(IPv4Address(header[12:16])),
        dstaddr=str(IPv4Address(header[16:20])),
        bytes=total,
        fragment=2 if fragment & 0x1FFF else 1 if fragment & 0x2000 else 0,
    )
    return _transport(found, memoryview(packet)[words * 4 :])


def _ipv6(data: memoryview) -> Understood:
    header, data = take(data, 40)
    first, length, protocol = struct.unpack("!IHB", header[:7])
    if first >> 28 != 6:
        raise MalformedError
    body, _ = take(data, length)
    rest = memoryview(body)
    fragment = headers = 0
    while protocol in (0, 43, 44, 51, 60, 135, 139, 140) and fragment != 2:
        headers += 1
        fixed, _ = take(rest, 8)
        size = 8 if protocol == 44 else (fixed[1] + 2) * 4 if protocol == 51 else (fixed[1] + 1) * 8
        _, rest = take(rest, size)
        if headers > 8:
            raise MalformedError
        if protocol == 44:
            (offset,) = struct.unpack("!H", fixed[2:4])
            if offset & 0xFFF9:
                if fragment:
                    raise MalformedError
                fragment = 2 if offset & 0xFFF8 else 1
        protocol = fixed[0]
    found = Understood(
        family=6,
        protocol=protocol,
        srcaddr=str(IPv6Address(header[8:24])),
        dstaddr=str(IPv6Address(header[24:40])),
        bytes=40 + length,
        fragment=fragment,
    )
    return _transport(found, rest)


def _transport(found: Understood, data: memoryview) -> Understood:
    if found.fragment == 2:
        return found
    if found.protocol == 6:
        header, _ = take(data, 20)
        words = header[12] >> 4
        if words < 5 or (not found.fragment and words * 4 > len(data)):
            raise MalformedError
        flags = header[13]
        shown = flags & 0b111 | (16 if flags & 2 and flags & 16 else 0)
        ports = struct.unpack("!HH", header[:4])
        return replace(found, srcport=ports[0], dstport=ports[1], tcp_flags=shown)
    if found.protocol == 17:
        header, _ = take(data, 8)
        ports = struct.unpack("!HH", header[:4])
        return replace(found, srcport=ports[0], dstport=ports[1])
    if found.protocol == 58 and found.family == 6:
        header, _ = take(data, 4)
        if header[0] in range(133, 138):
            return replace(found, exclusion=Exclusion.NEIGHBOUR_DISCOVERY)
    return found


SERVICES = {
    Exclusion.DNS: ("169.254.169.253", "fd00:ec2::253", "10.0.0.2"),
    Exclusion.ACTIVATION: ("169.254.169.250", "169.254.169.251", "fd00:ec2::250"),
    Exclusion.METADATA: ("169.254.169.254", "fd00:ec2::254"),
    Exclusion.TIME: ("169.254.169.123", "fd00:ec2::123"),
    Exclusion.ROUTER: ("10.0.0.1", "10.0.1.1", "2001:db8::1", "fe80:ec2::1"),
}


def _exclusion(found: Understood, group: bool) -> Exclusion | None:
    """AWS's list, at an ENI with POLICY."""
    ports = {found.srcport, found.dstport}
    if found.protocol == 17 and ports <= ({67, 68} if found.family == 4 else {546, 547}):
        return Exclusion.DHCP
    destination = IPv4Address(found.dstaddr) if found.family == 4 else IPv6Address(found.dstaddr)
    if group or destination.is_multicast or found.dstaddr == "255.255.255.255":
        return Exclusion.MULTICAST
    for address, port in ((found.dstaddr, found.dstport), (found.srcaddr, found.srcport)):
        for reason, addresses in SERVICES.items():
            if address not in addresses:
                continue
            if reason is Exclusion.DNS and not (port == 53 and found.protocol in (6, 17)):
                continue
            if reason is Exclusion.ACTIVATION and not (port == 1688 and found.protocol == 6):
                continue
            return reason
    return None


interesting_ipv4 = st.sampled_from(
    [A4, B4, "0.0.0.0", "224.0.0.1", "255.255.255.255", "10.0.1.255"]
    + [address for addresses in SERVICES.values() for address in addresses if "." in address]
)
interesting_ipv6 = st.sampled_from(
    [A6, B6, "::", "ff02::1"] + [address for addresses in SERVICES.values() for address in addresses if ":" in address]
)
addresses_ipv4 = interesting_ipv4 | st.binary(min_size=4, max_size=4).map(lambda packed: str(IPv4Address(packed)))
addresses_ipv6 = interesting_ipv6 | st.binary(min_size=16, max_size=16).map(lambda packed: str(IPv6Address(packed)))
ports = st.sampled_from([0, 53, 67, 68, 80, 546, 547, 1688]) | st.integers(0, 65535)
payloads = st.binary(max_size=40)

transports = st.one_of(
    st.builds(
        tcp,
        ports,
        ports,
        st.integers(0, 255),
        payloads,
        options=st.binary(max_size=40),
        header_words=st.none() | st.integers(0, 15),
    ),
    st.builds(udp, ports, ports, payloads),
    st.builds(pk.icmp, st.integers(0, 255), st.integers(0, 255), payloads),
    st.builds(pk.icmpv6, st.integers(125, 145), st.integers(0, 255), payloads),
    st.builds(pk.sctp, ports, ports),
    st.builds(pk.other, st.integers(0, 255), payloads),
)
extensions = st.one_of(
    st.integers(0, 4).map(lambda n: pk.hop_by_hop(b"\0" * (6 + 8 * n))),
    st.integers(0, 4).map(lambda n: pk.destination_options(b"\0" * (6 + 8 * n))),
    st.integers(0, 4).map(lambda n: pk.routing(b"\xfd" + b"\0" * (5 + 8 * n))),
    st.just(pk.mobility()),
    st.integers(0, 5).map(lambda n: pk.authentication(b"\xaa" * (4 * n))),
    st.builds(
        pk.fragment_header,
        st.integers(0, 2**32 - 1),
        st.sampled_from([0, 0, 0, 8, 65528]),
        st.booleans(),
    ),
)


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    if draw(st.booleans()):
        packet = ipv4(
            draw(addresses_ipv4),
            draw(addresses_ipv4),
            draw(transports),
            options=draw(st.just(b"") | st.binary(max_size=40)),
            identification=draw(st.integers(0, 65535)),
            dont_fragment=draw(st.booleans()),
            more_fragments=draw(st.sampled_from([False, False, True])),
            fragment_offset=draw(st.sampled_from([0, 0, 0, 8, 65528])),
            header_words=draw(st.none() | st.integers(0, 15)),
            total_length=draw(st.none() | st.integers(0, 120)),
        )
    else:
        packet = ipv6(
            draw(addresses_ipv6),
            draw(addresses_ipv6),
            draw(transports),
            extensions=draw(st.lists(extensions, max_size=10)),
            payload_length=draw(st.none() | st.integers(0, 200)),
        )
    frame = ethernet(
        packet,
        draw(st.sampled_from([None, None, None, None, 0x0800, 0x86DD, 0x0806, 0x88CC])),
        destination=draw(st.sampled_from([pk.MAC_B, pk.MAC_B, pk.BROADCAST_MAC, b"\x33\x33\0\0\0\1"])),
        vlans=draw(st.lists(st.sampled_from([1, (0x88A8, 2)]), max_size=3)),
        pad_to=draw(st.sampled_from([0, 0, 60, 200])),
    )
    keep = draw(st.sampled_from([None, None, None]) | st.integers(0, len(frame)))
    return frame[:keep]


@settings(max_examples=800, deadline=None)
@given(frames())
def test_c_and_python_understand_the_same(frame: bytes) -> None:
    assert Understood.by_c(parse_packet(frame, policy=POLICY)) == understand(frame)


def test_c_and_python_understand_the_same_of_twenty_thousand_damaged_packets() -> None:
    whole = [frame for frame, _ in FLOWS.values()] + [row[0] for row in EXCLUDED.values()] + list(MALFORMED.values())
    random = Random(20)
    for _ in range(20_000):
        frame = bytearray(random.choice(whole))
        for _ in range(random.randrange(4)):
            # Most of what can be misread lies in front.
            at = random.randrange(min(len(frame), random.choice([14, 60, 200])) or 1)
            frame[at : at + 1] = random.choice([b"", b"\0", b"\xff", random.randbytes(1), random.randbytes(2)])
        assert Understood.by_c(parse_packet(bytes(frame), policy=POLICY)) == understand(bytes(frame)), frame.hex()


@settings(max_examples=400, deadline=None)
@given(frames(), st.data())
def test_c_and_python_understand_the_same_of_damaged_packets(frame: bytes, data: st.DataObject) -> None:
    damaged = bytearray(frame)
    for _ in range(data.draw(st.integers(1, 4))):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    assert Understood.by_c(parse_packet(bytes(damaged), policy=POLICY)) == understand(bytes(damaged))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=120), st.integers(0, 70000), st.sampled_from([1, 12, 101, 113, 228, 229, 276]))
def test_any_bytes_are_one_packet(data: bytes, longer: int, link_type: int) -> None:
    packet = parse_packet(data, len(data) + longer, link_type=link_type)
    assert packet.packets == 1
    assert packet.bytes <= len(data) + longer

"""Packets of the cases and of the generator as frames: what bpf/parse.h must read the same facts off."""

from __future__ import annotations

import struct

import packets as pk

from vnotch.flow import Direction, Exclusion
from vnotch.packet import Fragment, Packet, Quoted

GROUP_MAC = b"\x01\0\x5e\0\0\1"
OFFSET_BYTES = 1480
LEAST_BYTES = 60
"""BPF_PROG_TEST_RUN takes no shorter frames; Ethernet pads them anyway."""


def frame(packet: Packet) -> bytes:
    """The packet as an Ethernet frame."""
    if packet.exclusion is Exclusion.ARP:
        return pk.ethernet(pk.arp(), pk.ETHERTYPE_ARP, pad_to=LEAST_BYTES)
    if packet.exclusion is Exclusion.NON_IP:
        return pk.ethernet(b"\0" * 46, pk.ETHERTYPE_LLDP)
    if packet.exclusion is Exclusion.MALFORMED:
        return pk.ethernet(pk.ipv4("10.0.0.1", "10.0.0.2", pk.tcp(1, 2), total_length=60), pad_to=LEAST_BYTES)
    if packet.exclusion is Exclusion.NEIGHBOUR_DISCOVERY:
        return pk.ethernet(pk.ipv6("fe80::1", "fe80::2", pk.icmpv6(135)))
    assert packet.exclusion is None
    destination = GROUP_MAC if packet.group_frame else pk.MAC_B
    return pk.ethernet(_ip(packet), destination=destination, pad_to=LEAST_BYTES)


def _ip(packet: Packet) -> bytes:
    source, destination = str(packet.source), str(packet.destination)
    later = packet.fragment is Fragment.LATER
    body = b"z" * 16 if later else _transport(packet)
    if packet.source.version == 4:
        return pk.ipv4(
            source,
            destination,
            body,
            protocol=packet.protocol,
            identification=packet.fragment_id if packet.fragment else 0,
            more_fragments=packet.fragment is Fragment.FIRST,
            fragment_offset=OFFSET_BYTES if later else 0,
        )
    extensions = []
    if packet.fragment:
        first = packet.fragment is Fragment.FIRST
        extensions = [pk.fragment_header(packet.fragment_id, OFFSET_BYTES if later else 0, first)]
    return pk.ipv6(source, destination, body, next_header=packet.protocol, extensions=extensions)


def _transport(packet: Packet) -> bytes:
    if packet.protocol == pk.TCP:
        return pk.tcp(packet.source_port, packet.destination_port, packet.tcp_flags).data
    if packet.protocol == pk.UDP:
        return pk.udp(packet.source_port, packet.destination_port, b"x" * 8).data
    if packet.protocol in (pk.ICMP, pk.ICMPV6):
        head = struct.pack("!BBHHH", packet.icmp_type, packet.icmp_code, 0, packet.icmp_id, 1)
        return head + (quoted(packet.quoted) if packet.quoted else b"")
    return b"y" * 24


def quoted(about: Quoted) -> bytes:
    """As RFC 792 has it: the IP header and the eight bytes behind it."""
    if about.protocol in (pk.TCP, pk.UDP):
        body = struct.pack("!HHI", about.source_port, about.destination_port, 0)
    elif about.protocol in (pk.ICMP, pk.ICMPV6):
        body = struct.pack("!BBHHH", about.icmp_type, 0, 0, about.icmp_id, 1)
    else:
        body = b"\0" * 8
    source, destination = str(about.source), str(about.destination)
    if about.source.version == 4:
        return pk.ipv4(source, destination, body, protocol=about.protocol)
    return pk.ipv6(source, destination, body, next_header=about.protocol)


def is_egress(packet: Packet) -> bool:
    return packet.direction is Direction.EGRESS

"""A packet as the parser understands it, and why some packets are never recorded.

These are the facts of one packet that a verdict may look at, no more; bpf/parse.h reads the same ones off the wire.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from vnotch.flow import Direction, Exclusion
from vnotch.rules import ICMP, ICMP_PROTOCOLS, ICMPV6, PORT_PROTOCOLS, TCP, UDP

Address = IPv4Address | IPv6Address
_NOWHERE = IPv4Address(0)

FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10
"""Bits of the TCP header's flags (RFC 9293), not of AWS's tcp-flags field."""

ICMP_QUERIES = {8: 0, 13: 14, 15: 16, 17: 18}
"""ICMP request type -> reply type: echo, timestamp, information, address mask (RFC 792, RFC 950)."""
ICMPV6_QUERIES = {128: 129}
"""RFC 4443: echo."""
ICMP_ERRORS = frozenset({3, 4, 5, 11, 12})
"""Destination unreachable, source quench, redirect, time exceeded, parameter problem: they quote a packet (RFC 792)."""
ICMPV6_ERRORS = frozenset({1, 2, 3, 4})
"""Destination unreachable, packet too big, time exceeded, parameter problem (RFC 4443)."""


class Fragment(IntEnum):
    """What part of a datagram the packet is (bpf/parse.h: FRAGMENT_*)."""

    NONE = 0
    FIRST = 1
    LATER = 2
    """Has no transport header: no ports, no TCP flags, no ICMP type."""


@dataclass(frozen=True)
class Quoted:
    """The packet that an ICMP error quotes, as far as its first bytes tell: addresses, protocol, ports or ICMP query.

    A quoted fragment other than the first, and one cut short before its ports, is not a Quoted but None.
    """

    source: Address
    destination: Address
    protocol: int
    source_port: int = 0
    destination_port: int = 0
    icmp_type: int = 0
    icmp_id: int = 0


@dataclass(frozen=True)
class Packet:
    """One packet at one interface. Addresses and ports are those in the packet itself.

    `exclusion` is what the parser alone can tell (ARP, NON_IP, MALFORMED, NEIGHBOUR_DISCOVERY); with one, nothing but
    the direction counts. `group_frame`: the frame went to a multicast or broadcast MAC address. `fragment_protocol` is
    the protocol that the fragments carry, where IPv6 extension headers follow the fragment header.
    """

    direction: Direction
    source: Address = _NOWHERE
    destination: Address = _NOWHERE
    protocol: int = 0
    source_port: int = 0
    destination_port: int = 0
    tcp_flags: int = 0
    icmp_type: int = 0
    icmp_code: int = 0
    icmp_id: int = 0
    fragment: Fragment = Fragment.NONE
    fragment_id: int = 0
    fragment_protocol: int | None = None
    quoted: Quoted | None = None
    exclusion: Exclusion | None = None
    group_frame: bool = False

    @property
    def remote(self) -> Address:
        """The address that rules and ACL entries are about: the source of what comes in, the destination of what
        goes."""
        return self.source if self.direction is Direction.INGRESS else self.destination

    @property
    def opens(self) -> bool:
        """A TCP packet that may open a connection: SYN without ACK."""
        return self.protocol == TCP and self.tcp_flags & (SYN | ACK) == SYN

    @property
    def lacks_ports(self) -> bool:
        """A later fragment of a protocol that is judged by its ports, or type and code: they are not known."""
        return self.fragment is Fragment.LATER and self.protocol in PORT_PROTOCOLS | ICMP_PROTOCOLS

    @property
    def is_icmp_error(self) -> bool:
        if self.fragment is Fragment.LATER:
            return False
        return (self.protocol == ICMP and self.icmp_type in ICMP_ERRORS) or (
            self.protocol == ICMPV6 and self.icmp_type in ICMPV6_ERRORS
        )


# ---- Traffic that is never recorded ----------------------------------------------------------------------------------

_SERVICES: dict[Address, Exclusion] = {
    ip_address("169.254.169.253"): Exclusion.DNS,
    ip_address("fd00:ec2::253"): Exclusion.DNS,
    ip_address("169.254.169.250"): Exclusion.ACTIVATION,
    ip_address("169.254.169.251"): Exclusion.ACTIVATION,
    ip_address("fd00:ec2::250"): Exclusion.ACTIVATION,
    ip_address("169.254.169.254"): Exclusion.METADATA,
    ip_address("fd00:ec2::254"): Exclusion.METADATA,
    ip_address("169.254.169.123"): Exclusion.TIME,
    ip_address("fd00:ec2::123"): Exclusion.TIME,
    ip_address("fe80:ec2::1"): Exclusion.ROUTER,
}
"""Addresses that AWS keeps for its own services (EC2 user guide; VPC user guide, flow log limitations)."""


@dataclass(frozen=True)
class Reserved:
    """The reserved addresses of one interface's VPC and subnet beside those that are the same everywhere."""

    addresses: dict[Address, Exclusion] = field(default_factory=dict)

    @classmethod
    def of(cls, vpc_cidrs: tuple[str, ...], subnet_cidrs: tuple[str, ...]) -> Reserved:
        """VPC base + 2 is the DNS server; base + 1 of the VPC and of the subnet and ::1 of the subnet are the router's
        (VPC user guide: Amazon DNS server, subnet sizing)."""
        vpc = [ip_network(cidr) for cidr in vpc_cidrs]
        subnet = [ip_network(cidr) for cidr in subnet_cidrs]
        addresses: dict[Address, Exclusion] = {}
        for networks in (vpc, subnet):
            first = next((network for network in networks if network.version == 4), None)
            if first is not None:
                addresses[first.network_address + 1] = Exclusion.ROUTER
        six = next((network for network in subnet if network.version == 6), None)
        if six is not None:
            addresses[six.network_address + 1] = Exclusion.ROUTER
        four = next((network for network in vpc if network.version == 4), None)
        if four is not None:
            addresses[four.network_address + 2] = Exclusion.DNS
        return cls(addresses)

    def service(self, address: Address, protocol: int, port: int) -> Exclusion | None:
        """Why traffic with this end is not recorded; `port` is the port at this end."""
        found = _SERVICES.get(address) or self.addresses.get(address)
        if found is Exclusion.DNS and not (protocol in PORT_PROTOCOLS and port == 53):
            return None
        if found is Exclusion.ACTIVATION and not (protocol == TCP and port == 1688):
            return None
        return found


def exclusion(packet: Packet, reserved: Reserved) -> Exclusion | None:
    """Why the packet is in no record (bpf/parse.h: packet_exclusion), None if it is in one.

    The most particular reason is given: neighbour discovery and DHCP before multicast, which both use.
    """
    if packet.exclusion is not None:
        return packet.exclusion
    if packet.protocol == UDP:
        ports = {67, 68} if packet.source.version == 4 else {546, 547}
        if packet.source_port in ports and packet.destination_port in ports:
            return Exclusion.DHCP
    broadcast = packet.destination == IPv4Address("255.255.255.255")
    if packet.group_frame or packet.destination.is_multicast or broadcast:
        return Exclusion.MULTICAST
    return reserved.service(packet.destination, packet.protocol, packet.destination_port) or reserved.service(
        packet.source, packet.protocol, packet.source_port
    )

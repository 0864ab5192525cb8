"""Packets made by hand: an independent builder, used wherever a test needs bytes that vnotch did not write.

Everything here is plain `struct` from the RFCs. Checksums and lengths are right unless a test asks for a wrong one, by
naming it (`total_length=`, `header_words=`, ...), so a malformed packet says in its own line what is wrong with it.

    ethernet(ipv4("10.0.0.1", "10.0.0.2", tcp(40000, 443, SYN)))
    ethernet(ipv6("2001:db8::1", "2001:db8::2", udp(1, 2, b"x"), extensions=[hop_by_hop(), destination_options()]))
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

ETHERTYPE_IPV4 = 0x0800
ETHERTYPE_ARP = 0x0806
ETHERTYPE_VLAN = 0x8100  # IEEE 802.1Q
ETHERTYPE_QINQ = 0x88A8  # IEEE 802.1ad
ETHERTYPE_IPV6 = 0x86DD
ETHERTYPE_LLDP = 0x88CC

HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, NO_NEXT_HEADER, DESTINATION_OPTIONS, MOBILITY = (
    0,
    43,
    44,
    51,
    59,
    60,
    135,
)
ICMP, IGMP, TCP, UDP, GRE, ESP, ICMPV6, OSPF, SCTP, UDP_LITE = 1, 2, 6, 17, 47, 50, 58, 89, 132, 136
FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = 1, 2, 4, 8, 16, 32, 64, 128

MAC_A = bytes.fromhex("020000000001")
MAC_B = bytes.fromhex("020000000002")
BROADCAST_MAC = b"\xff" * 6


@dataclass(frozen=True)
class Transport:
    """What follows the IP header: protocol number, bytes with a zero checksum, and where the checksum goes.

    `pseudo_header` is the IP versions whose pseudo header (RFC 9293 section 3.1, RFC 8200 section 8.1) the sum covers.
    """

    protocol: int
    data: bytes
    checksum_offset: int | None = None
    pseudo_header: tuple[int, ...] = ()

    def bytes_between(self, source: bytes, destination: bytes) -> bytes:
        """The bytes with the checksum filled in; source and destination are packed addresses of one family."""
        if self.checksum_offset is None:
            return self.data
        family = 4 if len(source) == 4 else 6
        covered = self.data
        if family in self.pseudo_header:
            covered = source + destination + struct.pack("!II", len(self.data), self.protocol) + self.data
        value = checksum(covered)
        if self.protocol in (UDP, UDP_LITE) and value == 0:
            value = 0xFFFF  # RFC 768: zero means that there is none.
        at = self.checksum_offset
        return self.data[:at] + struct.pack("!H", value) + self.data[at + 2 :]


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


# Link layer ----------------------------------------------------------------------------------------------------------


def ethernet(
    payload: bytes,
    ethertype: int | None = None,
    *,
    source: bytes = MAC_A,
    destination: bytes = MAC_B,
    vlans: Sequence[int | tuple[int, int]] = (),
    pad_to: int = 0,
) -> bytes:
    """A frame without its FCS.

    `ethertype` None: by the version nibble of the payload. `vlans`: tags from the outside in, as a VLAN id (802.1Q) or
    as (tag ethertype, VLAN id). `pad_to`: shortest frame, 60 on a real wire.
    """
    if ethertype is None:
        ethertype = ETHERTYPE_IPV6 if payload and payload[0] >> 4 == 6 else ETHERTYPE_IPV4
    tags = b""
    for tag in vlans:
        kind, vlan = tag if isinstance(tag, tuple) else (ETHERTYPE_VLAN, tag)
        tags += struct.pack("!HH", kind, vlan)
    return (destination + source + tags + struct.pack("!H", ethertype) + payload).ljust(pad_to, b"\0")


def linux_cooked(payload: bytes, ethertype: int, *, packet_type: int = 0) -> bytes:
    """LINKTYPE_LINUX_SLL (113). `packet_type`: 0 to us, 1 broadcast, 2 multicast, 3 to someone else, 4 sent by us."""
    return struct.pack("!HHH8sH", packet_type, 1, 6, MAC_A + b"\0\0", ethertype) + payload


def linux_cooked_2(payload: bytes, ethertype: int, *, packet_type: int = 0, interface: int = 1) -> bytes:
    """LINKTYPE_LINUX_SLL2 (276)."""
    return struct.pack("!HHIHBB8s", ethertype, 0, interface, 1, packet_type, 6, MAC_A + b"\0\0") + payload


def arp(sender: str = "10.0.0.1", target: str = "10.0.0.2", *, operation: int = 1) -> bytes:
    """An ARP body (RFC 826): operation 1 asks, 2 answers. Use with ethertype ETHERTYPE_ARP."""
    return (
        struct.pack("!HHBBH", 1, ETHERTYPE_IPV4, 6, 4, operation)
        + MAC_A
        + IPv4Address(sender).packed
        + (MAC_B if operation == 2 else b"\0" * 6)
        + IPv4Address(target).packed
    )


# IPv4 (RFC 791) ------------------------------------------------------------------------------------------------------


def ipv4(
    source: str,
    destination: str,
    payload: Transport | bytes,
    *,
    protocol: int | None = None,
    options: bytes = b"",
    identification: int = 0,
    dont_fragment: bool = False,
    more_fragments: bool = False,
    fragment_offset: int = 0,
    ttl: int = 64,
    version: int = 4,
    header_words: int | None = None,
    total_length: int | None = None,
) -> bytes:
    """One IPv4 packet. `fragment_offset` is in bytes and a multiple of 8; `payload` as bytes needs `protocol`."""
    packed_source, packed_destination = IPv4Address(source).packed, IPv4Address(destination).packed
    body, number = _body(payload, packed_source, packed_destination, protocol)
    options = options.ljust(-(-len(options) // 4) * 4, b"\0")
    assert fragment_offset % 8 == 0, "fragments begin at multiples of 8 bytes"
    flags = (0x4000 if dont_fragment else 0) | (0x2000 if more_fragments else 0) | fragment_offset // 8
    length = 20 + len(options) + len(body) if total_length is None else total_length
    words = 5 + len(options) // 4 if header_words is None else header_words
    fields = (version << 4 | words, 0, length, identification, flags, ttl, number)
    head = struct.pack("!BBHHHBB", *fields) + b"\0\0" + packed_source + packed_destination + options
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body


def ipv4_fragments(
    source: str, destination: str, payload: Transport, *, identification: int, fragment_bytes: int, options: bytes = b""
) -> list[bytes]:
    """One datagram cut into pieces of `fragment_bytes` (a multiple of 8) of IP payload, in order."""
    body = payload.bytes_between(IPv4Address(source).packed, IPv4Address(destination).packed)
    return [
        ipv4(
            source,
            destination,
            body[at : at + fragment_bytes],
            protocol=payload.protocol,
            options=options,
            identification=identification,
            more_fragments=at + fragment_bytes < len(body),
            fragment_offset=at,
        )
        for at in range(0, len(body), fragment_bytes)
    ]


# IPv6 (RFC 8200) -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Extension:
    """An IPv6 extension header: its number and its bytes without the leading next-header byte."""

    number: int
    rest: bytes


def hop_by_hop(data: bytes = b"\x01\x04\0\0\0\0") -> Extension:
    """Padding options by default. `data` is what follows the length byte: 6 bytes, or 6 and a multiple of 8."""
    return _sized(HOP_BY_HOP, data)


def destination_options(data: bytes = b"\x01\x04\0\0\0\0") -> Extension:
    return _sized(DESTINATION_OPTIONS, data)


def routing(data: bytes = b"\xfd\0\0\0\0\0") -> Extension:
    """Routing header, by default of type 253 (for experiments, RFC 4727) with no segments left."""
    return _sized(ROUTING, data)


def mobility(data: bytes = b"\0\0\0\0\0\0") -> Extension:
    """Mobility header (RFC 6275)."""
    return _sized(MOBILITY, data)


def _sized(number: int, data: bytes) -> Extension:
    assert (2 + len(data)) % 8 == 0, "an extension header is a multiple of 8 bytes"
    return Extension(number, bytes([(2 + len(data)) // 8 - 1]) + data)


def authentication(check_value: bytes = b"\xaa" * 12) -> Extension:
    """Authentication header (RFC 4302): its length is in words of 4 bytes, minus 2."""
    rest = struct.pack("!HII", 0, 0x1001, 1) + check_value
    assert (2 + len(rest)) % 4 == 0, "an authentication header is a multiple of 4 bytes"
    return Extension(AUTHENTICATION, bytes([(2 + len(rest)) // 4 - 2]) + rest)


def fragment_header(identification: int, offset: int, more: bool) -> Extension:
    """Fragment header; `offset` is in bytes and a multiple of 8."""
    assert offset % 8 == 0, "fragments begin at multiples of 8 bytes"
    return Extension(FRAGMENT, struct.pack("!BHI", 0, offset | int(more), identification))


def ipv6(
    source: str,
    destination: str,
    payload: Transport | bytes,
    *,
    next_header: int | None = None,
    extensions: Sequence[Extension] = (),
    hop_limit: int = 64,
    version: int = 6,
    payload_length: int | None = None,
) -> bytes:
    """One IPv6 packet; the extension headers are chained in the order given."""
    packed_source, packed_destination = IPv6Address(source).packed, IPv6Address(destination).packed
    body, number = _body(payload, packed_source, packed_destination, next_header)
    for extension in reversed(extensions):
        body = bytes([number]) + extension.rest + body
        number = extension.number
    length = len(body) if payload_length is None else payload_length
    return struct.pack("!IHBB", version << 28, length, number, hop_limit) + packed_source + packed_destination + body


def ipv6_fragments(
    source: str,
    destination: str,
    payload: Transport,
    *,
    identification: int,
    fragment_bytes: int,
    extensions: Sequence[Extension] = (),
) -> list[bytes]:
    """One datagram cut into pieces of `fragment_bytes` (a multiple of 8); `extensions` precede each fragment header."""
    body = payload.bytes_between(IPv6Address(source).packed, IPv6Address(destination).packed)
    return [
        ipv6(
            source,
            destination,
            body[at : at + fragment_bytes],
            next_header=payload.protocol,
            extensions=[*extensions, fragment_header(identification, at, at + fragment_bytes < len(body))],
        )
        for at in range(0, len(body), fragment_bytes)
    ]


def _body(payload: Transport | bytes, source: bytes, destination: bytes, number: int | None) -> tuple[bytes, int]:
    if isinstance(payload, Transport):
        return payload.bytes_between(source, destination), payload.protocol if number is None else number
    assert number is not None, "bytes need their protocol number"
    return payload, number


# Above IP ------------------------------------------------------------------------------------------------------------


def tcp(
    source_port: int,
    destination_port: int,
    flags: int = ACK,
    payload: bytes = b"",
    *,
    options: bytes = b"",
    sequence: int = 0,
    acknowledgement: int = 0,
    header_words: int | None = None,
) -> Transport:
    """RFC 9293. `flags` is the flag byte (FIN SYN RST PSH ACK URG ECE CWR)."""
    options = options.ljust(-(-len(options) // 4) * 4, b"\0")
    words = 5 + len(options) // 4 if header_words is None else header_words
    head = struct.pack(
        "!HHIIBBHHH", source_port, destination_port, sequence, acknowledgement, words << 4, flags, 65000, 0, 0
    )
    return Transport(TCP, head + options + payload, 16, (4, 6))


def udp(source_port: int, destination_port: int, payload: bytes = b"", *, length: int | None = None) -> Transport:
    """RFC 768."""
    size = 8 + len(payload) if length is None else length
    return Transport(UDP, struct.pack("!HHHH", source_port, destination_port, size, 0) + payload, 6, (4, 6))


def icmp(kind: int = 8, code: int = 0, payload: bytes = b"\0" * 60) -> Transport:
    """RFC 792; `payload` is all that follows the checksum. The default is ping's size, 84 bytes of IPv4 packet."""
    return Transport(ICMP, struct.pack("!BBH", kind, code, 0) + payload, 2)


def icmpv6(kind: int = 128, code: int = 0, payload: bytes = b"\0" * 60) -> Transport:
    """RFC 4443."""
    return Transport(ICMPV6, struct.pack("!BBH", kind, code, 0) + payload, 2, (6,))


def sctp(source_port: int, destination_port: int, chunks: bytes = b"\x01\0\0\x04") -> Transport:
    """RFC 9260. The CRC32c is left zero: nothing that is tested here looks at it."""
    return Transport(SCTP, struct.pack("!HHII", source_port, destination_port, 0, 0) + chunks)


def udp_lite(source_port: int, destination_port: int, payload: bytes = b"") -> Transport:
    """RFC 3828 with full coverage."""
    return Transport(UDP_LITE, struct.pack("!HHHH", source_port, destination_port, 0, 0) + payload, 6, (4, 6))


def gre(payload: bytes, ethertype: int = ETHERTYPE_IPV4) -> Transport:
    """RFC 2784, without the optional checksum."""
    return Transport(GRE, struct.pack("!HH", 0, ethertype) + payload)


def esp(payload: bytes = b"\0" * 32) -> Transport:
    """RFC 4303."""
    return Transport(ESP, struct.pack("!II", 0x2002, 1) + payload)


def other(protocol: int, payload: bytes = b"\0" * 16) -> Transport:
    """Any protocol by its number."""
    return Transport(protocol, payload)

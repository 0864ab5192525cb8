"""The native library by ctypes: bpf/pcap.c as it is seen from Python, and one packet parsed for whoever wants to look.

The structs repeat those of bpf/; a library of another version than these sources is refused when it is loaded.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path

import numpy as np

from vnotch.capture.layout import ENI, ENI_ADOPT, ENI_INSIDE, ENI_MAC, FLOW_KEY, FLOW_TOTAL, Array
from vnotch.errors import InputError
from vnotch.flow import Exclusion
from vnotch.native_library import Signatures, another_version, load_native

LIBRARY = Path(__file__).parent / "native" / "libvnotch.so"

ABI = 3
"""bpf/pcap.c: CAPTURE_ABI. Raised by one with every change of a struct or a function that crosses this border."""

READ_MORE, READ_INTERFACE, READ_DAMAGED, CAPTURE_TICK, CAPTURE_FULL, CAPTURE_DRAINED = 0, 2, 3, 4, 5, 6
"""What capture_read and capture_end return."""


class LocalNetwork(ctypes.Structure):
    """bpf/pcap.c: struct local_network."""

    _fields_ = (
        ("address", ctypes.c_uint8 * 16),
        ("mask", ctypes.c_uint8 * 16),
        ("v6", ctypes.c_uint8),
        ("pad", ctypes.c_uint8 * 7),
    )


class Report(ctypes.Structure):
    """bpf/pcap.c: struct capture_report."""

    _fields_ = (
        ("offset", ctypes.c_uint64),
        ("need", ctypes.c_uint64),
        ("damaged_at", ctypes.c_uint64),
        ("blocks_skipped", ctypes.c_uint64),
        ("packets", ctypes.c_uint64),
        ("bytes", ctypes.c_uint64),
        ("malformed", ctypes.c_uint64),
        ("late", ctypes.c_uint64),
        ("untimed", ctypes.c_uint64),
        ("cut", ctypes.c_uint64),
        ("fragments_full", ctypes.c_uint64),
        ("connections_full", ctypes.c_uint64),
        ("tick_start_ns", ctypes.c_uint64),
        ("tick_open", ctypes.c_uint64),
        ("flows", ctypes.c_void_p),
        ("flow_count", ctypes.c_uint64),
        ("link", ctypes.c_uint32),
        ("snaplen", ctypes.c_uint32),
        ("section", ctypes.c_uint32),
        ("index", ctypes.c_uint32),
        ("name_length", ctypes.c_uint32),
        ("name", ctypes.c_uint8 * 128),
        ("message", ctypes.c_char * 160),
    )


class _Parsed(ctypes.Structure):
    """bpf/parse.h: struct parsed."""

    _fields_ = (
        ("src", ctypes.c_uint8 * 16),
        ("dst", ctypes.c_uint8 * 16),
        ("bytes", ctypes.c_uint64),
        ("packets", ctypes.c_uint32),
        ("fragment_id", ctypes.c_uint32),
        ("sport", ctypes.c_uint16),
        ("dport", ctypes.c_uint16),
        ("proto", ctypes.c_uint8),
        ("v6", ctypes.c_uint8),
        ("exclusion", ctypes.c_uint8),
        ("group", ctypes.c_uint8),
        ("tcp_flags", ctypes.c_uint8),
        ("opens", ctypes.c_uint8),
        ("fragment", ctypes.c_uint8),
        ("fragment_proto", ctypes.c_uint8),
        ("tcp_raw", ctypes.c_uint8),
        ("icmp", ctypes.c_uint8),
        ("icmp_type", ctypes.c_uint8),
        ("icmp_code", ctypes.c_uint8),
        ("icmp_id", ctypes.c_uint16),
        ("icmp_kind", ctypes.c_uint8),
        ("pad", ctypes.c_uint8),
        ("icmp_at", ctypes.c_uint32),
        ("icmp_end", ctypes.c_uint32),
    )


FLOW = np.dtype(
    {
        "names": ["key", "hash", "value"],
        "formats": [FLOW_KEY, "<u4", FLOW_TOTAL],
        "offsets": [0, 44, 48],
        "itemsize": 88,
    }
)
"""bpf/flow_table.h: struct flow."""


@cache
def load() -> ctypes.CDLL:
    """The native library with its signatures. Raises HostError where it is missing or of another version."""
    pointer, u8, u16, u32, u64 = ctypes.c_void_p, ctypes.c_uint8, ctypes.c_uint16, ctypes.c_uint32, ctypes.c_uint64
    signatures: Signatures = {
        "capture_open": (pointer, [u64, u32, u64, u32, u32]),
        "capture_set_rules": (None, [pointer, pointer, pointer]),
        "capture_close": (None, [pointer]),
        "capture_read": (u32, [pointer, pointer, u64]),
        "capture_begin_tick": (None, [pointer]),
        "capture_drained": (None, [pointer]),
        "capture_end": (u32, [pointer, u64]),
        "capture_set_slot": (
            ctypes.c_int32,
            [pointer, u16, pointer, ctypes.POINTER(LocalNetwork), u32],
        ),
        "capture_look": (None, [pointer, ctypes.POINTER(Report)]),
        "capture_seen": (ctypes.POINTER(u64), [pointer]),
        "capture_parse": (
            u32,
            [u32, ctypes.POINTER(u8), u32, u32, u32, u16, pointer, ctypes.POINTER(_Parsed)],
        ),
    }
    lib = load_native(LIBRARY, "capture_abi", ABI, signatures)
    sizes = (u32 * 5)()
    lib.capture_sizes(sizes)
    ours = [ENI.itemsize, ctypes.sizeof(LocalNetwork), ctypes.sizeof(Report), ctypes.sizeof(_Parsed), FLOW.itemsize]
    if list(sizes) != ours:
        raise another_version()
    return lib


@dataclass(frozen=True)
class SlotPolicy:
    """What decides about the packets of one ENI in a capture: the values that the kernel has of it in `struct eni`.

    `dns_ipv4` is the VPC's base + 2; `routers_ipv4` up to two reserved router addresses (base + 1 of VPC and subnet);
    `router_ipv6` the subnet's ::1. `inside`: the capture was made at the ENI itself, not at the other end of its link.
    `mac`: frames to the ENI under another unicast address are not its own (flooded by a switch); None: all are.
    `adopt`: connections from before the capture are taken over (verdict.py).
    `local` are the ENI's own addresses, or networks, by which the direction is told where a capture does not say it.
    """

    dns_ipv4: str | None = None
    routers_ipv4: tuple[str, ...] = ()
    router_ipv6: str | None = None
    inside: bool = False
    mac: bytes | None = None
    local: tuple[str, ...] = ()
    adopt: bool = False

    def eni(self) -> Array:
        """One layout.ENI. Raises InputError where an address is none."""
        eni = np.zeros(1, ENI)
        eni["flags"] = (ENI_INSIDE if self.inside else 0) | (ENI_ADOPT if self.adopt else 0)
        if self.mac is not None:
            eni["flags"] |= ENI_MAC
            eni["mac"] = np.void(self.mac)
        if len(self.routers_ipv4) > 2:
            raise InputError(f"{len(self.routers_ipv4)} router addresses, an ENI has at most two")
        try:
            if self.dns_ipv4:
                eni["dns_v4"] = np.void(IPv4Address(self.dns_ipv4).packed)
            for at, router in enumerate(self.routers_ipv4):
                eni["router_v4"][0, at] = np.void(IPv4Address(router).packed)
            if self.router_ipv6:
                eni["router_v6"] = np.void(IPv6Address(self.router_ipv6).packed)
        except ValueError as error:
            raise InputError(f"policy of an ENI: {error}") from error
        return eni

    def local_networks(self) -> ctypes.Array[LocalNetwork]:
        return local_networks(self.local)


def local_networks(networks: Iterable[str]) -> ctypes.Array[LocalNetwork]:
    """Addresses and networks in text as the library compares them. Raises InputError for what is neither."""
    found = []
    for text in networks:
        try:
            network = ip_network(text, strict=False)
        except ValueError as error:
            raise InputError(f"local address {text!r}: {error}") from error
        item = LocalNetwork(v6=network.version == 6)
        size = network.max_prefixlen // 8
        item.address[:size] = network.network_address.packed
        item.mask[:size] = network.netmask.packed
        found.append(item)
    return (LocalNetwork * len(found))(*found)


@dataclass(frozen=True)
class ParsedPacket:
    """What the parser understood of one packet. Where `exclusion` is set, only packets and bytes mean anything."""

    exclusion: Exclusion | None
    family: int
    protocol: int
    srcaddr: str
    dstaddr: str
    srcport: int
    dstport: int
    packets: int
    bytes: int
    tcp_flags: int
    opens: bool
    fragment: int  # 0 none, 1 first, 2 later
    fragment_id: int


def parse_packet(
    data: bytes,
    wire_length: int | None = None,
    *,
    link_type: int = 1,
    gso_size: int = 0,
    gso_segments: int = 0,
    policy: SlotPolicy | None = None,
) -> ParsedPacket:
    """Parse one packet with the C that the kernel runs.

    `wire_length` is its length as sent, in bytes, where `data` was cut by a snap length. `link_type` is one of those
    that captures may have (Ethernet by default); `gso_size` and `gso_segments` as the kernel gives them for a frame
    that stands for several packets.
    """
    parsed = _Parsed()
    buffer = (ctypes.c_uint8 * max(len(data), 1)).from_buffer_copy(data or b"\0")
    length = len(data) if wire_length is None else wire_length
    eni = (policy or SlotPolicy()).eni()
    load().capture_parse(link_type, buffer, len(data), length, gso_size, gso_segments, eni.ctypes.data, parsed)
    address = IPv6Address if parsed.v6 else lambda packed: IPv4Address(packed[:4])
    return ParsedPacket(
        exclusion=Exclusion(parsed.exclusion) if parsed.exclusion else None,
        family=6 if parsed.v6 else 4,
        protocol=parsed.proto,
        srcaddr=str(address(bytes(parsed.src))),
        dstaddr=str(address(bytes(parsed.dst))),
        srcport=parsed.sport,
        dstport=parsed.dport,
        packets=parsed.packets,
        bytes=parsed.bytes,
        tcp_flags=parsed.tcp_flags,
        opens=bool(parsed.opens),
        fragment=parsed.fragment,
        fragment_id=parsed.fragment_id,
    )

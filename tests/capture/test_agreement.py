"""One text, two builds: the kernel's program, run on packets by BPF_PROG_TEST_RUN, and the native library agree."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import packets as pk
import pytest
from drains import drain_all
from packets import ethernet, ipv4, ipv6, tcp, udp

from vnotch.capture import libbpf
from vnotch.capture.kernel import Datapath
from vnotch.capture.library import parse_packet

pytestmark = pytest.mark.root

SLOT = 9
A4, B4, A6, B6 = "10.0.1.5", "198.51.100.7", "2001:db8::5", "2001:db8:1::7"
LOOPBACK = 1
"""The interface that BPF_PROG_TEST_RUN takes where none is given."""


@pytest.fixture
def datapath() -> Iterator[Datapath]:
    """Not attached anywhere: packets come from test runs alone."""
    with Datapath.open(flows_per_map=1024) as opened:
        opened._generations.use_slots(SLOT + 1)
        opened._slots.assign(LOOPBACK, SLOT)
        yield opened


def run(datapath: Datapath, packet: bytes, gso_size: int = 0, gso_segs: int = 0) -> dict[str, Any]:
    """One packet through the ingress program -> the row it became. 60 bytes are the least that the kernel takes."""
    context = bytearray(192)  # struct __sk_buff
    struct.pack_into("=I", context, 164, gso_segs)
    struct.pack_into("=I", context, 176, gso_size)
    verdict, _ = libbpf.run_program(datapath._programs[0], packet, bytes(context))
    assert verdict == -1
    (row,) = drain_all(datapath).flows.to_pylist()
    return row


def packets(count: int) -> Iterator[bytes]:
    """Stacks of headers, most of them damaged, of 60 bytes and more."""
    generator = random.Random(7)
    payloads = [
        tcp(40000, 443, pk.SYN, b"x" * 40),
        udp(53124, 53, b"x" * 40),
        pk.icmp(8),
        pk.icmpv6(135),
        pk.sctp(5, 6),
        pk.gre(b"x" * 40),
    ]
    extensions = [pk.hop_by_hop(), pk.routing(), pk.authentication(), pk.destination_options(), pk.mobility()]
    for _ in range(count):
        payload = generator.choice(payloads)
        if generator.random() < 0.5:
            inner = ipv4(A4, B4, payload, options=b"\x01" * generator.randrange(0, 41, 4))
        else:
            inner = ipv6(A6, B6, payload, extensions=generator.choices(extensions, k=generator.randrange(0, 11)))
        vlans = generator.choice([[], [3], [(pk.ETHERTYPE_QINQ, 3), 4], [1, 2, 3]])
        frame = bytearray(ethernet(inner, vlans=vlans, pad_to=60))
        for _ in range(generator.choice([0, 0, 1, 3])):
            # Not the ethertype: the kernel sets the skb up by it and refuses packets that do not fit.
            frame[generator.randrange(14, min(len(frame), 120))] = generator.randrange(256)
        yield bytes(frame if generator.random() < 0.8 else frame[: generator.randint(60, len(frame))])


def test_both_builds_agree_on_packets_of_all_kinds(datapath: Datapath) -> None:
    kinds = set()
    for packet in packets(400):
        parsed = parse_packet(packet)
        row = run(datapath, packet)
        assert (row["packets"], row["bytes"]) == (parsed.packets, parsed.bytes), packet.hex()
        assert row["exclusion"] == (parsed.exclusion or 0), packet.hex()
        if parsed.exclusion:
            kinds.add(int(parsed.exclusion))
            continue
        size = 4 if row["family"] == 4 else 16
        kernel = (
            str(ip_address(row["srcaddr"][:size])),
            row["srcport"],
            str(ip_address(row["dstaddr"][:size])),
            row["dstport"],
            row["protocol"],
            row["tcp_flags"],
        )
        native = (
            parsed.srcaddr,
            parsed.srcport,
            parsed.dstaddr,
            parsed.dstport,
            parsed.protocol,
            parsed.tcp_flags,
        )
        assert kernel == native, packet.hex()
        kinds.add((row["family"], row["protocol"]))
    assert len(kinds) > 10, "the generator has become poor"


def test_frames_that_are_many_packets(datapath: Datapath) -> None:
    """n = gso_segs, or by the payload where a guest did not say; every segment repeats IP and TCP or UDP headers."""
    payload = b"x" * 3100
    v4 = ethernet(ipv4(A4, B4, tcp(1, 2, pk.ACK, payload, options=b"\x01" * 12)))
    v6 = ethernet(ipv6(A6, B6, udp(1, 2, payload)))
    for packet, headers in ((v4, 20 + 32), (v6, 40 + 8)):
        for segments in (3, 0):
            row = run(datapath, packet, gso_size=1400, gso_segs=segments)
            assert (row["packets"], row["bytes"]) == (3, 3100 + 3 * headers)
    row = run(datapath, ethernet(pk.arp(), pk.ETHERTYPE_ARP, pad_to=60), gso_size=10, gso_segs=4)
    assert (row["packets"], row["bytes"]) == (4, 46)

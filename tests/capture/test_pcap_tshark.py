"""An independent reader: tshark counts the same packets and bytes into the same flows, and reads what we write.

Where tshark is missing these tests skip at a desk (sudo apt install tshark); in CI they fail.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from io import BytesIO
from ipaddress import ip_address
from pathlib import Path
from random import Random
from typing import Any

import packets as pk
import pytest

from vnotch.capture.pcap import read_capture
from vnotch.capture.pcapng import CaptureWriter, PacketDirection

pytestmark = pytest.mark.skipif(
    shutil.which("tshark") is None and not os.environ.get("CI"), reason="tshark is not installed"
)

T0 = 1_700_000_000_000_000_000
FIELDS = (
    "frame.interface_id",
    "eth.type",
    "ip.src",
    "ipv6.src",
    "ip.dst",
    "ipv6.dst",
    "ip.proto",
    "ipv6.nxt",
    "tcp.srcport",
    "udp.srcport",
    "tcp.dstport",
    "udp.dstport",
    "ip.len",
    "ipv6.plen",
)


def tshark(path: Path, *arguments: str) -> list[list[str]]:
    """tshark's rows. Nothing is reassembled and no payload looked into, so a field is of the packet itself."""
    command = ["tshark", "-n", "-r", str(path), "-o", "ip.defragment:FALSE", "-o", "tcp.desegment_tcp_streams:FALSE"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=True, timeout=100)
    return [line.split("\t") for line in done.stdout.splitlines()]


def flows_by_tshark(path: Path) -> Counter[tuple[Any, ...]]:
    """(slot, source, destination, protocol, source port, destination port) -> packets, and the same + "bytes"."""
    flows: Counter[tuple[Any, ...]] = Counter()
    options = [option for name in FIELDS for option in ("-e", name)]
    for row in tshark(path, "-T", "fields", "-E", "occurrence=f", *options):
        field = dict(zip(FIELDS, row, strict=True))
        source = field["ip.src"] or field["ipv6.src"]
        protocol = field["ip.proto"] or field["ipv6.nxt"]
        length = int(field["ip.len"] or int(field["ipv6.plen"]) + 40)
        ports = (field["tcp.srcport"] or field["udp.srcport"] or 0, field["tcp.dstport"] or field["udp.dstport"] or 0)
        destination = field["ip.dst"] or field["ipv6.dst"]
        flow = (int(field["frame.interface_id"] or 0), source, destination, int(protocol), *map(int, ports))
        flows[flow] += 1
        flows[*flow, "bytes"] += length
    return flows


def flows_by_us(path: Path) -> Counter[tuple[Any, ...]]:
    flows: Counter[tuple[Any, ...]] = Counter()
    for drain in read_capture(path, 60):
        for row in drain.flows.to_pylist():
            size = 4 if row["family"] == 4 else 16
            ends = (str(ip_address(row["srcaddr"][:size])), str(ip_address(row["dstaddr"][:size])))
            flow = (row["slot"], *ends, row["protocol"], row["srcport"], row["dstport"])
            flows[flow] += row["packets"]
            flows[*flow, "bytes"] += row["bytes"]
    return flows


def test_tshark_finds_the_same_flows_in_a_generated_capture(tmp_path: Path) -> None:
    script = Path(__file__).parent.parent.parent / "bench" / "make_pcap.py"
    path = tmp_path / "a.pcap"
    command = [sys.executable, str(script), str(path), "--packets", "20000", "--flows", "2000", "--seed", "3"]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    assert flows_by_us(path) == flows_by_tshark(path)


def random_capture(count: int) -> bytes:
    """Packets of all shapes that tshark and AWS count alike, on three interfaces."""
    random = Random(11)
    stream = BytesIO()
    writer = CaptureWriter(stream)
    for name in ("vn-web", "vn-db", "vn-nat"):
        writer.write_interface(name)
    for number in range(count):
        ports = random.choice([40000, 40001]), random.choice([443, 8081])
        payload = b"x" * random.randrange(200)
        transport = random.choice(
            [pk.tcp(*ports, random.randrange(64), payload), pk.udp(*ports, payload), pk.esp(), pk.other(253, payload)]
        )
        tags = random.choice([[], [5], [(0x88A8, 6), 7]])
        if random.random() < 0.5:
            options = random.choice([b"", b"\x01\x01\x01\x00"])
            packet = pk.ipv4(f"10.0.0.{random.randrange(1, 4)}", "198.51.100.7", transport, options=options)
        else:
            packet = pk.ipv6(f"2001:db8::{random.randrange(1, 4)}", "2001:db8:1::7", transport)
        frame = pk.ethernet(packet, vlans=tags, pad_to=60)
        keep = random.choice([len(frame), 100])
        direction = PacketDirection(random.randrange(3))
        writer.write_packet(number % 3, T0 + number * 10_000_001, frame[:keep], len(frame), direction)
    return stream.getvalue()


def test_tshark_reads_what_is_written_and_finds_the_same_flows(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    path.write_bytes(random_capture(3000))
    assert flows_by_us(path) == flows_by_tshark(path)


def test_tshark_reads_names_times_lengths_and_directions(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    stream = BytesIO()
    writer = CaptureWriter(stream)
    web, database = writer.write_interface("vn-web"), writer.write_interface("vn-db", snap_length=64)
    frame = pk.ethernet(pk.ipv4("10.0.0.1", "10.0.0.2", pk.udp(1, 2, b"x" * 100)))
    writer.write_packet(web, T0 + 1, frame, direction=PacketDirection.INBOUND)
    writer.write_packet(database, T0 + 999_999_999, frame[:64], len(frame), PacketDirection.OUTBOUND)
    path.write_bytes(stream.getvalue())
    names = ("frame.interface_name", "frame.time_epoch", "frame.cap_len", "frame.len", "frame.packet_flags_direction")
    rows = tshark(path, "-T", "fields", *[option for name in names for option in ("-e", name)])
    assert [row[:4] for row in rows] == [
        ["vn-web", "1700000000.000000001", "142", "142"],
        ["vn-db", "1700000000.999999999", "64", "142"],
    ]
    assert [int(row[4], 16) for row in rows] == [1, 2]

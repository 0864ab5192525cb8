"""Capture files: every format variant read, every packet in exactly one flow, and damage named by its byte."""

from __future__ import annotations

import csv
import gzip
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from functools import cache
from io import BytesIO
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import packets as pk
import pyarrow as pa
import pytest
from letting import offline
from packets import ethernet, ipv4, ipv6, tcp, udp

from vnotch.capture import pcap
from vnotch.capture.library import SlotPolicy
from vnotch.capture.pcap import CaptureDrain, CaptureInterface, CaptureSummary, read_capture
from vnotch.capture.pcapng import CaptureWriter, PacketDirection
from vnotch.capture.policy import OfflineRules
from vnotch.errors import InputError
from vnotch.flow import FLOW_SCHEMA, LOSS_SCHEMA, Direction, Exclusion, Outcome

ROOT = Path(__file__).parent.parent.parent
S = 1_000_000_000
T0 = 1_700_000_000 * S
A, B = "10.0.1.5", "198.51.100.7"
INGRESS, EGRESS = Direction.INGRESS, Direction.EGRESS


# Files made by hand --------------------------------------------------------------------------------------------------


def classic(
    records: Iterable[tuple[int, bytes]], *, order: str = "<", nanoseconds: bool = False, link_type: int = 1
) -> bytes:
    """A pcap file of (Unix ns, frame) records; `order` is struct's."""
    unit = 1 if nanoseconds else 1000
    magic = 0xA1B23C4D if nanoseconds else 0xA1B2C3D4
    head = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 262144, link_type)
    body = [
        struct.pack(order + "IIII", ns // S, ns % S // unit, len(frame), len(frame)) + frame for ns, frame in records
    ]
    return head + b"".join(body)


class Blocks:
    """pcapng blocks by hand, in either byte order, with whatever lengths a test wants."""

    def __init__(self, order: str = "<") -> None:
        self.order = order

    def pack(self, form: str, *values: Any) -> bytes:
        return struct.pack(self.order + form, *values)

    def block(self, kind: int, body: bytes, *, length: int | None = None, trailing: int | None = None) -> bytes:
        body += b"\0" * (-len(body) % 4)
        size = 12 + len(body) if length is None else length
        return self.pack("II", kind, size) + body + self.pack("I", size if trailing is None else trailing)

    def option(self, code: int, value: bytes) -> bytes:
        return self.pack("HH", code, len(value)) + value + b"\0" * (-len(value) % 4)

    def section(self, *, major: int = 1) -> bytes:
        return self.block(0x0A0D0D0A, self.pack("IHHq", 0x1A2B3C4D, major, 0, -1))

    def interface(
        self,
        name: str = "",
        *,
        link_type: int = 1,
        snap_length: int = 0,
        resolution: int | None = None,
        offset_seconds: int | None = None,
    ) -> bytes:
        options = self.option(2, name.encode()) if name else b""
        if resolution is not None:
            options += self.option(9, bytes([resolution]))
        if offset_seconds is not None:
            options += self.option(14, self.pack("q", offset_seconds))
        return self.block(1, self.pack("HHI", link_type, 0, snap_length) + options + (options and b"\0" * 4))

    def packet(
        self,
        frame: bytes,
        units: int,
        *,
        interface: int = 0,
        wire_length: int | None = None,
        flags: int | None = None,
        comment: bytes = b"",
        captured: int | None = None,
    ) -> bytes:
        length = len(frame) if wire_length is None else wire_length
        options = self.option(1, comment) if comment else b""
        options += self.option(2, self.pack("I", flags)) if flags is not None else b""
        body = self.pack(
            "IIIII", interface, units >> 32, units & 0xFFFFFFFF, len(frame) if captured is None else captured, length
        )
        return self.block(6, body + frame + b"\0" * (-len(frame) % 4) + options + (options and b"\0" * 4))

    def old_packet(self, frame: bytes, units: int, *, interface: int = 0) -> bytes:
        body = self.pack("HHIIII", interface, 0, units >> 32, units & 0xFFFFFFFF, len(frame), len(frame))
        return self.block(2, body + frame)

    def simple_packet(self, frame: bytes, wire_length: int | None = None) -> bytes:
        return self.block(3, self.pack("I", len(frame) if wire_length is None else wire_length) + frame)


@pytest.fixture
def capture(tmp_path: Path) -> Any:
    """Write bytes to a file and return its path."""

    def write(content: bytes, name: str = "capture") -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


def frame_of(source: str = A, destination: str = B, source_port: int = 1, destination_port: int = 2) -> bytes:
    make = ipv6 if ":" in source else ipv4
    return ethernet(make(source, destination, udp(source_port, destination_port)))


# What a reading gives ------------------------------------------------------------------------------------------------


def read(path: Path, *arguments: Any, **options: Any) -> tuple[list[dict[str, Any]], CaptureSummary]:
    """All flows as rows, and the summary; holds what must be true of every reading."""
    return checked(list(read_capture(path, *arguments, **options)))


def checked(drains: list[CaptureDrain]) -> tuple[list[dict[str, Any]], CaptureSummary]:
    assert [drain.summary is None for drain in drains] == [True] * (len(drains) - 1) + [False]
    assert [drain.start_s for drain in drains] == sorted(drain.start_s for drain in drains)
    summary = drains[-1].summary
    assert summary is not None
    flows = pa.concat_tables(drain.flows for drain in drains)
    assert flows.schema == FLOW_SCHEMA
    flows.validate(full=True)
    assert all(drain.losses.schema == LOSS_SCHEMA and not len(drain.losses) for drain in drains)
    rows = flows.to_pylist()
    # Conservation: every packet is in exactly one flow.
    assert sum(row["packets"] for row in rows) == summary.packets
    assert sum(row["bytes"] for row in rows) == summary.bytes
    seen: Counter[tuple[int, int]] = Counter()
    for row in rows:
        seen[row["slot"], row["direction"]] += row["packets"]
    assert seen == {key: packets for key, (packets, _) in summary.seen.items()}
    return rows, summary


def read_damaged(path: Path, **options: Any) -> tuple[list[dict[str, Any]], CaptureSummary, str]:
    """The flows before the damage, the summary and the error's text."""
    drains: list[CaptureDrain] = []
    with pytest.raises(InputError) as caught:
        drains.extend(read_capture(path, **options))  # keeps what came before the error
    text = str(caught.value)
    assert text.startswith(f"{path}: byte ")
    rows, summary = checked(drains)
    assert summary.truncated_at == int(text.removeprefix(f"{path}: byte ").split(":")[0].split()[0])
    return rows, summary, text


@cache
def address(packed: bytes, family: int) -> str:
    return str(ip_address(packed[:4] if family == 4 else packed))


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    source, destination = address(row["srcaddr"], row["family"]), address(row["dstaddr"], row["family"])
    return (source, destination, row["srcport"], row["dstport"], row["protocol"])


# The generator's truth -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[False, True], ids=["us", "ns"])
def generated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, int]:
    """A capture of 200,000 packets, the truth about its flows, and the ns of a unit of time."""
    folder = tmp_path_factory.mktemp("generated")
    command = [sys.executable, str(ROOT / "bench" / "make_pcap.py"), str(folder / "a.pcap"), "--packets", "200000"]
    command += ["--flows", "20000", "--seed", "7", "--truth", str(folder / "truth.csv")]
    subprocess.run([*command, *(["--ns"] if request.param else [])], check=True, stderr=subprocess.DEVNULL)
    return folder / "a.pcap", folder / "truth.csv", 1 if request.param else 1000


def truth_of(path: Path, unit_ns: int) -> dict[tuple[Any, ...], tuple[int, ...]]:
    with path.open() as lines:
        return {
            (row["srcaddr"], row["dstaddr"], int(row["srcport"]), int(row["dstport"]), int(row["proto"])): (
                int(row["packets"]),
                int(row["bytes"]),
                T0 + int(row["first"]) * unit_ns,
                T0 + int(row["last"]) * unit_ns,
            )
            for row in csv.DictReader(lines)
        }


def merged(drains: Iterable[CaptureDrain]) -> dict[tuple[Any, ...], tuple[int, ...]]:
    """Flows of several ticks, added up."""
    flows: dict[tuple[Any, ...], tuple[int, ...]] = {}
    for drain in drains:
        for row in drain.flows.to_pylist():
            packets, length, first, last = flows.get(key(row), (0, 0, 1 << 62, 0))
            flows[key(row)] = (
                packets + row["packets"],
                length + row["bytes"],
                min(first, row["start_ns"]),
                max(last, row["end_ns"]),
            )
    return flows


@pytest.mark.parametrize("tick_seconds", [7, 600])
def test_every_flow_is_exactly_the_generators(generated: tuple[Path, Path, int], tick_seconds: int) -> None:
    path, truth, unit_ns = generated
    drains = list(read_capture(path, tick_seconds))
    assert merged(drains) == truth_of(truth, unit_ns)
    for drain in drains:
        assert drain.start_s % tick_seconds == 0
        times = drain.flows.select(["start_ns", "end_ns"]).to_pydict()
        assert min(times["start_ns"]) >= drain.start_s * S
        assert max(times["end_ns"]) < (drain.start_s + tick_seconds) * S
    assert len({drain.start_s for drain in drains}) == len(drains)


def test_gzip_gives_the_same(generated: tuple[Path, Path, int], tmp_path: Path) -> None:
    path, truth, unit_ns = generated
    content = path.read_bytes()
    packed = tmp_path / "a.pcap.gz"
    # Two members, as tools that append or compress in parallel write them.
    packed.write_bytes(gzip.compress(content[:1_000_001], 1) + gzip.compress(content[1_000_001:], 1))
    assert merged(read_capture(packed)) == truth_of(truth, unit_ns)


@pytest.mark.parametrize("max_flows", [1, 3, 1000, 1 << 20])
def test_a_small_table_is_drained_early_and_loses_nothing(
    generated: tuple[Path, Path, int], tmp_path: Path, max_flows: int
) -> None:
    path, _, _ = generated
    few = tmp_path / "few.pcap"
    few.write_bytes(first_records(path.read_bytes(), 1500))
    expected = merged(read_capture(few))
    drains = list(read_capture(few, 600, max_flows=max_flows))
    assert max(len(drain.flows) for drain in drains) <= max_flows
    assert merged(drains) == expected
    checked(drains)


def first_records(content: bytes, count: int) -> bytes:
    """The header and the first records of a little endian pcap."""
    at = 24
    for _ in range(count):
        at += 16 + struct.unpack_from("<I", content, at + 8)[0]
    return content[:at]


@pytest.mark.parametrize("buffer_bytes", [1, 17, 100, 4096])
def test_where_reads_end_makes_no_difference(
    generated: tuple[Path, Path, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, buffer_bytes: int
) -> None:
    few = tmp_path / "few.pcap"
    few.write_bytes(first_records(generated[0].read_bytes(), 500))
    expected = merged(read_capture(few))
    monkeypatch.setattr(pcap, "BUFFER_BYTES", buffer_bytes)
    assert merged(read_capture(few)) == expected


# Formats -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("nanoseconds", [False, True])
def test_classic_pcap(capture: Any, order: str, nanoseconds: bool) -> None:
    content = classic([(T0 + 5_000, frame_of()), (T0 + 7_000, frame_of())], order=order, nanoseconds=nanoseconds)
    [row], summary = read(capture(content))
    assert key(row) == (A, B, 1, 2, 17)
    assert (row["packets"], row["bytes"], row["start_ns"], row["end_ns"]) == (2, 56, T0 + 5_000, T0 + 7_000)
    assert (row["slot"], row["direction"], row["outcome"]) == (0, INGRESS, Outcome.ACCEPT)
    assert summary.interfaces == (CaptureInterface(0, "", 1, 262144, 0, 0),)
    assert summary.truncated_at is None


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("resolution", "offset_seconds", "units"),
    [
        (None, None, (T0 + 123_456_000) // 1000),
        (6, None, (T0 + 123_456_000) // 1000),
        (9, None, T0 + 123_456_000),
        (0, None, T0 // S),
        (3, None, T0 // 1_000_000 + 123),
        (12, T0 // S, 123_456_000_999),  # 64 bits of picoseconds are 213 days
        (9, 1_600_000_000, T0 + 123_456_000 - 1_600_000_000 * S),
        (9, -100, T0 + 123_456_000 + 100 * S),
        (0x80 | 0, None, T0 // S),
        (0x80 | 10, None, T0 // S * 1024 + 512),
        (0x80 | 30, None, (T0 // S << 30) + (1 << 29)),
    ],
)
def test_pcapng_times(capture: Any, order: str, resolution: int | None, offset_seconds: int | None, units: int) -> None:
    fraction = {0: 0, 3: 123_000_000, 0x80: 0, 0x80 | 10: S // 2, 0x80 | 30: S // 2}.get(resolution or 6, 123_456_000)
    fraction = 0 if resolution == 0 else fraction
    blocks = Blocks(order)
    interface = blocks.interface(resolution=resolution, offset_seconds=offset_seconds)
    [row], _ = read(capture(blocks.section() + interface + blocks.packet(frame_of(), units)))
    assert row["start_ns"] == T0 + fraction


@pytest.mark.parametrize("order", ["<", ">"])
def test_pcapng_interfaces_are_slots(capture: Any, order: str) -> None:
    blocks = Blocks(order)
    content = blocks.section() + blocks.interface("vn-web") + blocks.interface("vn-db", resolution=9, snap_length=96)
    content += blocks.packet(frame_of(), T0, interface=1) + blocks.packet(frame_of(), T0 // 1000, interface=0)
    rows, summary = read(capture(content))
    assert sorted((row["slot"], row["packets"]) for row in rows) == [(0, 1), (1, 1)]
    assert summary.interfaces == (
        CaptureInterface(0, "vn-web", 1, 0, 0, 0),
        CaptureInterface(1, "vn-db", 1, 96, 0, 1),
    )


def test_other_blocks_are_passed_over(capture: Any) -> None:
    blocks = Blocks()
    others = [
        blocks.block(4, b"\0" * 8),  # name resolution
        blocks.block(5, blocks.pack("III", 0, 0, 0)),  # interface statistics
        blocks.block(0x0BAD, b"a custom block, copied"),
        blocks.block(0xFFFF0000, b""),
        blocks.block(10, b"secrets" * 500_000),  # longer than the buffer
    ]
    content = blocks.section() + blocks.interface()
    for at, other in enumerate(others):
        content += other + blocks.packet(frame_of(), T0 // 1000 + at)
    [row], summary = read(capture(content))
    assert row["packets"] == len(others)
    assert summary.blocks_skipped == len(others)


def test_a_packet_block_longer_than_the_buffer(capture: Any) -> None:
    blocks = Blocks()
    comments = b"".join(blocks.option(1, b"x" * 65535) for _ in range(30))
    body = blocks.pack("IIIII", 0, 0, 0, 60, 60) + frame_of().ljust(60, b"\0") + comments
    content = blocks.section() + blocks.interface() + blocks.block(6, body) + blocks.packet(frame_of(), 1)
    [row], _ = read(capture(content))
    assert row["packets"] == 2


def test_simple_packets_take_the_time_before_them(capture: Any) -> None:
    blocks = Blocks()
    content = blocks.section() + blocks.interface(snap_length=60)
    content += blocks.packet(frame_of(), T0 // 1000) + blocks.simple_packet(frame_of(source_port=9))
    # Longer than the snap length: the block holds 60 of 1042 bytes.
    long = ethernet(ipv4(A, B, udp(9, 2, b"x" * 1000)))
    content += blocks.simple_packet(long[:60], len(long))
    rows, summary = read(capture(content))
    assert [(row["srcport"], row["packets"], row["bytes"], row["start_ns"]) for row in rows] == [
        (1, 1, 28, T0),
        (9, 2, 28 + 1028, T0),
    ]
    assert summary.untimed == 2


def test_the_packet_blocks_of_old(capture: Any) -> None:
    blocks = Blocks()
    content = blocks.section() + blocks.interface() + blocks.interface()
    [row], _ = read(capture(content + blocks.old_packet(frame_of(), T0 // 1000, interface=1)))
    assert (row["slot"], row["start_ns"], key(row)) == (1, T0, (A, B, 1, 2, 17))


def test_sections_share_slots_by_name(capture: Any) -> None:
    first, second = Blocks("<"), Blocks(">")
    content = first.section() + first.interface("web") + first.interface("db") + first.interface()
    content += first.packet(frame_of(), T0 // 1000, interface=0) + first.packet(frame_of(), T0 // 1000, interface=2)
    content += second.section() + second.interface("db") + second.interface("new") + second.interface()
    content += b"".join(second.packet(frame_of(), T0 // 1000, interface=index) for index in (0, 1, 2))
    rows, summary = read(capture(content))
    assert [(entry.section, entry.name, entry.slot) for entry in summary.interfaces] == [
        (0, "web", 0),
        (0, "db", 1),
        (0, "", 2),
        (1, "db", 1),
        (1, "new", 3),
        (1, "", 2),
    ]
    assert {row["slot"]: row["packets"] for row in rows} == {0: 1, 1: 1, 2: 2, 3: 1}


@pytest.mark.parametrize(
    ("link_type", "wrap"),
    [
        (12, bytes),
        (101, bytes),
        (228, bytes),
        (113, lambda packet: pk.linux_cooked(packet, 0x0800)),
        (276, lambda packet: pk.linux_cooked_2(packet, 0x0800)),
    ],
)
def test_link_types(capture: Any, link_type: int, wrap: Any) -> None:
    packet = wrap(ipv4(A, B, udp(1, 2)))
    [row], _ = read(capture(classic([(T0, packet)], link_type=link_type)))
    assert (key(row), row["bytes"]) == ((A, B, 1, 2, 17), 28)


def test_a_snap_length_keeps_bytes_and_is_told_where_it_cuts_headers(capture: Any) -> None:
    blocks = Blocks()
    frame = ethernet(ipv4(A, B, tcp(1, 2, payload=b"x" * 1000)))
    content = blocks.section() + blocks.interface()
    content += blocks.packet(frame[:64], 1, wire_length=len(frame)) + blocks.packet(
        frame[:36], 1, wire_length=len(frame)
    )
    rows, summary = read(capture(content))
    assert [(row["exclusion"], row["bytes"]) for row in rows] == [(0, 1040), (Exclusion.MALFORMED, 1040)]
    assert (summary.malformed, summary.cut) == (1, 1)


def test_a_capture_without_packets(capture: Any) -> None:
    for content in (classic([]), Blocks().section(), Blocks().section() + Blocks().interface("a")):
        rows, summary = read(capture(content))
        assert rows == []
        assert (summary.packets, summary.truncated_at) == (0, None)


# Ticks ---------------------------------------------------------------------------------------------------------------


def test_ticks_are_multiples_of_their_length(capture: Any) -> None:
    times = [T0 + 3 * S, T0 + 9 * S + 999_999_999, T0 + 10 * S, T0 + 95 * S]
    drains = list(read_capture(capture(classic([(ns, frame_of()) for ns in times], nanoseconds=True)), 10))
    assert [(drain.start_s * S - T0, drain.flows["packets"].to_pylist()) for drain in drains] == [
        (0, [2]),
        (10 * S, [1]),
        (90 * S, [1]),
    ]


def test_an_older_packet_goes_into_the_tick_that_is_open(capture: Any) -> None:
    times = [T0 + 10 * S, T0 + 8 * S, T0 + 12 * S, T0 + 11 * S]
    [drain] = read_capture(capture(classic([(ns, frame_of()) for ns in times])), 10)
    [row], summary = checked([drain])
    assert (drain.start_s, row["packets"]) == (T0 // S + 10, 4)
    assert (row["start_ns"], row["end_ns"]) == (T0 + 8 * S, T0 + 12 * S)
    assert summary.late == 1  # the last one is out of order, but not older than its tick


@pytest.mark.parametrize("options", [{"tick_seconds": 0}, {"tick_seconds": 86401}, {"max_flows": 0}])
def test_bounds_out_of_range_are_refused(capture: Any, options: dict[str, int]) -> None:
    with pytest.raises(InputError):
        list(read_capture(capture(classic([])), **options))


# Direction -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "inside", "expected"),
    [
        (1, False, EGRESS),  # into the host's side: out of the ENI
        (2, False, INGRESS),
        (1, True, INGRESS),
        (2, True, EGRESS),
        (0x11, False, EGRESS),  # other bits (reception type, link errors) mean other things
        (0, False, INGRESS),  # not known, and no address either
        (3, False, INGRESS),
    ],
)
def test_direction_from_the_packets_flags(capture: Any, flags: int, inside: bool, expected: Direction) -> None:
    blocks = Blocks()
    content = blocks.section() + blocks.interface() + blocks.packet(frame_of(), 1, flags=flags, comment=b"why")
    [row], _ = read(capture(content), inside=inside)
    assert row["direction"] == expected


@pytest.mark.parametrize(
    ("local", "frame", "expected"),
    [
        ((A,), frame_of(A, B), EGRESS),
        ((A,), frame_of(B, A), INGRESS),
        ((B, A), frame_of(A, B), EGRESS),
        (("10.0.0.0/16",), frame_of(A, B), EGRESS),
        (("10.0.0.0/24",), frame_of(A, B), INGRESS),
        (("0.0.0.0/0",), frame_of("2001:db8::5", "2001:db8::6"), INGRESS),
        (("2001:db8::/64",), frame_of("2001:db8::5", "2001:db8:1::6"), EGRESS),
        (("2001:db8::5",), frame_of("2001:db8::6", "2001:db8::5"), INGRESS),
        ((), frame_of(A, B), INGRESS),
        (("10.0.0.0/8",), ethernet(pk.arp(), 0x0806), INGRESS),
    ],
)
def test_direction_from_addresses(capture: Any, local: tuple[str, ...], frame: bytes, expected: Direction) -> None:
    [row], _ = read(capture(classic([(T0, frame)])), policies={0: SlotPolicy(local=local)})
    assert row["direction"] == expected


def test_flags_are_believed_before_addresses(capture: Any) -> None:
    blocks = Blocks()
    content = blocks.section() + blocks.interface() + blocks.packet(frame_of(A, B), 1, flags=2)
    [row], _ = read(capture(content), policies={0: SlotPolicy(local=(A,))})
    assert row["direction"] == INGRESS


@pytest.mark.parametrize("cooked", [pk.linux_cooked, pk.linux_cooked_2])
@pytest.mark.parametrize(("packet_type", "expected"), [(0, EGRESS), (4, INGRESS), (3, INGRESS)])
def test_direction_of_cooked_packets(capture: Any, cooked: Any, packet_type: int, expected: Direction) -> None:
    link_type = 113 if cooked is pk.linux_cooked else 276
    frame = cooked(ipv4(A, B, udp(1, 2)), 0x0800, packet_type=packet_type)
    [row], _ = read(capture(classic([(T0, frame)], link_type=link_type)))
    assert row["direction"] == expected


@pytest.mark.parametrize("local", ["10.0.0", "10.0.0.0/33", "localhost"])
def test_a_local_address_that_is_none_is_refused(capture: Any, local: str) -> None:
    with pytest.raises(InputError, match="local address"):
        list(read_capture(capture(classic([])), policies={0: SlotPolicy(local=(local,))}))


# Policies ------------------------------------------------------------------------------------------------------------


def verdicts(
    capture: Any,
    frames: list[bytes],
    policy: SlotPolicy = SlotPolicy(),  # noqa: B008 frozen
    flags: int = 2,
    rules: OfflineRules | None = None,
) -> list[tuple[int, int, int]]:
    """(destination port, outcome, exclusion) of ingress packets, in order."""
    blocks = Blocks()
    content = blocks.section() + blocks.interface("web")
    content += b"".join(blocks.packet(frame, T0 // 1000, flags=flags) for frame in frames)
    rows, _ = read(capture(content), policies=lambda interface: policy, rules=rules)
    return [(row["dstport"], row["outcome"], row["exclusion"]) for row in rows]


def test_rules_reject_what_opens_a_connection_elsewhere(capture: Any) -> None:
    frames = [
        ethernet(ipv4(B, A, tcp(40000, 443, pk.SYN))),
        ethernet(ipv4(B, A, tcp(40000, 22, pk.SYN))),
        ethernet(ipv4(B, A, udp(40000, 443))),  # open to tcp alone
        ethernet(ipv6("2001:db8::7", "2001:db8::5", tcp(1, 443, pk.SYN))),
        ethernet(ipv4(B, A, pk.icmp())),
    ]
    accept, reject = int(Outcome.ACCEPT), int(Outcome.REJECT)
    opened = offline(0, (6, 443), (17, 4000))
    assert verdicts(capture, frames, rules=opened) == [
        (443, accept, 0),
        (22, reject, 0),
        (443, reject, 0),
        (443, accept, 0),
        (0, reject, 0),
    ]
    assert {outcome for _, outcome, _ in verdicts(capture, frames, flags=1, rules=opened)} == {accept}  # egress
    assert {outcome for _, outcome, _ in verdicts(capture, frames)} == {accept}
    assert {outcome for _, outcome, _ in verdicts(capture, frames, rules=offline(0))} == {reject}


def test_a_capture_made_at_the_eni_itself_has_the_other_directions(capture: Any) -> None:
    """Rules let in port 443 alone and everything out: flag 2, outbound, is egress where the device is the ENI."""
    frames = [ethernet(ipv4(B, A, tcp(40000, 22, pk.SYN)))]
    inside = SlotPolicy(inside=True)
    assert verdicts(capture, frames, inside, 2, offline(0, (6, 443))) == [(22, int(Outcome.ACCEPT), 0)]
    assert verdicts(capture, frames, inside, 1, offline(0, (6, 443))) == [(22, int(Outcome.REJECT), 0)]


def test_unicast_frames_for_another_mac_are_flooded(capture: Any) -> None:
    """The frame's destination is not the ENI's: a switch did not know where to send it."""
    frames = [ethernet(ipv4(B, A, udp(1, 53))), ethernet(pk.arp(), 0x0806)]
    mac = frames[0][:6]
    accept, excluded = int(Outcome.ACCEPT), int(Outcome.EXCLUDED)
    assert verdicts(capture, frames[:1], SlotPolicy(mac=mac)) == [(53, accept, 0)]
    other = SlotPolicy(mac=bytes([mac[0], *mac[1:5], mac[5] ^ 1]))
    assert verdicts(capture, frames[:1], other) == [(0, excluded, Exclusion.FLOODED)]
    assert verdicts(capture, frames[:1], other, flags=1) == [(53, accept, 0)]  # what the ENI sends goes anywhere
    assert verdicts(capture, frames[1:], other) == [(0, excluded, Exclusion.ARP)]
    group = [b"\xff" * 6 + frames[0][6:]]
    assert verdicts(capture, group, other) == [(0, excluded, Exclusion.MULTICAST)]


def test_what_aws_does_not_record_is_excluded_by_reason(capture: Any) -> None:
    frames = [
        ethernet(ipv4("10.0.0.2", A, udp(53, 4000))),
        ethernet(ipv4("10.0.0.2", A, udp(53, 4001))),
        ethernet(ipv4("10.0.0.1", A, pk.icmp())),
        ethernet(pk.arp(), 0x0806),
    ]
    policy = SlotPolicy(dns_ipv4="10.0.0.2", routers_ipv4=("10.0.0.1",))
    excluded = int(Outcome.EXCLUDED)
    assert verdicts(capture, frames, policy) == [
        (0, excluded, Exclusion.DNS),
        (0, excluded, Exclusion.ROUTER),
        (0, excluded, Exclusion.ARP),
    ]


def test_an_excluded_row_has_nothing_but_its_count(capture: Any) -> None:
    [row], _ = read(capture(classic([(T0, frame_of(A, "169.254.169.254")), (T0 + S, frame_of(A, "169.254.169.254"))])))
    assert row == {
        **{field.name: b"\0" * 16 if field.type == pa.binary(16) else 0 for field in FLOW_SCHEMA},
        "outcome": Outcome.EXCLUDED,
        "exclusion": Exclusion.METADATA,
        "packets": 2,
        "bytes": 56,
        "start_ns": T0,
        "end_ns": T0 + S,
    }


def test_policies_are_of_their_slots(capture: Any) -> None:
    blocks = Blocks()
    content = blocks.section() + blocks.interface("web") + blocks.interface("db")
    content += b"".join(blocks.packet(ethernet(ipv4(B, A, tcp(1, 80, pk.SYN))), 1, interface=i) for i in (0, 1))
    path = capture(content)
    closed = SlotPolicy(routers_ipv4=(B,))
    by_number, _ = read(path, policies={1: closed})
    by_name, _ = read(path, policies=lambda interface: closed if interface.name == "db" else SlotPolicy())
    assert by_number == by_name
    assert {row["slot"]: row["outcome"] for row in by_number} == {0: Outcome.ACCEPT, 1: Outcome.EXCLUDED}


# Fragments -----------------------------------------------------------------------------------------------------------


def pieces_of(identification: int = 7) -> list[bytes]:
    datagram = udp(5000, 6000, b"z" * 100)
    return [ethernet(p) for p in pk.ipv4_fragments(B, A, datagram, identification=identification, fragment_bytes=40)]


def test_later_fragments_are_of_their_datagrams_flow(capture: Any) -> None:
    [row], _ = read(capture(classic([(T0, piece) for piece in pieces_of()])))
    assert key(row) == (B, A, 5000, 6000, 17)
    assert (row["packets"], row["bytes"]) == (3, 60 + 60 + 48)


def test_later_fragments_of_ipv6_take_the_protocol_behind_the_options(capture: Any) -> None:
    # The destination options are in the fragmented part: later fragments name 60, the first one leads to UDP.
    body = b"\x11\0\x01\x04\0\0\0\0" + udp(5000, 6000, b"z" * 24).data
    pieces = [
        ipv6("2001:db8::7", "2001:db8::5", part, next_header=60, extensions=[pk.fragment_header(1, at, at == 0)])
        for at, part in ((0, body[:24]), (24, body[24:]))
    ]
    [row], _ = read(capture(classic([(T0, ethernet(piece)) for piece in pieces])))
    assert (row["protocol"], row["srcport"], row["dstport"], row["packets"]) == (17, 5000, 6000, 2)


def test_a_later_fragment_alone_has_no_ports(capture: Any) -> None:
    rows, _ = read(capture(classic([(T0, piece) for piece in pieces_of()[1:] + pieces_of()[:1]])))
    assert [(key(row), row["packets"]) for row in rows] == [((B, A, 0, 0, 17), 2), ((B, A, 5000, 6000, 17), 1)]


@pytest.mark.parametrize(("seconds", "flows"), [(30, 1), (31, 2)])
def test_a_first_fragment_is_remembered_for_thirty_seconds(capture: Any, seconds: int, flows: int) -> None:
    first, second, _ = pieces_of()
    rows, _ = read(capture(classic([(T0, first), (T0 + seconds * S, second)])), 3600)
    assert len(rows) == flows


def test_fragments_of_other_datagrams_interfaces_and_directions_are_others(capture: Any) -> None:
    blocks = Blocks()
    first, second, _ = pieces_of()
    content = blocks.section() + blocks.interface() + blocks.interface()
    content += blocks.packet(first, 1, flags=1)
    for interface, flags, frame in ((0, 2, second), (1, 1, second), (0, 1, pieces_of(8)[1])):
        content += blocks.packet(frame, 1, interface=interface, flags=flags)
    rows, _ = read(capture(content))
    assert [row["srcport"] for row in rows] == [5000, 0, 0, 0]


def test_fragments_share_their_first_ones_verdict(capture: Any) -> None:
    assert verdicts(capture, pieces_of(), rules=offline(0, (17, 53))) == [(6000, Outcome.REJECT, 0)]
    assert verdicts(capture, pieces_of(), rules=offline(0, (17, 6000))) == [(6000, Outcome.ACCEPT, 0)]


def test_fragments_are_excluded_by_the_ports_of_their_first(capture: Any) -> None:
    datagram = udp(53, 4000, b"z" * 100)
    pieces = pk.ipv4_fragments("10.0.0.2", A, datagram, identification=1, fragment_bytes=40)
    policy = SlotPolicy(dns_ipv4="10.0.0.2")
    assert verdicts(capture, [ethernet(piece) for piece in pieces], policy) == [(0, Outcome.EXCLUDED, Exclusion.DNS)]


def test_a_flood_of_first_fragments_is_bounded_and_counted(capture: Any) -> None:
    first, second, _ = pieces_of()
    # The identification is in bytes 4 and 5 of the IP header; nobody here looks at the checksum.
    flood = [first[:18] + struct.pack("!H", number) + first[20:] for number in range(40_000)]
    rows, summary = read(capture(classic([(T0, frame) for frame in flood])))
    assert sum(row["packets"] for row in rows) == 40_000
    # 16,384 fit at most; sets of four fill unevenly.
    assert 40_000 - 16_384 <= summary.fragments_untracked < 40_000 - 10_000
    # 31 seconds later there is room for any of them.
    again = [(T0, frame) for frame in flood] + [(T0 + 31 * S, first), (T0 + 31 * S, second)]
    rows, _ = read(capture(classic(again)), 3600)
    assert [(row["srcport"], row["packets"]) for row in rows] == [(5000, 40_002)]


# Damage --------------------------------------------------------------------------------------------------------------


def test_a_file_cut_anywhere_gives_what_is_before_the_cut(capture: Any) -> None:
    blocks = Blocks()
    ng = blocks.section() + blocks.interface("web") + blocks.block(4, b"\0" * 8)
    sizes = [len(ng)]
    for number in range(3):
        ng += blocks.packet(frame_of(source_port=number), T0 // 1000, flags=1)
        sizes.append(len(ng))
    whole = classic([(T0, frame_of(source_port=number)) for number in range(3)])
    ends = [24 + number * (len(whole) - 24) // 3 for number in range(4)]
    for content, record_ends in ((whole, ends), (ng, sizes)):
        clean = {*record_ends, *([28, 28 + 32, len(ng)] if content is ng else [])}
        for cut in range(len(content)):
            path = capture(content[:cut])
            if cut in clean:
                _, summary = read(path)
            else:
                _, summary, _ = read_damaged(path)
            assert summary.packets == sum(end <= cut for end in record_ends[1:])


NG = Blocks()
HEAD = NG.section() + NG.interface()
GOOD = NG.packet(frame_of(), T0 // 1000)

DAMAGE = {
    "empty": (b"", 0, "not a capture file"),
    "text": (b"version account-id interface-id", 0, "neither pcap nor pcapng"),
    "a modified pcap": (struct.pack("<IHHiIII", 0xA1B2CD34, 2, 4, 0, 0, 100, 1), 0, "neither pcap nor pcapng"),
    "pcap of version 3": (struct.pack("<IHHiIII", 0xA1B2C3D4, 3, 0, 0, 0, 100, 1), 4, "pcap version 3.0"),
    "pcap of wifi": (struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 100, 105), 20, "link type 105"),
    "a long packet": (classic([(T0, frame_of())]) + struct.pack("<IIII", 0, 0, 262145, 262145), 82 + 8, "262145"),
    "a packet long on the wire": (classic([]) + struct.pack("<IIII", 0, 0, 0, 1 << 30), 24 + 12, "on the wire"),
    "pcapng of version 2": (NG.section(major=2) + NG.interface(), 12, "pcapng version 2.0"),
    "no byte order mark": (NG.block(0x0A0D0D0A, b"\0" * 16), 8, "byte order mark"),
    "a short section header": (NG.block(0x0A0D0D0A, NG.pack("IHHq", 0x1A2B3C4D, 1, 0, -1), length=24), 4, "24 bytes"),
    "trailing length of a section": (
        NG.block(0x0A0D0D0A, NG.pack("IHHq", 0x1A2B3C4D, 1, 0, -1), trailing=32),
        24,
        "trailing length says 32",
    ),
    "trailing length of a packet": (
        HEAD + GOOD + GOOD[:-4] + NG.pack("I", 80),
        len(HEAD) + 2 * len(GOOD) - 4,
        "trailing length says 80",
    ),
    "trailing length of another block": (HEAD + NG.block(4, b"\0" * 8, trailing=16), len(HEAD) + 16, "says 16"),
    "a block of 8 bytes": (HEAD + NG.block(4, b"", length=8), len(HEAD) + 4, "type 4 and 8 bytes"),
    "a block of 13 bytes": (HEAD + NG.block(4, b"", length=13), len(HEAD) + 4, "type 4 and 13 bytes"),
    "a packet block of 28 bytes": (HEAD + NG.block(6, b"\0" * 16), len(HEAD) + 4, "type 6 and 28 bytes"),
    "an interface block of 16 bytes": (HEAD + NG.block(1, b"\0" * 4), len(HEAD) + 4, "type 1 and 16 bytes"),
    "a simple packet block of 12 bytes": (HEAD + NG.block(3, b""), len(HEAD) + 4, "type 3 and 12 bytes"),
    "a packet block of 100 MB": (HEAD + NG.pack("II", 6, 100_000_000), len(HEAD) + 4, "100000000 bytes"),
    "an unknown interface": (HEAD + NG.packet(frame_of(), 1, interface=1), len(HEAD) + 8, "interface 1, 1 are"),
    "no interface": (NG.section() + NG.packet(frame_of(), 1), 28 + 8, "interface 0, 0 are"),
    "no interface for a simple packet": (NG.section() + NG.simple_packet(frame_of()), 28, "none is described"),
    "captured longer than its block": (HEAD + NG.packet(frame_of(), 1, captured=48), len(HEAD) + 20, "48 captured"),
    "simple packet longer than its block": (HEAD + NG.simple_packet(b"\0" * 4, 60), len(HEAD) + 8, "60 captured"),
    "wifi interface": (HEAD + NG.interface(link_type=105), len(HEAD) + 8, "interface 1 has link type 105"),
    "an option longer than its block": (
        NG.section() + NG.block(1, NG.pack("HHI", 1, 0, 0) + NG.pack("HH", 2, 9) + b"name"),
        28 + 16,
        "option passes",
    ),
    "a packet option longer than its block": (
        HEAD + NG.block(6, NG.pack("IIIII", 0, 0, 0, 0, 0) + NG.pack("HH", 1, 5)),
        len(HEAD) + 28,
        "option passes",
    ),
    "a resolution of two bytes": (
        NG.section() + NG.block(1, NG.pack("HHI", 1, 0, 0) + NG.option(9, b"\x09\0")),
        28,
        "option",
    ),
    "a time after 2262": (
        NG.section() + NG.interface(resolution=0) + NG.packet(frame_of(), 1 << 40),
        28 + 32 + 12,
        "1970 and 2262",
    ),
    "a time before 1970": (
        NG.section() + NG.interface(offset_seconds=-5) + NG.packet(frame_of(), 1),
        28 + 36 + 12,
        "1970 and 2262",
    ),
}


def test_interfaces_have_a_bound(capture: Any) -> None:
    many = NG.section() + NG.interface("a") * 4096 + GOOD
    assert read(capture(many))[1].packets == 1
    _, summary, message = read_damaged(capture(many + NG.interface("a")))
    assert summary.packets == 1
    assert "more than 4096 interfaces" in message
    # Names make interfaces of several sections the same; new names do not fit any more.
    read(capture(many + NG.section() + NG.interface("a") + GOOD))
    _, summary, message = read_damaged(capture(many + NG.section() + NG.interface("b")))
    assert summary.packets == 1
    assert "more than 4096 interfaces" in message


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named_by_its_byte(capture: Any, name: str) -> None:
    content, at, text = DAMAGE[name]
    _, summary, message = read_damaged(capture(content))
    assert text in message
    if name != "a resolution of two bytes":
        assert summary.truncated_at == at


def test_damage_in_the_middle_keeps_what_is_before_it(capture: Any) -> None:
    content = bytearray(HEAD + GOOD * 10)
    content[len(HEAD) + 4 * len(GOOD) + 4] = 13
    rows, summary, message = read_damaged(capture(bytes(content)))
    assert (summary.packets, rows[0]["packets"]) == (4, 4)
    assert f"byte {len(HEAD) + 4 * len(GOOD) + 4}: a block of type 6 and 13 bytes" in message


def test_cut_and_damaged_gzip(capture: Any) -> None:
    content = classic([(T0 + number, frame_of(source_port=number)) for number in range(5000)], nanoseconds=True)
    packed = gzip.compress(content)
    _, summary, message = read_damaged(capture(packed[: len(packed) // 2]))
    assert 1000 < summary.packets < 4999
    assert "gzip" in message
    assert "decompressed" in message
    wrong_sum = packed[:-8] + bytes(4) + packed[-4:]
    _, summary, message = read_damaged(capture(wrong_sum))
    assert summary.packets == 5000
    assert "CRC" in message
    broken = bytearray(packed)
    broken[len(packed) // 2 : len(packed) // 2 + 50] = b"\xff" * 50
    read_damaged(capture(bytes(broken)))


def test_a_gzip_of_something_else(capture: Any) -> None:
    _, _, message = read_damaged(capture(gzip.compress(b"hello, world")))
    assert "not a capture file" in message


def test_no_file_and_no_permission(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(InputError, match=str(path)):
            list(read_capture(path))


def test_a_reading_may_be_left_early(generated: tuple[Path, Path, int]) -> None:
    drains = read_capture(generated[0], 1)
    next(drains)
    drains.close()  # type: ignore[attr-defined]


# The writer ----------------------------------------------------------------------------------------------------------


def written() -> bytes:
    stream = BytesIO()
    writer = CaptureWriter(stream)
    web = writer.write_interface("vn-web")
    database = writer.write_interface("vn-db-ünicode", snap_length=64)
    writer.write_packet(web, T0 + 1, frame_of(A, B), direction=PacketDirection.INBOUND)
    writer.write_packet(web, T0 + 2, frame_of(B, A), direction=PacketDirection.OUTBOUND)
    long = ethernet(ipv4(A, B, udp(3, 4, b"x" * 500)))
    writer.write_packet(database, T0 + 3, long[:64], len(long))
    return stream.getvalue()


def test_what_is_written_is_read(capture: Any) -> None:
    rows, summary = read(capture(written()))
    assert [entry.name for entry in summary.interfaces] == ["vn-web", "vn-db-ünicode"]
    assert [(row["slot"], row["direction"], row["start_ns"], row["bytes"]) for row in rows] == [
        (0, EGRESS, T0 + 1, 28),
        (0, INGRESS, T0 + 2, 28),
        (1, INGRESS, T0 + 3, 528),
    ]


def test_the_same_calls_write_the_same_bytes() -> None:
    assert written() == written()


def test_the_writer_refuses_what_no_reader_would_take() -> None:
    writer = CaptureWriter(BytesIO())
    web = writer.write_interface("web")
    for interface, time_ns, data, wire_length in [
        (1, T0, b"", None),
        (-1, T0, b"", None),
        (web, -1, b"", None),
        (web, 1 << 63, b"", None),
        (web, T0, b"\0" * 10, 9),
        (web, T0, b"\0" * (256 * 1024 + 1), None),
    ]:
        with pytest.raises(InputError):
            writer.write_packet(interface, time_ns, data, wire_length)
    with pytest.raises(InputError):
        writer.write_interface("web", link_type=70000)

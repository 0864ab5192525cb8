"""One C text, two builds: thousands of damaged frames give the same flows in the kernel and out of a capture file."""

from __future__ import annotations

from collections import Counter
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

import packets as pk
import pyarrow as pa
import pytest
from drains import drain_all
from letting import let_in, offline
from links import SLOT, Pair
from test_parse import EXCLUDED, FLOWS, MALFORMED, POLICY

from vnotch.capture.kernel import Datapath
from vnotch.capture.library import SlotPolicy
from vnotch.capture.pcap import read_capture
from vnotch.capture.pcapng import CaptureWriter, PacketDirection
from vnotch.flow import FLOW_KEY, Direction

pytestmark = pytest.mark.root

OPEN = ((6, 443), (17, 123), (17, 2))
COUNT = 4000


def sendable(frame: bytes) -> bool:
    """Whether the link carries the frame and the capture sees in it what was sent.

    A packet socket sends 14 to 1514 bytes. The kernel takes the outermost tag out of a frame that comes in, and drops
    the frame if it is too short for that; so of three tags the program finds one less than the file has.
    """
    tags = [frame[at : at + 2] in (b"\x81\x00", b"\x88\xa8") for at in (12, 16, 20)]
    return 14 <= len(frame) <= 1514 and not (tags[0] and len(frame) < 20) and not all(tags)


def damaged_frames() -> list[bytes]:
    """Frames of all kinds, whole and damaged, and datagrams in fragments."""
    whole = [frame for frame, _ in FLOWS.values()] + [row[0] for row in EXCLUDED.values()] + list(MALFORMED.values())
    frames = [frame for frame in whole if sendable(frame)]
    random = Random(4)
    while len(frames) < COUNT:
        frame = bytearray(random.choice(whole))
        for _ in range(random.randrange(1, 4)):
            # Addresses of the link layer are left alone, so that nobody on the link takes the frame for its own.
            at = random.randrange(12, max(13, min(len(frame), random.choice([24, 60, 200]))))
            frame[at : at + 1] = random.choice([b"", b"\0", b"\xff", random.randbytes(1), random.randbytes(2)])
        if sendable(frame):
            frames.append(bytes(frame))
        if len(frames) % 100 == 0:
            datagram = pk.udp(53, random.choice([2, 4000]), b"z" * 100)
            pieces = pk.ipv4_fragments("10.0.0.2", "10.0.1.5", datagram, identification=len(frames), fragment_bytes=40)
            frames += [pk.ethernet(piece) for piece in random.sample(pieces, len(pieces))]
    return frames


def sums(tables: list[pa.Table]) -> dict[tuple[Any, ...], tuple[int, int, int]]:
    """The key without the slot -> packets, bytes, flags."""
    columns = [name for name in FLOW_KEY if name != "slot"]
    found: dict[tuple[Any, ...], tuple[int, int, int]] = {}
    for row in pa.concat_tables(tables).to_pylist():
        key = tuple(row[name] for name in columns)
        packets, length, flags = found.get(key, (0, 0, 0))
        found[key] = packets + row["packets"], length + row["bytes"], flags | row["tcp_flags"]
    return found


@pytest.mark.parametrize("mode", ["tcx"])
@pytest.mark.parametrize("direction", list(Direction))
def test_kernel_and_capture_file_agree(pair: Pair, datapath: Datapath, tmp_path: Path, direction: Direction) -> None:
    frames = damaged_frames()
    assert POLICY.dns_ipv4 is not None
    eni = POLICY.eni()[0]
    routers = [router.tobytes() for router in eni["router_v4"]]
    datapath.set_interface(
        SLOT,
        dns_v4=eni["dns_v4"].tobytes(),
        routers_v4=routers,
        router_v6=eni["router_v6"].tobytes(),
    )
    let_in(datapath, SLOT, *OPEN)
    (pair.inject_from_instance if direction is Direction.EGRESS else pair.inject_from_host)(frames)
    pair.settle()
    by_kernel = sums([drain_all(datapath).flows])

    path = tmp_path / "frames.pcapng"
    stream = BytesIO()
    writer = CaptureWriter(stream)
    writer.write_interface("vn-eni")
    way = PacketDirection.INBOUND if direction is Direction.EGRESS else PacketDirection.OUTBOUND
    for number, frame in enumerate(frames):
        writer.write_packet(0, 1_700_000_000_000_000_000 + number * 1000, frame, direction=way)
    path.write_bytes(stream.getvalue())
    policy = SlotPolicy(POLICY.dns_ipv4, POLICY.routers_ipv4, POLICY.router_ipv6)
    by_file = sums([drain.flows for drain in read_capture(path, 3600, {0: policy}, rules=offline(0, *OPEN))])

    assert by_kernel == by_file
    assert sum(packets for packets, _, _ in by_file.values()) == len(frames)
    outcomes = Counter(key[1] for key in by_file)
    # Accepted, excluded and rejected, on the way out what belongs to no connection: the frames reach all of it.
    assert set(outcomes) == {0, 1, 2}

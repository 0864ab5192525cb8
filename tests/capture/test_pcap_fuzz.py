"""Random damage to capture files: never a crash, never a packet counted twice or not at all, always an InputError.

The damaged files are read in a process of their own, so that a crash of the native library is a failure like another.
By hand, for longer: `python tests/capture/test_pcap_fuzz.py SEED COUNT`.
"""

from __future__ import annotations

import gzip
import os
import struct
import subprocess
import sys
import tempfile
from io import BytesIO
from pathlib import Path
from random import Random

import pyarrow.compute as pc
import pytest

TESTS = Path(__file__).parent.parent
COUNT = 3000
T0 = 1_700_000_000_000_000_000


def seeds() -> list[bytes]:
    """Small valid files of all kinds."""
    import packets as pk

    from vnotch.capture.pcapng import CaptureWriter, PacketDirection

    frames = [
        pk.ethernet(pk.ipv4("10.0.0.1", "10.0.0.2", pk.tcp(1, 2, pk.SYN)), vlans=[7]),
        pk.ethernet(pk.ipv6("2001:db8::1", "2001:db8::2", pk.udp(1, 2, b"x"), extensions=[pk.hop_by_hop()])),
        pk.ethernet(pk.arp(), pk.ETHERTYPE_ARP),
    ]
    frames += [
        pk.ethernet(piece)
        for piece in pk.ipv4_fragments(
            "10.0.0.1", "10.0.0.2", pk.udp(1, 2, b"z" * 90), identification=5, fragment_bytes=40
        )
    ]
    files = []
    for order in "<>":
        for link_type, skip in ((1, 0), (101, 14)):
            content = struct.pack(order + "IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, link_type)
            for number, frame in enumerate(frames):
                size = len(frame) - skip
                content += struct.pack(order + "IIII", 1_700_000_000 + number, 0, size, size) + frame[skip:]
            files.append(content)
        section = struct.pack(order + "IIIHHqI", 0x0A0D0D0A, 28, 0x1A2B3C4D, 1, 0, -1, 28)
        options = struct.pack(order + "HHB3xHHqI", 9, 1, 9, 14, 8, 100, 0)
        interface = struct.pack(order + "IIHHI", 1, 40, 1, 0, 60) + options[:20] + struct.pack(order + "I", 40)
        simple = struct.pack(order + "III", 3, 76, 60) + frames[0].ljust(60, b"\0") + struct.pack(order + "I", 76)
        other = struct.pack(order + "IIQI", 5, 20, 0, 20)
        files.append(section + interface + simple + other + section + interface + simple)
    stream = BytesIO()
    writer = CaptureWriter(stream)
    for name in ("web", "db"):
        writer.write_interface(name)
    for number, frame in enumerate(frames * 3):
        writer.write_packet(number % 2, T0 + number * 10**9, frame, direction=PacketDirection(number % 3))
    files.append(stream.getvalue())
    return files


def damage(random: Random, content: bytes) -> bytes:
    """A few bytes changed, cut out, put in, repeated or moved; at times a whole length field."""
    mutable = bytearray(content)
    for _ in range(random.choice([1, 1, 2, 3, 8])):
        at = random.randrange(len(mutable) + 1)
        match random.randrange(7):
            case 0:
                mutable[at : at + 1] = random.randbytes(1)
            case 1:
                at -= at % 4
                mutable[at : at + 4] = struct.pack(
                    random.choice("<>") + "I", random.choice([0, 1, 8, 12, 28, 32, 262144, 1 << 24, 0xFFFFFFFF])
                )
            case 2:
                del mutable[at : at + random.randrange(40)]
            case 3:
                mutable[at:at] = random.randbytes(random.randrange(40))
            case 4:
                mutable = mutable[:at] or mutable
            case 5:
                begin = random.randrange(len(mutable) + 1)
                mutable[at:at] = mutable[begin : begin + random.randrange(200)]
            case 6:
                mutable[at : at + 1] = bytes([mutable[at] ^ 1 << random.randrange(8)]) if at < len(mutable) else b""
    return bytes(mutable)


def run(seed: int, count: int) -> None:
    """Read `count` damaged files and print how they ended; an exception or an assertion is a finding."""
    from vnotch.capture import pcap
    from vnotch.errors import InputError

    random = Random(seed)
    whole = seeds()
    damaged_files = packets = 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "capture"
        for number in range(count):
            content = damage(random, random.choice(whole)) if number >= len(whole) else whole[number]
            if random.random() < 0.1:
                content = gzip.compress(content, 1)
                content = damage(random, content) if number >= len(whole) and random.random() < 0.5 else content
            path.write_bytes(content)
            pcap.BUFFER_BYTES = random.choice([1, 64, 1 << 20])
            drains = []
            error = None
            try:
                for drain in pcap.read_capture(
                    path, random.choice([1, 10, 600]), max_flows=random.choice([1, 2, 1000])
                ):
                    drains.append(drain)
            except InputError as raised:
                error = str(raised)
            assert number >= len(whole) or error is None, (number, error)
            summary = drains[-1].summary
            assert summary is not None, (number, error)
            assert (summary.truncated_at is None) == (error is None), (number, error)
            counted = sum(pc.sum(drain.flows["packets"]).as_py() or 0 for drain in drains)
            assert counted == summary.packets == sum(seen for seen, _ in summary.seen.values()), number
            damaged_files += error is not None
            packets += summary.packets
    print(f"{count} files, {damaged_files} damaged, {packets} packets")


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.soak)])
def test_random_damage_is_an_input_error_and_nothing_else(seed: int) -> None:
    path = os.pathsep.join([str(TESTS), *sys.path])
    done = subprocess.run(
        [sys.executable, __file__, str(seed), str(COUNT // 2)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
    damaged_files = int(done.stdout.split(" damaged")[0].split()[-1])
    # Neither everything nor nothing: the damage reaches what it is meant to test.
    assert COUNT // 10 < damaged_files < COUNT // 2


if __name__ == "__main__":
    run(int(sys.argv[1]), int(sys.argv[2]))

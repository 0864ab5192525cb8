"""A capture file played in place of the kernel: everything in it once, in its own time, at its interfaces' slots."""

from __future__ import annotations

import errno
from pathlib import Path

import pyarrow.compute as pc
import pytest
from letting import let_in
from packets import ethernet, ipv4, udp

from vnotch.capture.pcapng import CaptureWriter, PacketDirection
from vnotch.capture.playback import Playback, duration_seconds
from vnotch.errors import InputError, KernelError

SECOND = 1_000_000_000
RECORDED_NS = 1_700_000_000 * SECOND


class Clock:
    def __init__(self) -> None:
        self.now_ns = 1_800_000_000 * SECOND

    def __call__(self) -> int:
        return self.now_ns


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    """Ten packets of 48 bytes from `vn-a` and five into `vn-b`, half a second and a second apart."""
    path = tmp_path / "two.pcapng"
    frame = ethernet(ipv4("10.0.0.1", "10.0.0.2", udp(1000, 2000, b"x" * 20)))
    with path.open("wb") as stream:
        writer = CaptureWriter(stream)
        first, second = writer.write_interface("vn-a"), writer.write_interface("vn-b")
        for number in range(10):
            at_ns = RECORDED_NS + number * SECOND // 2
            writer.write_packet(first, at_ns, frame, direction=PacketDirection.INBOUND)
            if number % 2 == 0:
                writer.write_packet(second, at_ns, frame, direction=PacketDirection.OUTBOUND)
    return path


def played(capture: Path, clock: Clock) -> Playback:
    playback = Playback(capture, clock)
    for device, slot in (("vn-b", 3), ("vn-a", 9)):
        playback.set_interface(slot)
        playback.attach(device, slot)
    return playback


def test_nothing_is_played_before_every_interface_is_attached(capture: Path, clock: Clock) -> None:
    playback = Playback(capture, clock)
    playback.set_interface(0)
    playback.attach("vn-a", 0)
    clock.now_ns += 60 * SECOND
    assert playback.flip_and_drain().flows.num_rows == 0
    assert playback.seen() == {}


def test_a_device_that_is_not_in_the_file_is_absent(capture: Path, clock: Clock) -> None:
    with pytest.raises(KernelError) as caught:
        Playback(capture, clock).attach("eth7", 0)
    assert caught.value.errno == errno.ENODEV


def test_packets_come_when_their_time_has_come_and_are_dated_now(capture: Path, clock: Clock) -> None:
    playback = played(capture, clock)
    begun_ns = clock.now_ns
    clock.now_ns += 2 * SECOND
    early = playback.flip_and_drain()
    playback.commit(early.generation)
    clock.now_ns += 60 * SECOND
    late = playback.flip_and_drain()
    playback.commit(late.generation)
    counts = [
        {
            row["slot"]: row["packets_sum"]
            for row in drain.flows.group_by("slot").aggregate([("packets", "sum")]).to_pylist()
        }
        for drain in (early, late)
    ]
    assert counts == [{9: 4, 3: 2}, {9: 6, 3: 3}]
    assert pc.min(early.flows["start_ns"]).as_py() == begun_ns
    assert pc.max(late.flows["end_ns"]).as_py() == begun_ns + 9 * SECOND // 2
    assert playback.is_over


def test_a_drain_that_was_not_committed_is_given_again(capture: Path, clock: Clock) -> None:
    playback = played(capture, clock)
    clock.now_ns += 2 * SECOND
    first = playback.flip_and_drain()
    clock.now_ns += 2 * SECOND
    again = playback.flip_and_drain()
    assert again.generation == first.generation
    assert again.flows.equals(first.flows)


def test_direction_is_the_enis(capture: Path, clock: Clock) -> None:
    playback = played(capture, clock)
    clock.now_ns += 60 * SECOND
    flows = playback.flip_and_drain().flows
    assert {(row["slot"], row["direction"]) for row in flows.select(["slot", "direction"]).to_pylist()} == {
        (9, 1),
        (3, 0),
    }


def test_seen_counts_what_was_played_drained_or_not(capture: Path, clock: Clock) -> None:
    playback = played(capture, clock)
    clock.now_ns += 60 * SECOND
    assert playback.seen() == {(9, 1): (10, 480), (3, 0): (5, 240)}


def test_a_detached_interface_is_counted_no_more(capture: Path, clock: Clock) -> None:
    playback = played(capture, clock)
    clock.now_ns += 2 * SECOND
    playback.commit(playback.flip_and_drain().generation)
    playback.detach(3)
    clock.now_ns += 60 * SECOND
    assert set(playback.flip_and_drain().flows["slot"].to_pylist()) == {9}


def test_rules_decide_in_a_file_too(capture: Path, clock: Clock) -> None:
    playback = Playback(capture, clock)
    let_in(playback, 3, (17, 53))
    playback.set_interface(3)
    playback.attach("vn-b", 3)
    playback.set_interface(9)
    playback.attach("vn-a", 9)
    clock.now_ns += 60 * SECOND
    flows = playback.flip_and_drain().flows
    assert {(row["slot"], row["outcome"]) for row in flows.select(["slot", "outcome"]).to_pylist()} == {(9, 0), (3, 1)}


def test_duration_is_first_to_last_packet_and_a_step(capture: Path) -> None:
    assert duration_seconds(capture) == 5.5


def test_an_empty_capture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.pcapng"
    with path.open("wb") as stream:
        CaptureWriter(stream).write_interface("vn-a")
    with pytest.raises(InputError, match="holds no packets"):
        Playback(path)

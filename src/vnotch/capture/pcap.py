"""Capture files: the packets of a pcap or pcapng file, counted into flows by the datapath's own C.

    for drain in read_capture("office.pcapng", tick_seconds=10, policies=policy_of):
        windows.add(drain.flows, drain.start_s * 1_000_000_000)

A capture is read once, from front to back, in bounded memory: a buffer for the file, one tick's flows. A file that is
damaged or cut gives what lies before the damage, then an InputError that says where it is.
"""

from __future__ import annotations

import ctypes
import gzip
import io
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from vnotch.capture import library
from vnotch.capture.layout import MAX_SLOTS, Array, total_table
from vnotch.capture.library import FLOW, SlotPolicy
from vnotch.capture.policy import OfflineRules
from vnotch.errors import HostError, InputError
from vnotch.flow import LOSS_SCHEMA, Direction

LINK_TYPES = {
    1: "Ethernet",
    12: "raw IP",
    101: "raw IP",
    113: "Linux cooked",
    228: "raw IPv4",
    229: "raw IPv6",
    276: "Linux cooked 2",
}
"""The link types that are read, by number (the tcpdump group's registry of link-layer header types)."""

BUFFER_BYTES = 1 << 20
MAX_BUFFER_BYTES = (16 << 20) + 64
"""A block that has to be seen whole, at its longest (bpf/capture_file.h: MAX_BLOCK), and what may precede it."""

MAX_FLOWS = 1 << 20
CONNECTIONS_MAX = 1 << 18
MAX_TICK_SECONDS = 86400


@dataclass(frozen=True)
class CaptureInterface:
    """An interface of a capture file, as the file describes it.

    `slot` is its number in this reading: the interface's index in its section. In a file of several sections an
    interface has the slot of an earlier one of the same name (without a name: of the same index), and a new slot
    otherwise. Classic pcap has one interface, slot 0, without a name.
    """

    slot: int
    name: str
    link_type: int
    snap_length: int
    section: int
    index: int


@dataclass(frozen=True)
class CaptureSummary:
    """What a whole capture held. `packets` is also the sum over all flows that were drained, excluded ones included."""

    packets: int
    bytes: int  # as flows count them: IP total length; without IP, what follows the link header
    seen: Mapping[tuple[int, Direction], tuple[int, int]]  # (slot, direction) -> (packets, bytes)
    interfaces: tuple[CaptureInterface, ...]
    malformed: int
    cut: int  # of those malformed: packets whose headers a snap length took away
    late: int  # older than the tick in which they were counted
    untimed: int  # without a time (simple packet blocks): they have that of the packet before
    blocks_skipped: int  # pcapng blocks that hold no packets
    fragments_untracked: int  # first fragments for which there was no room; the later ones have ports 0
    truncated_at: int | None  # the byte at which the file is damaged or cut, None if it is whole
    connections_refused: int = 0  # for which the table had no room


@dataclass(frozen=True)
class CaptureDrain:
    """The flows of one tick. A tick with more flows than fit in memory comes in several drains of one `start_s`."""

    start_s: int  # Unix seconds, a multiple of the tick
    flows: pa.Table  # FLOW_SCHEMA, in the order of their first packets
    summary: CaptureSummary | None = None  # of the capture; the last drain has it

    @property
    def losses(self) -> pa.Table:
        """LOSS_SCHEMA, always empty: a file waits, so a full table is drained instead of losing what comes next."""
        return LOSS_SCHEMA.empty_table()


Policies = Mapping[int, SlotPolicy] | Callable[[CaptureInterface], SlotPolicy]
"""The policy of each slot, or a function that is asked when an interface is described. A slot that is not in a mapping
is an ENI that lets everything in and of which no address is known."""


def read_capture(
    path: str | os.PathLike[str],
    tick_seconds: int = 10,
    policies: Policies | None = None,
    *,
    inside: bool = False,
    max_flows: int = MAX_FLOWS,
    rules: OfflineRules | None = None,
    connections: int = CONNECTIONS_MAX,
) -> Iterator[CaptureDrain]:
    """Read a pcap or pcapng file, plain or gzip; one drain for each tick in which there were packets, in order.

    Direction is the ENI's. A packet that says which way it went (pcapng's inbound and outbound flags, the packet type
    of Linux cooked captures) is believed; the capture is taken at the host's side of the interface, where inbound is
    the ENI's egress, or with `inside` at the ENI's own. Other packets are egress if their source is one of the
    `local` addresses of their slot's policy, else ingress.

    The last drain has the summary; a capture without packets gives one drain with start_s 0. `max_flows` is how many
    flows are held at once (88 bytes and up to 32 of index each). `rules` are the security groups and network ACLs by
    which packets are judged, by slot; `connections` is how many can be tracked at once (92 bytes each).

    Raises InputError, naming file and byte, for what is no capture, has an unknown link type, or is damaged; the drains
    before it stand, and the last has `summary.truncated_at`. HostError: no native library, no memory, or a read failed.
    """
    if not 1 <= tick_seconds <= MAX_TICK_SECONDS:
        raise InputError(f"a tick of {tick_seconds} s, 1 to {MAX_TICK_SECONDS} are possible")
    if not 1 <= max_flows <= 1 << 26:
        raise InputError(f"room for {max_flows} flows, 1 to {1 << 26} are possible")
    with _open(Path(path)) as source:
        reading = _Reading(Path(path), source, tick_seconds, policies or {}, inside, max_flows, rules, connections)
        try:
            yield from reading.drains()
        finally:
            reading.close()


@contextmanager
def _open(path: Path) -> Iterator[io.BufferedIOBase]:
    """The file's content: what gzip holds where it is gzip, which two bytes say."""
    try:
        plain = path.open("rb")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    with plain:
        try:
            compressed = plain.peek(2)[:2] == b"\x1f\x8b"
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}") from error
        yield gzip.GzipFile(fileobj=plain, mode="rb") if compressed else plain


@dataclass
class _Reading:
    """One pass over one file: the buffer between the file and the library, and what has been learnt of interfaces."""

    path: Path
    source: io.BufferedIOBase
    tick_seconds: int
    policies: Policies
    inside: bool
    max_flows: int
    rules: OfflineRules | None
    connections: int
    interfaces: list[CaptureInterface] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.lib = library.load()
        seed = int.from_bytes(os.urandom(8), "little")
        tick_ns = self.tick_seconds * 1_000_000_000
        self.handle = self.lib.capture_open(tick_ns, self.max_flows, seed, int(self.inside), self.connections)
        if not self.handle:
            raise HostError("no memory to read a capture")
        if self.rules is not None:
            self.lib.capture_set_rules(self.handle, self.rules.words.ctypes.data, self.rules.policies.ctypes.data)
        self.report = library.Report()
        self.buffer = np.empty(BUFFER_BYTES, np.uint8)
        self.start = self.end = 0  # what the library has not taken yet, within the buffer
        self.fault: tuple[int, str] | None = None  # what ended the reading, beside what the library finds: byte, why

    def close(self) -> None:
        self.lib.capture_close(self.handle)
        self.handle = None

    def drains(self) -> Iterator[CaptureDrain]:
        while True:
            status = self._read()
            if status == library.READ_MORE:
                if not self._fill():
                    break
            elif status == library.READ_INTERFACE:
                if not self._describe():
                    break
            elif status == library.READ_DAMAGED:
                break
            else:
                if self.report.tick_open:
                    yield self._drain()
                if status == library.CAPTURE_TICK:
                    self.lib.capture_begin_tick(self.handle)
        while (status := self.lib.capture_end(self.handle, self.end - self.start)) == library.CAPTURE_FULL:
            self._look()
            yield self._drain()
        self._look()
        at: int | None = None
        damage = ""
        if self.fault is not None:
            at, damage = self.fault
        elif status == library.READ_DAMAGED:
            at, damage = self.report.damaged_at, self.report.message.decode()
        yield self._drain(self._summary(at))
        if at is not None:
            where = " of the decompressed data" if isinstance(self.source, gzip.GzipFile) else ""
            raise InputError(f"{self.path}: byte {at}{where}: {damage}")

    def _read(self) -> int:
        """Hand the library what is in the buffer; `start` moves over what it took."""
        before = self.report.offset
        address = self.buffer.ctypes.data + self.start
        status = int(self.lib.capture_read(self.handle, address, self.end - self.start))
        self._look()
        self.start += self.report.offset - before
        return status

    def _look(self) -> None:
        self.lib.capture_look(self.handle, self.report)

    def _fill(self) -> bool:
        """Read on behind what is left, which moves to the front. False at the end of the file."""
        left = self.end - self.start
        room = self.buffer
        if self.report.need > len(self.buffer):
            assert self.report.need <= MAX_BUFFER_BYTES, "the library asks for more than its own bound"
            room = np.empty(self.report.need, np.uint8)
        room[:left] = self.buffer[self.start : self.end].copy()
        self.buffer, self.start, self.end = room, 0, left
        if self.fault is not None:
            return False
        try:
            # One read at a time: a longer one that fails half way keeps what it had.
            count = self.source.readinto1(self.buffer.data[self.end :])
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            self.fault = self.report.offset + left, f"the gzip data is damaged: {error}"
            return False
        except OSError as error:
            raise HostError(f"{self.path}: {error.strerror}") from error
        self.end += count
        return count > 0

    def _describe(self) -> bool:
        """Give the interface that the file has just described its slot and policy. False: no slot is left."""
        report = self.report
        name = bytes(report.name[: report.name_length]).decode("utf-8", "replace")
        slot = self._slot(name, report.section, report.index)
        if slot >= MAX_SLOTS:
            self.fault = report.offset, f"more than {MAX_SLOTS} interfaces"
            return False
        interface = CaptureInterface(slot, name, report.link, report.snaplen, report.section, report.index)
        self.interfaces.append(interface)
        policies = self.policies
        policy = policies(interface) if callable(policies) else policies.get(slot, SlotPolicy())
        eni, local = policy.eni(), policy.local_networks()
        if self.lib.capture_set_slot(self.handle, slot, eni.ctypes.data, local, len(local)):
            raise HostError("no memory for an interface of a capture")
        return True

    def _slot(self, name: str, section: int, index: int) -> int:
        if section == 0:
            return index
        for known in self.interfaces:
            if known.section < section and known.name == name and (name or known.index == index):
                return known.slot
        return max((known.slot for known in self.interfaces), default=-1) + 1

    def _drain(self, summary: CaptureSummary | None = None) -> CaptureDrain:
        """Copy the flows out of the library and empty its table."""
        flows: Array = np.empty(0, FLOW)
        if count := self.report.flow_count:
            memory = (ctypes.c_char * (count * FLOW.itemsize)).from_address(self.report.flows)
            flows = np.frombuffer(memory, FLOW, count).copy()
        table = total_table(flows["key"], flows["value"])
        self.lib.capture_drained(self.handle)
        return CaptureDrain(self.report.tick_start_ns // 1_000_000_000, table, summary)

    def _summary(self, truncated_at: int | None) -> CaptureSummary:
        counters = np.ctypeslib.as_array(self.lib.capture_seen(self.handle), (MAX_SLOTS, 2, 2))
        seen = {
            (int(slot), Direction(int(direction))): (
                int(counters[slot, direction, 0]),
                int(counters[slot, direction, 1]),
            )
            for slot, direction in zip(*np.nonzero(counters[:, :, 0]), strict=True)
        }
        report = self.report
        return CaptureSummary(
            packets=report.packets,
            bytes=report.bytes,
            seen=seen,
            interfaces=tuple(self.interfaces),
            malformed=report.malformed,
            cut=report.cut,
            late=report.late,
            untimed=report.untimed,
            blocks_skipped=report.blocks_skipped,
            fragments_untracked=report.fragments_full,
            truncated_at=truncated_at,
            connections_refused=report.connections_full,
        )

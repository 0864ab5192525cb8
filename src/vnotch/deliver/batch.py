"""A batch of records on its way to a log stream or to a bucket's slot, and its form as a file of the spool.

The file is an Arrow IPC file with the batch's description in the schema's metadata: for a log stream events (timestamp
in ms, message), for a bucket the typed columns of the flow log's format. Its name tells order, commit, age, flow log,
stream, counts, size, CRC-32 and, for a bucket, the slot.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from urllib.parse import quote, unquote

import pyarrow as pa

from vnotch.errors import InputError
from vnotch.record import flow_log_format, record_lines

NAME_BYTES_MAX = 255

COMPRESSED_EVENTS_MIN = 256
"""Below this a compressor costs a hundred times what writing does, and saves less than a disk block."""

JOINED_EVENTS_MAX = 1000
JOINED_BYTES_MAX = 512 << 10
"""What batches that are delivered together have at most: within the bounds of a PutLogEvents call."""

EVENT_SCHEMA = pa.schema(
    [
        pa.field("timestamp", pa.int64(), nullable=False),  # Unix ms
        pa.field("message", pa.string(), nullable=False),
    ]
)
"""The events of a batch, in chronological order."""


@dataclass(frozen=True)
class Batch:
    """Records of one flow log and interface. `packets` and `bytes` are the sums over its records.

    `batch_id` is the same whenever the same batch is made again, and no two different batches share one. `slot_s` is 0
    for a log group; for a bucket it is the beginning of the slot that all records end in (Unix seconds), `file_format`
    says what the file is to be, and there is neither group nor role. `events` has the columns of `log_format`, for a
    log group behind `timestamp`; EVENT_SCHEMA where there is no `log_format`, in batches that a release before spooled.
    """

    batch_id: str
    flow_log_id: str
    group: str
    stream: str
    role_arn: str
    events: pa.Table
    packets: int = 0
    bytes: int = 0
    slot_s: int = 0
    file_format: str = ""
    log_format: str = ""
    members: tuple[Batch, ...] = ()
    """Batches that are delivered together in this one; each counts once under its own id."""


@dataclass(frozen=True, order=True)
class Entry:
    """A batch in the spool, as its file name tells it."""

    commit: int
    index: int
    created_s: int
    flow_log_id: str
    stream: str
    events: int
    packets: int
    bytes: int
    size: int  # of the file
    crc: int
    slot_s: int = 0

    @property
    def queue(self) -> tuple[str, str]:
        """What it waits in: a log stream of a flow log, or a slot of its files."""
        return self.flow_log_id, str(self.slot_s) if self.slot_s else self.stream

    @property
    def name(self) -> str:
        parts = (
            f"{self.commit:012d}-{self.index:06d}",
            self.created_s,
            quote(self.flow_log_id, safe=""),
            quote(self.stream, safe=""),
            self.events,
            self.packets,
            self.bytes,
            self.size,
            f"{self.crc:08x}",
            *((self.slot_s,) if self.slot_s else ()),
        )
        return ",".join(map(str, parts)) + ".arrow"

    @classmethod
    def parse(cls, name: str) -> Entry | None:
        """None where the name is not one of ours."""
        parts = name.removesuffix(".arrow").split(",")
        try:
            order, created, flow_log_id, stream, events, packets, size_bytes, size, crc, *slot = parts
            commit, index = order.split("-")
            entry = cls(
                int(commit),
                int(index),
                int(created),
                unquote(flow_log_id),
                unquote(stream),
                int(events),
                int(packets),
                int(size_bytes),
                int(size),
                int(crc, 16),
                *map(int, slot),
            )
        except (ValueError, TypeError):
            return None
        return entry if entry.name == name else None


def may_join(entries: Sequence[Entry], following: Entry) -> bool:
    """Whether a stream's next batch may be delivered in one call with those before it: all of them are small, and not
    compressed, so that the sizes of their files bound what the call holds."""
    several = (*entries, following)
    small = all(entry.events < COMPRESSED_EVENTS_MIN for entry in several)
    events, size = sum(entry.events for entry in several), sum(entry.size for entry in several)
    return small and events <= JOINED_EVENTS_MAX and size <= JOINED_BYTES_MAX


def join(batches: Sequence[Batch]) -> Batch | None:
    """Batches of one stream as one; None where their description or order does not allow it.

    Of a clock that was set back, the later batch may have the earlier events, and a call takes them in order of time
    only.
    """
    first = batches[0]
    if len(batches) == 1:
        return first
    about = {(batch.flow_log_id, batch.group, batch.stream, batch.role_arn, batch.log_format) for batch in batches}
    if len(about) > 1 or not all(batch.events.num_rows for batch in batches):
        return None
    events = pa.concat_tables([batch.events for batch in batches]).combine_chunks()
    times = events["timestamp"].to_numpy()
    if bool((times[1:] < times[:-1]).any()):
        return None
    packets, size = sum(batch.packets for batch in batches), sum(batch.bytes for batch in batches)
    return replace(first, events=events, packets=packets, bytes=size, members=tuple(batches))


def as_text(batch: Batch) -> Batch:
    """A batch of typed records as one of lines, with its members."""
    if not batch.log_format:
        return batch
    lines = record_lines(batch.events, flow_log_format(batch.log_format))
    events = pa.table([batch.events["timestamp"].combine_chunks(), lines], schema=EVENT_SCHEMA)
    return replace(batch, events=events, log_format="", members=tuple(map(as_text, batch.members)))


def encode(batch: Batch, commit: int, index: int, created_s: int) -> tuple[Entry, pa.Buffer]:
    """The file of a batch. Raises InputError for a stream whose name no file name can hold."""
    about = {
        "batch_id": batch.batch_id,
        "flow_log_id": batch.flow_log_id,
        "group": batch.group,
        "stream": batch.stream,
        "role_arn": batch.role_arn,
        "packets": batch.packets,
        "bytes": batch.bytes,
    }
    if batch.log_format:
        about["log_format"] = batch.log_format
    if batch.slot_s:
        about |= {"slot_s": batch.slot_s, "file_format": batch.file_format}
    table = batch.events.replace_schema_metadata({"vnotch": json.dumps(about)})
    sink = pa.BufferOutputStream()
    compression = "zstd" if table.num_rows >= COMPRESSED_EVENTS_MIN else None
    options = pa.ipc.IpcWriteOptions(compression=compression, use_threads=False)
    with pa.ipc.new_file(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    data = sink.getvalue()
    entry = Entry(
        commit=commit,
        index=index,
        created_s=created_s,
        flow_log_id=batch.flow_log_id,
        stream=batch.stream,
        events=table.num_rows,
        packets=batch.packets,
        bytes=batch.bytes,
        size=data.size,
        crc=zlib.crc32(data),
        slot_s=batch.slot_s,
    )
    if len(entry.name) > NAME_BYTES_MAX:
        raise InputError(f"the log stream name {batch.stream!r} is too long for the spool")
    return entry, data


def decode(entry: Entry, data: bytes) -> Batch:
    """The batch of a file. Raises ValueError where it is not what its name says."""
    if len(data) != entry.size or zlib.crc32(data) != entry.crc:
        raise ValueError(f"{entry.name}: size or checksum differ")
    try:
        options = pa.ipc.IpcReadOptions(use_threads=False)
        with pa.ipc.open_file(pa.BufferReader(data), options=options) as reader:
            table = reader.read_all()
        about = json.loads(table.schema.metadata[b"vnotch"])
        return Batch(**about, events=table.replace_schema_metadata(None))
    except (KeyError, TypeError, pa.ArrowException) as error:
        raise ValueError(f"{entry.name}: {error}") from error

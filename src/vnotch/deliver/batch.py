"""A batch of records on its way to one log stream, and its form as a file of the spool.

The file is an Arrow IPC file (timestamp in ms, message) with the batch's description in the schema's metadata. Its name
tells order, commit, age, flow log, stream, counts, size and CRC-32.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from urllib.parse import quote, unquote

import pyarrow as pa

from vnotch.errors import InputError

NAME_BYTES_MAX = 255

COMPRESSED_EVENTS_MIN = 256
"""Below this a compressor costs a hundred times what writing does, and saves less than a disk block."""

EVENT_SCHEMA = pa.schema(
    [
        pa.field("timestamp", pa.int64(), nullable=False),  # Unix ms
        pa.field("message", pa.string(), nullable=False),
    ]
)
"""The events of a batch, in chronological order."""


@dataclass(frozen=True)
class Batch:
    """Records of one flow log for one log stream. `packets` and `bytes` are the sums over its records.

    `batch_id` is the same whenever the same batch is made again, and no two different batches share one.
    """

    batch_id: str
    flow_log_id: str
    group: str
    stream: str
    role_arn: str
    events: pa.Table  # EVENT_SCHEMA
    packets: int = 0
    bytes: int = 0


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
        )
        return ",".join(map(str, parts)) + ".arrow"

    @classmethod
    def parse(cls, name: str) -> Entry | None:
        """None where the name is not one of ours."""
        parts = name.removesuffix(".arrow").split(",")
        try:
            order, created, flow_log_id, stream, events, packets, size_bytes, size, crc = parts
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
            )
        except ValueError:
            return None
        return entry if entry.name == name else None


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

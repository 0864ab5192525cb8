"""The body of a part on its way to the log service: one Arrow IPC stream, not compressed.

Its columns are `stream` (text, each stream's records together), `timestamp_ms` (int64, ascending in a stream) and those
of the flow log's format; text may be coded (`vnotch.coded`). `vnotch.format` in the schema's metadata is its text.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vnotch.coded import coded_table
from vnotch.deliver.record_body import is_compressed, is_like
from vnotch.errors import InputError
from vnotch.fields import Format
from vnotch.record import flow_log_format

CONTENT_TYPE = "application/vnd.apache.arrow.stream"
STREAM, TIMESTAMP = "stream", "timestamp_ms"
RECORDS_MAX = 200_000
BYTES_MAX = 64 << 20
_FORMAT_KEY = b"vnotch.format"


def part_schema(format: Format) -> pa.Schema:
    columns = [pa.field(item.column, item.type) for item in format.fields]
    return pa.schema([pa.field(STREAM, pa.string()), pa.field(TIMESTAMP, pa.int64()), *columns])


def write_part(records: pa.Table, format: Format) -> memoryview:
    """Records (`part_schema`, text coded or not) -> the body, in memory that nothing else has."""
    columns = records.select(part_schema(format).names).replace_schema_metadata({_FORMAT_KEY: format.text})
    measured = pa.MockOutputStream()
    _write(columns, measured)
    body = np.empty(measured.size(), np.uint8)
    _write(columns, pa.FixedSizeBufferWriter(pa.py_buffer(body)))
    return body.data


def _write(records: pa.Table, sink: pa.NativeFile) -> None:
    with sink, pa.ipc.new_stream(sink, records.schema) as writer:
        writer.write_table(records)


def read_part(body: bytes) -> tuple[pa.Table, Format]:
    """The body -> (records, text coded, their format). Raises InputError for what `write_part` does not write."""
    try:
        reader = pa.ipc.open_stream(pa.BufferReader(body))
        format = flow_log_format((reader.schema.metadata or {}).get(_FORMAT_KEY, b"").decode())
        wanted = part_schema(format)
        if not is_like(reader.schema, wanted):
            raise InputError(f"the columns must be {', '.join(f'{item.name} {item.type}' for item in wanted)}")
        if is_compressed(body):
            raise InputError("the stream is compressed", "send it without compression")
        table = pa.Table.from_batches(_bounded(reader), schema=reader.schema.remove_metadata())
        table.validate(full=True)  # what came from elsewhere may point outside of itself
        table = coded_table(table)
        absent = table[STREAM].null_count or table[TIMESTAMP].null_count
        if not table.num_rows or absent or pc.min(table[TIMESTAMP]).as_py() < 0:
            raise InputError("a part has records, each with a stream and a time that is not negative")
    except (pa.ArrowException, OSError, UnicodeDecodeError, struct.error, InputError) as error:
        raise InputError(f"the body is no Arrow IPC stream of records: {error}") from None
    return table, format


def _bounded(reader: Any) -> list[pa.RecordBatch]:
    batches, rows, size = [], 0, 0
    for batch in reader:
        rows += batch.num_rows
        size += batch.nbytes
        if rows > RECORDS_MAX or size > BYTES_MAX:
            raise InputError(f"a part has at most {RECORDS_MAX:,} records and {BYTES_MAX >> 20} MiB")
        batches.append(batch)
    return batches

"""The body of a delivery of typed records: one Arrow IPC stream, not compressed.

Its columns are `timestamp` (int64, Unix ms) and those of the flow log's format, text as such or coded (`vnotch.coded`);
the schema's metadata has the format's text. Who reads it takes memory for what came and no more: a compressed stream
could hold a thousand times as much as it says and is refused, and coded text stays coded.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import lru_cache

import pyarrow as pa

from vnotch.coded import code_type, coded_table, is_coded, ordered
from vnotch.errors import InputError
from vnotch.fields import Format
from vnotch.record import flow_log_format

CONTENT_TYPE = "application/vnd.apache.arrow.stream"
TIMESTAMP = "timestamp"
_FORMAT_KEY = b"vnotch.format"


@lru_cache(maxsize=256)
def body_schema(format: Format) -> pa.Schema:
    return pa.schema([pa.field(TIMESTAMP, pa.int64()), *(pa.field(item.column, item.type) for item in format.fields)])


def write_body(records: pa.Table, format: Format) -> bytes:
    """Records (`body_schema`, text coded or not) -> the body."""
    return write_stream(coded_table(records).select([TIMESTAMP, *format.columns]), {_FORMAT_KEY: format.text})


def write_stream(records: pa.Table, metadata: Mapping[bytes, str]) -> bytes:
    """A coded table as an IPC stream of one batch, its codes as narrow as their texts allow."""
    columns = [_narrow(column.chunk(0)) if is_coded(column.type) else column for column in records.columns]
    narrow = pa.table(columns, names=records.column_names).replace_schema_metadata(metadata)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, narrow.schema) as writer:
        writer.write_table(narrow)
    body: bytes = sink.getvalue().to_pybytes()
    return body


def _narrow(column: pa.DictionaryArray) -> pa.DictionaryArray:
    column = ordered(column)  # as the batch's key wants it
    kind = pa.from_numpy_dtype(code_type(len(column.dictionary)))
    return pa.DictionaryArray.from_arrays(column.indices.cast(kind), column.dictionary)


def read_body(body: bytes) -> tuple[pa.Table, Format]:
    """The body -> (records, their format). Raises InputError for all that `write_body` does not write."""
    try:
        reader = pa.ipc.open_stream(pa.BufferReader(body))
        text = (reader.schema.metadata or {}).get(_FORMAT_KEY)
        if text is None:
            raise InputError("the schema's metadata has no vnotch.format")
        format = flow_log_format(text.decode())
        wanted = body_schema(format)
        if not is_like(reader.schema, wanted):
            columns = ", ".join(f"{field.name} {field.type}" for field in wanted)
            raise InputError("the columns are not those of the format", f"they must be {columns}")
        if is_compressed(body):
            raise InputError("the stream is compressed", "send it without compression")
        table = reader.read_all()
        table.validate(full=True)  # what came from elsewhere may point outside of itself
        table = coded_table(table)
    except (pa.ArrowException, UnicodeDecodeError, OSError, struct.error) as error:
        raise InputError(f"it cannot be read: {error}") from None
    return table.replace_schema_metadata(None), format


def is_like(schema: pa.Schema, wanted: pa.Schema) -> bool:
    """Names and types, whatever is said of nulls, text coded or not."""
    return bool(schema.names == wanted.names and [_value_type(kind) for kind in schema.types] == wanted.types)


def _value_type(type_: pa.DataType) -> pa.DataType:
    return type_.value_type if is_coded(type_) and type_.value_type == pa.string() else type_


def is_compressed(body: bytes) -> bool:
    """Whether a record batch says so (Arrow's Message.fbs: RecordBatch.compression,
    DictionaryBatch.data)."""
    messages = pa.ipc.MessageReader.open_stream(pa.BufferReader(body))
    while True:
        try:
            message = messages.read_next_message()
        except StopIteration:
            return False
        if message.type in ("record batch", "dictionary"):
            metadata = message.metadata.to_pybytes()
            batch = _follow(metadata, struct.unpack_from("<I", metadata, 0)[0], 2)
            if message.type == "dictionary" and batch is not None:
                batch = _follow(metadata, batch, 1)
            if batch is not None and _follow(metadata, batch, 3) is not None:
                return True


def _follow(buffer: bytes, table: int, field: int) -> int | None:
    """Where the table is that a field of a flatbuffer's table points to; None where the field is absent."""
    vtable = table - struct.unpack_from("<i", buffer, table)[0]
    if 4 + 2 * field >= struct.unpack_from("<H", buffer, vtable)[0]:
        return None
    offset = struct.unpack_from("<H", buffer, vtable + 4 + 2 * field)[0]
    if not offset:
        return None
    place = table + offset
    return int(place + struct.unpack_from("<I", buffer, place)[0])

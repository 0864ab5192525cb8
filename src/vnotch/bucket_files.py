"""Files of flow logs as a bucket has them: Parquet made for scanning, and gzip text with a header line.

Both are written as records come, to whatever takes bytes, and hold one row group or one block of text in memory. The
same records in the same calls give the same bytes, so that an upload made anew overwrites itself.

Parquet has AWS's column names and types (`Format.schema`; VPC user guide, "Flow log files"), and what a reader needs
to pass over most of it: rows in order of interface and start, dictionaries for all that repeats, times as deltas,
statistics for each page, zstd. What readers lack is left out: BYTE_STREAM_SPLIT on integers (DuckDB 1.5 reads it for
floating point alone), pages of version 2, Arrow's own schema. DuckDB, pyarrow, Spark and Trino read the rest;
flowlogs-reader does not (its Parquet knows neither zstd nor deltas) and reads the text.
"""

from __future__ import annotations

from typing import Protocol, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from isal import isal_zlib

from vnotch.address import Values, as_numpy

ROW_GROUP_ROWS = 1 << 20
"""Each row group has dictionaries of its own: groups of a quarter of the size cost a quarter more bytes a record where
addresses are many. Within a group the statistics of its pages tell what can be passed over."""
DICTIONARY_BYTES_MAX = 4 << 20
"""Of one column; beyond it the values stand for themselves. The addresses of a scan repeat too seldom for one."""
ZSTD_LEVEL = 1
"""Level 3 takes a quarter more time for 0.6 % fewer bytes."""
GZIP_LEVEL = 2
"""isal's: 28.9 bytes a record at 4.5 M records/s; its level 3 takes twice the time for 2 % fewer bytes."""

_DELTA = "DELTA_BINARY_PACKED"
_TIMES = ("start", "end")
_TEXT_CODES = pa.dictionary(pa.int32(), pa.string())
_GZIP_WINDOW = 31
_RADIX = 1 << 16
_INT64_MAX = (1 << 63) - 1


class Sink(Protocol):
    """What takes bytes: a file opened for writing in binary, an io.BytesIO."""

    def write(self, data: bytes, /) -> int: ...


class ParquetFile:
    """One Parquet file under way. `rows` is what was written so far, `size` its bytes without the footer."""

    def __init__(self, out: Sink, schema: pa.Schema) -> None:
        """`schema` is `Format.schema`, or another of text and integers."""
        self.rows = 0
        self._schema = pa.schema([item.with_type(_coded(item.type)) for item in schema])
        self._out = pa.PythonFile(out, mode="w")
        names = schema.names
        deltas = {name: _DELTA for name in _TIMES if name in names and pa.types.is_integer(schema.field(name).type)}
        order = [(name, "ascending") for name in order_columns(schema)]
        self._writer = pq.ParquetWriter(
            self._out, self._schema, version="2.6", data_page_version="1.0", compression="zstd",
            compression_level=ZSTD_LEVEL, use_dictionary=[name for name in names if name not in deltas],
            column_encoding=deltas or None, dictionary_pagesize_limit=DICTIONARY_BYTES_MAX, write_page_index=True,
            store_schema=False, sorting_columns=pq.SortingColumn.from_ordering(schema, order) if order else None,
        )  # fmt: skip

    @property
    def size(self) -> int:
        return int(self._out.tell())

    def write(self, records: pa.Table) -> None:
        """Records in any order, with this file's columns, as row groups of their own.

        Text may be dictionaries already, which saves the work of making them.
        """
        for begin in range(0, records.num_rows, ROW_GROUP_ROWS):
            group = in_order(records.slice(begin, ROW_GROUP_ROWS))
            self._writer.write_table(pa.Table.from_arrays(group.columns, schema=self._schema), ROW_GROUP_ROWS)
            self.rows += group.num_rows

    def close(self) -> None:
        """Writes the footer. The sink stays open."""
        self._writer.close()
        self._out.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def write_parquet(records: pa.Table, out: Sink) -> None:
    """A whole file of one table, with the table's names and types."""
    with ParquetFile(out, pa.schema([item.with_type(_plain(item.type)) for item in records.schema])) as file:
        file.write(records)


class TextFile:
    """One gzip text file under way: the header line, then the lines. `rows` and `size` are what was written so far."""

    def __init__(self, out: Sink, header: str) -> None:
        """`header` is `Format.header`."""
        self.rows = 0
        self.size = 0
        self._out = out
        self._gzip = isal_zlib.compressobj(GZIP_LEVEL, wbits=_GZIP_WINDOW)
        self._write(self._gzip.compress(header.encode() + b"\n"))

    def write(self, lines: pa.Array | pa.ChunkedArray) -> None:
        """Lines without their ends, at most 2 GiB of them."""
        for chunk in lines.chunks if isinstance(lines, pa.ChunkedArray) else [lines]:
            self.write_bytes(text_of(chunk), len(chunk))

    def write_bytes(self, text: bytes | memoryview, rows: int) -> None:
        """Whole lines with their ends, as they are."""
        self.rows += rows
        self._write(self._gzip.compress(text))

    def close(self) -> None:
        """Ends the compressed data. The sink stays open."""
        self._write(self._gzip.flush())

    def _write(self, data: bytes) -> None:
        self.size += len(data)
        self._out.write(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def write_text(lines: pa.Array | pa.ChunkedArray, header: str, out: Sink) -> None:
    """A whole file."""
    with TextFile(out, header) as file:
        file.write(lines)


def text_of(lines: pa.Array) -> memoryview:
    """Lines -> their bytes one after another, each with a line end."""
    ended = pc.binary_join_element_wise(lines, pa.scalar(""), pa.scalar("\n"))
    _, offsets, data = ended.buffers()
    if not len(ended) or data is None:
        return memoryview(b"")
    bounds = np.frombuffer(offsets, np.int32)[ended.offset : ended.offset + len(ended) + 1]
    return memoryview(data)[bounds[0] : bounds[-1]]


def order_columns(schema: pa.Schema) -> list[str]:
    """The columns that rows are in order of: interface, then start, as far as there are such."""
    time = next((name for name in _TIMES if name in schema.names), None)
    return [name for name in ("interface_id", time) if name is not None and name in schema.names]


def in_order(records: pa.Table) -> pa.Table:
    """The records in order of interface and start, nulls last, text as dictionaries. The order is stable."""
    coded = pa.table([_encoded(column) for column in records.columns], names=records.column_names)
    keys = [_ranks(coded[name].combine_chunks()) for name in order_columns(records.schema)]
    order = order_of(keys)
    return coded if order is None else coded.take(pa.array(order))


def order_of(keys: list[Values]) -> Values | None:
    """The stable order of rows by several keys, the first counting most; None where they are in order already."""
    order: Values | None = None
    for key in reversed(keys):
        key = key if order is None else key[order]
        if bool((key[1:] >= key[:-1]).all()):
            continue  # also where there is none or but one
        # Numbers of 16 bits are sorted by radix, in a third of the time.
        small = int(key.min()) >= 0 and int(key.max()) < _RADIX
        step = np.argsort(key.astype(np.uint16) if small else key, kind="stable")
        order = step if order is None else order[step]
    return order


def _ranks(column: pa.Array) -> Values:
    """Numbers in the order of a column's values, from 0 where they fit 16 bits; of null the greatest."""
    if pa.types.is_dictionary(column.type):
        places = as_numpy(pc.array_sort_indices(column.dictionary))
        ranks = np.empty(len(places) + 1, np.int64)
        ranks[places] = np.arange(len(places))
        ranks[-1] = len(places)
        return ranks[as_numpy(pc.fill_null(column.indices, len(places)))]
    numbers = column.cast(pa.int64(), safe=False)
    if numbers.null_count:
        most = pc.max(numbers).as_py()
        numbers = pc.fill_null(numbers, 0 if most is None else min(most + 1, _INT64_MAX))
    values: Values = as_numpy(numbers)
    return values - values.min() if int(values.max()) - int(values.min()) < _RADIX else values


def _encoded(column: pa.ChunkedArray) -> pa.Array:
    if pa.types.is_integer(column.type) or column.type == _TEXT_CODES:
        return column.combine_chunks()
    return column.cast(pa.string()).combine_chunks().dictionary_encode()


def _coded(type_: pa.DataType) -> pa.DataType:
    return type_ if pa.types.is_integer(type_) else _TEXT_CODES


def _plain(type_: pa.DataType) -> pa.DataType:
    return type_.value_type if pa.types.is_dictionary(type_) else type_

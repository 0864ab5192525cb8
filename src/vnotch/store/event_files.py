"""Files of events: how rows are written as Parquet and handed to DuckLake, and how small files become large ones.

DuckLake's own INSERT and merge write every column of the table, also the many that no event of a file has a value in,
and cost several times what the rest does. A file that is written here has the columns that its events have; DuckLake
takes a column that a file lacks as NULL. The catalog, its transactions and the files' life stay DuckLake's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vnotch.coded import coded, coded_table, compacted, is_coded
from vnotch.fields import FIELDS
from vnotch.store.ducklake import Catalog
from vnotch.store.event_table import EVENT_COLUMNS, TABLES, quoted
from vnotch.store.formats import Formats

ROW_GROUP_ROWS = 131_072
"""What a reader skips or reads as one. Rows are sorted by stream, so that one stream is in few of them."""

DICTIONARY_BYTES_MAX = 4 << 20
"""Of one column in a row group; beyond it the values stand for themselves."""

ZSTD_LEVEL = 1
ZSTD_LEVEL_MERGED = 3

_RISING = ("timestamp_ms", "sequence", "start", "end", "bytes", "x_lost_packets", "x_lost_bytes")
"""Columns of many values that are near those before them; all others repeat their values, which a dictionary holds."""

_SCATTERED = frozenset(item.column for item in FIELDS if item.address or item.values)
"""Columns of which every file has the whole range: the least and the greatest would let no reader pass over one, and
finding them takes a quarter of the time of writing."""


def write_events(rows: pa.Table, path: Path, level: int = ZSTD_LEVEL) -> None:
    """Writes rows, sorted, with the columns that they have. Raises OSError."""
    rising = [name for name in rows.column_names if name in _RISING]
    # A column without nulls is written as one that can have none, which spares its levels.
    schema = pa.schema([item.with_nullable(rows[item.name].null_count > 0) for item in rows.schema])
    with pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        compression_level=level,
        use_dictionary=[name for name in rows.column_names if name not in rising],
        dictionary_pagesize_limit=DICTIONARY_BYTES_MAX,
        column_encoding=dict.fromkeys(rising, "DELTA_BINARY_PACKED"),
        write_statistics=[name for name in rows.column_names if name not in _SCATTERED],
        store_schema=False,
    ) as writer:
        for begin in range(0, rows.num_rows, ROW_GROUP_ROWS):
            # A dictionary is written as it is, with every row group: only what the group's rows have may be in it.
            group = rows.slice(begin, ROW_GROUP_ROWS)
            columns = [compacted(coded(item)) if is_coded(item.type) else item for item in group.columns]
            writer.write_table(pa.table(columns, schema=schema), ROW_GROUP_ROWS)


def add_events(catalog: Catalog, rows: pa.Table, level: int = ZSTD_LEVEL) -> None:
    """Stores rows as a new file, in the transaction that is open."""
    path = catalog.folder_of("events") / f"events-{uuid4().hex}.parquet"
    write_events(rows, path, level)
    sql = "CALL ducklake_add_data_files('lake', 'events', ?, allow_missing => true)"
    catalog.writer.execute(sql, [str(path)])


def sorted_rows(rows: pa.Table) -> pa.Table:
    """By group, stream, time and sequence; rows without a sequence keep their order where these are equal."""
    keys = [rows[name].to_numpy() for name in ("group_id", "stream_id", "timestamp_ms")]
    if "sequence" in rows.column_names:
        keys.append(rows["sequence"].to_numpy())
    if _is_sorted(keys):
        return rows
    return rows.take(pa.array(np.lexsort(keys[::-1])))


def _is_sorted(keys: list[Any]) -> bool:
    """Whether the rows rise by these columns, the first one first."""
    equal = np.ones(max(0, len(keys[0]) - 1), bool)
    for key in keys:
        if bool(np.any(equal & (key[1:] < key[:-1]))):
            return False
        equal &= key[1:] == key[:-1]
    return True


def merge_files(catalog: Catalog, names: list[str], formats: Formats) -> int:
    """Writes what is left of the events in these files, and in the catalog's own rows where `names` has their table,
    as one file, in one transaction. -> how many events.

    The sum of rows that leave and that come is compared before the commit; where they differ nothing is changed.
    """
    writer = catalog.writer
    where = f"filename IN ({', '.join('?' for _ in names)})"
    with catalog.durable():
        numbers = writer.execute(f"SELECT DISTINCT format_id FROM events WHERE {where}", names).fetchall()
        columns = _columns_of([number for (number,) in numbers], formats)
        listed = ", ".join(quoted(name) for name in columns)
        rows = writer.execute(f"SELECT {listed} FROM events WHERE {where}", names).to_arrow_table()
        (gone,) = writer.execute(f"DELETE FROM events WHERE {where}", names).fetchone() or (0,)
        if gone != rows.num_rows:
            raise AssertionError(f"{rows.num_rows} events were read to be merged, and {gone} deleted")
        if rows.num_rows:
            add_events(catalog, sorted_rows(_coded_records(without_empty(rows))), ZSTD_LEVEL_MERGED)
    return int(gone)


def _coded_records(rows: pa.Table) -> pa.Table:
    """Texts of records repeat and are put in order as numbers; messages do not."""
    if "message" not in rows.column_names:
        return coded_table(rows)
    return coded_table(rows.drop_columns("message")).append_column("message", rows["message"].combine_chunks())


def without_empty(rows: pa.Table) -> pa.Table:
    """Without columns that have no value in any row."""
    return rows.select([name for name in rows.column_names if rows[name].null_count < rows.num_rows])


def _columns_of(numbers: list[int | None], formats: Formats) -> list[str]:
    wanted = {column for number in numbers if number is not None for column in formats[number].columns}
    return [*EVENT_COLUMNS.names, *(name for name in TABLES["events"].names if name in wanted)]

"""The tables of the log store: which columns an event has, and how a table of an earlier release gets those it lacks.

An event is either text, in `message`, or a record of a flow log, whose fields stand in typed columns of their own while
`message` is NULL; `format_id` says which. One column a field, whatever the format: a field that a format lacks is NULL,
and takes no room in a file, since files have only the columns that something in them has.
"""

from __future__ import annotations

import pyarrow as pa

from vnotch.fields import FIELDS
from vnotch.store.ducklake import Catalog

TARGET_BYTES = 16_000_000
"""Of a file of events: merging makes files of about so much."""

INLINED_EVENTS = 40
"""Commits of up to so many events go into the SQLite catalog as rows. A row there costs 0.1 ms, a file 10 ms."""

INLINED_BATCHES = 100

_SQL_TYPES = {pa.int32(): "INTEGER", pa.int64(): "BIGINT", pa.string(): "VARCHAR", pa.binary(): "BLOB"}

EVENT_COLUMNS = pa.schema(
    [
        pa.field("group_id", pa.int32()),
        pa.field("stream_id", pa.int32()),
        pa.field("timestamp_ms", pa.int64()),  # event time, Unix ms
        pa.field("ingestion_ms", pa.int64()),  # arrival, Unix ms
        pa.field("sequence", pa.int64()),  # unique, rises with the commits
        pa.field("message", pa.string()),  # of text; NULL in records
        pa.field("format_id", pa.int32()),  # of records; NULL in text
        pa.field("message_bytes", pa.int32()),  # UTF-8 bytes of the message, also of one that is rendered
    ]
)
"""What every event has. `message_bytes` is NULL in events that a release before typed columns stored."""

RECORD_COLUMNS = pa.schema([pa.field(item.column, item.type) for item in FIELDS])

TABLES: dict[str, pa.Schema] = {
    "events": pa.schema([*EVENT_COLUMNS, *RECORD_COLUMNS]),
    "batches": pa.schema([pa.field("key", pa.binary()), pa.field("committed_ms", pa.int64())]),
    # The formats of records by number, a row for each group that has records of it.
    "formats": pa.schema(
        [pa.field("format_id", pa.int32()), pa.field("group_id", pa.int32()), pa.field("text", pa.string())]
    ),
}

STORED_BYTES = "coalesce(message_bytes, strlen(message))"
"""SQL: the bytes of an event's message, without rendering it."""

_OPTIONS = {
    (None, "parquet_compression"): "zstd",
    (None, "parquet_version"): "V2",
    (None, "target_file_size"): f"{TARGET_BYTES}",
    ("events", "data_inlining_row_limit"): str(INLINED_EVENTS),
    ("batches", "data_inlining_row_limit"): str(INLINED_BATCHES),
    # The committer sorts, and DuckLake's sorting of so many columns costs ten times what writing them does.
    ("events", "sort_on_insert"): "false",
}


def quoted(column: str) -> str:
    """A column's name in SQL; fields are called `end`, `start`, `type` too."""
    return f'"{column}"'


def prepare_tables(catalog: Catalog) -> None:
    """Creates the tables, adds columns that are missing, sets DuckLake's options."""
    writer = catalog.writer
    with catalog.durable():
        for table, schema in TABLES.items():
            listed = ", ".join(f"{quoted(column.name)} {_SQL_TYPES[column.type]}" for column in schema)
            writer.execute(f"CREATE TABLE IF NOT EXISTS {table} ({listed})")
            there = {row[0] for row in writer.execute(f"DESCRIBE {table}").fetchall()}
            for column in schema:
                if column.name not in there:
                    writer.execute(f"ALTER TABLE {table} ADD COLUMN {quoted(column.name)} {_SQL_TYPES[column.type]}")
    found = writer.execute("SELECT scope_entry, option_name, value FROM ducklake_options('lake')").fetchall()
    options = {(scope and scope.rpartition(".")[2], name): value for scope, name, value in found}
    if (None, "target_file_size") not in options:
        writer.execute("ALTER TABLE events SET SORTED BY (group_id ASC, stream_id ASC, timestamp_ms ASC, sequence ASC)")
    for (scope, name), value in _OPTIONS.items():
        if options.get((scope, name)) != value:
            where = f", table_name => '{scope}'" if scope else ""
            # DuckLake gives 16000000 back for 16MB, and V2 for 2.
            told = {"target_file_size": f"{TARGET_BYTES // 1_000_000}MB", "parquet_version": "2"}.get(name, value)
            writer.execute(f"CALL ducklake_set_option('lake', '{name}', '{told}'{where})")
    catalog.folder_of("events").mkdir(parents=True, exist_ok=True, mode=0o700)

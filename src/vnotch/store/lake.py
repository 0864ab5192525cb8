"""The log store: events of log streams in DuckLake, appended durably, read in order, never lost in silence.

    caller -> submit(group, stream, events) -> queue -> committer: one durable transaction for all that wait -> future
    reader -> events(group, ...) on its own connection, from the last committed snapshot

One unpartitioned table of events, sorted by group, stream and time within each file (a thousand partitions cost fifty
times the write). `sequence` is unique and rises with every commit: with the time it orders events, names them and
marks a place for paging.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from vnotch.errors import HostError
from vnotch.store.committer import (
    BATCH_KEY_SECONDS,
    COMMIT_BYTES,
    EVENT_OVERHEAD_BYTES,
    PUT_SCHEMA,
    QUEUE_BYTES,
    Appended,
    Committer,
    OnCommit,
    Put,
    StreamDelta,
)
from vnotch.store.ducklake import Catalog
from vnotch.store.upkeep import MESSAGE_BYTES, TARGET_BYTES, ExpiryListener, Upkeep, UpkeepIntervals

BUDGET_BYTES = 20_000_000_000
BUDGET_DISK_PART = 0.2
MEMORY_BYTES = 512_000_000
THREADS = 2

INLINED_EVENTS = 40
"""Commits of up to so many events go into the SQLite catalog as rows. A row there costs 0.1 ms, a file 10 ms."""

INLINED_BATCHES = 100

EVENT_SCHEMA = pa.schema(
    [
        pa.field("stream_id", pa.int32()),
        pa.field("timestamp_ms", pa.int64()),  # event time, Unix ms
        pa.field("ingestion_ms", pa.int64()),  # arrival, Unix ms
        pa.field("sequence", pa.int64()),
        pa.field("message", pa.string()),
    ]
)
"""What readers get."""

TABLES = {
    "events": {
        "group_id": "INTEGER",
        "stream_id": "INTEGER",
        "timestamp_ms": "BIGINT",
        "ingestion_ms": "BIGINT",
        "sequence": "BIGINT",
        "message": "VARCHAR",
    },
    "batches": {"key": "BLOB", "committed_ms": "BIGINT"},
}
"""The tables and their columns. A column that an older lake lacks is added when it is opened."""

QUERY_SECONDS_MAX = 60.0
WINDOW_GROWTH = 4
Position = tuple[int, int]
"""A place between events: (timestamp_ms, sequence) of the event that it is after or before."""


class QueryFailed(HostError):
    """The store could not answer: out of its memory bound, or a file could not be read."""


_BETWEEN_SNAPSHOTS = "No snapshot found"
"""What DuckLake says to a statement that begins in the very moment in which old snapshots expire; the next is right."""
_TRIES = 5
_AGAIN_SECONDS = 0.02


def _answer(reader: Any, sql: str, parameters: list[Any]) -> pa.Table:
    for last in (False,) * (_TRIES - 1) + (True,):
        try:
            return reader.execute(sql, parameters).to_arrow_table()
        except duckdb.InvalidInputException as error:
            if last or _BETWEEN_SNAPSHOTS not in str(error):
                raise
            time.sleep(_AGAIN_SECONDS)
    raise AssertionError("the last try returns or raises")


@dataclass(frozen=True)
class Predicate:
    """A condition on events as SQL with bound parameters."""

    sql: str
    parameters: tuple[Any, ...] = ()


class Lake:
    """The open log store. Safe to call from any thread.

    `counters` has what was stored, refused, repeated, merged, expired and removed, by name.
    """

    def __init__(self, catalog: Catalog, committer: Committer, upkeep: Upkeep, counters: Counter[str]) -> None:
        self._catalog = catalog
        self._committer = committer
        self._upkeep = upkeep
        self.counters = counters

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        budget_bytes: int | None = None,
        memory_bytes: int = MEMORY_BYTES,
        threads: int = THREADS,
        queue_bytes: int = QUEUE_BYTES,
        commit_bytes: int = COMMIT_BYTES,
        batch_key_seconds: int = BATCH_KEY_SECONDS,
        intervals: UpkeepIntervals | None = None,
    ) -> Lake:
        """Opens the lake in `folder`, which is made where it is not there, and starts its committer.

        `budget_bytes`: None is the smaller of 20 GB and 20 % of the disk. Raises HostError where the folder cannot be
        used or another process has it open.
        """
        counters: Counter[str] = Counter()
        try:
            catalog = Catalog(folder, memory_bytes, threads)
        except (OSError, duckdb.Error) as error:
            raise HostError(f"the log store in {folder} cannot be opened: {error}") from error
        try:
            prepare_tables(catalog)
            if budget_bytes is None:
                budget_bytes = min(BUDGET_BYTES, int(shutil.disk_usage(folder).total * BUDGET_DISK_PART))
            upkeep = Upkeep(catalog, counters, budget_bytes, intervals)
            upkeep.remove_orphans()
            catalog.remember_files()
            last = catalog.writer.execute("SELECT max(sequence) FROM events").fetchone()

            def step() -> None:
                upkeep.step(committer.keys, batch_key_seconds)

            committer = Committer(catalog, counters, (last and last[0]) or 0, step, queue_bytes, commit_bytes)
        except (OSError, duckdb.Error) as error:
            catalog.close()
            raise HostError(f"the log store in {folder} cannot be opened: {error}") from error
        committer.start()
        lake = cls(catalog, committer, upkeep, counters)
        lake._batch_key_seconds = batch_key_seconds
        return lake

    _batch_key_seconds: int = BATCH_KEY_SECONDS

    # Writing

    def submit(
        self, group_id: int, stream_id: int, events: pa.Table, ingestion_ms: int, batch_key: bytes | None = None
    ) -> Future[Appended]:
        """Hands in events (PUT_SCHEMA, at least one); the future resolves when they are on disk.

        A batch whose key is already stored is answered as stored, and not stored again. Raises LakeFull at once; the
        future raises LakeUnavailable or StreamGone.
        """
        assert events.num_rows
        assert events.schema.equals(PUT_SCHEMA)
        times = pc.min_max(events["timestamp_ms"]).as_py()
        size = pc.sum(pc.binary_length(events["message"])).as_py() + EVENT_OVERHEAD_BYTES * events.num_rows
        put = Put(group_id, stream_id, events, ingestion_ms, batch_key, times["min"], times["max"], size)
        put.future.set_running_or_notify_cancel()  # nobody who waits can take it back
        self._committer.submit(put)
        return put.future

    def watch(self, on_commit: OnCommit) -> None:
        """`on_commit` hears of every commit from now on, before its callers do."""
        self._committer.on_commit = on_commit

    def delete(self, group_id: int, stream_id: int | None = None) -> None:
        """Refuses further events of a deleted group or stream, and deletes what is stored at the next upkeep."""
        self._committer.bury(group_id, stream_id)
        self._upkeep.dead.add((group_id, stream_id))

    def upkeep(self) -> Future[None]:
        """All upkeep now, between two commits."""
        keys = self._committer.keys
        return self._committer.run_between_commits(
            lambda: self._upkeep.step(keys, self._batch_key_seconds, everything=True)
        )

    def keep(
        self,
        cutoffs: Any,
        listener: ExpiryListener,
        on_buried: Any,
    ) -> None:
        """Wires retention: see Upkeep. `on_buried` hears which deleted groups and streams have no events any more."""
        self._upkeep.cutoffs = cutoffs
        self._upkeep.listener = listener
        self._upkeep.on_buried = on_buried

    # Reading

    def events(
        self,
        group_id: int,
        *,
        stream_ids: Sequence[int] | None = None,
        without_streams: Sequence[int] = (),
        start_ms: int,
        end_ms: int,
        after: Position | None = None,
        before: Position | None = None,
        descending: bool = False,
        limit: int,
        predicate: Predicate | None = None,
        first_window_ms: int | None = None,
    ) -> pa.Table:
        """At most `limit` events (EVENT_SCHEMA) with start_ms <= time < end_ms, ordered by (time, sequence).

        `after` and `before` are exclusive places in that order; `descending` reads from the end. `first_window_ms` is
        how much time probably holds `limit` events: the search begins with so much and grows, so that a page of a
        large group does not sort the whole group. Raises QueryFailed.
        """
        where, parameters = _where(group_id, stream_ids, without_streams, predicate)
        if after is not None:
            start_ms = max(start_ms, after[0])
            where += " AND (timestamp_ms > ? OR sequence > ?)"
            parameters += [after[0], after[1]]
        if before is not None:
            end_ms = min(end_ms, before[0] + 1)
            where += " AND (timestamp_ms < ? OR sequence < ?)"
            parameters += [before[0], before[1]]
        order = "DESC" if descending else "ASC"
        parts: list[pa.Table] = []
        found = 0
        for low, high in windows(start_ms, end_ms, first_window_ms, descending):
            sql = (
                f"SELECT {', '.join(EVENT_SCHEMA.names)} FROM events WHERE timestamp_ms >= ? AND timestamp_ms < ? "
                f"AND {where} ORDER BY timestamp_ms {order}, sequence {order} LIMIT {limit - found}"
            )
            part = self.arrow(sql, [low, high, *parameters])
            parts.append(part)
            found += part.num_rows
            if found >= limit:
                break
        return pa.concat_tables(parts).cast(EVENT_SCHEMA) if parts else EVENT_SCHEMA.empty_table()

    def events_after(
        self, group_id: int, sequence: int, *, limit: int, without_streams: Sequence[int] = ()
    ) -> pa.Table:
        """Events of a group that were stored after `sequence`, in the order of storing: for following."""
        where, parameters = _where(group_id, None, without_streams, None)
        return self.arrow(
            f"SELECT {', '.join(EVENT_SCHEMA.names)} FROM events WHERE sequence > ? AND {where} "
            f"ORDER BY sequence LIMIT {int(limit)}",
            [sequence, *parameters],
        ).cast(EVENT_SCHEMA)

    @property
    def last_sequence(self) -> int:
        """Of the newest commit; every event that is stored later has a higher one."""
        return self._committer.sequence

    def totals_after(self, sequence: int) -> list[StreamDelta]:
        """What each stream has beyond `sequence`: a keeper of statistics catches up with it."""
        rows = self.arrow(
            "SELECT group_id, stream_id, min(timestamp_ms) AS first_ms, max(timestamp_ms) AS last_ms, "
            "max(ingestion_ms) AS ingestion_ms, count(*) AS events, CAST(sum("
            f"{MESSAGE_BYTES}) AS BIGINT) AS bytes FROM events WHERE sequence > ? GROUP BY group_id, stream_id",
            [sequence],
        )
        return [StreamDelta(**row) for row in rows.to_pylist()]

    def arrow(self, sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
        """The answer to a reading statement. Raises QueryFailed, also after QUERY_SECONDS_MAX."""
        reader = self._catalog.reader()
        watchdog = threading.Timer(QUERY_SECONDS_MAX, reader.interrupt)
        watchdog.start()
        try:
            return _answer(reader, sql, list(parameters))
        except duckdb.InterruptException as error:
            raise QueryFailed(f"the log store did not answer within {QUERY_SECONDS_MAX} s") from error
        except duckdb.Error as error:
            raise QueryFailed(f"the log store could not answer: {error}") from error
        finally:
            watchdog.cancel()

    def status(self) -> Mapping[str, int]:
        """Bytes on disk, budget and all counters."""
        disk_bytes = sum(path.stat().st_size for path in self._catalog.folder.rglob("*") if path.is_file())
        return {
            **self.counters,
            "batch_keys_forgotten": self._committer.keys.forgotten,
            "budget_bytes": self._upkeep.budget_bytes,
            "disk_bytes": disk_bytes,
        }

    def close(self) -> None:
        """Commits what waits, then closes."""
        self._committer.shut()
        self._catalog.close()


def prepare_tables(catalog: Catalog) -> None:
    """Creates the tables, adds columns that are missing, sets DuckLake's options."""
    writer = catalog.writer
    with catalog.durable():
        for table, columns in TABLES.items():
            listed = ", ".join(f"{name} {kind}" for name, kind in columns.items())
            writer.execute(f"CREATE TABLE IF NOT EXISTS {table} ({listed})")
            there = {row[0] for row in writer.execute(f"DESCRIBE {table}").fetchall()}
            for name, kind in columns.items():
                if name not in there:
                    writer.execute(f"ALTER TABLE {table} ADD COLUMN {name} {kind}")
    options = {row[0]: row[2] for row in writer.execute("FROM ducklake_options('lake')").fetchall()}
    if options.get("target_file_size") != str(TARGET_BYTES):
        writer.execute("ALTER TABLE events SET SORTED BY (group_id ASC, stream_id ASC, timestamp_ms ASC, sequence ASC)")
        writer.execute("CALL ducklake_set_option('lake', 'parquet_compression', 'zstd')")
        writer.execute("CALL ducklake_set_option('lake', 'parquet_version', '2')")
        for table, rows in (("events", INLINED_EVENTS), ("batches", INLINED_BATCHES)):
            writer.execute(
                f"CALL ducklake_set_option('lake', 'data_inlining_row_limit', '{rows}', table_name => '{table}')"
            )
        writer.execute(f"CALL ducklake_set_option('lake', 'target_file_size', '{TARGET_BYTES // 1_000_000}MB')")


def windows(start_ms: int, end_ms: int, first_ms: int | None, descending: bool) -> Iterator[tuple[int, int]]:
    """Consecutive windows [low, high) that cover [start_ms, end_ms), each larger than the one before it."""
    width = max(1, first_ms) if first_ms is not None else max(1, end_ms - start_ms)
    while start_ms < end_ms:
        if descending:
            low = max(start_ms, end_ms - width)
            yield low, end_ms
            end_ms = low
        else:
            high = min(end_ms, start_ms + width)
            yield start_ms, high
            start_ms = high
        width *= WINDOW_GROWTH


def _where(
    group_id: int, stream_ids: Sequence[int] | None, without_streams: Sequence[int], predicate: Predicate | None
) -> tuple[str, list[Any]]:
    sql = "group_id = ?"
    parameters: list[Any] = [group_id]
    if stream_ids is not None:
        if len(stream_ids) == 1:
            sql += " AND stream_id = ?"
            parameters.append(stream_ids[0])
        else:
            sql += f" AND stream_id IN ({', '.join(str(int(number)) for number in stream_ids) or 'NULL'})"
    if without_streams:
        sql += f" AND stream_id NOT IN ({', '.join(str(int(number)) for number in without_streams)})"
    if predicate is not None:
        sql += f" AND ({predicate.sql})"
        parameters += list(predicate.parameters)
    return sql, parameters

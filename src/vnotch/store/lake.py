"""The log store: events of log streams in DuckLake, appended durably, read in order, never lost in silence.

    caller -> submit(group, stream, events) -> queue -> committer: one durable transaction for all that wait -> future
    reader -> events(group, ...) on its own connection, from the last committed snapshot

One unpartitioned table of events, sorted by group, stream and time within each file (a thousand partitions cost fifty
times the write). `sequence` is unique and rises with every commit: with the time it orders events, names them and
marks a place for paging. Records of flow logs stand in typed columns (`store.event_table`) and are rendered as lines
where they are read (`store.relation`).
"""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vnotch.errors import HostError
from vnotch.fields import Format
from vnotch.store.batch_keys import BATCH_KEY_SECONDS
from vnotch.store.committer import (
    COMMIT_BYTES,
    EVENT_OVERHEAD_BYTES,
    QUEUE_BYTES,
    Appended,
    Committer,
    OnCommit,
    Put,
    Run,
    StreamDelta,
)
from vnotch.store.ducklake import Catalog
from vnotch.store.event_rows import PUT_SCHEMA, formats_in, line_rows, record_rows, stored_bytes
from vnotch.store.event_table import prepare_tables
from vnotch.store.formats import Formats
from vnotch.store.pages import Budget, Found, Position, page_sql, windows
from vnotch.store.reading import QueryFailed, QueryInterrupted, Reading, Readings
from vnotch.store.relation import UNKNOWN_FORMAT, Extent, Predicate, Relation, relation_of
from vnotch.store.upkeep import EVENT_BYTES, ExpiryListener, Upkeep, UpkeepIntervals

__all__ = [
    "EVENT_SCHEMA",
    "PUT_SCHEMA",
    "Lake",
    "Predicate",
    "QueryFailed",
    "QueryInterrupted",
    "Relation",
]

BUDGET_BYTES = 20_000_000_000
BUDGET_DISK_PART = 0.2
MEMORY_BYTES = 512_000_000
THREADS = 2

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

_CATALOG = "__ducklake_metadata_lake"
_EXTENT = f"""
    SELECT c.column_name, CAST(s.min_value AS BIGINT) AS least, CAST(s.max_value AS BIGINT) AS greatest,
        (SELECT max(snapshot_id) FROM {_CATALOG}.ducklake_snapshot) AS snapshot
    FROM {_CATALOG}.ducklake_table_column_stats s
    JOIN {_CATALOG}.ducklake_table t ON t.table_id = s.table_id AND t.end_snapshot IS NULL
    JOIN {_CATALOG}.ducklake_column c
        ON c.table_id = s.table_id AND c.column_id = s.column_id AND c.end_snapshot IS NULL
    WHERE t.table_name = 'events' AND c.column_name IN ('timestamp_ms', 'group_id')"""

EVER_MS = 2**53
_TRIES = 5


class Lake:
    """The open log store. Safe to call from any thread.

    `counters` has what was stored, refused, repeated, merged, expired and removed, by name.
    """

    def __init__(
        self, catalog: Catalog, committer: Committer, upkeep: Upkeep, formats: Formats, counters: Counter[str]
    ) -> None:
        self._catalog = catalog
        self._committer = committer
        self._upkeep = upkeep
        self._formats = formats
        self._readings = Readings(catalog)
        upkeep.oldest_reading_seconds = self._readings.oldest_seconds
        self._committed = threading.Condition()
        self._on_commit: OnCommit | None = None
        committer.on_commit = self._heard
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
            formats = Formats(catalog.writer.execute("SELECT format_id, group_id, text FROM formats").fetchall())
            upkeep = Upkeep(catalog, counters, budget_bytes, formats, intervals)
            upkeep.remove_orphans()
            catalog.remember_files()
            last = catalog.writer.execute("SELECT max(sequence) FROM events").fetchone()

            def step() -> None:
                upkeep.step(committer.keys, batch_key_seconds, is_busy=committer.is_busy)

            committer = Committer(catalog, counters, formats, (last and last[0]) or 0, step, queue_bytes, commit_bytes)
        except (OSError, duckdb.Error) as error:
            catalog.close()
            raise HostError(f"the log store in {folder} cannot be opened: {error}") from error
        lake = cls(catalog, committer, upkeep, formats, counters)
        committer.start()
        lake._batch_key_seconds = batch_key_seconds
        return lake

    _batch_key_seconds: int = BATCH_KEY_SECONDS

    # Writing

    def submit(
        self,
        group_id: int,
        stream_id: int,
        events: pa.Table,
        ingestion_ms: int,
        batch_key: bytes | None = None,
        candidates: Sequence[Format] = (),
    ) -> Future[Appended]:
        """Hands in events (PUT_SCHEMA, at least one); the future resolves when they are on disk.

        Those that are record lines of one of the formats `candidates` are stored in typed columns. A batch whose key is
        already stored is answered as stored, and not stored again. Raises LakeFull at once; the future raises
        LakeUnavailable or StreamGone.
        """
        assert events.num_rows
        assert events.schema.equals(PUT_SCHEMA)
        return self.submit_rows(group_id, stream_id, self.line_rows(events, candidates), ingestion_ms, batch_key)

    def submit_records(
        self,
        group_id: int,
        stream_id: int,
        format: Format,
        records: pa.Table,
        ingestion_ms: int,
        batch_key: bytes | None = None,
    ) -> Future[Appended]:
        """The same for records: `timestamp_ms` and the columns of their format, typed.

        Raises InputError where a value is one that no line of the format has.
        """
        assert records.num_rows
        return self.submit_rows(group_id, stream_id, self.record_rows(records, format), ingestion_ms, batch_key)

    def line_rows(self, events: pa.Table, candidates: Sequence[Format]) -> pa.Table:
        """Events as rows for `submit_rows`, which takes slices of them too."""
        return line_rows(events, candidates, self._formats)

    def record_rows(self, records: pa.Table, format: Format) -> pa.Table:
        """Records as rows for `submit_rows`. Raises as `submit_records` does."""
        return record_rows(records, format, self._formats)

    def submit_rows(
        self, group_id: int, stream_id: int, rows: pa.Table, ingestion_ms: int, batch_key: bytes | None = None
    ) -> Future[Appended]:
        times = pc.min_max(rows["timestamp_ms"]).as_py()
        size = stored_bytes(rows, EVENT_OVERHEAD_BYTES)
        run = Run(stream_id, rows.num_rows, times["min"], times["max"], size)
        return self._submit(Put(group_id, [run], rows, ingestion_ms, batch_key, formats_in(rows)))

    def submit_runs(
        self,
        group_id: int,
        streams: Sequence[tuple[int, int]],
        rows: pa.Table,
        ingestion_ms: int,
        batch_key: bytes | None = None,
    ) -> Future[Appended]:
        """Rows of several streams as one batch, of many that follow: (stream, number of rows), one stream's rows
        behind the other's, each in order of time."""
        times = rows["timestamp_ms"].to_numpy()
        sizes = np.cumsum(rows["message_bytes"].to_numpy(), dtype=np.int64)
        runs, begin, before = [], 0, 0
        for stream_id, count in streams:
            last = begin + count - 1
            size = int(sizes[last]) - before + EVENT_OVERHEAD_BYTES * count
            runs.append(Run(stream_id, count, int(times[begin]), int(times[last]), size))
            begin, before = last + 1, int(sizes[last])
        assert begin == rows.num_rows
        return self._submit(Put(group_id, runs, rows, ingestion_ms, batch_key, formats_in(rows), bulk=True))

    def _submit(self, put: Put) -> Future[Appended]:
        put.future.set_running_or_notify_cancel()  # nobody who waits can take it back
        self._committer.submit(put)
        return put.future

    def watch(self, on_commit: OnCommit) -> None:
        """`on_commit` hears of every commit from now on, before its callers do."""
        self._on_commit = on_commit

    def _heard(self, deltas: Sequence[StreamDelta], sequence: int) -> None:
        try:
            if self._on_commit is not None:
                self._on_commit(deltas, sequence)
        finally:
            with self._committed:
                self._committed.notify_all()

    def committed_after(self, sequence: int, timeout_seconds: float) -> bool:
        """Waits until events with a higher sequence are stored; False where the time is over."""
        with self._committed:
            return self._committed.wait_for(lambda: self._committer.sequence > sequence, timeout_seconds)

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

    def formats(self, group_ids: Sequence[int]) -> Mapping[int, Format]:
        """Number -> format, of all that records of these groups can have."""
        return self._formats.of_groups(group_ids)

    def relation(
        self,
        group_ids: Sequence[int],
        *,
        start_ms: int,
        end_ms: int,
        stream_ids: Sequence[int] | None = None,
        without_streams: Sequence[int] = (),
        extent: Extent | None = None,
    ) -> Relation:
        """The events of groups with start_ms <= time < end_ms, to ask about in SQL."""
        return relation_of(
            group_ids,
            self.formats(group_ids),
            start_ms=start_ms,
            end_ms=end_ms,
            stream_ids=stream_ids,
            without_streams=without_streams,
            extent=extent,
        )

    def extent(self) -> Extent | None:
        """Of the newest snapshot, from the catalog's statistics, which never shrink; None while there is no event."""
        rows = self.arrow(_EXTENT).to_pylist()
        bounds = {row["column_name"]: row for row in rows if row["least"] is not None}
        if len(bounds) < 2:
            return None
        times, groups = bounds["timestamp_ms"], bounds["group_id"]
        return Extent(times["snapshot"], times["least"], times["greatest"], groups["least"], groups["greatest"])

    def search(
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
        budget: Budget | None = None,
    ) -> Found:
        """At most `limit` events (EVENT_SCHEMA) with start_ms <= time < end_ms, ordered by (time, sequence).

        `after` and `before` are exclusive places in that order; `descending` reads from the end. `first_window_ms` is
        how much time probably holds `limit` events: the search begins with so much and grows, so that a page of a
        large group does not sort the whole group. With a `budget` it may end before it has a page. Raises QueryFailed.
        """
        conditions: list[str] = []
        if after is not None:
            start_ms = max(start_ms, after[0])
            conditions.append(f"(timestamp_ms > {int(after[0])} OR sequence > {int(after[1])})")
        if before is not None:
            end_ms = min(end_ms, before[0] + 1)
            conditions.append(f"(timestamp_ms < {int(before[0])} OR sequence < {int(before[1])})")
        order = "timestamp_ms DESC, sequence DESC" if descending else "timestamp_ms, sequence"
        parts: list[pa.Table] = []
        found = 0
        ended: Position | None = None
        search = windows(start_ms, end_ms, first_window_ms, descending, budget.begin() if budget is not None else None)
        wanted: float | None = None
        while found < limit:
            try:
                low, high = search.send(wanted) if parts else next(search)
            except StopIteration as over:
                ended = over.value
                break

            def statement(low: int = low, high: int = high, limit: int = limit - found) -> tuple[str, list[Any]]:
                relation = self.relation(
                    [group_id], start_ms=low, end_ms=high, stream_ids=stream_ids, without_streams=without_streams
                )
                return page_sql(relation, EVENT_SCHEMA.names, conditions, predicate, order, limit)

            part = self.rendered(statement)
            parts.append(part)
            found += part.num_rows
            wanted = (limit - found) / part.num_rows if part.num_rows else None
        events = pa.concat_tables(parts).cast(EVENT_SCHEMA) if parts else EVENT_SCHEMA.empty_table()
        return Found(events, ended)

    def rendered(self, statement: Callable[[], tuple[str, list[Any]]]) -> pa.Table:
        """The answer to a statement that renders messages; made anew where a format came in between."""
        for last in (False,) * (_TRIES - 1) + (True,):
            try:
                return self.arrow(*statement())
            except QueryFailed as error:
                if last or UNKNOWN_FORMAT not in str(error):
                    raise
        raise AssertionError("the last try returns or raises")

    def events(self, group_id: int, **asked: Any) -> pa.Table:
        """All events of a page: `search` without a budget."""
        return self.search(group_id, **asked).events

    def events_after(
        self, group_id: int, sequence: int, *, limit: int, without_streams: Sequence[int] = ()
    ) -> pa.Table:
        """Events of a group that were stored after `sequence`, in the order of storing: for following."""

        def statement() -> tuple[str, list[Any]]:
            everything = self.relation([group_id], start_ms=0, end_ms=EVER_MS, without_streams=without_streams)
            conditions = [f"sequence > {int(sequence)}"]
            return page_sql(everything, EVENT_SCHEMA.names, conditions, None, "sequence", limit)

        return self.rendered(statement).cast(EVENT_SCHEMA)

    @property
    def last_sequence(self) -> int:
        """Of the newest commit; every event that is stored later has a higher one."""
        return self._committer.sequence

    def totals_after(self, sequence: int) -> list[StreamDelta]:
        """What each stream has beyond `sequence`: a keeper of statistics catches up with it."""
        rows = self.arrow(
            "SELECT group_id, stream_id, min(timestamp_ms) AS first_ms, max(timestamp_ms) AS last_ms, "
            f"max(ingestion_ms) AS ingestion_ms, count(*) AS events, CAST(sum({EVENT_BYTES}) AS BIGINT) AS bytes "
            "FROM events WHERE sequence > ? GROUP BY group_id, stream_id",
            [sequence],
        )
        return [StreamDelta(**row) for row in rows.to_pylist()]

    def arrow(self, sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
        """The answer to a reading statement. Raises QueryFailed, also after QUERY_SECONDS_MAX."""
        return self._readings.of_thread().arrow(sql, parameters)

    def reading(self, seconds: float | None = None) -> AbstractContextManager[Reading]:
        """A connection of its own for long questions; see `Reading`. Raises QueryFailed where all are in use."""
        return self._readings.open(seconds)

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

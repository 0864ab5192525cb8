"""Upkeep of the log store: merging, expiry, disk budget, cleaning up. Runs on the committer's thread, in short steps.

Small commits make small files. Files are merged in two tiers, so that a row is rewritten about twice in its life and no
step holds the commits up for long: many files below `SMALL_BYTES` into one, then those below half of `TARGET_BYTES`
into files of about `TARGET_BYTES`. A row inlined in the catalog is written out when there are enough of them.

What is deleted or merged away stays on disk until no reader can need it: snapshots older than `READER_SECONDS` expire,
and the files that only they named go one round later, when nobody who may read them is left.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import pyarrow as pa

from vnotch.store.batch_keys import BatchKeys
from vnotch.store.committer import EVENT_OVERHEAD_BYTES
from vnotch.store.ducklake import Catalog
from vnotch.store.event_files import merge_files
from vnotch.store.event_table import STORED_BYTES, TARGET_BYTES
from vnotch.store.formats import Formats

log = logging.getLogger(__name__)

SMALL_BYTES = 1_000_000
SMALL_FILES = 24
INLINED_ROWS = 2_000
BUSY_SECONDS = 1.0
FILES_WAITING_MAX = 200
"""Merging leaves the way to commits that wait, until there are so many files to merge."""

READER_SECONDS = 120
HELD_SECONDS_MAX = 900
"""For a question that takes longer no file is kept, so that a full disk does not wait for it."""
BUDGET_FILL = 0.9
"""A budget that is exceeded is brought down to this part of itself, so that expiry is not needed at every step."""

EVENT_BYTES = f"{STORED_BYTES} + {EVENT_OVERHEAD_BYTES}"


@dataclass(frozen=True)
class Expired:
    """Events of one stream that were deleted, and the first event that is left (None: none is)."""

    group_id: int
    stream_id: int
    events: int
    bytes: int
    first_ms: int | None


@dataclass
class ExpiryListener:
    """Who keeps totals a stream: `before` is called ahead of a deletion, `after` when it is committed."""

    before: Callable[[], None]
    after: Callable[[Sequence[Expired]], None]


@dataclass(frozen=True)
class UpkeepIntervals:
    """Seconds between two rounds of each kind of upkeep."""

    merge: float = 5
    clean: float = 60
    expire: float = 3600


class Upkeep:
    """All methods but the constructor belong to the committer's thread.

    `cutoffs` gives group id -> oldest time (Unix ms) that is kept, `dead` the (group, stream or None) whose events are
    to go. `budget_bytes` is what the Parquet files may take.
    """

    def __init__(
        self,
        catalog: Catalog,
        counters: Counter[str],
        budget_bytes: int,
        formats: Formats,
        intervals: UpkeepIntervals | None = None,
    ) -> None:
        self.catalog = catalog
        self.formats = formats
        self.counters = counters
        self.budget_bytes = budget_bytes
        self.intervals = intervals or UpkeepIntervals()
        self.cutoffs: Callable[[], Mapping[int, int]] = dict
        self.oldest_reading_seconds: Callable[[], float] = float
        self.listener: ExpiryListener | None = None
        self.dead: set[tuple[int, int | None]] = set()
        self.on_buried: Callable[[Sequence[tuple[int, int | None]]], None] | None = None
        self._due = dict.fromkeys(("merge", "clean", "expire"), 0.0)
        self._expired_s = time.monotonic()

    def step(self, keys: BatchKeys, batch_key_seconds: int, *, everything: bool = False, is_busy: bool = False) -> None:
        """Does what is due; with `everything` all of it. `is_busy`: events wait for the next commit.

        A task that fails stops no other; the first failure is raised.
        What makes room comes first, because on a full disk the rest may fail.
        """
        tasks: list[Callable[[], None]] = []
        if self._is_due("clean", self.intervals.clean, everything):
            tasks += [self.clean, self.keep_budget]
        if self._is_due("expire", self.intervals.expire, everything):
            tasks += [self.expire_retention, lambda: self.forget_batches(keys, batch_key_seconds)]
        if self._is_due("merge", self.intervals.merge, everything):
            tasks += [
                self.bury,
                lambda: self.write_inlined(always=everything),
                lambda: self.merge("events", is_busy=is_busy),
                lambda: self.merge("batches", is_busy=is_busy),
            ]
        failures: list[Exception] = []
        for task in tasks:
            try:
                task()
            except Exception as error:
                failures.append(error)
        if failures:
            raise failures[0]

    def _is_due(self, name: str, interval_seconds: float, everything: bool) -> bool:
        now = time.monotonic()
        if not everything and now < self._due[name]:
            return False
        self._due[name] = now + interval_seconds
        return True

    def write_inlined(self, *, always: bool = False) -> None:
        """Rows that small commits left in the SQLite catalog become a Parquet file."""
        for table in ("events", "batches"):
            names = self._inlined_tables(table)
            rows = sum(names.values())
            if not rows or (rows < INLINED_ROWS and not always):
                continue
            if table == "events":
                merge_files(self.catalog, list(names), self.formats)
            else:
                with self.catalog.durable() as writer:
                    writer.execute(f"CALL ducklake_flush_inlined_data('lake', table_name => '{table}')")
            self.counters["inlined_rows_written"] += rows

    def _inlined_tables(self, table: str) -> dict[str, int]:
        """The tables of the catalog that hold rows of a table, one for each version of its columns -> rows in it."""
        names = self.catalog.writer.execute(
            """SELECT i.table_name FROM __ducklake_metadata_lake.ducklake_inlined_data_tables i
               JOIN __ducklake_metadata_lake.ducklake_table t USING (table_id)
               WHERE t.table_name = ? AND t.end_snapshot IS NULL""",
            [table],
        ).fetchall()
        found = {}
        for (name,) in names:
            sql = f'SELECT count(*) FROM __ducklake_metadata_lake."{name}" WHERE end_snapshot IS NULL'
            if count := (self.catalog.writer.execute(sql).fetchone() or (0,))[0]:
                found[name] = count
        return found

    def files(self, table: str) -> list[tuple[str, int, int, int]]:
        """Path, bytes, rows and the highest sequence number (or commit time) of each live file, oldest first."""
        column = "sequence" if table == "events" else "committed_ms"
        rows: list[tuple[str, int, int, int]] = self.catalog.writer.execute(
            """SELECT f.path, f.file_size_bytes, f.record_count, CAST(s.max_value AS BIGINT)
               FROM __ducklake_metadata_lake.ducklake_data_file f
               JOIN __ducklake_metadata_lake.ducklake_table t USING (table_id)
               JOIN __ducklake_metadata_lake.ducklake_column c ON c.table_id = t.table_id AND c.end_snapshot IS NULL
               JOIN __ducklake_metadata_lake.ducklake_file_column_stats s
                 ON s.data_file_id = f.data_file_id AND s.column_id = c.column_id
               WHERE t.table_name = ? AND c.column_name = ? AND f.end_snapshot IS NULL AND t.end_snapshot IS NULL
               ORDER BY 4""",
            [table, column],
        ).fetchall()
        return rows

    def merge(self, table: str, *, is_busy: bool = False) -> None:
        """One step of each tier that has enough files."""
        files = self.files(table)
        small = [file for file in files if file[1] < SMALL_BYTES]
        medium = [file for file in files if file[1] < TARGET_BYTES // 2]
        if is_busy and len(medium) < FILES_WAITING_MAX:
            self._due["merge"] = time.monotonic() + BUSY_SECONDS
        elif len(small) >= SMALL_FILES:
            self._merge(table, small, SMALL_BYTES)
        elif sum(file[1] for file in medium) >= TARGET_BYTES and len(medium) > 1:
            self._merge(table, medium, TARGET_BYTES // 2)

    def _merge(self, table: str, files: Sequence[tuple[str, int, int, int]], max_bytes: int) -> None:
        if table == "events":
            # The oldest of them, as many as make one large file.
            sizes = accumulate(file[1] for file in files)
            chosen = [file for file, total in zip(files, sizes, strict=True) if total - file[1] < TARGET_BYTES]
            merge_files(self.catalog, [str(self.catalog.folder_of(table) / file[0]) for file in chosen], self.formats)
            self.counters["merged_files"] += len(chosen)
            return
        with self.catalog.durable() as writer:
            merged = writer.execute(
                f"CALL ducklake_merge_adjacent_files('lake', '{table}', max_file_size => {max_bytes})"
            ).fetchall()
        self.counters["merged_files"] += sum(row[2] for row in merged)

    def clean(self) -> None:
        """Removes files that no snapshot names since the round before, then expires old snapshots.

        A question that began before that round may still come to those files: they stay until it has its answer.
        """
        since_s = time.monotonic() - self._expired_s
        if since_s < self.oldest_reading_seconds() and since_s < HELD_SECONDS_MAX:
            return
        with self.catalog.durable() as writer:
            removed = writer.execute("CALL ducklake_cleanup_old_files('lake', cleanup_all => true)").fetchall()
        with self.catalog.durable() as writer:
            writer.execute(
                f"CALL ducklake_expire_snapshots('lake', older_than => now() - INTERVAL {READER_SECONDS} SECOND)"
            )
        self._expired_s = time.monotonic()
        self.catalog.forget_removed()
        self.counters["removed_files"] += len(removed)

    def remove_orphans(self) -> int:
        """Files that no snapshot names: left by a process that was killed. Only while nothing is being written."""
        orphans = self.catalog.writer.execute(
            "CALL ducklake_delete_orphaned_files('lake', cleanup_all => true)"
        ).fetchall()
        self.counters["orphan_files_removed"] += len(orphans)
        return len(orphans)

    def keep_budget(self) -> None:
        """Expires the oldest events until the live files fit the budget."""
        files = self.files("events")
        total = sum(size for _, size, _, _ in files)
        if total <= self.budget_bytes:
            return
        last_sequence = None
        for _, size, _, highest in files:
            if total <= self.budget_bytes * BUDGET_FILL:
                break
            total -= size
            last_sequence = highest
        if last_sequence is not None:
            self._delete("budget", f"sequence <= {last_sequence}")

    def expire_retention(self) -> None:
        """Deletes what is older than its group's retention."""
        cutoffs = self.cutoffs()
        if not cutoffs:
            return
        table = pa.table(
            {"group_id": pa.array(list(cutoffs), pa.int32()), "cutoff_ms": pa.array(list(cutoffs.values()), pa.int64())}
        )
        self.catalog.writer.register("cutoffs", table)
        try:
            groups = self.catalog.writer.execute(
                "SELECT DISTINCT group_id, cutoff_ms FROM events JOIN cutoffs USING (group_id)"
                " WHERE timestamp_ms < cutoff_ms"
            ).fetchall()
        finally:
            self.catalog.writer.unregister("cutoffs")
        for start in range(0, len(groups), 500):
            part = groups[start : start + 500]
            self._delete("retention", " OR ".join(f"(group_id = {g} AND timestamp_ms < {c})" for g, c in part))

    def bury(self) -> None:
        """Deletes the events of deleted groups and streams."""
        dead = sorted(self.dead.copy(), key=str)[:500]
        if not dead:
            return
        self._delete("deleted", " OR ".join(f"group_id = {g}" if s is None else f"stream_id = {s}" for g, s in dead))
        self.dead.difference_update(dead)
        if self.on_buried is not None:
            self.on_buried(dead)

    def _delete(self, reason: str, condition: str) -> None:
        lost = self.catalog.writer.execute(
            f"SELECT group_id, stream_id, count(*), sum({EVENT_BYTES}) FROM events WHERE {condition} GROUP BY ALL"
        ).fetchall()
        if not lost:
            return
        if self.listener is not None:
            self.listener.before()
        with self.catalog.durable() as writer:
            writer.execute(f"DELETE FROM events WHERE {condition}")
        events = sum(row[2] for row in lost)
        self.counters[f"expired_events_{reason}"] += events
        self.counters[f"expired_bytes_{reason}"] += sum(row[3] for row in lost)
        log.info("%d events of %d streams expired (%s)", events, len(lost), reason)
        if self.listener is not None:
            self.listener.after(self._with_first(lost))

    def _with_first(self, lost: Sequence[tuple[int, int, int, int]]) -> list[Expired]:
        streams = pa.table({"stream_id": pa.array([row[1] for row in lost], pa.int32())})
        self.catalog.writer.register("lost", streams)
        try:
            rows = self.catalog.writer.execute(
                "SELECT stream_id, min(timestamp_ms) FROM events JOIN lost USING (stream_id) GROUP BY ALL"
            ).fetchall()
        finally:
            self.catalog.writer.unregister("lost")
        first = dict(rows)
        return [Expired(g, s, events, size, first.get(s)) for g, s, events, size in lost]

    def forget_batches(self, keys: BatchKeys, batch_key_seconds: int) -> None:
        """Drops batch keys past their time."""
        cutoff_ms = int(time.time() * 1000) - batch_key_seconds * 1000
        old = self.catalog.writer.execute("SELECT count(*) FROM batches WHERE committed_ms < ?", [cutoff_ms]).fetchone()
        if old and old[0]:
            with self.catalog.durable() as writer:
                writer.execute("DELETE FROM batches WHERE committed_ms < ?", [cutoff_ms])
            self.counters["batch_keys_expired"] += old[0]
        keys.drop_before(cutoff_ms)

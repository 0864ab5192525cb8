"""The committer: one thread that turns many callers' events into one transaction at a time.

Callers put batches into a queue bounded by bytes and wait on a future. The committer takes all that waits, up to a
size, writes it in one durable transaction and only then resolves the futures; meanwhile the next callers gather.
The same thread runs the upkeep between commits, because the catalog takes one writer.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from vnotch.errors import HostError, InputError, LimitError, VnotchError
from vnotch.priority import give_way
from vnotch.store.batch_keys import BatchKeys, key_table
from vnotch.store.ducklake import Catalog, CommitUncertain
from vnotch.store.event_files import add_events, sorted_rows, without_empty
from vnotch.store.event_table import INLINED_EVENTS
from vnotch.store.formats import Formats

log = logging.getLogger(__name__)

EVENT_OVERHEAD_BYTES = 26
"""What each event counts beyond its message (CloudWatch Logs API reference, PutLogEvents)."""

QUEUE_BYTES = 128 << 20
COMMIT_BYTES = 64 << 20
BULK_ROWS = 1 << 19
"""So many records make a file that need not be merged."""
BULK_SECONDS = 0.2
LARGE_COMMIT_ROWS = 20_000
BUSY_SECONDS = 1.0
"""After a commit of so many events more of them are to be expected for so long."""


class LakeFull(LimitError):
    """The queue in front of the committer has no room; come again."""


class LakeUnavailable(HostError):
    """The events could not be made durable; none of the batch is stored, or a retry with its key finds it stored."""


class StreamGone(InputError):
    """The group or stream was deleted while its events waited."""


@dataclass(frozen=True)
class StreamDelta:
    """What one commit added to one stream. Times in Unix milliseconds, bytes with the overhead of each event."""

    group_id: int
    stream_id: int
    first_ms: int
    last_ms: int
    ingestion_ms: int
    events: int
    bytes: int


@dataclass(frozen=True)
class Appended:
    """The answer to a batch: it is durable. `duplicate` where its key had been stored before."""

    events: int
    duplicate: bool


@dataclass(frozen=True)
class Run:
    """Rows of a batch that follow one another: of one stream, in order of time. Bytes as StreamDelta has them."""

    stream_id: int
    rows: int
    first_ms: int
    last_ms: int
    bytes: int


@dataclass
class Put:
    """A batch: stored as a whole or not at all, under one key."""

    group_id: int
    runs: Sequence[Run]
    rows: pa.Table  # see event_rows: timestamp_ms, message_bytes, and message or the columns of records
    ingestion_ms: int
    key: bytes | None
    format_ids: list[int] = field(default_factory=list)
    bulk: bool = False
    """More of the same kind follows at once, and nobody waits for it alone."""
    future: Future[Appended] = field(default_factory=Future)

    @cached_property
    def size(self) -> int:
        """What it counts in the queue, in bytes: of records, which are coded, the memory that they take."""
        return int(self.rows.nbytes) if self.format_ids else self.bytes

    @cached_property
    def bytes(self) -> int:
        return sum(run.bytes for run in self.runs)

    def deltas(self) -> Iterator[StreamDelta]:
        for run in self.runs:
            yield StreamDelta(
                self.group_id, run.stream_id, run.first_ms, run.last_ms, self.ingestion_ms, run.rows, run.bytes
            )

    @property
    def place(self) -> tuple[int, int, int]:
        """Where its first row stands among those of other batches."""
        return self.group_id, self.runs[0].stream_id, self.runs[0].first_ms


OnCommit = Callable[[Sequence[StreamDelta], int], None]
"""Called after each commit with what it added and the last sequence number, before the callers hear."""


class Committer(threading.Thread):
    """See the module. `upkeep` is called between commits and must itself decide whether something is due."""

    def __init__(
        self,
        catalog: Catalog,
        counters: Counter[str],
        formats: Formats,
        last_sequence: int,
        upkeep: Callable[[], None],
        queue_bytes: int = QUEUE_BYTES,
        commit_bytes: int = COMMIT_BYTES,
        idle_seconds: float = 1.0,
    ) -> None:
        super().__init__(name="lake-committer", daemon=True)
        self.catalog = catalog
        self.counters = counters
        self.formats = formats
        self.sequence = last_sequence
        self.keys = BatchKeys()
        self.keys.load(catalog)
        self.on_commit: OnCommit | None = None
        self._dead: set[tuple[int, int | None]] = set()
        self._keys_stale = False
        self._upkeep = upkeep
        self._queue: deque[Put] = deque()
        self._queue_bytes = queue_bytes
        self._commit_bytes = commit_bytes
        self._idle_seconds = idle_seconds
        self._waiting_bytes = 0
        self._large_commit = float("-inf")
        self._tasks: deque[tuple[Callable[[], None], Future[None]]] = deque()
        self._wake = threading.Condition()
        self._closing = False

    # Callers' side

    def submit(self, put: Put) -> None:
        """Raises LakeFull where the queue has no room, LakeUnavailable where the lake is being closed."""
        with self._wake:
            if self._closing:
                raise LakeUnavailable("the log store is being closed")
            # A batch that is larger than the whole queue is taken when nothing else waits, else it could never pass.
            if self._waiting_bytes and self._waiting_bytes + put.size > self._queue_bytes:
                self.counters["throttled_batches"] += 1
                self.counters["throttled_events"] += put.rows.num_rows
                raise LakeFull("the log store's queue is full")
            self._waiting_bytes += put.size
            self._queue.append(put)
            self._wake.notify()

    @property
    def is_busy(self) -> bool:
        """Whether events wait for the next commit, or will: who was answered just now sends more in a moment."""
        return bool(self._queue) or time.monotonic() - self._large_commit < BUSY_SECONDS

    def run_between_commits(self, task: Callable[[], None]) -> Future[None]:
        """Runs `task` on the committer's thread, where the writing connection may be used."""
        future: Future[None] = Future()
        with self._wake:
            if self._closing:
                raise LakeUnavailable("the log store is being closed")
            self._tasks.append((task, future))
            self._wake.notify()
        return future

    def bury(self, group_id: int, stream_id: int | None) -> None:
        """Refuses from now on whatever comes, or already waits, for a deleted group or stream. Ids are never reused."""
        with self._wake:
            self._dead.add((group_id, stream_id))

    def shut(self) -> None:
        """Commits what waits and ends the thread."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self.join()

    # The committer's side

    def run(self) -> None:
        give_way()
        while True:
            with self._wake:
                if not self._queue and not self._tasks and not self._closing:
                    self._wake.wait(self._idle_seconds)
                self._await_bulk()
                puts = self._take()
                tasks = list(self._tasks)
                self._tasks.clear()
                finished = self._closing and not puts and not tasks
            if finished:
                return
            if puts:
                self._commit_and_answer(puts)
            for task, future in tasks:
                _run_task(task, future)
            try:
                self._upkeep()
            except Exception as error:  # upkeep is repeated; a failure of it must not stop the commits
                self.counters["upkeep_failures"] += 1
                log.warning("log store upkeep failed, it is tried again: %s", error)

    def _await_bulk(self) -> None:
        """Parts of an import come one after another. Where nothing else waits, a moment more makes one large file of
        several of them, instead of files that must be merged."""
        while self._queue and not self._tasks and not self._closing and all(put.bulk for put in self._queue):
            waiting = len(self._queue)
            if sum(put.rows.num_rows for put in self._queue) >= BULK_ROWS or self._waiting_bytes >= self._commit_bytes:
                return
            self._wake.wait(BULK_SECONDS)
            if len(self._queue) == waiting:
                return

    def _take(self) -> list[Put]:
        taken: list[Put] = []
        size = 0
        while self._queue and (not taken or size + self._queue[0].size <= self._commit_bytes):
            size += self._queue[0].size
            taken.append(self._queue.popleft())
        return taken

    def _commit_and_answer(self, puts: list[Put]) -> None:
        try:
            if self._keys_stale:
                self.keys.load(self.catalog)
                self._keys_stale = False
            answers = self._commit(puts)
        except Exception as error:
            self.counters["failed_commits"] += 1
            self._keys_stale = isinstance(error, CommitUncertain) or self._keys_stale
            log.error("events of %d batches could not be stored: %s", len(puts), error)
            failure = LakeUnavailable(f"events could not be stored: {error}")
            answers = [failure] * len(puts)
            if not isinstance(error, (duckdb.Error, OSError, VnotchError, pa.ArrowException)):
                log.exception("unexpected failure of the committer")
        finally:
            with self._wake:
                self._waiting_bytes -= sum(put.size for put in puts)
        for put, answer in zip(puts, answers, strict=True):
            if isinstance(answer, Exception):
                put.future.set_exception(answer)
            else:
                put.future.set_result(answer)

    def _commit(self, puts: list[Put]) -> list[Appended | Exception]:
        answers: list[Appended | Exception] = []
        fresh: list[Put] = []
        keys: set[bytes] = set()
        for put in puts:
            if self._is_dead(put):
                answers.append(StreamGone("the group or stream was deleted"))
                continue
            duplicate = put.key is not None and (put.key in self.keys or put.key in keys)
            answers.append(Appended(put.rows.num_rows, duplicate))
            if duplicate:
                self.counters["duplicate_batches"] += 1
                continue
            if put.key is not None:
                keys.add(put.key)
            fresh.append(put)
        if fresh:
            self._store(fresh, keys)
        return answers

    def _is_dead(self, put: Put) -> bool:
        if not self._dead:
            return False
        places = [(put.group_id, None), *((put.group_id, run.stream_id) for run in put.runs)]
        return not self._dead.isdisjoint(places)

    def _store(self, puts: list[Put], keys: set[bytes]) -> None:
        now_us = time.time_ns() // 1000
        # Sequence numbers start from the clock, so that they rise across restarts even when the newest rows are gone.
        first = max(self.sequence + 1, now_us)
        rows = numbered_rows(puts, first)
        pairs = {(number, put.group_id) for put in puts for number in put.format_ids}
        new_formats = self.formats.announce(pairs)
        with self.catalog.durable() as writer:
            if rows.num_rows > INLINED_EVENTS:
                add_events(self.catalog, rows)
            else:
                insert(writer, "events", rows)
            if keys:
                insert(writer, "batches", key_table(keys, now_us // 1000))
            if new_formats is not None:
                insert(writer, "formats", new_formats)
        self.formats.confirm(pairs)
        if rows.num_rows >= LARGE_COMMIT_ROWS:
            self._large_commit = time.monotonic()
        self.sequence = first + rows.num_rows - 1
        self.keys.add(keys, now_us // 1000)
        self.counters["commits"] += 1
        self.counters["stored_batches"] += len(puts)
        self.counters["stored_events"] += rows.num_rows
        self.counters["stored_records"] += rows.num_rows - _texts(rows)
        self.counters["stored_bytes"] += sum(put.bytes for put in puts)
        if self.on_commit is not None:
            try:
                self.on_commit(merged_deltas(delta for put in puts for delta in put.deltas()), self.sequence)
            except Exception:
                # The events are durable and the listener catches up from the sequence number; the callers must hear so.
                log.exception("stream statistics could not be updated")


def _run_task(task: Callable[[], None], future: Future[None]) -> None:
    try:
        task()
    except Exception as error:
        future.set_exception(error)
    else:
        future.set_result(None)


def insert(writer: Any, table: str, rows: pa.Table) -> None:
    """Inserts rows in the transaction that is open; few of them become rows in the catalog."""
    writer.register("incoming", rows)
    try:
        writer.execute(f"INSERT INTO {table} BY NAME SELECT * FROM incoming")
    finally:
        writer.unregister("incoming")


def _texts(rows: pa.Table) -> int:
    return rows.num_rows - rows["message"].null_count if "message" in rows.column_names else 0


def numbered_rows(puts: list[Put], first_sequence: int) -> pa.Table:
    """The rows of a commit, sorted by group, stream and time; equal times keep the order of arrival."""
    puts = sorted(puts, key=lambda put: put.place)
    counts = [put.rows.num_rows for put in puts]
    rows = pa.concat_tables([put.rows for put in puts], promote_options="default").combine_chunks()
    streams = [(run.stream_id, run.rows) for put in puts for run in put.runs]
    ids = np.repeat(*(np.array(values, np.int32) for values in zip(*streams, strict=True)))
    for name, kind in (("ingestion_ms", np.int64), ("group_id", np.int32)):
        values = np.repeat(np.array([getattr(put, name) for put in puts], dtype=kind), counts)
        rows = rows.add_column(0, name, pa.array(values))
    rows = sorted_rows(without_empty(rows.add_column(1, "stream_id", pa.array(ids))))
    sequence = np.arange(first_sequence, first_sequence + rows.num_rows, dtype=np.int64)
    return rows.append_column("sequence", pa.array(sequence))


def merged_deltas(deltas: Iterable[StreamDelta]) -> list[StreamDelta]:
    """One delta a stream."""
    merged: dict[tuple[int, int], StreamDelta] = {}
    for delta in deltas:
        key = (delta.group_id, delta.stream_id)
        other = merged.get(key)
        if other is not None:
            delta = StreamDelta(
                *key,
                min(delta.first_ms, other.first_ms),
                max(delta.last_ms, other.last_ms),
                max(delta.ingestion_ms, other.ingestion_ms),
                delta.events + other.events,
                delta.bytes + other.bytes,
            )
        merged[key] = delta
    return list(merged.values())

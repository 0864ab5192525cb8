"""The committer: one thread that turns many callers' events into one transaction at a time.

Callers put batches into a queue bounded by bytes and wait on a future. The committer takes all that waits, up to a
size, writes it in one durable transaction and only then resolves the futures; meanwhile the next callers gather.
The same thread runs the upkeep between commits, because the catalog takes one writer.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vnotch.errors import HostError, InputError, LimitError, VnotchError
from vnotch.store.ducklake import Catalog, CommitUncertain

log = logging.getLogger(__name__)

EVENT_OVERHEAD_BYTES = 26
"""What each event counts beyond its message (CloudWatch Logs API reference, PutLogEvents)."""

PUT_SCHEMA = pa.schema([pa.field("timestamp_ms", pa.int64()), pa.field("message", pa.string())])
"""What a caller hands in: event times in Unix milliseconds, message texts."""

QUEUE_BYTES = 64 << 20
COMMIT_BYTES = 32 << 20
BATCH_KEYS = 2_000_000
"""How many batch keys are held in memory; beyond it the oldest are forgotten, and counted."""

BATCH_KEY_SECONDS = 48 * 3600


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


@dataclass
class Put:
    group_id: int
    stream_id: int
    events: pa.Table
    ingestion_ms: int
    key: bytes | None
    first_ms: int
    last_ms: int
    bytes: int
    future: Future[Appended] = field(default_factory=Future)

    def delta(self) -> StreamDelta:
        return StreamDelta(
            self.group_id,
            self.stream_id,
            self.first_ms,
            self.last_ms,
            self.ingestion_ms,
            self.events.num_rows,
            self.bytes,
        )


def batch_key(group_id: int, stream_id: int, batch_id: str, events: pa.Table) -> bytes:
    """The key under which a batch counts once, bound to its stream and to its content.

    A caller who repeats somebody else's id gets a key of its own, so that no id can suppress other data.
    """
    digest = hashlib.blake2b(f"{group_id} {stream_id} {len(batch_id)} {batch_id}".encode(), digest_size=16)
    digest.update(events["timestamp_ms"].to_numpy().tobytes())
    digest.update(pc.binary_length(events["message"]).to_numpy().tobytes())
    for chunk in events["message"].chunks:
        if len(chunk):
            offsets = np.frombuffer(chunk.buffers()[1], dtype=np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
            digest.update(memoryview(chunk.buffers()[2] or b"")[int(offsets[0]) : int(offsets[-1])])
    return digest.digest()


class BatchKeys:
    """The batch keys of the last two days, oldest first, bounded in number."""

    def __init__(self, limit: int = BATCH_KEYS) -> None:
        self._keys: OrderedDict[bytes, int] = OrderedDict()
        self._limit = limit
        self.forgotten = 0

    def __contains__(self, key: bytes) -> bool:
        return key in self._keys

    def add(self, keys: Iterable[bytes], committed_ms: int) -> None:
        for key in keys:
            self._keys[key] = committed_ms
        while len(self._keys) > self._limit:
            self._keys.popitem(last=False)
            self.forgotten += 1

    def drop_before(self, cutoff_ms: int) -> None:
        while self._keys and next(iter(self._keys.values())) < cutoff_ms:
            self._keys.popitem(last=False)

    def load(self, catalog: Catalog) -> None:
        rows = catalog.writer.execute("SELECT key, committed_ms FROM batches ORDER BY committed_ms").fetchall()
        self._keys = OrderedDict((bytes(key), committed_ms) for key, committed_ms in rows[-self._limit :])


OnCommit = Callable[[Sequence[StreamDelta], int], None]
"""Called after each commit with what it added and the last sequence number, before the callers hear."""


class Committer(threading.Thread):
    """See the module. `upkeep` is called between commits and must itself decide whether something is due."""

    def __init__(
        self,
        catalog: Catalog,
        counters: Counter[str],
        last_sequence: int,
        upkeep: Callable[[], None],
        queue_bytes: int = QUEUE_BYTES,
        commit_bytes: int = COMMIT_BYTES,
        idle_seconds: float = 1.0,
    ) -> None:
        super().__init__(name="lake-committer", daemon=True)
        self.catalog = catalog
        self.counters = counters
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
            if self._waiting_bytes and self._waiting_bytes + put.bytes > self._queue_bytes:
                self.counters["throttled_batches"] += 1
                self.counters["throttled_events"] += put.events.num_rows
                raise LakeFull("the log store's queue is full")
            self._waiting_bytes += put.bytes
            self._queue.append(put)
            self._wake.notify()

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
        while True:
            with self._wake:
                if not self._queue and not self._tasks and not self._closing:
                    self._wake.wait(self._idle_seconds)
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

    def _take(self) -> list[Put]:
        taken: list[Put] = []
        size = 0
        while self._queue and (not taken or size + self._queue[0].bytes <= self._commit_bytes):
            size += self._queue[0].bytes
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
                self._waiting_bytes -= sum(put.bytes for put in puts)
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
            if (put.group_id, None) in self._dead or (put.group_id, put.stream_id) in self._dead:
                answers.append(StreamGone("the group or stream was deleted"))
                continue
            duplicate = put.key is not None and (put.key in self.keys or put.key in keys)
            answers.append(Appended(put.events.num_rows, duplicate))
            if duplicate:
                self.counters["duplicate_batches"] += 1
                continue
            if put.key is not None:
                keys.add(put.key)
            fresh.append(put)
        if fresh:
            self._store(fresh, keys)
        return answers

    def _store(self, puts: list[Put], keys: set[bytes]) -> None:
        now_us = time.time_ns() // 1000
        # Sequence numbers start from the clock, so that they rise across restarts even when the newest rows are gone.
        first = max(self.sequence + 1, now_us)
        events = sorted_events(puts, first)
        with self.catalog.durable() as writer:
            writer.register("incoming", events)
            try:
                writer.execute("INSERT INTO events BY NAME SELECT * FROM incoming")
                if keys:
                    writer.register("incoming_keys", _key_table(keys, now_us // 1000))
                    writer.execute("INSERT INTO batches BY NAME SELECT * FROM incoming_keys")
            finally:
                writer.unregister("incoming")
                writer.unregister("incoming_keys")
        self.sequence = first + events.num_rows - 1
        self.keys.add(keys, now_us // 1000)
        self.counters["commits"] += 1
        self.counters["stored_batches"] += len(puts)
        self.counters["stored_events"] += events.num_rows
        self.counters["stored_bytes"] += sum(put.bytes for put in puts)
        if self.on_commit is not None:
            try:
                self.on_commit(merged_deltas(put.delta() for put in puts), self.sequence)
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


def _key_table(keys: set[bytes], committed_ms: int) -> pa.Table:
    return pa.table({"key": pa.array(list(keys), pa.binary()), "committed_ms": [committed_ms] * len(keys)})


def sorted_events(puts: list[Put], first_sequence: int) -> pa.Table:
    """The rows of a commit, sorted by group, stream and time; equal times keep the order of arrival."""
    puts = sorted(puts, key=lambda put: (put.group_id, put.stream_id, put.first_ms))
    table = pa.concat_tables([put.events for put in puts])
    counts = [put.events.num_rows for put in puts]
    group = np.repeat(np.array([put.group_id for put in puts], dtype=np.int32), counts)
    stream = np.repeat(np.array([put.stream_id for put in puts], dtype=np.int32), counts)
    ingestion = np.repeat(np.array([put.ingestion_ms for put in puts], dtype=np.int64), counts)
    table = (
        table.append_column("group_id", pa.array(group))
        .append_column("stream_id", pa.array(stream))
        .append_column("ingestion_ms", pa.array(ingestion))
    )
    time_ms = table["timestamp_ms"].to_numpy()
    same_stream = (group[1:] == group[:-1]) & (stream[1:] == stream[:-1])
    if bool(np.any(same_stream & (time_ms[1:] < time_ms[:-1]))):
        table = table.take(pa.array(np.lexsort((time_ms, stream, group))))
    sequence = np.arange(first_sequence, first_sequence + table.num_rows, dtype=np.int64)
    return table.append_column("sequence", pa.array(sequence))


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

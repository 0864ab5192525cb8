"""Queries that run: each on a thread of a small pool, bounded in number, time, memory and the size of its answer.

What was answered is kept as long as AWS keeps it (7 days), or until newer answers need the room. It is in memory: a
server that starts again has no queries.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

import pyarrow as pa

from vnotch.errors import HostError, LimitError
from vnotch.insights.calls import Asked
from vnotch.insights.compile import Compiled, compile_query
from vnotch.insights.events import Source
from vnotch.insights.malformed import MalformedQuery
from vnotch.insights.values import Kind, Sql, number_text

log = logging.getLogger(__name__)

THREADS = 4
UNFINISHED_MAX = 100
"""Queries that run or wait; AWS's quota of concurrent queries."""
QUERY_SECONDS_MAX = 3600.0
KEPT_SECONDS = 7 * 86_400
KEPT_QUERIES_MAX = 1000
KEPT_BYTES_MAX = 128_000_000
ANSWER_BYTES_MAX = 64_000_000
"""Of one answer. More than that is no answer but an export."""


_TRIES = 3


class Status(StrEnum):
    SCHEDULED = "Scheduled"
    RUNNING = "Running"
    COMPLETE = "Complete"
    FAILED = "Failed"
    CANCELLED = "Cancelled"
    TIMEOUT = "Timeout"

    @property
    def ended(self) -> bool:
        return self not in (Status.SCHEDULED, Status.RUNNING)


class Reading(Protocol):
    """A connection to the log store for one query (`store.reading.Reading`)."""

    def batches(self, sql: str, parameters: Sequence[Any] = ()) -> Any: ...

    def arrow(self, sql: str, parameters: Sequence[Any] = ()) -> pa.Table: ...

    def interrupt(self) -> None: ...

    def progress(self) -> float: ...


@dataclass(frozen=True)
class Question:
    """What was asked. `source` gives the events anew each time: formats may be added while a query waits. `again` says
    of an error that the statement must be made anew."""

    text: str
    groups: tuple[str, ...]
    asked: Asked
    limit: int
    principal_arn: str
    source: Callable[[], Source]
    bytes_per_event: float
    again: Callable[[Exception], bool] = lambda error: False


@dataclass
class Statistics:
    """`scanned_bytes` is the number of events times their mean size in these groups, which is exact where the query's
    time has all their events."""

    matched: int = 0
    scanned: int = 0
    scanned_bytes: float = 0.0


@dataclass
class Run:
    """One query. Its thread writes, others read; `answer` is set before the status says Complete."""

    id: str
    question: Question
    status: Status = Status.SCHEDULED
    begun_s: float = 0.0
    ended_s: float = 0.0
    answer: pa.Table | None = None
    compiled: Compiled | None = None
    statistics: Statistics = field(default_factory=Statistics)
    reading: Reading | None = None
    cancelled: bool = False
    reason: str = ""
    waiting: list[Future[None]] = field(default_factory=list)

    @property
    def duration_ms(self) -> int:
        if not self.begun_s:
            return 0
        return int(((self.ended_s or time.monotonic()) - self.begun_s) * 1000)

    @property
    def rows(self) -> int:
        return self.answer.num_rows if self.answer is not None else 0

    def page(self, first: int, count: int) -> list[list[dict[str, str]]]:
        """Rows as GetQueryResults gives them: field and value of what is not missing."""
        if self.answer is None or self.compiled is None:
            return []
        part = self.answer.slice(first, count)
        columns = [part.column(number).to_pylist() for number in range(part.num_columns)]
        found = []
        for row in zip(*columns, strict=True):
            cells = (
                (column.name, _shown(column.kind, row[column.place], column.other, row))
                for column in self.compiled.columns
            )
            found.append([{"field": name, "value": value} for name, value in cells if value is not None])
        return found


def _shown(kind: Kind, value: Any, other: int | None, row: Sequence[Any]) -> str | None:
    if value is None:
        return None if other is None else row[other]
    if kind is Kind.TIME:
        return time_text(value)
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, int | float):
        return number_text(value)
    return str(value)


def time_text(time_ms: int) -> str:
    """`2026-01-31 18:00:00.000`, UTC, as answers show times."""
    seconds, milliseconds = divmod(time_ms, 1000)
    moment = time.gmtime(seconds)
    return f"{moment.tm_year:04d}{time.strftime('-%m-%d %H:%M:%S', moment)}.{milliseconds:03d}"


class Queries:
    """All queries of a server. `open_reading(seconds)` gives a connection to the log store.

    `counters`: queries by their end, and answers that were dropped for room. `answered` hears of each query that has
    its answer, before the status says Complete.
    """

    def __init__(
        self,
        open_reading: Callable[[float], AbstractContextManager[Reading]],
        *,
        threads: int = THREADS,
        seconds_max: float = QUERY_SECONDS_MAX,
        kept_seconds: float = KEPT_SECONDS,
        kept_bytes_max: int = KEPT_BYTES_MAX,
        answer_bytes_max: int = ANSWER_BYTES_MAX,
        unfinished_max: int = UNFINISHED_MAX,
        answered: Callable[[Run], None] = lambda run: None,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._open_reading = open_reading
        self._seconds_max = seconds_max
        self._kept_seconds = kept_seconds
        self._kept_bytes_max = kept_bytes_max
        self._answer_bytes_max = answer_bytes_max
        self._unfinished_max = unfinished_max
        self._answered = answered
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="insights")
        self._runs: OrderedDict[str, Run] = OrderedDict()
        self._lock = threading.Lock()

    def start(self, question: Question) -> Run:
        """Raises MalformedQuery at once, and LimitError where too many queries run or wait."""
        compile_query(question.text, question.source(), question.asked, question.limit)
        run = Run(str(uuid.uuid4()), question)
        with self._lock:
            self._forget_old()
            if sum(not other.status.ended for other in self._runs.values()) >= self._unfinished_max:
                self.counters["refused"] += 1
                raise LimitError(f"{self._unfinished_max} queries run or wait already")
            self._runs[run.id] = run
            self._pool.submit(self._run, run)
        return run

    def get(self, query_id: str) -> Run | None:
        with self._lock:
            self._forget_old()
            return self._runs.get(query_id)

    def end_of(self, run: Run) -> Future[None]:
        """A future that is done when the query has ended; who waits no more cancels it."""
        future: Future[None] = Future()
        with self._lock:
            run.waiting = [other for other in run.waiting if not other.cancelled()]
            if run.status.ended:
                future.set_result(None)
            else:
                run.waiting.append(future)
        return future

    def stop(self, run: Run) -> bool:
        """False where it has ended already."""
        with self._lock:
            if run.status.ended:
                return False
            run.cancelled = True
            if run.status is Status.SCHEDULED:
                self._end(run, Status.CANCELLED)
            # Under the lock: the thread takes the reading back under it before it closes it.
            if run.reading is not None:
                run.reading.interrupt()
        return True

    def all(self) -> list[Run]:
        """Newest first."""
        with self._lock:
            self._forget_old()
            return list(reversed(self._runs.values()))

    def progress(self, run: Run) -> float:
        """The part that is done, 0 to 1, as far as it is known."""
        reading = run.reading
        if run.status is Status.COMPLETE:
            return 1.0
        return max(0.0, reading.progress()) / 100 if reading is not None else 0.0

    def close(self) -> None:
        """Stops what runs."""
        for run in self.all():
            self.stop(run)
        self._pool.shutdown(wait=True, cancel_futures=True)

    # The thread of a query

    def _run(self, run: Run) -> None:
        with self._lock:
            if run.status.ended:
                return
            run.status, run.begun_s = Status.RUNNING, time.monotonic()
        try:
            self._ask(run)
            self._tell(run)
            status = Status.COMPLETE
        except (HostError, LimitError, MalformedQuery) as error:
            run.reason = str(error)
            late = time.monotonic() - run.begun_s >= self._seconds_max
            status = Status.CANCELLED if run.cancelled else Status.TIMEOUT if late else Status.FAILED
        except Exception as error:  # a thread of a pool has nobody above it
            run.reason = str(error)
            status = Status.FAILED
            log.exception("query %s failed", run.id)
        with self._lock:
            self._end(run, status)
            self._make_room()
        if status in (Status.FAILED, Status.TIMEOUT):
            log.warning("query %s: %s: %s", run.id, status, run.reason)

    def _tell(self, run: Run) -> None:
        try:
            self._answered(run)
        except Exception as error:  # the answer is there all the same
            log.warning("query %s is missing in the usage: %s", run.id, error)

    def _end(self, run: Run, status: Status) -> None:
        run.ended_s = time.monotonic()
        run.status = status
        self.counters[status.lower()] += 1
        for future in run.waiting:
            if future.set_running_or_notify_cancel():
                future.set_result(None)
        run.waiting = []

    def _ask(self, run: Run) -> None:
        with self._open_reading(self._seconds_max) as reading:
            with self._lock:
                run.reading = reading
                if run.cancelled:
                    reading.interrupt()
            try:
                for last in (False,) * (_TRIES - 1) + (True,):
                    try:
                        return self._answer(run, reading)
                    except HostError as error:
                        if last or run.cancelled or not run.question.again(error):
                            raise
            finally:
                with self._lock:
                    run.reading = None

    def _answer(self, run: Run, reading: Reading) -> None:
        question = run.question
        compiled = compile_query(question.text, question.source(), question.asked, question.limit)
        answer = self._rows(reading, compiled)
        self._count(run, reading, compiled, answer)
        run.compiled, run.answer = compiled, answer

    def _rows(self, reading: Reading, compiled: Compiled) -> pa.Table:
        batches: list[pa.RecordBatch] = []
        size = 0
        for batch in reading.batches(compiled.statement.text, compiled.statement.parameters):
            batches.append(batch)
            size += batch.nbytes
            if size > self._answer_bytes_max:
                raise LimitError(
                    f"the answer has more than {self._answer_bytes_max // 1_000_000} MB", "fewer rows, by limit"
                )
        return pa.Table.from_batches(batches) if batches else pa.table({})

    def _count(self, run: Run, reading: Reading, compiled: Compiled, answer: pa.Table) -> None:
        """recordsMatched and recordsScanned. They are one number where the query filters nothing."""
        statistics = run.statistics
        matched: int | None = None
        if compiled.matched_place is not None and answer.num_rows:
            matched = int(answer.column(compiled.matched_place)[0].as_py())
        elif compiled.matched_place is not None:
            matched = 0
        elif compiled.matched is not None:
            matched = _only(reading, compiled.matched)
        exact = matched if compiled.matches_all and answer.num_rows else None
        statistics.scanned = _only(reading, compiled.scanned) if exact is None else exact
        statistics.matched = statistics.scanned if matched is None else matched
        statistics.scanned_bytes = float(round(statistics.scanned * run.question.bytes_per_event))

    # What is kept; under the lock

    def _forget_old(self) -> None:
        before = time.monotonic() - self._kept_seconds
        for run in [run for run in self._runs.values() if run.status.ended and run.ended_s < before]:
            del self._runs[run.id]
        ended = [run for run in self._runs.values() if run.status.ended]
        for run in ended[: max(0, len(self._runs) - KEPT_QUERIES_MAX)]:
            self.counters["forgotten"] += 1
            del self._runs[run.id]

    def _make_room(self) -> None:
        """The oldest answers go first; a query whose answer is gone is gone."""
        size = sum(run.answer.nbytes for run in self._runs.values() if run.answer is not None)
        for run in list(self._runs.values())[:-1]:
            if size <= self._kept_bytes_max:
                return
            if run.answer is not None:
                size -= run.answer.nbytes
                self.counters["forgotten"] += 1
                del self._runs[run.id]


def _only(reading: Reading, statement: Sql) -> int:
    return int(reading.arrow(statement.text, statement.parameters).column(0)[0].as_py())

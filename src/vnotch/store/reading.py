"""Questions to the log store: statements on connections of their own, bounded in time and number.

DuckDB bounds the memory of all connections together and spills what does not fit to disk; a statement that needs more
than that fails by itself and takes nothing with it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import duckdb
import pyarrow as pa

from vnotch.errors import HostError
from vnotch.store.ducklake import Catalog

QUERY_SECONDS_MAX = 60.0
READINGS_MAX = 16
READING_WAIT_SECONDS = 5.0
BATCH_ROWS = 65_536

_BETWEEN_SNAPSHOTS = "No snapshot found"
"""What DuckLake says to a statement that begins in the very moment in which old snapshots expire; the next is right."""
_TRIES = 5
_AGAIN_SECONDS = 0.02

T = TypeVar("T")


class QueryFailed(HostError):
    """The store could not answer: out of its memory bound or its time, or a file could not be read."""


class QueryInterrupted(QueryFailed):
    """Someone stopped the query."""


class Reading:
    """A reading connection, used by one thread at a time; `interrupt` and `progress` are for others."""

    def __init__(self, cursor: Any, seconds: float) -> None:
        self._cursor = cursor
        self._seconds = seconds
        self._interrupted = False

    def arrow(self, sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
        """The whole answer. Raises QueryFailed, QueryInterrupted."""
        with self._bounded():
            table: pa.Table = self._execute(sql, parameters, lambda answer: answer.to_arrow_table())
            return table

    def batches(self, sql: str, parameters: Sequence[Any] = ()) -> Iterator[pa.RecordBatch]:
        """The answer piece by piece, so that a large one needs no memory. Raises as `arrow` does, at any piece."""
        with self._bounded():
            yield from self._execute(sql, parameters, lambda answer: answer.to_arrow_reader(BATCH_ROWS))

    def interrupt(self) -> None:
        """Ends what runs and refuses what comes."""
        self._interrupted = True
        self._cursor.interrupt()

    def progress(self) -> float:
        """Percent of what runs, -1 where that is not known."""
        with suppress(duckdb.Error):
            return float(self._cursor.query_progress())
        return -1.0

    def close(self) -> None:
        self._cursor.close()

    def _execute(self, sql: str, parameters: Sequence[Any], read: Callable[[Any], T]) -> T:
        if self._interrupted:
            raise duckdb.InterruptException("interrupted")
        for last in (False,) * (_TRIES - 1) + (True,):
            try:
                return read(self._cursor.execute(sql, list(parameters)))
            except duckdb.InvalidInputException as error:
                if last or _BETWEEN_SNAPSHOTS not in str(error):
                    raise
                time.sleep(_AGAIN_SECONDS)
        raise AssertionError("the last try returns or raises")

    @contextmanager
    def _bounded(self) -> Iterator[None]:
        watchdog = threading.Timer(self._seconds, self._cursor.interrupt)
        watchdog.daemon = True
        watchdog.start()
        try:
            yield
        except duckdb.InterruptException as error:
            if self._interrupted:
                raise QueryInterrupted("the query was stopped") from error
            raise QueryFailed(f"the log store did not answer within {self._seconds:g} s") from error
        except duckdb.Error as error:
            raise QueryFailed(f"the log store could not answer: {error}") from error
        finally:
            watchdog.cancel()


class Readings:
    """Gives out reading connections."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._local = threading.local()
        self._free = threading.Semaphore(READINGS_MAX)
        self._begun: dict[int, float] = {}

    def of_thread(self) -> Reading:
        """This thread's own, for short questions."""
        reading: Reading | None = getattr(self._local, "reading", None)
        if reading is None:
            reading = self._local.reading = Reading(self._catalog.reader(), QUERY_SECONDS_MAX)
        return reading

    def oldest_seconds(self) -> float:
        """For how long the oldest of the long questions has been asked; 0 where none is."""
        begun = list(self._begun.copy().values())
        return time.monotonic() - min(begun) if begun else 0.0

    @contextmanager
    def open(self, seconds: float | None = None) -> Iterator[Reading]:
        if not self._free.acquire(timeout=READING_WAIT_SECONDS):
            raise QueryFailed(f"{READINGS_MAX} questions are being answered already", "ask again in a moment")
        try:
            reading = Reading(self._catalog.reader(), QUERY_SECONDS_MAX if seconds is None else seconds)
            self._begun[id(reading)] = time.monotonic()
            try:
                yield reading
            finally:
                del self._begun[id(reading)]
                reading.close()
        finally:
            self._free.release()

"""Text files as a table that DuckDB scans: only the columns and rows that a question needs leave the parser.

DuckDB takes a `pyarrow.dataset.Dataset` and calls its `scanner(columns, filter)` for each scan, which is how other
formats offer themselves to it too. Files are inflated and parsed by threads of ours (both release Python's lock) and
handed on through a bounded queue.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset

from vnotch.bucket_keys import parse_name
from vnotch.query.columns import column_type
from vnotch.query.files import LogFile
from vnotch.query.period import Period
from vnotch.query.problems import Problem, Problems
from vnotch.query.progress import Progress
from vnotch.query.text import TextFormat, TextReader

REMOTE_READERS = 16
_QUEUE_TABLES_PER_READER = 2
_WAIT_SECONDS = 0.1
_JOIN_SECONDS = 2.0


class TextTable(pyarrow.dataset.Dataset):  # type: ignore[misc]
    """All text files as one table of `columns`."""

    def __init__(
        self,
        files: Sequence[LogFile],
        columns: Sequence[str],
        given: TextFormat | None,
        period: Period,
        problems: Problems,
        progress: Progress,
        threads: int,
    ) -> None:
        self._files = files
        self._names = list(columns)
        self._given = given
        self._period = period
        self._problems = problems
        self._progress = progress
        remote = any(file.place.remote for file in files)
        self._readers = max(1, min(len(files), REMOTE_READERS if remote else threads))
        self._scans: list[_Scan] = []
        self.failure: BaseException | None = None
        """A mistake of ours in a reading thread, which DuckDB would tell as text alone."""

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([pa.field(name, column_type(name)) for name in self._names])

    def scanner(self, columns: Sequence[str] | None = None, filter: Any = None, **_: Any) -> _Scan:
        """One scan: DuckDB asks for the columns it needs and gives the conditions it has pushed down."""
        scan = _Scan(self, list(self._names if columns is None else columns), filter)
        self._scans.append(scan)
        return scan

    def stop(self) -> None:
        """Ends all scans and waits for their threads, as long as a block or a broken connection may take."""
        for scan in self._scans:
            scan.stop()

    def read(self, file: LogFile, columns: Sequence[str], wanted: pc.Expression | None) -> Iterator[pa.Table]:
        """The rows of one file that DuckDB wants."""
        # The names that a condition has are not to be had but from its text; a column too many does no harm.
        text = "" if wanted is None else str(wanted)
        asked = [name for name in self._names if name in text]
        needed = list(dict.fromkeys([*columns, *asked, *self._period_columns]))
        condition = None if wanted is None else (asked, wanted)
        reader = TextReader(file, needed, frozenset(self._names), self._given, self._problems, condition)
        rows = 0
        for table, format in reader.tables(self._counted(file)):
            if not self._period.is_open:
                dated = self._in_period(file, table, format)
                if dated is None:
                    self._problems.add(Problem.UNDATED, file.name)
                    return
                table = dated
            self._progress.add_rows(reader.rows - rows)
            rows = reader.rows
            if wanted is not None:
                table = table.filter(wanted)
            if table.num_rows:
                yield table.select(columns)

    @property
    def _period_columns(self) -> tuple[str, ...]:
        return () if self._period.is_open else tuple(name for name in ("end", "start") if name in self._names)

    def _in_period(self, file: LogFile, table: pa.Table, format: TextFormat) -> pa.Table | None:
        """The rows that end in the period; a format without times leaves its file's name to decide, which it has."""
        column = next((name for name in ("end", "start") if name in format.columns), None)
        if column is None:
            name = parse_name(file.key)
            if name is None:
                return None
            return table if self._period.has_slot(name.slot_s) else table.slice(0, 0)
        return table.filter(period_condition(self._period, column))

    def _counted(self, file: LogFile) -> Iterator[bytes]:
        for chunk in file.place.chunks(file.key):
            self._progress.add_bytes(len(chunk))
            yield chunk


def period_condition(period: Period, column: str) -> pc.Expression:
    conditions = []
    if period.begin_s is not None:
        conditions.append(pc.field(column) >= period.begin_s)
    if period.end_s is not None:
        conditions.append(pc.field(column) < period.end_s)
    return conditions[0] if len(conditions) == 1 else conditions[0] & conditions[1]


class _Scan:
    """What DuckDB asks a scanner for: a reader of record batches."""

    def __init__(self, table: TextTable, columns: list[str], wanted: pc.Expression | None) -> None:
        self._table = table
        self._columns = columns
        self._wanted = wanted
        self._stop = threading.Event()
        self._waiting = iter(table._files)
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._queue: queue.Queue[pa.Table | BaseException | None] = queue.Queue(
            table._readers * _QUEUE_TABLES_PER_READER
        )

    def to_reader(self) -> pa.RecordBatchReader:
        schema = pa.schema([pa.field(name, column_type(name)) for name in self._columns])
        return pa.RecordBatchReader.from_batches(schema, self._batches())

    def _batches(self) -> Iterator[pa.RecordBatch]:
        self._threads = [
            threading.Thread(target=self._run, name=f"vnotch-read-{number}", daemon=True)
            for number in range(self._table._readers)
        ]
        for reader in self._threads:
            reader.start()
        left = len(self._threads)
        try:
            while left:
                item = self._queue.get()
                if item is None:
                    left -= 1
                elif isinstance(item, BaseException):
                    self._table.failure = item
                    raise item
                else:
                    yield from item.to_batches()
        finally:
            # DuckDB has enough, as with LIMIT, or was interrupted.
            self._stop.set()

    def stop(self) -> None:
        self._stop.set()
        for reader in self._threads:
            reader.join(_JOIN_SECONDS)

    def _run(self) -> None:
        """A reading thread: takes one file after another."""
        try:
            while not self._stop.is_set():
                with self._lock:
                    file = next(self._waiting, None)
                if file is None:
                    break
                for table in self._table.read(file, self._columns, self._wanted):
                    if not self._put(table):
                        return
            self._put(None)
        except BaseException as error:  # handed to the thread that waits for us
            self._put(error)

    def _put(self, item: pa.Table | BaseException | None) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=_WAIT_SECONDS)
                return True
            except queue.Full:
                continue
        return False

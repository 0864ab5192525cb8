"""DuckDB over the table `flow_logs`, closed to everything else, and answers that come batch by batch.

Before the first statement of a user runs, DuckDB may read the files of the question and no other (`allowed_paths` with
`enable_external_access` off), its settings are locked, and Python's variables are out of its sight.
"""

from __future__ import annotations

import os
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from vnotch.errors import HostError, InputError, LimitError, VnotchError
from vnotch.interrupts import check, uninterrupted
from vnotch.query.columns import COLUMN_TYPES
from vnotch.query.files import FileProblem, LogFile
from vnotch.query.functions import add_functions
from vnotch.query.parquet import Footer, literal, parquet_selects, quoted
from vnotch.query.period import Period
from vnotch.query.problems import Problem, Problems
from vnotch.query.progress import Progress
from vnotch.query.sandbox import check_statement, first_lines
from vnotch.query.table import Table
from vnotch.temporary_folder import TemporaryFolder

if TYPE_CHECKING:
    from vnotch.query.labels import Labels
    from vnotch.query.text import TextFormat
    from vnotch.query.text_table import TextTable

ROWS_PER_BATCH = 65_536
DAMAGED_MAX = 100
"""Parquet files that turn out to be damaged only when they are read. Each begins the question anew without it."""
SPILL_BYTES_MAX = 20_000_000_000
_QUEUE_BATCHES = 4
_TICK_SECONDS = 0.1

_PLAIN_KEY = re.compile(r"[A-Za-z0-9/_=.+:@,~ -]*")
_OWN_ERROR = re.compile(r"InputError: (.*?) At: ")
_MISSING_COLUMN = re.compile(r'(?:column|Referenced column) "([^"]+)" not found')


_OF_THE_STATEMENT = (
    duckdb.ParserException, duckdb.BinderException, duckdb.CatalogException, duckdb.ConversionException,
    duckdb.InterruptException, duckdb.OutOfMemoryException, duckdb.OutOfRangeException, duckdb.PermissionException,
)  # fmt: skip
"""Errors that no file can be the cause of."""


@dataclass(frozen=True)
class Settings:
    """Bounds of one question. `memory_bytes` is what DuckDB may use before it spills to disk."""

    memory_bytes: int
    threads: int
    timeout_seconds: float | None = None


def available_threads() -> int:
    return len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Answer:
    """The columns of an answer and its rows as they come. Rows must be taken to the end or `Engine.close` be called."""

    schema: pa.Schema
    batches: Iterator[pa.RecordBatch]


class Engine:
    """One table, opened for questions. `close` removes its temporary folder."""

    def __init__(
        self,
        table: Table,
        period: Period,
        given: TextFormat | None,
        labels: Labels | None,
        settings: Settings,
        problems: Problems,
        progress: Progress,
    ) -> None:
        self._table = table
        self._period = period
        self._given = given
        self._labels = labels
        self._settings = settings
        self._problems = problems
        self._progress = progress
        self._made = TemporaryFolder("vnotch-query-")
        self._folder = self._made.path
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._text: TextTable | None = None
        self._paths: dict[str, LogFile] = {}
        self._substitutes: dict[str, int] = {}
        self._stopping = threading.Event()
        self._runner: threading.Thread | None = None
        self._parquet_bytes = sum(file.size for file, _ in table.parquet)

    def close(self) -> None:
        """Ends a question that still runs."""
        self._stopping.set()
        while self._runner is not None and self._runner.is_alive():
            if self._connection is not None:
                self._connection.interrupt()
            self._runner.join(_TICK_SECONDS)
        if self._text is not None:
            self._text.stop()
        if self._connection is not None:
            self._connection.close()
        self._made.cleanup()

    def ask(
        self, sql: str, parameters: Mapping[str, Any] | None = None, waiting: Callable[[], None] | None = None
    ) -> Answer:
        """Runs one question; `waiting` is called now and then until it is answered.

        Parameters stand in the statement as `$name` and are bound, never pasted. Raises InputError for what is no
        question or reads anything but the table, LimitError where time or memory were not enough.
        """
        results: queue.Queue[Any] = queue.Queue(_QUEUE_BATCHES)
        self._runner = threading.Thread(
            target=self._run, args=(sql, parameters, results), name="vnotch-ask", daemon=True
        )
        deadline = None
        if self._settings.timeout_seconds is not None:
            deadline = time.monotonic() + self._settings.timeout_seconds
        with uninterrupted():  # else it may run without being known to
            self._runner.start()
        items = self._items(results, deadline, waiting)
        schema = next(items)
        return Answer(schema, items)

    def _items(
        self, results: queue.Queue[Any], deadline: float | None, waiting: Callable[[], None] | None
    ) -> Iterator[Any]:
        """The schema, then batches, from the thread that runs the question."""
        try:
            while True:
                try:
                    item = results.get(timeout=_TICK_SECONDS)
                except queue.Empty:
                    item = self
                check()
                if deadline is not None and time.monotonic() > deadline:
                    raise LimitError(
                        f"no answer within {self._settings.timeout_seconds:g} s", "a longer --timeout, or fewer files"
                    )
                if waiting is not None:
                    self._progress_of_duckdb()
                    waiting()
                if item is None:
                    return
                if isinstance(item, BaseException):
                    raise item
                if item is not self:
                    yield item
        except BaseException:
            self._stopping.set()
            if self._connection is not None:
                with suppress(duckdb.Error):  # it may be closed already
                    self._connection.interrupt()
            raise

    def _progress_of_duckdb(self) -> None:
        """What DuckDB itself reads is known as a part of the whole; beside text it hardly counts."""
        if self._parquet_bytes and not self._table.text and self._connection is not None:
            with suppress(duckdb.Error):
                part = float(self._connection.query_progress()) / 100
                if part > 0:  # below it when nothing runs, at the end too
                    self._progress.bytes_done = int(part * self._parquet_bytes)
                    self._progress.rows = int(part * sum(footer.rows for _, footer in self._table.parquet))

    def _run(self, sql: str, parameters: Mapping[str, Any] | None, results: queue.Queue[Any]) -> None:
        """The thread that runs the question: the schema, the batches, None; or an exception."""
        try:
            reader, first = self._begin(sql, parameters)
            self._put(results, reader.schema)
            while first is not None:
                self._put(results, first)
                first = next(reader, None)
            self._put(results, None)
        except duckdb.Error as error:
            self._put(results, self._explained(error))
        except BaseException as error:  # handed to the thread that waits
            self._put(results, error)

    def _put(self, results: queue.Queue[Any], item: Any) -> None:
        while not self._stopping.is_set():
            with suppress(queue.Full):
                results.put(item, timeout=_TICK_SECONDS)
                return

    def _begin(self, sql: str, parameters: Mapping[str, Any] | None) -> tuple[Any, pa.RecordBatch | None]:
        """-> (reader, its first batch). A Parquet file that turns out to be damaged is left out, and all begins anew:
        no row has been given yet."""
        for _ in range(DAMAGED_MAX):
            connection = self._connect()
            check_statement(connection, sql)
            try:
                result = connection.execute(sql, dict(parameters)) if parameters else connection.execute(sql)
                reader = result.to_arrow_reader(ROWS_PER_BATCH)
                return reader, next(reader, None)
            except (duckdb.Error, pa.ArrowException, OSError) as error:
                if self._text is not None and self._text.failure is not None:
                    raise self._text.failure from None
                damaged = self._damaged(connection, error)
                if not damaged:
                    raise
                for file, kind, text in damaged:
                    self._problems.add(kind, file.name, sample=text)
                left = {file.name for file, _, _ in damaged}
                self._table.parquet = [item for item in self._table.parquet if item[0].name not in left]
        raise LimitError(f"more than {DAMAGED_MAX} damaged Parquet files")

    def _damaged(self, connection: duckdb.DuckDBPyConnection, error: Exception) -> list[tuple[LogFile, Problem, str]]:
        """The Parquet files that an error came from, each with what is wrong.

        DuckDB names the file in few of its errors, so where it does not, each file is read by itself.
        """
        message = str(error)
        if isinstance(error, _OF_THE_STATEMENT) or self._stopping.is_set() or _OWN_ERROR.search(message):
            return []
        for path in sorted(self._paths, key=len, reverse=True):
            if path in message:
                return [(self._paths[path], _kind(message), message.partition("\n")[0])]
        self._progress.doing = "looking for a damaged file"
        damaged = []
        for path, file in self._paths.items():
            try:
                connection.execute(f"SELECT bit_xor(hash(COLUMNS(*))) FROM read_parquet([{literal(path)}])").fetchall()
            except duckdb.Error as found:
                if self._stopping.is_set():
                    return []
                damaged.append((file, _kind(str(found)), str(found).partition("\n")[0]))
        return damaged

    def _connect(self) -> duckdb.DuckDBPyConnection:
        """A connection that has the table and can do nothing but read it."""
        if self._text is not None:
            self._text.stop()
        if self._connection is not None:
            self._connection.close()
        connection = duckdb.connect(
            ":memory:",
            config={
                "allow_persistent_secrets": "false",  # the user's own for DuckDB, which say nothing of this question
                "autoinstall_known_extensions": "false",
                "autoload_known_extensions": "false",
                "max_temp_directory_size": f"{SPILL_BYTES_MAX // 1_000_000}MB",
                "memory_limit": f"{self._settings.memory_bytes // 1_000_000}MB",
                "preserve_insertion_order": "false",
                "python_enable_replacements": "false",
                "temp_directory": str(self._folder / "spill"),
                "threads": str(self._settings.threads),
            },
        )
        self._connection = connection
        self._open_buckets(connection)
        add_functions(connection, self._labels)
        selects = self._selects(connection)
        connection.execute(f"CREATE VIEW flow_logs AS {' UNION ALL '.join(selects)}")
        allowed = ", ".join(literal(path) for path in self._paths)
        connection.execute(f"SET allowed_paths = [{allowed}]")
        # It is asked for by `query_progress`, and known only where a bar would be shown.
        connection.execute("SET enable_progress_bar = true")
        connection.execute("SET enable_progress_bar_print = false")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        return connection

    def _selects(self, connection: duckdb.DuckDBPyConnection) -> list[str]:
        table = self._table
        self._paths = {self._path(file): file for file, _ in table.parquet}
        footers: dict[str, Footer] = {self._path(file): footer for file, footer in table.parquet}
        selects = parquet_selects(list(footers.items()), table.columns, self._period)
        if table.text:
            from vnotch.query.text_table import TextTable

            self._text = TextTable(
                table.text,
                table.text_columns,
                self._given,
                self._period,
                self._problems,
                self._progress,
                self._settings.threads,
            )
            connection.register("text_files", self._text)
            values = [
                f"{quoted(name) if name in table.text_columns else 'NULL'}::{type_} AS {quoted(name)}"
                for name, type_ in table.columns.items()
            ]
            selects.append(f"SELECT {', '.join(values)} FROM text_files")
        if not selects:
            values = [f"NULL::{type_} AS {quoted(name)}" for name, type_ in table.columns.items()]
            selects.append(f"SELECT {', '.join(values)} WHERE false")
        return selects

    def _path(self, file: LogFile) -> str:
        """The path by which DuckDB reads a Parquet file.

        DuckDB takes `*`, `?` and `[` for patterns and its S3 client has its own mind on `%`, `..` and letters beyond
        ASCII. A local file of such a name gets a link, and an object of such a key a copy, in the temporary folder.
        """
        key = file.key if file.place.remote else os.path.abspath(file.key)
        if _PLAIN_KEY.fullmatch(key) and not {"", ".", ".."} & set(key.strip("/").split("/")):
            return file.name if file.place.remote else key
        substitute = self._folder / f"{self._substitutes.setdefault(file.name, len(self._substitutes))}.parquet"
        if not os.path.lexists(substitute):
            if file.place.remote:
                _copy(file, substitute)
            else:
                substitute.symlink_to(key)
        return str(substitute)

    def _open_buckets(self, connection: duckdb.DuckDBPyConnection) -> None:
        if not any(file.place.remote for file, _ in self._table.parquet):
            return
        from vnotch.query.bucket import Bucket
        from vnotch.store.ducklake import extension_path

        buckets = {id(file.place): file.place for file, _ in self._table.parquet if isinstance(file.place, Bucket)}
        connection.execute(f"LOAD {literal(str(extension_path('httpfs')))}")
        for bucket in buckets.values():
            statement, values, settings = bucket.duckdb_secret()
            for name, value in settings.items():
                connection.execute(f"SET {name} = {literal(value)}")
            connection.execute(statement, values)

    def _explained(self, error: duckdb.Error) -> VnotchError:
        """DuckDB's errors in our tree."""
        text = first_lines(error)
        if match := _OWN_ERROR.search(text):  # of a function of ours in the statement
            return InputError(match[1])
        if isinstance(error, duckdb.InterruptException):
            return LimitError("the question was stopped")
        if isinstance(error, duckdb.OutOfMemoryException):
            text = text.partition(" Possible solutions")[0]  # settings, which are locked
            return LimitError(text, "more with --memory, or a question over a shorter time")
        if isinstance(error, duckdb.PermissionException):
            return InputError(text, "a question reads the table flow_logs and no other file")
        if isinstance(error, duckdb.HTTPException | duckdb.IOException):
            return HostError(text)
        match = _MISSING_COLUMN.search(text)
        if match and match[1].lower() in COLUMN_TYPES and match[1].lower() not in self._table.columns:
            has = ", ".join(self._table.columns)
            return InputError(f"the format of these flow logs has no {match[1].replace('_', '-')}", f"they have: {has}")
        return InputError(text)


def _kind(message: str) -> Problem:
    denied = "403" in message or "Permission denied" in message
    return Problem.DENIED if denied else Problem.DAMAGED_PARQUET


def _copy(file: LogFile, path: Path) -> None:
    try:
        with path.open("wb") as out:
            for chunk in file.place.chunks(file.key):
                out.write(chunk)
    except FileProblem as problem:
        path.unlink(missing_ok=True)
        raise HostError(f"{file.name}: {problem.problem}") from None
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}") from None

"""The DuckLake catalog: how it is opened, and the one way to write to it so that written means on disk.

DuckLake keeps rows in Parquet files under `data/` and the list of those files in an SQLite database, the catalog.
SQLite syncs what it commits; DuckLake does not sync the Parquet files, so after a power cut the catalog could name
files that are empty. `Catalog.durable()` therefore syncs every new file, then its folder, and only then commits.

SQLite takes one writer at a time and a second one fails at once ("database is locked"), so there is one writing
connection, used by one thread. Readers have connections of their own; with the catalog in WAL mode neither waits for
the other.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import duckdb

from vnotch.errors import HostError

EXTENSIONS = ("sqlite_scanner", "ducklake")
BUSY_TIMEOUT_MS = 10_000
WAL_BYTES_MAX = 16_000_000


def extension_path(name: str) -> Path:
    """The extension file that the wheel `duckdb-extension-NAME` carries for this release of DuckDB."""
    package = importlib.util.find_spec(f"duckdb_extension_{name}")
    if package is None or package.origin is None:
        raise HostError(f"the DuckDB extension {name} is not installed", f"pip install duckdb-extension-{name}")
    found = Path(package.origin).parent / "extensions" / f"v{duckdb.__version__}" / f"{name}.duckdb_extension"
    if not found.exists():
        raise HostError(
            f"the installed duckdb-extension-{name} is not for DuckDB {duckdb.__version__}",
            f"pip install duckdb-extension-{name}=={duckdb.__version__}",
        )
    return found


def sync_path(path: Path) -> None:
    """fsync of a file or a folder. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class CommitUncertain(HostError):
    """COMMIT itself failed: whether the transaction took effect must be read from the catalog."""


class Catalog:
    """The open catalog in `folder`. One process at a time, held by a lock on the folder.

    Two DuckDB have it attached. All readers together have `memory_bytes` and `threads`; the writer and the upkeep have
    one of their own with half of the memory and one thread, because a commit is many small statements, which take twice
    as long where DuckDB hands them from thread to thread. What does not fit in memory is spilled to `folder/temp`.
    """

    def __init__(self, folder: Path, memory_bytes: int, threads: int) -> None:
        self.folder = folder
        self.data = folder / "data"
        self._lock = _lock(folder)
        self._known: set[Path] = set()
        shutil.rmtree(folder / "temp", ignore_errors=True)
        self.data.mkdir(exist_ok=True, mode=0o700)
        self._writing = self._database("writing", memory_bytes // 2, 1)
        self._reading = self._database("reading", memory_bytes, threads)
        self.writer = self._cursor(self._writing)
        self._keeper: Any = None

    def _database(self, use: str, memory_bytes: int, threads: int) -> Any:
        """A DuckDB with the catalog attached."""
        database = duckdb.connect(
            ":memory:",
            config={
                "autoinstall_known_extensions": "false",
                "autoload_known_extensions": "false",
                # Both extensions were installed by pip, as DuckDB itself was. Checking DuckDB's own signatures on top
                # means hashing their 70 MB, at each start of a server: 0.25 s.
                "allow_unsigned_extensions": "true",
                "memory_limit": f"{memory_bytes // 1_000_000}MB",
                "temp_directory": str(self.folder / "temp" / use),
                "threads": str(threads),
            },
        )
        for name in EXTENSIONS:
            database.execute(f"LOAD '{extension_path(name)}'")
        # The catalog names its files within the folder that it was made in; they are where it is now.
        # A DuckLake commit is small statements on the SQLite catalog; META_ options go to that database.
        database.execute(
            f"ATTACH 'ducklake:sqlite:{_quoted(self.folder / 'catalog.sqlite')}' AS lake "
            f"(DATA_PATH '{_quoted(self.data)}/', OVERRIDE_DATA_PATH true, META_JOURNAL_MODE 'WAL', "
            f"META_BUSY_TIMEOUT {BUSY_TIMEOUT_MS})"
        )
        return database

    @staticmethod
    def _cursor(database: Any) -> Any:
        cursor = database.cursor()
        cursor.execute("USE lake")
        return cursor

    def folder_of(self, table: str) -> Path:
        """Where DuckLake has a table's files."""
        return self.data / "main" / table

    def remember_files(self) -> None:
        """Takes the files that are there now as safe: call after opening, when orphans have been removed."""
        for directory in _directories(self.data):
            sync_path(directory)
        sync_path(self.folder)
        self._known = set(self._files())

    def reader(self) -> Any:
        """A new reading connection; it sees what is committed when its statement begins."""
        return self._cursor(self._reading)

    @contextmanager
    def durable(self) -> Iterator[Any]:
        """A transaction of the writing connection whose files are on disk before it commits.

        Raises what the statements raise, OSError where a file cannot be synced (nothing is changed in both cases),
        and CommitUncertain where COMMIT itself failed.
        """
        self.writer.execute("BEGIN")
        try:
            yield self.writer
            new = self._sync_new_files()
        except BaseException:
            self._rollback()
            self._remove_unknown()
            raise
        try:
            self.writer.execute("COMMIT")
        except BaseException as error:
            self._rollback()
            # The catalog may name the new files: they must not be taken for leftovers of a later failure.
            self._known = set(self._files())
            raise CommitUncertain(f"the catalog could not commit: {error}") from error
        self._known |= new
        self._keep_open()

    def _keep_open(self) -> None:
        """Holds one transaction on the catalog, of the newest commit. SQLite removes the files of its write-ahead log
        with the last connection, and on a full disk nobody could make them anew: not even to read.

        The log cannot begin anew while it is held; where it is long, it is let go first.
        """
        if self._keeper is not None and _size(self.folder / "catalog.sqlite-wal") > WAL_BYTES_MAX:
            self._keeper.close()
            self._keeper = None
        with suppress(duckdb.Error):  # the commit is done; the one of before stays
            keeper = self._writing.cursor()
            keeper.execute("BEGIN")
            keeper.execute("SELECT count(*) FROM __ducklake_metadata_lake.ducklake_snapshot").fetchall()
            if self._keeper is not None:
                self._keeper.close()
            self._keeper = keeper

    def _sync_new_files(self) -> set[Path]:
        new = set(self._files()) - self._known
        for path in new:
            sync_path(path)
        for directory in {path.parent for path in new}:
            sync_path(directory)
        return new

    def _rollback(self) -> None:
        with suppress(duckdb.Error):  # a failed COMMIT has already ended the transaction
            self.writer.execute("ROLLBACK")

    def _remove_unknown(self) -> None:
        """Files of a transaction that was rolled back: no snapshot names them, and on a full disk they cost room."""
        for path in set(self._files()) - self._known:
            with suppress(OSError):
                path.unlink()

    def forget_removed(self) -> int:
        """Drops files that are gone from the known set; returns the bytes of those that are there."""
        self._known &= set(self._files())
        return sum(_size(path) for path in self._known)

    def _files(self) -> Iterator[Path]:
        for directory in _directories(self.data):
            for entry in os.scandir(directory):
                if entry.name.endswith(".parquet"):
                    yield Path(entry.path)

    def close(self) -> None:
        if self._keeper is not None:
            self._keeper.close()
        self.writer.close()
        self._writing.close()
        self._reading.close()
        os.close(self._lock)


def _lock(folder: Path) -> int:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise HostError(f"{folder}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise HostError(f"{folder} is in use by another vnotch server", "stop it, or choose another folder") from error
    return descriptor


def _directories(top: Path) -> Iterator[Path]:
    for directory, _, _ in os.walk(top):
        yield Path(directory)


def _size(path: Path) -> int:
    with suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")

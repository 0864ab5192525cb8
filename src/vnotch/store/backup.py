"""Backups of the log store, the control plane's state and the folder that stands for S3, taken while a server runs, and
put back while none does.

The order makes the parts agree. First the lake's catalog is copied as of one moment (SQLite's online backup), then the
files that it names, which never change: a merge or an expiry meanwhile leaves them for minutes, and where one is gone
after all the lake is copied anew. The state comes next, so that it knows every stream that the lake has events of; what
its totals have too much is counted again at the first start. Files in buckets never change either; a folder of which
one goes while it is copied, as in a merge, is copied anew, so that the copy is what a reader saw at one moment.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

from vnotch import __version__
from vnotch.durable import give_as
from vnotch.errors import HostError, InputError
from vnotch.module_process import module_command, module_environment
from vnotch.store.ducklake import sync_path
from vnotch.store.log_groups import RECOUNT
from vnotch.store.migrations import HEAD, REVISIONS

MANIFEST = "backup.json"
CATALOG, STATE, CREDENTIALS = "lake/catalog.sqlite", "state/state.sqlite", "credentials.json"
EVENTS, BUCKETS = "lake/data", "buckets"
_TRIES = 5

_FILES = """
    SELECT s.path || t.path || f.path, f.file_size_bytes, f.end_snapshot IS NULL
    FROM ducklake_data_file f JOIN ducklake_table t USING (table_id) JOIN ducklake_schema s USING (schema_id)
    UNION ALL
    SELECT s.path || t.path || f.path, f.file_size_bytes, f.end_snapshot IS NULL
    FROM ducklake_delete_file f JOIN ducklake_table t USING (table_id) JOIN ducklake_schema s USING (schema_id)
"""


@dataclass(frozen=True)
class Backup:
    """What a backup holds."""

    version: str
    created_s: int
    files: int  # of events
    bytes: int
    bucket_files: int = 0
    bucket_bytes: int = 0


def back_up(
    root: Path,
    target: Path,
    now_s: float,
    progress: Callable[[str], None] = lambda _: None,
    *,
    buckets: bool = True,
) -> Backup:
    """Copies the store in the data folder `root` to the new folder `target`, and its buckets where they are wanted.

    Raises InputError where `target` is there already or no server has ever run in `root`, HostError where the disk does
    not let it be read or written. What was begun is removed then.
    """
    if not (root / CATALOG).exists():
        raise InputError(f"{root} has no log store", "name the data folder of a server with --data-dir")
    if not (root / STATE).exists():
        raise InputError(
            f"the state of {root} is in another database", "back it up there (pg_dump), and the folder by a snapshot"
        )
    if target.exists():
        raise InputError(f"{target} is there already", "name a folder that is not")
    work = target.with_name(f".{target.name}.part")
    shutil.rmtree(work, ignore_errors=True)
    try:
        (work / "state").mkdir(parents=True, mode=0o700)
        count, size = _copy_lake(root, work, progress)
        progress("copying the state")
        _copy_database(root / STATE, work / STATE)
        shutil.copy2(root / CREDENTIALS, work / CREDENTIALS)
        copied = _copy_buckets(root / BUCKETS, work / BUCKETS, progress) if buckets else (0, 0)
        made = Backup(__version__, int(now_s), count, size, *copied)
        (work / MANIFEST).write_text(json.dumps(asdict(made), indent=2) + "\n")
        _sync(work)
        work.rename(target)
        sync_path(target.parent)
    except (OSError, sqlite3.Error) as error:
        shutil.rmtree(work, ignore_errors=True)
        raise HostError(f"the backup could not be made: {error}") from error
    return made


def restore(
    source: Path, root: Path, *, force: bool = False, progress: Callable[[str], None] = lambda _: None
) -> Backup:
    """Puts a backup into the data folder `root`, where no server may be running.

    Raises InputError where `source` is no whole backup, or where `root` has a store already and `force` is not given.
    With it, the store of before is removed once the other is in its place.
    """
    made = _checked(source)
    parts = [name for name in ("lake", "state", CREDENTIALS, BUCKETS) if (source / name).exists()]
    there = [name for name in parts if (root / name).exists()]
    if there and not force:
        raise InputError(f"{root} has a log store already", "--force replaces it, with all that it holds")
    work, old = root / ".restore", root / ".before-restore"
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        for folder in (work, old):
            shutil.rmtree(folder, ignore_errors=True)
        progress("copying")
        shutil.copytree(source, work)
        with closing(sqlite3.connect(work / STATE)) as state, state:
            state.execute("UPDATE log_progress SET sequence = ?", [RECOUNT])
        give_as(work, root)
        _sync(work)
        old.mkdir(mode=0o700)
        for name in there:
            (root / name).rename(old / name)
        for name in parts:
            (work / name).rename(root / name)
        sync_path(root)
        for folder in (work, old):
            shutil.rmtree(folder)
    except (OSError, sqlite3.Error) as error:
        raise HostError(f"the backup could not be put back: {error}") from error
    return made


def _copy_lake(root: Path, work: Path, progress: Callable[[str], None]) -> tuple[int, int]:
    """-> how many files were copied, and their bytes."""
    for _ in range(_TRIES):
        shutil.rmtree(work / "lake", ignore_errors=True)
        (work / EVENTS).mkdir(parents=True, mode=0o700)
        progress("copying the catalog")
        _copy_database(root / CATALOG, work / CATALOG)
        count = size = 0
        for path, expected, is_live in _files(work / CATALOG):
            progress(f"copying {path}")
            try:
                (work / EVENTS / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(root / EVENTS / path, work / EVENTS / path)
            except FileNotFoundError:
                if is_live:
                    break  # merged or expired meanwhile, and removed
                continue
            if (found := (work / EVENTS / path).stat().st_size) != expected:
                raise HostError(f"{root / EVENTS / path} has {found} bytes, the catalog says {expected}")
            count, size = count + 1, size + expected
        else:
            return count, size
    raise HostError("the log store changes faster than it can be copied", "choose a faster disk for the backup")


def _copy_buckets(source: Path, target: Path, progress: Callable[[str], None]) -> tuple[int, int]:
    """-> how many files were copied, and their bytes; files that are being written are not whole yet, and left out."""
    count = size = 0
    folders = [source] if source.exists() else []
    while folders:
        folder = folders.pop()
        copy = target / folder.relative_to(source)
        for _ in range(_TRIES):
            shutil.rmtree(copy, ignore_errors=True)
            copy.mkdir(parents=True, mode=0o700)
            try:
                listed = [Path(entry.path) for entry in os.scandir(folder)]
                files = [path for path in listed if path.is_file() and not path.name.endswith(".part")]
                for path in files:
                    progress(f"copying {path.relative_to(source)}")
                    shutil.copy2(path, copy / path.name)
            except FileNotFoundError:
                if folder.exists():
                    continue  # merged or deleted meanwhile
                listed, files = [], []
            break
        else:
            raise HostError(f"{folder} changes faster than it can be copied", "leave buckets out: --without-buckets")
        count, size = count + len(files), size + sum((copy / path.name).stat().st_size for path in files)
        folders += [path for path in listed if path.is_dir()]
    return count, size


def _files(catalog: Path) -> Iterator[tuple[str, int, bool]]:
    """(path below the data folder, bytes, whether the newest snapshot has it) of what a catalog names."""
    with closing(sqlite3.connect(catalog)) as database:
        rows = database.execute(_FILES).fetchall()
    for path, size, is_live in rows:
        yield str(path), int(size), bool(is_live)


def _copy_database(source: Path, target: Path) -> None:
    """An SQLite database as of one moment, also while it is being written.

    In a process of its own: the lake's catalog is open in DuckDB's SQLite where a server runs, and two SQLite libraries
    in one process undo each other's locks (sqlite.org/howtocorrupt.html, 2.2.1) and shared memory.
    """
    command = module_command("vnotch.store.database_copy", str(source.absolute()), str(target.absolute()))
    ended = subprocess.run(command, env=module_environment(), capture_output=True, text=True, check=False)
    if ended.returncode:
        words = ended.stderr.strip().splitlines()
        raise OSError(words[-1] if words else f"copying {source} ended with status {ended.returncode}")
    target.chmod(0o600)


def _checked(source: Path) -> Backup:
    try:
        made = Backup(**json.loads((source / MANIFEST).read_text()))
        missing = [name for name in (CATALOG, STATE, CREDENTIALS) if not (source / name).exists()]
        if not missing:
            _check_revision(source)
        for path, size, is_live in _files(source / CATALOG) if not missing else ():
            file = source / EVENTS / path
            if is_live and (not file.exists() or file.stat().st_size != size):
                missing.append(f"{EVENTS}/{path}")
        held = [path.stat().st_size for path in (source / BUCKETS).rglob("*") if path.is_file()]
        if (len(held), sum(held)) != (made.bucket_files, made.bucket_bytes):
            missing.append(f"a file of {BUCKETS}")
    except (OSError, ValueError, TypeError, sqlite3.Error) as error:
        raise InputError(f"{source} is no backup: {error}", "name a folder that `vnotch backup` made") from None
    if missing:
        raise InputError(f"the backup {source} is not whole: {missing[0]} is missing or cut short", None)
    return made


def _check_revision(source: Path) -> None:
    """A state without a revision is of before there were any, and raised by the server that opens it."""
    with closing(sqlite3.connect(source / STATE)) as database:
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone():
            return
        (revision,) = database.execute("SELECT version_num FROM alembic_version").fetchone()
    if revision not in REVISIONS:
        raise InputError(
            f"the backup {source} is of a later release of vnotch: its state has revision {revision}, this release "
            f"knows those up to {HEAD}",
            "install that release",
        )


def _sync(folder: Path) -> None:
    for directory, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync_path(Path(directory) / name)
        sync_path(Path(directory))

"""Files of flow logs and the places where they lie: what is there, which of it a question needs, and its bytes.

A folder and a bucket are the same to everything behind this module. What lies under a folder or prefix and has no name
of a flow log is foreign: counted, not read. A file that was named itself is read whatever its name.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from vnotch.bucket_keys import other_service
from vnotch.bucket_replacement import REPLACEMENT_BYTES_MAX, Merge, Replacement, is_replacement
from vnotch.errors import InputError, LimitError
from vnotch.query.period import Period
from vnotch.query.problems import Problem, Problems

CHUNK_BYTES = 1 << 20
FILES_MAX = 1_000_000
"""Files of one question. More would be minutes of listing before the first answer."""

_SUFFIXES = (".log", ".gz", ".parquet", ".txt")
_FOREIGN_SUFFIXES = (".csv.gz", ".json.gz", ".tar.gz")


class Place(Protocol):
    """Where files lie. Every method raises FileProblem for what is wrong with one file."""

    def chunks(self, key: str) -> Iterator[bytes]:
        """The bytes of a file in pieces."""

    def head(self, key: str, count: int) -> bytes:
        """The first bytes of a file, at most `count`."""

    def tail(self, key: str, count: int) -> bytes:
        """The last bytes of a file, at most `count`."""

    @property
    def remote(self) -> bool:
        """Whether each read waits for a network, so that many should run at once."""


class FileProblem(Exception):
    """One file could not be read; the others can."""

    def __init__(self, problem: Problem, detail: str = "") -> None:
        super().__init__(detail)
        self.problem = problem
        self.detail = detail


@dataclass(frozen=True)
class LogFile:
    """A file to read. `name` is what people know it by, `key` what its place knows it by."""

    place: Place
    name: str
    key: str
    size: int

    @property
    def is_parquet(self) -> bool:
        return self.key.endswith(".parquet")


class LocalFiles:
    """The file system; keys are paths."""

    remote = False

    def chunks(self, key: str) -> Iterator[bytes]:
        try:
            with open(key, "rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    yield chunk
        except OSError as error:
            raise _os_problem(error) from None

    def head(self, key: str, count: int) -> bytes:
        try:
            with open(key, "rb") as file:
                return file.read(count)
        except OSError as error:
            raise _os_problem(error) from None

    def tail(self, key: str, count: int) -> bytes:
        try:
            with open(key, "rb") as file:
                file.seek(-min(count, os.fstat(file.fileno()).st_size), os.SEEK_END)
                return file.read(count)
        except OSError as error:
            raise _os_problem(error) from None


def _os_problem(error: OSError) -> FileProblem:
    if isinstance(error, PermissionError):
        return FileProblem(Problem.DENIED)
    if isinstance(error, FileNotFoundError):
        return FileProblem(Problem.GONE)
    return FileProblem(Problem.UNREADABLE, error.strerror or str(error))


def local_files(pattern: str, period: Period, problems: Problems) -> Iterator[LogFile]:
    """The files that a path names: a file, all below a folder, or a pattern with `*`, `?` or `[`.

    A path that exists is itself, never a pattern. Raises InputError where there is nothing.
    """
    paths = [pattern] if os.path.lexists(pattern) else sorted(glob.glob(pattern, recursive=True))
    if not paths:
        raise InputError(f"{pattern}: no such file or folder")
    place = LocalFiles()
    for path in paths:
        if os.path.isdir(path):
            yield from _folder(place, path, period, problems)
        else:
            yield LogFile(place, path, path, _size(path))


def _folder(place: LocalFiles, top: str, period: Period, problems: Problems) -> Iterator[LogFile]:
    def failed(error: OSError) -> None:
        found = _os_problem(error)
        problems.add(found.problem, str(error.filename or top), sample=found.detail)

    for folder, folders, names in os.walk(top, onerror=failed):
        folders[:] = sorted(name for name in folders if is_folder_wanted(f"{folder}/{name}/", period, problems))
        for name in sorted(names):
            path = os.path.join(folder, name)
            if is_wanted(path, period, problems):
                yield LogFile(place, path, path, _size(path))


def is_wanted(key: str, period: Period, problems: Problems) -> bool:
    """Whether a file under a folder or prefix is to be read. Foreign ones are counted."""
    if is_replacement(key):
        return True  # for `without_replaced`
    name = key.rpartition("/")[2]
    looks_right = name.endswith(_SUFFIXES) and not name.endswith(_FOREIGN_SUFFIXES) and not name.startswith((".", "_"))
    if not looks_right or other_service(key) is not None:
        problems.add_foreign(key)
        return False
    if period.may_be_in_file(key):
        return True
    problems.of_other_time("files")
    return False


def is_folder_wanted(folder: str, period: Period, problems: Problems) -> bool:
    """Whether a folder (it ends in `/`) is to be listed. Those of other times are counted."""
    if period.may_be_in_folder(folder):
        return True
    problems.of_other_time("folders")
    return False


def bounded(files: Iterator[LogFile]) -> list[LogFile]:
    """All of them, each once. Raises LimitError beyond FILES_MAX."""
    found: dict[str, LogFile] = {}
    for file in files:
        found.setdefault(file.name, file)
        if len(found) > FILES_MAX:
            raise LimitError(f"more than {FILES_MAX:,} files", "name a longer prefix, or a shorter time with --since")
    return list(found.values())


def without_replaced(files: list[LogFile], period: Period, problems: Problems) -> list[LogFile]:
    """The files as they are while others merge them: without those whose records a merged file has, and with that one,
    which may have come behind the back of the listing.

    Where the file that says so cannot be read, an answer may count records twice, and it is named.
    """
    found = {file.name: file for file in files}
    for file in files:
        if is_replacement(file.key):
            del found[file.name]
            for merge in _merges(file, problems):
                _apply(merge, file, found, period, problems)
    return list(found.values())


def _merges(file: LogFile, problems: Problems) -> tuple[Merge, ...]:
    try:
        return Replacement.parse(file.place.head(file.key, REPLACEMENT_BYTES_MAX)).merges
    except FileProblem as problem:
        if problem.problem is not Problem.GONE:  # done since it was listed
            problems.add(problem.problem, file.name, sample=problem.detail)
    except InputError as error:
        problems.add(Problem.UNREADABLE, file.name, sample=error.message)
    return ()


def _apply(merge: Merge, beside: LogFile, found: dict[str, LogFile], period: Period, problems: Problems) -> None:
    def sibling(path: str, name: str) -> str:
        return path[: path.rfind("/") + 1] + name

    into = LogFile(beside.place, sibling(beside.name, merge.into), sibling(beside.key, merge.into), 0)
    try:
        into.place.head(into.key, 1)
    except FileProblem as problem:
        if problem.problem is not Problem.GONE:  # not there yet
            problems.add(problem.problem, into.name, sample=problem.detail)
        return
    for old in merge.olds:
        found.pop(sibling(beside.name, old.name), None)
    if period.may_be_in_file(into.key):
        found.setdefault(into.name, into)


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0

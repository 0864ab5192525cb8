"""The folder in which batches lie: one file a batch, on disk whole or not at all.

A file's name says all that the spool must know of it without opening it - order, commit, age, flow log, stream, counts,
size and CRC-32 - so that opening the folder is one listing, and a file that was cut short or overwritten is recognised:

    COMMIT-INDEX,CREATED_S,FLOW_LOG,STREAM,EVENTS,PACKETS,BYTES,SIZE,CRC.arrow

It appears by a temporary name, fsync and rename. All files of a `write` are fsynced at once, for which the file system
needs few commits of its own, and the folder once at the end. What is damaged is moved to `damaged/`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa

from vnotch.deliver.batch import Batch, Entry, decode, encode

DAMAGED_FILES_MAX = 64
"""That are kept."""

FSYNC_THREADS = 32
FILES_WITHOUT_THREADS = 8
FILES_OPEN_MAX = 256
"""Files of a `write` that are open at once."""


class BatchFolder:
    """The files. Who calls it keeps threads out of each other's way; a `write` may run beside all else."""

    def __init__(self, folder: Path, fsync: Any = os.fsync) -> None:
        """Raises OSError where the folder cannot be made."""
        self.folder = folder
        self.fsync = fsync
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def open(self) -> tuple[list[Entry], list[Entry | None]]:
        """-> the whole batches, and what was damaged and is set aside now, None where its name says nothing. What was
        never renamed, so never acknowledged, is removed."""
        whole: list[Entry] = []
        broken: list[Entry | None] = []
        with os.scandir(self.folder) as files:
            for file in files:
                if file.is_dir(follow_symlinks=False) or file.name == "dropped.json":
                    continue
                if file.name.startswith("."):
                    os.unlink(file.path)
                    continue
                entry = Entry.parse(file.name)
                if entry is None or file.stat(follow_symlinks=False).st_size != entry.size:
                    self.set_aside(file.name)
                    broken.append(entry)
                else:
                    whole.append(entry)
        return whole, broken

    def read(self, entry: Entry) -> Batch:
        """Raises OSError and ValueError where the file is not what was written."""
        return decode(entry, (self.folder / entry.name).read_bytes())

    def remove(self, entry: Entry) -> None:
        (self.folder / entry.name).unlink(missing_ok=True)

    def set_aside(self, name: str) -> None:
        """Keeps a damaged file for whoever wants to look at it, where there are not too many already."""
        aside = self.folder / "damaged"
        if not (self.folder / name).exists():
            return
        aside.mkdir(exist_ok=True, mode=0o700)
        if sum(1 for _ in aside.iterdir()) < DAMAGED_FILES_MAX:
            os.replace(self.folder / name, aside / name)
        else:
            os.unlink(self.folder / name)

    def write(self, commit: int, batches: Sequence[Batch], now_s: int) -> list[tuple[Entry, OSError | None]]:
        """Writes the batches durably -> what became of each. Raises InputError for a name that no file can have."""
        outcomes: list[tuple[Entry, OSError | None]] = []
        with ThreadPoolExecutor(FSYNC_THREADS, thread_name_prefix="vnotch-fsync") as pool:
            for start in range(0, len(batches), FILES_OPEN_MAX):
                some = batches[start : start + FILES_OPEN_MAX]
                encoded = (encode(batch, commit, start + number, now_s) for number, batch in enumerate(some))
                outcomes += self._write_files(encoded, pool)
        if any(error is None for _, error in outcomes):
            self.sync()
        return outcomes

    def _write_files(
        self, encoded: Iterable[tuple[Entry, pa.Buffer]], pool: ThreadPoolExecutor
    ) -> Iterator[tuple[Entry, OSError | None]]:
        """Writes all, fsyncs all at once, then gives each its name. -> what became of each."""
        open_files: list[tuple[Entry, int]] = []
        try:
            for entry, data in encoded:
                if (error := self._write_temporary(entry, data, open_files)) is not None:
                    yield entry, error
            few = len(open_files) <= FILES_WITHOUT_THREADS
            synced = (map if few else pool.map)(self._synced, open_files)
            for (entry, _), error in zip(open_files, list(synced), strict=True):
                error = error or self._named(entry)
                if error is not None:
                    self._temporary(entry).unlink(missing_ok=True)
                yield entry, error
        finally:
            for _, descriptor in open_files:
                os.close(descriptor)

    def _write_temporary(self, entry: Entry, data: pa.Buffer, open_files: list[tuple[Entry, int]]) -> OSError | None:
        temporary = self._temporary(entry)
        try:
            descriptor = os.open(temporary, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        except OSError as error:
            return error
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
        except OSError as error:
            os.close(descriptor)
            temporary.unlink(missing_ok=True)
            return error
        except BaseException:
            os.close(descriptor)
            raise
        open_files.append((entry, descriptor))
        return None

    def _synced(self, item: tuple[Entry, int]) -> OSError | None:
        try:
            self.fsync(item[1])
        except OSError as error:
            return error
        return None

    def _named(self, entry: Entry) -> OSError | None:
        try:
            os.rename(self._temporary(entry), self.folder / entry.name)
        except OSError as error:
            return error
        return None

    def _temporary(self, entry: Entry) -> Path:
        return self.folder / f".{entry.commit}-{entry.index}"

    def sync(self) -> None:
        """When this returns, a power cut brings back no file that is gone, and takes none that is there."""
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self.fsync(descriptor)
        finally:
            os.close(descriptor)

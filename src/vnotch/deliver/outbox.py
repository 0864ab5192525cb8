"""The outbox: whole files on disk, between the batches that they are made of and the bucket that takes them.

    FLOW_LOG,SLOT,HASH.data     what is to be uploaded
    FLOW_LOG,SLOT,HASH.json     what it is: its description, the batches in it, and how much of which stream that is

Rules:
1. The description makes a file: it is written, durably and as a whole, after the data is on disk. Data without one was
   never whole and is removed at the start.
2. The batches in a file are named in its description, and removed from the spool after that (`Spool.take_away`), before
   the file is uploaded. Those that a crash has left are removed by their names at the next start (`taken`). So a record
   is in the spool or in one file, never in both.
3. A file's hash follows from its first batch, which is in no other file: a file that is uploaded again has the same key
   and the same bytes, and writes over itself. Where two files have one hash by chance, the server tells the later one,
   before it is uploaded, and it is renamed in its description.
4. The description is removed when the bucket has the file, then the data. A power cut may bring both back; rule 3.
5. Bytes count under the spool's bound, age too; what is dropped is counted by the streams that are in it. A file that
   is being uploaded is never dropped.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from vnotch.deliver.dropped import DAMAGED, EXPIRED, DroppedCounts, Share
from vnotch.durable import replace_file, set_aside, sync_folder


@dataclass(frozen=True, order=True)
class SlotFile:
    """A file to be uploaded: what its key is made of, and what it holds. Oldest first."""

    created_s: int  # when its oldest batch was made
    flow_log_id: str
    slot_s: int
    name_hash: str
    file_format: str
    records: int
    size: int
    md5: str  # hexadecimal, like sha256
    sha256: str
    path: Path = field(compare=False)
    streams: Mapping[str, Share] = field(compare=False)

    @property
    def batch_id(self) -> str:
        return f"{self.flow_log_id}/{self.slot_s}/{self.name_hash}"


class Digesting:
    """A file that is being written, with its digests."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = 0
        self.md5 = hashlib.md5(usedforsecurity=False)
        self.sha256 = hashlib.sha256()

    def write(self, data: Any) -> int:
        self._file.write(data)
        self.md5.update(data)
        self.sha256.update(data)
        self.size += len(data)
        return len(data)

    # What Arrow asks of a file besides.

    closed = False

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        pass

    def close(self) -> None:
        """Whoever opened the file closes it."""


class Outbox:
    """The open outbox. Safe to use from several threads.

    Raises OSError only from the constructor, where the folder cannot be made or listed, and from `add`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.taken: set[str] = set()
        """Names of batches in the spool that are in one of the files found at the start."""
        self.damaged_files = 0
        self._dropped: DroppedCounts | None = None
        self._lock = threading.RLock()
        self._files: list[SlotFile] = []  # oldest first
        self._leased: set[SlotFile] = set()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._uncounted: list[SlotFile] = []
        self._open()

    def _open(self) -> None:
        for path in sorted(self.folder.glob("[!.]*.json")):
            try:
                file, taken = _described(path)
            except (OSError, ValueError, KeyError, TypeError):
                self.damaged_files += 1
                set_aside(path)
                if path.with_suffix(".data").exists():
                    set_aside(path.with_suffix(".data"))
                continue
            self.taken.update(taken)
            if file.path.exists() and file.path.stat().st_size == file.size:
                self._files.append(file)
            else:
                self.damaged_files += 1
                self._uncounted.append(file)
                self._unlink(file)
        self._files.sort()
        known = {file.path.name for file in self._files}
        for path in self.folder.iterdir():
            # Never described, so its batches are in the spool.
            if (path.suffix == ".data" and path.name not in known) or path.name.startswith("."):
                path.unlink()

    def count_in(self, dropped: DroppedCounts) -> None:
        """Where to count what is dropped; what was damaged at the start is counted now."""
        self._dropped = dropped
        for file in self._uncounted:
            dropped.count_all(file.flow_log_id, file.streams, DAMAGED)
        self._uncounted.clear()

    # Making files

    def add(
        self,
        flow_log_id: str,
        slot_s: int,
        name_hash: str,
        file_format: str,
        write: Callable[[Digesting], tuple[int, int, Mapping[str, Share], Sequence[str]]],
    ) -> SlotFile | None:
        """Makes a file, durably, of what `write` writes; it returns the records, the time of the oldest batch, the
        streams and the names of the batches. The file is not visible until `show`. None where nothing was written.

        Raises OSError where the disk does not take it; nothing is left then.
        """
        stem = f"{flow_log_id},{slot_s},{name_hash}"
        data, temporary = self.folder / f"{stem}.data", self.folder / f".{stem}"
        try:
            with temporary.open("wb") as file:
                digesting = Digesting(file)
                records, created_s, streams, taken = write(digesting)
                file.flush()
                os.fsync(file.fileno())
            if not taken:
                temporary.unlink()
                return None
            made = SlotFile(
                created_s, flow_log_id, slot_s, name_hash, file_format, records, digesting.size,
                digesting.md5.hexdigest(), digesting.sha256.hexdigest(), data, streams,
            )  # fmt: skip
            os.replace(temporary, data)
            sync_folder(self.folder)
            replace_file(data.with_suffix(".json"), _description(made, taken))
        except OSError:
            for path in (temporary, data):
                path.unlink(missing_ok=True)
            raise
        return made

    def show(self, file: SlotFile) -> None:
        """Its batches have left the spool: it may be uploaded."""
        with self._lock:
            self._files.append(file)
            self._files.sort()

    # Uploading, as `courier.Source`

    def waiting(self) -> dict[str, int]:
        """Flow log -> number of its files."""
        with self._lock:
            counts: dict[str, int] = {}
            for file in self._files:
                counts[file.flow_log_id] = counts.get(file.flow_log_id, 0) + 1
            return counts

    def ready(self) -> list[str]:
        with self._lock:
            return list(dict.fromkeys(file.flow_log_id for file in self._files if file not in self._leased))

    def lease(self, flow_log_id: str, batches_max: int = 1) -> list[SlotFile]:
        """The oldest file of a flow log that is not under way, one at a time."""
        with self._lock:
            for file in self._files:
                if file.flow_log_id == flow_log_id and file not in self._leased:
                    self._leased.add(file)
                    return [file]
            return []

    def read(self, entry: SlotFile) -> SlotFile | None:
        """The file itself; None where it is not what was written, and then it is counted and gone."""
        try:
            if entry.path.stat().st_size == entry.size:
                return entry
        except OSError:
            pass
        self.damaged_files += 1
        self.discard(entry, DAMAGED)
        return None

    def acknowledge(self, entry: SlotFile) -> None:
        """The bucket has it."""
        with self._lock:
            self._remove(entry)

    def give_back(self, entries: Sequence[SlotFile]) -> None:
        with self._lock:
            self._leased.difference_update(entries)

    def rename(self, file: SlotFile) -> None:
        """Gives a file that was not uploaded another hash, durably; it may be leased again at once. Raises OSError,
        and then the name is as it was."""
        name_hash = hashlib.sha256(f"{file.name_hash}/{file.sha256}".encode()).hexdigest()[: len(file.name_hash)]
        path = file.path.with_suffix(".json")
        replace_file(path, json.dumps({**json.loads(path.read_bytes()), "name_hash": name_hash}).encode())
        with self._lock:
            self._leased.discard(file)
            self._files = sorted(replace(file, name_hash=name_hash) if one == file else one for one in self._files)

    def discard(self, entry: SlotFile, reason: str) -> None:
        """Drops a file and counts what is in it."""
        with self._lock:
            self._remove(entry)
        if self._dropped is not None:
            self._dropped.count_all(entry.flow_log_id, entry.streams, reason)

    # Bounds, as `spool.Annex`

    @property
    def size(self) -> int:
        with self._lock:
            return sum(file.size for file in self._files)

    @property
    def oldest_s(self) -> float | None:
        """Of those that may be dropped."""
        return min((file.created_s for file in self._idle()), default=None)

    def drop_oldest(self, reason: str) -> None:
        if idle := self._idle():
            self.discard(idle[0], reason)

    def expire(self, is_too_old: Callable[[int], bool]) -> None:
        for file in self._idle():
            if is_too_old(file.created_s):
                self.discard(file, EXPIRED)

    def counters(self) -> dict[str, Any]:
        with self._lock:
            return {
                "files": len(self._files),
                "records": sum(file.records for file in self._files),
                "bytes": self.size,
                "oldest_s": min((file.created_s for file in self._files), default=None),
                "damaged_files": self.damaged_files,
            }

    def _idle(self) -> list[SlotFile]:
        with self._lock:
            return [file for file in self._files if file not in self._leased]

    def _remove(self, file: SlotFile) -> None:
        self._leased.discard(file)
        if file in self._files:
            self._files.remove(file)
        self._unlink(file)

    def _unlink(self, file: SlotFile) -> None:
        for path in (file.path.with_suffix(".json"), file.path):
            path.unlink(missing_ok=True)


def _description(file: SlotFile, taken: Sequence[str]) -> bytes:
    document = {name: value for name, value in vars(file).items() if name not in ("path", "streams")}
    streams = {stream: vars(share) for stream, share in file.streams.items()}
    return json.dumps({**document, "streams": streams, "taken": list(taken)}).encode()


def _described(path: Path) -> tuple[SlotFile, list[str]]:
    """Raises OSError, ValueError, KeyError and TypeError for what is no description."""
    document = json.loads(path.read_bytes())
    taken = [str(name) for name in document.pop("taken")]
    streams = {stream: Share(**share) for stream, share in document.pop("streams").items()}
    return SlotFile(**document, path=path.with_suffix(".data"), streams=streams), taken

"""The spool: batches of records on disk between the window that made them and the destination that takes them.

One file a batch, one flat folder. A file's name says all that the spool must know of it without opening it - order,
commit, age, flow log, stream, counts, size and CRC-32 - so that opening the spool is one listing, and a file that was
cut short or overwritten is recognised:

    COMMIT-INDEX,CREATED_S,FLOW_LOG,STREAM,EVENTS,PACKETS,BYTES,SIZE,CRC.arrow

Rules:
1. A file appears whole or not at all: temporary name, fsync, rename. All files of a `write` are fsynced at once, for
   which the file system needs few commits of its own, and the folder once at the end. When `write` returns, what it
   wrote survives kill -9 and a power cut.
2. Batches are written under a *commit* number and stay invisible until `release`. The owner of the spool remembers
   durably which commit was the last complete one and gives it to `Spool`; files of a later commit are the leftovers of
   a crash half way through a commit. They were never visible, so never delivered; they are removed and the owner writes
   them again.
3. Order is kept for each stream of a flow log: the oldest first, and nothing while an older batch is under way. The
   streams of a flow log take turns.
4. Bounds: bytes and age. What exceeds them is dropped oldest first and counted by flow log, stream and reason. So is
   what finds no room on the disk. A batch that is being delivered is never dropped: it may already have arrived.
5. What is damaged is moved to `damaged/` (at most `DAMAGED_FILES_MAX` files of it are kept) and counted.
"""

from __future__ import annotations

import errno
import json
import os
import threading
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from vnotch.deliver.batch import Batch, Entry, decode, encode, may_join
from vnotch.errors import LimitError

DAMAGED_FILES_MAX = 64
FSYNC_THREADS = 32
STEPS_MAX = 64
"""Of the clock that are remembered."""

FILES_WITHOUT_THREADS = 8
FILES_OPEN_MAX = 256
"""Files of a `write` that are open at once."""

DROPPED_KEYS_MAX = 4096

FULL = "spool-full"
EXPIRED = "spool-expired"
DISK = "disk-full"
DAMAGED = "damaged"


@dataclass
class Dropped:
    """What was dropped of one stream for one reason, and how much of it no SKIPDATA record has told of yet."""

    batches: int = 0
    events: int = 0
    packets: int = 0
    bytes: int = 0
    untold_packets: int = 0
    untold_bytes: int = 0


@dataclass
class Queue:
    """The visible batches of one stream of a flow log, oldest first; the first `leased` of them are being delivered."""

    entries: deque[Entry] = field(default_factory=deque)
    leased: int = 0


class Spool:
    """The open spool. Safe to use from several threads.

    Raises HostError's parent OSError only from the constructor, where the folder cannot be made or listed.
    """

    def __init__(
        self, folder: Path, *, bytes_max: int, seconds_max: int, complete_commit: int, fsync: Any = os.fsync
    ) -> None:
        self.folder = folder
        self.bytes_max = bytes_max
        self.seconds_max = seconds_max
        self.dropped: dict[tuple[str, str, str], Dropped] = {}  # flow log, stream, reason
        self.damaged_files = 0
        self._fsync = fsync
        self._lock = threading.RLock()
        self._queues: dict[tuple[str, str], Queue] = {}  # flow log, stream
        self._counts: dict[str, int] = defaultdict(int)  # flow log -> visible batches
        self._turns: dict[str, dict[str, None]] = defaultdict(dict)
        """Flow log -> its streams that have something and nothing under way, in the order of their turns."""
        self._held: dict[int, deque[Entry]] = {}
        self._size = 0
        self._steps: deque[tuple[float, float]] = deque(maxlen=STEPS_MAX)  # before what time, by how many seconds
        self._counts_changed = False
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._load_dropped()
        self._list(complete_commit)

    # Opening

    def _list(self, complete_commit: int) -> None:
        found = []
        with os.scandir(self.folder) as files:
            for file in files:
                if file.is_dir(follow_symlinks=False) or file.name == "dropped.json":
                    continue
                if file.name.startswith("."):
                    os.unlink(file.path)  # never renamed, so never acknowledged
                    continue
                entry = Entry.parse(file.name)
                if entry is None or file.stat(follow_symlinks=False).st_size != entry.size:
                    self._set_aside(file.name, entry)
                elif entry.commit > complete_commit:
                    os.unlink(file.path)
                else:
                    found.append(entry)
        for entry in sorted(found):
            self._show(entry)
            self._size += entry.size
        self._save_dropped()

    def _set_aside(self, name: str, entry: Entry | None) -> None:
        aside = self.folder / "damaged"
        aside.mkdir(exist_ok=True, mode=0o700)
        self.damaged_files += 1
        if sum(1 for _ in aside.iterdir()) < DAMAGED_FILES_MAX:
            os.replace(self.folder / name, aside / name)
        else:
            os.unlink(self.folder / name)
        if entry is not None:
            self._count(entry, DAMAGED)

    # Writing

    def write(self, commit: int, batches: Sequence[Batch], now_s: float) -> None:
        """Writes the batches durably under `commit`, which no `release` has named yet.

        Raises LimitError where the disk had no room for some of them: those are counted as dropped, all others are
        written. Raises InputError for a name that no file can have.
        """
        outcomes: list[tuple[Entry, OSError | None]] = []
        # Without the lock, which delivery needs meanwhile: nobody else knows these files.
        with ThreadPoolExecutor(FSYNC_THREADS, thread_name_prefix="vnotch-fsync") as pool:
            for start in range(0, len(batches), FILES_OPEN_MAX):
                some = batches[start : start + FILES_OPEN_MAX]
                encoded = (encode(batch, commit, start + number, int(now_s)) for number, batch in enumerate(some))
                outcomes += self._write_files(encoded, pool)
        held = [entry for entry, error in outcomes if error is None]
        if held:
            self._fsync_folder()
        refused = len(outcomes) - len(held)
        with self._lock:
            for entry, error in outcomes:
                if error is not None:
                    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
                    self._count(entry, DISK if full else os.strerror(error.errno or 0))
            self._size += sum(entry.size for entry in held)
            self._held.setdefault(commit, deque()).extend(held)
            self._keep_bounds(now_s)
            self._save_dropped()
        if refused:
            raise LimitError(
                f"the spool found no room for {refused} of {len(batches)} batches", "make room on the disk"
            )

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
            self._fsync(item[1])
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

    def _fsync_folder(self) -> None:
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._fsync(descriptor)
        finally:
            os.close(descriptor)

    def release(self, commit: int) -> None:
        """Makes the batches of `commit` visible to delivery."""
        with self._lock:
            for entry in self._held.pop(commit, ()):
                self._show(entry)

    # Delivering

    def waiting(self) -> dict[str, int]:
        """Flow log -> number of its visible batches."""
        with self._lock:
            return dict(self._counts)

    def ready(self) -> list[str]:
        """The flow logs from which something can be leased."""
        with self._lock:
            return list(self._turns)

    def lease(self, flow_log_id: str, batches_max: int = 1) -> list[Entry]:
        """The oldest batches of one stream, each to be acknowledged, discarded or given back; [] where all that a flow
        log has is under way.

        More than one only where they may be delivered together (`batch.may_join`).
        """
        with self._lock:
            turns = self._turns.get(flow_log_id)
            if not turns:
                return []
            stream = next(iter(turns))
            self._end_turn(flow_log_id, stream)
            queue = self._queues[flow_log_id, stream]
            leased = [queue.entries[0]]
            for entry in islice(queue.entries, 1, batches_max):
                if not may_join(leased, entry):
                    break
                leased.append(entry)
            queue.leased = len(leased)
            return leased

    def read(self, entry: Entry) -> Batch | None:
        """The batch of an entry; None where its file is damaged, which is then set aside, counted and gone."""
        try:
            return decode(entry, (self.folder / entry.name).read_bytes())
        except (OSError, ValueError):
            with self._lock:
                if (self.folder / entry.name).exists():
                    self._set_aside(entry.name, entry)
                else:
                    self.damaged_files += 1
                    self._count(entry, DAMAGED)
                self._remove(entry)
                self._save_dropped()
            return None

    def acknowledge(self, entry: Entry) -> None:
        """The destination has it: it is removed. A power cut may bring it back; its batch id makes that harmless."""
        with self._lock:
            self._unlink(entry)
            self._remove(entry)

    def give_back(self, entries: Sequence[Entry]) -> None:
        """All that is left of a lease."""
        with self._lock:
            for name in {(entry.flow_log_id, entry.stream) for entry in entries}:
                if (queue := self._queues.get(name)) is not None:
                    queue.leased = 0
                    self._turns[name[0]][name[1]] = None

    def discard(self, entry: Entry, reason: str) -> None:
        """Drops a batch and counts it."""
        with self._lock:
            self._drop(entry, reason)
            self._save_dropped()

    def discard_flow_log(self, flow_log_id: str, reason: str) -> None:
        """Drops all waiting batches of a flow log, but for those that are under way."""
        with self._lock:
            for queue in [queue for name, queue in self._queues.items() if name[0] == flow_log_id]:
                for entry in list(islice(queue.entries, queue.leased, None)):
                    self._drop(entry, reason)
            self._save_dropped()

    # Bounds

    def expire(self, now_s: float) -> None:
        """Drops what is too old."""
        with self._lock:
            self._keep_bounds(now_s)
            self._save_dropped()

    def clock_set_forward(self, now_s: float, seconds: float) -> None:
        """Batches of before it are older by this only for the clock. Known until the process ends."""
        with self._lock:
            self._steps.append((now_s - seconds, seconds))

    def _created_s(self, entry: Entry) -> float:
        """By the clock as it is now."""
        created_s: float = entry.created_s
        for before_s, seconds in self._steps:
            if created_s <= before_s:
                created_s += seconds
        return created_s

    def _keep_bounds(self, now_s: float) -> None:
        for queue in list(self._queues.values()):
            while (entry := self._oldest(queue)) and self._created_s(entry) < now_s - self.seconds_max:
                self._drop(entry, EXPIRED)
        while self._size > self.bytes_max:
            oldest = [entry for queue in self._queues.values() if (entry := self._oldest(queue))]
            oldest += [entries[0] for entries in self._held.values() if entries]
            if not oldest:
                return
            self._drop(min(oldest), FULL)

    @staticmethod
    def _oldest(queue: Queue) -> Entry | None:
        """The oldest batch that may be dropped: leased ones are at the head and are left alone."""
        return queue.entries[queue.leased] if len(queue.entries) > queue.leased else None

    # Counting

    @property
    def size(self) -> int:
        """Bytes on disk, visible or not."""
        return self._size

    def untold(self, flow_log_id: str, stream: str) -> tuple[int, int]:
        """Packets and bytes dropped of a stream since the last `told`: they belong into its next SKIPDATA record."""
        with self._lock:
            found = [dropped for key, dropped in self.dropped.items() if key[:2] == (flow_log_id, stream)]
            return sum(d.untold_packets for d in found), sum(d.untold_bytes for d in found)

    def told(self, flow_log_id: str, stream: str) -> None:
        with self._lock:
            for key, dropped in self.dropped.items():
                if key[:2] == (flow_log_id, stream):
                    dropped.untold_packets = dropped.untold_bytes = 0
                    self._counts_changed = True
            self._save_dropped()

    def counters(self) -> dict[str, Any]:
        """For the status: what waits, and what was dropped, by flow log, stream and reason."""
        with self._lock:
            entries = [queue.entries for queue in self._queues.values() if queue.entries]
            return {
                "batches": sum(map(len, entries)),
                "waiting": dict(self._counts),
                "bytes": self._size,
                "bytes_max": self.bytes_max,
                "oldest_s": min((queue[0].created_s for queue in entries), default=None),
                "damaged_files": self.damaged_files,
                "dropped": self._dropped_list(),
            }

    def _dropped_list(self) -> list[dict[str, Any]]:
        return [
            {"flow_log_id": flow_log_id, "stream": stream, "reason": reason, **vars(dropped)}
            for (flow_log_id, stream, reason), dropped in sorted(self.dropped.items())
        ]

    def _count(self, entry: Entry, reason: str) -> None:
        key = (entry.flow_log_id, entry.stream, reason)
        if key not in self.dropped and len(self.dropped) >= DROPPED_KEYS_MAX:
            key = ("-", "-", reason)  # so many streams come and go over the months: they are counted together
        dropped = self.dropped.setdefault(key, Dropped())
        dropped.batches += 1
        dropped.events += entry.events
        dropped.packets += entry.packets
        dropped.bytes += entry.bytes
        dropped.untold_packets += entry.packets
        dropped.untold_bytes += entry.bytes
        self._counts_changed = True

    def _save_dropped(self) -> None:
        if not self._counts_changed:
            return
        self._counts_changed = False
        # Best effort: these counts are written when the disk may be full, and a batch matters more than its count.
        temporary = self.folder / ".dropped"
        try:
            temporary.write_text(json.dumps(self._dropped_list()))
            os.replace(temporary, self.folder / "dropped.json")
        except OSError:
            temporary.unlink(missing_ok=True)

    def _load_dropped(self) -> None:
        try:
            for item in json.loads((self.folder / "dropped.json").read_text()):
                key = (item.pop("flow_log_id"), item.pop("stream"), item.pop("reason"))
                self.dropped[key] = Dropped(**item)
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, TypeError, AttributeError):
            self.damaged_files += 1

    # Bookkeeping

    def _show(self, entry: Entry) -> None:
        """Makes a batch visible, behind the others of its stream."""
        queue = self._queues.setdefault((entry.flow_log_id, entry.stream), Queue())
        queue.entries.append(entry)
        self._counts[entry.flow_log_id] += 1
        if not queue.leased:
            self._turns[entry.flow_log_id].setdefault(entry.stream)

    def _end_turn(self, flow_log_id: str, stream: str) -> None:
        turns = self._turns.get(flow_log_id, {})
        turns.pop(stream, None)
        if not turns:
            self._turns.pop(flow_log_id, None)

    def _drop(self, entry: Entry, reason: str) -> None:
        self._unlink(entry)
        self._remove(entry)
        self._count(entry, reason)

    def _unlink(self, entry: Entry) -> None:
        (self.folder / entry.name).unlink(missing_ok=True)

    def _remove(self, entry: Entry) -> None:
        name = entry.flow_log_id, entry.stream
        queue = self._queues.get(name)
        if queue is not None and entry in queue.entries:
            under_way = queue.entries.index(entry) < queue.leased
            queue.entries.remove(entry)
            self._size -= entry.size
            self._counts[entry.flow_log_id] -= 1
            if not self._counts[entry.flow_log_id]:
                del self._counts[entry.flow_log_id]
            queue.leased -= under_way
            if not queue.entries:
                del self._queues[name]
                self._end_turn(*name)
            elif under_way and not queue.leased:
                self._turns[name[0]][name[1]] = None
            return
        held = self._held.get(entry.commit, ())
        if entry in held:
            self._held[entry.commit].remove(entry)
            self._size -= entry.size

"""The spool: batches of records on disk between the window that made them and the destination that takes them.

Batches lie in one flat folder (`batch_folder`).

Rules:
1. When `write` returns, what it wrote survives kill -9 and a power cut.
2. Batches are written under a *commit* number and stay invisible until `release`. The owner of the spool remembers
   durably which commit was the last complete one and gives it to `Spool`; files of a later commit are the leftovers of
   a crash half way through a commit. They were never visible, so never delivered; they are removed and the owner writes
   them again.
3. Order is kept for each stream of a flow log: the oldest first, and nothing while an older batch is under way. The
   streams of a flow log take turns. What is for a bucket waits in its slot until that becomes files (`publisher.py`).
4. Bounds: bytes and age. What exceeds them is dropped oldest first and counted by flow log, stream and reason. So is
   what finds no room on the disk. A batch that is being delivered is never dropped: it may already have arrived.
5. What is damaged is set aside and counted.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from vnotch.deliver.batch import Batch, Entry, may_join
from vnotch.deliver.batch_folder import BatchFolder
from vnotch.deliver.dropped import DAMAGED, DISK, EXPIRED, FULL, DroppedCounts, Share
from vnotch.errors import LimitError

STEPS_MAX = 64
"""Of the clock that are remembered."""


@dataclass
class Queue:
    """The visible batches of one stream or slot of a flow log, oldest first; the first `leased` of them are being
    delivered."""

    entries: deque[Entry] = field(default_factory=deque)
    leased: int = 0


@dataclass(frozen=True)
class Slot:
    """The batches of one slot of a flow log that wait for its files."""

    flow_log_id: str
    slot_s: int
    batches: int
    bytes: int  # on disk
    oldest_s: int  # when the first of them was made


class Annex(Protocol):
    """What is on disk beside the spool and under the same bound on bytes (`outbox.Outbox`)."""

    @property
    def size(self) -> int: ...
    @property
    def oldest_s(self) -> float | None: ...
    def drop_oldest(self, reason: str) -> None: ...
    def expire(self, is_too_old: Callable[[int], bool]) -> None: ...


class Spool:
    """The open spool. Safe to use from several threads.

    Raises HostError's parent OSError only from the constructor, where the folder cannot be made or listed.
    """

    def __init__(
        self,
        folder: Path,
        *,
        bytes_max: int,
        seconds_max: int,
        complete_commit: int,
        taken: Collection[str] = (),
        fsync: Any = os.fsync,
    ) -> None:
        """`taken`: names of batches that have gone into files of a bucket; those that are still there are removed."""
        self.folder = folder
        self.bytes_max = bytes_max
        self.seconds_max = seconds_max
        self.damaged_files = 0
        self._lock = threading.RLock()
        self.annex: Annex | None = None
        self._queues: dict[tuple[str, str], Queue] = {}  # flow log, and stream or slot (`Entry.queue`)
        self._counts: dict[str, int] = defaultdict(int)  # flow log -> visible batches for streams
        self._turns: dict[str, dict[str, None]] = defaultdict(dict)
        """Flow log -> its streams that have something and nothing under way, in the order of their turns."""
        self._held: dict[int, deque[Entry]] = {}
        self._size = 0
        self._steps: deque[tuple[float, float]] = deque(maxlen=STEPS_MAX)  # before what time, by how many seconds
        self._files = BatchFolder(folder, fsync)
        self.dropped = DroppedCounts(folder / "dropped.json")
        self.damaged_files += self.dropped.is_damaged
        self._list(complete_commit, frozenset(taken))

    # Opening

    def _list(self, complete_commit: int, taken: Collection[str]) -> None:
        whole, broken = self._files.open()
        for entry in broken:
            self._note_damage(entry)
        for entry in sorted(whole):
            if entry.commit > complete_commit or entry.name in taken:
                self._files.remove(entry)
            else:
                self._show(entry)
                self._size += entry.size
        self.dropped.save()

    def _note_damage(self, entry: Entry | None) -> None:
        """`entry` is None where not even the name says what it was."""
        self.damaged_files += 1
        if entry is not None:
            self._count(entry, DAMAGED)

    # Writing

    def write(self, commit: int, batches: Sequence[Batch], now_s: float) -> None:
        """Writes the batches durably under `commit`, which no `release` has named yet.

        Raises LimitError where the disk had no room for some of them: those are counted as dropped, all others are
        written. Raises InputError for a name that no file can have.
        """
        # Without the lock, which delivery needs meanwhile: nobody else knows these files.
        outcomes = self._files.write(commit, batches, int(now_s))
        held = [entry for entry, error in outcomes if error is None]
        refused = len(outcomes) - len(held)
        with self._lock:
            for entry, error in outcomes:
                if error is not None:
                    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
                    self._count(entry, DISK if full else os.strerror(error.errno or 0))
            self._size += sum(entry.size for entry in held)
            self._held.setdefault(commit, deque()).extend(held)
            self._keep_bounds(now_s)
            self.dropped.save()
        if refused:
            raise LimitError(
                f"the spool found no room for {refused} of {len(batches)} batches", "make room on the disk"
            )

    def release(self, commit: int) -> None:
        """Makes the batches of `commit` visible to delivery."""
        with self._lock:
            for entry in self._held.pop(commit, ()):
                self._show(entry)

    # Delivering

    def waiting(self) -> dict[str, int]:
        """Flow log -> number of its visible batches for streams."""
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

    def slots(self) -> list[Slot]:
        """What waits for a bucket and is not leased."""
        with self._lock:
            waiting = [list(queue.entries) for queue in self._queues.values() if not queue.leased]
        return [
            Slot(
                entries[0].flow_log_id,
                entries[0].slot_s,
                len(entries),
                sum(entry.size for entry in entries),
                min(entry.created_s for entry in entries),
            )
            for entries in waiting
            if entries and entries[0].slot_s
        ]

    def lease_slot(self, flow_log_id: str, slot_s: int) -> list[Entry]:
        """All that waits in a slot, oldest first, each to be acknowledged or given back."""
        with self._lock:
            queue = self._queues.get((flow_log_id, str(slot_s)))
            if queue is None or queue.leased:
                return []
            queue.leased = len(queue.entries)
            return list(queue.entries)

    def take_away(self, entries: Sequence[Entry]) -> None:
        """They are somewhere else, durably; when this returns, a power cut cannot bring them back."""
        for entry in entries:
            self.acknowledge(entry)
        self._files.sync()

    def read(self, entry: Entry) -> Batch | None:
        """The batch of an entry; None where its file is damaged, which is then set aside, counted and gone."""
        try:
            return self._files.read(entry)
        except (OSError, ValueError):
            with self._lock:
                self._files.set_aside(entry.name)
                self._note_damage(entry)
                self._remove(entry)
                self.dropped.save()
            return None

    def acknowledge(self, entry: Entry) -> None:
        """The destination has it: it is removed. A power cut may bring it back; its batch id makes that harmless."""
        with self._lock:
            self._files.remove(entry)
            self._remove(entry)

    def give_back(self, entries: Sequence[Entry]) -> None:
        """All that is left of a lease."""
        with self._lock:
            for entry in {entry.queue: entry for entry in entries}.values():
                if (queue := self._queues.get(entry.queue)) is not None:
                    queue.leased = 0
                    self._begin_turn(entry)

    def discard(self, entry: Entry, reason: str) -> None:
        """Drops a batch and counts it."""
        with self._lock:
            self._drop(entry, reason)
            self.dropped.save()

    # Bounds

    def expire(self, now_s: float) -> None:
        """Drops what is too old."""
        with self._lock:
            self._keep_bounds(now_s)
            self.dropped.save()

    def clock_set_forward(self, now_s: float, seconds: float) -> None:
        """Batches of before it are older by this only for the clock. Known until the process ends."""
        with self._lock:
            self._steps.append((now_s - seconds, seconds))

    def _is_too_old(self, created_s: float, now_s: float) -> bool:
        """By the clock as it is now."""
        for before_s, seconds in self._steps:
            if created_s <= before_s:
                created_s += seconds
        return created_s < now_s - self.seconds_max

    def _keep_bounds(self, now_s: float) -> None:
        for queue in list(self._queues.values()):
            while (entry := self._oldest(queue)) and self._is_too_old(entry.created_s, now_s):
                self._drop(entry, EXPIRED)
        if self.annex is not None:
            self.annex.expire(lambda created_s: self._is_too_old(created_s, now_s))
        while self._size + (self.annex.size if self.annex else 0) > self.bytes_max:
            oldest = [entry for queue in self._queues.values() if (entry := self._oldest(queue))]
            oldest += [entries[0] for entries in self._held.values() if entries]
            beside_s = self.annex.oldest_s if self.annex else None
            if self.annex and beside_s is not None and (not oldest or beside_s <= min(oldest).created_s):
                self.annex.drop_oldest(FULL)
            elif oldest:
                self._drop(min(oldest), FULL)
            else:
                return

    @staticmethod
    def _oldest(queue: Queue) -> Entry | None:
        """The oldest batch that may be dropped: leased ones are at the head and are left alone."""
        return queue.entries[queue.leased] if len(queue.entries) > queue.leased else None

    # Counting

    @property
    def size(self) -> int:
        """Bytes on disk, visible or not."""
        return self._size

    def counters(self) -> dict[str, Any]:
        """For the status: what waits, and what was dropped, by flow log, stream and reason."""
        with self._lock:
            entries = [queue.entries for queue in self._queues.values() if queue.entries]
            gathering = Counter(entry.flow_log_id for waiting in entries for entry in waiting if entry.slot_s)
            return {
                "batches": sum(map(len, entries)),
                "waiting": dict(Counter(self._counts) + gathering),
                "gathering": gathering.total(),
                "bytes": self._size,
                "bytes_max": self.bytes_max,
                "oldest_s": min((queue[0].created_s for queue in entries), default=None),
                "damaged_files": self.damaged_files,
                "dropped": self.dropped.to_json(),
            }

    def _count(self, entry: Entry, reason: str) -> None:
        self.dropped.count(entry.flow_log_id, entry.stream, reason, share_of(entry))

    # Bookkeeping

    def _show(self, entry: Entry) -> None:
        """Makes a batch visible, behind the others of its stream or slot."""
        queue = self._queues.setdefault(entry.queue, Queue())
        queue.entries.append(entry)
        if not entry.slot_s:
            self._counts[entry.flow_log_id] += 1
        if not queue.leased:
            self._begin_turn(entry)

    def _begin_turn(self, entry: Entry) -> None:
        if not entry.slot_s:
            self._turns[entry.flow_log_id].setdefault(entry.stream)

    def _end_turn(self, flow_log_id: str, stream: str) -> None:
        turns = self._turns.get(flow_log_id, {})
        turns.pop(stream, None)
        if not turns:
            self._turns.pop(flow_log_id, None)

    def _drop(self, entry: Entry, reason: str) -> None:
        self._files.remove(entry)
        self._remove(entry)
        self._count(entry, reason)

    def _remove(self, entry: Entry) -> None:
        queue = self._queues.get(entry.queue)
        if queue is not None and entry in queue.entries:
            under_way = queue.entries.index(entry) < queue.leased
            queue.entries.remove(entry)
            self._size -= entry.size
            if not entry.slot_s:
                self._counts[entry.flow_log_id] -= 1
                if not self._counts[entry.flow_log_id]:
                    del self._counts[entry.flow_log_id]
            queue.leased -= under_way
            if not queue.entries:
                del self._queues[entry.queue]
                self._end_turn(entry.flow_log_id, entry.stream)
            elif under_way and not queue.leased:
                self._begin_turn(entry)
            return
        held = self._held.get(entry.commit, ())
        if entry in held:
            self._held[entry.commit].remove(entry)
            self._size -= entry.size


def share_of(entry: Entry) -> Share:
    return Share(1, entry.events, entry.packets, entry.bytes)

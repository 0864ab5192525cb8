"""The publisher: what has gathered in a slot of a flow log becomes files of its bucket.

A slot's files are made when all windows with records that end in it have closed: at the first multiple of the
aggregation interval at or after its end, and `GRACE_SECONDS` later. What comes after that makes a further file of the
slot. The very first file of a flow log is made at once, so that whoever has just made it sees that it works; AWS too
may give several files a slot (VPC user guide, flow log files). When a flow log has no interface here any more, there is
nothing to wait for, and neither when it was deleted.

The files are made in a thread of its own, since a full slot takes seconds to compress, from the spool into the outbox:
batch by batch, in the order in which they were spooled, until a file is full.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pyarrow as pa

from vnotch.bucket_files import ParquetFile, TextFile, text_of
from vnotch.bucket_keys import HASH_DIGITS, SLOT_SECONDS
from vnotch.deliver.batch import Batch, Entry
from vnotch.deliver.dropped import Share
from vnotch.deliver.outbox import Digesting, Outbox, SlotFile
from vnotch.deliver.spool import Slot, Spool, share_of
from vnotch.durable import replace_file
from vnotch.line import record_lines
from vnotch.record import flow_log_format

GRACE_SECONDS = 5.0
"""For the window that ends with the slot to close and reach the spool."""

FIRST_SECONDS = 2.0
"""The batches of one window come together; the first file waits for them."""

FILE_BYTES_MAX = 75_000_000
"""A file that might get larger is closed and another one begun (VPC user guide until 2023: 75 MB)."""

BUFFERED_BYTES = 512 << 10
"""More than the compressor of text holds back, and than the footer of a Parquet file."""

ROW_GROUP_ROWS = 1 << 18
"""Of Parquet; they are in memory until they are written."""

LOOK_SECONDS = 1.0
RETRY_SECONDS = 10.0

log = logging.getLogger(__name__)


class Publisher:
    """Makes files. `intervals` tells the aggregation intervals of the flow logs that are served now, None where that is
    not known yet; `on_files` is called when there is something new in the outbox."""

    def __init__(
        self,
        spool: Spool,
        outbox: Outbox,
        folder: Path,
        incarnation: str,
        intervals: Callable[[], Mapping[str, int] | None],
        *,
        on_files: Callable[[], None] = lambda: None,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        """`folder` is where it notes which flow logs have had a file; `incarnation` tells this agent from all others,
        also from one of its name before its folder was removed."""
        self._spool = spool
        self._outbox = outbox
        self._incarnation = incarnation
        self._intervals = intervals
        self._on_files = on_files
        self._now_s = now_s
        self._begun_path = folder / "published.json"
        self._begun = _read_names(self._begun_path)
        self._publishing = threading.Lock()
        self._wake = threading.Condition()
        self._stopping = False
        self.error: str | None = None
        """Why the last file could not be made; None after one that could."""
        self._thread = threading.Thread(target=self._work, name="vnotch-publisher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_seconds: float) -> None:
        """Lets a file that is being made be made, for at most this long."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)

    def wake(self) -> None:
        """There is something new in the spool."""
        with self._wake:
            self._wake.notify_all()

    def publish(self, *, everything: bool = False) -> int:
        """Makes the files of all slots that are due, or of all; -> how many. What the disk does not take is tried again
        the next time; an error is noted."""
        made = 0
        with self._publishing:
            intervals, now_s = self._intervals(), self._now_s()
            try:
                for slot in sorted(self._spool.slots(), key=lambda slot: (slot.slot_s, slot.flow_log_id)):
                    if everything or self._is_due(slot, intervals, now_s):
                        made += self._publish(slot)
                        self._note(slot.flow_log_id, intervals)
                self.error = None
            except OSError as error:
                if self.error is None:
                    log.error("files for buckets cannot be made: %s", error)
                self.error = str(error)
        if made:
            self._on_files()
        return made

    # When

    def _is_due(self, slot: Slot, intervals: Mapping[str, int] | None, now_s: float) -> bool:
        if intervals is not None and slot.flow_log_id not in intervals:
            return True
        if slot.flow_log_id not in self._begun and now_s >= slot.oldest_s + FIRST_SECONDS:
            return True
        interval = (intervals or {}).get(slot.flow_log_id, SLOT_SECONDS)
        end_s = slot.slot_s + SLOT_SECONDS
        complete_s = -(-end_s // interval) * interval
        return now_s >= complete_s + GRACE_SECONDS

    def _note(self, flow_log_id: str, intervals: Mapping[str, int] | None) -> None:
        if flow_log_id in self._begun:
            return
        known = self._begun if intervals is None else self._begun & intervals.keys()
        self._begun = known | {flow_log_id}
        replace_file(self._begun_path, json.dumps(sorted(self._begun)).encode())

    def _work(self) -> None:
        while not self._stopping:
            try:
                self.publish()
            except Exception as error:
                # A mistake of ours in one slot must not end the others.
                log.exception("publishing")
                self.error = f"{type(error).__name__}: {error}"
            with self._wake:
                if not self._stopping:
                    self._wake.wait(RETRY_SECONDS if self.error else LOOK_SECONDS)

    # What

    def _publish(self, slot: Slot) -> int:
        """The files of one slot -> how many. Raises OSError; what is in no file then stays in the spool."""
        entries = self._spool.lease_slot(slot.flow_log_id, slot.slot_s)
        made = 0
        try:
            while entries:
                taken, file = self._make_file(slot, entries)
                entries = entries[taken:]
                made += file is not None
        finally:
            self._spool.give_back(entries)
        return made

    def _make_file(self, slot: Slot, entries: list[Entry]) -> tuple[int, SlotFile | None]:
        """A file of the first of these batches -> (how many are done with, the file). Damaged ones are set aside by the
        spool, which counts them."""
        first = self._first_whole(entries)
        if first is None:
            return len(entries), None
        number, batch = first
        entries = entries[number:]
        content = _Content(self._spool, entries, batch)
        file = self._outbox.add(
            slot.flow_log_id, slot.slot_s, self._name_hash(slot, entries[0]), batch.file_format, content.write
        )
        if file is not None:
            self._spool.take_away(content.taken)
            self._outbox.show(file)
        return number + content.read, file

    def _first_whole(self, entries: list[Entry]) -> tuple[int, Batch] | None:
        for number, entry in enumerate(entries):
            if (batch := self._spool.read(entry)) is not None:
                return number, batch
        return None

    def _name_hash(self, slot: Slot, first: Entry) -> str:
        """No two files of a slot begin with the same batch, on this host or another."""
        what = f"{self._incarnation}/{slot.flow_log_id}/{slot.slot_s}/{first.commit}/{first.index}"
        return hashlib.sha256(what.encode()).hexdigest()[:HASH_DIGITS]


class _Content:
    """What goes into one file: the first of `entries`, as many as it holds."""

    def __init__(self, spool: Spool, entries: list[Entry], first: Batch) -> None:
        self._spool = spool
        self._entries = entries
        self._first = first
        self._format = flow_log_format(first.log_format)
        self.taken: list[Entry] = []
        self.read = 0
        """How many of the entries are done with: those taken, and damaged ones between them."""

    def write(self, file: Digesting) -> tuple[int, int, Mapping[str, Share], list[str]]:
        """See `Outbox.add`."""
        self._write_parquet(file) if self._first.file_format == "parquet" else self._write_text(file)
        records = sum(entry.events for entry in self.taken)
        created_s = min((entry.created_s for entry in self.taken), default=0)
        return records, created_s, _by_stream(self.taken), [entry.name for entry in self.taken]

    def _write_text(self, file: Digesting) -> None:
        """A batch is text in memory as a whole; it is at most a window's records of one interface."""
        with TextFile(file, self._format.header) as text:
            for entry, table in self._tables():
                lines = text_of(record_lines(table, self._format))
                if self.taken and text.size + BUFFERED_BYTES + len(lines) > FILE_BYTES_MAX:
                    break
                text.write_bytes(lines, table.num_rows)
                self._take(entry)

    def _write_parquet(self, file: Digesting) -> None:
        """Row groups are made of several batches, else they would be many and small."""
        group: list[pa.Table] = []
        size = rows = 0  # of the group, as it is in memory, which is more than in the file
        with ParquetFile(file, self._format.schema) as parquet:
            for entry, table in self._tables():
                if group and rows + table.num_rows > ROW_GROUP_ROWS:
                    parquet.write(pa.concat_tables(group))
                    group, size, rows = [], 0, 0
                if self.taken and parquet.size + BUFFERED_BYTES + size + table.nbytes > FILE_BYTES_MAX:
                    break
                group.append(table)
                size, rows = size + table.nbytes, rows + table.num_rows
                self._take(entry)
            if group:
                parquet.write(pa.concat_tables(group))

    def _tables(self) -> Iterator[tuple[Entry, pa.Table]]:
        """Batch by batch; what is no whole one is passed over."""
        for number, entry in enumerate(self._entries):
            batch = self._first if number == 0 else self._spool.read(entry)
            if batch is None:
                self.read = number + 1
                continue
            yield entry, batch.events

    def _take(self, entry: Entry) -> None:
        self.taken.append(entry)
        self.read = self._entries.index(entry, self.read) + 1


def _by_stream(entries: list[Entry]) -> dict[str, Share]:
    shares: dict[str, Share] = {}
    for entry in entries:
        share, before = share_of(entry), shares.get(entry.stream, Share(0, 0, 0, 0))
        shares[entry.stream] = before + share
    return shares


def _read_names(path: Path) -> set[str]:
    """The flow logs that have had a file; none where that cannot be read, which costs a small file more."""
    try:
        return {str(name) for name in json.loads(path.read_bytes())}
    except (OSError, ValueError, TypeError):
        return set()

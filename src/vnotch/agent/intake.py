"""Drains on their way in: from the kernel's map to the journal, the open windows and the ledger.

The first three of the loop's stages (`loop`), and their repetition at a start: a drain is booked and journalled before
the map that it was read from is emptied, so a process that ends in between finds it in one of the two.
"""

from __future__ import annotations

import logging
from pathlib import Path

import pyarrow as pa

from vnotch.agent.datapath import Datapath
from vnotch.agent.interfaces import Interfaces
from vnotch.agent.journal import Entry, Journal
from vnotch.agent.owners import OwnerObserver, WindowOwners
from vnotch.agent.progress import Progress
from vnotch.agent.tracks import Tracks
from vnotch.agent.view import RecentDrains
from vnotch.boot import boot_id
from vnotch.capture.generations import Drain
from vnotch.inventory import Interface
from vnotch.ledger import Ledger
from vnotch.owner import OWNER_SCHEMA

LEDGER_WINDOWS = 4
LEDGER_INTERVAL_SECONDS = 60
"""Windows of the ledger where no flow log is in use."""

_SECOND_NS = 1_000_000_000

log = logging.getLogger(__name__)


class Intake:
    """Takes in drains, in order, each once. `number` is that of the last one."""

    def __init__(
        self,
        folder: Path,
        datapath: Datapath,
        progress: Progress,
        tracks: Tracks,
        interfaces: Interfaces,
        *,
        observer: OwnerObserver | None,
    ) -> None:
        """Replays the journal in `folder`. `observer` finds who is behind flows, of the interfaces `asked`."""
        self._datapath = datapath
        self._progress = progress
        self._tracks = tracks
        self._interfaces = interfaces
        self._observer = observer
        self._boot_id = boot_id()
        self.journal = Journal(folder)
        self.owners = WindowOwners()
        self.asked: set[str] = set()  # interfaces
        self.recent = RecentDrains()
        self.ledger = Ledger(LEDGER_WINDOWS)
        self._goes_on = datapath.taken_over or datapath.predecessor is not None
        """Whether the ledger does: with new maps `seen` begins at zero, and the ledger with it."""
        self.is_whole = progress.ledger is not None
        """Whether nothing is missing in the ledger: the progress may have been damaged, or never saved."""
        if not self._goes_on:
            progress.inherited = {}
        elif progress.ledger is not None:
            self.ledger = Ledger.from_json(progress.ledger, LEDGER_WINDOWS)
        self.number = max(progress.ledger_through, self.journal.last_number or 0)
        self.unwritten: dict[int, dict[str, int]] = {}
        """Drains that the journal did not take -> their windows."""
        self.journal_failures = 0
        self.drained_flows = 0
        """Of the last drain."""
        self._last_flip_ns: int | None = None
        self._uncommitted = datapath.taken_over
        self._taken: tuple[str, int, int] | None = None
        self._replay()

    def _replay(self) -> None:
        for entry in self.journal.replay():
            lost = self._tracks.replay(entry)
            self.owners.add(entry.starts, entry.owners)
            if entry.number > self._progress.ledger_through and self._goes_on:
                self.ledger.add(entry.flows, entry.losses, entry.ledger_start_s)
                if lost is not None:
                    self.ledger.lose(lost, entry.ledger_start_s)
            self._taken = (entry.boot_id, entry.generation, entry.flipped_ns)
        self.owners.keep(self._tracks.open_windows)
        if len(self.journal):
            log.info("%d drains of before are in the journal", len(self.journal))

    @property
    def observer(self) -> OwnerObserver | None:
        """None where nothing asks who is behind flows."""
        return self._observer if self.asked else None

    @property
    def last_ns(self) -> int:
        """Unix time of the last drain, of this or another process; 0 where there was none."""
        return max(self._progress.drained_ns, self._taken[2] if self._taken else 0)

    @property
    def first_needed(self) -> int:
        """The first drain that may still go into a record: in the journal, or in memory where it was not taken."""
        needed = [self.number + 1, *self.unwritten]
        if self.journal.first_number is not None:
            needed.append(self.journal.first_number)
        return min(needed)

    def drain_all(self) -> None:
        """Takes in whatever the kernel has counted by now; nothing while a release before counts too (`succession`)."""
        if self._datapath.predecessor is not None:
            return
        if self._uncommitted:
            self._drain()  # one that was begun before: newer packets are not in it
        self._drain()

    def _drain(self) -> None:
        """Takes one drain in and commits it. One that was taken in before and not committed is only committed."""
        self._uncommitted = True
        drain = self._datapath.flip_and_drain()
        name = (self._boot_id, drain.generation, drain.flipped_ns)
        if name != self._taken:
            self.take(drain, self._instant(drain.flipped_ns))
            self._taken = name
            self._progress.drained_ns = drain.flipped_ns
        self._datapath.commit(drain.generation)
        self._uncommitted = False

    def _instant(self, flipped_ns: int) -> int:
        """An instant of the tick that the drain covers: of the tick that just ended where a boundary was passed."""
        tick_ns = self._tracks.tick_seconds * _SECOND_NS
        boundary_ns = flipped_ns // tick_ns * tick_ns
        last_ns, self._last_flip_ns = self._last_flip_ns, flipped_ns
        if last_ns is not None and last_ns < boundary_ns:
            return boundary_ns - 1
        return flipped_ns

    def take(self, drain: Drain, at_ns: int) -> None:
        """Books a drain and makes it durable; where the disk refuses, it is kept in memory and counted."""
        self.number += 1
        self.drained_flows = drain.flows.num_rows
        self.recent.add(self.number, drain)
        owners = self._observe(drain)
        starts, lost = self._tracks.add(drain.flows, drain.losses, at_ns)
        self.owners.add(starts, owners)
        interval = LEDGER_INTERVAL_SECONDS
        ledger_start_s = at_ns // _SECOND_NS // interval * interval
        if track := self._tracks.ledger_track:
            ledger_start_s = starts[track]
        self.ledger.add(drain.flows, drain.losses, ledger_start_s)
        if lost is not None:
            self.ledger.lose(lost, ledger_start_s)
        entry = Entry(
            number=self.number,
            boot_id=self._boot_id,
            generation=drain.generation,
            flipped_ns=drain.flipped_ns,
            starts=starts,
            ledger_start_s=ledger_start_s,
            flows=drain.flows,
            losses=drain.losses,
            owners=owners,
        )
        try:
            self.journal.append(entry)
        except OSError as error:
            self.journal_failures += 1
            self.unwritten[self.number] = starts
            log.error("drain %d is in memory only, the journal does not take it: %s", self.number, error)

    def _observe(self, drain: Drain) -> pa.Table:
        if self.observer is None:
            return OWNER_SCHEMA.empty_table()
        asked: dict[int, Interface] = {
            slot: interface
            for slot, interface in self._interfaces.by_slot.items()
            if interface.interface_id in self.asked
        }
        return self.observer.observe(drain.flows, asked)

    @property
    def has_done(self) -> bool:
        """Whether the journal has a drain all of whose windows are spooled."""
        return self.journal.has_any(self._tracks.is_done)

    def prune(self) -> None:
        """Drains all of whose windows are spooled leave the journal."""
        done = self._tracks.is_done
        self.journal.remove(done)
        self.unwritten = {number: starts for number, starts in self.unwritten.items() if not done(number, starts)}

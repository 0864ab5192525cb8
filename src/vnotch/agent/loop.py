"""The agent's loop: from drains to the spool. One thread runs it, and only this thread uses the datapath.

A step takes the next drain through these stages, each durable before the next:

    1 flip and drain    the kernel's map A goes out of use, B counts; A is read and not emptied
    2 journal           the drain and the windows it goes into, one file, fsynced
    3 commit            A is emptied; the next flip may use it
    4 close             windows that have ended become batches, written to the spool under the next commit number
    5 progress          one file is replaced: this commit number, the closed windows with the last drain in them, which
                        interfaces have had a record, the ledger with the last drain in it
    6 release           the batches of the commit become visible to delivery
    7 prune             drains all of whose windows are spooled leave the journal

Killed at any point, nothing is lost and nothing is delivered twice:

- before 2 is whole: the drain is in the map only. The map was not emptied, so the next start drains it again.
- between 2 and 3: the drain is in the journal and in the map. The next start replays the journal; the datapath gives
  the same generation again, which the journal's last entry knows, so it is not added again and only committed.
- between 3 and 5: the journal has the drain. The batches that 4 wrote carry a commit number above the one in the
  progress file; the spool removes them at the next start, unseen, and the replay makes them again.
- between 5 and 6: the progress file has the commit number, so the spool shows its batches at the next start. The
  replay leaves out each drain that the progress file marks as done for its window.
- between 6 and 7: as before; drains that are done are removed at the next prune.
- the courier's side: a batch is removed from the spool after the destination has acknowledged it. Killed in between it
  is sent again under the same batch id, which the log service has in the same transaction as the data.

Two drains never have one number, since numbers go on from the journal and the progress file. A window of a time that
comes twice, because the clock was set back, is told from the first by the drains in it: a mark says *this window, up to
this drain*. The same mark tells the two parts of a first window that ended early (`tracks.py`). Which interface a slot
stands for is saved before it is attached (`interfaces.py`).

A release whose maps have another layout than those that it finds (`capture.predecessor`) takes the interfaces over one
by one, and drains nothing before that is done. What its predecessor counted and did not drain is in the ledger and in
SKIPDATA records as lost by the upgrade: the difference between what it has seen in all and what the ledger has of it.

A disk that is full costs durability but no packet: a drain that the journal cannot take is kept in memory, committed
and counted (`journal_failures`); batches that find no room are dropped and counted; progress that cannot be saved is
tried again at the next step, with its batches held back until then.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from vnotch.agent.datapath import Datapath, Predecessor
from vnotch.agent.intake import Intake
from vnotch.agent.interfaces import Interfaces
from vnotch.agent.owners import OwnerObserver, asks
from vnotch.agent.progress import Progress
from vnotch.agent.spooling import Spooling, spooling_of
from vnotch.agent.status import CaptureStatus
from vnotch.agent.succession import succeed
from vnotch.agent.tracks import EARLY_SECONDS, Closed, Tracks
from vnotch.agent.view import LoopView, open_windows
from vnotch.deliver.outbox import Outbox
from vnotch.deliver.spool import Spool
from vnotch.errors import KernelError, LimitError
from vnotch.flow import Direction
from vnotch.inventory import AgentConfiguration, FlowLog
from vnotch.paths import NO_PEERS, Peers
from vnotch.service_ranges import NO_RANGES, ServiceRanges
from vnotch.window import MAX_FLOWS

CLOCK_STEP_SECONDS = 5
"""Less is how clocks are steered, and matters to no bound."""

_SECOND_NS = 1_000_000_000

log = logging.getLogger(__name__)


class Capture:
    """The steps of the loop, and what they keep."""

    def __init__(
        self,
        folder: Path,
        datapath: Datapath,
        *,
        spool_bytes_max: int,
        spool_seconds_max: int,
        flows_max: int = MAX_FLOWS,
        early_seconds: int | None = EARLY_SECONDS,
        ranges: ServiceRanges = NO_RANGES,
        owners: OwnerObserver | None = None,
        now_ns: Callable[[], int] = time.time_ns,
        elapsed_ns: Callable[[], int] = lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME),
    ) -> None:
        """`elapsed_ns` goes on evenly, also while the host sleeps, and whatever is done to the clock `now_ns`. `owners`
        finds who is behind flows; without it the fields that say so are absent."""
        self._datapath = datapath
        self._ranges = ranges
        self._peers = NO_PEERS
        self._now_ns = now_ns
        self._elapsed_ns = elapsed_ns
        self._clocks_apart_ns = now_ns() - elapsed_ns()
        self._progress_path = folder / "progress.json"
        self._progress = Progress.load(self._progress_path)
        self._tracks = Tracks(self._progress, flows_max, early_seconds)
        self.interfaces = Interfaces(folder / "slots.json", datapath, now_ns=now_ns)
        self.outbox = Outbox(folder / "uploads")
        self.spool = Spool(
            folder / "spool",
            bytes_max=spool_bytes_max,
            seconds_max=spool_seconds_max,
            complete_commit=self._progress.commit,
            taken=self.outbox.taken,
        )
        self.outbox.count_in(self.spool.dropped)
        self.spool.annex = self.outbox
        self.intake = Intake(
            folder / "journal", datapath, self._progress, self._tracks, self.interfaces, observer=owners
        )
        self._status = CaptureStatus(
            datapath, self._progress, self._tracks, self.interfaces, self.intake, self.spool, self.outbox
        )
        self.configuration: AgentConfiguration | None = None
        self._unsaved = False
        self._held: list[int] = []
        self.unclaimed_packets = 0
        self.refused: dict[str, str] = {}
        """Flow log -> why none of its records can be made."""

    @property
    def tick_seconds(self) -> int:
        return self._tracks.tick_seconds

    @property
    def incarnation(self) -> str:
        """Tells this agent's folder from any other, also from one of its name that was removed."""
        return self._progress.incarnation

    def intervals(self) -> dict[str, int] | None:
        """Flow log -> aggregation interval in seconds, of those served now; None before there is a configuration."""
        if (configuration := self.configuration) is None:
            return None
        return {flow_log.flow_log_id: flow_log.max_aggregation_interval for flow_log in configuration.flow_logs}

    @property
    def flow_log_ids(self) -> set[str] | None:
        """The flow logs that the agent serves now; None before it has a configuration."""
        if self.configuration is None:
            return None
        return {flow_log.flow_log_id for flow_log in self.configuration.flow_logs}

    # The configuration

    def apply(self, configuration: AgentConfiguration) -> None:
        """Brings everything to a new configuration. Raises OSError where slots cannot be saved: try again."""
        before = self._progress.flow_logs
        wanted = {flow_log.flow_log_id: flow_log for flow_log in configuration.flow_logs}
        if not wanted.keys() <= before.keys():
            # What was captured before a flow log came is none of its business.
            self.step()
        covering: dict[str, list[str]] = {}
        for flow_log in before.values():
            for interface_id in flow_log.interface_ids:
                covering.setdefault(interface_id, []).append(flow_log.flow_log_id)
        self.interfaces.apply(configuration.interfaces, covering, self.intake.number + 1, configuration.rules)
        ended = {flow_log_id: flow_log for flow_log_id, flow_log in before.items() if flow_log_id not in wanted}
        if ended:
            self.intake.drain_all()  # with the last packets of interfaces that are gone
        self._progress.flow_logs = wanted | ended
        self._follow(self._progress.flow_logs.values())
        self.intake.asked = {
            interface_id
            for flow_log in self._progress.flow_logs.values()
            if asks(flow_log)
            for interface_id in flow_log.interface_ids
        }
        self._peers = Peers(configuration.peers)
        if configuration.peers_omitted:
            log.warning("%d interfaces of the VPC are in no next-hop field", configuration.peers_omitted)
        self.configuration = configuration
        if self._datapath.predecessor is not None:
            self._succeed(self._datapath.predecessor)
        made = self._spool_last_of(ended)
        self._finish(made)

    def _succeed(self, predecessor: Predecessor) -> None:
        """The interfaces are taken over from a release with other maps."""
        succeed(self._datapath, predecessor, self.intake, self._progress, self._now_ns())
        self._save()
        self._datapath.forget_predecessor()

    def _spool_last_of(self, ended: Iterable[str]) -> Spooling:
        """The last windows of flow logs that were deleted, or have no interface here any more: nothing comes after
        them, so they end now, while role or bucket are likely to be there still. What was collected until then is
        delivered, as on AWS."""
        now_s = self._now_ns() // _SECOND_NS
        closed = [item for flow_log_id in ended for item in self._tracks.so_far(flow_log_id, now_s)]
        for flow_log_id in ended:
            self._progress.recorded.pop(flow_log_id, None)  # without traffic a window that is cut short says nothing
        made = self._spool(closed, now_s)
        for flow_log_id in ended:
            del self._progress.flow_logs[flow_log_id]
            self._progress.recorded.pop(flow_log_id, None)
        self._follow(self._progress.flow_logs.values())
        return made

    # One step

    def step(self, *, close_all: bool = False) -> bool:
        """One drain through all stages; -> whether there is something new in the spool.

        Raises KernelError where the datapath fails; nothing is lost by that, the next step takes the same packets.
        """
        self.interfaces.end_adoptions()
        self.intake.drain_all()
        now_ns = self._now_ns()
        self._note_clock(now_ns)
        self.spool.expire(now_ns / _SECOND_NS)
        return self._close(None if close_all else now_ns, now_ns / _SECOND_NS)

    def _note_clock(self, now_ns: int) -> None:
        """A clock that is set forward makes nothing older: a host that starts with a wrong clock, with what it has
        spooled until it learns the time, must not lose that for its age."""
        apart_ns = now_ns - self._elapsed_ns()
        forward_ns, self._clocks_apart_ns = apart_ns - self._clocks_apart_ns, apart_ns
        if forward_ns >= CLOCK_STEP_SECONDS * _SECOND_NS:
            log.warning("the clock was set forward by %.0f s", forward_ns / _SECOND_NS)
            self.spool.clock_set_forward(now_ns / _SECOND_NS, forward_ns / _SECOND_NS)

    # Closing

    def _close(self, now_ns: int | None, now_s: float) -> bool:
        closed = self._tracks.close(now_ns, self.intake.number)
        made = self._spool(closed, now_s)
        self.intake.owners.keep(self._tracks.open_windows)
        due = closed or self._unsaved or self.intake.has_done or self._free_slots()
        if due and self._finish(made):
            self._prune()
        return bool(closed)

    def _finish(self, made: Spooling) -> bool:
        """Saves the progress; what records tell of is told then. False where the disk does not take it."""
        if not self._save():
            return False
        for stream in made.told:
            self.spool.dropped.told(*stream)
        return True

    def _spool(self, closed: Sequence[Closed], now_s: float) -> Spooling:
        """Makes and writes the batches of these windows, under a commit number that the next progress makes final."""
        if not closed:
            return Spooling()
        self._progress.commit += 1
        self._held.append(self._progress.commit)
        made = spooling_of(
            closed,
            self._progress,
            self.interfaces,
            self.spool,
            peers=self._peers,
            ranges=self._ranges,
            owners=self.intake.owners.of,
        )
        self.refused = made.refused
        self.unclaimed_packets += made.unclaimed_packets
        try:
            self.spool.write(self._progress.commit, made.batches, now_s)
        except LimitError as error:
            log.error("%s", error)
        return made

    def _save(self) -> bool:
        """Makes the progress final and what it names visible; False where the disk does not take it."""
        free = self._free_slots()
        for slot in free:
            # In this order: a slot is given out again only when no saved ledger and no counter knows its last owner.
            self._datapath.clear(slot)
            self.intake.ledger.forget(slot)
            for direction in Direction:
                self._progress.inherited.pop((slot, int(direction)), None)
        self._progress.ledger = self.intake.ledger.to_json()
        self._progress.ledger_through = self.intake.number
        try:
            self._progress.save(self._progress_path)
        except OSError as error:
            self._unsaved = True
            log.error("progress cannot be saved, batches are held back: %s", error)
            return False
        self._unsaved = False
        for commit in self._held:
            self.spool.release(commit)
        self._held.clear()
        try:
            self.interfaces.free(free)
        except OSError as error:
            log.error("slots cannot be saved: %s", error)  # they are free at the next step
        return True

    def _free_slots(self) -> list[int]:
        return self.interfaces.reclaimable(self.intake.first_needed)

    def _prune(self) -> None:
        self.intake.prune()
        self._forget_rules()
        self._tracks.forget_done(self.intake.first_needed)

    def _forget_rules(self) -> None:
        """Numbers of rules that are gone, once no drain that may name them is needed any more."""
        if not self.interfaces.rule_names.has_old:
            return
        first_needed = self.intake.first_needed
        try:
            self.interfaces.rule_names.forget(self._datapath.rule_numbers(), self.intake.number + 1, first_needed)
        except (OSError, KernelError) as error:
            log.error("numbers of rules that are gone are kept for now: %s", error)

    def _follow(self, flow_logs: Iterable[FlowLog]) -> None:
        self._tracks.follow(flow_logs, self.intake.number + 1, self._now_ns() // _SECOND_NS)

    # Showing

    def view(self) -> LoopView:
        """What a view needs of the loop: references to tables that nobody changes, and copies of the small rest."""
        return LoopView(
            generation=self._datapath.generation,
            number=self.intake.number,
            tick_seconds=self.tick_seconds,
            windows=open_windows(self._tracks.parts(), self._progress.flow_log_tracks),
            ledger_track=self._tracks.ledger_track,
            flow_logs=dict(self._progress.flow_logs),
            flow_log_tracks=dict(self._progress.flow_log_tracks),
            interfaces=self.interfaces.by_slot,
            rules=self.interfaces.rule_names,
            peers=self._peers,
            ranges=self._ranges,
            drains=self.intake.recent.drains(),
        )

    def status(self) -> dict[str, Any]:
        """The parts of the status that the capture knows (`CaptureStatus`)."""
        peers_omitted = self.configuration.peers_omitted if self.configuration else 0
        return self._status.to_json(unclaimed_packets=self.unclaimed_packets, peers_omitted=peers_omitted)

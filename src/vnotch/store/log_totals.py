"""Keeps the totals of log streams (first and last event, bytes), and what log groups took in by month, in step with the
lake, on the committer's thread."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from sqlalchemy.orm import Session

from vnotch.store.committer import StreamDelta, merged_deltas
from vnotch.store.lake import Lake
from vnotch.store.log_groups import (
    RECOUNT,
    add_totals,
    forget_graves,
    graves,
    progress,
    reset_totals,
    retention_cutoffs,
    set_progress,
    take_totals,
)
from vnotch.store.log_usage import add_ingested, usage_progress
from vnotch.store.state import State
from vnotch.store.upkeep import Expired, ExpiryListener

log = logging.getLogger(__name__)


class LogTotals:
    """Subscribes to the lake's commits and deletions. `behind` says that the totals miss something that is stored."""

    def __init__(self, state: State, lake: Lake) -> None:
        self.state = state
        self.lake = lake
        self.committed: dict[int, int] = {}
        """Group -> the last sequence number of its newest commit since the start: who follows looks here first."""
        self._pending: list[StreamDelta] = []
        self._recount = False
        self._catch_up()
        with state.read() as session:
            for group_id, stream_id in graves(session):
                lake.delete(group_id, stream_id)
        lake.watch(self._committed)
        lake.keep(self._cutoffs, ExpiryListener(self._before_deletion, self._deleted), self._buried)

    @property
    def behind(self) -> bool:
        return bool(self._pending) or self._recount

    def _catch_up(self) -> None:
        with self.state.read() as session:
            done = progress(session)
            counted = usage_progress(session)
        self._catch_up_usage(counted)
        if done == RECOUNT:
            log.info("counting the log streams anew")
        missing = self.lake.totals_after(max(done, 0))
        if not missing and done != RECOUNT:
            return
        with self.state.write(notify=False) as session:
            if done == RECOUNT:
                reset_totals(session)
            add_totals(session, missing)
            set_progress(session, self.lake.last_sequence)

    def _catch_up_usage(self, counted: int | None) -> None:
        """A count of its own, because a recount of the streams knows nothing of the events that are deleted."""
        missing = self.lake.totals_after(counted) if counted is not None else []
        if missing or counted is None:
            with self.state.write(notify=False) as session:
                add_ingested(session, missing, self.lake.last_sequence)

    def _committed(self, deltas: Sequence[StreamDelta], sequence: int) -> None:
        self._pending = merged_deltas([*self._pending, *deltas])
        self.committed.update((delta.group_id, sequence) for delta in deltas)
        try:
            if self._recount:
                self._count_anew()
                return
            with self.state.write(notify=False) as session:
                add_totals(session, self._pending)
                set_progress(session, sequence)
                add_ingested(session, self._pending, sequence)
            self._pending = []
        except Exception as error:
            # The events are stored; the totals follow with the next commit, or at the next start.
            log.warning("totals of log streams are behind: %s", error)

    def _count_anew(self) -> None:
        totals = self.lake.totals_after(0)
        with self.state.write(notify=False) as session:
            reset_totals(session)
            add_totals(session, totals)
            set_progress(session, self.lake.last_sequence)
            add_ingested(session, self._pending, self.lake.last_sequence)
        self._pending = []
        self._recount = False

    def _before_deletion(self) -> None:
        with self.state.write(notify=False) as session:
            set_progress(session, RECOUNT)

    def _deleted(self, expired: Sequence[Expired]) -> None:
        try:
            with self.state.write(notify=False) as session:
                add_totals(session, self._pending)
                take_totals(session, expired)
                set_progress(session, self.lake.last_sequence)
                add_ingested(session, self._pending, self.lake.last_sequence)
            self._pending = []
        except Exception:
            self._recount = True
            raise

    def _cutoffs(self) -> dict[int, int]:
        with self.state.read() as session:
            return retention_cutoffs(session, int(time.time() * 1000))

    def _buried(self, buried: Sequence[tuple[int, int | None]]) -> None:
        with self.state.write(notify=False) as session:
            forget_graves(session, buried)


def graves_of(session: Session, group_id: int) -> list[int]:
    """Ids of deleted streams of a living group whose events may still be in the lake."""
    return [stream_id for _, stream_id in graves(session, group_id) if stream_id is not None]

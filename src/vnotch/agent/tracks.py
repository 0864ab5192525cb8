"""Tracks: the open windows that flow logs read.

The flow logs of one interval share one *track*, so that a drain is added up once for all of them. A flow log that comes
while a window of its interval is open must not get what was captured before it came: until that window has closed it
reads a track of its own (`INTERVAL+NUMBER`, NUMBER being the first drain that belongs to it), then the shared one.

An interval is the longest that a window may last (AWS: *maximum* aggregation interval), and whoever has just made a
flow log waits for its first record. So the first window of a new flow log is *cut* a few seconds after it began: what
it holds is spooled as a window that ends then, and what comes until the interval is over is its other part. Both parts
stay one window of the track: the mark "this window, up to this drain" tells them apart, in the journal and after a
kill, as it tells a window from one of the same time that came before it. A flow log whose window is to be cut reads a
track of its own until that has happened and the window has ended.

What is in the open windows follows from the journal and from `Progress`; nothing here is saved by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import pyarrow as pa

from vnotch.agent.journal import Entry
from vnotch.agent.progress import Progress, Track
from vnotch.inventory import FlowLog
from vnotch.window import MAX_FLOWS, TICK_SECONDS_MAX, Window, Windows, tick_seconds

EARLY_SECONDS = 5
"""A first window is cut at the first tick that comes so long after its beginning, and until then a tick is no longer:
so the first record is on its way within twice this time."""

_SECOND_NS = 1_000_000_000


@dataclass(frozen=True)
class Closed:
    """A window that ended, and the flow logs that read it."""

    track: str
    window: Window
    flow_log_ids: tuple[str, ...]


class Tracks:
    """All tracks. Keeps `progress.tracks` and `progress.flow_log_tracks`, which the caller saves."""

    def __init__(
        self, progress: Progress, max_flows: int = MAX_FLOWS, early_seconds: int | None = EARLY_SECONDS
    ) -> None:
        """`early_seconds`: how soon a first window is cut; None: never."""
        self._progress = progress
        self._max_flows = max_flows
        self._early_seconds = early_seconds
        self._windows: dict[str, Windows] = {}
        for name, track in progress.tracks.items():
            self._open(name, track.closed_until_s)

    @property
    def tick_seconds(self) -> int:
        """Seconds between two drains, by the intervals in use and by what is to be cut."""
        waits = any(track.early_from_s is not None for track in self._progress.tracks.values())
        at_most = self._early_seconds if waits and self._early_seconds else TICK_SECONDS_MAX
        return tick_seconds({interval_of(name) for name in self._windows}, at_most)

    @property
    def open_windows(self) -> set[tuple[str, int]]:
        """Track and beginning of each window that is open."""
        return {(name, start_s) for name, windows in self._windows.items() for start_s in windows.open_starts}

    @property
    def late(self) -> dict[str, int]:
        """Track -> packets that came after their window had closed, and went into the next one."""
        return {name: windows.late_packets for name, windows in self._windows.items() if windows.late_packets}

    def follow(self, flow_logs: Iterable[FlowLog], next_number: int, now_s: int) -> None:
        """Takes in new flow logs from drain `next_number` on, and drops tracks that no flow log needs any more."""
        by_id = {flow_log.flow_log_id: flow_log for flow_log in flow_logs}
        read = self._progress.flow_log_tracks
        for flow_log_id in set(read) - set(by_id):
            del read[flow_log_id]
        for flow_log_id, flow_log in by_id.items():
            if flow_log_id not in read:
                read[flow_log_id] = self._join(flow_log.max_aggregation_interval, next_number, now_s)
        needed = set(read.values()) | {str(flow_log.max_aggregation_interval) for flow_log in by_id.values()}
        for name in set(self._windows) - needed:
            self._drop(name)

    def add(self, flows: pa.Table, losses: pa.Table, at_ns: int) -> tuple[dict[str, int], pa.Table | None]:
        """Adds a drain to every track.

        -> the beginning of the window it went to, by track; and what the bound on open flows turned away on the track
        with the shortest interval, which is the one that the ledger follows (None where there is no track).
        """
        starts = {}
        lost = {}
        for name, windows in self._windows.items():
            added = windows.add(flows, at_ns)
            windows.add_losses(losses, at_ns)
            starts[name] = added.start_s
            lost[name] = added.lost
        return starts, lost.get(self.ledger_track or "")

    def replay(self, entry: Entry) -> pa.Table | None:
        """Adds a drain of the journal to the windows that it is in and that are not spooled yet; -> as `add`."""
        lost = {}
        for name, start_s in entry.starts.items():
            windows = self._windows.get(name)
            if windows is None or self._progress.tracks[name].is_done(entry.number, start_s):
                continue
            if windows.closed_until_s is not None and start_s < windows.closed_until_s:
                windows.closed_until_s = None  # the clock had been set back, and a time recorded before came again
            at_ns = start_s * _SECOND_NS
            lost[name] = windows.add(entry.flows, at_ns).lost
            windows.add_losses(entry.losses, at_ns)
        return lost.get(self.ledger_track or "")

    def close(self, now_ns: int | None, through_number: int) -> list[Closed]:
        """The windows that have ended (all of them where `now_ns` is None), marked as done up to `through_number`."""
        closed = []
        read = self._progress.flow_log_tracks
        for name, windows in list(self._windows.items()):
            track = self._progress.tracks[name]
            ended = windows.close_all() if now_ns is None else windows.close(now_ns)
            readers = tuple(sorted(flow_log_id for flow_log_id, track_name in read.items() if track_name == name))
            for window in ended:
                closed.append(Closed(name, _after_cut(window, track), readers))
                track.done[window.start_s] = through_number
                if self._is_due(track, window.end_s):
                    track.early_from_s = None  # it has ended by itself before it was cut
            track.closed_until_s = windows.closed_until_s
            if now_ns is not None and self._is_due(track, now_ns // _SECOND_NS):
                closed += self._cut(name, now_ns // _SECOND_NS, readers, through_number)
            if ended and not windows.open_starts and not is_shared(name) and track.early_from_s is None:
                for flow_log_id in readers:
                    read[flow_log_id] = str(interval_of(name))
                self._drop(name)
        return closed

    def so_far(self, flow_log_id: str, now_s: int) -> list[Closed]:
        """What the open windows that a flow log reads hold by now, for it alone, as windows that end now. They stay
        open for others."""
        name = self._progress.flow_log_tracks[flow_log_id]
        windows = [_after_cut(window, self._progress.tracks[name]) for window in self._windows[name].so_far()]
        return [
            Closed(
                name, replace(window, end_s=now_s) if window.start_s < now_s < window.end_s else window, (flow_log_id,)
            )
            for window in windows
        ]

    def _is_due(self, track: Track, now_s: int) -> bool:
        return track.early_from_s is not None and now_s >= track.early_from_s + (self._early_seconds or 0)

    def _cut(self, name: str, now_s: int, readers: tuple[str, ...], through_number: int) -> list[Closed]:
        """The open window as it stands, to be spooled as one that ends now. None is cut where the clock was set back
        behind its beginning."""
        windows, track = self._windows[name], self._progress.tracks[name]
        starts = [start_s for start_s in windows.open_starts if start_s < now_s]
        if len(starts) != 1 or starts != list(windows.open_starts):
            return []
        window = replace(windows.cut(starts[0]), end_s=now_s)
        track.done[window.start_s] = through_number
        track.early_from_s, track.cut_s = None, now_s
        return [Closed(name, window, readers)]

    def parts(self) -> list[tuple[str, int, tuple[pa.Table, ...], pa.Table]]:
        """Track and `Windows.parts` of all open windows."""
        return [(name, *part) for name, windows in self._windows.items() for part in windows.parts()]

    def is_done(self, number: int, starts: Mapping[str, int]) -> bool:
        """Whether everything that a drain went into has been spooled, or nobody wants it any more."""
        tracks = self._progress.tracks
        return all(name not in tracks or tracks[name].is_done(number, start_s) for name, start_s in starts.items())

    def forget_done(self, first_number: int) -> None:
        """Drops marks that no drain from `first_number` on refers to."""
        for track in self._progress.tracks.values():
            track.done = {start_s: number for start_s, number in track.done.items() if number >= first_number}

    @property
    def ledger_track(self) -> str | None:
        """The shared track with the shortest interval; None where there is none."""
        return min(filter(is_shared, self._windows), key=int, default=None)

    def _join(self, interval_seconds: int, next_number: int, now_s: int) -> str:
        shared = str(interval_seconds)
        is_new = shared not in self._windows
        if is_new:
            self._make(shared, next_number, None)
        early = self._early_seconds is not None and interval_seconds > TICK_SECONDS_MAX
        if not early and (is_new or not self._windows[shared].open_starts):
            return shared
        own = f"{shared}+{next_number}"
        if own not in self._windows:
            # Both place a late drain alike, so that the change from one to the other repeats nothing.
            self._make(own, next_number, self._windows[shared].closed_until_s)
            self._progress.tracks[own].early_from_s = now_s if early else None
        return own

    def _make(self, name: str, from_number: int, closed_until_s: int | None) -> None:
        self._progress.tracks[name] = Track(from_number, closed_until_s)
        self._open(name, closed_until_s)

    def _open(self, name: str, closed_until_s: int | None) -> None:
        self._windows[name] = Windows(interval_of(name), self._max_flows)
        self._windows[name].closed_until_s = closed_until_s

    def _drop(self, name: str) -> None:
        del self._windows[name]
        del self._progress.tracks[name]


def _after_cut(window: Window, track: Track) -> Window:
    """A window that was cut goes on from there."""
    if track.cut_s is None or not window.start_s < track.cut_s < window.end_s:
        return window
    return replace(window, start_s=track.cut_s)


def interval_of(track: str) -> int:
    return int(track.partition("+")[0])


def is_shared(track: str) -> bool:
    return "+" not in track

"""What runs now, for a person who looks: the kernel's map in use, the open windows, and the drains of the last moments.

A view changes nothing. The loop hands out what it has (`LoopView`: references to tables that nobody changes) between
two steps; the map in use is read beside the loop, and read again where a flip came in between. Merging, sorting and
writing lines is done by the thread that asked.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from vnotch.agent.asking import Answer
from vnotch.capture.generations import Drain
from vnotch.capture.glance import Glance
from vnotch.errors import InputError
from vnotch.flow import FLOW_SCHEMA, LOSS_SCHEMA
from vnotch.inventory import FlowLog, Interface
from vnotch.paths import Peers
from vnotch.record import WindowRecords
from vnotch.service_ranges import ServiceRanges
from vnotch.window import Window, add_flows

WATCHED_SECONDS = 60.0
"""Drains are kept for views as long as somebody has looked within this time."""
RECENT_ROWS_MAX = 262_144
RECENT_DRAINS_MAX = 64
ROWS_MAX = 65_536
"""Flows or lines of one answer; the largest ones, and how many were left out is told."""
ATTEMPTS = 4

RECORD_SCHEMA = pa.schema(
    [
        pa.field("flow_log_id", pa.string(), nullable=False),
        pa.field("interface_id", pa.string(), nullable=False),
        pa.field("window_start_s", pa.int64(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
    ]
)
"""Lines of records that are not yet: what they would be if their window ended now."""


@dataclass(frozen=True)
class OpenWindow:
    """`flows` in which keys may repeat."""

    track: str
    start_s: int
    flows: tuple[pa.Table, ...]
    losses: pa.Table


@dataclass(frozen=True)
class RecentDrain:
    number: int
    flipped_ns: int
    flows: pa.Table


@dataclass(frozen=True)
class LoopView:
    """`generation` is of the map in use, `number` of the last drain, which is in the windows."""

    generation: int
    number: int
    tick_seconds: int
    windows: tuple[OpenWindow, ...]
    ledger_track: str | None
    flow_logs: Mapping[str, FlowLog]
    flow_log_tracks: Mapping[str, str]
    interfaces: Mapping[int, Interface]
    rules: Mapping[int, tuple[str, str]]
    peers: Peers
    ranges: ServiceRanges
    drains: tuple[RecentDrain, ...]


def open_windows(
    parts: Iterable[tuple[str, int, tuple[pa.Table, ...], pa.Table]], read: Mapping[str, str]
) -> tuple[OpenWindow, ...]:
    """Those that a flow log reads (`read`: flow log -> track), and those of shared tracks, which the ledger follows."""
    needed = set(read.values())
    return tuple(OpenWindow(*part) for part in parts if part[0] in needed or "+" not in part[0])


class RecentDrains:
    """The last drains, while somebody watches: without them a rate would miss what a drain took away."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._watched_until = -1.0
        self._drains: deque[RecentDrain] = deque()

    def watch(self) -> None:
        self._watched_until = self._monotonic() + WATCHED_SECONDS

    def add(self, number: int, drain: Drain) -> None:
        if self._monotonic() > self._watched_until:
            self._drains.clear()
            return
        self._drains.append(RecentDrain(number, drain.flipped_ns, drain.flows))
        while len(self._drains) > RECENT_DRAINS_MAX or self._rows() > RECENT_ROWS_MAX:
            self._drains.popleft()

    def drains(self) -> tuple[RecentDrain, ...]:
        return tuple(self._drains)

    def _rows(self) -> int:
        return sum(drain.flows.num_rows for drain in self._drains)


class Glancing(Protocol):
    """What a view needs of the datapath (capture.kernel.Datapath)."""

    def glance(self) -> Glance: ...


class Views:
    """Answers questions about what runs. `ask` has the loop call a function between two steps; -> its value."""

    def __init__(
        self,
        ask: Callable[[Callable[[], LoopView]], LoopView],
        look: Callable[[], LoopView],
        datapath: Glancing,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._ask = ask
        self._look = look
        self._datapath = datapath
        self._now_ns = now_ns

    def answer(self, question: Mapping[str, Any]) -> Answer:
        """`{"view": "flows", "since": NUMBER}`, `{"view": "records", "log_group": NAME or null}`, `{"view": "alive"}`;
        the last asks nothing of the loop. Raises InputError for another question."""
        match question:
            case {"view": "alive"}:
                return Answer({"view": "alive"})
            case {"view": "flows", "since": int(since)}:
                return self._flows(since)
            case {"view": "records", "log_group": str() | None as group}:
                return self._records(group)
        raise InputError("no such view", "flows with since, or records with log_group")

    def _now(self) -> tuple[LoopView, pa.Table, bool]:
        """-> the loop's part, the flows of the map in use, whether the two are of one generation."""
        for _ in range(ATTEMPTS):
            view = self._ask(self._look)
            glance = self._datapath.glance()
            if glance.generation == view.generation:
                return view, glance.flows, True
        return view, glance.flows, False

    def _flows(self, since: int) -> Answer:
        """Tables of FLOW_SCHEMA: the map in use; all drains after `since` that are kept; the open windows of the
        shortest interval."""
        view, live, whole = self._now()
        taken_ns = self._now_ns()
        drains = [drain for drain in view.drains if drain.number > since]
        window = [table for item in view.windows if item.track == view.ledger_track for table in item.flows]
        tables, omitted = [], {}
        for name, parts in (("live", [live]), ("drained", [drain.flows for drain in drains]), ("window", window)):
            table, omitted[name] = largest(add_flows(pa.concat_tables([FLOW_SCHEMA.empty_table(), *parts])), ROWS_MAX)
            tables.append(table)
        return Answer(
            {
                "view": "flows",
                "whole": whole,
                "taken_ns": taken_ns,
                "number": view.number,
                # Whether every drain after `since` is there still.
                "complete": since >= view.number or bool(drains and drains[0].number == since + 1),
                "tick_seconds": view.tick_seconds,
                "window_seconds": int(view.ledger_track) if view.ledger_track else None,
                "omitted_flows": omitted,
                "interfaces": {
                    str(slot): {"interface_id": item.interface_id, "device": item.device, "enforce": item.enforce}
                    for slot, item in view.interfaces.items()
                },
                "rules": _names(view.rules, tables),
            },
            tuple(tables),
        )

    def _records(self, group: str | None) -> Answer:
        """One table, RECORD_SCHEMA: the lines that the open windows would become now, for the flow logs that deliver to
        the group (None: all)."""
        view, live, whole = self._now()
        now_ns = self._now_ns()
        wanted = [item for item in view.flow_logs.values() if group in (None, item.log_group_name)]
        tracks = {view.flow_log_tracks[item.flow_log_id] for item in wanted if item.flow_log_id in view.flow_log_tracks}
        lines: list[pa.Table] = []
        refused: dict[str, str] = {}
        for track in sorted(tracks):
            readers = [item for item in wanted if view.flow_log_tracks.get(item.flow_log_id) == track]
            for window in windows_now(view, track, live, now_ns):
                made, not_made = _lines(view, window, readers)
                lines += made
                refused |= not_made
        table = pa.concat_tables([RECORD_SCHEMA.empty_table(), *lines])
        about = {
            "view": "records",
            "whole": whole,
            "taken_ns": now_ns,
            "flow_logs": [asdict(item) for item in wanted],
            "refused": refused,
            "omitted_lines": max(0, table.num_rows - ROWS_MAX),
        }
        return Answer(about, (table.slice(0, ROWS_MAX),))


def windows_now(view: LoopView, track: str, live: pa.Table, now_ns: int) -> list[Window]:
    """The open windows of a track as they would be if a drain came now, oldest first."""
    interval = int(track.partition("+")[0])
    start_s = now_ns // 1_000_000_000 // interval * interval
    windows = [item for item in view.windows if item.track == track]
    if not any(item.start_s == start_s for item in windows):
        windows.append(OpenWindow(track, start_s, (), LOSS_SCHEMA.empty_table()))
    found = []
    for item in sorted(windows, key=lambda item: item.start_s):
        parts = [FLOW_SCHEMA.empty_table(), *item.flows, *([live] if item.start_s == start_s else [])]
        found.append(Window(item.start_s, item.start_s + interval, add_flows(pa.concat_tables(parts)), item.losses))
    return found


def _lines(view: LoopView, window: Window, readers: Iterable[FlowLog]) -> tuple[list[pa.Table], dict[str, str]]:
    """-> lines, RECORD_SCHEMA; flow log -> why none can be made."""
    records = WindowRecords(window, view.interfaces, view.rules, peers=view.peers, ranges=view.ranges)
    tables, refused = [], {}
    for flow_log in readers:
        try:
            # Nothing has had a record: an interface without traffic by now may have some before the window ends.
            for events in records.events(flow_log, ()):
                count = len(events.messages)
                same = (flow_log.flow_log_id, events.interface_id, window.start_s)
                columns = [pa.repeat(value, count) for value in same]
                tables.append(pa.table([*columns, events.messages], schema=RECORD_SCHEMA))
        except InputError as error:
            refused[flow_log.flow_log_id] = str(error)
    return tables, refused


def largest(flows: pa.Table, count: int) -> tuple[pa.Table, int]:
    """The flows with the most packets; -> them, and how many others there were."""
    if flows.num_rows <= count:
        return flows, 0
    rows = pc.select_k_unstable(flows, count, [("packets", "descending")])
    return flows.take(rows), flows.num_rows - count


def _names(rules: Mapping[int, tuple[str, str]], tables: Iterable[pa.Table]) -> dict[str, tuple[str, str]]:
    """Rule number -> (x-rule-id, x-rule-layer), of the rules that occur."""
    numbers = {number for table in tables for number in pc.unique(table["rule"]).to_pylist()}
    return {str(number): rules[number] for number in sorted(numbers) if number in rules}

"""Flows and inventory -> the records of flow logs.

A window's records are made for all interfaces of a flow log at once; flow logs that cover the same interfaces with the
same traffic type share columns, and those with the same format share the lines. No record is touched one by one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vnotch.address import as_numpy
from vnotch.bucket_keys import slot_of
from vnotch.columns import Selection, describes_interface, interface_value
from vnotch.errors import InputError
from vnotch.fields import FIELDS, Format, TagKeys, parse_format
from vnotch.flow import Outcome
from vnotch.inventory import FlowLog, Interface
from vnotch.line import parse_line, parse_lines, parse_valid, record_lines
from vnotch.owner import NO_OWNERS, Owners
from vnotch.paths import NO_PEERS, Peers
from vnotch.service_ranges import NO_RANGES, ServiceRanges
from vnotch.window import Window, without_rule

__all__ = [
    "Events",
    "Records",
    "SlotRecords",
    "WindowRecords",
    "flow_log_format",
    "parse_line",
    "parse_lines",
    "parse_valid",
    "record_lines",
    "record_table",
]

_NO_INTERFACE = -1
_SECOND_NS = 1_000_000_000
_SLOTS = 65_536
_OUTCOMES = {"ALL": None, "ACCEPT": Outcome.ACCEPT, "REJECT": Outcome.REJECT}

_ANY_TAG_KEYS: TagKeys = tuple({item.tag[0]: ("", "") for item in FIELDS if item.tag}.items())
"""Keys that no resource has, for reading lines: which keys were asked for does not matter there."""


@dataclass(frozen=True)
class Events:
    """The records of one interface in one window as log events, in order of time.

    `timestamps_ms` is int64: the record's start x 1000. `messages` are the lines, without a newline.
    """

    interface_id: str
    timestamps_ms: pa.Array
    messages: pa.Array


@dataclass(frozen=True)
class Records:
    """The records of one interface in one window in typed columns, in order of time.

    `table` has `timestamp`, int64, the record's start x 1000, and the columns of the flow log's format.
    """

    interface_id: str
    table: pa.Table


@dataclass(frozen=True)
class SlotRecords:
    """The records of one interface in one window that end in one slot of a bucket's files.

    `table` has the schema of the flow log's format; `packets` and `bytes` are those of its flows.
    """

    interface_id: str
    slot_s: int
    table: pa.Table
    packets: int
    bytes: int


def record_table(
    window: Window,
    interfaces_by_slot: Mapping[int, Interface],
    flow_log: FlowLog,
    seen_interfaces: Collection[str],
    rules: Mapping[int, tuple[str, str]] | None = None,
    peers: Peers = NO_PEERS,
    ranges: ServiceRanges = NO_RANGES,
) -> pa.Table:
    """The records of one flow log alone; see `WindowRecords.table`."""
    return WindowRecords(window, interfaces_by_slot, rules, peers, ranges).table(flow_log, seen_interfaces)


class WindowRecords:
    """One closed window and the interfaces that it was captured on, for all flow logs.

    `interfaces_by_slot` holds every slot that was in use during the window; two slots may have the same interface (it
    was bound anew). `rules` are rule number -> (x-rule-id, x-rule-layer), `peers` the VPCs' interfaces for the next-hop
    fields, `ranges` the services' addresses for the pkt-*-aws-service fields, `owners` the processes behind the flows.

    The log status (VPC user guide): an interface with lost packets gets one SKIPDATA record whatever the
    traffic type; an interface without losses and without any flow, accepted or rejected, gets one NODATA record, if it
    has had a record before (`seen_interfaces`). AWS does not say whether such records appear in ACCEPT and REJECT flow
    logs; having no action to filter on, they do here.
    """

    def __init__(
        self,
        window: Window,
        interfaces_by_slot: Mapping[int, Interface],
        rules: Mapping[int, tuple[str, str]] | None = None,
        peers: Peers = NO_PEERS,
        ranges: ServiceRanges = NO_RANGES,
        owners: Owners = NO_OWNERS,
    ) -> None:
        self.window = window
        self.interfaces_by_slot = interfaces_by_slot
        self.rules = {} if rules is None else rules  # one without numbers of its own knows the fixed ones
        self.peers = peers
        self.ranges = ranges
        self.owners = owners
        by_id = {item.interface_id: item for item in interfaces_by_slot.values()}
        self._interfaces = list(by_id.values())
        self._numbers = {interface_id: number for number, interface_id in enumerate(by_id)}
        self._number_of_slot = np.full(_SLOTS, _NO_INTERFACE, np.int32)
        for slot, item in interfaces_by_slot.items():
            self._number_of_slot[slot] = self._numbers[item.interface_id]
        self._selections: dict[tuple[Any, ...], Selection] = {}

    def of_window(self, window: Window) -> WindowRecords:
        """The same for another window."""
        return WindowRecords(window, self.interfaces_by_slot, self.rules, self.peers, self.ranges, self.owners)

    def table(self, flow_log: FlowLog, seen_interfaces: Collection[str]) -> pa.Table:
        """Typed columns of the flow log's format, AWS's Parquet names and types; by interface, then in order of time.

        `seen_interfaces` are the IDs of the interfaces that have had a record in this flow log before.
        """
        format = flow_log_format(flow_log.log_format, flow_log.tag_keys)
        selection = self._selection(flow_log, format)
        flows = selection.table(format)
        statuses, rows = self._statuses(flow_log, format, seen_interfaces)
        parts = [format.schema.empty_table()]
        for number, begin, end in self._covered_slices(flow_log, selection):
            place = self._place(selection, begin, end)
            status = statuses.slice(rows.get(number, 0), int(number in rows))
            parts += [flows.slice(begin, place - begin), status, flows.slice(place, end - place)]
        return pa.concat_tables(parts)

    def events(self, flow_log: FlowLog, seen_interfaces: Collection[str]) -> list[Events]:
        """One item per covered interface that has a record in this window."""
        format = flow_log_format(flow_log.log_format, flow_log.tag_keys)
        selection = self._selection(flow_log, format)
        lines, times_ms = selection.lines(format), selection.timestamps_ms
        statuses, rows = self._statuses(flow_log, format, seen_interfaces)
        status_lines = record_lines(statuses, format)
        status_time_ms = pa.array([self.window.start_s * 1000], pa.int64())
        events = []
        for number, begin, end in self._covered_slices(flow_log, selection):
            messages, timestamps_ms = lines.slice(begin, end - begin), times_ms.slice(begin, end - begin)
            if number in rows:
                place = self._place(selection, begin, end) - begin
                messages = _insert(messages, place, status_lines.slice(rows[number], 1))
                timestamps_ms = _insert(timestamps_ms, place, status_time_ms)
            if len(messages):
                events.append(Events(self._interfaces[number].interface_id, timestamps_ms, messages))
        return events

    def records(self, flow_log: FlowLog, seen_interfaces: Collection[str]) -> list[Records]:
        """The same as `events` in typed columns."""
        format = flow_log_format(flow_log.log_format, flow_log.tag_keys)
        selection = self._selection(flow_log, format)
        flows = _with_times(selection.table(format), selection.timestamps_ms)
        statuses, rows = self._statuses(flow_log, format, seen_interfaces)
        statuses = _with_times(statuses, pa.array([self.window.start_s * 1000] * statuses.num_rows, pa.int64()))
        found = []
        for number, begin, end in self._covered_slices(flow_log, selection):
            place = self._place(selection, begin, end)
            status = statuses.slice(rows.get(number, 0), int(number in rows))
            parts = [flows.slice(begin, place - begin), status, flows.slice(place, end - place)]
            table = pa.concat_tables([part for part in parts if part.num_rows] or parts[:1])
            if table.num_rows:
                found.append(Records(self._interfaces[number].interface_id, table))
        return found

    def slot_records(self, flow_log: FlowLog, seen_interfaces: Collection[str]) -> list[SlotRecords]:
        """One item for each covered interface and slot with records that end in it; all rows of `table`."""
        format = flow_log_format(flow_log.log_format, flow_log.tag_keys)
        selection = self._selection(flow_log, format)
        flows, ends_s = selection.table(format), selection.flow("end_ns") // _SECOND_NS
        packets, size = selection.flow("packets"), selection.flow("bytes")
        statuses, rows = self._statuses(flow_log, format, seen_interfaces)
        status_slot_s = slot_of(self.window.end_s)
        found = []
        for number, begin, end in self._covered_slices(flow_log, selection):
            slots = slot_of(ends_s[begin:end])
            for slot_s in sorted({*np.unique(slots).tolist(), *([status_slot_s] if number in rows else [])}):
                chosen = begin + np.flatnonzero(slots == slot_s)
                table = flows.slice(begin, end - begin) if len(chosen) == end - begin else flows.take(pa.array(chosen))
                if number in rows and slot_s == status_slot_s:
                    table = pa.concat_tables([table, statuses.slice(rows[number], 1)])
                name = self._interfaces[number].interface_id
                found.append(SlotRecords(name, slot_s, table, int(packets[chosen].sum()), int(size[chosen].sum())))
        return found

    @cached_property
    def unclaimed(self) -> tuple[int, int]:
        """(packets, bytes) of flows and losses at slots that no interface was given for; they are in no record."""
        packets = bytes_ = 0
        for table in (self._flows_by_rule, self.window.losses):
            unknown = self._number_of_slot[as_numpy(table["slot"])] == _NO_INTERFACE
            packets += int(as_numpy(table["packets"])[unknown].sum())
            bytes_ += int(as_numpy(table["bytes"])[unknown].sum())
        return packets, bytes_

    @cached_property
    def _flows_by_rule(self) -> pa.Table:
        """Accepted and rejected flows; EXCLUDED rows never become records."""
        flows = self.window.flows
        return flows.filter(pc.not_equal(flows["outcome"], Outcome.EXCLUDED)).combine_chunks()

    @cached_property
    def _flows(self) -> pa.Table:
        return without_rule(self._flows_by_rule).combine_chunks()

    @cached_property
    def _busy(self) -> frozenset[int]:
        """Numbers of the interfaces that had a flow, of any outcome that is recorded."""
        return frozenset(np.unique(self._number_of_slot[as_numpy(self._flows_by_rule["slot"])]).tolist())

    @cached_property
    def _losses(self) -> dict[int, tuple[int, int]]:
        """Number of the interface -> (packets, bytes) that are in no record."""
        lost: dict[int, tuple[int, int]] = {}
        for row in self.window.losses.filter(pc.greater(self.window.losses["packets"], 0)).to_pylist():
            number = int(self._number_of_slot[row["slot"]])
            packets, bytes_ = lost.get(number, (0, 0))
            lost[number] = packets + row["packets"], bytes_ + row["bytes"]
        return lost

    def _covered(self, flow_log: FlowLog) -> tuple[int, ...]:
        return tuple(sorted({self._numbers[name] for name in flow_log.interface_ids if name in self._numbers}))

    def _selection(self, flow_log: FlowLog, format: Format) -> Selection:
        if flow_log.traffic_type not in _OUTCOMES:
            raise InputError(f"traffic type {flow_log.traffic_type!r}", "one of ALL, ACCEPT, REJECT")
        by_rule = any(item.name in ("x-rule-id", "x-rule-layer") for item in format.fields)
        key = self._covered(flow_log), flow_log.traffic_type, by_rule
        if key not in self._selections:
            flows = self._flows_by_rule if by_rule else self._flows
            numbers = self._number_of_slot[as_numpy(flows["slot"])]
            covered = np.zeros(len(self._interfaces) + 1, bool)
            covered[list(key[0])] = True  # the last element stands for _NO_INTERFACE
            chosen = covered[numbers]
            outcome = _OUTCOMES[flow_log.traffic_type]
            if outcome is not None:
                chosen &= as_numpy(flows["outcome"]) == outcome
            self._selections[key] = Selection(
                flows, numbers, chosen, self._interfaces, self.rules, self.peers, self.ranges, self.owners
            )
        return self._selections[key]

    def _covered_slices(self, flow_log: FlowLog, selection: Selection) -> Iterator[tuple[int, int, int]]:
        """-> (number of the interface, first row, row after the last) in the selection."""
        covered = np.array(self._covered(flow_log), np.int32)
        begins = np.searchsorted(selection.numbers, covered, side="left").tolist()
        ends = np.searchsorted(selection.numbers, covered, side="right").tolist()
        yield from zip(covered.tolist(), begins, ends, strict=True)

    def _place(self, selection: Selection, begin: int, end: int) -> int:
        """Row of an interface's slice before which its status record goes: the first of the window's own seconds."""
        return begin + int(np.searchsorted(selection.start_s[begin:end], self.window.start_s, side="left"))

    def _statuses(
        self, flow_log: FlowLog, format: Format, seen_interfaces: Collection[str]
    ) -> tuple[pa.Table, dict[int, int]]:
        """-> (SKIPDATA and NODATA records, number of the interface -> its row)."""
        records: list[dict[str, Any]] = []
        rows: dict[int, int] = {}
        for number in self._covered(flow_log):
            lost = self._losses.get(number)
            seen = self._interfaces[number].interface_id in seen_interfaces
            if lost is not None or (seen and number not in self._busy):
                rows[number] = len(records)
                records.append(self._status_record(self._interfaces[number], lost, format))
        return pa.Table.from_pylist(records, schema=format.schema), rows

    def _status_record(self, interface: Interface, lost: tuple[int, int] | None, format: Format) -> dict[str, Any]:
        """What does not describe the interface or the window is absent."""
        values: dict[str, Any] = {
            "version": format.version,
            "start": self.window.start_s,
            "end": self.window.end_s,
            "log-status": "NODATA",
        }
        if lost is not None:
            values |= {"log-status": "SKIPDATA", "x-lost-packets": lost[0], "x-lost-bytes": lost[1]}
        return {
            item.column: interface_value(item, interface, format)
            if describes_interface(item)
            else values.get(item.name)
            for item in format.fields
        }


@lru_cache(maxsize=256)
def flow_log_format(text: str, tag_keys: TagKeys = ()) -> Format:
    """The format of a flow log that the API has accepted. `tag_keys` as in `inventory.FlowLog`; without them lines can
    be read all the same."""
    return parse_format(text, dict(tag_keys or _ANY_TAG_KEYS))


def _with_times(table: pa.Table, timestamps_ms: pa.Array) -> pa.Table:
    return table.add_column(0, pa.field("timestamp", pa.int64(), nullable=False), timestamps_ms)


def _insert(array: pa.Array, place: int, items: pa.Array) -> pa.Array:
    return pa.concat_arrays([array.slice(0, place), items, array.slice(place)])

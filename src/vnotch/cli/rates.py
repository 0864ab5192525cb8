"""Rates of flows, from two looks at an agent: what it drained in between, plus what is in its map, less what was then.

No clock and no agent here: answers of `vnotch.agent.view` go in, tables come out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vnotch.agent.asking import Answer
from vnotch.flow import FLOW_KEY, Direction, Outcome

PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 47: "gre", 50: "esp", 58: "icmpv6", 132: "sctp"}
_COUNTS = ("packets", "bytes", "window_packets", "window_bytes")


@dataclass(frozen=True)
class FlowRate:
    """One flow. `packets` and `bytes` are of the time between two looks, `window_packets` and `window_bytes` of the
    open window so far."""

    interface_id: str
    device: str
    direction: str
    action: str
    rule_id: str
    rule_layer: str
    protocol: str
    srcaddr: str
    dstaddr: str
    srcport: int
    dstport: int
    packets: int
    bytes: int
    window_packets: int
    window_bytes: int


@dataclass(frozen=True)
class InterfaceRate:
    """One ENI: packets and bytes between two looks, by what became of them, and its flows."""

    interface_id: str
    device: str
    flows: int
    accept_packets: int
    accept_bytes: int
    reject_packets: int
    reject_bytes: int
    excluded_packets: int
    ingress_bytes: int
    egress_bytes: int


@dataclass(frozen=True)
class Rates:
    """`seconds` between the two looks; None at the first one, whose counts are of the time since the last drain."""

    seconds: float | None
    window_seconds: int | None
    interfaces: tuple[InterfaceRate, ...]
    flows: tuple[FlowRate, ...]
    flows_all: int
    omitted: int


class Meter:
    """Two looks at one agent after the other."""

    def __init__(self) -> None:
        self._before: Answer | None = None

    @property
    def since(self) -> int:
        """The last drain that is known: what to ask for next."""
        return -1 if self._before is None else int(self._before.about["number"])

    def rates(self, answer: Answer, *, sort: str, limit: int, interface: str | None = None) -> Rates:
        """`sort`: `packets` or `bytes`; `interface`: the id or device of one. A look that does not go on from the one
        before (drains are missing, the agent was started again) begins anew."""
        before = self._before
        goes_on = before is not None and answer.about["complete"] and answer.about["number"] >= before.about["number"]
        seconds = None
        if before is not None and goes_on:
            seconds = (answer.about["taken_ns"] - before.about["taken_ns"]) / 1e9
        self._before = answer
        table = _changes(answer, before.tables[0] if before is not None and goes_on else None, goes_on)
        slots = [int(s) for s, item in answer.about["interfaces"].items() if interface in (None, *_names(item))]
        table = table.filter(pc.is_in(table["slot"], value_set=pa.array(slots, pa.uint16())))
        flows = table.filter(pc.not_equal(table["outcome"], int(Outcome.EXCLUDED)))
        busy = flows.filter(pc.greater(flows["packets"], 0)) if goes_on else flows
        order = [(sort, "descending"), (f"window_{sort}", "descending")]
        shown = busy.take(pc.select_k_unstable(busy, limit, order)) if busy.num_rows else busy
        return Rates(
            seconds=seconds,
            window_seconds=answer.about["window_seconds"],
            interfaces=_interfaces(table, answer, slots),
            flows=tuple(_flow(row, answer) for row in shown.to_pylist()),
            flows_all=busy.num_rows,
            omitted=sum(answer.about["omitted_flows"].values()),
        )


def _names(item: Mapping[str, Any]) -> tuple[str, str]:
    return item["interface_id"], item["device"]


def _changes(answer: Answer, before: pa.Table | None, goes_on: bool) -> pa.Table:
    """FLOW_KEY and _COUNTS, a row a flow."""
    live, drained, window = answer.tables
    # Table, its sign in the time between, its sign in the window.
    parts = [(live, 1, 1), (window, 0, 1)]
    if goes_on:
        parts.append((drained, 1, 0))
    if before is not None:
        parts.append((before, -1, 0))
    tables = []
    for table, between, within in parts:
        columns = {name: table[name] for name in FLOW_KEY}
        for name, sign in zip(_COUNTS, (between, between, within, within), strict=True):
            counts = table[name.removeprefix("window_")].to_numpy().astype(np.int64)
            columns[name] = pa.array(counts * sign)
        tables.append(pa.table(columns))
    grouped = pa.concat_tables(tables).group_by(list(FLOW_KEY), use_threads=False)
    summed = grouped.aggregate([(name, "sum") for name in _COUNTS])
    columns = {name: summed[name] for name in FLOW_KEY}
    # A flow that the bound on an answer left out once is no less than nothing.
    columns |= {name: pc.max_element_wise(summed[f"{name}_sum"], 0) for name in _COUNTS}
    return pa.table(columns)


def _interfaces(table: pa.Table, answer: Answer, slots: list[int]) -> tuple[InterfaceRate, ...]:
    found = []
    outcome, direction = table["outcome"].to_numpy(), table["direction"].to_numpy()
    slot, packets, size = (table[name].to_numpy() for name in ("slot", "packets", "bytes"))
    for number in slots:
        item = answer.about["interfaces"][str(number)]
        here = slot == number
        accepted, rejected = (here & (outcome == int(o)) for o in (Outcome.ACCEPT, Outcome.REJECT))
        counted = accepted | rejected
        ways = [counted & (direction == int(d)) for d in (Direction.INGRESS, Direction.EGRESS)]
        found.append(
            InterfaceRate(
                item["interface_id"],
                item["device"],
                int((counted & (packets > 0)).sum()),
                int(packets[accepted].sum()),
                int(size[accepted].sum()),
                int(packets[rejected].sum()),
                int(size[rejected].sum()),
                int(packets[here & ~counted].sum()),
                *(int(size[way].sum()) for way in ways),
            )
        )
    return tuple(sorted(found, key=lambda item: item.interface_id))


def _flow(row: Mapping[str, Any], answer: Answer) -> FlowRate:
    item = answer.about["interfaces"][str(row["slot"])]
    rule_id, layer = answer.about["rules"].get(str(row["rule"]), ("-", "-"))
    return FlowRate(
        *_names(item),
        Direction(row["direction"]).name.lower(),
        Outcome(row["outcome"]).name,
        rule_id,
        layer,
        PROTOCOLS.get(row["protocol"], str(row["protocol"])),
        address(row["family"], row["srcaddr"]),
        address(row["family"], row["dstaddr"]),
        row["srcport"],
        row["dstport"],
        *(row[name] for name in _COUNTS),
    )


def address(family: int, packed: bytes) -> str:
    return str(IPv4Address(packed[:4]) if family == 4 else IPv6Address(packed))

"""A capture file in place of the kernel: it is played in its own time, and drains as the datapath does.

An interface of the file is found by its name (pcapng's if_name), as a device is. Play begins when every interface of
the file has been attached, so that nothing is played past one that is not known yet; times are moved so that the first
packet is now. What is not attached any more is counted by nobody, as on the wire.
"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vnotch.capture.glance import Glance
from vnotch.capture.host_firewall import HostFirewallState
from vnotch.capture.kernel import Drain
from vnotch.capture.library import SlotPolicy
from vnotch.capture.pcap import CaptureInterface, read_capture
from vnotch.capture.policy import JudgedBy, OfflineRules
from vnotch.deciders import RuleNumbers
from vnotch.errors import InputError, KernelError
from vnotch.flow import FLOW_SCHEMA, LOSS_SCHEMA
from vnotch.rules import RuleBook

STEP_SECONDS = 1
"""The grain in which a file is played: flows are counted for each second of it."""


@dataclass(frozen=True)
class _Second:
    start_ns: int  # in the file's time
    flows: pa.Table  # slots are the file's
    seen: dict[tuple[int, int], tuple[int, int]]  # (the file's slot, direction) -> (packets, bytes)


class Playback:
    """Has the methods of `Datapath` that the agent's loop uses. One thread."""

    attach_mode = "capture-file"
    taken_over = False
    predecessor = None

    def __init__(self, path: Path, now_ns: Callable[[], int] = time.time_ns) -> None:
        """Reads the descriptions of the interfaces. Raises InputError where the file is no whole capture."""
        self._path = path
        self._now_ns = now_ns
        self._file_slots: dict[str, int] = {}
        for drain in read_capture(path, tick_seconds=3600, policies=self._note):
            if drain.summary is not None and not drain.summary.packets:
                raise InputError(f"{path} holds no packets")
        self._policies: dict[str, SlotPolicy] = {}  # by device
        self._slots: dict[int, int] = {}  # the file's slot -> the agent's
        self._attached: dict[int, str] = {}  # the agent's slot -> device
        self._configured: dict[int, SlotPolicy] = {}
        self._rules: tuple[RuleBook, dict[int, JudgedBy], RuleNumbers] | None = None
        self._seconds: list[_Second] | None = None
        self._begun_ns = 0
        self._first_ns = 0
        self._played = 0
        self._generation = 0
        self._pending: Drain | None = None

    def _note(self, interface: CaptureInterface) -> SlotPolicy:
        self._file_slots[interface.name] = interface.slot
        return SlotPolicy()

    @property
    def is_over(self) -> bool:
        """Whether the whole file has been drained."""
        return self._seconds is not None and self._played == len(self._seconds)

    # Interfaces, as in Datapath

    def set_interface(
        self,
        slot: int,
        *,
        enforce: bool = False,
        enforce_until_ns: int | None = None,
        adopt: bool = False,
        inside: bool = False,
        mac: bytes | None = None,
        dns_v4: bytes | None = None,
        routers_v4: Iterable[bytes] = (),
        router_v6: bytes | None = None,
        addresses: Iterable[bytes] = (),
    ) -> None:
        """As Datapath.set_interface; `enforce` and its end, `adopt` and `addresses` have no meaning: what is in a file
        has happened and no host firewall has a part in it."""
        self._configured[slot] = SlotPolicy(
            dns_ipv4=socket.inet_ntoa(dns_v4) if dns_v4 else None,
            routers_ipv4=tuple(socket.inet_ntoa(router) for router in routers_v4),
            router_ipv6=socket.inet_ntop(socket.AF_INET6, router_v6) if router_v6 else None,
            inside=inside,
            mac=mac,
        )

    def set_rules(self, book: RuleBook, judged: Mapping[int, JudgedBy], numbers: RuleNumbers) -> set[int]:
        """As Datapath.set_rules; the rules of the moment at which the play begins judge the whole file."""
        self._rules = book, dict(judged), numbers
        return set()

    def rule_numbers(self) -> set[int]:
        """As Datapath.rule_numbers. The rules with which the play began judge to its end, so all that they were given
        are in use."""
        return {number for number, _, _ in self._rules[2].to_json()["numbers"]} if self._rules else set()

    def attach(self, device: str, slot: int) -> None:
        """Raises KernelError (no such device) where the file has no interface of that name."""
        if device not in self._file_slots:
            raise KernelError(f"{device} in {self._path}", errno.ENODEV)
        self._attached[slot] = device
        self._slots[self._file_slots[device]] = slot
        self._policies[device] = self._configured.get(slot, SlotPolicy())
        if self._seconds is None and len(self._attached) == len(self._file_slots):
            self._begin()

    def follow_links(self) -> None:
        """As Datapath.follow_links; a file has none."""

    def detach(self, slot: int) -> None:
        device = self._attached.pop(slot, None)
        if device is not None:
            self._slots.pop(self._file_slots[device], None)

    def device_of(self, slot: int) -> str | None:
        return self._attached.get(slot)

    def clear(self, slot: int) -> None:
        """The slot is free again."""
        self._configured.pop(slot, None)

    def _begin(self) -> None:
        def policy(interface: CaptureInterface) -> SlotPolicy:
            return self._policies[interface.name]

        rules = OfflineRules()
        if self._rules is not None:
            book, judged, numbers = self._rules
            files = {place: judged[slot] for place, slot in self._slots.items() if slot in judged}
            rules.apply(book, files, numbers)
        drains = read_capture(self._path, tick_seconds=STEP_SECONDS, policies=policy, rules=rules)
        self._seconds = [
            _Second(drain.start_s * 1_000_000_000, drain.flows, _totals(drain.flows))
            for drain in drains
            if drain.flows.num_rows
        ]
        self._first_ns = min(pc.min(second.flows["start_ns"]).as_py() for second in self._seconds)
        self._begun_ns = self._now_ns()

    # Draining, as in Datapath

    def flip_and_drain(self) -> Drain:
        """What was played since the last drain that was committed; one that was not is given again."""
        if self._pending is None:
            now_ns = self._now_ns()
            due = self._due(now_ns)
            self._pending = Drain(self._generation + 1, now_ns, self._flows(due), LOSS_SCHEMA.empty_table())
            self._played += len(due)
        return self._pending

    def commit(self, generation: int) -> None:
        """The drain of that generation is safe: play goes on behind it."""
        assert self._pending is not None, "a drain comes before its commit"
        assert generation == self._pending.generation, "drains are committed in order"
        self._generation, self._pending = generation, None

    @property
    def generation(self) -> int:
        """Of what is played now, since the last drain."""
        return self._generation + (1 if self._pending is None else 2)

    def glance(self) -> Glance:
        """What has been played since the last drain."""
        generation = self.generation
        flows = self._flows(self._due(self._now_ns()))
        return Glance(generation if generation == self.generation else None, flows)

    def usage(self) -> dict[str, Any]:
        """There are no maps."""
        return {}

    def _due(self, now_ns: int) -> list[_Second]:
        return (self._seconds or [])[self._played : self._passed(now_ns)]

    def _flows(self, seconds: Iterable[_Second]) -> pa.Table:
        shift_ns = self._begun_ns - self._first_ns
        return pa.concat_tables([FLOW_SCHEMA.empty_table(), *(self._live(item.flows, shift_ns) for item in seconds)])

    def seen(self) -> dict[tuple[int, int], tuple[int, int]]:
        """Packets and bytes by slot and direction that the clock has played, drained or not."""
        totals: dict[tuple[int, int], tuple[int, int]] = {}
        for second in (self._seconds or [])[: self._passed(self._now_ns())]:
            for place, (packets, size) in second.seen.items():
                before = totals.get(place, (0, 0))
                totals[place] = before[0] + packets, before[1] + size
        return {(self._slots[slot], way): total for (slot, way), total in totals.items() if slot in self._slots}

    def host_firewall(self) -> HostFirewallState:
        return HostFirewallState("a capture file does not tell what a firewall did")

    def close(self) -> None:
        """Ends the play."""
        self._seconds = []

    destroy = close

    def _passed(self, now_ns: int) -> int:
        """How many seconds of the file are over."""
        played_ns = self._first_ns + now_ns - self._begun_ns
        return sum(1 for second in self._seconds or () if second.start_ns + STEP_SECONDS * 1_000_000_000 <= played_ns)

    def _live(self, flows: pa.Table, shift_ns: int) -> pa.Table:
        """The flows of attached interfaces under the agent's slots, in today's time."""
        known = pa.array(list(self._slots), pa.uint16())
        ours = pa.array(list(self._slots.values()), pa.uint16())
        places = pc.index_in(flows["slot"], value_set=known)
        flows = flows.set_column(0, FLOW_SCHEMA.field("slot"), pc.take(ours, places)).filter(pc.is_valid(places))
        for name in ("start_ns", "end_ns"):
            moved = pc.add(flows[name], pa.scalar(shift_ns, pa.int64()))
            flows = flows.set_column(flows.schema.get_field_index(name), FLOW_SCHEMA.field(name), moved)
        return flows.cast(FLOW_SCHEMA)


def _totals(flows: pa.Table) -> dict[tuple[int, int], tuple[int, int]]:
    """(slot, direction) -> (packets, bytes)."""
    sums = flows.group_by(["slot", "direction"]).aggregate([("packets", "sum"), ("bytes", "sum")])
    return {(row["slot"], row["direction"]): (row["packets_sum"], row["bytes_sum"]) for row in sums.to_pylist()}


def duration_seconds(path: Path) -> float:
    """How long the file takes to play."""
    times = [
        (pc.min(drain.flows["start_ns"]).as_py(), pc.max(drain.flows["end_ns"]).as_py())
        for drain in read_capture(path, tick_seconds=3600)
        if drain.flows.num_rows
    ]
    return float(max(last for _, last in times) - min(first for first, _ in times)) / 1e9 + STEP_SECONDS

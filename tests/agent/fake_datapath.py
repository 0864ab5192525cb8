"""A datapath without a kernel, as honest as the real one about what survives the process that uses it.

`Kernel` is what stays: two maps that take turns, the generation, what is pending, attachments, devices. `FakeDatapath`
is one process's view of it, with the methods of `vnotch.capture.kernel.Datapath`.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any

import pyarrow as pa

from vnotch.capture.generations import Drain
from vnotch.capture.glance import Glance
from vnotch.capture.host_firewall import HostFirewallState
from vnotch.errors import KernelError
from vnotch.flow import FLOW_SCHEMA, LOSS_SCHEMA, Direction, Loss, Outcome

COUNTED = ("packets", "bytes", "start_ns", "end_ns", "tcp_flags")


@dataclass
class Kernel:
    now_ns: Callable[[], int]
    devices: set[str] = field(default_factory=set)
    attached: dict[str, int] = field(default_factory=dict)  # device -> slot
    maps: list[dict[tuple, dict]] = field(default_factory=lambda: [{}, {}])
    losses: list[dict[tuple, list[int]]] = field(default_factory=lambda: [{}, {}])
    active: int = 0
    generation: int = 1
    pending: bool = False
    flipped_ns: int = 0
    seen: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    values: dict[int, dict[str, Any]] = field(default_factory=dict)
    rules: dict[int, Any] = field(default_factory=dict)
    connections: set[int] = field(default_factory=set)  # numbers of the rules that opened them

    def rename(self, old: str, new: str) -> None:
        """The index stays, and with it what is attached."""
        self.devices = (self.devices - {old}) | {new}
        self.attached = {new if device == old else device: slot for device, slot in self.attached.items()}

    def packet(
        self,
        device: str,
        src: str,
        dst: str,
        *,
        direction: Direction = Direction.INGRESS,
        outcome: Outcome = Outcome.ACCEPT,
        exclusion: int = 0,
        size: int = 100,
        lost: bool = False,
        rule: int = 0,
    ) -> bool:
        """A TCP packet at a device; -> whether it was captured."""
        slot = self.attached.get(device)
        if slot is None or device not in self.devices:
            return False
        seen = self.seen.setdefault((slot, int(direction)), [0, 0])
        seen[0] += 1
        seen[1] += size
        if lost:
            count = self.losses[self.active].setdefault((slot, int(direction), int(Loss.RING_FULL)), [0, 0])
            count[0] += 1
            count[1] += size
            return True
        addresses = [ip_address(a).packed.ljust(16, b"\0") for a in (src, dst)]
        key = (slot, int(direction), int(outcome), exclusion, 4, 6, *addresses, 40000, 443, rule)
        if outcome == Outcome.EXCLUDED:
            key = (slot, int(direction), int(outcome), exclusion, 0, 0, bytes(16), bytes(16), 0, 0, 0)
        now = self.now_ns()
        flow = self.maps[self.active].setdefault(
            key, {"packets": 0, "bytes": 0, "start_ns": now, "end_ns": now, "tcp_flags": 2}
        )
        flow["packets"] += 1
        flow["bytes"] += size
        flow["end_ns"] = now
        return True


class FakeDatapath:
    attach_mode = "fake"

    def __init__(self, kernel: Kernel, *, taken_over: bool = True, before: Kernel | None = None) -> None:
        """`before`: what a release with another layout has left; it counts until `end_predecessor`."""
        self.kernel = kernel
        self.taken_over = taken_over
        self.before = before
        self.cleared: list[int] = []

    @property
    def predecessor(self) -> Any:
        return None if self.before is None else SimpleNamespace(identity=id(self.before))

    def end_predecessor(self) -> dict[tuple[int, int], tuple[int, int]]:
        assert self.before is not None
        self.before.attached.clear()
        return {key: (count[0], count[1]) for key, count in self.before.seen.items()}

    def forget_predecessor(self) -> None:
        self.before = None

    def set_interface(self, slot: int, **values: Any) -> None:
        self.kernel.values[slot] = values

    def set_rules(self, book: Any, judged: Any, numbers: Any) -> set[int]:
        changed = {slot for slot, by in judged.items() if self.kernel.rules.get(slot) != (book, by)}
        self.kernel.rules.update({slot: (book, judged[slot]) for slot in changed})
        return changed

    def rule_numbers(self) -> set[int]:
        return set(self.kernel.connections)

    def attach(self, device: str, slot: int) -> None:
        if device not in self.kernel.devices:
            raise KernelError(f"finding the interface {device}", errno.ENODEV)
        self.kernel.attached[device] = slot

    def follow_links(self) -> None:
        pass

    def device_of(self, slot: int) -> str | None:
        found = (device for device, number in self.kernel.attached.items() if number == slot)
        return next((device for device in found if device in self.kernel.devices), None)

    def detach(self, slot: int) -> None:
        self.kernel.attached = {device: number for device, number in self.kernel.attached.items() if number != slot}

    def clear(self, slot: int) -> None:
        assert slot not in self.kernel.attached.values()
        assert not any(key[0] == slot for flows in self.kernel.maps for key in flows), "a map still holds the slot"
        self.cleared.append(slot)
        for direction in Direction:
            self.kernel.seen.pop((slot, int(direction)), None)

    def flip_and_drain(self) -> Drain:
        kernel = self.kernel
        assert self.before is None, "what is drained now is not told from what the release before counted"
        if not kernel.pending:
            kernel.active = 1 - kernel.active
            assert not kernel.maps[kernel.active], "flipped to a map that was never emptied"
            kernel.generation += 1
            kernel.flipped_ns = kernel.now_ns()
            kernel.pending = True
        old = 1 - kernel.active
        names = [field.name for field in FLOW_SCHEMA]
        rows = [dict(zip(names, key, strict=False)) | flow for key, flow in kernel.maps[old].items()]
        losses = [
            {"slot": slot, "direction": direction, "loss": loss, "packets": count[0], "bytes": count[1]}
            for (slot, direction, loss), count in kernel.losses[old].items()
        ]
        return Drain(
            kernel.generation - 1,
            kernel.flipped_ns,
            pa.Table.from_pylist(rows, schema=FLOW_SCHEMA),
            pa.Table.from_pylist(losses, schema=LOSS_SCHEMA),
        )

    def commit(self, generation: int) -> None:
        kernel = self.kernel
        if not kernel.pending and generation < kernel.generation:
            return
        assert generation == kernel.generation - 1
        kernel.maps[1 - kernel.active].clear()
        kernel.losses[1 - kernel.active].clear()
        kernel.pending = False

    @property
    def generation(self) -> int:
        return self.kernel.generation

    def glance(self) -> Glance:
        names = [field.name for field in FLOW_SCHEMA]
        flows = self.kernel.maps[self.kernel.active]
        rows = [dict(zip(names, key, strict=False)) | flow for key, flow in flows.items()]
        return Glance(self.kernel.generation, pa.Table.from_pylist(rows, schema=FLOW_SCHEMA))

    def usage(self) -> dict[str, Any]:
        return {"memory_bytes": 1 << 20, "flows_max": 1000, "connections": 0, "connections_max": 100, "counts": {}}

    def seen(self) -> dict[tuple[int, int], tuple[int, int]]:
        return {key: (count[0], count[1]) for key, count in self.kernel.seen.items()}

    def host_firewall(self) -> HostFirewallState:
        return HostFirewallState("this datapath has no kernel")

    def close(self) -> None:
        pass

    def destroy(self) -> None:
        self.kernel.attached.clear()

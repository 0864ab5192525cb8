"""The kernel's datapath: loaded, attached to interfaces, told what it must know of them, drained.

    datapath = Datapath.open(netns="router", pin_dir=Path("/sys/fs/bpf/vnotch"))
    datapath.set_interface(7, enforce=True)
    datapath.set_rules(book, {7: JudgedBy(("sg-1",), "acl-1", ("10.0.1.0/24",))}, numbers)
    datapath.attach("vn-web", slot=7)
    drain = datapath.flip_and_drain()       # flows of all interfaces since the flip before
    ...                                     # written down
    datapath.commit(drain.generation)

This file and the parts of it that it imports are the only ones that make bpf calls.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from vnotch.capture.captured import Captured
from vnotch.capture.connections import Connections, Fragments
from vnotch.capture.counters import Counters, Usage
from vnotch.capture.generations import Drain, FlowMaps, Generations
from vnotch.capture.glance import Glance, flows_in
from vnotch.capture.hooks import MODES, Hooks
from vnotch.capture.host_firewall import HostFirewallState
from vnotch.capture.interfaces import Namespace
from vnotch.capture.layout import SPILL
from vnotch.capture.loaded import Loaded, Sizes
from vnotch.capture.pins import PinFolder
from vnotch.capture.policy import JudgedBy, Rules
from vnotch.capture.predecessor import Predecessor
from vnotch.capture.privileges import check_privileges
from vnotch.capture.ring import Ring
from vnotch.capture.sight import Sight
from vnotch.capture.slots import Slots, check_slot, eni_of
from vnotch.capture.uppers import Identity
from vnotch.deciders import RuleNumbers
from vnotch.errors import InputError
from vnotch.rules import RuleBook

__all__ = ["Datapath", "Drain"]

CONNECTIONS_MAX = 65536
"""Connections tracked at once, by default: 128 bytes each, allocated at once."""


class Datapath:
    """The maps and programs of one agent, for one network namespace.

    With `pin_dir`, all of it outlives the process: the next `open` with the same folder takes it over without losing or
    counting twice a packet, whenever the process ended, and continues the generations. All methods may be called from
    any thread; they exclude each other.
    """

    attach_mode: str
    """How programs are attached: `tcx` or `clsact`."""
    taken_over: bool
    """Whether the maps are those of a process before, which may hold a drain that it did not commit."""

    @classmethod
    def open(
        cls,
        *,
        netns: str | None = None,
        pin_dir: Path | None = None,
        flows_per_map: int = 131072,
        ring_bytes: int = 1 << 20,
        connections: int = CONNECTIONS_MAX,
        attach_mode: str = "auto",
        host_firewall: bool = True,
        test_clock: bool = False,
    ) -> Datapath:
        """Loads the programs and makes or takes over the maps; nothing is attached yet, except what a predecessor left.

        `netns`: a name of `ip netns` or a path; None is the caller's own. `pin_dir`: a folder on a bpffs, which is
        mounted there where it is missing. `attach_mode`: `tcx` (kernel 6.6), `clsact`, or `auto`: tcx where there is
        one. Maps that are taken over keep the sizes they have. `connections`: how many are tracked at once, on all
        interfaces. `host_firewall`: drops of the host's own firewall become rejected flows, where the kernel tells of
        them (`host_firewall()` says whether). `test_clock`: time is the packets' tstamp, for BPF_PROG_TEST_RUN.

        Raises HostError (KernelError) with a remedy where this machine cannot do it, InputError for a bad argument.
        """
        if attach_mode not in ("auto", *MODES):
            raise InputError(f"attach mode {attach_mode}: not one of auto, tcx, clsact")
        if flows_per_map < 1:
            raise InputError(f"{flows_per_map} flows per map: at least 1 is needed")
        if ring_bytes < mmap.PAGESIZE or ring_bytes & (ring_bytes - 1):
            raise InputError(f"ring buffer of {ring_bytes} bytes: a power of two from {mmap.PAGESIZE} on is needed")
        check_privileges()
        parts, pins = ExitStack(), None
        try:
            namespace = Namespace(netns)
            parts.callback(namespace.close)
            pins = PinFolder(pin_dir) if pin_dir is not None else None
            loaded = Loaded.load(pins, Sizes(flows_per_map, ring_bytes, connections), test_clock)
            parts.callback(loaded.close)
            return cls(namespace, pins, loaded, parts, attach_mode, host_firewall)
        except BaseException:
            parts.close()
            if pins is not None and not pins.names():
                pins.destroy()  # nothing was pinned: nothing is left behind
            raise

    def __init__(
        self,
        namespace: Namespace,
        pins: PinFolder | None,
        loaded: Loaded,
        parts: ExitStack,
        attach_mode: str,
        host_firewall: bool,
    ) -> None:
        """`open` is the way to make one. `parts` closes what has been opened by now, and what is opened here."""
        self._lock = threading.RLock()
        self._parts = parts
        self._pins = pins
        self._loaded = loaded
        self._namespace = namespace
        self._sight = Sight()
        self.taken_over = loaded.taken_over
        fds = self._fds = loaded.fds
        self._programs = loaded.programs
        self._slots = Slots(fds)
        self._connections = Connections(fds["connections"], self._programs[2])
        self._fragments = Fragments(fds["fragments"])
        ring = Ring(fds["ring"], loaded.entries("ring"), SPILL)
        parts.callback(ring.close)
        maps = FlowMaps(
            active=fds["active"],
            flows=(fds["flows_0"], fds["flows_1"]),
            meta=fds["meta"],
            losses=(fds["losses_0"], fds["losses_1"]),
            lost=fds["lost"],
        )
        if host_firewall:
            same_netns = self.taken_over and loaded.pinned_netns() == namespace.inode
            self._sight.load(pins, fds, namespace, same_netns)
        parts.callback(self._sight.close)
        self._generations = Generations(maps, ring, self._sight.drop_maps())
        self._counters = Counters(fds, self._generations)
        parts.callback(self._let_go_of_rules)
        self._rules: Rules | None = Rules(loaded.words("rules"), loaded.words("policies"), self._generations.wait)
        if self.taken_over:
            self._generations.resume()
        else:
            self._generations.start()
        hooks = Hooks(namespace, pins, self._programs[:2])
        self._captured = Captured(namespace, pins, hooks, self._slots, self._sight.attached_otherwise)
        parts.callback(self._captured.close)
        origin = self._generations.origin() if self.taken_over else None
        self._captured.choose_mode(attach_mode, origin, self.predecessor)
        self.attach_mode = hooks.mode
        self._generations.set_origin(namespace.inode, MODES[hooks.mode])
        self._sight.attach(self._generations)
        loaded.pin()

    # ---- Interfaces ------------------------------------------------------------------------------------------------

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
        """What the datapath must know of an ENI, before it is attached or while it is.

        `enforce`: drop what is rejected, until `enforce_until_ns` of CLOCK_MONOTONIC where it is given, also if this
        process is gone by then; packets are judged and counted as before after it. `inside`: the device is the ENI
        itself, so that what comes in there comes to it; otherwise it is the host's end of a link to the ENI. `mac`: the
        ENI's own, where frames that a switch floods to it shall be told from its own. Addresses are packed: VPC base +
        2; up to two of VPC base + 1 and subnet base + 1; ::1 of the subnet; the ENI's own, by which the host firewall's
        drops behind a bridge are known.
        """
        check_slot(slot)
        own = tuple(addresses)
        if any(len(address) not in (4, 16) for address in own):
            raise InputError(f"slot {slot}: an address of it is no packed IPv4 or IPv6 one")
        eni = eni_of(
            enforce=enforce,
            enforce_until_ns=enforce_until_ns,
            adopt=adopt,
            inside=inside,
            mac=mac,
            dns_v4=dns_v4,
            routers_v4=routers_v4,
            router_v6=router_v6,
        )
        with self._lock:
            was_inside = self._slots.is_inside(slot)
            self._slots.put(slot, eni)
            self._sight.know(slot, Identity(inside, mac, own))
            if was_inside != inside:
                self._captured.turn(slot, inside)

    def set_rules(self, book: RuleBook, judged: Mapping[int, JudgedBy], numbers: RuleNumbers) -> set[int]:
        """The rules by which the packets of these slots are judged from now on; those of other slots stay.

        Each slot changes at once, between two packets; returns those that changed. `numbers` gives and keeps numbers
        by which flows name rules.
        Raises LimitError, InputError; then nothing has changed.
        """
        for slot in judged:
            check_slot(slot)
        with self._lock:
            assert self._rules
            return self._rules.apply(book, judged, numbers)

    def rule_numbers(self) -> set[int]:
        """Numbers that packets may still be given: of the rules in force, of connections and of fragments under way.

        Fragments are read last, since they have their number from a connection that may end in between.
        """
        with self._lock:
            assert self._rules
            _, connections = self._connections.read()
            _, fragments = self._fragments.read()
            return self._rules.in_force() | set(connections["rule"].tolist()) | set(fragments["rule"].tolist())

    def attach(self, device: str, slot: int) -> None:
        """Captures `device` under `slot`, at both hooks, before all other programs there. Attaching again what is
        attached does nothing; after a takeover it hands the interface over to the new program without a gap.

        Raises KernelError where there is no such interface (ENODEV) or the kernel refuses, InputError where it carries
        no IP packets that we can read or has another slot; nothing is attached then.
        """
        check_slot(slot)
        with self._lock:
            self._captured.attach(device, slot, lambda slot: self._generations.use_slots(slot + 1))

    def detach(self, slot: int) -> None:
        """Ends the capture of a slot; what was counted stays to be drained. A device that is gone is no error."""
        check_slot(slot)
        with self._lock:
            self._captured.detach(slot)

    def attached(self) -> dict[int, str]:
        """Slot -> device of what this process has attached and what is still there."""
        with self._lock:
            return self._captured.devices()

    def device_of(self, slot: int) -> str | None:
        """The name that the device captured under this slot has now, whichever process attached it; None where it is
        not captured, or its device is no longer in the namespace."""
        with self._lock:
            return self._captured.device_of(slot)

    def follow_links(self) -> None:
        """Takes note of what lies above captured interfaces now (bridges, VLANs, bonds), as each drain does. If it is
        called after attaching, the host firewall's drops there are known from then on."""
        with self._lock:
            self._sight.follow(self._slots.indexes())

    def clear(self, slot: int) -> None:
        """Before a slot is given to another ENI: `seen` begins at zero, lists and flags are gone."""
        check_slot(slot)
        with self._lock:
            assert slot not in self._captured.attached(), f"slot {slot} is attached"
            self._slots.clear(slot)
            assert self._rules
            self._rules.clear(slot)
            self._connections.forget(slot)
            self._sight.clear(slot)
            self._counters.clear(slot)

    # ---- A release before ------------------------------------------------------------------------------------------

    @property
    def predecessor(self) -> Predecessor | None:
        """A release with another layout that this one succeeds: its programs run until an interface is attached anew,
        or `end_predecessor`."""
        return self._loaded.predecessor

    def end_predecessor(self) -> dict[tuple[int, int], tuple[int, int]] | None:
        """Ends what the predecessor captures and this process has not attached. To be called when everything wanted has
        been attached.

        -> (slot, direction) -> (packets, bytes) that the predecessor has seen in all, which do not change any more;
        None where that cannot be told. `forget_predecessor` when they have been written down.
        """
        with self._lock:
            assert self.predecessor is not None
            self._captured.end_predecessor(self.predecessor)
            self._generations.wait()
            return self.predecessor.seen()

    def forget_predecessor(self) -> None:
        """The end of the succession; a second call does nothing."""
        with self._lock:
            self._loaded.forget_predecessor()

    # ---- Draining --------------------------------------------------------------------------------------------------

    @property
    def generation(self) -> int:
        """Of the flow map in use. A slot that is detached now is free when generation + 1 has been committed."""
        with self._lock:
            return self._generations.generation

    def flip_and_drain(self) -> Drain:
        """Takes the flow map out of use and reads it, once no program writes to it any more (a grace period of some
        10 ms). Until `commit`, and after a takeover of maps that were not committed, it reads the same one again.
        """
        with self._lock:
            self.follow_links()
            drain = self._generations.drain()
            self._fragments.sweep()
            self.sweep_connections()
            assert self._rules
            self._rules.collect()
            return drain

    def glance(self) -> Glance:
        """What the map in use holds by now, for a view: nothing is flipped or emptied, and nobody waits while it is
        read. Its generation shows whether a flip came meanwhile (None), which may have emptied it half way."""
        with self._lock:
            generation = self._generations.generation
            in_use, spilled = self._generations.in_use()
            fd = os.dup(in_use)
        try:
            flows = flows_in(fd, spilled)
        finally:
            os.close(fd)
        with self._lock:
            return Glance(generation if generation == self._generations.generation else None, flows)

    def commit(self, generation: int) -> None:
        """The drain of this generation is safe elsewhere; its map is emptied. The next flip needs it. A second call
        does nothing."""
        with self._lock:
            self._generations.commit(generation)

    def sweep_connections(self, now_ns: int = 0) -> None:
        """Removes connections that are over. `now_ns` counts with the test clock alone."""
        self._connections.sweep(now_ns)

    def connections(self) -> int:
        """How many are in the table, those that are over and not swept included."""
        with self._lock:
            return len(self._connections.read()[0])

    # ---- Counters --------------------------------------------------------------------------------------------------

    def seen(self) -> dict[tuple[int, int], tuple[int, int]]:
        """(slot, direction) -> (packets, bytes) that its interface has seen since the slot's first use or `clear`.

        With no traffic under way this is the sum of all drains' flows and losses.
        """
        with self._lock:
            return self._counters.seen(self._captured.attached())

    def counts(self) -> dict[str, int]:
        """Counters of no ENI since the maps were made: packets of interfaces without a slot (passed, not captured),
        first fragments that found no room, packets that went through the ring buffer, connections that found none."""
        with self._lock:
            return self._counters.counts()

    def usage(self) -> dict[str, Any]:
        """The maps' memory in bytes, by the kernel's own account, and how full the tables are."""
        with self._lock:
            usage = Usage(self._fds, self._sight.fds)
        return {**usage.read(), "counts": self.counts()}

    def host_firewall(self) -> HostFirewallState:
        """Whether drops of the host's own firewall are seen, and what was not told of them."""
        with self._lock:
            return self._sight.state(self._generations)

    # ---- Ending ----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Ends this process's part. With pins the capture goes on, without them it ends."""
        with self._lock:
            if self._pins is None:
                for slot in self._captured.attached():
                    self.detach(slot)
            self._parts.close()

    def destroy(self) -> None:
        """Ends the capture, whoever attached it, and removes pins and maps with what they hold."""
        with self._lock:
            if self.predecessor is not None:
                self.end_predecessor()
                self.forget_predecessor()
            self._captured.end()
            pins, self._pins = self._pins, None
            self._sight.remove()
            self._parts.close()
            if pins is not None:
                pins.destroy()

    def _let_go_of_rules(self) -> None:
        self._rules = None  # and with it the views of the maps' memory

    def __enter__(self) -> Datapath:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

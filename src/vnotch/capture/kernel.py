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

import logging
import mmap
import os
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vnotch.capture import layout, libbpf
from vnotch.capture.generations import Drain, DropMaps, FlowMaps, Generations
from vnotch.capture.glance import Glance, entries_in, flows_in, memory_bytes
from vnotch.capture.hooks import MODES, Attachment, Hooks
from vnotch.capture.host_firewall import HostFirewall, HostFirewallState
from vnotch.capture.interfaces import Namespace
from vnotch.capture.layout import (
    CONNECTION,
    CONNECTION_KEY,
    COUNTER,
    ENI,
    FRAGMENT_KEY,
    FRAGMENT_VALUE,
    MAX_SLOTS,
    META,
    SPILL,
)
from vnotch.capture.maps import PROGRAM_MAPS, USER_MAPS, check_sizes
from vnotch.capture.pins import PinFolder
from vnotch.capture.policy import JudgedBy, Rules
from vnotch.capture.predecessor import ATTACHMENT, Predecessor
from vnotch.capture.privileges import check_privileges
from vnotch.capture.ring import Ring
from vnotch.capture.uppers import Identity, Uppers
from vnotch.deciders import RuleNumbers
from vnotch.errors import HostError, InputError
from vnotch.flow import Direction
from vnotch.rules import RuleBook

__all__ = ["Datapath", "Drain"]

log = logging.getLogger(__name__)

CONNECTIONS_MAX = 65536
"""Connections tracked at once, by default: 128 bytes each, allocated at once."""

OBJECT = Path(__file__).parent / "native" / "vnotch.bpf.o"

PROGRAMS = ("vnotch_from_eni", "vnotch_to_eni", "vnotch_sweep")
"""The first two in the order of HOOKS for an ENI that is seen from outside."""


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
    predecessor: Predecessor | None = None
    """A release with another layout that this one succeeds: its programs run until an interface is attached anew, or
    `end_predecessor`."""

    def __init__(self, netns: str | None) -> None:
        """`open` is the way to make one."""
        self._lock = threading.RLock()
        self._fds: dict[str, int] = {}
        self._programs: list[int] = []
        self._attached: dict[int, Attachment] = {}
        self._ring: Ring | None = None
        self._rules: Rules | None = None
        self._memory: list[mmap.mmap] = []
        self._pins: PinFolder | None = None
        self._firewall: HostFirewall | None = None
        self._no_firewall: str | None = None  # why there is none
        self._namespace = Namespace(netns)

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
        self = cls(netns)
        try:
            if pin_dir is not None:
                self._pins = PinFolder(pin_dir)
            self._open(flows_per_map, ring_bytes, connections, attach_mode, host_firewall, test_clock)
        except BaseException:
            self._close_all()
            if self._pins is not None and not self._pins.names():
                self._pins.destroy()  # nothing was pinned: nothing is left behind
            raise
        return self

    def _open(
        self,
        flows_per_map: int,
        ring_bytes: int,
        connections: int,
        attach_mode: str,
        host_firewall: bool,
        test_clock: bool,
    ) -> None:
        self.taken_over = self._find_pins()
        self._load(flows_per_map, ring_bytes, connections, test_clock)
        self._hooks = Hooks(self._namespace, self._pins, self._programs[:2])
        if not self.taken_over:
            for parity in range(2):
                self._fds[f"losses_{parity}"] = _array(f"losses_{parity}", COUNTER, MAX_SLOTS * 2)
            self._fds["meta"] = _array("meta", META, 1)
        check_sizes(self._fds)
        ring_size = libbpf.map_info(self._fds["ring"]).max_entries
        self._ring = Ring(self._fds["ring"], ring_size, SPILL)
        maps = FlowMaps(
            active=self._fds["active"],
            flows=(self._fds["flows_0"], self._fds["flows_1"]),
            meta=self._fds["meta"],
            losses=(self._fds["losses_0"], self._fds["losses_1"]),
            lost=self._fds["lost"],
        )
        if host_firewall:
            self._load_firewall()
        self._generations = Generations(maps, self._ring, self._drop_maps())
        self._rules = Rules(self._map_words("rules"), self._map_words("policies"), self._generations.wait)
        if self.taken_over:
            self._generations.resume()
        else:
            self._generations.start()
        self._attach_firewall()
        self._choose_mode(attach_mode)
        if self._pins and not self.taken_over:
            for name in (*PROGRAM_MAPS, *USER_MAPS):
                self._pins.pin(name, self._fds[name])

    # ---- Loading ---------------------------------------------------------------------------------------------------

    def _find_pins(self) -> bool:
        """Opens the pinned maps, if a whole set is there; a set without `meta` was never in use and is removed."""
        if self._pins is None:
            return False
        meta = self._pins.get("meta")
        if meta is not None:
            raw = libbpf.map_lookup(meta, (0).to_bytes(4, "little"), libbpf.map_info(meta).value_size)
            version = int.from_bytes((raw or b"")[:4], "little")
            if version != layout.LAYOUT_VERSION:
                os.close(meta)
                meta = None
                self.predecessor = Predecessor.set_aside(self._pins)
        if self.predecessor is None:
            self.predecessor = Predecessor.find(self._pins)
        if self.predecessor is not None:
            log.warning(
                "the programs of another release count here, with layout %d, which this release with %d cannot read: "
                "they are replaced interface by interface",
                self.predecessor.layout,
                layout.LAYOUT_VERSION,
            )
        if meta is None:
            for name in self._pins.names():
                if self.predecessor is None or not self.predecessor.keeps(name):
                    self._pins.remove(name)
            return False
        self._fds["meta"] = meta
        for name in (*PROGRAM_MAPS, *USER_MAPS[:-1]):
            fd = self._pins.get(name)
            if fd is None:
                raise HostError(
                    f"the map {name} is missing among the pins in {self._pins.path}",
                    f"remove the others with what they hold: rm -r {self._pins.path}/*",
                )
            self._fds[name] = fd
        return True

    def _load(self, flows_per_map: int, ring_bytes: int, connections: int, test_clock: bool) -> None:
        if not OBJECT.exists():
            raise HostError(f"{OBJECT} is missing", "build it: python hatch_build.py")
        loaded = libbpf.Object(OBJECT)
        try:
            if self.taken_over:
                for name in PROGRAM_MAPS:
                    loaded.reuse(name, self._fds[name])
            else:
                loaded.set_max_entries("flows_0", flows_per_map)
                loaded.set_max_entries("flows_1", flows_per_map)
                loaded.set_max_entries("ring", ring_bytes)
                loaded.set_max_entries("connections", connections)
            if test_clock:
                loaded.set_constants((1).to_bytes(4, "little"))
            loaded.load()
            if not self.taken_over:
                self._fds.update({name: loaded.map_fd(name) for name in PROGRAM_MAPS})
            self._programs = [loaded.program_fd(program) for program in PROGRAMS]
        finally:
            loaded.close()

    def _load_firewall(self) -> None:
        """Where it cannot be, the capture goes on without it and says so."""
        same_netns = self.taken_over and self._pinned_netns() == self._namespace.inode
        try:
            self._firewall = HostFirewall.load(self._pins, self._fds, self._namespace, same_netns)
        except HostError as error:
            self._forgo_firewall(error)

    def _attach_firewall(self) -> None:
        if self._firewall is None:
            return
        try:
            self._firewall.attach()
        except HostError as error:
            self._firewall.remove()
            self._firewall = None
            self._generations.forgo_drops()
            self._forgo_firewall(error)

    def _forgo_firewall(self, error: HostError) -> None:
        self._no_firewall = str(error)
        log.warning("the host firewall's verdict is not seen: %s", error)

    def _drop_maps(self) -> DropMaps | None:
        if self._firewall is None:
            return None
        fds = self._firewall.fds
        return DropMaps(
            active=fds["active_drops"],
            drops=(fds["drops_0"], fds["drops_1"]),
            rest=(fds["rest_0"], fds["rest_1"]),
            untold=fds["untold_drops"],
        )

    def _pinned_netns(self) -> int:
        raw = libbpf.map_lookup(self._fds["meta"], bytes(4), META.itemsize)
        assert raw
        return int(np.frombuffer(raw, META)["netns"][0])

    def _choose_mode(self, wanted: str) -> None:
        """Settles `attach_mode`. What a predecessor attached otherwise, or elsewhere, is taken away first."""
        netns, mode = self._namespace.inode, 0
        names = {number: name for name, number in MODES.items()}
        indexes = self._slot_indexes()
        if self.taken_over or self.predecessor is not None:
            old_netns, mode = self._generations.origin() if self.taken_over else self.predecessor.origin  # type: ignore[union-attr]
            if self.predecessor is not None:
                indexes = self.predecessor.slot_indexes() | indexes
                mode = mode if mode in names else 0
            if old_netns != netns:
                log.warning("the pinned maps served another network namespace; its attachments end now")
                self._hooks.drop_pins()
                for index in self._slot_indexes():
                    self._set_slot(index, None)
                mode = 0
        self._hooks.choose(wanted, names.get(mode))
        self.attach_mode = self._hooks.mode
        if mode and names[mode] != self.attach_mode:
            for slot in set(indexes.values()):
                self._hooks.detach(slot, None, _of(slot, indexes), names[mode])
        self._generations.set_origin(netns, MODES[self.attach_mode])

    def _map_words(self, name: str) -> Any:
        """A map's memory as 64-bit words: what is stored there, programs see at once."""
        info = libbpf.map_info(self._fds[name])
        memory = mmap.mmap(self._fds[name], info.value_size * info.max_entries)
        self._memory.append(memory)
        return np.frombuffer(memory, np.uint64)

    # ---- Interfaces ------------------------------------------------------------------------------------------------

    def set_interface(
        self,
        slot: int,
        *,
        enforce: bool = False,
        adopt: bool = False,
        inside: bool = False,
        mac: bytes | None = None,
        dns_v4: bytes | None = None,
        routers_v4: Iterable[bytes] = (),
        router_v6: bytes | None = None,
        addresses: Iterable[bytes] = (),
    ) -> None:
        """What the datapath must know of an ENI, before it is attached or while it is.

        `enforce`: drop what is rejected. `inside`: the device is the ENI itself, so that what comes in there comes to
        it; otherwise it is the host's end of a link to the ENI. `mac`: the ENI's own, where frames that a switch floods
        to it shall be told from its own. Addresses are packed: VPC base + 2; up to two of VPC base + 1 and subnet base
        + 1; ::1 of the subnet; the ENI's own, by which the host firewall's drops behind a bridge are known.
        """
        _check_slot(slot)
        routers, own = list(routers_v4), tuple(addresses)
        if (
            len(routers) > 2
            or any(len(a) != 4 for a in (*routers, dns_v4 or bytes(4)))
            or len(router_v6 or bytes(16)) != 16
            or len(mac or bytes(6)) != 6
            or any(len(a) not in (4, 16) for a in own)
        ):
            raise InputError(f"slot {slot}: addresses are not packed MAC, IPv4 or IPv6 ones, or more than two routers")
        eni = np.zeros(1, ENI)
        eni["flags"] = layout.ENI_ENFORCE if enforce else 0
        eni["flags"] |= layout.ENI_ADOPT if adopt else 0
        eni["flags"] |= layout.ENI_INSIDE if inside else 0
        if mac is not None:
            eni["flags"] |= layout.ENI_MAC
            eni["mac"] = np.void(mac)
        eni["dns_v4"] = np.void(dns_v4 or bytes(4))
        for place, address in enumerate(routers):
            eni["router_v4"][0][place] = np.void(address)
        eni["router_v6"] = np.void(router_v6 or bytes(16))
        with self._lock:
            # What the device is like was found out when it was attached.
            before = self._eni(slot)
            eni["flags"] |= before["flags"] & layout.ENI_NO_LINK_HEADER
            self._put_eni(slot, eni)
            if self._uppers is not None:
                self._uppers.know(slot, Identity(inside, mac, own))
            if slot in self.attached() and (before["flags"][0] ^ eni["flags"][0]) & layout.ENI_INSIDE:
                self._hooks.turn(self._attached[slot], inside)

    def _eni(self, slot: int) -> Any:
        raw = libbpf.map_lookup(self._fds["enis"], slot.to_bytes(4, "little"), ENI.itemsize)
        assert raw is not None, "an array has all its entries"
        return np.frombuffer(raw, ENI).copy()

    def _put_eni(self, slot: int, eni: Any) -> None:
        libbpf.map_update(self._fds["enis"], slot.to_bytes(4, "little"), eni.tobytes())

    def _set_link_header(self, slot: int, has_one: bool) -> None:
        eni = self._eni(slot)
        before = int(eni["flags"][0])
        eni["flags"] = before & ~layout.ENI_NO_LINK_HEADER | (0 if has_one else layout.ENI_NO_LINK_HEADER)
        if int(eni["flags"][0]) != before:
            self._put_eni(slot, eni)

    def set_rules(self, book: RuleBook, judged: Mapping[int, JudgedBy], numbers: RuleNumbers) -> set[int]:
        """The rules by which the packets of these slots are judged from now on; those of other slots stay.

        Each slot changes at once, between two packets; returns those that changed. `numbers` gives and keeps numbers
        by which flows name rules.
        Raises LimitError, InputError; then nothing has changed.
        """
        for slot in judged:
            _check_slot(slot)
        with self._lock:
            assert self._rules
            return self._rules.apply(book, judged, numbers)

    def rule_numbers(self) -> set[int]:
        """Numbers that packets may still be given: of the rules in force, of connections and of fragments under way.

        Fragments are read last, since they have their number from a connection that may end in between.
        """
        with self._lock:
            assert self._rules
            _, connections = self._read_connections()
            _, fragments = self._read_fragments()
            return self._rules.in_force() | set(connections["rule"].tolist()) | set(fragments["rule"].tolist())

    def attach(self, device: str, slot: int) -> None:
        """Captures `device` under `slot`, at both hooks, before all other programs there. Attaching again what is
        attached does nothing; after a takeover it hands the interface over to the new program without a gap.

        Raises KernelError where there is no such interface (ENODEV) or the kernel refuses, InputError where it carries
        no IP packets that we can read or has another slot; nothing is attached then.
        """
        _check_slot(slot)
        with self._lock:
            index, has_link_header = self._namespace.link(device)
            here = self._attached.get(slot)
            if here is not None and here.index == index and self._hooks.is_alive(here):
                here.device = device
                return
            other = self._slot_indexes().get(index)
            if other not in (None, slot) and other in self._attached:
                raise InputError(f"{device} is captured under slot {other} already")
            if here is not None or any(i != index and s == slot for i, s in self._slot_indexes().items()):
                self.detach(slot)
            self._generations.use_slots(slot + 1)
            self._set_link_header(slot, has_link_header)
            self._set_slot(index, slot)
            attachment = Attachment(device, index)
            try:
                self._hooks.attach(attachment, slot, bool(int(self._eni(slot)["flags"][0]) & layout.ENI_INSIDE))
            except BaseException:
                self._attached[slot] = attachment
                self.detach(slot)
                raise
            self._attached[slot] = attachment

    def detach(self, slot: int) -> None:
        """Ends the capture of a slot; what was counted stays to be drained. A device that is gone is no error."""
        _check_slot(slot)
        with self._lock:
            indexes = self._indexes_of(slot)
            self._hooks.detach(slot, self._attached.get(slot), indexes)
            self._attached.pop(slot, None)
            for index in indexes:
                self._set_slot(index, None)

    def end_predecessor(self) -> dict[tuple[int, int], tuple[int, int]] | None:
        """Ends what the predecessor captures and this process has not attached. To be called when everything wanted has
        been attached.

        -> (slot, direction) -> (packets, bytes) that the predecessor has seen in all, which do not change any more;
        None where that cannot be told. `forget_predecessor` when they have been written down.
        """
        with self._lock:
            assert self.predecessor is not None
            ours = {attachment.index for attachment in self._attached.values()}
            theirs = {i: s for i, s in self.predecessor.slot_indexes().items() if i not in ours}
            for slot in {*theirs.values(), *self._linked_slots()} - self._attached.keys():
                for mode in MODES:
                    self._hooks.detach(slot, None, _of(slot, theirs), mode)
            self._generations.wait()
            return self.predecessor.seen()

    def forget_predecessor(self) -> None:
        """The end of the succession; a second call does nothing."""
        with self._lock:
            if self.predecessor is not None:
                self.predecessor.forget()
                self.predecessor = None

    def _linked_slots(self) -> set[int]:
        names = self._pins.names() if self._pins else []
        found = (ATTACHMENT.fullmatch(name) for name in names)
        return {int(match[1]) for match in found if match and match[1]}

    def attached(self) -> dict[int, str]:
        """Slot -> device of what this process has attached and what is still there."""
        with self._lock:
            links = self._namespace.links()
            return {s: a.device for s, a in self._attached.items() if a.index in links and self._hooks.is_alive(a)}

    def device_of(self, slot: int) -> str | None:
        """The name that the device captured under this slot has now, whichever process attached it; None where it is
        not captured, or its device is no longer in the namespace."""
        with self._lock:
            here = self._attached.get(slot)
            known = [here.index] if here else self._indexes_of(slot)
            for index in known:
                name = self._namespace.name_of(index)
                if name is not None and self._hooks.has(slot, index, here):
                    return name
            return None

    def _slot_indexes(self) -> dict[int, int]:
        """ifindex -> slot, from the kernel's map: after a takeover it knows more than this process."""
        keys, values = np.empty(MAX_SLOTS, np.uint32), np.empty(MAX_SLOTS, np.uint32)
        count = libbpf.lookup_batch(self._fds["slots"], keys, values)
        return dict(zip(keys[:count].tolist(), values[:count].tolist(), strict=True))

    def _indexes_of(self, slot: int) -> list[int]:
        return _of(slot, self._slot_indexes())

    def _set_slot(self, index: int, slot: int | None) -> None:
        """Which slot an ifindex has: in the hash of all and, where it is small, in the array of the small ones."""
        if self._uppers is not None:
            self._uppers.attached_otherwise()
        key = index.to_bytes(4, "little")
        if slot is not None:
            libbpf.map_update(self._fds["slots"], key, slot.to_bytes(4, "little"))
        if index < layout.NEAR_INDEXES:
            mark = 0 if slot is None else slot + 1
            libbpf.map_update(self._fds["near_slots"], key, mark.to_bytes(4, "little"))
        if slot is None:
            libbpf.map_delete(self._fds["slots"], key)

    @property
    def _uppers(self) -> Uppers | None:
        return self._firewall.uppers if self._firewall is not None else None

    def follow_links(self) -> None:
        """Takes note of what lies above captured interfaces now (bridges, VLANs, bonds), as each drain does. If it is
        called after attaching, the host firewall's drops there are known from then on."""
        with self._lock:
            if self._uppers is not None:
                self._uppers.follow(self._slot_indexes())

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
            self._sweep_fragments()
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

    def usage(self) -> dict[str, Any]:
        """The maps' memory in bytes, by the kernel's own account, and how full the tables are."""
        with self._lock:
            sizes = {name: memory_bytes(fd) for name, fd in self._fds.items()}
            flows_max = libbpf.map_info(self._fds["flows_0"]).max_entries
            fd = os.dup(self._fds["connections"])
        try:
            connections_max = libbpf.map_info(fd).max_entries
            connections = entries_in(fd, CONNECTION_KEY, CONNECTION)
        finally:
            os.close(fd)
        return {
            "memory_bytes": sum(sizes.values()),
            "flows_max": flows_max,
            "connections": connections,
            "connections_max": connections_max,
            "counts": self.counts(),
        }

    def commit(self, generation: int) -> None:
        """The drain of this generation is safe elsewhere; its map is emptied. The next flip needs it. A second call
        does nothing."""
        with self._lock:
            self._generations.commit(generation)

    def sweep_connections(self, now_ns: int = 0) -> None:
        """Removes connections that are over. `now_ns` counts with the test clock alone."""
        context = bytearray(192)
        context[152:160] = now_ns.to_bytes(8, "little")  # struct __sk_buff: tstamp
        libbpf.run_program(self._programs[2], bytes(64), bytes(context))

    def _read_connections(self) -> tuple[Any, Any]:
        room = libbpf.map_info(self._fds["connections"]).max_entries
        keys, values = np.empty(room, CONNECTION_KEY), np.empty(room, CONNECTION)
        count = libbpf.lookup_batch(self._fds["connections"], keys, values)
        return keys[:count], values[:count]

    def connections(self) -> int:
        """How many are in the table, those that are over and not swept included."""
        with self._lock:
            return len(self._read_connections()[0])

    def _forget_connections(self, slot: int) -> None:
        keys, _ = self._read_connections()
        old = np.ascontiguousarray(keys[keys["slot"] == slot])
        if len(old):
            libbpf.delete_batch(self._fds["connections"], old)

    def _read_fragments(self) -> tuple[Any, Any]:
        room = libbpf.map_info(self._fds["fragments"]).max_entries
        keys, values = np.empty(room, FRAGMENT_KEY), np.empty(room, FRAGMENT_VALUE)
        count = libbpf.lookup_batch(self._fds["fragments"], keys, values)
        return keys[:count], values[:count]

    def _sweep_fragments(self) -> None:
        keys, values = self._read_fragments()
        oldest = time.monotonic_ns() - layout.FRAGMENT_NS
        old = np.ascontiguousarray(keys[values["ns"].astype(np.int64) < oldest])
        if len(old):
            libbpf.delete_batch(self._fds["fragments"], old)

    # ---- Counters --------------------------------------------------------------------------------------------------

    def seen(self) -> dict[tuple[int, int], tuple[int, int]]:
        """(slot, direction) -> (packets, bytes) that its interface has seen since the slot's first use or `clear`.

        With no traffic under way this is the sum of all drains' flows and losses.
        """
        with self._lock:
            total = self._generations.sum_cpus(self._fds["seen"])
            places = set(np.nonzero(total["packets"])[0].tolist())
            places |= {slot * 2 + direction for slot in self._attached for direction in (0, 1)}
            return {
                (place // 2, place % 2): (int(total["packets"][place]), int(total["bytes"][place]))
                for place in sorted(places)
            }

    def host_firewall(self) -> HostFirewallState:
        """Whether drops of the host's own firewall are seen, and what was not told of them."""
        with self._lock:
            if self._firewall is None:
                return HostFirewallState(self._no_firewall or "it is switched off")
            untold = self._generations.sum_cpus(self._firewall.fds["untold_drops"])
            (places,) = np.nonzero(untold["packets"])
            return HostFirewallState(
                None,
                {(place // 2, place % 2): int(untold["packets"][place]) for place in places.tolist()},
                self._generations.unmatched_drops[0],
            )

    def clear(self, slot: int) -> None:
        """Before a slot is given to another ENI: `seen` begins at zero, lists and flags are gone."""
        _check_slot(slot)
        with self._lock:
            assert slot not in self._attached, f"slot {slot} is attached"
            self._put_eni(slot, np.zeros(1, ENI))
            assert self._rules
            self._rules.clear(slot)
            self._forget_connections(slot)
            if self._firewall is not None:
                self._firewall.clear(slot)
            if self._uppers is not None:
                self._uppers.forget(slot)
            zero = bytes(COUNTER.itemsize * libbpf.possible_cpus())
            for direction in Direction:
                libbpf.map_update(self._fds["seen"], (slot * 2 + int(direction)).to_bytes(4, "little"), zero)

    def counts(self) -> dict[str, int]:
        """Counters of no ENI since the maps were made: packets of interfaces without a slot (passed, not captured),
        first fragments that found no room, packets that went through the ring buffer, connections that found none."""
        with self._lock:
            keys = np.empty(len(layout.COUNTS), np.uint32)
            values = np.empty((len(layout.COUNTS), libbpf.possible_cpus()), np.uint64)
            libbpf.lookup_batch(self._fds["counts"], keys, values)
            return dict(zip(layout.COUNTS, values.sum(axis=1).tolist(), strict=True))

    # ---- Ending ----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Ends this process's part. With pins the capture goes on, without them it ends."""
        with self._lock:
            if self._fds and self._pins is None:
                for slot in list(self._attached):
                    self.detach(slot)
            self._close_all()

    def destroy(self) -> None:
        """Ends the capture, whoever attached it, and removes pins and maps with what they hold."""
        with self._lock:
            if self.predecessor is not None:
                self.end_predecessor()
                self.forget_predecessor()
            for slot in {*self._attached, *self._slot_indexes().values()}:
                self.detach(slot)
            pins, self._pins = self._pins, None
            if self._firewall is not None:
                self._firewall.remove()
                self._firewall = None
            self._close_all()
            if pins is not None:
                pins.destroy()

    def _close_all(self) -> None:
        for attachment in self._attached.values():
            for fd in attachment.links:
                os.close(fd)
        if self._ring is not None:
            self._ring.close()
        if self._firewall is not None:
            self._firewall.close()
        if self.predecessor is not None:
            self.predecessor.close()
        self._rules = None  # and with it the views of the memory
        for memory in self._memory:
            memory.close()
        self._memory = []
        for fd in (*self._fds.values(), *self._programs):
            os.close(fd)
        self._fds, self._programs, self._attached, self._ring = {}, [], {}, None
        self._namespace.close()

    def __enter__(self) -> Datapath:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _check_slot(slot: int) -> None:
    if not 0 <= slot < MAX_SLOTS:
        raise InputError(f"slot {slot}: not from 0 to {MAX_SLOTS - 1}")


def _of(slot: int, indexes: Mapping[int, int]) -> list[int]:
    """The indexes (ifindex -> slot) that have this slot."""
    return [index for index, owner in indexes.items() if owner == slot]


def _array(name: str, value: np.dtype[Any], entries: int) -> int:
    return libbpf.map_create(libbpf.MAP_TYPE_ARRAY, name, 4, value.itemsize, entries)

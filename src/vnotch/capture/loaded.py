"""The datapath's maps and programs: loaded, or taken over from a process before.

A private part of capture/kernel.py.
"""

from __future__ import annotations

import logging
import mmap
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vnotch.capture import layout, libbpf
from vnotch.capture.layout import COUNTER, MAX_SLOTS, META
from vnotch.capture.maps import PROGRAM_MAPS, USER_MAPS, check_sizes
from vnotch.capture.pins import PinFolder
from vnotch.capture.predecessor import Predecessor
from vnotch.errors import HostError

OBJECT = Path(__file__).parent / "native" / "vnotch.bpf.o"

PROGRAMS = ("vnotch_from_eni", "vnotch_to_eni", "vnotch_sweep")
"""The first two in the order of hooks.HOOKS for an ENI that is seen from outside."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sizes:
    """Of maps that are made; those that are taken over keep theirs."""

    flows_per_map: int
    ring_bytes: int
    connections: int


class Loaded:
    """File descriptors of maps (by name) and programs (by PROGRAMS)."""

    fds: dict[str, int]
    programs: list[int]
    taken_over: bool
    """Whether the maps are those of a process before."""
    predecessor: Predecessor | None
    """A release with another layout, if its programs run still."""

    def __init__(self, pins: PinFolder | None) -> None:
        """`load` is the way to make one."""
        self._pins = pins
        self._memory: list[mmap.mmap] = []
        self.fds = {}
        self.programs = []
        self.predecessor = None

    @classmethod
    def load(cls, pins: PinFolder | None, sizes: Sizes, test_clock: bool) -> Loaded:
        """Raises HostError where this host cannot do it; nothing stays open then."""
        self = cls(pins)
        try:
            self.taken_over = self._find_pins()
            self._load(sizes, test_clock)
            if not self.taken_over:
                for parity in range(2):
                    self.fds[f"losses_{parity}"] = _array(f"losses_{parity}", COUNTER, MAX_SLOTS * 2)
                self.fds["meta"] = _array("meta", META, 1)
            check_sizes(self.fds)
        except BaseException:
            self.close()
            raise
        return self

    def _find_pins(self) -> bool:
        """Opens the pinned maps, if a whole set is there; a set without `meta` was never in use and is removed."""
        if self._pins is None:
            return False
        meta = self._pins.get("meta")
        if meta is not None:
            raw = libbpf.map_lookup(meta, bytes(4), libbpf.map_info(meta).value_size)
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
        self.fds["meta"] = meta
        for name in (*PROGRAM_MAPS, *USER_MAPS[:-1]):
            fd = self._pins.get(name)
            if fd is None:
                raise HostError(
                    f"the map {name} is missing among the pins in {self._pins.path}",
                    f"remove the others with what they hold: rm -r {self._pins.path}/*",
                )
            self.fds[name] = fd
        return True

    def _load(self, sizes: Sizes, test_clock: bool) -> None:
        if not OBJECT.exists():
            raise HostError(f"{OBJECT} is missing", "build it: python hatch_build.py")
        loaded = libbpf.Object(OBJECT)
        try:
            if self.taken_over:
                for name in PROGRAM_MAPS:
                    loaded.reuse(name, self.fds[name])
            else:
                loaded.set_max_entries("flows_0", sizes.flows_per_map)
                loaded.set_max_entries("flows_1", sizes.flows_per_map)
                loaded.set_max_entries("ring", sizes.ring_bytes)
                loaded.set_max_entries("connections", sizes.connections)
            if test_clock:
                loaded.set_constants((1).to_bytes(4, "little"))
            loaded.load()
            if not self.taken_over:
                self.fds.update({name: loaded.map_fd(name) for name in PROGRAM_MAPS})
            self.programs = [loaded.program_fd(program) for program in PROGRAMS]
        finally:
            loaded.close()

    def pin(self) -> None:
        """Once everything else is ready: from now on a successor takes these maps over."""
        if self._pins is not None and not self.taken_over:
            for name in (*PROGRAM_MAPS, *USER_MAPS):
                self._pins.pin(name, self.fds[name])

    def entries(self, name: str) -> int:
        """How many a map has room for."""
        return int(libbpf.map_info(self.fds[name]).max_entries)

    def pinned_netns(self) -> int:
        """The inode of the network namespace that the maps have served last; 0: none."""
        raw = libbpf.map_lookup(self.fds["meta"], bytes(4), META.itemsize)
        assert raw
        return int(np.frombuffer(raw, META)["netns"][0])

    def words(self, name: str) -> Any:
        """A map's memory as 64-bit words: what is stored there, programs see at once. To be let go before `close`."""
        info = libbpf.map_info(self.fds[name])
        memory = mmap.mmap(self.fds[name], info.value_size * info.max_entries)
        self._memory.append(memory)
        return np.frombuffer(memory, np.uint64)

    def forget_predecessor(self) -> None:
        """A second call does nothing."""
        if self.predecessor is not None:
            self.predecessor.forget()
            self.predecessor = None

    def close(self) -> None:
        if self.predecessor is not None:
            self.predecessor.close()
        for memory in self._memory:
            memory.close()
        for fd in (*self.fds.values(), *self.programs):
            os.close(fd)
        self._memory = []
        self.fds.clear()
        self.programs.clear()


def _array(name: str, value: np.dtype[Any], entries: int) -> int:
    return libbpf.map_create(libbpf.MAP_TYPE_ARRAY, name, 4, value.itemsize, entries)

"""What a release with another layout has left in the kernel, and how it is succeeded without a gap.

Its flow maps cannot be read: how their structs lie is not known here. What is known of a predecessor is this, and so it
stays the same in every release, whatever the layout's version:

    meta                  a META up to `mode`: the layout's version first, the network namespace's inode, MODE_*
    slots                 ifindex -> slot, 32 bits each
    seen                  a COUNTER for each CPU by slot * 2 + direction
    link_SLOT_ingress     the pinned tcx links, which take the new release's programs in place of the old ones;
    link_SLOT_egress      clsact's filters have the same handle and priority
    qdisc_SLOT            a mark: the clsact qdisc was made for them

So each interface changes from the old programs to the new ones between two packets. Until then the old ones go on
counting, and enforcing. Lost are the flows that nobody had drained before the old release ended; how many packets they
are is known, from `seen`.

The three maps stay pinned under other names until the new release has taken over whatever it wants and has written down
what was lost.
"""

from __future__ import annotations

import os
import re

import numpy as np

from vnotch.capture import libbpf
from vnotch.capture.layout import COUNTER, MAX_SLOTS, META
from vnotch.capture.pins import PinFolder

KEPT = ("slots", "seen", "meta")
"""`meta` goes last: with it, the others are there."""

PREFIX = "before_"

ATTACHMENT = re.compile(r"link_(\d+)_(?:ingress|egress)|qdisc_\d+")
"""Pins that belong to an interface."""


class Predecessor:
    """The maps that are left of it. Made by `set_aside` and, where a successor was killed in between, by `find`."""

    def __init__(self, pins: PinFolder, fds: dict[str, int]) -> None:
        self._pins = pins
        self._fds = fds
        raw = libbpf.map_lookup(fds["meta"], bytes(4), libbpf.map_info(fds["meta"]).value_size) or b""
        meta = np.frombuffer(raw[: META.itemsize].ljust(META.itemsize, b"\0"), META)[0]
        self.layout = int(meta["layout"])
        self.origin = int(meta["netns"]), int(meta["mode"])
        """(inode of the network namespace, MODE_*)"""

    @classmethod
    def set_aside(cls, pins: PinFolder) -> Predecessor:
        """Of a whole set of pins: keeps what is known under other names, and all links; the other maps go."""
        for name in KEPT:
            if name in pins.names():
                pins.rename(name, PREFIX + name)
        found = cls.find(pins)
        assert found is not None
        return found

    @classmethod
    def find(cls, pins: PinFolder) -> Predecessor | None:
        fds = {name: fd for name in KEPT if (fd := pins.get(PREFIX + name)) is not None}
        if "meta" in fds:
            return cls(pins, fds)
        for fd in fds.values():
            os.close(fd)
        return None

    @staticmethod
    def keeps(name: str) -> bool:
        """Whether a pin is the predecessor's and still of use."""
        return name.startswith(PREFIX) or ATTACHMENT.fullmatch(name) is not None

    @property
    def identity(self) -> int:
        """Tells it from others of this boot."""
        return int(libbpf.map_info(self._fds["seen"]).id) if "seen" in self._fds else 0

    def slot_indexes(self) -> dict[int, int]:
        """ifindex -> slot."""
        if not self._has("slots", 4):
            return {}
        room = libbpf.map_info(self._fds["slots"]).max_entries
        keys, values = np.empty(room, np.uint32), np.empty(room, np.uint32)
        count = libbpf.lookup_batch(self._fds["slots"], keys, values)
        return dict(zip(keys[:count].tolist(), values[:count].tolist(), strict=True))

    def seen(self) -> dict[tuple[int, int], tuple[int, int]] | None:
        """(slot, direction) -> (packets, bytes) since its maps were made; None where that cannot be read."""
        if not self._has("seen", COUNTER.itemsize):
            return None
        room = min(libbpf.map_info(self._fds["seen"]).max_entries, MAX_SLOTS * 2)
        values = np.empty((room, libbpf.possible_cpus()), COUNTER)
        libbpf.lookup_batch(self._fds["seen"], np.empty(room, np.uint32), values)
        packets, bytes_ = (values[name].sum(axis=1).tolist() for name in ("packets", "bytes"))
        return {(at // 2, at % 2): (packets[at], bytes_[at]) for at in range(room) if packets[at]}

    def _has(self, name: str, value_size: int) -> bool:
        if name not in self._fds:
            return False
        info = libbpf.map_info(self._fds[name])
        return (int(info.key_size), int(info.value_size)) == (4, value_size)

    def forget(self) -> None:
        """Removes what was kept of it."""
        for name in reversed(KEPT):
            self._pins.remove(PREFIX + name)
        self.close()

    def close(self) -> None:
        for fd in self._fds.values():
            os.close(fd)
        self._fds = {}

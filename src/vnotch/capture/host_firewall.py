"""The program that sees what the host's own firewall drops: bpf/firewall.bpf.c, on the kernel's tracepoint kfree_skb.

Loaded beside the datapath, which goes on without it where the kernel cannot tell: then packets that the host firewall
drops are in records as ACCEPT. With pins it goes on counting when the process ends. A successor keeps it if it would
load the same program; a tracepoint's program cannot be replaced in one step, so that another release's first ends, and
drops of the moment in between are not seen.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vnotch.capture import libbpf
from vnotch.capture.interfaces import Namespace
from vnotch.capture.layout import COUNTER, FLOW_KEY, FLOW_VALUE, UPPER_KEY
from vnotch.capture.pins import PinFolder
from vnotch.capture.uppers import Uppers
from vnotch.errors import HostError

OBJECT = Path(__file__).parent / "native" / "firewall.bpf.o"
PROGRAM = "vnotch_dropped"
TRACEPOINT = "kfree_skb"

DROPS_PER_MAP = 16384
"""Flows of which packets were dropped between two drains, 128 bytes each, twice; allocated as they come."""

OWN_MAPS = ("drops_0", "drops_1", "active_drops", "rest_0", "rest_1", "untold_drops", "uppers")
SHARED_MAPS = ("slots", "near_slots", "enis", "seen", "lost", "counts", "fragments", "active", "ring")
"""Those of bpf/counting.h, which are the datapath's."""

LINK, PROGRAM_PIN = "link_firewall", "firewall"
"""Pins. The link comes last: with it, the others are all there."""

log = logging.getLogger(__name__)


def check() -> HostError | None:
    """What this kernel lacks for seeing the drops of its own firewall, and what would help; None: nothing."""
    known = libbpf.kernel_has_enumerator("skb_drop_reason", "SKB_DROP_REASON_NETFILTER_DROP")
    if known is None:
        return HostError(
            f"this kernel does not describe itself ({libbpf.KERNEL_BTF} is missing): what its firewall drops is"
            " recorded as ACCEPT",
            "a kernel with CONFIG_DEBUG_INFO_BTF; those of Debian 12 and Ubuntu 24.04 have it",
        )
    if not known:
        return HostError(
            f"Linux {os.uname().release} does not tell why it drops a packet: what its firewall drops is recorded as"
            " ACCEPT",
            "Linux 5.18 or later; Debian 12 and Ubuntu 24.04 have it",
        )
    return None


@dataclass(frozen=True)
class HostFirewallState:
    """How the host firewall's verdict is seen."""

    unseen: str | None
    """Why not; None: it is seen."""
    untold: Mapping[tuple[int, int], int] = field(default_factory=dict)
    """(slot, direction) -> packets that it dropped and that are in records as ACCEPT: the map of drops was full,
    their headers could not be read, or they were of one of several interfaces (capture/uppers.py)."""
    unmatched: int = 0
    """Packets that it dropped and of which no flow was found, since the process began."""

    def to_json(self) -> dict[str, Any]:
        untold = sum(self.untold.values())
        return {"seen": self.unseen is None, "message": self.unseen, "untold": untold, "unmatched": self.unmatched}


class HostFirewall:
    """The maps of drops and the program that fills them."""

    fds: dict[str, int]
    uppers: Uppers | None = None
    """What lies above captured interfaces."""

    def __init__(self, pins: PinFolder | None) -> None:
        """`load` is the way to make one."""
        self._pins = pins
        self.fds = {}
        self._program = -1
        self._link = -1

    @classmethod
    def load(
        cls, pins: PinFolder | None, shared: Mapping[str, int], namespace: Namespace, take_over: bool
    ) -> HostFirewall:
        """Makes the maps, or takes over those of a predecessor that watched the same namespace (`take_over`).

        `shared`: the datapath's maps; `namespace`: the one that is captured. Raises HostError where this host cannot
        do it; nothing of it is there then.
        """
        self = cls(pins)
        try:
            if (missing := check()) is not None:
                raise missing
            if not (take_over and self._find_pins()):
                self._remove_pins()
            self._load(shared, namespace.inode)
            self.uppers = Uppers(self.fds["uppers"], namespace)
        except BaseException:
            self._remove_pins()
            self.close()
            raise
        return self

    def _find_pins(self) -> bool:
        if self._pins is None:
            return False
        link = self._pins.get(LINK)
        if link is None:
            return False
        found = {name: fd for name in OWN_MAPS if (fd := self._pins.get(name)) is not None}
        if len(found) < len(OWN_MAPS):
            for fd in (link, *found.values()):
                os.close(fd)
            return False
        self.fds, self._link = found, link
        return True

    def _remove_pins(self) -> None:
        if self._pins is not None:
            for name in (LINK, PROGRAM_PIN, *OWN_MAPS):
                self._pins.remove(name)

    def _load(self, shared: Mapping[str, int], netns: int) -> None:
        if not OBJECT.exists():
            raise HostError(f"{OBJECT} is missing", "build it: python hatch_build.py")
        loaded = libbpf.Object(OBJECT)
        try:
            for name in SHARED_MAPS:
                loaded.reuse(name, shared[name])
            if self.fds:
                for name in OWN_MAPS:
                    loaded.reuse(name, self.fds[name])
            else:
                for name in ("drops_0", "drops_1", "rest_0", "rest_1"):
                    loaded.set_max_entries(name, DROPS_PER_MAP)
            loaded.set_constants(netns.to_bytes(4, "little"))
            loaded.load()
            if not self.fds:
                self.fds = {name: loaded.map_fd(name) for name in OWN_MAPS}
            self._program = loaded.program_fd(PROGRAM)
        finally:
            loaded.close()
        for name in ("drops_0", "drops_1", "rest_0", "rest_1"):
            info = libbpf.map_info(self.fds[name])
            assert (info.key_size, info.value_size) == (FLOW_KEY.itemsize, FLOW_VALUE.itemsize), name
        assert libbpf.map_info(self.fds["untold_drops"]).value_size == COUNTER.itemsize
        assert libbpf.map_info(self.fds["uppers"]).key_size == UPPER_KEY.itemsize

    def attach(self) -> None:
        """From here on drops are counted; `active_drops` has its map. Raises KernelError; nothing is attached then."""
        if self._link >= 0:
            if self._keep_program():
                return
            log.info("the program that sees the host firewall's drops is replaced")
            os.close(self._link)
            self._link = -1
            assert self._pins
            for name in (LINK, PROGRAM_PIN):
                self._pins.remove(name)
        self._link = libbpf.raw_tracepoint_open(self._program, TRACEPOINT)
        if self._pins is not None:
            for name in OWN_MAPS:
                if not self._pins.has(name):
                    self._pins.pin(name, self.fds[name])
            self._pins.pin(PROGRAM_PIN, self._program)
            self._pins.pin(LINK, self._link)

    def _keep_program(self) -> bool:
        """Goes on with the pinned program if it has the instructions of the one that was loaded now; -> whether so."""
        assert self._pins
        pinned = self._pins.get(PROGRAM_PIN)
        if pinned is None:
            return False
        tags = [bytes(libbpf.program_info(fd).tag) for fd in (pinned, self._program)]
        if tags[0] != tags[1]:
            os.close(pinned)
            return False
        os.close(self._program)
        self._program = pinned
        return True

    def clear(self, slot: int) -> None:
        """Before a slot is given to another ENI."""
        zero = bytes(COUNTER.itemsize * libbpf.possible_cpus())
        for place in (slot * 2, slot * 2 + 1):
            libbpf.map_update(self.fds["untold_drops"], place.to_bytes(4, "little"), zero)

    @property
    def program(self) -> int:
        """The program that counts, for its run statistics."""
        return self._program

    def remove(self) -> None:
        """Ends it for good, also where it is pinned."""
        self._remove_pins()
        self.close()

    def close(self) -> None:
        """Ends this process's part; without pins, the program's, too."""
        if self.uppers is not None:
            self.uppers.close()
            self.uppers = None
        for fd in (*self.fds.values(), self._program, self._link):
            if fd >= 0:
                os.close(fd)
        self.fds, self._program, self._link = {}, -1, -1

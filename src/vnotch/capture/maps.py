"""The maps of the datapath by name, and the sizes of their keys and values (bpf/vnotch.bpf.c has what each is for)."""

from __future__ import annotations

from collections.abc import Mapping

from vnotch.capture import layout, libbpf
from vnotch.capture.layout import (
    CONNECTION,
    CONNECTION_KEY,
    COUNTER,
    ENI,
    FLOW_KEY,
    FLOW_VALUE,
    FRAGMENT_KEY,
    FRAGMENT_VALUE,
    META,
)

PROGRAM_MAPS = (
    "slots",
    "near_slots",
    "enis",
    "seen",
    "lost",
    "counts",
    "fragments",
    "connections",
    "rules",
    "policies",
    "flows_0",
    "flows_1",
    "active",
    "ring",
)
USER_MAPS = ("losses_0", "losses_1", "meta")
"""Maps that no program knows. `meta` is pinned last: with it, the others are all there."""

SIZES = {
    "slots": (4, 4),
    "near_slots": (4, 4),
    "enis": (4, ENI.itemsize),
    "seen": (4, COUNTER.itemsize),
    "lost": (4, COUNTER.itemsize),
    "counts": (4, 8),
    "fragments": (FRAGMENT_KEY.itemsize, FRAGMENT_VALUE.itemsize),
    "connections": (CONNECTION_KEY.itemsize, CONNECTION.itemsize),
    "rules": (4, layout.ARENA_WORDS * 8),
    "policies": (4, 8),
    "flows_0": (FLOW_KEY.itemsize, FLOW_VALUE.itemsize),
    "flows_1": (FLOW_KEY.itemsize, FLOW_VALUE.itemsize),
    "losses_0": (4, COUNTER.itemsize),
    "losses_1": (4, COUNTER.itemsize),
    "meta": (4, META.itemsize),
}
"""Key and value sizes of the maps that are read or written here."""


def check_sizes(fds: Mapping[str, int]) -> None:
    """A buffer of another size than the map's would be written past its end."""
    for name, sizes in SIZES.items():
        info = libbpf.map_info(fds[name])
        assert (info.key_size, info.value_size) == sizes, f"the layout version does not tell of a change of {name}"

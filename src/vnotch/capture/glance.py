"""Looking at maps that are in use, for views: a private part of capture/kernel.py and counters.py.

A lookup takes nothing away. Counters are read while programs add to them, so a sum may be of two moments that lie some
milliseconds apart; what records are made of is read elsewhere, from a map at rest. What the host's own firewall dropped
becomes REJECT at the drain: until then it is shown as the datapath judged it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vnotch.capture import layout, libbpf
from vnotch.capture.layout import FLOW_KEY, FLOW_VALUE


@dataclass(frozen=True)
class Glance:
    """`generation` is that of the map that was read, None where it went out of use meanwhile; `flows` has FLOW_SCHEMA,
    in which keys may repeat."""

    generation: int | None
    flows: pa.Table


def flows_in(fd: int, spilled: npt.NDArray[Any]) -> pa.Table:
    """The flows of a map, and those that went through the ring buffer beside it."""
    room = libbpf.map_info(fd).max_entries
    keys, values = np.empty(room, FLOW_KEY), np.empty(room, FLOW_VALUE)  # pages that are not written cost nothing
    to_unix_ns = layout.monotonic_to_unix_ns()
    count = libbpf.lookup_batch(fd, keys, values)
    flows = layout.flow_table(keys[:count], values[:count], time.monotonic_ns(), to_unix_ns)
    if len(spilled):
        flows = pa.concat_tables([flows, layout.spill_table(spilled, to_unix_ns)])
    return flows


def entries_in(fd: int, key: np.dtype[Any], value: np.dtype[Any]) -> int:
    """How many entries a hash has."""
    room = libbpf.map_info(fd).max_entries
    return libbpf.lookup_batch(fd, np.empty(room, key), np.empty(room, value))


def memory_bytes(fd: int) -> int:
    """What the kernel charges for a map (`memlock` of /proc/PID/fdinfo; since Linux 6.4 it is measured, before that
    computed from the map's sizes)."""
    for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines():
        if line.startswith("memlock:"):
            return int(line.split()[1])
    return 0

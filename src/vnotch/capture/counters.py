"""Numbers that the datapath keeps beside flows, and the memory that it takes: for the ledger and for the status."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from vnotch.capture import layout, libbpf
from vnotch.capture.generations import Generations
from vnotch.capture.glance import entries_in, memory_bytes
from vnotch.capture.layout import CONNECTION, CONNECTION_KEY, COUNTER
from vnotch.flow import Direction


class Counters:
    """The maps `seen` and `counts`. The caller's lock guards it."""

    def __init__(self, fds: Mapping[str, int], generations: Generations) -> None:
        self._fds = fds
        self._generations = generations

    def seen(self, slots: Iterable[int]) -> dict[tuple[int, int], tuple[int, int]]:
        """As `Datapath.seen`; of `slots` also where it is nothing."""
        total = self._generations.sum_cpus(self._fds["seen"])
        places = set(np.nonzero(total["packets"])[0].tolist())
        places |= {slot * 2 + direction for slot in slots for direction in (0, 1)}
        return {
            (place // 2, place % 2): (int(total["packets"][place]), int(total["bytes"][place]))
            for place in sorted(places)
        }

    def clear(self, slot: int) -> None:
        """`seen` begins at zero."""
        zero = bytes(COUNTER.itemsize * libbpf.possible_cpus())
        for direction in Direction:
            libbpf.map_update(self._fds["seen"], (slot * 2 + int(direction)).to_bytes(4, "little"), zero)

    def counts(self) -> dict[str, int]:
        """As `Datapath.counts`."""
        keys = np.empty(len(layout.COUNTS), np.uint32)
        values = np.empty((len(layout.COUNTS), libbpf.possible_cpus()), np.uint64)
        libbpf.lookup_batch(self._fds["counts"], keys, values)
        return dict(zip(layout.COUNTS, values.sum(axis=1).tolist(), strict=True))


class Usage:
    """How much room there is and how much is in use. Made under the lock, read without it: file descriptors of its own
    keep what is read."""

    def __init__(self, fds: Mapping[str, int], firewall: Mapping[str, int]) -> None:
        """`firewall`: the maps of drops."""
        self._memory_bytes = sum(memory_bytes(fd) for fd in (*fds.values(), *firewall.values()))
        self._flows_max = int(libbpf.map_info(fds["flows_0"]).max_entries)
        self._connections = os.dup(fds["connections"])

    def read(self) -> dict[str, Any]:
        """Once."""
        try:
            connections_max = int(libbpf.map_info(self._connections).max_entries)
            connections = entries_in(self._connections, CONNECTION_KEY, CONNECTION)
        finally:
            os.close(self._connections)
        return {
            "memory_bytes": self._memory_bytes,
            "flows_max": self._flows_max,
            "connections": connections,
            "connections_max": connections_max,
        }

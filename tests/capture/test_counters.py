"""What the datapath says of itself: its memory and how full its tables are."""

from __future__ import annotations

import pytest
from links import Pair

from vnotch.capture import libbpf
from vnotch.capture.kernel import Datapath

pytestmark = pytest.mark.root

MEMORY_MAX = 60_000_000
"""Of all maps at their defaults on two processors, the host firewall's included."""


def test_memory_is_what_the_kernel_says_and_tables_are_counted(pair: Pair, datapath: Datapath) -> None:
    before = datapath.usage()
    # Two maps of 8192 flows: 44 and 32 bytes each, and the kernel's own part of an entry.
    assert 2 * 8192 * (44 + 32) < before["memory_bytes"] < 64 << 20
    assert before["flows_max"] == 8192
    assert before["connections"] <= before["connections_max"]
    assert before["connections"] == datapath.connections()


def test_maps_of_the_default_sizes_take_less_than_60_mb() -> None:
    # The three tables of counters a processor: 4096 slots, two directions, packets and bytes.
    more_processors = 3 * 8192 * 16 * max(0, libbpf.possible_cpus() - 2)
    with Datapath.open() as datapath:
        assert datapath.host_firewall().unseen is None
        assert datapath.usage()["memory_bytes"] < MEMORY_MAX + more_processors

"""What the datapath says of itself: its memory and how full its tables are."""

from __future__ import annotations

import pytest
from links import Pair

from vnotch.capture.kernel import Datapath

pytestmark = pytest.mark.root


def test_memory_is_what_the_kernel_says_and_tables_are_counted(pair: Pair, datapath: Datapath) -> None:
    before = datapath.usage()
    # Two maps of 8192 flows: 44 and 32 bytes each, and the kernel's own part of an entry.
    assert 2 * 8192 * (44 + 32) < before["memory_bytes"] < 64 << 20
    assert before["flows_max"] == 8192
    assert before["connections"] <= before["connections_max"]
    assert before["connections"] == datapath.connections()

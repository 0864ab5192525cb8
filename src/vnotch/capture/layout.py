"""The structs of bpf/vnotch.h as numpy types, and their conversion to flow tables.

An array of one of these types lies in memory as the kernel's maps and the native library want it: a batch call fills
it, and columns are views. Sizes and offsets repeat what the C compiler made of the header, whose own assertions hold
the sizes; `tests/capture/test_layout.py` compares the offsets with the BTF of the compiled program.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vnotch.flow import FLOW_SCHEMA, LOSS_SCHEMA, Direction, Exclusion, Loss, Outcome

Array = npt.NDArray[Any]

LAYOUT_VERSION = 6
"""vnotch.h: LAYOUT_VERSION."""

MAX_SLOTS = 4096

NEAR_INDEXES = 8192
"""vnotch.h: NEAR_INDEXES."""

MOMENT_SHIFT = 20
"""vnotch.h: MOMENT_SHIFT."""

FLOW_KEY = np.dtype(
    {
        "names": ["src", "dst", "sport", "dport", "slot", "proto", "bits", "rule"],
        "formats": ["V16", "V16", "<u2", "<u2", "<u2", "u1", "u1", "<u4"],
        "offsets": [0, 16, 32, 34, 36, 38, 39, 40],
        "itemsize": 44,
    }
)
"""struct flow_key. `bits`: direction in bit 0, outcome in bits 1 and 2, IPv6 in bit 3 (bit fields fill from the low end
on little-endian machines, the only ones we build for)."""

OUTCOME_SHIFT = 1
OUTCOME_BITS = 3 << OUTCOME_SHIFT

FLOW_VALUE = np.dtype(
    {
        "names": ["packets", "bytes", "first", "last", "tcp_flags"],
        "formats": ["<u8", "<u8", "<u4", "<u4", "<u4"],
        "offsets": [0, 8, 16, 20, 24],
        "itemsize": 32,
    }
)
"""struct flow_value. `first` and `last` are moments: CLOCK_MONOTONIC in steps of 2**20 ns, the lower 32 bits."""

FLOW_TOTAL = np.dtype(
    {
        "names": ["packets", "bytes", "first_ns", "last_ns", "tcp_flags"],
        "formats": ["<u8", "<u8", "<u8", "<u8", "<u4"],
        "offsets": [0, 8, 16, 24, 32],
        "itemsize": 40,
    }
)
"""struct flow_total of the native build (flow_table.h): times are Unix ns."""

SPILL = np.dtype(
    {
        "names": ["key", "tcp_flags", "packets", "bytes", "ns"],
        "formats": [FLOW_KEY, "<u4", "<u8", "<u8", "<u8"],
        "offsets": [0, 44, 48, 56, 64],
        "itemsize": 72,
    }
)
"""struct spill."""

ENI = np.dtype(
    [
        ("flags", "<u4"),
        ("dns_v4", "V4"),
        ("router_v4", "V4", (2,)),
        ("router_v6", "V16"),
        ("mac", "V6"),
        ("pad", "V2"),
        ("enforce_until", "<u8"),
    ],
)
"""struct eni."""

ENI_ENFORCE = 1
ENI_ADOPT = 2
ENI_INSIDE = 4
ENI_NO_LINK_HEADER = 8
ENI_MAC = 16

FRAGMENT_KEY = np.dtype(
    [("src", "V16"), ("dst", "V16"), ("id", "<u4"), ("slot", "<u2"), ("proto", "u1"), ("dir", "u1")],
)
"""struct fragment_key."""

FRAGMENT_VALUE = np.dtype(
    [
        ("ns", "<u8"),
        ("sport", "<u2"),
        ("dport", "<u2"),
        ("proto", "u1"),
        ("outcome", "u1"),
        ("exclusion", "u1"),
        ("pad", "u1"),
        ("rule", "<u4"),
        ("pad2", "<u4"),
    ],
)
"""struct fragment_value."""

CONNECTION_KEY = np.dtype(
    [
        ("local", "V16"),
        ("remote", "V16"),
        ("local_port", "<u2"),
        ("remote_port", "<u2"),
        ("slot", "<u2"),
        ("proto", "u1"),
        ("v6", "u1"),
    ],
)
"""struct connection_key."""

CONNECTION = np.dtype(
    {
        "names": ["last_ns", "rule", "state", "opened_by", "acl_generation", "acl_rule"],
        "formats": ["<u8", "<u4", "u1", "u1", ("<u4", (2,)), ("<u4", (2,))],
        "offsets": [0, 8, 12, 13, 16, 24],
        "itemsize": 40,
    }
)
"""struct connection."""

UPPER_KEY = np.dtype([("index", "<u4"), ("kind", "<u4"), ("address", "V16")])
"""struct upper_key."""

UPPER_ITSELF, UPPER_MAC, UPPER_V4, UPPER_V6 = 0, 1, 4, 6
UPPER_SLOT, UPPER_IN, UPPER_OUT, UPPER_UNSURE = 0xFFFF, 0x10000, 0x20000, 0x40000
"""vnotch.h: the kinds of such keys, and what their values are made of."""

ARENA_WORDS = 1 << 20
"""vnotch.h: ARENA_WORDS, of 64 bits."""
POLICY_GROUPS, POLICY_ACL, POLICY_TRACK_ALWAYS = 1, 2, 4
TABLE_TCP_V4, TABLE_TCP_V6, TABLE_UDP_V4, TABLE_UDP_V6 = 1, 2, 4, 8
SERVICE_OPEN_V4, SERVICE_OPEN_V6 = 1, 2
SERVICE_PORTLESS = 0x1000000
RULE_ALLOW = 1
BITMAP_WORDS = 16

COUNTER = np.dtype([("packets", "<u8"), ("bytes", "<u8")])
"""struct counter."""

FRAGMENT_NS = 30_000_000_000
"""vnotch.h: FRAGMENT_NS."""

COUNTS = ("unknown_interface", "fragments_full", "spilled", "connections_full")
"""COUNT_*, in order."""

META = np.dtype(
    [
        ("layout", "<u4"),
        ("active", "<u4"),  # which of the two flow maps is in use
        ("generation", "<u8"),  # of that map
        ("pending", "<u4"),  # PENDING_*: the state of the other one
        ("slots", "<u4"),  # slots below this number have been in use
        ("flipped_ns", "<u8"),  # Unix time at which the other one was taken out of use
        ("ring_end", "<u8"),  # where its drain ends in the ring buffer
        ("netns", "<u8"),  # inode of the network namespace that is captured
        ("mode", "<u4"),  # MODE_*: how programs were attached
        ("reserved", "<u4"),
        ("more", "<u8", (2,)),
    ]
)
"""What a new process must know of the maps it takes over. User space alone reads and writes it, in one call. Up to
`mode` it is the same in all releases, as are the maps `slots` and `seen`: see capture/predecessor.py."""

MODE_TCX = 1
MODE_CLSACT = 2

PENDING_NONE = 0
PENDING_DRAIN = 1
"""Taken out of use, not yet said to be safe elsewhere."""
PENDING_EMPTY = 2
"""Said to be safe elsewhere, being emptied."""
PENDING_DROPS = 3
"""Taken out of use as a map of flows; what the host firewall drops of them still goes into its map of drops."""

for _size, _type in (
    (44, FLOW_KEY),
    (32, FLOW_VALUE),
    (40, FLOW_TOTAL),
    (72, SPILL),
    (48, ENI),
    (16, COUNTER),
):
    assert _type.itemsize == _size, _type
assert FRAGMENT_KEY.itemsize == 40
assert FRAGMENT_VALUE.itemsize == 24
assert (CONNECTION_KEY.itemsize, CONNECTION.itemsize) == (40, 40)
assert (int(Direction.INGRESS), int(Direction.EGRESS)) == (0, 1)
assert (int(Outcome.ACCEPT), int(Outcome.REJECT), int(Outcome.EXCLUDED)) == (0, 1, 2)
assert [int(e) for e in Exclusion] == list(range(1, 13)), "vnotch.h: EXCL_*"


def monotonic_to_unix_ns() -> int:
    """What to add to CLOCK_MONOTONIC for Unix time, in ns; of several readings the one least disturbed.

    The clock stands still while the host sleeps: flows counted before and drained after a suspension, and they alone,
    get times that are late by its length.
    """
    readings = []
    for _ in range(5):
        before = time.monotonic_ns()
        unix = time.time_ns()
        after = time.monotonic_ns()
        readings.append((after - before, unix - (before + after) // 2))
    return min(readings)[1]


def flow_table(keys: Array, values: Array, now_ns: int, to_unix_ns: int) -> pa.Table:
    """FLOW_KEY and FLOW_VALUE arrays of one length -> FLOW_SCHEMA.

    `now_ns`: CLOCK_MONOTONIC, at most 26 days after the moments in `values`; `to_unix_ns` is added to their times.
    """
    assert values.dtype == FLOW_VALUE
    first_ns, last_ns = (_moment_ns(values[name], now_ns) for name in ("first", "last"))
    return _table(keys, values["packets"], values["bytes"], first_ns, last_ns, values["tcp_flags"], to_unix_ns)


def _moment_ns(moments: Array, now_ns: int) -> Array:
    now = now_ns >> MOMENT_SHIFT
    ago = (np.uint32(now & 0xFFFFFFFF) - moments).astype(np.int32)
    return (now - ago.astype(np.int64)) << MOMENT_SHIFT


def total_table(keys: Array, totals: Array) -> pa.Table:
    """FLOW_KEY and FLOW_TOTAL arrays of one length -> FLOW_SCHEMA."""
    assert totals.dtype == FLOW_TOTAL
    first_ns, last_ns = totals["first_ns"], totals["last_ns"]
    return _table(keys, totals["packets"], totals["bytes"], first_ns, last_ns, totals["tcp_flags"], 0)


def spill_table(spills: Array, to_unix_ns: int) -> pa.Table:
    """SPILL array -> FLOW_SCHEMA, a row a record."""
    assert spills.dtype == SPILL
    ns = spills["ns"]
    return _table(spills["key"], spills["packets"], spills["bytes"], ns, ns, spills["tcp_flags"], to_unix_ns)


def _table(
    keys: Array, packets: Array, bytes_: Array, first_ns: Array, last_ns: Array, flags: Array, to_unix_ns: int
) -> pa.Table:
    assert keys.dtype == FLOW_KEY
    assert len(keys) == len(packets)
    bits = keys["bits"]
    outcome = (bits & OUTCOME_BITS) >> OUTCOME_SHIFT
    excluded = outcome == int(Outcome.EXCLUDED)
    proto = keys["proto"]
    columns = {
        "slot": keys["slot"],
        "direction": bits & 1,
        "outcome": outcome,
        "exclusion": np.where(excluded, proto, 0).astype(np.uint8),
        "family": np.where(excluded, 0, np.where(bits & 8, 6, 4)).astype(np.uint8),
        "protocol": np.where(excluded, 0, proto).astype(np.uint8),
        "srcaddr": _addresses(keys["src"]),
        "dstaddr": _addresses(keys["dst"]),
        "srcport": keys["sport"],
        "dstport": keys["dport"],
        "rule": keys["rule"],
        "packets": packets,
        "bytes": bytes_,
        "start_ns": first_ns.astype(np.int64) + to_unix_ns,
        "end_ns": last_ns.astype(np.int64) + to_unix_ns,
        "tcp_flags": flags.astype(np.uint8),
    }
    arrays = [
        column if isinstance(column, pa.Array) else pa.array(np.ascontiguousarray(column), FLOW_SCHEMA.field(name).type)
        for name, column in columns.items()
    ]
    return pa.Table.from_arrays(arrays, schema=FLOW_SCHEMA)


def _addresses(column: Array) -> pa.Array:
    packed = np.ascontiguousarray(column)
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(packed), [None, pa.py_buffer(packed.tobytes())])


def loss_table(now: Array, before: Array, loss: Loss) -> pa.Table:
    """Two states of a counter array, indexed by slot * 2 + direction -> LOSS_SCHEMA, a row for each that grew."""
    packets = now["packets"] - before["packets"]
    bytes_ = now["bytes"] - before["bytes"]
    (grown,) = np.nonzero(packets)
    columns = [
        (grown // 2).astype(np.uint16),
        (grown % 2).astype(np.uint8),
        np.full(len(grown), int(loss), np.uint8),
        packets[grown],
        bytes_[grown],
    ]
    return pa.Table.from_arrays([pa.array(column) for column in columns], schema=LOSS_SCHEMA)

"""What the host firewall dropped, taken from the flows that were counted as accepted before it looked at them.

A drop names its flow by everything but the rule that accepted it. As many packets go from ACCEPT to REJECT:

- The rejected part is a flow of its own, with the times and TCP flags of the packets that were dropped. The accepted
  part keeps the times and flags of the whole flow, since which of them are its own is not told; it is gone with its
  last packet.
- A flow that several rules accepted in one drain gives its packets rule by rule, the lowest number first.
- A packet that a security group or a network ACL rejects without being enforced goes on, and the firewall may drop it
  as well: the first verdict stands.

Drops are drained after their flows, so that a drain has all drops of its packets, and may have some of packets that
were counted in the next: they are kept for that one. What finds no flow there either is `unmatched`: its packet was
lost, or had another key when it was counted. Only where packets of different lengths share a flow at that very moment
may bytes, never packets, go to the wrong one of the two parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vnotch.capture.layout import FLOW_KEY, FLOW_VALUE, OUTCOME_BITS, OUTCOME_SHIFT
from vnotch.flow import Outcome

Array = npt.NDArray[Any]

HEADER_BYTES = 20
"""No packet has fewer bytes."""


@dataclass(frozen=True)
class Drops:
    """Keys (FLOW_KEY, as REJECT) and values (FLOW_VALUE), of one length; no key occurs twice."""

    keys: Array
    values: Array

    @classmethod
    def none(cls) -> Drops:
        return cls(np.empty(0, FLOW_KEY), np.empty(0, FLOW_VALUE))

    def __len__(self) -> int:
        return len(self.keys)

    def after(self, earlier: Drops) -> Drops:
        """Both, added up by key."""
        if not len(earlier):
            return self
        keys = np.concatenate([earlier.keys, self.keys])
        values = np.concatenate([earlier.values, self.values])
        flows = _names(keys)
        unique = pc.unique(flows)
        place = pc.index_in(flows, value_set=unique).to_numpy()
        sums = np.zeros(len(unique), FLOW_VALUE)
        names = np.zeros(len(unique), FLOW_KEY)
        # Backwards, so that of two the earlier one has the first word, and forwards for the last.
        names[place[::-1]] = keys[::-1]
        sums["first"][place[::-1]] = values["first"][::-1]
        sums["last"][place] = values["last"]
        for name in ("packets", "bytes"):
            np.add.at(sums[name], place, values[name])
        np.bitwise_or.at(sums["tcp_flags"], place, values["tcp_flags"])
        return Drops(names, sums)


@dataclass(frozen=True)
class Settled:
    """What became of the drops of one drain."""

    packets: Array
    """By row of the drain: packets to take from it."""
    bytes: Array
    rejected: Drops
    """Those packets, as rows of their own."""
    rest: Drops
    """For the next drain."""
    unmatched: tuple[int, int]
    """Packets and bytes of which there is no flow."""


def settle(keys: Array, packets: Array, bytes_: Array, drops: Drops, earlier: Drops) -> Settled:
    """`keys` (FLOW_KEY), `packets` and `bytes_` are the rows of a drain; keys may repeat. `earlier` is the rest of the
    drain before."""
    drops = drops.after(earlier)
    names = _names(drops.keys)
    place = pc.index_in(_names(keys), value_set=names).fill_null(-1).to_numpy()
    outcome = (keys["bits"] & OUTCOME_BITS) >> OUTCOME_SHIFT
    dropped = drops.values["packets"].astype(np.int64)
    dropped_bytes = drops.values["bytes"].astype(np.int64)

    (rows,) = np.nonzero((place >= 0) & (outcome == int(Outcome.ACCEPT)))
    rows = rows[np.lexsort((keys["rule"][rows], place[rows]))]
    taken, taken_bytes = _take(place[rows], packets[rows], bytes_[rows], dropped, dropped_bytes)
    moved = _sum(place[rows], taken, len(drops))
    moved_bytes = _sum(place[rows], taken_bytes, len(drops))

    (known,) = np.nonzero((place >= 0) & (outcome == int(Outcome.REJECT)))
    rejected_before = _sum(place[known], packets[known].astype(np.int64), len(drops))
    rest = np.maximum(dropped - moved - rejected_before, 0)
    rest_bytes = np.where(rest > 0, np.maximum(dropped_bytes - moved_bytes, rest * HEADER_BYTES), 0)

    # What was kept from the drain before had to be in this one.
    kept = np.zeros(len(drops), np.int64)
    if len(earlier):
        kept[pc.index_in(_names(earlier.keys), value_set=names).to_numpy()] = earlier.values["packets"]
    unmatched = np.minimum(np.maximum(kept - (dropped - rest), 0), rest)
    unmatched_bytes = rest_bytes * unmatched // np.maximum(rest, 1)

    by_row, bytes_by_row = np.zeros(len(keys), np.int64), np.zeros(len(keys), np.int64)
    by_row[rows], bytes_by_row[rows] = taken, taken_bytes
    return Settled(
        by_row,
        bytes_by_row,
        _part(drops, moved, moved_bytes),
        _part(drops, rest - unmatched, rest_bytes - unmatched_bytes),
        (int(unmatched.sum()), int(unmatched_bytes.sum())),
    )


def without(flows: pa.Table, settled: Settled) -> pa.Table:
    """FLOW_SCHEMA rows of the drain without the packets that were taken from them, and without rows that are empty."""
    for name, taken in (("packets", settled.packets), ("bytes", settled.bytes)):
        at = flows.schema.get_field_index(name)
        left = flows[name].to_numpy() - taken.astype(np.uint64)
        flows = flows.set_column(at, flows.schema.field(name), pa.array(left))
    return flows.filter(pc.greater(flows["packets"], 0))


def _take(place: Array, packets: Array, bytes_: Array, dropped: Array, dropped_bytes: Array) -> tuple[Array, Array]:
    """Rows grouped by `place`, the drop that concerns them -> packets and bytes to take from each: rows are emptied in
    their order, the one at which a drop ends gives what remains of its bytes."""
    packets, bytes_ = packets.astype(np.int64), bytes_.astype(np.int64)
    if not len(place):
        return packets, bytes_
    first = np.concatenate([[True], place[1:] != place[:-1]])
    group = np.cumsum(first) - 1

    def before(column: Array) -> Array:
        running: Array = np.cumsum(column) - column
        return np.asarray(running - running[first][group])

    taken = np.clip(dropped[place] - before(packets), 0, packets)
    left = packets - taken
    part = np.clip(
        dropped_bytes[place] - before(bytes_), taken * HEADER_BYTES, np.maximum(bytes_ - left * HEADER_BYTES, 0)
    )
    return taken, np.where(left == 0, bytes_, np.where(taken > 0, part, 0))


def _sum(place: Array, column: Array, length: int) -> Array:
    total: Array = np.zeros(length, np.int64)
    np.add.at(total, place, column)
    return total


def _part(drops: Drops, packets: Array, bytes_: Array) -> Drops:
    """The same drops with other numbers, without those that are none."""
    (rows,) = np.nonzero(packets)
    values = drops.values[rows].copy()
    values["packets"], values["bytes"] = packets[rows], bytes_[rows]
    return Drops(drops.keys[rows], values)


def _names(keys: Array) -> pa.Array:
    """Keys as fixed-size binary without outcome and rule, for Arrow's hash tables."""
    bare = np.ascontiguousarray(keys).copy()
    bare["rule"] = 0
    bare["bits"] &= np.uint8(~OUTCOME_BITS & 0xFF)
    return pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(FLOW_KEY.itemsize), len(bare), [None, pa.py_buffer(bare.tobytes())]
    )

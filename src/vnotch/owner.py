"""The owner of a flow: the process, systemd unit and container that has the socket at the interface's own end of it.

Capture observes owners of the flows of each drain (`capture.sockets`); the observations of a window's drains are kept
beside the window and joined to its flows here. An observation is `exact` where a socket of that very connection was
seen, and not where only a socket that takes such packets was: a listener, or a UDP socket without a peer. A value is
null where it is not known or where several are possible.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

OWNER_FIELDS = ("x-process", "x-unit", "x-container")
"""The record fields that show an owner, in the order of `PARTS`."""

PARTS = ("process", "unit", "container")

KEY_COLUMNS = (
    ("slot", 2),
    ("direction", 1),
    ("family", 1),
    ("protocol", 1),
    ("srcaddr", 16),
    ("dstaddr", 16),
    ("srcport", 2),
    ("dstport", 2),
)
"""The columns of FLOW_SCHEMA that an observation is of, and their bytes: verdict and rule do not change an owner."""

KEY_BYTES = sum(size for _, size in KEY_COLUMNS)

OWNER_SCHEMA = pa.schema(
    [
        pa.field("key", pa.binary(KEY_BYTES), nullable=False),  # `flow_keys`
        pa.field("exact", pa.bool_(), nullable=False),
        *(pa.field(name, pa.string()) for name in PARTS),
    ]
)


def flow_keys(flows: pa.Table, rows: npt.NDArray[np.int64] | None = None) -> pa.Array:
    """One key a flow (of those `rows`), binary(KEY_BYTES): what observations and flows are joined by."""
    columns = []
    for name, size in KEY_COLUMNS:
        column = flows[name].combine_chunks()
        values = fixed_bytes(column) if pa.types.is_fixed_size_binary(column.type) else column.to_numpy()
        values = values if rows is None else values[rows]
        columns.append(np.ascontiguousarray(values).view(np.uint8).reshape(len(values), size))
    return packed(columns)


def fixed_bytes(column: pa.Array) -> npt.NDArray[np.uint8]:
    """A fixed-size binary column as (rows, bytes)."""
    size = column.type.byte_width
    _, data = column.buffers()
    if data is None:
        return np.zeros((0, size), np.uint8)
    values = np.frombuffer(data, np.uint8, len(column) * size, column.offset * size)
    return values.reshape(len(column), size)


def packed(columns: Iterable[npt.NDArray[np.uint8]]) -> pa.Array:
    """(rows, n) bytes side by side -> one fixed-size binary value a row."""
    joined = np.ascontiguousarray(np.hstack(list(columns)))
    rows, size = joined.shape
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(size), rows, [None, pa.py_buffer(joined)])


def merge_observations(tables: Iterable[pa.Table]) -> pa.Table:
    """Observations without repetition; -> OWNER_SCHEMA."""
    table = pa.concat_tables([OWNER_SCHEMA.empty_table(), *tables])
    if table.num_rows == 0:
        return table
    return table.group_by(OWNER_SCHEMA.names, use_threads=False).aggregate([]).select(OWNER_SCHEMA.names)


@dataclass(frozen=True)
class Owners:
    """The owners of a window's flows. `observations` has OWNER_SCHEMA; a key may be in it several times.

    Where the connection's own socket was seen, what was seen of listeners does not count. A value that two observations
    give differently is none.
    """

    observations: pa.Table

    @cached_property
    def _settled(self) -> pa.Table:
        """key -> values; no key twice."""
        table = self.observations
        names = {part: table[part].combine_chunks().dictionary_encode() for part in PARTS}
        coded = pa.table({"key": table["key"], "exact": table["exact"], **{p: names[p].indices for p in PARTS}})
        ends = [(part, end) for part in PARTS for end in ("min", "max")]
        merged = coded.group_by(["key", "exact"], use_threads=False).aggregate(ends)
        columns = {"key": merged["key"].combine_chunks(), "exact": merged["exact"]}
        for part in PARTS:
            least, most = (merged[f"{part}_{end}"].combine_chunks() for end in ("min", "max"))
            only = pc.if_else(pc.equal(least, most), least, pa.scalar(None, least.type))
            columns[part] = names[part].dictionary.take(only)
        settled = pa.table(columns)
        exact = settled.filter(settled["exact"])
        others = settled.filter(pc.invert(settled["exact"]))
        others = others.filter(pc.is_null(pc.index_in(others["key"], exact["key"].combine_chunks())))
        return pa.concat_tables([exact, others]).combine_chunks()

    def of_flows(self, keys: pa.Array) -> dict[str, pa.Array]:
        """Part -> one string a flow, null where the owner is not known."""
        settled = self._settled
        places = pc.index_in(keys, settled["key"].combine_chunks())
        return {part: settled[part].combine_chunks().take(places) for part in PARTS}


NO_OWNERS = Owners(OWNER_SCHEMA.empty_table())

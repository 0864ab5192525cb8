"""Windows: flows of many drains added up over one aggregation interval.

A window begins at a multiple of its interval since the Unix epoch. Time is passed in and nothing here looks at a clock,
so the same calls in the same order give the same windows: `add` and `close` replayed from a journal, or `from_tables`
of what `to_tables` gave, restore the state exactly.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import gcd

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vnotch.errors import InputError
from vnotch.flow import FLOW_KEY, FLOW_SCHEMA, LOSS_SCHEMA, Loss, Outcome

INTERVAL_SECONDS_MIN = 1
INTERVAL_SECONDS_MAX = 900
TICK_SECONDS_MAX = 10
MAX_FLOWS = 2_000_000
"""Open flows of one interval; 100 bytes each in memory."""

_SECOND_NS = 1_000_000_000
_COMPACT_ROWS = 65_536
_LOSS_KEY = ("slot", "direction", "loss")
_LOST_SCHEMA = pa.schema([*(FLOW_SCHEMA.field(name) for name in ("slot", "direction", "outcome", "packets", "bytes"))])


@dataclass(frozen=True)
class Window:
    """One closed window: [start_s, end_s) in Unix seconds.

    `flows` has FLOW_SCHEMA and no FLOW_KEY twice, `losses` has LOSS_SCHEMA and no (slot, direction, loss) twice. Both
    may be empty: a drain without flows opens a window too, which is how an interval without traffic is known.
    """

    start_s: int
    end_s: int
    flows: pa.Table
    losses: pa.Table


@dataclass(frozen=True)
class Added:
    """What became of one `add`.

    `start_s` is the window that the flows went to; `late` says that the one they belong to was closed already. `lost`
    are packets and bytes by slot, direction and outcome that the bound on open flows turned away; the window has them
    as losses (Loss.AGENT).
    """

    start_s: int
    late: bool
    lost: pa.Table


class Windows:
    """The open windows of one interval.

    `add` and `add_losses` put a drain into the window of `at_ns`, any instant inside the tick that the drain covers.
    The flip that ends a tick is none: it comes a little after the window's end. The flip before it or the middle is.
    `close` after each drain with the time of its flip then gives whole windows.

    A window that was closed is never opened again: what is late for it goes to the window after the last closed one
    and is counted in `late_flows` and `late_packets`. `close` gives out the windows that have ended.

    The clock may jump. Forwards: windows that have ended are closed, those in between were never opened and do not
    appear. Backwards by more than an interval: windows that lie in the new future are closed at once, since no drain
    will come for them, and windows of a time that was recorded before are opened again. Backwards by less: drains are
    late until the clock has caught up.

    At most `max_flows` flows are open. Of a drain that goes beyond them, the flows that were not open before are lost,
    counted exactly. EXCLUDED rows do not count towards the bound; there are few per slot.
    """

    def __init__(self, interval_seconds: int, max_flows: int = MAX_FLOWS) -> None:
        """Raises InputError for an interval outside 1..900 or a bound below 1."""
        check_interval(interval_seconds)
        if max_flows < 1:
            raise InputError(f"max_flows {max_flows}: at least one flow must be open")
        self.interval_seconds = interval_seconds
        self.max_flows = max_flows
        self.closed_until_s: int | None = None
        """End of the last window that was closed; None before the first and after the clock was set back."""
        self.late_flows = 0
        self.late_packets = 0
        self._open: dict[int, _Open] = {}

    def add(self, flows: pa.Table, at_ns: int) -> Added:
        """Adds FLOW_SCHEMA rows, in any grouping. An empty table opens the window all the same."""
        start_s, late = self._place(at_ns)
        window = self._window(start_s)
        window.add(flows.select(FLOW_SCHEMA.names).cast(FLOW_SCHEMA))
        if late and flows.num_rows:
            self.late_flows += flows.num_rows
            self.late_packets += pc.sum(flows["packets"]).as_py()
        lost = self._enforce_bound(window)
        if lost.num_rows:
            window.add_losses(_agent_losses(lost))
        return Added(start_s, late, lost)

    def add_losses(self, losses: pa.Table, at_ns: int) -> int:
        """Adds LOSS_SCHEMA rows; -> start of the window they went to."""
        start_s, _ = self._place(at_ns)
        self._window(start_s).add_losses(losses.select(LOSS_SCHEMA.names).cast(LOSS_SCHEMA))
        return start_s

    def close(self, now_ns: int) -> list[Window]:
        """The windows that ended at or before `now_ns`, in order of time; they are open no longer."""
        now_s = now_ns // _SECOND_NS
        if self.closed_until_s is not None and now_s < self.closed_until_s - self.interval_seconds:
            self.closed_until_s = None
        ended = sorted(start_s for start_s in self._open if start_s + self.interval_seconds <= now_s)
        ahead = sorted(start_s for start_s in self._open if start_s > now_s + self.interval_seconds)
        if ended:
            self.closed_until_s = max(self.closed_until_s or 0, ended[-1] + self.interval_seconds)
        return [self._take(start_s) for start_s in ended + ahead]

    def cut(self, start_s: int) -> Window:
        """What the open window at `start_s` holds by now; it stays open, and empty."""
        window = self._take(start_s)
        self._window(start_s)
        return window

    def so_far(self) -> list[Window]:
        """What the open windows hold by now; they stay as they are."""
        return [self._closed(start_s, window) for start_s, window in sorted(self._open.items())]

    def close_all(self) -> list[Window]:
        """Every open window as it stands: the end of a capture file, or of an agent that does not come back."""
        starts = sorted(self._open)
        if starts:
            self.closed_until_s = max(self.closed_until_s or 0, starts[-1] + self.interval_seconds)
        return [self._take(start_s) for start_s in starts]

    @property
    def open_starts(self) -> tuple[int, ...]:
        """Beginnings of the open windows, Unix seconds; a journal must reach back to the drains of the first."""
        return tuple(sorted(self._open))

    @property
    def open_flows(self) -> int:
        """Rows held now; at most `max_flows` plus EXCLUDED rows plus what has not been merged yet."""
        return sum(window.rows for window in self._open.values())

    def parts(self) -> list[tuple[int, tuple[pa.Table, ...], pa.Table]]:
        """(start_s, FLOW_SCHEMA tables in which keys repeat, LOSS_SCHEMA) of the open windows, oldest first; nothing is
        merged for it."""
        return [(start_s, window.parts(), window.losses()) for start_s, window in sorted(self._open.items())]

    def to_tables(self) -> tuple[pa.Table, pa.Table]:
        """The whole state as (flows, losses), each with a column `window_start_s`; the counters are schema metadata."""
        flows, losses = [], []
        for start_s, window in sorted(self._open.items()):
            flows.append(_with_start(window.flows(), start_s))
            losses.append(_with_start(window.losses(), start_s))
        metadata = {
            b"interval_seconds": str(self.interval_seconds).encode(),
            b"closed_until_s": b"" if self.closed_until_s is None else str(self.closed_until_s).encode(),
            b"late_flows": str(self.late_flows).encode(),
            b"late_packets": str(self.late_packets).encode(),
            b"open_starts": b" ".join(str(start_s).encode() for start_s in sorted(self._open)),
        }
        empty = _with_start(FLOW_SCHEMA.empty_table(), 0), _with_start(LOSS_SCHEMA.empty_table(), 0)
        return (
            pa.concat_tables([empty[0], *flows]).replace_schema_metadata(metadata),
            pa.concat_tables([empty[1], *losses]),
        )

    @classmethod
    def from_tables(cls, flows: pa.Table, losses: pa.Table, max_flows: int = MAX_FLOWS) -> Windows:
        """The inverse of `to_tables`. Raises InputError where the tables are not such state."""
        metadata = flows.schema.metadata or {}
        try:
            windows = cls(int(metadata[b"interval_seconds"]), max_flows)
            windows.closed_until_s = int(metadata[b"closed_until_s"]) if metadata[b"closed_until_s"] else None
            windows.late_flows = int(metadata[b"late_flows"])
            windows.late_packets = int(metadata[b"late_packets"])
            starts = [int(start_s) for start_s in metadata[b"open_starts"].split()]
            for start_s in starts:
                window = windows._window(start_s)
                window.add(_of_start(flows, start_s, FLOW_SCHEMA))
                window.add_losses(_of_start(losses, start_s, LOSS_SCHEMA))
        except (KeyError, ValueError, pa.ArrowException) as error:
            raise InputError(f"the state of windows cannot be read: {error}") from error
        return windows

    def _place(self, at_ns: int) -> tuple[int, bool]:
        """-> (start of the window for this instant, whether its own window was closed before)."""
        start_s = at_ns // _SECOND_NS // self.interval_seconds * self.interval_seconds
        if self.closed_until_s is not None and start_s < self.closed_until_s:
            return self.closed_until_s, True
        return start_s, False

    def _window(self, start_s: int) -> _Open:
        return self._open.setdefault(start_s, _Open())

    def _take(self, start_s: int) -> Window:
        return self._closed(start_s, self._open.pop(start_s))

    def _closed(self, start_s: int, window: _Open) -> Window:
        return Window(start_s, start_s + self.interval_seconds, window.flows(), window.losses())

    def _enforce_bound(self, window: _Open) -> pa.Table:
        """Keeps the flows that were open first; -> _LOST_SCHEMA rows of the others."""
        if self.open_flows <= self.max_flows:
            return _LOST_SCHEMA.empty_table()
        others = sum(other.counted() for other in self._open.values() if other is not window)
        return window.keep_first(self.max_flows - others)


class _Open:
    """The tables of one open window: one merged, then those that came since."""

    def __init__(self) -> None:
        self._flows: list[pa.Table] = []
        self._merged = True  # whether _flows is at most one table without a key twice
        self._losses: list[pa.Table] = []
        self._compact_at = _COMPACT_ROWS
        self.rows = 0

    def add(self, flows: pa.Table) -> None:
        """Merging waits until the rows have doubled, so that the cost per added row stays constant."""
        if flows.num_rows == 0:
            return
        self._flows.append(flows)
        self._merged = False
        self.rows += flows.num_rows
        if self.rows >= self._compact_at:
            self.flows()
            self._compact_at = max(_COMPACT_ROWS, 2 * self.rows)

    def add_losses(self, losses: pa.Table) -> None:
        if losses.num_rows:
            self._losses = [add_losses(pa.concat_tables([*self._losses, losses]))]

    def flows(self) -> pa.Table:
        if not self._merged:
            self._set(add_flows(pa.concat_tables(self._flows)))
        return self._flows[0] if self._flows else FLOW_SCHEMA.empty_table()

    def parts(self) -> tuple[pa.Table, ...]:
        return tuple(self._flows)

    def losses(self) -> pa.Table:
        return self._losses[0] if self._losses else LOSS_SCHEMA.empty_table()

    def counted(self) -> int:
        """Flows that count towards the bound."""
        return int(pc.sum(_counts(self.flows())).as_py() or 0)

    def keep_first(self, bound: int) -> pa.Table:
        """Keeps the first `bound` counted flows and all EXCLUDED rows; -> what was turned away, _LOST_SCHEMA.

        Grouping keeps the order in which keys first came, so the flows that were open before are the ones kept.
        """
        flows = self.flows()
        counts = _counts(flows).to_numpy(zero_copy_only=False)
        keep = pa.array(~counts | (np.cumsum(counts) <= max(bound, 0)))
        turned_away = flows.filter(pc.invert(keep))
        if turned_away.num_rows:
            self._set(flows.filter(keep))
        lost = turned_away.group_by(["slot", "direction", "outcome"], use_threads=False)
        return (
            lost.aggregate([("packets", "sum"), ("bytes", "sum")]).rename_columns(_LOST_SCHEMA.names).cast(_LOST_SCHEMA)
        )

    def _set(self, flows: pa.Table) -> None:
        self._flows, self._merged, self.rows = [flows], True, flows.num_rows


def add_flows(flows: pa.Table, key: Iterable[str] = FLOW_KEY) -> pa.Table:
    """Merges rows of equal key: packets and bytes added, the earliest start, the latest end, TCP flags ORed.

    -> FLOW_SCHEMA without the key columns that `key` leaves out, in the order in which keys first occur.
    """
    names = list(key)
    flags, bits = _flag_columns(flows["tcp_flags"])
    table = flows.select([*names, "packets", "bytes", "start_ns", "end_ns"])
    for bit, column in zip(bits, flags, strict=True):
        table = table.append_column(f"flag_{bit}", column)
    sums = [("packets", "sum"), ("bytes", "sum"), ("start_ns", "min"), ("end_ns", "max")]
    merged = table.group_by(names, use_threads=False).aggregate(sums + [(f"flag_{bit}", "max") for bit in bits])
    tcp_flags = np.zeros(merged.num_rows, np.uint8)
    for bit in bits:
        tcp_flags |= merged[f"flag_{bit}_max"].to_numpy()
    columns = [merged[name] for name in names] + [merged[f"{name}_{kind}"] for name, kind in sums]
    schema = pa.schema([*(FLOW_SCHEMA.field(name) for name in names), *list(FLOW_SCHEMA)[len(FLOW_KEY) :]])
    return pa.table([*columns, pa.array(tcp_flags)], schema=schema)


def add_losses(losses: pa.Table) -> pa.Table:
    """Merges rows of equal slot, direction and reason; -> LOSS_SCHEMA."""
    merged = losses.group_by(list(_LOSS_KEY), use_threads=False).aggregate([("packets", "sum"), ("bytes", "sum")])
    return merged.rename_columns(LOSS_SCHEMA.names).cast(LOSS_SCHEMA)


def without_rule(flows: pa.Table) -> pa.Table:
    """Flows merged over the deciding rule, for formats that do not ask for it; the column `rule` is 0 in all rows."""
    rules = flows["rule"]
    if flows.num_rows == 0 or pc.max(rules).as_py() == 0:
        return flows
    merged = add_flows(flows, [name for name in FLOW_KEY if name != "rule"])
    zeros = pa.array(np.zeros(merged.num_rows, np.uint32))
    return merged.add_column(FLOW_SCHEMA.get_field_index("rule"), FLOW_SCHEMA.field("rule"), zeros)


def tick_seconds(intervals: Iterable[int], at_most: int = TICK_SECONDS_MAX) -> int:
    """Seconds between two drains: the longest time up to `at_most` that divides all intervals in use, so that every
    window ends with a drain. `at_most` where none is in use. Raises InputError for an interval outside 1..900."""
    common = 0
    for interval_seconds in intervals:
        check_interval(interval_seconds)
        common = gcd(common, interval_seconds)
    return max(tick for tick in range(1, at_most + 1) if common % tick == 0)


def check_interval(interval_seconds: int) -> None:
    if not INTERVAL_SECONDS_MIN <= interval_seconds <= INTERVAL_SECONDS_MAX:
        raise InputError(
            f"aggregation interval {interval_seconds} s", f"from {INTERVAL_SECONDS_MIN} to {INTERVAL_SECONDS_MAX} s"
        )


def _flag_columns(tcp_flags: pa.ChunkedArray) -> tuple[list[pa.Array], list[int]]:
    """One column per bit that occurs: Arrow has no OR over groups, but the maximum of one bit is its OR."""
    values = tcp_flags.to_numpy()
    present = int(np.bitwise_or.reduce(values)) if len(values) else 0
    bits = [1 << number for number in range(8) if present & 1 << number]
    return [pa.array(values & np.uint8(bit)) for bit in bits], bits


def _counts(flows: pa.Table) -> pa.Array:
    return pc.not_equal(flows["outcome"], Outcome.EXCLUDED).combine_chunks()


def _agent_losses(lost: pa.Table) -> pa.Table:
    reasons = pa.array(np.full(lost.num_rows, Loss.AGENT, np.uint8))
    columns = [lost["slot"], lost["direction"], reasons, lost["packets"], lost["bytes"]]
    return pa.table(columns, schema=LOSS_SCHEMA)


def _with_start(table: pa.Table, start_s: int) -> pa.Table:
    return table.append_column("window_start_s", pa.array(np.full(table.num_rows, start_s, np.int64)))


def _of_start(table: pa.Table, start_s: int, schema: pa.Schema) -> pa.Table:
    rows = table.filter(pc.equal(table["window_start_s"], start_s))
    return rows.select(schema.names).cast(schema)

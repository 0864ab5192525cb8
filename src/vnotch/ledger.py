"""The ledger: every packet that the capture saw is accepted, rejected, excluded or lost, each with its reason.

It is fed with drains, before any flow log filters them, and is kept per slot, direction and window. Its sum is held
against the datapath's own count of packets seen; a difference of a single packet is a fault.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from vnotch.errors import InputError
from vnotch.flow import Direction, Exclusion, Loss, Outcome

KEEP_WINDOWS = 16
"""Windows that are kept one by one; older ones are in the totals alone."""


@dataclass
class Count:
    """Packets as on the wire and bytes of IP total length."""

    packets: int = 0
    bytes: int = 0

    def add(self, packets: int, bytes_: int) -> None:
        self.packets += packets
        self.bytes += bytes_

    def to_json(self) -> dict[str, int]:
        return {"packets": self.packets, "bytes": self.bytes}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Count:
        return cls(int(document["packets"]), int(document["bytes"]))


@dataclass
class Balance:
    """What became of the packets of one slot, direction and time. Reasons with no packets have no entry."""

    accept: Count = field(default_factory=Count)
    reject: Count = field(default_factory=Count)
    excluded: dict[Exclusion, Count] = field(default_factory=dict)
    lost: dict[Loss, Count] = field(default_factory=dict)

    def counts(self) -> Iterator[Count]:
        yield self.accept
        yield self.reject
        yield from self.excluded.values()
        yield from self.lost.values()

    @property
    def packets(self) -> int:
        return sum(count.packets for count in self.counts())

    @property
    def bytes(self) -> int:
        return sum(count.bytes for count in self.counts())

    def of(self, outcome: int, exclusion: int) -> Count:
        """The count that flows of this outcome go to."""
        if outcome == Outcome.EXCLUDED:
            return self.excluded.setdefault(Exclusion(exclusion), Count())
        return self.accept if outcome == Outcome.ACCEPT else self.reject

    def add(self, other: Balance) -> None:
        self.accept.add(other.accept.packets, other.accept.bytes)
        self.reject.add(other.reject.packets, other.reject.bytes)
        for exclusion, count in other.excluded.items():
            self.excluded.setdefault(exclusion, Count()).add(count.packets, count.bytes)
        for loss, count in other.lost.items():
            self.lost.setdefault(loss, Count()).add(count.packets, count.bytes)

    def to_json(self) -> dict[str, Any]:
        return {
            "packets": self.packets,
            "bytes": self.bytes,
            "accept": self.accept.to_json(),
            "reject": self.reject.to_json(),
            "excluded": {reason.name: count.to_json() for reason, count in sorted(self.excluded.items())},
            "lost": {reason.name: count.to_json() for reason, count in sorted(self.lost.items())},
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Balance:
        return cls(
            Count.from_json(document["accept"]),
            Count.from_json(document["reject"]),
            {Exclusion[name]: Count.from_json(count) for name, count in document["excluded"].items()},
            {Loss[name]: Count.from_json(count) for name, count in document["lost"].items()},
        )


@dataclass(frozen=True)
class Difference:
    """A slot and direction whose ledger and `seen` disagree; positive: seen, but in no account."""

    slot: int
    direction: Direction
    packets: int
    bytes: int


_Place = tuple[int, Direction]


class Ledger:
    """The accounts of one interval's windows."""

    def __init__(self, keep_windows: int = KEEP_WINDOWS) -> None:
        self.keep_windows = keep_windows
        self._totals: dict[_Place, Balance] = {}
        self._windows: dict[int, dict[_Place, Balance]] = {}

    def add(self, flows: pa.Table, losses: pa.Table, window_start_s: int) -> None:
        """Books one drain (FLOW_SCHEMA and LOSS_SCHEMA, EXCLUDED rows included) into the window it went to."""
        grouped = flows.group_by(["slot", "direction", "outcome", "exclusion"], use_threads=False)
        for row in grouped.aggregate([("packets", "sum"), ("bytes", "sum")]).to_pylist():
            for balance in self._balances(row, window_start_s):
                balance.of(row["outcome"], row["exclusion"]).add(row["packets_sum"], row["bytes_sum"])
        for row in losses.to_pylist():
            for balance in self._balances(row, window_start_s):
                balance.lost.setdefault(Loss(row["loss"]), Count()).add(row["packets"], row["bytes"])
        self._expire()

    def lose(self, lost: pa.Table, window_start_s: int) -> None:
        """Moves what the windows turned away (`Added.lost`) from its outcome to Loss.AGENT; sums stay as they are.

        Call it after `add` of the same drain.
        """
        for row in lost.to_pylist():
            for balance in self._balances(row, window_start_s):
                balance.of(row["outcome"], 0).add(-row["packets"], -row["bytes"])
                balance.lost.setdefault(Loss.AGENT, Count()).add(row["packets"], row["bytes"])

    def forget(self, slot: int) -> None:
        """Drops the accounts of a slot that is about to be given out again."""
        for balances in (self._totals, *self._windows.values()):
            for direction in Direction:
                balances.pop((slot, direction), None)

    def balance(self, slot: int, direction: Direction, window_start_s: int | None = None) -> Balance:
        """One account, of one kept window or of all time; a new empty one where nothing was booked."""
        balances = self._totals if window_start_s is None else self._windows.get(window_start_s, {})
        return balances.get((slot, direction), Balance())

    def total(self) -> Balance:
        """All slots and directions, all time."""
        total = Balance()
        for balance in self._totals.values():
            total.add(balance)
        return total

    def compare(self, seen: Mapping[tuple[int, int], tuple[int, int]]) -> list[Difference]:
        """Holds the totals against the datapath's count: (slot, direction) -> (packets, bytes). Empty: exact."""
        differences = []
        for slot, number in sorted({(slot, int(direction)) for slot, direction in [*self._totals, *seen]}):
            balance = self.balance(slot, Direction(number))
            packets, bytes_ = seen.get((slot, number), (0, 0))
            if (packets, bytes_) != (balance.packets, balance.bytes):
                gap = packets - balance.packets, bytes_ - balance.bytes
                differences.append(Difference(slot, Direction(number), *gap))
        return differences

    def to_json(self, interface_ids: Mapping[int, str] | None = None) -> dict[str, Any]:
        """The accounts as plain values, interfaces named where their slots are in `interface_ids`."""
        names = interface_ids or {}
        return {
            "total": self.total().to_json(),
            "interfaces": _rows(self._totals, names),
            "windows": [
                {"start_s": start_s, "interfaces": _rows(balances, names)}
                for start_s, balances in sorted(self._windows.items())
            ],
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any], keep_windows: int = KEEP_WINDOWS) -> Ledger:
        """The inverse of `to_json`. Raises InputError where it is not such a document."""
        ledger = cls(keep_windows)
        try:
            ledger._totals = _from_rows(document["interfaces"])
            ledger._windows = {int(item["start_s"]): _from_rows(item["interfaces"]) for item in document["windows"]}
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"ledger: {error!r}") from error
        return ledger

    def _balances(self, row: Mapping[str, int], window_start_s: int) -> tuple[Balance, Balance]:
        place = row["slot"], Direction(row["direction"])
        window = self._windows.setdefault(window_start_s, {})
        return self._totals.setdefault(place, Balance()), window.setdefault(place, Balance())

    def _expire(self) -> None:
        while len(self._windows) > self.keep_windows:
            del self._windows[next(iter(self._windows))]  # the first booked: the clock may have been set back since


def _rows(balances: Mapping[_Place, Balance], names: Mapping[int, str]) -> list[dict[str, Any]]:
    return [
        {
            "slot": slot,
            "interface_id": names.get(slot),
            "direction": direction.name.lower(),
            **balances[slot, direction].to_json(),
        }
        for slot, direction in sorted(balances)
    ]


def _from_rows(rows: list[Mapping[str, Any]]) -> dict[_Place, Balance]:
    return {(int(row["slot"]), Direction[row["direction"].upper()]): Balance.from_json(row) for row in rows}

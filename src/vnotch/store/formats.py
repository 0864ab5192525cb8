"""The formats of the records in the lake: their numbers, and which groups have records of which."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa

from vnotch.fields import Format
from vnotch.record import flow_log_format
from vnotch.store.event_table import TABLES

FORMATS_MAX = 1000
"""Formats that get a number. A message in a further one is stored as text; who delivers so many of them has no use for
columns, and each is a part of every statement that renders messages."""


class Formats:
    """Safe to use from several threads. Numbers and pairs are given out before they are stored: a reader that knows of
    a format too early finds no record of it."""

    def __init__(self, rows: Iterable[tuple[int, int, str]]) -> None:
        self._lock = threading.Lock()
        self._by_number: dict[int, Format] = {}
        self._numbers: dict[str, int] = {}
        self._by_group: dict[int, dict[int, Format]] = {}
        self._stored: set[tuple[int, int]] = set()
        for number, group_id, text in rows:
            self._numbers[text] = number
            self._by_number[number] = flow_log_format(text)
            self._by_group.setdefault(group_id, {})[number] = self._by_number[number]
            self._stored.add((number, group_id))

    def number(self, format: Format) -> int | None:
        """The format's number, a new one where it has none yet; None where there is none left."""
        with self._lock:
            number = self._numbers.get(format.text)
            if number is None and len(self._numbers) < FORMATS_MAX:
                number = max(self._by_number, default=0) + 1
                self._numbers[format.text] = number
                self._by_number[number] = format
            return number

    def __getitem__(self, number: int) -> Format:
        return self._by_number[number]

    def of_groups(self, group_ids: Iterable[int]) -> Mapping[int, Format]:
        """All formats that records of these groups have."""
        with self._lock:
            return {
                number: found for group_id in group_ids for number, found in self._by_group.get(group_id, {}).items()
            }

    def announce(self, pairs: Iterable[tuple[int, int]]) -> pa.Table | None:
        """Takes note of the (format, group) pairs of a commit that is about to be; -> rows to store with it."""
        with self._lock:
            new = [pair for pair in sorted(set(pairs)) if pair not in self._stored]
            for number, group_id in new:
                # A new dict: readers go over the one that they were given.
                self._by_group[group_id] = {**self._by_group.get(group_id, {}), number: self._by_number[number]}
            return self._rows(new) if new else None

    def confirm(self, pairs: Iterable[tuple[int, int]]) -> None:
        """The commit of what was announced is done."""
        with self._lock:
            self._stored.update(pairs)

    def _rows(self, pairs: Sequence[tuple[int, int]]) -> pa.Table:
        texts = [self._by_number[number].text for number, _ in pairs]
        numbers, groups = zip(*pairs, strict=True)
        columns = [pa.array(numbers, pa.int32()), pa.array(groups, pa.int32()), pa.array(texts)]
        return pa.table(columns, schema=TABLES["formats"])

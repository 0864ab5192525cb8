"""What could not be read, counted and named: an answer that misses data says so."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

NAMES_SHOWN = 5
FOREIGN_KEPT = 1000
SAMPLE_CHARACTERS = 120
ANSWER_MISSES = "this answer misses data"


class Problem(StrEnum):
    """Kinds of missing data; the value is what people read."""

    DENIED = "access denied"
    GONE = "gone since it was listed"
    UNREADABLE = "could not be read"
    TRUNCATED = "ends in the middle (truncated gzip)"
    DAMAGED_GZIP = "damaged gzip"
    DAMAGED_PARQUET = "damaged or no Parquet"
    COLUMN_TYPE = "a column of another type than the field"
    NO_FORMAT = "no header line, and no --format was given"
    BAD_HEADER = "a header line that cannot be read"
    LATE_COLUMNS = "a header line with columns that no file before it has; ask of that file alone, or split it there"
    UNDATED = "records without a time"
    WRONG_COUNT = "lines with a wrong number of values"
    WRONG_VALUE = "lines with a value that is not of the field's type"
    NOT_TEXT = "lines that are not UTF-8"


@dataclass
class Missing:
    """One kind of problem in one file. `lines` is 0 where the file as a whole is missing."""

    file: str
    lines: int = 0
    sample: str = ""


@dataclass
class Problems:
    """Collected by several threads. A file that is scanned twice is counted once."""

    _found: dict[tuple[Problem, str], Missing] = field(default_factory=dict)
    foreign: list[str] = field(default_factory=list)
    """Files and folders beside the flow logs that are none, the first FOREIGN_KEPT; nothing is missing by them."""
    foreign_count: int = 0
    other_times: dict[str, int] = field(default_factory=lambda: {"files": 0, "folders": 0})
    """What was not read, or not listed, since by its name it has no record of the time that was asked for."""
    notes: dict[str, None] = field(default_factory=dict)
    """What the reader of an answer should know, in order and once."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, problem: Problem, file: str, lines: int = 0, sample: str = "") -> None:
        """`lines` is the sum over the file so far, in this scan of it."""
        with self._lock:
            missing = self._found.setdefault((problem, file), Missing(file))
            missing.lines = max(missing.lines, lines)
            missing.sample = missing.sample or sample[:SAMPLE_CHARACTERS]

    def add_foreign(self, name: str) -> None:
        with self._lock:
            self.foreign_count += 1
            if len(self.foreign) < FOREIGN_KEPT:
                self.foreign.append(name)

    def of_other_time(self, kind: str) -> None:
        """One of `files` or `folders`."""
        with self._lock:
            self.other_times[kind] += 1

    def note(self, text: str) -> None:
        with self._lock:
            self.notes[text] = None

    def __bool__(self) -> bool:
        """Whether an answer misses data."""
        return bool(self._found)

    @property
    def files(self) -> int:
        """Files that are missing as a whole or in part."""
        return len({file for _, file in self._found})

    @property
    def lines(self) -> int:
        return sum(missing.lines for missing in self._found.values())

    def of(self, problem: Problem) -> list[Missing]:
        """In the order of the files' names."""
        return [self._found[key] for key in sorted(self._found) if key[0] is problem]

    def document(self) -> dict[str, object]:
        """For machines: kind -> [{file, lines}], and what else the summary says."""
        missing = {
            kind.name.lower(): [{"file": item.file, "lines": item.lines} for item in self.of(kind)]
            for kind in Problem
            if self.of(kind)
        }
        return {
            "missing": missing,
            "foreign": self.foreign,
            "foreign_count": self.foreign_count,
            "other_times": self.other_times,
            "notes": list(self.notes),
        }

    def summary(self, meaning: str = ANSWER_MISSES) -> Iterator[str]:
        """Lines for people; names may hold anything and are for the caller to escape."""
        if self:
            lines = f", {self.lines:,} lines of them" if self.lines else ""
            yield f"{meaning}: problems in {self.files:,} {_files(self.files)}{lines}"
        for kind in Problem:
            found = self.of(kind)
            if found:
                count = sum(item.lines for item in found)
                counted = f"{count:,} {kind}" if count else str(kind)
                yield f"  {counted}, {len(found):,} {_files(len(found))}: {_names([item.file for item in found])}"
                if sample := next((item.sample for item in found if item.sample), ""):
                    yield f"    for instance: {sample}"
        if self.foreign:
            count = self.foreign_count
            yield f"{count:,} other {_files(count)}, no flow logs, not read: {_names(self.foreign, count)}"
        if any(self.other_times.values()):
            words = [
                f"{count:,} {kind if count > 1 else kind[:-1]}" for kind, count in self.other_times.items() if count
            ]
            yield f"of other times, not read: {' and '.join(words)}"
        yield from self.notes


def _files(count: int) -> str:
    return "file" if count == 1 else "files"


def _names(names: list[str], count: int | None = None) -> str:
    """The first of them; `count` where there were more than these."""
    count = count or len(names)
    more = f" and {count - NAMES_SHOWN:,} more" if count > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more

"""The time that a question asks about, and which files can have records of it.

A record belongs to the time at which it ends, as AWS's own folders and file names have it.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from vnotch.bucket_keys import SLOT_SECONDS, parse_name, partition_seconds
from vnotch.errors import InputError

SLACK_SECONDS = 900
"""A file is read although its slot or partition ends this much before the period or begins this much after it. AWS's
description is exact, but a file too many costs little, and one too few would be missing from an answer in silence."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smhdw])")


@dataclass(frozen=True)
class Period:
    """From `begin_s` to before `end_s`, Unix seconds; None is open."""

    begin_s: int | None = None
    end_s: int | None = None

    @classmethod
    def parse(cls, since: str | None, until: str | None, now_s: float | None = None) -> Period:
        """`30m`, `1d` (before now), or a date or time in ISO 8601, UTC where it names no zone. Raises InputError."""
        now_s = time.time() if now_s is None else now_s
        period = cls(_moment("--since", since, now_s), _moment("--until", until, now_s))
        if period.begin_s is not None and period.end_s is not None and period.begin_s >= period.end_s:
            raise InputError(f"--since {since} is not before --until {until}")
        return period

    @property
    def is_open(self) -> bool:
        return self.begin_s is None and self.end_s is None

    def may_be_in_folder(self, folder: str) -> bool:
        """Whether a folder (it ends in `/`) can have records of the period, by its partitions."""
        span = partition_seconds(folder)
        return span is None or self._meets(*span)

    def may_be_in_file(self, key: str) -> bool:
        """Whether a file can have records of the period, by its name and its folders."""
        name = parse_name(key)
        if name is not None and not self._meets(name.slot_s, name.end_s):
            return False
        return self.may_be_in_folder(key[: key.rfind("/") + 1])

    def has_slot(self, slot_s: int) -> bool:
        """Whether a slot of five minutes has a second of the period."""
        late = self.begin_s is not None and slot_s + SLOT_SECONDS <= self.begin_s
        return not (late or (self.end_s is not None and slot_s >= self.end_s))

    def _meets(self, begin_s: int, end_s: int) -> bool:
        late = self.begin_s is not None and end_s + SLACK_SECONDS <= self.begin_s
        early = self.end_s is not None and begin_s - SLACK_SECONDS >= self.end_s
        return not (late or early)


def _moment(option: str, text: str | None, now_s: float) -> int | None:
    if text is None:
        return None
    match = _DURATION.fullmatch(text)
    try:
        if match:
            return int(now_s - float(match[1]) * _UNITS[match[2]])
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return int(moment.timestamp())
    except (ValueError, OverflowError):
        raise InputError(
            f"{option} {text!r} is neither a duration nor a time", "write 30m, 12h, 1d, 2026-01-31 or 2026-01-31T18:00Z"
        ) from None

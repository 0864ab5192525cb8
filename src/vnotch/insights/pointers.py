"""What names one event: `@ptr` in answers, logRecordPointer in GetLogRecord."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

from vnotch.errors import InputError

SQL = "to_base64(encode(concat_ws('/', group_id, stream_id, timestamp_ms, sequence)))"
"""A pointer, on the columns of events."""


@dataclass(frozen=True)
class Pointer:
    group_id: int
    stream_id: int
    timestamp_ms: int
    sequence: int

    @classmethod
    def parse(cls, text: str) -> Pointer:
        """Raises InputError."""
        try:
            numbers = base64.b64decode(text.encode(), validate=True).decode("ascii").split("/")
            if all(number.isdigit() and len(number) < 20 for number in numbers):
                group_id, stream_id, timestamp_ms, sequence = map(int, numbers)
                return cls(group_id, stream_id, timestamp_ms, sequence)
        except (binascii.Error, UnicodeError, ValueError):
            pass
        raise InputError("The specified log record pointer is invalid.")

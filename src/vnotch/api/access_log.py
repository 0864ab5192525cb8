"""The access log: one JSON line a request, in a rotating file and in a ring in memory. Secrets are never in it.

The members are those of `AccessEntry`; the service signs nothing and stores no parameters, so that no secret that a
caller put into a parameter can be in it either.
"""

from __future__ import annotations

import logging.handlers
import os
import threading
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

FILE_BYTES_MAX = 20_000_000
FILES_KEPT = 5
RING_ENTRIES = 2_000


@dataclass
class AccessEntry:
    time_ms: int
    request_id: str
    remote: str
    method: str
    service: str = ""
    action: str = ""
    access_key_id: str = ""
    principal_arn: str = ""
    resources: tuple[str, ...] = ()
    decision: str = ""  # allowed, explicitDeny, implicitDeny, or empty where it was not reached
    decided_by: str = ""  # the policy and statement
    status: int = 0
    error_code: str = ""
    duration_ms: float = 0.0
    request_bytes: int = 0
    response_bytes: int = 0


class AccessLog:
    """Safe for any thread. `file` None keeps the ring alone."""

    def __init__(self, file: Path | None = None, ring_entries: int = RING_ENTRIES) -> None:
        self._ring: deque[AccessEntry] = deque(maxlen=ring_entries)
        self._lock = threading.Lock()
        self._handler: logging.handlers.RotatingFileHandler | None = None
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
            self._handler = logging.handlers.RotatingFileHandler(
                file, maxBytes=FILE_BYTES_MAX, backupCount=FILES_KEPT, encoding="utf-8"
            )

    def add(self, entry: AccessEntry) -> None:
        self._ring.append(entry)
        if self._handler is not None:
            line = orjson.dumps(_line(entry)).decode()
            record = logging.LogRecord("access", logging.INFO, "", 0, line, None, None)
            with self._lock:
                self._handler.emit(record)

    def recent(self, request_id: str | None = None) -> list[AccessEntry]:
        """The last entries, oldest first; of one request alone where `request_id` is given."""
        return [entry for entry in list(self._ring) if request_id in (None, entry.request_id)]

    def close(self) -> None:
        if self._handler is not None:
            self._handler.close()


def _line(entry: AccessEntry) -> dict[str, Any]:
    line = asdict(entry)
    if len(entry.resources) > 20:  # a line stays a line
        line["resources"] = [*entry.resources[:20], f"and {len(entry.resources) - 20} more"]
    return line

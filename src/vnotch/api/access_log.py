"""The access log: one JSON line a request, in a rotating file and in a ring in memory. Secrets are never in it.

The members are those of `AccessEntry`; the service signs nothing and stores no parameters, so that no secret that a
caller put into a parameter can be in it either.
"""

from __future__ import annotations

import contextlib
import logging.handlers
import os
import sys
import threading
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

log = logging.getLogger(__name__)

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


class _File(logging.handlers.RotatingFileHandler):
    """Says once that lines are lost, and how many when they are taken again; the standard handler prints a traceback
    for each."""

    lost_lines = 0

    def emit(self, record: logging.LogRecord) -> None:
        lost = self.lost_lines
        super().emit(record)
        if lost and self.lost_lines == lost:
            self.lost_lines = 0
            log.warning("the access log is written again; %d lines are missing", lost)

    def handleError(self, record: logging.LogRecord) -> None:
        self.lost_lines += 1
        if self.lost_lines == 1:
            log.error("the access log cannot be written: %s", sys.exc_info()[1])
        # What the stream still holds of the line would come out half, in front of the next one; it is opened again.
        stream, self.stream = self.stream, None
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.close()


class AccessLog:
    """Safe for any thread. `file` None keeps the ring alone."""

    def __init__(self, file: Path | None = None, ring_entries: int = RING_ENTRIES) -> None:
        self._ring: deque[AccessEntry] = deque(maxlen=ring_entries)
        self._lock = threading.Lock()
        self._handler: _File | None = None
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
            self._handler = _File(file, maxBytes=FILE_BYTES_MAX, backupCount=FILES_KEPT, encoding="utf-8")

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

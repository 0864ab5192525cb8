"""The access log: one JSON line a request, in a rotating file and in a ring in memory. Secrets are never in it.

The members are those of `AccessEntry`; the service signs nothing and stores no parameters, so that no secret that a
caller put into a parameter can be in it either.
"""

from __future__ import annotations

import contextlib
import logging.handlers
import mmap
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from vnotch.iam.evaluation import Decision

log = logging.getLogger(__name__)

FILE_BYTES_MAX = 20_000_000
FILES_KEPT = 5
RING_ENTRIES = 2_000
FURTHER_MAX = 20


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
    further: tuple[dict[str, str], ...] = ()  # permissions beside the call's own: iam:PassRole, ec2:CreateTags
    denied: dict[str, Any] | None = None  # of a refusal by policy: what was asked for, and what decided it
    status: int = 0
    error_code: str = ""
    duration_ms: float = 0.0
    request_bytes: int = 0
    response_bytes: int = 0

    def note_further(self, action: str, resource: str, decision: Decision) -> None:
        by = "" if decision.statement is None else str(decision.statement)
        noted = {"action": action, "resource": resource, "decision": decision.outcome.value, "decided_by": by}
        self.further = (*self.further, noted)[:FURTHER_MAX]

    def note(self, decision: Decision) -> None:
        self.decision = decision.outcome.value
        self.decided_by = "" if decision.statement is None else str(decision.statement)


class _File(logging.handlers.RotatingFileHandler):
    """Says once that lines are lost, and how many when they are taken again; the standard handler prints a traceback
    for each."""

    lost_lines = 0
    _bytes = -1  # of the file; -1 until it is asked

    def shouldRollover(self, record: logging.LogRecord) -> bool:
        """By a count of what was written: the standard handler asks the file system twice for each line."""
        if self._bytes < 0:
            try:
                self._bytes = os.stat(self.baseFilename).st_size
            except OSError:
                self._bytes = 0
        self._bytes += len(record.msg.encode()) + 1
        return self._bytes > self.maxBytes

    def doRollover(self) -> None:
        super().doRollover()
        self._bytes = -1

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
        self.listeners: list[Callable[[AccessEntry], None]] = []
        """Called with each entry, on the event loop: they must neither wait nor raise."""
        self._ring: deque[AccessEntry] = deque(maxlen=ring_entries)
        self._lock = threading.Lock()
        self._handler: _File | None = None
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
            self._handler = _File(file, maxBytes=FILE_BYTES_MAX, backupCount=FILES_KEPT, encoding="utf-8")

    def add(self, entry: AccessEntry) -> None:
        self._ring.append(entry)
        for heard in self.listeners:
            heard(entry)
        if self._handler is not None:
            record = logging.LogRecord("access", logging.INFO, "", 0, _line(entry).decode(), None, None)
            with self._lock:
                self._handler.emit(record)

    def recent(self, request_id: str | None = None) -> list[AccessEntry]:
        """The last entries, oldest first; of one request alone where `request_id` is given."""
        return [entry for entry in list(self._ring) if request_id in (None, entry.request_id)]

    def find(self, request_id: str) -> dict[str, Any] | None:
        """The line of one request, from memory or, as far as they go back, the files."""
        for entry in self.recent(request_id):
            line: dict[str, Any] = orjson.loads(_line(entry))
            return line
        wanted = b'"request_id":' + orjson.dumps(request_id)
        for file in self._files():
            found = _find_line(file, wanted)
            if found is not None:
                return found
        return None

    def _files(self) -> list[Path]:
        """The newest first."""
        if self._handler is None:
            return []
        name = self._handler.baseFilename
        return [Path(name), *(Path(f"{name}.{number}") for number in range(1, FILES_KEPT + 1))]

    def close(self) -> None:
        if self._handler is not None:
            self._handler.close()


def _find_line(file: Path, wanted: bytes) -> dict[str, Any] | None:
    try:
        with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as text:
            at = text.find(wanted)
            if at < 0:
                return None
            start, end = text.rfind(b"\n", 0, at) + 1, text.find(b"\n", at)
            line: dict[str, Any] = orjson.loads(text[start : end if end >= 0 else len(text)])
            return line
    except (OSError, ValueError):  # no such file, an empty one, or a line that a crash has cut
        return None


def _line(entry: AccessEntry) -> bytes:
    if len(entry.resources) > 20:  # a line stays a line
        entry = replace(entry, resources=(*entry.resources[:20], f"and {len(entry.resources) - 20} more"))
    return orjson.dumps(entry)

"""What had to be dropped on its way: counted by flow log, stream and reason, and kept over restarts.

The counts of a stream that no record has told of yet belong into its next SKIPDATA record (`untold`, `told`).
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KEYS_MAX = 4096

FULL = "spool-full"
EXPIRED = "spool-expired"
DISK = "disk-full"
DAMAGED = "damaged"


@dataclass
class Dropped:
    """What was dropped of one stream for one reason, and how much of it no SKIPDATA record has told of yet."""

    batches: int = 0
    events: int = 0
    packets: int = 0
    bytes: int = 0
    untold_packets: int = 0
    untold_bytes: int = 0


@dataclass(frozen=True)
class Share:
    """How much of a stream is in something that may have to be dropped."""

    batches: int
    events: int
    packets: int
    bytes: int

    def __add__(self, other: Share) -> Share:
        return Share(
            self.batches + other.batches,
            self.events + other.events,
            self.packets + other.packets,
            self.bytes + other.bytes,
        )


class DroppedCounts:
    """The counts and their file. Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.RLock()
        self._changed = False
        self.by_stream: dict[tuple[str, str, str], Dropped] = {}  # flow log, stream, reason
        self.is_damaged = False
        """Whether the counts of before could not be read; they begin anew."""
        try:
            for item in json.loads(path.read_text()):
                key = (item.pop("flow_log_id"), item.pop("stream"), item.pop("reason"))
                self.by_stream[key] = Dropped(**item)
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, TypeError, AttributeError):
            self.is_damaged = True

    def count(self, flow_log_id: str, stream: str, reason: str, share: Share) -> None:
        with self._lock:
            key = (flow_log_id, stream, reason)
            if key not in self.by_stream and len(self.by_stream) >= KEYS_MAX:
                key = ("-", "-", reason)  # so many streams come and go over the months: they are counted together
            dropped = self.by_stream.setdefault(key, Dropped())
            dropped.batches += share.batches
            dropped.events += share.events
            dropped.packets += share.packets
            dropped.bytes += share.bytes
            dropped.untold_packets += share.packets
            dropped.untold_bytes += share.bytes
            self._changed = True

    def count_all(self, flow_log_id: str, streams: Mapping[str, Share], reason: str) -> None:
        for stream, share in streams.items():
            self.count(flow_log_id, stream, reason, share)
        self.save()

    def untold(self, flow_log_id: str, stream: str) -> tuple[int, int]:
        """Packets and bytes dropped of a stream since the last `told`."""
        with self._lock:
            found = [dropped for key, dropped in self.by_stream.items() if key[:2] == (flow_log_id, stream)]
            return sum(d.untold_packets for d in found), sum(d.untold_bytes for d in found)

    def told(self, flow_log_id: str, stream: str) -> None:
        with self._lock:
            for key, dropped in self.by_stream.items():
                if key[:2] == (flow_log_id, stream):
                    dropped.untold_packets = dropped.untold_bytes = 0
                    self._changed = True
            self.save()

    def save(self) -> None:
        """Writes them down where they changed. Best effort: this is done when the disk may be full, and a batch matters
        more than its count."""
        with self._lock:
            if not self._changed:
                return
            self._changed = False
            temporary = self._path.with_name(f".{self._path.stem}")
            try:
                temporary.write_text(json.dumps(self.to_json()))
                os.replace(temporary, self._path)
            except OSError:
                temporary.unlink(missing_ok=True)

    def to_json(self) -> list[dict[str, Any]]:
        with self._lock:
            return [
                {"flow_log_id": flow_log_id, "stream": stream, "reason": reason, **vars(dropped)}
                for (flow_log_id, stream, reason), dropped in sorted(self.by_stream.items())
            ]

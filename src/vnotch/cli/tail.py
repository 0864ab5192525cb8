"""Reading a log group as it grows: `vnotch tail` and the live view of the demo."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

POLL_SECONDS = 1.0
LOOK_BACK_SECONDS = 960
"""A record arrives after its window has closed, with the time of its first packet: at most one interval (900 s at the
longest) and the delivery later. That far back each poll looks again; events shown before are known by their ids."""
IDS_MAX = 500_000


@dataclass(frozen=True)
class Event:
    stream: str
    timestamp_ms: int
    message: str


class Tail:
    """The events of one log group that were not seen before, poll by poll. The group may not exist yet."""

    def __init__(self, logs: Any, group: str, since_ms: int, pattern: str = "", prefix: str = "") -> None:
        self._logs = logs
        self._request: dict[str, Any] = {"logGroupName": group}
        if pattern:
            self._request["filterPattern"] = pattern
        if prefix:
            self._request["logStreamNamePrefix"] = prefix
        self._since_ms = since_ms
        self._shown: set[str] = set()
        self._order: deque[str] = deque()

    def poll(self) -> Iterator[Event]:
        """Yields what is new, oldest first; nothing while the group does not exist."""
        start_ms = max(self._since_ms, int((time.time() - LOOK_BACK_SECONDS) * 1000))
        request = dict(self._request, startTime=start_ms if self._shown else self._since_ms)
        try:
            while True:
                page = self._logs.filter_log_events(**request)
                for event in page["events"]:
                    if self._is_new(event["eventId"]):
                        yield Event(event["logStreamName"], event["timestamp"], event["message"])
                if not page.get("nextToken"):
                    return
                request["nextToken"] = page["nextToken"]
        except self._logs.exceptions.ResourceNotFoundException:
            return

    def follow(self) -> Iterator[Event]:
        while True:
            yield from self.poll()
            time.sleep(POLL_SECONDS)

    def _is_new(self, event_id: str) -> bool:
        if event_id in self._shown:
            return False
        self._shown.add(event_id)
        self._order.append(event_id)
        if len(self._order) > IDS_MAX:
            self._shown.discard(self._order.popleft())
        return True

"""How far a question has come, for those who wait for it."""

from __future__ import annotations

import threading


class Progress:
    """Bytes and rows read so far, by several threads.

    `bytes_total` is what the files have; where there are text files, those alone, since they take the time.
    """

    def __init__(self) -> None:
        self.bytes_total = 0
        self.bytes_done = 0
        self.rows = 0
        self.doing = "listing files"
        self._lock = threading.Lock()

    def add_bytes(self, count: int) -> None:
        with self._lock:
            self.bytes_done += count

    def add_rows(self, count: int) -> None:
        with self._lock:
            self.rows += count

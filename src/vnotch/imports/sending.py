"""Parts of files on their way to the service, by several threads; a file is complete when its last part is stored."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

from vnotch.errors import VnotchError
from vnotch.imports.parts import Part
from vnotch.imports.service import LogService, PartRefused
from vnotch.query.files import LogFile

SENDERS = 8
"""The service stores what comes at about the same time in one commit, and the fewer commits the larger its files. These
are about two commits: while it writes one it takes in the parts of the next."""
_WAITING_PARTS = SENDERS // 2
"""Those of a commit are answered at the same time, and so many are sent next."""


@dataclass
class SentFile:
    """One file. `left` counts its parts that are not stored yet, and the file itself until it is read to its end."""

    file: LogFile
    identity: str
    left: int = 1
    whole: bool = False
    """It was read to its end without a problem."""
    refused: PartRefused | None = None


@dataclass
class Sent:
    """Records by what became of them, files of which all parts are stored."""

    files: int = 0
    records: int = 0
    expired: int = 0
    too_new: int = 0


class Sending:
    """`connect` makes a connection to the service, for each thread its own. `stored` hears of each part's rows."""

    def __init__(self, connect: Callable[[], LogService], stored: Callable[[int], None]) -> None:
        self.sent = Sent()
        self._stored = stored
        self._waiting: queue.Queue[tuple[SentFile, Part | None] | None] = queue.Queue(_WAITING_PARTS)
        self._failure: BaseException | None = None
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._run, args=(connect(),), name=f"vnotch-import-{number}", daemon=True)
            for number in range(SENDERS)
        ]
        for thread in self._threads:
            thread.start()

    def put(self, file: SentFile, part: Part) -> None:
        """Raises what a thread met."""
        self.check()
        with self._lock:
            file.left += 1
        self._waiting.put((file, part))

    def finish(self, file: SentFile) -> None:
        """No further part of it comes."""
        self._waiting.put((file, None))

    def end(self) -> None:
        """Waits until all is sent."""
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()

    def check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _run(self, service: LogService) -> None:
        while (item := self._waiting.get()) is not None:
            if self._failure is not None:
                continue
            try:
                self._send(service, *item)
            except (VnotchError, OSError) as error:
                self._failure = error

    def _send(self, service: LogService, file: SentFile, part: Part | None) -> None:
        if part is not None and file.refused is None:
            try:
                counted = service.put(file.identity, part)
            except PartRefused as refused:
                file.refused = refused
            else:
                with self._lock:
                    self.sent.records += counted["stored"]
                    self.sent.expired += counted["expired"]
                    self.sent.too_new += counted["too_new"]
                self._stored(part.records.num_rows)
        with self._lock:
            file.left -= 1
            if file.left or file.refused is not None:
                return
        if file.whole:
            service.complete(file.identity, file.file.name)
        with self._lock:
            self.sent.files += 1

"""One import: files, one after another, their parts to the service by several threads; each file once, however often.

A file is complete when all its parts are stored and the service has been told so. A run that ends before leaves a file
of which the next one sends the other parts; one that was stored and not noted as such the service recognises by its
content for two days.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from vnotch.errors import VnotchError
from vnotch.imports.parts import FileParts, Part, file_id
from vnotch.imports.service import LogService, PartRefused
from vnotch.query.files import FileProblem, LogFile
from vnotch.query.problems import Problem, Problems
from vnotch.query.progress import Progress
from vnotch.query.text import TextFormat

SENDERS = 2
_WAITING_PARTS = 4
_STATES_AT_ONCE = 500


@dataclass
class Result:
    """Files and records by what became of them."""

    files: int = 0
    files_before: int = 0
    """Complete before this run."""
    records: int = 0
    expired: int = 0
    too_new: int = 0
    refused: list[str] = field(default_factory=list)
    """Files of which the service would not have a part."""


class Import:
    """`connect` makes a connection to the service, for each thread its own."""

    def __init__(
        self,
        connect: Callable[[], LogService],
        given: TextFormat | None,
        stream: str | None,
        problems: Problems,
        progress: Progress,
    ) -> None:
        self._connect = connect
        self._given = given
        self._stream = stream
        self._problems = problems
        self._progress = progress
        self.result = Result()

    def run(self, files: Sequence[LogFile]) -> Result:
        """Raises Refused or NoAnswer where the service will have nothing; a repeat takes up where it ended."""
        service = self._connect()
        self._progress.doing = "looking what is there"
        for begin in range(0, len(files), _STATES_AT_ONCE):
            some = self._identified(files[begin : begin + _STATES_AT_ONCE])
            for (file, identity), state in zip(some, service.states([item for _, item in some]), strict=True):
                self._progress.doing = "importing"
                if state.complete:
                    self.result.files_before += 1
                    self._progress.add_bytes(file.size)
                else:
                    self._file(service, file, identity, state.parts)
        return self.result

    def _identified(self, files: Sequence[LogFile]) -> list[tuple[LogFile, str]]:
        found = []
        for file in files:
            try:
                found.append((file, file_id(file)))
            except FileProblem as problem:
                self._problems.add(problem.problem, file.name, sample=problem.detail)
        return found

    def _file(self, service: LogService, file: LogFile, identity: str, parts_before: frozenset[int]) -> None:
        before = self._problems.files
        parts = FileParts(file, self._given, self._stream, self._problems, self._progress)
        sending = _Sending(self._connect, identity, self.result, self._progress)
        try:
            for part in parts:
                if part.number not in parts_before:
                    sending.put(part)
        except PartRefused as refused:
            self.result.refused.append(file.name)
            self._problems.add(Problem.UNREADABLE, file.name, sample=f"the service refuses a part: {refused.message}")
            return
        finally:
            sending.end()
        sending.check()
        # A file with problems is not complete: mended, or read with rights, it may give more.
        if self._problems.files == before:
            service.complete(identity, file.name)
        self.result.files += 1


class _Sending:
    """Threads that send the parts of one file."""

    def __init__(self, connect: Callable[[], LogService], identity: str, result: Result, progress: Progress) -> None:
        self._identity = identity
        self._result = result
        self._progress = progress
        self._waiting: queue.Queue[Part | None] = queue.Queue(_WAITING_PARTS)
        self._failure: BaseException | None = None
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._run, args=(connect(),), name=f"vnotch-import-{number}", daemon=True)
            for number in range(SENDERS)
        ]
        for thread in self._threads:
            thread.start()

    def put(self, part: Part) -> None:
        """Raises what a thread met."""
        self.check()
        self._waiting.put(part)

    def end(self) -> None:
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()

    def check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _run(self, service: LogService) -> None:
        while (part := self._waiting.get()) is not None:
            if self._failure is not None:
                continue
            try:
                counted = service.put(self._identity, part)
            except (VnotchError, OSError) as error:
                self._failure = error
                continue
            with self._lock:
                self._result.records += counted["stored"]
                self._result.expired += counted["expired"]
                self._result.too_new += counted["too_new"]
            self._progress.add_rows(part.records.num_rows)

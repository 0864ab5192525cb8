"""One import: files, one after another, their parts to the service by several threads; each file once, however often.

A file is complete when all its parts are stored and the service has been told so. A run that ends before leaves a file
of which the next one sends the other parts; one that was stored and not noted as such the service recognises by its
content for two days.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

from vnotch.imports.parts import FileParts, file_id
from vnotch.imports.sending import Sending, SentFile
from vnotch.imports.service import LogService
from vnotch.interrupts import check
from vnotch.query.files import FileProblem, LogFile
from vnotch.query.problems import Problem, Problems
from vnotch.query.progress import Progress
from vnotch.query.text import TextFormat

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
        sending = Sending(self._connect, self._progress.add_rows)
        begun: list[SentFile] = []
        self._progress.doing = "looking what is there"
        try:
            for begin in range(0, len(files), _STATES_AT_ONCE):
                some = self._identified(files[begin : begin + _STATES_AT_ONCE])
                for (file, identity), state in zip(some, service.states([item for _, item in some]), strict=True):
                    self._progress.doing = "importing"
                    if state.complete:
                        self.result.files_before += 1
                        self._progress.add_bytes(file.size)
                    else:
                        begun.append(SentFile(file, identity))
                        self._file(sending, begun[-1], state.parts)
        finally:
            sending.end()
        sending.check()
        for item in begun:
            if item.refused is not None:
                self.result.refused.append(item.file.name)
                said = f"the service refuses a part: {item.refused.message}"
                self._problems.add(Problem.UNREADABLE, item.file.name, sample=said)
        for name, count in asdict(sending.sent).items():
            setattr(self.result, name, count)
        return self.result

    def _identified(self, files: Sequence[LogFile]) -> list[tuple[LogFile, str]]:
        found = []
        for file in files:
            try:
                found.append((file, file_id(file)))
            except FileProblem as problem:
                self._problems.add(problem.problem, file.name, sample=problem.detail)
        return found

    def _file(self, sending: Sending, item: SentFile, parts_before: frozenset[int]) -> None:
        before = self._problems.files
        for part in FileParts(item.file, self._given, self._stream, self._problems, self._progress):
            check()
            if part.number not in parts_before:
                sending.put(item, part)
            if item.refused is not None:
                break
        # A file with problems is not complete: mended, or read with rights, it may give more.
        item.whole = self._problems.files == before
        sending.finish(item)

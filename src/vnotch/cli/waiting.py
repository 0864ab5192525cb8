"""What people see while a question is answered, and what they are told of it afterwards, on standard error."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rich.text import Text

from vnotch.cli.terminal import err, plain
from vnotch.query.problems import Problems
from vnotch.query.progress import Progress

if TYPE_CHECKING:
    from rich.progress import Progress as Bar


class ProgressBar:
    """On a terminal: how far a question has come, at what rate, and the time left. Elsewhere nothing."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bar: Bar | None = None
        if sys.stderr.isatty():
            from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (
                TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=False),
                TextColumn("{task.fields[rate]}"), TimeRemainingColumn(),
            )  # fmt: skip
            self._bar = Bar(*columns, console=err, transient=True)

    def __enter__(self) -> ProgressBar:
        if self._bar is not None:
            self._bar.start()
            self._bar.add_task("", total=None, rate="")
            self.update()
        return self

    def update(self) -> None:
        """To be called now and then."""
        if self._bar is None:
            return
        task, progress = self._bar.tasks[0], self._progress
        elapsed = task.elapsed or 0
        rate = f"{progress.rows / elapsed / 1e6:.2f} M records/s" if elapsed > 0.5 and progress.rows else ""
        self._bar.update(
            task.id,
            description=progress.doing,
            total=progress.bytes_total or None,
            completed=progress.bytes_done,
            rate=rate,
        )

    def end(self) -> None:
        """Takes the bar away, before anything else is written to the terminal."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __exit__(self, *_: object) -> None:
        self.end()


def write_summary(problems: Problems) -> None:
    """What the answer misses, to standard error."""
    for number, line in enumerate(problems.summary()):
        style = "yellow" if problems and number == 0 else ""
        err.print(Text(plain(line).replace("\n", "\\x0a"), style=style))

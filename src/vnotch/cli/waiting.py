"""What people see while a question is answered, and what they are told of it afterwards, on standard error."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.text import Text

from vnotch.cli.terminal import err, plain
from vnotch.query.problems import ANSWER_MISSES, Problems
from vnotch.query.progress import Progress

if TYPE_CHECKING:
    from rich.progress import Progress as Bar


_TICK_SECONDS = 0.2


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

    @contextmanager
    def ticking(self) -> Iterator[None]:
        """Updates it meanwhile, for work that does not itself call back now and then."""
        done = threading.Event()

        def tick() -> None:
            while not done.wait(_TICK_SECONDS):
                self.update()

        ticker = threading.Thread(target=tick, name="vnotch-bar", daemon=True)
        ticker.start()
        try:
            yield
        finally:
            done.set()
            ticker.join()

    def end(self) -> None:
        """Takes the bar away, before anything else is written to the terminal."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __exit__(self, *_: object) -> None:
        self.end()


def write_summary(problems: Problems, meaning: str = ANSWER_MISSES) -> None:
    """What could not be read, and what that means, to standard error."""
    for number, line in enumerate(problems.summary(meaning)):
        style = "yellow" if problems and number == 0 else ""
        err.print(Text(plain(line).replace("\n", "\\x0a"), style=style))

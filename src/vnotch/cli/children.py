"""Processes that a command starts beside itself, and ends again by their ids."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from vnotch.errors import HostError

STOP_SECONDS = 20.0


def vnotch(*arguments: str) -> list[str]:
    """The command line of a vnotch command, with the interpreter that runs this one."""
    return [sys.executable, "-m", "vnotch", *arguments]


class Child:
    """A process with its output in a log file. It gets its own process group, so that Ctrl-C reaches the parent alone,
    which then ends its children in the right order."""

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        self.name = name
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_until(self, ready: Callable[[], bool], seconds: float, what: str) -> None:
        """Waits until `ready()`. Raises HostError with the last lines of its log if it ends or takes too long."""
        deadline = time.monotonic() + seconds
        while not ready():
            if self._process.poll() is not None:
                raise HostError(self.last_words() or f"{self.name} ended with status {self._process.returncode}")
            if time.monotonic() > deadline:
                raise HostError(f"{what} took more than {seconds:.0f} s", f"see {self.log}")
            time.sleep(0.05)

    def last_words(self) -> str:
        """The last line of its log, without the command's own name."""
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1].removeprefix("vnotch: ") if lines else ""

    def is_running(self) -> bool:
        return self._process.poll() is None

    def stop(self, seconds: float = STOP_SECONDS) -> int | None:
        """SIGTERM, then SIGKILL after `seconds`. Returns the exit status; safe to call twice."""
        if self._process.poll() is None:
            _signal(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                _signal(self._process.pid, signal.SIGKILL)
                self._process.wait(5)
        return self._process.returncode


def _signal(pid: int, number: int) -> None:
    """To a child of ours, also when sudo runs it as root: then sudo is asked to pass it on."""
    with contextlib.suppress(ProcessLookupError):
        try:
            os.kill(pid, number)
        except PermissionError:
            subprocess.run(["sudo", "-n", "kill", f"-{number}", str(pid)], check=False, capture_output=True)

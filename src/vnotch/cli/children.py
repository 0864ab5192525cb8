"""Processes that a command starts beside itself, and ends again by their ids."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from vnotch.errors import HostError
from vnotch.interrupts import check, uninterrupted, wait_until

STOP_SECONDS = 20.0


def vnotch(*arguments: str) -> list[str]:
    """The command line of a vnotch command, with the interpreter that runs this one, and nothing of the folder that it
    is run in: that may be anyone's, and the command root's."""
    return [sys.executable, "-P", "-m", "vnotch", *arguments]


class Child:
    """A process with its output in a log file. It gets its own process group, so that Ctrl-C reaches the parent alone,
    which then ends its children in the right order.

    It ends when the parent is killed (unless sudo runs it), but for one that is `detached`: that one outlives us, in a
    session of its own. The others keep the terminal's session, because sudo remembers a password by it.
    """

    def __init__(self, name: str, command: Sequence[str], log: Path, *, detached: bool = False) -> None:
        self.name = name
        self.log = log
        try:
            log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            output = log.open("ab")
        except OSError as error:
            raise HostError(
                f"{error.filename} cannot be written: {error.strerror}", "name another folder with --data-dir"
            ) from None
        self._begins = output.tell()  # what an earlier run has left in the log is not ours
        with output, uninterrupted():
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=detached,
                process_group=None if detached else 0,
                preexec_fn=None if detached else _die_with_parent,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_until(self, ready: Callable[[], bool], seconds: float, what: str) -> None:
        """Waits until `ready()`. Raises HostError with the last lines of its log if it ends or takes too long."""
        if not wait_until(lambda: ready() or not self.is_running(), seconds, every_seconds=0.05):
            raise HostError(f"{what} took more than {seconds:.0f} s", f"see {self.log}")
        if not ready():
            raise HostError(self.last_words() or f"{self.name} ended with status {self._process.returncode}")

    def last_words(self) -> str:
        """The last line of its log, without the command's own name."""
        with contextlib.suppress(OSError), self.log.open("rb") as log:
            log.seek(self._begins)
            lines = [line for line in log.read().decode(errors="replace").splitlines() if line.strip()]
            return lines[-1].removeprefix("vnotch: ") if lines else ""
        return ""

    def is_running(self) -> bool:
        return self._process.poll() is None

    def stop(self, seconds: float = STOP_SECONDS) -> int | None:
        """SIGTERM, then SIGKILL after `seconds`. Returns the exit status; safe to call twice."""
        if self._process.poll() is None:
            send_signal(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                send_signal(self._process.pid, signal.SIGKILL)
                self._process.wait(5)
        return self._process.returncode


def run_to_end(command: Sequence[str], told: Callable[[str], None]) -> int:
    """Runs a command and hands over each line it says. Ctrl-C asks it to end and waits until it has cleaned up;
    then KeyboardInterrupt is raised."""
    process: subprocess.Popen[str] | None = None
    try:
        with uninterrupted():
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                process_group=0,
            )
        lines = process.stdout
        assert lines is not None
        for line in lines:
            told(line.rstrip("\n"))
            check()
        return process.wait()
    except KeyboardInterrupt:
        if process is not None:
            send_signal(process.pid, signal.SIGTERM)
            for line in process.stdout or ():
                told(line.rstrip("\n"))
            process.wait(STOP_SECONDS)
        raise


def ask(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Runs a short command for its status and its words."""
    with uninterrupted():
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    output, errors = process.communicate()
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


_PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h
_libc = ctypes.CDLL(None)


def _die_with_parent() -> None:
    """Runs in the child before the command: the kernel asks it to end when its parent is gone (prctl(2))."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def send_signal(pid: int, number: int) -> None:
    """To a child of ours. Where sudo runs it as root, sudo is asked to pass it on; SIGKILL, which sudo cannot pass on,
    goes to sudo's own children as well."""
    with contextlib.suppress(ProcessLookupError):
        try:
            os.kill(pid, number)
        except PermissionError:
            pids = [pid, *(_descendants(pid) if number == signal.SIGKILL else ())]
            subprocess.run(["sudo", "-n", "kill", f"-{number}", *map(str, pids)], check=False, capture_output=True)


def _descendants(pid: int) -> list[int]:
    try:
        children = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return [found for child in children for found in (child, *_descendants(child))]

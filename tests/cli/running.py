"""vnotch as people run it: `python -m vnotch` as a process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from vnotch.cli.endpoint import Endpoint
from vnotch.config import Folders

SOURCE = Path(__file__).parents[2] / "src"
EXAMPLE = Path(__file__).parents[2] / "examples" / "mock-environment.toml"


def environment(**more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "VNOTCH_"))}
    return {**kept, "PYTHONPATH": str(SOURCE), **more}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "vnotch", *arguments]


def run(*arguments: str, seconds: float = 60, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        timeout=seconds,
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        check=False,
    )


def start(*arguments: str, log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        return subprocess.Popen(
            command(*arguments), stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=environment()
        )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(what: str, check: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.05)


class RunningServer:
    """A server process with a folder and a port of its own."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folders = Folders(folder / "data")
        self.data_dir = str(self.folders.root)
        self.log = folder / "server.log"
        self.port = free_port()
        self.arguments = arguments
        self.start()

    def start(self) -> None:
        (self.folders.root / "endpoint").unlink(missing_ok=True)
        arguments = ["server", "--data-dir", self.data_dir, "--port", str(self.port), *self.arguments]
        self.process = start(*arguments, log=self.log)
        running = self.folders.root / "endpoint"
        until("the server answers", lambda: running.exists() or self.process.poll() is not None)
        assert running.exists(), self.log.read_text()
        self.endpoint = Endpoint.find(self.folders)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> float:
        """-> how long it took to end, in seconds."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)
        return time.monotonic() - began

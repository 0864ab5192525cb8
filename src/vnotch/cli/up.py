"""`vnotch up`: server and agent on this host, as two processes, until Ctrl-C; the agent as root, by sudo if need be."""

from __future__ import annotations

import signal
import time
from typing import NoReturn

from vnotch.cli.children import Child, vnotch
from vnotch.cli.endpoint import Endpoint, answering_since_ns
from vnotch.cli.root import acquire, as_root, refresh
from vnotch.cli.terminal import out, step
from vnotch.config import Folders
from vnotch.errors import HostError
from vnotch.interrupts import interrupt_on, pause, uninterrupted

START_SECONDS = 60.0
REFRESH_SECONDS = 60.0


def run_both(folders: Folders, port: int, netns: str | None, any_interval: bool) -> None:
    """Raises HostError where one of them does not start, or ends by itself; the other is then ended too."""
    if not acquire("the agent needs root, the server does not"):
        raise HostError(
            "the agent needs root, and sudo gives none here",
            "run it as root, or `vnotch server` as yourself and `vnotch agent` as root beside it",
        )
    interrupt_on(signal.SIGTERM, signal.SIGHUP)
    children: list[Child] = []

    def start(name: str, command: list[str]) -> Child:
        with uninterrupted():
            child = Child(name, command, folders.root / f"{name}.log")
            children.append(child)
        return child

    try:
        before = answering_since_ns(folders)
        data_dir = ["--data-dir", str(folders.root)]
        flags = ["--any-interval"] if any_interval else []
        server = start("server", vnotch("server", *data_dir, "--port", str(port), *flags))
        server.wait_until(lambda: answering_since_ns(folders) > before, START_SECONDS, "starting the server")
        step(f"server answers at {Endpoint.find(folders).url}, log in {server.log}")
        ready = folders.root / "agent.ready"
        ready.unlink(missing_ok=True)
        flags = ["--ready-file", str(ready), *(["--netns", netns] if netns else [])]
        agent = start("agent", as_root(vnotch("agent", *data_dir, *flags)))
        agent.wait_until(ready.exists, START_SECONDS, "starting the agent")
        step(f"agent captures {netns or 'this network namespace'}, log in {agent.log}")
        out.print('Point AWS clients here with: eval "$(vnotch env)". Ctrl-C ends both.')
        _wait_for_an_end(children)
    except KeyboardInterrupt:
        step("ending agent and server")
    finally:
        for child in reversed(children):
            child.stop()


def _wait_for_an_end(children: list[Child]) -> NoReturn:
    """Raises HostError when one of them has ended, with its last words."""
    refreshed = time.monotonic()
    while all(child.is_running() for child in children):
        pause(0.5)
        if time.monotonic() - refreshed > REFRESH_SECONDS:
            refresh()
            refreshed = time.monotonic()
    ended = next(child for child in children if not child.is_running())
    raise HostError(ended.last_words() or f"the {ended.name} has ended", f"see {ended.log}")

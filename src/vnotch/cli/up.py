"""`vnotch up`: server and agent on this host, as two processes, until Ctrl-C."""

from __future__ import annotations

import os
import time

from vnotch.cli.children import Child, vnotch
from vnotch.cli.endpoint import Endpoint
from vnotch.cli.terminal import out, step
from vnotch.config import Folders
from vnotch.errors import HostError

START_SECONDS = 60.0


def run_both(folders: Folders, port: int, netns: str | None, any_interval: bool) -> None:
    """Raises HostError where one of them does not start, or ends by itself; the other is then ended too."""
    if os.geteuid() != 0:
        raise HostError(
            "the agent needs root",
            "run `sudo vnotch up`, or `vnotch server` as yourself and `sudo vnotch agent` beside it",
        )
    running = folders.root / "endpoint"
    running.unlink(missing_ok=True)
    flags = ["--any-interval"] if any_interval else []
    server = Child(
        "server",
        vnotch("server", "--data-dir", str(folders.root), "--port", str(port), *flags),
        folders.root / "server.log",
    )
    children = [server]
    try:
        server.wait_until(running.exists, START_SECONDS, "starting the server")
        endpoint = Endpoint.find(folders)
        step(f"server answers at {endpoint.url}, log in {server.log}")
        ready = folders.root / "agent.ready"
        ready.unlink(missing_ok=True)
        command = ["agent", "--data-dir", str(folders.root), "--ready-file", str(ready)]
        agent = Child("agent", vnotch(*command, *(["--netns", netns] if netns else [])), folders.root / "agent.log")
        children.append(agent)
        agent.wait_until(ready.exists, START_SECONDS, "starting the agent")
        step(f"agent captures {netns or 'this network namespace'}, log in {agent.log}")
        out.print('Point AWS clients here with: eval "$(vnotch env)". Ctrl-C ends both.')
        while all(child.is_running() for child in children):
            time.sleep(0.5)
        ended = next(child for child in children if not child.is_running())
        raise HostError(ended.last_words() or f"the {ended.name} has ended", f"see {ended.log}")
    except KeyboardInterrupt:
        step("ending agent and server")
    finally:
        for child in reversed(children):
            child.stop()

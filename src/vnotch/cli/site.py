"""The agent of this host and the network namespace that it captures, as a command beside it finds them."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vnotch.boot import boot_id
from vnotch.capture.interfaces import Namespace
from vnotch.cli.endpoint import Endpoint, answering_since_ns
from vnotch.cli.terminal import step
from vnotch.config import Folders
from vnotch.errors import HostError, InputError
from vnotch.interrupts import wait_until
from vnotch.links import Host, Link, callers_peers, route_to

START_SECONDS = 10.0
"""How long an agent may take from its server's start until the server has heard of it."""
HEARD_SECONDS = 30.0
"""An agent posts its status at each tick, so every ten seconds at least."""


@dataclass(frozen=True)
class Site:
    """An agent of this host. `heard_seconds` is how long ago it last told of itself; `has_ended`: its folder is here
    and no process holds it. `devices`: interface id -> the name of what it captures under it now."""

    agent: str
    process: int
    netns: str | None
    netns_inode: int | None
    heard_seconds: float
    has_ended: bool = False
    devices: dict[str, str] = field(default_factory=dict)

    @property
    def runs(self) -> bool:
        return self.heard_seconds <= HEARD_SECONDS and not self.has_ended

    @classmethod
    def find(cls, folders: Folders, endpoint: Endpoint, name: str | None) -> Site:
        """The agent of this name; without one that of this host's name, or the only one here that runs.

        Raises InputError where it is another host's, HostError where there is none.
        """
        start = "start one: sudo vnotch agent, or server and agent together: vnotch up"
        if name is not None:
            site = cls._of(name, folders, endpoint)
            if site is None:
                raise HostError(
                    f"the server has not heard of an agent {name}", f"start it: sudo vnotch agent --name {name}"
                )
            return site
        local = socket.gethostname().split(".")[0]
        here = folders.root / "agents"
        names = [local, *sorted(path.name for path in (here.iterdir() if here.is_dir() else ()) if path.name != local)]
        found, elsewhere = [], None
        for known in names:
            try:
                if (site := cls._of(known, folders, endpoint)) is not None:
                    found.append(site)
            except InputError as error:
                elsewhere = error
        running = [site for site in found if site.runs]
        if len(running) > 1 and running[0].agent != local:
            said = ", ".join(site.agent for site in running)
            raise InputError(f"several agents run on this host: {said}", "say which with --agent")
        if running or found:
            return (running or found)[0]
        raise elsewhere or HostError("no agent of this host is known to the server", start)

    @classmethod
    def await_running(cls, folders: Folders, endpoint: Endpoint, name: str | None) -> Site:
        """As `find(...).require_running()`; an agent is waited for where its server has just started, as `vnotch up &`
        starts both."""

        def runs() -> bool:
            try:
                return cls.find(folders, endpoint, name).runs
            except HostError:
                return False

        wait_until(runs, _starting_seconds(folders), lambda: step(f"waiting up to {START_SECONDS:.0f} s for the agent"))
        return cls.find(folders, endpoint, name).require_running()

    @classmethod
    def _of(cls, name: str, folders: Folders, endpoint: Endpoint) -> Site | None:
        status = endpoint.agent_status(name)
        about: dict[str, Any] = (status or {}).get("agent", {})
        if status is None or "boot_id" not in about or not status.get("received_ms"):
            return None
        heard_seconds = max(0.0, time.time() - status["received_ms"] / 1000)
        if about["boot_id"] != boot_id():
            if heard_seconds > HEARD_SECONDS:
                return None  # this host's, before it was booted, or another's: it is not there
            raise InputError(f"agent {name} runs on another host", "run this there, or name an agent here with --agent")
        devices = {item["interface_id"]: item["device"] for item in status.get("interfaces", []) if item.get("device")}
        ended = _has_ended(folders.agent(name))
        return cls(name, about["process"], about["netns"], about["netns_inode"], heard_seconds, ended, devices)

    def require_running(self) -> Site:
        if not self.runs:
            raise HostError(
                f"agent {self.agent} does not run: it was last heard of {self.heard_seconds:.0f} s ago",
                f"start it: sudo vnotch agent --name {self.agent}",
            )
        return self

    @contextmanager
    def namespace(self) -> Iterator[Namespace]:
        """The namespace that the agent captures. Raises HostError where this process may not enter it."""
        own = os.stat("/proc/self/ns/net").st_ino
        if own == self.netns_inode:
            name = None
        else:
            name = self.netns or f"/proc/{self.process}/ns/net"
            if os.geteuid() != 0:
                raise HostError(
                    f"agent {self.agent} captures another network namespace than this one", "run this as root"
                )
        found = Namespace(name)
        try:
            if found.inode != self.netns_inode:
                raise HostError(
                    f"the network namespace that agent {self.agent} captures is not {name or 'this one'} any more",
                    "start the agent again",
                )
            yield found
        finally:
            found.close()


def _starting_seconds(folders: Folders) -> float:
    """START_SECONDS where the folder's server started no longer ago than that, else 0."""
    age_seconds = time.time() - answering_since_ns(folders) / 1e9
    return START_SECONDS if age_seconds < START_SECONDS else 0.0


def _has_ended(folder: Path) -> bool:
    """Whether an agent's folder is here and free: a running agent holds its lock (`agent.process.lock_folder`)."""
    try:
        descriptor = os.open(folder / "agent.lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False  # another folder than this one's, or not ours to read: what was heard counts
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def dangers(host: Host, link: Link, namespace: Namespace, endpoint_url: str) -> list[str]:
    """What runs over a link that its user needs to take a mistake back, in words; empty where nothing does."""
    found = []
    if host.carries_default_route(link):
        found.append("the default route")

    def carries(address: str) -> bool:
        way = route_to(namespace, address)
        return way is not None and link.index in host.carriers(way)

    if any(carries(peer) for peer in callers_peers()):
        found.append("your own SSH connection")
    server = urlsplit(endpoint_url).hostname or ""
    if not server.startswith("127.") and server not in ("::1", "localhost") and carries(server):
        found.append("the connection to the server")
    return found

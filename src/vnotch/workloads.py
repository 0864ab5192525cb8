"""Whose an interface is: the container or virtual machine behind it, and its names.

A container is known by the processes in its network namespace: its id from their cgroup, or from the monitor that
started them (Podman's and CRI-O's conmon, Docker's and containerd's shim). Its names come from the runtime's own API
socket where there is one (the Docker API, which Podman serves too), else from the monitor's command line. A virtual
machine's tap is named in libvirt's state of the running domains. What none of these tells is not guessed.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

from vnotch.capture.cgroups import CONTAINER_ID_DIGITS, container_of, paths_of_process

API_SOCKETS = (Path("/run/docker.sock"), Path("/var/run/docker.sock"), Path("/run/podman/podman.sock"))
LIBVIRT_DOMAINS = (Path("/run/libvirt/qemu"), Path("/run/libvirt/lxc"))
API_SECONDS = 2.0
VALUE_CHARACTERS = 256
"""Of a tag's value (EC2 API reference, Tag)."""
DOMAIN_BYTES_MAX = 1 << 20
PROCESSES_MAX = 4

NAME_LABEL = "vnotch.name"
SERVICE_LABELS = ("com.docker.compose.service", "io.podman.compose.service", "io.kubernetes.pod.name")

_ID = re.compile(r"[0-9a-f]{64}")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Workload:
    """`identity` is the same as long as it is the same container or domain; `tags` are what an ENI shows of it, with
    the name first, under `Name`."""

    identity: str
    tags: Mapping[str, str]


@dataclass(frozen=True)
class _Found:
    """A container: its whole id where it is known, and what its monitor was called with."""

    container_id: str
    name: str | None = None


def interface(device: str) -> Workload:
    """What nothing is known of but the device."""
    return Workload(f"device/{quote(device)}", {"Name": device})


class Workloads:
    """Looks up workloads; what was learned of a container is kept as long as it is asked about."""

    def __init__(
        self,
        proc: Path = Path("/proc"),
        sockets: tuple[Path, ...] = API_SOCKETS,
        domains: tuple[Path, ...] = LIBVIRT_DOMAINS,
    ) -> None:
        self._proc = proc
        self._sockets = sockets
        self._domains = domains
        self._containers: dict[str, Workload] = {}
        self._asked: set[str] = set()

    def forget_others(self) -> None:
        """Forgets the containers that were not asked about since the last call."""
        self._containers = {name: known for name, known in self._containers.items() if name in self._asked}
        self._asked = set()

    def of_namespace(self, inode: int) -> Workload | None:
        """The container whose network namespace this is; None where it is none's that we know of, or several'."""
        found = {item.container_id: item for pid in self._processes(inode) if (item := self._container(pid))}
        if len(found) != 1:
            return None
        [(container_id, item)] = found.items()
        self._asked.add(container_id)
        if container_id not in self._containers:
            self._containers[container_id] = self._described(item)
        return self._containers[container_id]

    def of_tap(self, device: str) -> Workload | None:
        """The running libvirt domain that has this tap."""
        for folder in self._domains:
            for path in sorted(folder.glob("*.xml")) if folder.is_dir() else ():
                try:
                    if path.stat().st_size > DOMAIN_BYTES_MAX:
                        continue
                    domain = ElementTree.fromstring(path.read_bytes()).find("domain")
                except (OSError, ElementTree.ParseError) as error:
                    log.debug("%s: %s", path, error)
                    continue
                if domain is None or not any(
                    target.get("dev") == device for target in domain.findall("devices/interface/target")
                ):
                    continue
                name, uuid = domain.findtext("name") or "", domain.findtext("uuid") or ""
                tags = _tags(Name=name, **{"vnotch:domain": name, "vnotch:domain-id": uuid})
                return Workload(f"domain/{quote(uuid or name)}/{quote(device)}", tags)
        return None

    # Containers

    def _processes(self, inode: int) -> list[str]:
        """The first processes of a network namespace."""
        found = []
        for pid in sorted(filter(str.isdigit, os.listdir(self._proc)), key=int):
            try:
                if os.stat(f"{self._proc}/{pid}/ns/net").st_ino == inode:
                    found.append(pid)
            except OSError:
                continue
            if len(found) == PROCESSES_MAX:
                break
        return found

    def _container(self, pid: str) -> _Found | None:
        by_monitor = self._by_monitor(pid)
        try:
            lines = (self._proc / pid / "cgroup").read_text(errors="replace").splitlines()
        except OSError:
            return by_monitor
        short = next(filter(None, map(container_of, paths_of_process(lines))), None)
        if short is None or (by_monitor and by_monitor.container_id.startswith(short)):
            return by_monitor
        return _Found(short)

    def _by_monitor(self, pid: str) -> _Found | None:
        """Up through the parents: what a container runs may have started more."""
        for _ in range(16):
            try:
                status = (self._proc / pid / "status").read_text(errors="replace")
                pid = next(line.split()[1] for line in status.splitlines() if line.startswith("PPid:"))
                if pid in ("0", "1"):
                    return None
                words = (self._proc / pid / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except (OSError, StopIteration, IndexError):
                return None
            if found := _monitored(words):
                return found
        return None

    def _described(self, found: _Found) -> Workload:
        told = next(filter(None, (_inspect(path, found.container_id) for path in self._sockets)), None) or {}
        config = told.get("Config") or {}
        labels = config.get("Labels") or {}
        container_id = str(told.get("Id") or found.container_id)
        name = str(told.get("Name") or found.name or container_id[:CONTAINER_ID_DIGITS]).removeprefix("/")
        service = next((labels[label] for label in SERVICE_LABELS if label in labels), "")
        tags = {
            "Name": str(labels.get(NAME_LABEL) or name),
            "vnotch:container": name,
            "vnotch:container-id": container_id[:CONTAINER_ID_DIGITS],
            "vnotch:image": str(config.get("Image") or ""),
            "vnotch:service": str(service),
        }
        return Workload(f"container/{container_id[:CONTAINER_ID_DIGITS]}", _tags(**tags))


def _monitored(words: list[str]) -> _Found | None:
    """The container of a monitor's command line (conmon(8); the shim's flags are containerd's runtime v2 ABI)."""
    program = os.path.basename(words[0])
    if program == "conmon":
        container_id, name = _option(words, "-c", "--cid"), _option(words, "-n", "--name")
    elif program.startswith("containerd-shim"):
        container_id, name = _option(words, "-id", "--id"), None
    else:
        return None
    return _Found(container_id, name) if container_id and _ID.fullmatch(container_id) else None


def _option(words: list[str], *names: str) -> str | None:
    return next((value for word, value in pairwise(words) if word in names), None)


def _tags(**tags: str) -> dict[str, str]:
    """As an ENI can have them: printable, not too long; what is empty is left out."""
    clean = {key: "".join(filter(str.isprintable, value))[:VALUE_CHARACTERS] for key, value in tags.items()}
    return {key: value for key, value in clean.items() if value}


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=API_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(API_SECONDS)
        self.sock.connect(str(self._path))


def _inspect(path: Path, container_id: str) -> dict[str, Any] | None:
    """What the API at this socket says of a container; None where there is no such socket or container."""
    if not path.is_socket():
        return None
    connection = _UnixConnection(path)
    try:
        connection.request("GET", f"/v1.24/containers/{container_id}/json")
        answer = connection.getresponse()
        document = json.loads(answer.read(DOMAIN_BYTES_MAX))
        return document if answer.status == 200 and isinstance(document, dict) else None
    except (OSError, ValueError, http.client.HTTPException) as error:
        log.debug("%s: %s", path, error)
        return None
    finally:
        connection.close()

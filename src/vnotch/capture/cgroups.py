"""Control groups: which systemd unit and which container a cgroup's path names, and the path of a cgroup's number.

Paths are those of the runtimes' own documentation: systemd (systemd.unit(5), "Control Group APIs and Delegation"),
Docker and containerd with both cgroup drivers, Podman's libpod, CRI-O, Kubernetes' cri-containerd, LXC and LXD
(lxc.payload), systemd-nspawn. What none of them names is in no container.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

DIRECTORIES_MAX = 20_000
"""Looked at for the number of a cgroup that is not known yet."""

CONTAINER_ID_DIGITS = 12
"""Of the 64: as `docker ps`, `podman ps` and `crictl ps` print it, and take it."""

_UNIT = re.compile(r"[A-Za-z0-9:_.\\@-]+\.(?:service|scope|socket|mount|swap)")
_ID = re.compile(r"[0-9a-f]{64}")
_SCOPE = re.compile(r"(?:docker|libpod|cri-containerd|crio|nerdctl|containerd)-([0-9a-f]{64})(?:\.scope)?")
_LXC = re.compile(r"lxc\.payload\.(.+)")
_NSPAWN = re.compile(r"systemd-nspawn@(.+)\.service")


def unit_of(path: str) -> str | None:
    """The system unit of a cgroup: its first component below the slices, as `ps -o unit` has it; None for none."""
    for part in path.strip("/").split("/"):
        part = part.removeprefix("_")  # systemd escapes names that cgroup v1 or the kernel could take for their own
        if part.endswith(".slice"):
            continue
        return part if _UNIT.fullmatch(part) else None
    return None


def container_of(path: str) -> str | None:
    """The container of a cgroup, the innermost one: its id's first 12 digits, or its name for LXC and nspawn."""
    parts = path.strip("/").split("/")
    for place in range(len(parts) - 1, -1, -1):
        part = parts[place]
        if match := _SCOPE.fullmatch(part):
            return match[1][:CONTAINER_ID_DIGITS]
        if _ID.fullmatch(part) and place > 0:
            return part[:CONTAINER_ID_DIGITS]
        if match := _LXC.fullmatch(part) or _NSPAWN.fullmatch(part):
            return _unescaped(match[1])
        if place > 0 and parts[place - 1] == "lxc":
            return part
    return None


def _unescaped(name: str) -> str:
    """systemd-escape(1): `\\x2d` is the byte 2d."""
    return re.sub(r"\\x([0-9a-f]{2})", lambda match: chr(int(match[1], 16)), name)


def paths_of_process(lines: Iterable[str]) -> list[str]:
    """The cgroups of a process by its /proc/PID/cgroup: of version 2 first, then systemd's own hierarchy, then others.

    The root says nothing and is left out.
    """
    ranked = []
    for line in lines:
        number, controllers, path = line.rstrip("\n").split(":", 2)
        if path != "/":
            ranked.append((0 if number == "0" else 1 if controllers == "name=systemd" else 2, path))
    return [path for _, path in sorted(ranked, key=lambda item: item[0])]


def cgroup2_mount() -> Path | None:
    """Where version 2 is mounted (cgroups(7)): alone, or beside version 1; None where it is not."""
    for path in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")):
        if (path / "cgroup.procs").exists() and (path / "cgroup.controllers").exists():
            return path
    return None


class CgroupPaths:
    """The path of each version 2 cgroup by its number, which is the inode of its folder. Looks again for a new number,
    at most once between two calls of `refresh`."""

    def __init__(self, mount: Path | None) -> None:
        self._mount = mount
        self._paths: dict[int, str] = {}
        self._fresh = False

    def refresh(self) -> None:
        self._fresh = False

    def path_of(self, number: int) -> str | None:
        """None for a cgroup that is gone, or outside of what this process sees; `/` for the root."""
        if number not in self._paths and not self._fresh:
            self._read()
        return self._paths.get(number)

    def processes_of(self, number: int) -> list[int]:
        """The processes of a cgroup, those of cgroups below it not included; none for the root, which has any."""
        path = self.path_of(number)
        if self._mount is None or path is None or path == "/":
            return []
        try:
            return [int(line) for line in (self._mount / path[1:] / "cgroup.procs").read_text().split()]
        except OSError:
            return []  # it went, or is a threaded one, which has no such list

    def _read(self) -> None:
        self._fresh = True
        if self._mount is None:
            return
        found = {self._mount.stat().st_ino: "/"}
        waiting = [self._mount]
        while waiting and len(found) < DIRECTORIES_MAX:
            folder = waiting.pop()
            try:
                with os.scandir(folder) as entries:
                    inner = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
            except OSError:
                continue  # it went while we looked
            for entry in inner:
                found[entry.inode()] = "/" + os.path.relpath(entry.path, self._mount)
                waiting.append(Path(entry.path))
        self._paths = found

"""Which processes hold a socket, by the files in /proc/PID/fd (proc(5)).

Reading those of other users needs CAP_SYS_PTRACE; a process that may not be read holds nothing that we know of.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from vnotch.capture.cgroups import paths_of_process

FILES_MAX = 100_000
"""Open files looked at in one search of all processes. After so many it ends, and what it was for stays unknown."""
SEARCH_SHARE = 10
"""All processes are searched for at most one part in so many of the time."""

_SOCKET = "socket:["


@dataclass(frozen=True)
class Process:
    """`name` is the kernel's (comm): at most 15 bytes, whatever the process has made of it."""

    pid: int
    name: str
    cgroups: tuple[str, ...]

    @property
    def text(self) -> str:
        return f"{self.name}/{self.pid}"


class SocketHolders:
    """Finds the processes that hold sockets: first among those of the socket's cgroup, then among all.

    What was found is believed as long as that file is still that socket, and what was not found stays so, until
    `forget`: a second holder that came later, or from another cgroup, is seen then. `searches` counts those of all
    processes, `searches_cut` those that met the bound on files, `searches_deferred` those that would have cost more
    than their share of the time; then those sockets have no holder this time.
    """

    def __init__(
        self,
        proc: Path = Path("/proc"),
        files_max: int = FILES_MAX,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._proc = proc
        self._files_max = files_max
        self._clock = clock
        self._found: dict[int, list[tuple[int, str]]] = {}  # inode -> (pid, path of the file)
        self._search_at = 0.0
        self.searches = 0
        self.searches_cut = 0
        self.searches_deferred = 0

    def forget(self) -> None:
        self._found.clear()

    def holders(
        self, inodes: Collection[int], near: Callable[[Collection[int]], Iterable[int]] = lambda inodes: ()
    ) -> dict[int, list[Process]]:
        """Inode -> its processes; no entry for one that nobody holds who may be seen.

        `near` gives the processes among which these inodes are looked for first.
        """
        if missing := self._missing(inodes):
            self._look_near(missing, near(missing))
        if missing := self._missing(missing):
            self._look_everywhere(missing)
        processes: dict[int, Process | None] = {}
        answer = {}
        for inode in inodes:
            holders = []
            for pid in dict.fromkeys(pid for pid, _ in self._found.get(inode, ())):
                if pid not in processes:
                    processes[pid] = self._process(pid)
                if (process := processes[pid]) is not None:
                    holders.append(process)
            if holders:
                answer[inode] = _without_manager(holders)
        return answer

    def _missing(self, inodes: Iterable[int]) -> set[int]:
        return {inode for inode in inodes if not self._is_there(inode)}

    def _is_there(self, inode: int) -> bool:
        found = self._found.get(inode)
        return found is not None and all(_link(path) == f"{_SOCKET}{inode}]" for _, path in found)

    def _look_near(self, missing: Collection[int], pids: Iterable[int]) -> None:
        found, _ = self._search(pids)
        for inode in missing:
            self._found.pop(inode, None)
            if inode in found:
                self._found[inode] = found[inode]

    def _look_everywhere(self, missing: Collection[int]) -> None:
        begun = self._clock()
        if begun < self._search_at:
            self.searches_deferred += 1
            return
        self.searches += 1
        found, whole = self._search(int(pid) for pid in os.listdir(self._proc) if pid.isdigit())
        self._search_at = self._clock() + SEARCH_SHARE * (self._clock() - begun)
        if not whole:
            self.searches_cut += 1
            return  # what was found may have a second holder
        self._found = found | {inode: [] for inode in missing if inode not in found}

    def _search(self, pids: Iterable[int]) -> tuple[dict[int, list[tuple[int, str]]], bool]:
        """-> (inode -> holders, whether all were looked at)."""
        found: dict[int, list[tuple[int, str]]] = {}
        looked_at = 0
        for pid in pids:
            folder = f"{self._proc}/{pid}/fd"
            try:
                files = os.listdir(folder)
            except OSError:
                continue  # it ended, or may not be read
            looked_at += len(files)
            if looked_at > self._files_max:
                return found, False
            for number in files:
                path = f"{folder}/{number}"
                target = _link(path)
                if target is not None and target.startswith(_SOCKET):
                    found.setdefault(int(target[len(_SOCKET) : -1]), []).append((pid, path))
        return found, True

    def _process(self, pid: int) -> Process | None:
        folder = self._proc / str(pid)
        try:
            name = (folder / "comm").read_bytes().rstrip(b"\n").decode(errors="replace")
            lines = (folder / "cgroup").read_text(errors="replace").splitlines()
        except OSError:
            return None
        return Process(pid, name, tuple(paths_of_process(lines)))


def _without_manager(holders: list[Process]) -> list[Process]:
    """systemd keeps open the listening sockets that it hands to services; the service is the one behind them."""
    others = [process for process in holders if (process.pid, process.name) != (1, "systemd")]
    return others or holders


def _link(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None

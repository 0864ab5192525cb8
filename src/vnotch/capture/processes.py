"""Which processes hold a socket, by the files in /proc/PID/fd (proc(5)).

Reading those of other users needs CAP_SYS_PTRACE; a process that may not be read holds nothing that we know of.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from vnotch.capture.cgroups import paths_of_process

FILES_MAX = 200_000
"""Open files looked at in one search. After so many the search ends, and what it was for stays unknown."""

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
    """Finds the processes that hold sockets.

    What was found is believed as long as that file is still that socket, and what was not found stays so, until
    `forget`: a second holder that came later is seen then.
    """

    def __init__(self, proc: Path = Path("/proc"), files_max: int = FILES_MAX) -> None:
        self._proc = proc
        self._files_max = files_max
        self._found: dict[int, list[tuple[int, str]]] = {}  # inode -> (pid, path of the file)
        self.searches = 0
        self.searches_cut = 0

    def forget(self) -> None:
        self._found.clear()

    def holders(self, inodes: Collection[int]) -> dict[int, list[Process]]:
        """Inode -> its processes; no entry for one that nobody holds who may be seen."""
        if any(not self._is_there(inode) for inode in inodes):
            self._search()
            self._found |= {inode: [] for inode in inodes if inode not in self._found}
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

    def _is_there(self, inode: int) -> bool:
        found = self._found.get(inode)
        return found is not None and all(_link(path) == f"{_SOCKET}{inode}]" for _, path in found)

    def _search(self) -> None:
        self.searches += 1
        self._found = {}
        looked_at = 0
        for pid in filter(str.isdigit, os.listdir(self._proc)):
            folder = f"{self._proc}/{pid}/fd"
            try:
                files = os.listdir(folder)
            except OSError:
                continue  # it ended, or may not be read
            looked_at += len(files)
            if looked_at > self._files_max:
                self.searches_cut += 1
                self._found = {}  # of what was found there may be a second holder
                return
            for number in files:
                path = f"{folder}/{number}"
                target = _link(path)
                if target is not None and target.startswith(_SOCKET):
                    self._found.setdefault(int(target[len(_SOCKET) : -1]), []).append((int(pid), path))

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

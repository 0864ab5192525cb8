"""Which processes hold a socket, on this process's own /proc and on one made of files."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from vnotch.capture.processes import Process, SocketHolders


class Proc:
    """A /proc of a few processes, with a clock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = 0.0

    def process(self, pid: int, name: str, *targets: str) -> None:
        files = self.folder / str(pid) / "fd"
        files.mkdir(parents=True, exist_ok=True)
        for number, target in enumerate(targets):
            (files / str(number)).symlink_to(target)
        (self.folder / str(pid) / "comm").write_text(f"{name}\n")
        (self.folder / str(pid) / "cgroup").write_text("0::/system.slice/web.service\n")

    def holders(self, **bounds: int) -> SocketHolders:
        return SocketHolders(self.folder, clock=self.clock, **bounds)

    def clock(self) -> float:
        self.now += 0.5
        return self.now


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path)


def names(found: dict[int, list[Process]]) -> dict[int, list[str]]:
    return {inode: sorted(process.text for process in processes) for inode, processes in found.items()}


def test_this_process_holds_its_socket() -> None:
    with socket.socket() as made:
        inode = os.fstat(made.fileno()).st_ino
        found = SocketHolders().holders([inode])
        assert [process.pid for process in found[inode]] == [os.getpid()]
    assert SocketHolders().holders([inode]) == {}


def test_all_holders_are_found_and_files_that_are_no_sockets_are_not(proc: Proc) -> None:
    proc.process(7, "nginx", "socket:[70]", "/dev/null", "pipe:[71]")
    proc.process(8, "nginx", "socket:[70]", "socket:[80]", "socket:[80]")
    assert names(proc.holders().holders([70, 71, 80, 90])) == {70: ["nginx/7", "nginx/8"], 80: ["nginx/8"]}


def test_systemd_holds_for_others(proc: Proc) -> None:
    proc.process(1, "systemd", "socket:[70]", "socket:[90]")
    proc.process(7, "cupsd", "socket:[70]")
    assert names(proc.holders().holders([70, 90])) == {70: ["cupsd/7"], 90: ["systemd/1"]}


def test_a_holder_is_believed_while_the_file_is_that_socket(proc: Proc) -> None:
    proc.process(7, "nginx", "socket:[70]")
    holders = proc.holders()
    holders.holders([70])
    proc.now += 100
    holders.holders([70, 99])
    assert holders.searches == 2
    proc.now += 100
    holders.holders([70, 99])
    assert holders.searches == 2, "known, the one that nobody holds too"
    (proc.folder / "7" / "fd" / "0").unlink()
    proc.now += 100
    assert holders.holders([70]) == {}
    assert holders.searches == 3


def test_processes_that_are_near_are_looked_at_first(proc: Proc) -> None:
    proc.process(7, "nginx", "socket:[70]")
    proc.process(8, "other", "socket:[80]")
    holders = proc.holders()
    assert names(holders.holders([70], lambda inodes: [7])) == {70: ["nginx/7"]}
    assert holders.searches == 0
    assert names(holders.holders([70, 80], lambda inodes: [7])) == {70: ["nginx/7"], 80: ["other/8"]}
    assert holders.searches == 1


def test_a_search_beyond_its_bound_finds_nobody(proc: Proc) -> None:
    proc.process(7, "nginx", "socket:[70]")
    proc.process(8, "nginx", "socket:[70]")
    holders = proc.holders(files_max=1)
    assert holders.holders([70]) == {}
    assert (holders.searches, holders.searches_cut) == (1, 1)


def test_searches_take_at_most_their_share_of_the_time(proc: Proc) -> None:
    proc.process(7, "nginx", "socket:[70]")
    holders = proc.holders()
    holders.holders([70])
    proc.process(8, "nginx", "socket:[80]")
    assert holders.holders([80]) == {}
    assert (holders.searches, holders.searches_deferred) == (1, 1)
    proc.now += 10
    assert names(holders.holders([80])) == {80: ["nginx/8"]}

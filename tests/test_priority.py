"""Threads that give way: each by itself, and never ahead of where it was."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from lakes import new_lake

from vnotch.priority import give_way


def nice_of(thread: int) -> int:
    return os.getpriority(os.PRIO_PROCESS, thread)


def test_one_thread_gives_way_alone() -> None:
    before = nice_of(0)
    found: list[int] = []

    def work() -> None:
        give_way()
        give_way()
        found.append(nice_of(0))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [max(10, before)]
    assert nice_of(0) == before


def test_one_that_is_nicer_stays_so() -> None:
    found: list[int] = []

    def work() -> None:
        os.setpriority(os.PRIO_PROCESS, 0, 15)
        give_way()
        found.append(nice_of(0))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [15]


def test_the_committer_gives_way_to_readers(tmp_path: Path) -> None:
    lake = new_lake(tmp_path / "lake")
    try:
        lake.upkeep().result()
        committer = next(thread for thread in threading.enumerate() if thread.name == "lake-committer")
        assert committer.native_id is not None
        assert nice_of(committer.native_id) >= 10
    finally:
        lake.close()

"""The spool: what was written survives any crash, in order; what it drops is counted."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vnotch.deliver.batch import EVENT_SCHEMA, Batch, Entry
from vnotch.deliver.spool import Spool
from vnotch.errors import InputError, LimitError

DAY = 24 * 3600


def batch(name: str, *, flow_log: str = "fl-1", stream: str = "eni-1-all", events: int = 2, packets: int = 5) -> Batch:
    table = pa.table(
        [pa.array(range(events), pa.int64()), pa.array([f"{name} {i}" for i in range(events)])], schema=EVENT_SCHEMA
    )
    return Batch(name, flow_log, "group", stream, "arn:aws:iam::1:role/r", table, packets, packets * 40)


def open_spool(folder: Path, commit: int = 10**9, bytes_max: int = 10**9, seconds_max: int = DAY) -> Spool:
    return Spool(folder, bytes_max=bytes_max, seconds_max=seconds_max, complete_commit=commit)


def drain(spool: Spool, flow_log: str = "fl-1") -> list[str]:
    """Batch ids in the order of delivery, each acknowledged."""
    ids = []
    while leased := spool.lease(flow_log):
        [entry] = leased
        found = spool.read(entry)
        if found is not None:
            ids.append(found.batch_id)
            spool.acknowledge(entry)
    return ids


def test_a_batch_comes_back_as_it_was(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    spool.write(1, [batch("a")], 0)
    assert spool.waiting() == {}, "not visible before its commit is released"
    spool.release(1)
    [entry] = spool.lease("fl-1")
    found = spool.read(entry)
    assert found is not None
    assert found.events.equals(batch("a").events)
    assert (found.batch_id, found.group, found.stream, found.packets) == ("a", "group", "eni-1-all", 5)
    assert spool.waiting() == {"fl-1": 1}, "until it is acknowledged"
    spool.acknowledge(entry)
    assert spool.waiting() == {}
    assert [p for p in tmp_path.iterdir() if p.suffix == ".arrow"] == []


def test_streams_take_turns_and_each_keeps_its_order_also_over_a_restart(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    for commit in range(1, 12):
        spool.write(commit, [batch(f"{commit}a"), batch(f"{commit}b", stream="eni-2-all")], 0)
        spool.release(commit)
    wanted = [f"{commit}{letter}" for commit in range(1, 12) for letter in "ab"]
    assert drain(open_spool(tmp_path)) == wanted


def test_a_commit_that_was_not_completed_is_taken_back(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    spool.write(1, [batch("a")], 0)
    spool.write(2, [batch("b"), batch("c")], 0)
    again = open_spool(tmp_path, commit=1)
    assert drain(again) == ["a"]
    assert again.counters()["dropped"] == [], "it was not lost: it will be made again"
    assert again.size == 0


class Crash(BaseException):
    pass


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(st.sampled_from(["write", "deliver"]), min_size=1, max_size=8), crash_at=st.integers(0, 60))
def test_a_crash_at_any_step_loses_nothing_that_was_written(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str], crash_at: int
) -> None:
    """The process dies at the n-th system call that changes the disk; the next one finds every batch whose commit was
    complete, in order, but for those that were delivered."""
    folder = tmp_path_factory.mktemp("spool")
    complete, delivered, written = 0, [], []
    calls = 0

    def step(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls > crash_at:
            raise Crash

    real = {name: getattr(os, name) for name in ("write", "rename", "fsync", "unlink")}

    def counted(name: str):  # type: ignore[no-untyped-def]
        def call(*arguments):  # type: ignore[no-untyped-def]
            if name == "write" and calls + 1 > crash_at:
                real["write"](arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
            step()
            return real[name](*arguments)

        return call

    patch = pytest.MonkeyPatch()
    try:
        spool = open_spool(folder)
        for name in real:
            patch.setattr(os, name, counted(name))
        spool._files.fsync = os.fsync
        for number, kind in enumerate(steps, 1):
            if kind == "write":
                names = [f"{number}a", f"{number}b"]
                spool.write(number, [batch(name) for name in names], 0)
                complete = number
                written += names
                spool.release(number)
            elif leased := spool.lease("fl-1"):
                [entry] = leased
                found = spool.read(entry)
                assert found is not None
                delivered.append(found.batch_id)
                spool.acknowledge(entry)
    except Crash:
        pass
    finally:
        patch.undo()
    again = open_spool(folder, commit=complete)
    left = drain(again)
    # The last delivery may not have been acknowledged on disk: it comes once more, under its own batch id.
    assert left in (written[len(delivered) :], written[max(0, len(delivered) - 1) :])
    assert again.damaged_files == 0
    shutil.rmtree(folder)


@settings(max_examples=80, deadline=None)
@given(victim=st.integers(0, 2), cut=st.integers(0, 2000), garbage=st.binary(max_size=40), flip=st.booleans())
def test_a_damaged_file_is_set_aside_and_the_others_are_intact(
    tmp_path_factory: pytest.TempPathFactory, victim: int, cut: int, garbage: bytes, flip: bool
) -> None:
    folder = tmp_path_factory.mktemp("spool")
    spool = open_spool(folder)
    for commit, name in enumerate("abc", 1):
        spool.write(commit, [batch(name)], 0)
    files = sorted(folder.glob("*.arrow"))
    data = files[victim].read_bytes()
    cut %= len(data)
    damaged = data[:cut] + bytes([data[cut] ^ 1]) + data[cut + 1 :] if flip else data[:cut] + garbage
    files[victim].write_bytes(damaged)
    again = open_spool(folder)
    left = drain(again)
    others = [name for index, name in enumerate("abc") if index != victim]
    if damaged == data:
        others = ["a", "b", "c"]
    else:
        assert again.damaged_files == 1
        assert again.dropped.untold("fl-1", "eni-1-all") == (5, 200), (
            "what it held will be told of in a SKIPDATA record"
        )
        assert len(list((folder / "damaged").iterdir())) == 1
    assert left == others
    shutil.rmtree(folder)


def test_foreign_files_and_half_written_ones_are_moved_out_of_the_way(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / ".1-0").write_text("half a batch")
    (tmp_path / "dropped.json").write_text("{")
    spool = open_spool(tmp_path)
    assert spool.damaged_files == 2
    assert not (tmp_path / ".1-0").exists()
    assert drain(spool) == []


def test_the_oldest_is_dropped_where_bytes_run_out_and_counted(tmp_path: Path) -> None:
    probe = open_spool(tmp_path / "probe")
    probe.write(1, [batch("1")], 0)
    spool = open_spool(tmp_path / "spool", bytes_max=probe.size * 3 + 100)
    for commit in range(1, 6):
        spool.write(commit, [batch(str(commit), stream=f"eni-{commit % 2}-all")], 0)
        spool.release(commit)
    assert spool.size <= spool.bytes_max
    counts = spool.counters()["dropped"]
    assert [(c["stream"], c["reason"], c["batches"], c["events"], c["packets"]) for c in counts] == [
        ("eni-0-all", "spool-full", 1, 2, 5),
        ("eni-1-all", "spool-full", 1, 2, 5),
    ]
    assert drain(spool) == ["3", "4", "5"]


def test_what_is_too_old_is_dropped_and_counted_also_while_the_agent_was_down(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, seconds_max=100)
    spool.write(1, [batch("old")], 1000)
    spool.write(2, [batch("new")], 1090)
    again = open_spool(tmp_path, seconds_max=100)
    again.expire(1101)
    assert [(c["reason"], c["batches"]) for c in again.counters()["dropped"]] == [("spool-expired", 1)]
    assert drain(again) == ["new"]


def test_a_lease_holds_what_may_go_together_of_one_stream(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    for commit, events in enumerate((2, 2, 2, 300, 2), 1):
        spool.write(commit, [batch(str(commit), events=events), batch(f"other{commit}", stream="eni-2-all")], 0)
        spool.release(commit)
    first = spool.lease("fl-1", 2)
    assert [found.batch_id for entry in first if (found := spool.read(entry))] == ["1", "2"]
    other = spool.lease("fl-1", 100)
    assert [entry.commit for entry in other] == [1, 2, 3, 4, 5]
    assert {entry.stream for entry in other} == {"eni-2-all"}
    assert spool.lease("fl-1", 100) == [], "both streams have something under way"
    assert spool.ready() == []
    spool.acknowledge(first[0])
    assert spool.ready() == [], "the rest of the lease is still under way"
    spool.give_back(first[1:])
    assert [entry.commit for entry in spool.lease("fl-1", 100)] == [2, 3], "a large batch goes alone"
    assert spool.waiting() == {"fl-1": 9}


def test_a_batch_under_way_is_never_dropped(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, seconds_max=10)
    spool.write(1, [batch("a"), batch("b")], 0)
    spool.release(1)
    [entry] = spool.lease("fl-1")
    spool.expire(1000)
    assert spool.waiting() == {"fl-1": 1}
    assert spool.read(entry) is not None
    spool.give_back([entry])
    spool.expire(1000)
    assert spool.waiting() == {}


def test_counts_of_drops_outlive_the_process_and_are_told_once(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, seconds_max=10)
    spool.write(1, [batch("a", packets=7)], 0)
    spool.release(1)
    spool.expire(1000)
    again = open_spool(tmp_path)
    assert again.dropped.untold("fl-1", "eni-1-all") == (7, 280)
    assert again.dropped.untold("fl-1", "eni-2-all") == (0, 0)
    again.dropped.told("fl-1", "eni-1-all")
    last = open_spool(tmp_path)
    assert last.dropped.untold("fl-1", "eni-1-all") == (0, 0)
    assert last.counters()["dropped"][0]["packets"] == 7, "the count itself stays"


@pytest.mark.parametrize(("number", "reason"), [(errno.ENOSPC, "disk-full"), (errno.EIO, "Input/output error")])
def test_a_full_disk_is_counted_and_the_rest_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, reason: str
) -> None:
    spool = open_spool(tmp_path)
    real = os.write
    failing = iter([True, False, False])

    def write(descriptor: int, data: bytes) -> int:
        if next(failing):
            raise OSError(number, os.strerror(number))
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(LimitError, match="1 of 3"):
        spool.write(1, [batch("a"), batch("b"), batch("c")], 0)
    monkeypatch.undo()
    spool.release(1)
    assert drain(spool) == ["b", "c"]
    assert [(c["reason"], c["packets"]) for c in spool.counters()["dropped"]] == [(reason, 5)]
    assert [path.name for path in tmp_path.iterdir()] == ["dropped.json"], "no half-written file is left"


def test_the_name_of_a_file_says_all_and_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    entry = Entry(1, 2, 3, "fl-1", "strange, stream/ä", 4, 5, 6, 7, 8)
    assert Entry.parse(entry.name) == entry
    assert "/" not in entry.name
    for name in ("x.arrow", "1-2,3.arrow", entry.name.replace("000000000001", "1"), ""):
        assert Entry.parse(name) is None
    with pytest.raises(InputError, match="too long"):
        open_spool(tmp_path).write(1, [batch("a", stream="s" * 300)], 0)


def test_a_batch_is_fsynced_before_its_name_and_the_folder_last(tmp_path: Path) -> None:
    """Power may go at any time: a name on the disk must never stand before its contents."""
    order: list[str] = []

    def fsync(descriptor: int) -> None:
        target = os.readlink(f"/proc/self/fd/{descriptor}")
        order.append(Path(target).name if Path(target) != tmp_path else "folder")
        os.fsync(descriptor)

    spool = Spool(tmp_path, bytes_max=10**9, seconds_max=DAY, complete_commit=0, fsync=fsync)
    spool.write(1, [batch("a"), batch("b")], 0)
    assert sorted(order[:2]) == [".1-0", ".1-1"]
    assert order[2:] == ["folder"]


def test_status_counters_are_json(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    spool.write(1, [batch("a")], 77)
    spool.release(1)
    counters = json.loads(json.dumps(spool.counters()))
    assert (counters["batches"], counters["oldest_s"]) == (1, 77)

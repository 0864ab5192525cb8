"""The log store by itself: exact counts, group commit, batches that count once, bounds, upkeep, readers."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from lakes import new_lake

from vnotch.errors import HostError
from vnotch.store import committer, ducklake
from vnotch.store.batch_keys import BatchKeys, batch_key
from vnotch.store.committer import LakeFull, LakeUnavailable, StreamGone
from vnotch.store.event_table import TABLES
from vnotch.store.lake import PUT_SCHEMA, Lake
from vnotch.store.upkeep import SMALL_FILES, UpkeepIntervals

BASE_MS = 1_700_000_000_000
EVER = 2**53
NEVER = UpkeepIntervals(merge=1e9, clean=1e9, expire=1e9)


def batch(*messages: str, at: int = BASE_MS) -> pa.Table:
    times = pa.array(range(at, at + len(messages)), pa.int64())
    return pa.table([times, pa.array(messages, pa.string())], schema=PUT_SCHEMA)


def numbered(count: int, start: int = 0, at: int = BASE_MS) -> pa.Table:
    return batch(*(f"m{number}" for number in range(start, start + count)), at=at)


def read(lake: Lake, group: int = 1, **options: Any) -> list[str]:
    options = {"start_ms": 0, "end_ms": EVER, "limit": 1_000_000, **options}
    return lake.events(group, **options)["message"].to_pylist()


@contextmanager
def held(lake: Lake) -> Iterator[None]:
    """The committer does nothing meanwhile."""
    reached, release = threading.Event(), threading.Event()

    def hold() -> None:
        reached.set()
        release.wait(20)

    lake._committer.run_between_commits(hold)
    assert reached.wait(20)
    try:
        yield
    finally:
        release.set()


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    lake = new_lake(tmp_path / "lake", intervals=NEVER)
    # The first round of upkeep is due at once; have it done before anything is measured.
    lake.upkeep().result()
    yield lake
    lake.close()


def test_events_come_back_in_order_with_their_values(lake: Lake) -> None:
    lake.submit(1, 7, batch("b", "c", at=BASE_MS + 1), 11).result()
    lake.submit(1, 8, batch("a", at=BASE_MS), 12).result()
    lake.submit(2, 7, batch("other"), 13).result()
    rows = lake.events(1, start_ms=0, end_ms=EVER, limit=10).to_pylist()
    sequences = [row.pop("sequence") for row in rows]
    assert rows == [
        {"stream_id": 8, "timestamp_ms": BASE_MS, "ingestion_ms": 12, "message": "a"},
        {"stream_id": 7, "timestamp_ms": BASE_MS + 1, "ingestion_ms": 11, "message": "b"},
        {"stream_id": 7, "timestamp_ms": BASE_MS + 2, "ingestion_ms": 11, "message": "c"},
    ]
    assert sequences[0] > sequences[2] > sequences[1] > 0
    assert lake.last_sequence > sequences[0]
    assert read(lake, stream_ids=[7]) == ["b", "c"]
    assert read(lake, without_streams=[7]) == ["a"]
    assert read(lake, start_ms=BASE_MS + 1, end_ms=BASE_MS + 2) == ["b"]
    assert read(lake, descending=True, limit=2) == ["c", "b"]


@pytest.mark.parametrize("window", [None, 1, 7, 10**9])
@pytest.mark.parametrize("descending", [False, True])
def test_pages_of_any_window_are_the_whole(lake: Lake, window: int | None, descending: bool) -> None:
    """Equal times over two commits, so that places must be told apart by sequence."""
    times = pa.array([BASE_MS + number // 20 for number in range(100)], pa.int64())
    for part in range(2):
        messages = pa.array([f"{part}-{number}" for number in range(100)])
        lake.submit(1, 1, pa.table([times, messages], schema=PUT_SCHEMA), 0).result()
    whole = lake.events(1, start_ms=0, end_ms=EVER, limit=1000).to_pylist()
    assert [(row["timestamp_ms"], row["sequence"]) for row in whole] == sorted(
        (row["timestamp_ms"], row["sequence"]) for row in whole
    )
    assert len(whole) == 200
    seen: list[dict[str, Any]] = []
    place = None
    while page := lake.events(
        1,
        start_ms=BASE_MS,
        end_ms=BASE_MS + 100,
        after=None if descending else place,
        before=place if descending else None,
        descending=descending,
        limit=9,
        first_window_ms=window,
    ).to_pylist():
        seen += page
        place = (page[-1]["timestamp_ms"], page[-1]["sequence"])
    assert seen == (whole[::-1] if descending else whole)


def test_events_after_a_sequence_follow_the_order_of_storing(lake: Lake) -> None:
    lake.submit(1, 1, batch("late", at=BASE_MS + 10), 0).result()
    mark = lake.last_sequence
    lake.submit(1, 1, batch("early", at=BASE_MS), 0).result()
    lake.submit(2, 1, batch("other group"), 0).result()
    assert lake.events_after(1, 0, limit=10)["message"].to_pylist() == ["late", "early"]
    assert lake.events_after(1, mark, limit=10)["message"].to_pylist() == ["early"]
    assert lake.events_after(1, lake.last_sequence, limit=10).num_rows == 0


def test_many_callers_share_commits_and_nothing_is_lost(lake: Lake) -> None:
    def put(thread: int) -> None:
        for number in range(12):
            lake.submit(
                1, thread, batch(f"{thread}-{number}", at=BASE_MS + number), 0, b"%d %d" % (thread, number)
            ).result()

    threads = [threading.Thread(target=put, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(read(lake)) == Counter(f"{thread}-{number}" for thread in range(8) for number in range(12))
    status = lake.status()
    assert status["stored_batches"] == 96
    assert status["commits"] <= 48  # one at a time would be 96
    sequences = lake.arrow("SELECT count(DISTINCT sequence) AS n FROM events")["n"][0].as_py()
    assert sequences == 96


def test_a_batch_counts_once_also_within_one_commit_and_after_a_restart(tmp_path: Path) -> None:
    folder = tmp_path / "lake"
    lake = Lake.open(folder, intervals=NEVER)
    with held(lake):
        futures = [lake.submit(1, 1, batch("x", "y"), 0, b"key") for _ in range(3)]
    assert [future.result().duplicate for future in futures] == [False, True, True]
    assert lake.submit(1, 1, batch("x", "y"), 0, b"key").result().duplicate
    assert not lake.submit(1, 1, batch("x", "y"), 0, None).result().duplicate
    last = lake.last_sequence
    lake.close()
    lake = Lake.open(folder, intervals=NEVER)
    assert lake.last_sequence == last
    assert lake.submit(1, 1, batch("x", "y"), 0, b"key").result().duplicate
    assert read(lake) == ["x", "x", "y", "y"]
    lake.close()


def test_a_batch_key_is_bound_to_stream_and_content() -> None:
    events = batch("ab", "c")
    keys = {
        batch_key(1, 1, "id", events),
        batch_key(1, 2, "id", events),
        batch_key(2, 1, "id", events),
        batch_key(1, 1, "other", events),
        batch_key(1, 1, "id", batch("a", "bc")),
        batch_key(1, 1, "id", batch("ab", "c", at=BASE_MS + 1)),
    }
    assert len(keys) == 6
    # The same content in other memory: a slice of a larger table, and two chunks.
    sliced = batch("zz", "ab", "c", "zz", at=BASE_MS - 1).slice(1, 2)
    chunked = pa.concat_tables([events.slice(0, 1), events.slice(1, 1)])
    assert batch_key(1, 1, "id", sliced) == batch_key(1, 1, "id", chunked) == batch_key(1, 1, "id", events)


def test_batch_keys_are_bounded_and_expire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = BatchKeys(limit=3)
    keys.add([b"1", b"2"], 10)
    keys.add([b"3", b"4"], 20)
    assert [key in keys for key in (b"1", b"2", b"3", b"4")] == [False, True, True, True]
    assert keys.forgotten == 1
    keys.drop_before(20)
    assert [key in keys for key in (b"2", b"3", b"4")] == [False, True, True]

    lake = new_lake(tmp_path / "lake", intervals=NEVER)
    with monkeypatch.context() as patch:
        patch.setattr(committer.time, "time_ns", lambda: (int(time.time()) - 49 * 3600) * 10**9)
        lake.submit(1, 1, batch("x"), 0, b"old").result()
    lake.submit(1, 1, batch("y"), 0, b"new").result()
    lake.upkeep().result()
    assert lake.status()["batch_keys_expired"] == 1
    assert lake.arrow("SELECT key FROM batches").to_pylist() == [{"key": b"new"}]
    lake.close()


def test_a_full_queue_refuses_at_once_and_counts(tmp_path: Path) -> None:
    lake = new_lake(tmp_path / "lake", intervals=NEVER, queue_bytes=1000)
    size = 1 + committer.EVENT_OVERHEAD_BYTES
    with held(lake):
        futures: list[Future[Any]] = [lake.submit(1, 1, batch("x"), 0) for _ in range(1000 // size)]
        with pytest.raises(LakeFull):
            lake.submit(1, 1, batch("x"), 0)
    assert all(future.result().events == 1 for future in futures)
    lake.submit(1, 1, numbered(1000), 0).result()  # larger than the queue, but alone
    assert lake.status()["throttled_batches"] == 1
    assert lake.status()["throttled_events"] == 1
    assert len(read(lake)) == len(futures) + 1000
    lake.close()


def test_a_deleted_stream_refuses_what_waits_and_loses_what_it_has(lake: Lake) -> None:
    lake.submit(1, 1, batch("gone"), 0).result()
    lake.submit(1, 2, batch("kept"), 0).result()
    lake.submit(2, 3, batch("gone too"), 0).result()
    lake.delete(1, 1)
    lake.delete(2)
    for group, stream in ((1, 1), (2, 3), (2, 9)):
        with pytest.raises(StreamGone):
            lake.submit(group, stream, batch("late"), 0).result()
    lake.upkeep().result()
    assert lake.arrow("SELECT message FROM events").to_pylist() == [{"message": "kept"}]
    assert lake.status()["expired_events_deleted"] == 2


def test_upkeep_merges_sorts_cleans_and_loses_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "lake"
    lake = Lake.open(folder, intervals=NEVER)
    count = 0
    for number in range(SMALL_FILES * 4 // 3 + 3):
        rows = 5 if number % 4 == 0 else 60
        lake.submit(1, number % 5, numbered(rows, count, BASE_MS - number), 0).result()
        count += rows
    expected = Counter(read(lake))
    assert sum(expected.values()) == count
    lake.upkeep().result()
    files = lake._upkeep.files("events")
    assert len(files) == 1
    assert Counter(read(lake)) == expected
    place = lake.arrow("SELECT group_id, stream_id, timestamp_ms, sequence FROM events").to_pylist()
    rows = [tuple(row.values()) for row in place]
    assert rows == sorted(rows)
    # Files that readers might have used are kept for a time; then only the merged one is left.
    import vnotch.store.upkeep as upkeep

    before, upkeep.READER_SECONDS = upkeep.READER_SECONDS, 0
    try:
        with lake.reading():  # a question that began when they were there
            for _ in range(3):
                lake.upkeep().result()
            assert len(list((folder / "data/main/events").glob("*.parquet"))) > 1
        for _ in range(2):
            lake.upkeep().result()
    finally:
        upkeep.READER_SECONDS = before
    assert len(list((folder / "data/main/events").glob("*.parquet"))) == 1
    assert Counter(read(lake)) == expected
    lake.close()


def test_the_disk_budget_expires_the_oldest_and_says_so(tmp_path: Path) -> None:
    lake = new_lake(tmp_path / "lake", intervals=NEVER)
    for number in range(12):
        lake.submit(1, 1, numbered(2000, number * 2000, BASE_MS + number * 2000), 0).result()
    budget = sum(size for _, size, _, _ in lake._upkeep.files("events")) // 2
    lake._upkeep.budget_bytes = budget
    lake.upkeep().result()
    kept = read(lake)
    assert 0 < len(kept) < 24_000
    assert kept == [f"m{number}" for number in range(24_000 - len(kept), 24_000)]
    assert lake.status()["expired_events_budget"] == 24_000 - len(kept)
    assert sum(size for _, size, _, _ in lake._upkeep.files("events")) <= budget
    lake.close()


def test_a_second_process_cannot_open_the_same_lake(lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(HostError, match="in use"):
        Lake.open(tmp_path / "lake")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match="file"):
        Lake.open(tmp_path / "file" / "lake")


def test_files_of_a_killed_process_are_removed_at_the_start(tmp_path: Path) -> None:
    folder = tmp_path / "lake"
    lake = Lake.open(folder, intervals=NEVER)
    lake.submit(1, 1, numbered(100), 0).result()
    lake.close()
    orphan = folder / "data/main/events/ducklake-0190aaaa-0000-7000-8000-000000000000.parquet"
    orphan.write_bytes(b"PAR1 half a file")
    lake = Lake.open(folder, intervals=NEVER)
    assert not orphan.exists()
    assert lake.status()["orphan_files_removed"] == 1
    assert len(read(lake)) == 100
    lake.close()


def test_a_column_that_an_older_lake_lacks_is_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = Lake.open(tmp_path / "lake", intervals=NEVER)
    lake.submit(1, 1, numbered(100), 0).result()
    lake.close()
    monkeypatch.setitem(TABLES, "events", TABLES["events"].append(pa.field("added", pa.int32())))
    lake = Lake.open(tmp_path / "lake", intervals=NEVER)
    lake.submit(1, 1, numbered(100, 100), 0).result()
    assert len(read(lake)) == 200
    assert lake.arrow("SELECT count(*) AS n FROM events WHERE added IS NULL")["n"][0].as_py() == 200
    lake.close()


def test_readers_see_whole_commits_while_it_is_written(lake: Lake) -> None:
    """Each batch has 60 events; a reader that sees a part of one, or an error, has been disturbed."""
    stop = threading.Event()
    wrong: list[object] = []
    reads = [0]

    def reader() -> None:
        while not stop.is_set():
            try:
                rows = lake.arrow("SELECT count(*) AS n, count(DISTINCT sequence) AS d FROM events").to_pylist()[0]
                if rows["n"] % 60 or rows["n"] != rows["d"]:
                    wrong.append(rows)
                reads[0] += 1
            except Exception as error:
                wrong.append(error)

    threads = [threading.Thread(target=reader) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(15):
        lake.submit(1, 1, numbered(60), 0).result()
        if number == 7:
            lake.upkeep().result()
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert reads[0] >= 3
    assert len(read(lake)) == 900


def test_what_waits_at_the_close_is_committed(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path / "lake", intervals=NEVER)
    futures = [lake.submit(1, 1, batch(f"{number}"), 0) for number in range(5)]
    lake.close()
    assert all(future.result().events == 1 for future in futures)
    with pytest.raises(LakeUnavailable):
        lake.submit(1, 1, batch("late"), 0)
    lake = Lake.open(tmp_path / "lake", intervals=NEVER)
    assert len(read(lake)) == 5
    lake.close()


def test_a_query_that_takes_too_long_is_ended(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    from vnotch.store import reading as module

    with monkeypatch.context() as patch:
        patch.setattr(module, "QUERY_SECONDS_MAX", 0.2)
        with pytest.raises(module.QueryFailed, match=r"within 0\.2 s"):
            lake.arrow("SELECT sum(hash(a.range + b.range)) FROM range(10_000_000) a, range(10_000_000) b")
    assert lake.arrow("SELECT 1 AS one").to_pylist() == [{"one": 1}]


def test_files_of_a_commit_in_doubt_are_never_taken_for_leftovers(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """COMMIT took effect but was reported as failed; then another commit fails. The first one's file must stay."""
    catalog = lake._catalog
    real = catalog.writer

    class Doubtful:
        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def execute(self, sql: str, *arguments: Any) -> Any:
            answer = real.execute(sql, *arguments)
            if sql == "COMMIT":
                raise OSError(5, "Input/output error")
            return answer

    with monkeypatch.context() as patch:
        patch.setattr(catalog, "writer", Doubtful())
        with pytest.raises(LakeUnavailable):
            lake.submit(1, 1, numbered(100), 0, b"doubt").result()
    with monkeypatch.context() as patch:
        patch.setattr("vnotch.store.ducklake.sync_path", lambda path: (_ for _ in ()).throw(OSError(5, "broken")))
        with pytest.raises(LakeUnavailable):
            lake.submit(1, 1, numbered(100, 100), 0, b"next").result()
    assert len(read(lake)) == 100
    # The caller's retry finds the first batch stored, and the second one not.
    assert lake.submit(1, 1, numbered(100), 0, b"doubt").result().duplicate
    assert not lake.submit(1, 1, numbered(100, 100), 0, b"next").result().duplicate
    assert len(read(lake)) == 200


def test_the_catalogs_log_stays_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is held open for readers on a full disk, and must be let go for it to begin anew."""
    monkeypatch.setattr(ducklake, "WAL_BYTES_MAX", 300_000)
    lake = new_lake(tmp_path / "lake", intervals=NEVER)
    longest = 0
    for number in range(120):
        lake.submit(1, 1, numbered(100, number * 100), 0).result()
        longest = max(longest, (tmp_path / "lake/catalog.sqlite-wal").stat().st_size)
    assert 100_000 < longest < 450_000
    assert len(read(lake)) == 12_000
    lake.close()

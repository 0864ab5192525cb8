"""Backups: whole while events come in, put back elsewhere, and never over something that is there."""

from __future__ import annotations

import shutil
import sqlite3
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.store.test_lake import BASE_MS, EVER, numbered
from vnotch.errors import InputError
from vnotch.store import backup
from vnotch.store.backup import back_up, restore
from vnotch.store.lake import Lake
from vnotch.store.log_groups import LogGroup, LogStream
from vnotch.store.log_totals import LogTotals
from vnotch.store.state import State
from vnotch.store.upkeep import UpkeepIntervals

ROWS = 60


class Store:
    """The state and the lake of a data folder, as a server has them."""

    def __init__(self, root: Path, intervals: UpkeepIntervals | None = None) -> None:
        self.state = State.open(root / "state")
        self.state.create_tables()
        self.lake = Lake.open(root / "lake", intervals=intervals)
        self.totals = LogTotals(self.state, self.lake)
        (root / "credentials.json").write_text("{}")

    def make(self) -> None:
        with self.state.write() as session:
            session.add(LogGroup(id=1, name="g", creation_ms=0, log_class="STANDARD"))
            session.flush()
            session.add(LogStream(id=1, group_id=1, name="s", creation_ms=0))

    def messages(self) -> Counter[str]:
        found = self.lake.events(1, start_ms=0, end_ms=EVER, limit=10_000_000)
        return Counter(found["message"].to_pylist())

    def events_counted(self) -> int:
        with self.state.read() as session:
            stream = session.get(LogStream, 1)
            assert stream is not None
            return stream.events

    def close(self) -> None:
        self.lake.close()
        self.state.close()


def test_a_backup_while_events_come_in_has_all_that_was_acknowledged_before_it(tmp_path: Path) -> None:
    """Merging and cleaning run as fast as they can meanwhile."""
    store = Store(tmp_path / "data", UpkeepIntervals(merge=0.05, clean=0.1, expire=1e9))
    store.make()
    stop = threading.Event()
    acknowledged: list[int] = []

    def put() -> None:
        number = 0
        while not stop.is_set():
            events = numbered(ROWS if number % 2 else 3, number * ROWS, BASE_MS + number)
            store.lake.submit(1, 1, events, 0, b"%d" % number).result()
            acknowledged.append(number)
            number += 1

    writer = threading.Thread(target=put)
    writer.start()
    for copy in range(3):
        until = time.monotonic() + 60
        while len(acknowledged) < 15 * (copy + 1) and time.monotonic() < until:
            time.sleep(0.01)
        before = list(acknowledged)
        back_up(tmp_path / "data", tmp_path / f"copy{copy}", 1_700_000_000)
        restore(tmp_path / f"copy{copy}", tmp_path / f"other{copy}")
        restored = Store(tmp_path / f"other{copy}")
        found = restored.messages()
        assert all(count == 1 for count in found.values())
        for number in before:
            rows = ROWS if number % 2 else 3
            assert all(f"m{number * ROWS + row}" in found for row in range(rows)), number
        assert restored.events_counted() == sum(found.values())
        # It goes on from there: upkeep, and a batch that it has is known.
        restored.lake.upkeep().result()
        again = numbered(3, 0, BASE_MS)
        assert restored.lake.submit(1, 1, again, 0, b"0").result().duplicate
        assert restored.messages() == found
        restored.close()
    stop.set()
    writer.join()
    store.close()


def test_a_store_that_is_there_is_replaced_only_when_asked_for(tmp_path: Path) -> None:
    for name, message in (("one", 1), ("two", 2)):
        store = Store(tmp_path / name)
        store.make()
        store.lake.submit(1, 1, numbered(message), 0).result()
        store.close()
    back_up(tmp_path / "one", tmp_path / "copy", 0)
    with pytest.raises(InputError, match="already"):
        back_up(tmp_path / "one", tmp_path / "copy", 0)
    with pytest.raises(InputError, match="already"):
        restore(tmp_path / "copy", tmp_path / "two")
    store = Store(tmp_path / "two")
    assert sum(store.messages().values()) == 2
    store.close()
    restore(tmp_path / "copy", tmp_path / "two", force=True)
    store = Store(tmp_path / "two")
    assert sum(store.messages().values()) == store.events_counted() == 1
    store.close()
    assert not [path.name for path in (tmp_path / "two").iterdir() if path.name.startswith(".")]


def test_what_is_in_buckets_comes_along_where_it_is_wanted(tmp_path: Path) -> None:
    store = Store(tmp_path / "one")
    store.make()
    store.close()
    folder = tmp_path / "one" / "buckets" / "b" / "AWSLogs" / "2026"
    folder.mkdir(parents=True)
    (folder / "a.log.gz").write_bytes(b"records")
    (folder / ".0123456789abcdef.part").write_bytes(b"an upload that has not ended")
    made = back_up(tmp_path / "one", tmp_path / "copy", 0)
    assert (made.bucket_files, made.bucket_bytes) == (1, 7)
    restore(tmp_path / "copy", tmp_path / "other")
    found = [path.relative_to(tmp_path / "other") for path in (tmp_path / "other" / "buckets").rglob("*.*")]
    assert found == [Path("buckets/b/AWSLogs/2026/a.log.gz")]
    (tmp_path / "copy/buckets/b/AWSLogs/2026/a.log.gz").write_bytes(b"record")
    with pytest.raises(InputError, match="a file of buckets is missing or cut short"):
        restore(tmp_path / "copy", tmp_path / "another")
    back_up(tmp_path / "one", tmp_path / "without", 0, buckets=False)
    assert not (tmp_path / "without" / "buckets").exists()
    restore(tmp_path / "without", tmp_path / "one", force=True)
    assert (folder / "a.log.gz").exists(), "a backup without buckets takes none away"


def test_a_folder_of_a_bucket_that_is_merged_while_it_is_copied_is_copied_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "one")
    store.make()
    store.close()
    folder = tmp_path / "one" / "buckets" / "b"
    folder.mkdir(parents=True)
    for name in ("a", "b"):
        (folder / name).write_text(name)
    right = shutil.copy2

    def merged_meanwhile(source: Path, target: Path) -> object:
        if Path(source).parent == folder and (folder / "a").exists():
            (folder / "merged").write_text("ab")
            for name in ("a", "b"):
                (folder / name).unlink()
        return right(source, target)

    monkeypatch.setattr(shutil, "copy2", merged_meanwhile)
    back_up(tmp_path / "one", tmp_path / "copy", 0)
    assert [path.name for path in (tmp_path / "copy" / "buckets" / "b").iterdir()] == ["merged"]


def test_a_backup_of_a_later_release_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path / "one")
    store.make()
    store.close()
    back_up(tmp_path / "one", tmp_path / "copy", 0)
    with sqlite3.connect(tmp_path / "copy" / "state" / "state.sqlite") as database:
        database.execute("UPDATE alembic_version SET version_num = '0999'")
    with pytest.raises(InputError, match=r"later release of vnotch.*0999"):
        restore(tmp_path / "copy", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_what_is_no_whole_backup_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no log store"):
        back_up(tmp_path, tmp_path / "copy", 0)
    with pytest.raises(InputError, match="no backup"):
        restore(tmp_path, tmp_path / "other")
    store = Store(tmp_path / "one")
    store.make()
    store.lake.submit(1, 1, numbered(1000), 0).result()
    store.close()
    back_up(tmp_path / "one", tmp_path / "copy", 0)
    (file,) = (tmp_path / "copy/lake/data").rglob("*.parquet")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match="cut short"):
        restore(tmp_path / "copy", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_file_that_goes_while_it_is_copied_makes_the_copy_begin_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "one")
    store.make()
    store.lake.submit(1, 1, numbered(1000), 0).result()
    store.close()
    copies = [0]
    right = backup._copy_database

    def first_is_stale(source: Path, target: Path) -> None:
        right(source, target)
        copies[0] += 1
        if copies[0] == 1:
            with sqlite3.connect(target) as catalog:
                catalog.execute("UPDATE ducklake_data_file SET path = 'gone.parquet'")

    monkeypatch.setattr(backup, "_copy_database", first_is_stale)
    back_up(tmp_path / "one", tmp_path / "copy", 0)
    assert copies[0] == 3  # the catalog twice, the state
    restore(tmp_path / "copy", tmp_path / "other")
    store = Store(tmp_path / "other")
    assert sum(store.messages().values()) == 1000
    store.close()

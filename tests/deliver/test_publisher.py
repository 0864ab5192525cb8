"""From the spool into files: when, how large, and what becomes of what cannot be read or written."""

from __future__ import annotations

import errno
import gzip
import io
import os
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vnotch.deliver import publisher
from vnotch.deliver.batch import Batch
from vnotch.deliver.outbox import Outbox, SlotFile
from vnotch.deliver.publisher import FIRST_SECONDS, GRACE_SECONDS, Publisher
from vnotch.deliver.spool import Spool
from vnotch.fields import DEFAULT_FORMAT, parse_format
from vnotch.line import parse_lines, record_lines

FORMAT = parse_format(DEFAULT_FORMAT)
SLOT = 1_700_000_100
"""A multiple of 300."""


def records(count: int, seed: int = 0) -> pa.Table:
    """Records with addresses and counters that do not compress away."""
    draw = random.Random(seed)
    lines = [
        f"2 123456789012 eni-1 {draw.randrange(256)}.{draw.randrange(256)}.{draw.randrange(256)}.{draw.randrange(256)} "
        f"10.0.0.5 {draw.randrange(65536)} 443 6 {draw.randrange(10**9)} {draw.randrange(10**12)} {SLOT} "
        f"{SLOT + draw.randrange(300)} ACCEPT OK"
        for _ in range(count)
    ]
    return parse_lines(pa.array(lines), FORMAT)


class Place:
    """Spool, outbox and publisher of one agent."""

    def __init__(self, folder: Path, incarnation: str = "one", **bounds: int) -> None:
        self.now_s = float(SLOT)
        self.intervals: dict[str, int] | None = {"fl-1": 60, "fl-2": 60}
        self.folder, self.incarnation, self.bounds = folder, incarnation, bounds
        self.commit = 0
        self.open()

    def open(self) -> None:
        self.outbox = Outbox(self.folder / "uploads")
        bounds = {"bytes_max": 10**9, "seconds_max": 86_400, **self.bounds}
        self.spool = Spool(self.folder / "spool", complete_commit=10**9, taken=self.outbox.taken, **bounds)
        self.outbox.count_in(self.spool.dropped)
        self.spool.annex = self.outbox
        self.publisher = Publisher(
            self.spool, self.outbox, self.folder, self.incarnation, lambda: self.intervals, now_s=lambda: self.now_s
        )

    def write(self, table: pa.Table, flow_log: str = "fl-1", slot_s: int = SLOT, **more: Any) -> None:
        self.commit += 1
        stream = more.pop("stream", "eni-1-all")
        batch = Batch(
            f"b{self.commit}", flow_log, "", stream, "", table, packets=7, bytes=70, slot_s=slot_s,
            file_format=more.pop("file_format", "plain-text"), log_format=DEFAULT_FORMAT,
        )  # fmt: skip
        self.spool.write(self.commit, [batch], self.now_s)
        self.spool.release(self.commit)

    def begin(self) -> None:
        """The first files are made, so that the others wait for their slots."""
        for flow_log in ("fl-1", "fl-2"):
            self.write(records(1), flow_log, SLOT - 300)
        self.publisher.publish(everything=True)
        for file in self.files():
            self.outbox.discard(file, "test")

    def files(self) -> list[SlotFile]:
        return list(self.outbox._files)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path)
    made.begin()
    return made


def lines_of(file: SlotFile) -> list[str]:
    header, *lines = gzip.decompress(file.path.read_bytes()).decode().splitlines()
    assert header == FORMAT.header
    return lines


# --- when ---


@pytest.mark.parametrize(
    ("interval", "complete_s"),
    [
        (60, SLOT + 300),
        (300, SLOT + 300),
        (7, -(-(SLOT + 300) // 7) * 7),
        # A window of ten minutes with records that end in the slot closes up to five minutes after it.
        (600, -(-(SLOT + 300) // 600) * 600),
        (900, -(-(SLOT + 300) // 900) * 900),
    ],
)
def test_a_slot_is_published_when_its_last_window_has_closed(place: Place, interval: int, complete_s: int) -> None:
    place.intervals = {"fl-1": interval}
    place.write(records(3))
    place.now_s = complete_s + GRACE_SECONDS - 0.5
    assert place.publisher.publish() == 0
    place.now_s = complete_s + GRACE_SECONDS
    assert place.publisher.publish() == 1
    [file] = place.files()
    assert (file.flow_log_id, file.slot_s, file.records) == ("fl-1", SLOT, 3)


def test_the_first_file_of_a_flow_log_is_made_at_once_and_only_the_first(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.write(records(2))
    place.now_s += FIRST_SECONDS - 0.5
    assert place.publisher.publish() == 0
    place.now_s += 1
    assert place.publisher.publish() == 1
    place.write(records(2))
    place.now_s += 60
    assert place.publisher.publish() == 0
    place.open()
    assert place.publisher.publish() == 0, "also over a restart"


def test_late_records_make_a_further_file_of_their_slot(place: Place) -> None:
    place.write(records(2, 1))
    place.now_s = SLOT + 400
    place.publisher.publish()
    place.write(records(3, 2))
    place.publisher.publish()
    names = {(file.slot_s, file.name_hash): file.records for file in place.files()}
    assert sorted(names.values()) == [2, 3]
    assert {slot for slot, _ in names} == {SLOT}


def test_a_flow_log_without_an_interface_here_is_not_waited_for(place: Place) -> None:
    place.write(records(2))
    place.intervals = {"fl-2": 60}
    assert place.publisher.publish() == 1


def test_before_a_configuration_is_known_slots_end_by_themselves(place: Place) -> None:
    place.intervals = None
    place.write(records(2))
    place.now_s = SLOT + 301
    assert place.publisher.publish() == 0
    place.now_s = SLOT + 306
    assert place.publisher.publish() == 1


def test_flow_logs_and_slots_have_files_of_their_own(place: Place) -> None:
    for flow_log, slot in (("fl-1", SLOT), ("fl-2", SLOT), ("fl-1", SLOT + 300)):
        for number in range(3):
            place.write(records(number + 1, number), flow_log, slot, stream=f"eni-{number}-all")
    place.publisher.publish(everything=True)
    assert {(file.flow_log_id, file.slot_s, file.records) for file in place.files()} == {
        ("fl-1", SLOT, 6), ("fl-2", SLOT, 6), ("fl-1", SLOT + 300, 6),
    }  # fmt: skip
    assert set(place.files()[0].streams) == {"eni-0-all", "eni-1-all", "eni-2-all"}


def test_no_two_agents_and_no_two_files_have_one_name(tmp_path: Path) -> None:
    hashes = []
    for incarnation in ("one", "two"):
        place = Place(tmp_path / incarnation, incarnation)
        for number in range(5):
            place.write(records(1, number))
            place.publisher.publish(everything=True)
        hashes += [file.name_hash for file in place.files()]
    assert len(set(hashes)) == 10
    assert all(len(name) == 8 for name in hashes)


# --- how large ---


def test_no_file_is_larger_than_the_bound_and_no_record_is_lost_or_doubled(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound = 1_000_000
    monkeypatch.setattr(publisher, "FILE_BYTES_MAX", bound)
    wanted = []
    for number in range(25):
        table = records(2000, number)
        wanted += record_lines(table, FORMAT).to_pylist()
        place.write(table)
    place.publisher.publish(everything=True)
    files = place.files()
    assert len(files) > 3
    assert all(file.size == file.path.stat().st_size <= bound for file in files)
    assert sorted(line for file in files for line in lines_of(file)) == sorted(wanted)
    assert len({file.name_hash for file in files}) == len(files)
    assert place.spool.counters()["batches"] == 0


def test_a_batch_that_alone_exceeds_the_bound_is_a_file(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "FILE_BYTES_MAX", 1000)
    for number in range(2):
        place.write(records(100, number))
    place.publisher.publish(everything=True)
    assert [file.records for file in place.files()] == [100, 100]


def test_parquet_has_awss_columns_and_groups_of_many_batches(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "ROW_GROUP_ROWS", 50)
    wanted = []
    for number in range(12):
        table = records(20, number)
        wanted += table.to_pylist()
        place.write(table, file_format="parquet")
    place.publisher.publish(everything=True)
    [file] = place.files()
    read = pq.ParquetFile(io.BytesIO(file.path.read_bytes()))
    assert [read.metadata.row_group(i).num_rows for i in range(read.num_row_groups)] == [40] * 6
    found = read.read().to_pylist()
    assert sorted(found, key=str) == sorted(wanted, key=str)
    assert read.schema_arrow.names == list(FORMAT.columns)
    assert [str(column) for column in read.schema_arrow.types] == [str(item.type) for item in FORMAT.fields]


def test_parquet_rotates_too(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "ROW_GROUP_ROWS", 2000)
    monkeypatch.setattr(publisher, "BUFFERED_BYTES", 50_000)
    monkeypatch.setattr(publisher, "FILE_BYTES_MAX", 500_000)
    for number in range(20):
        place.write(records(1000, number), file_format="parquet")
    place.publisher.publish(everything=True)
    files = place.files()
    assert len(files) > 1
    assert all(file.size <= 500_000 for file in files)
    assert sum(pq.read_metadata(file.path).num_rows for file in files) == 20_000


# --- what goes wrong ---


def test_a_damaged_batch_is_counted_and_the_others_are_in_the_file(place: Place) -> None:
    for number in range(4):
        place.write(records(2, number), stream=f"eni-{number}-all")
    entries = sorted((place.folder / "spool").glob("*.arrow"))
    for damaged in (entries[0], entries[2]):
        damaged.write_bytes(b"\0" * damaged.stat().st_size)
    place.publisher.publish(everything=True)
    [file] = place.files()
    assert set(file.streams) == {"eni-1-all", "eni-3-all"}
    assert len(lines_of(file)) == 4
    lost = {(item["stream"], item["reason"], item["packets"]) for item in place.spool.counters()["dropped"]}
    assert lost - {("eni-1-all", "test", 7)} == {("eni-0-all", "damaged", 7), ("eni-2-all", "damaged", 7)}
    assert place.spool.counters()["batches"] == 0


def test_a_disk_that_is_full_keeps_the_batches_and_is_tried_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.write(records(5))
    fsync = os.fsync

    def full(descriptor: int) -> None:
        if "uploads" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert place.publisher.publish(everything=True) == 0
        assert place.publisher.error is not None
        assert "No space left" in place.publisher.error
        assert place.spool.counters()["gathering"] == 1
        assert list((place.folder / "uploads").iterdir()) == []
    assert place.publisher.publish(everything=True) == 1
    assert place.publisher.error is None
    assert len(lines_of(place.files()[0])) == 5


def test_bytes_of_files_count_under_the_spools_bound_oldest_first(tmp_path: Path) -> None:
    place = Place(tmp_path, bytes_max=60_000)
    for number in range(10):
        place.now_s += 1
        place.write(records(300, number), stream=f"eni-{number}-all")
        place.publisher.publish(everything=True)
    assert place.outbox.size + place.spool.size <= 60_000 + 20_000, "the last file came after the last look"
    place.spool.expire(place.now_s)
    assert place.outbox.size + place.spool.size <= 60_000
    dropped = place.spool.counters()["dropped"]
    assert {item["reason"] for item in dropped} == {"spool-full"}
    left = {stream for file in place.files() for stream in file.streams}
    assert {item["stream"] for item in dropped} | left == {f"eni-{number}-all" for number in range(10)}
    assert min(left) > max(item["stream"] for item in dropped), "the oldest went first"
    assert place.spool.dropped.untold("fl-1", "eni-0-all") == (7, 70), "and a SKIPDATA record will tell of it"


def test_a_file_that_is_too_old_is_dropped_and_one_under_way_is_not(tmp_path: Path) -> None:
    place = Place(tmp_path, seconds_max=1000)
    for number in range(2):
        place.write(records(1, number))
        place.publisher.publish(everything=True)
    [leased] = place.outbox.lease("fl-1")
    place.spool.expire(place.now_s + 2000)
    assert place.files() == [leased]
    assert [item["reason"] for item in place.spool.counters()["dropped"]] == ["spool-expired"]


def test_what_lies_damaged_in_the_outbox_is_counted_at_the_start(place: Place) -> None:
    for number in range(3):
        place.write(records(2, number), stream=f"eni-{number}-all")
        place.publisher.publish(everything=True)
    cut, gone, whole = sorted(place.files(), key=lambda file: list(file.streams))
    cut.path.write_bytes(cut.path.read_bytes()[:-1])
    gone.path.with_suffix(".json").write_text("{")
    (place.folder / "uploads" / "fl-9,1,00000000.data").write_bytes(b"never described")
    (place.folder / "uploads" / ".fl-9,1,00000000.json").write_text("half a description")
    place.open()
    assert [file.name_hash for file in place.files()] == [whole.name_hash]
    assert place.outbox.damaged_files == 2
    assert ("eni-0-all", "damaged") in {(i["stream"], i["reason"]) for i in place.spool.counters()["dropped"]}
    names = {path.name.partition(".")[2] for path in (place.folder / "uploads").iterdir()}
    assert names == {"data", "json", "data.damaged", "json.damaged"}, "what cannot be read may be looked at"


def test_a_file_is_renamed_over_a_restart_too(place: Place) -> None:
    place.write(records(2))
    place.publisher.publish(everything=True)
    [leased] = place.outbox.lease("fl-1")
    place.outbox.rename(leased)
    [renamed] = place.outbox.lease("fl-1")
    assert renamed.name_hash != leased.name_hash
    assert (renamed.sha256, renamed.streams, renamed.path) == (leased.sha256, leased.streams, leased.path)
    place.open()
    assert place.files() == [renamed]
    assert len(place.outbox.taken) == 1
    [again] = place.outbox.lease("fl-1")
    place.outbox.acknowledge(again)
    assert list((place.folder / "uploads").iterdir()) == []

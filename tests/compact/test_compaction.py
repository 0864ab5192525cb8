"""Merging the files of a local tree: nothing lost, nothing twice, whatever happens meanwhile."""

from __future__ import annotations

import gzip
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from asking import HEADER, ask
from flow_log_trees import (
    DAY,
    SOMEONE_GONE,
    compacted,
    fill,
    line,
    lines_of,
    many,
    name,
    names_in,
    parquet_file,
    text_file,
)

from vnotch.bucket_keys import parse_name
from vnotch.bucket_replacement import REPLACEMENT_NAME, Merge, Old, Replacement
from vnotch.compact import compaction, merging
from vnotch.compact.owner import is_gone, this_process
from vnotch.compact.trees import FolderTree, Found, open_tree
from vnotch.errors import HostError, InputError
from vnotch.query.problems import Problem, Problems

COUNT = "select count(*) from flow_logs"


@pytest.mark.parametrize("suffix", [".log.gz", ".log.parquet"])
def test_small_files_of_a_slot_become_one_with_all_their_records(tmp_path: Path, suffix: str):
    fill(tmp_path / DAY, many(7, 20, suffix))
    before = lines_of(tmp_path)
    result = compacted(FolderTree(tmp_path))
    (made,) = names_in(tmp_path / DAY)
    assert lines_of(tmp_path) == before
    assert sum(before.values()) == 140
    assert parse_name(made) == parse_name(name("20260131T1200Z", "00000000", suffix))
    assert made.endswith(suffix)
    (merged,) = result.merged
    assert (merged.into, merged.files, merged.records) == (made, 7, 140)
    assert merged.bytes_after == (tmp_path / DAY / made).stat().st_size


def test_merged_parquet_keeps_columns_and_types_and_is_in_order(tmp_path: Path):
    files = many(3, 50, ".log.parquet")
    fill(tmp_path / DAY, files)
    first = tmp_path / DAY / next(iter(files))
    schema = pq.read_schema(first)
    compacted(FolderTree(tmp_path))
    (made,) = (tmp_path / DAY).iterdir()
    table = pq.read_table(made, partitioning=None)
    assert table.schema == schema.remove_metadata()
    rows = list(zip(table["interface_id"].to_pylist(), table["start"].to_pylist(), strict=True))
    assert rows == sorted(rows)


def test_merging_parquet_needs_memory_for_one_row_group_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Row groups are cut although they come from many files."""
    monkeypatch.setattr(merging, "ROW_GROUP_ROWS", 64)
    monkeypatch.setattr(merging, "_BATCH_ROWS", 10)
    fill(tmp_path / DAY, many(5, 50, ".log.parquet"))
    before = lines_of(tmp_path)
    compacted(FolderTree(tmp_path))
    (made,) = (tmp_path / DAY).iterdir()
    metadata = pq.read_metadata(made)
    assert [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)] == [64, 64, 64, 58]
    assert lines_of(tmp_path) == before


def test_a_repeat_changes_nothing(tmp_path: Path):
    fill(tmp_path / DAY, many(4, 5))
    compacted(FolderTree(tmp_path), older_than_seconds=0)
    made = {path: path.read_bytes() for path in (tmp_path / DAY).iterdir()}
    assert compacted(FolderTree(tmp_path), older_than_seconds=0).merged == []
    assert {path: path.read_bytes() for path in (tmp_path / DAY).iterdir()} == made


def test_only_files_of_one_slot_flow_log_kind_and_format_are_merged(tmp_path: Path):
    custom = text_file(["10.0.0.1 1769860860"], "srcaddr end")
    files = {
        name("20260131T1200Z", "00000001"): text_file([line(1)]),
        name("20260131T1205Z", "00000001"): text_file([line(2)]),
        name("20260131T1200Z", "00000001", flow_log="fl-99999999"): text_file([line(3)]),
        name("20260131T1200Z", "00000001", ".log.parquet"): parquet_file([line(4)]),
        name("20260131T1200Z", "00000002"): custom,
    }
    fill(tmp_path / DAY, files)
    fill(tmp_path / DAY.replace("31", "30"), {name("20260131T1200Z", "00000003"): text_file([line(5)])})
    result = compacted(FolderTree(tmp_path))
    assert result.merged == []
    assert result.alone == 6
    assert names_in(tmp_path / DAY) == sorted(files)


def test_a_span_merges_slots_and_the_name_says_how_many(tmp_path: Path):
    for minutes in range(0, 60, 5):
        ended = line(minutes).replace("1769860860", str(1769860860 + 60 * minutes))
        fill(tmp_path / DAY, {name(f"20260131T12{minutes:02d}Z", "0000000a"): text_file([ended])})
    fill(tmp_path / DAY, {name("20260131T1300Z", "0000000a"): text_file([line(99)])})
    before = lines_of(tmp_path)
    compacted(FolderTree(tmp_path), span_seconds=3600)
    merged, alone = names_in(tmp_path / DAY)
    assert alone == name("20260131T1300Z", "0000000a")
    found = parse_name(merged)
    assert found is not None
    assert found.slots == 12
    assert lines_of(tmp_path) == before
    # A question about its last slot finds it, by a name that begins an hour before.
    assert ask(COUNT, tmp_path, since="2026-01-31T12:55Z", until="2026-01-31T13:00Z").values == [1]


def test_formats_without_a_time_stay_in_their_slots(tmp_path: Path):
    """The name of their file is all that says when they were."""
    undated = text_file(["10.0.0.1 10.0.0.2"], "srcaddr dstaddr")
    fill(tmp_path / DAY, {name("20260131T1200Z", "0000000a"): undated, name("20260131T1205Z", "0000000a"): undated})
    assert compacted(FolderTree(tmp_path), span_seconds=86_400).merged == []


def test_new_files_large_files_and_other_files_stay(tmp_path: Path):
    files = many(2, 5)
    fill(tmp_path / DAY, files, age_seconds=3600)
    other = {"notes.txt": b"x", "a.log.gz": text_file([line(1)]), "b.log.gz": text_file([line(2)])}
    fill(tmp_path / DAY, other)
    result = compacted(FolderTree(tmp_path))
    assert (result.merged, result.large_or_new, result.other) == ([], 2, 3)
    size = max(map(len, files.values()))
    assert compacted(FolderTree(tmp_path), older_than_seconds=60, target_bytes=size).merged == []
    assert names_in(tmp_path / DAY) == sorted([*files, *other])


def test_merged_files_have_about_the_size_that_was_asked_for(tmp_path: Path):
    files = many(10, 50)
    fill(tmp_path / DAY, files)
    size = max(map(len, files.values()))
    before = lines_of(tmp_path)
    result = compacted(FolderTree(tmp_path), target_bytes=3 * size)
    assert [merged.files for merged in result.merged] == [3, 3, 3]
    assert lines_of(tmp_path) == before


def test_a_dry_run_changes_nothing(tmp_path: Path):
    fill(tmp_path / DAY, many(3, 5))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / DAY).iterdir()}
    (merged,) = compacted(FolderTree(tmp_path), dry_run=True).merged
    assert (merged.files, merged.records) == (3, None)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / DAY).iterdir()} == before


@pytest.mark.parametrize("suffix", [".log.gz", ".log.parquet"])
def test_a_file_that_cannot_be_read_stays_and_is_named_and_the_others_are_merged(tmp_path: Path, suffix: str):
    files = many(4, 200, suffix)
    bad = name("20260131T1200Z", "00000002", suffix)
    files[bad] = files[bad][: len(files[bad]) // 2]
    fill(tmp_path / DAY, files)
    problems = Problems()
    compacted(FolderTree(tmp_path), problems)
    kind = Problem.TRUNCATED if suffix == ".log.gz" else Problem.DAMAGED_PARQUET
    assert [Path(item.file).name for item in problems.of(kind)] == [bad]
    assert (tmp_path / DAY / bad).read_bytes() == files[bad]
    assert len(names_in(tmp_path / DAY)) == 2
    (tmp_path / DAY / bad).unlink()
    assert sum(lines_of(tmp_path).values()) == 600


def test_a_parquet_file_with_damage_inside_stays(tmp_path: Path):
    files = many(3, 200, ".log.parquet")
    bad = name("20260131T1200Z", "00000001", ".log.parquet")
    files[bad] = files[bad][:100] + b"\xff" * 200 + files[bad][300:]
    fill(tmp_path / DAY, files)
    problems = Problems()
    compacted(FolderTree(tmp_path), problems)
    assert [Path(item.file).name for item in problems.of(Problem.DAMAGED_PARQUET)] == [bad]
    assert (tmp_path / DAY / bad).read_bytes() == files[bad]


def test_text_without_a_header_and_columns_of_other_types_stay(tmp_path: Path):
    headless = many(2, 3)
    files = {file: text_file([line(1)], line(0)) for file in headless}
    fill(tmp_path / DAY, files)
    problems = Problems()
    assert compacted(FolderTree(tmp_path), problems).merged == []
    assert len(problems.of(Problem.NO_FORMAT)) == 2


def test_lines_are_kept_as_they_are(tmp_path: Path):
    odd = ["2 123 too few", "\x1b[31mred", "", line(1)]
    first, second = (name("20260131T1200Z", f"0000000{number}") for number in range(2))
    fill(tmp_path / DAY, {first: text_file(odd), second: text_file([line(2)])})
    compacted(FolderTree(tmp_path))
    assert lines_of(tmp_path) == Counter([*odd, line(2)])


def test_a_file_with_a_second_header_line_of_other_columns_stays(tmp_path: Path):
    """Merged, it would decide what the columns of the files behind it are."""
    swapped = HEADER.replace("srcaddr dstaddr", "dstaddr srcaddr")
    names = [name("20260131T1200Z", f"0000000{number}") for number in range(4)]
    joined = text_file([line(1), swapped, line(2)])
    files = {names[0]: text_file([line(0)]), names[1]: joined, names[2]: text_file([line(3), HEADER, line(4)])}
    files[names[3]] = text_file([swapped, line(5)])
    fill(tmp_path / DAY, files)
    problems = Problems()
    done = compacted(FolderTree(tmp_path), problems)
    assert [merged.files for merged in done.merged] == [2]
    assert [Path(item.file).name for item in problems.of(Problem.BAD_HEADER)] == [names[1], names[3]]
    assert (tmp_path / DAY / names[1]).read_bytes() == joined
    assert len(names_in(tmp_path / DAY)) == 3


def test_a_last_line_without_its_end_stays_a_line(tmp_path: Path):
    files = {
        name("20260131T1200Z", f"0000000{number}"): gzip.compress(f"{HEADER}\n{line(number)}".encode())
        for number in range(3)
    }
    fill(tmp_path / DAY, files)
    compacted(FolderTree(tmp_path))
    assert lines_of(tmp_path) == Counter([line(0), line(1), line(2)])


class _Killed(BaseException):
    pass


class Fragile(FolderTree):
    """Dies at the n-th change, before or after it is made, as a process that is killed: nothing is tidied up."""

    def __init__(self, top: Path, dies_at: int, after: bool) -> None:
        super().__init__(top)
        self.left = dies_at
        self._after = after

    def _change(self, make: Any) -> Any:
        self.left -= 1
        if self.left < 0 or (self.left == 0 and not self._after):
            raise _Killed
        result = make()
        if self.left == 0:
            raise _Killed
        return result

    def publish(self, scratch: Path, key: str) -> bool:
        return bool(self._change(lambda: super(Fragile, self).publish(scratch, key)))

    def put(self, key: str, data: bytes) -> None:
        self._change(lambda: super(Fragile, self).put(key, data))

    def delete(self, folder: str, names: Sequence[str]) -> None:
        for item in names:
            self._change(lambda item=item: super(Fragile, self).delete(folder, [item]))


@pytest.mark.parametrize("suffix", [".log.gz", ".log.parquet"])
@pytest.mark.parametrize("after", [False, True])
def test_a_kill_at_any_point_loses_and_doubles_nothing(
    tmp_path: Path, suffix: str, after: bool, monkeypatch: pytest.MonkeyPatch
):
    """vnotch's own questions are right at every point, any reader is after the next run."""
    monkeypatch.setattr(compaction, "is_gone", lambda owner: owner == SOMEONE_GONE)
    files = {**many(3, 4, suffix), **many(3, 4, suffix, "20260131T1205Z")}
    expected: Counter[str] | None = None
    for dies_at in range(1, 100):
        top = tmp_path / f"{dies_at}"
        fill(top / DAY, files)
        expected = expected or lines_of(top)
        tree = Fragile(top, dies_at, after)
        try:
            compacted(tree, owner=SOMEONE_GONE)
        except _Killed:
            killed = True
        else:
            killed = False
        count = ask(COUNT, top)
        assert count.values == [sum(expected.values())], f"after {dies_at} changes"
        assert not count.problems
        assert set(lines_of(top)) == set(expected), "any reader has every record at every point"
        compacted(FolderTree(top), older_than_seconds=0)
        assert lines_of(top) == expected, f"after {dies_at} changes and a repeat"
        assert len(names_in(top / DAY)) == 2
        if not killed:
            assert dies_at > 10
            return
    raise AssertionError("it never came to its end")


def test_scratch_files_of_a_killed_run_are_removed_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compaction, "is_gone", lambda owner: True)
    fill(tmp_path / DAY, many(3, 4))
    (tmp_path / DAY / ".vnotch-abc.part").write_bytes(b"half")
    (tmp_path / DAY / REPLACEMENT_NAME).write_bytes(Replacement((), SOMEONE_GONE, 0).to_bytes())
    compacted(FolderTree(tmp_path))
    assert len(names_in(tmp_path / DAY)) == 1


def test_a_folder_in_which_another_run_works_is_left_alone(tmp_path: Path):
    files = many(3, 4)
    fill(tmp_path / DAY, files)
    said = Replacement((), this_process(), 1 << 40)
    (tmp_path / DAY / REPLACEMENT_NAME).write_bytes(said.to_bytes())
    result = compacted(FolderTree(tmp_path), owner="another")
    assert result.busy == [DAY]
    assert names_in(tmp_path / DAY) == sorted([*files, REPLACEMENT_NAME])


def test_files_that_another_run_merges_after_they_were_listed_are_no_problem(tmp_path: Path):
    fill(tmp_path / DAY, many(3, 4))

    class Late(FolderTree):
        def files(self) -> Iterator[Found]:
            found = list(super().files())
            compacted(FolderTree(tmp_path))
            yield from found

    problems = Problems()
    result = compacted(Late(tmp_path), problems=problems)
    assert not problems
    assert (result.gone, result.alone, result.merged) == (3, 0, [])
    assert len(names_in(tmp_path / DAY)) == 1


def test_the_work_of_another_host_is_taken_over_when_its_time_is_over(tmp_path: Path):
    fill(tmp_path / DAY, many(3, 4))
    (tmp_path / DAY / REPLACEMENT_NAME).write_bytes(Replacement((), SOMEONE_GONE, 1).to_bytes())
    result = compacted(FolderTree(tmp_path))
    assert result.ended == [DAY]
    assert len(names_in(tmp_path / DAY)) == 1


def test_a_process_is_gone_when_its_pid_is_anothers():
    mine = this_process()
    assert not is_gone(mine)
    assert is_gone(mine.rpartition(" ")[0] + " 1")
    assert not is_gone(SOMEONE_GONE), "of another host nothing is known"


def test_a_file_that_changes_while_it_is_merged_stays(tmp_path: Path):
    files = many(3, 4)
    fill(tmp_path / DAY, files)
    changed = tmp_path / DAY / name("20260131T1200Z", "00000001")

    class Busy(FolderTree):
        def scratch(self, folder: str) -> Path:
            changed.write_bytes(text_file([line(77)]))
            return super().scratch(folder)

    problems = Problems()
    assert compacted(Busy(tmp_path), problems).merged == []
    assert problems.of(Problem.UNREADABLE)
    assert names_in(tmp_path / DAY) == sorted(files)


def test_a_run_whose_folder_was_taken_over_stops(tmp_path: Path):
    fill(tmp_path / DAY, many(3, 4))

    class TakenOver(FolderTree):
        def find(self, folder: str, names: Sequence[str]) -> dict[str, Found]:
            (self._top / folder / REPLACEMENT_NAME).write_bytes(Replacement((), "another", 1 << 40).to_bytes())
            return super().find(folder, names)

    before = lines_of(tmp_path)
    with pytest.raises(HostError, match="no longer ours"):
        compacted(TakenOver(tmp_path))
    assert lines_of(tmp_path) == before


def test_readers_meanwhile_miss_and_double_nothing(tmp_path: Path):
    """Or they say that they do: a file that went between listing and reading is named."""
    for minutes in range(0, 60, 5):
        fill(tmp_path / DAY, many(8, 3, time=f"20260131T12{minutes:02d}Z"))
    done = threading.Event()
    silent: list[int] = []
    asked = 0

    def read() -> None:
        nonlocal asked
        while not done.is_set() or not asked:
            found = ask(COUNT, tmp_path)
            asked += 1
            if not found.problems and found.values != [288]:
                silent.append(found.values[0])

    reader = threading.Thread(target=read)
    reader.start()
    try:
        compacted_with_pauses(tmp_path)
    finally:
        done.set()
        reader.join()
    assert asked
    assert silent == []
    assert ask(COUNT, tmp_path).values == [288]


def compacted_with_pauses(top: Path) -> None:
    class Slow(FolderTree):
        def delete(self, folder: str, names: Sequence[str]) -> None:
            for item in names:
                super().delete(folder, [item])
                time.sleep(0.005)

    run = compaction.Compaction(Slow(top), compaction.Settings(), Problems(), compaction.Progress())
    run._sleep = lambda seconds: time.sleep(min(seconds, 2.0))
    run.run()


def test_links_are_not_followed(tmp_path: Path):
    outside = tmp_path / "outside"
    fill(outside / DAY, many(3, 2))
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "AWSLogs").symlink_to(outside / "AWSLogs")
    fill(inside / "x", {name("20260131T1200Z", "00000001"): text_file([line(1)])})
    os.symlink(inside / "x" / name("20260131T1200Z", "00000001"), inside / "x" / name("20260131T1200Z", "00000002"))
    result = compacted(FolderTree(inside))
    assert result.merged == []
    assert len(names_in(outside / DAY)) == 3


@pytest.mark.parametrize("folder", ["a b", "100%", "üñ/日本", "AWSLogs/AWSLogs", "x%2Fy", "..."])
def test_folders_may_have_any_name(tmp_path: Path, folder: str):
    fill(tmp_path / folder / DAY, many(3, 2))
    compacted(open_tree(str(tmp_path)))
    assert len(names_in(tmp_path / folder / DAY)) == 1


def test_what_says_what_replaces_what_never_means_another_folder(tmp_path: Path):
    said = Replacement((Merge("../x", (Old("y", 1, "z"),)),), "o", 1).to_bytes()
    with pytest.raises(InputError, match="not in its folder"):
        Replacement.parse(said)
    for damaged in (b"", b"[]", b'{"merges": 1}', b"\xff"):
        with pytest.raises(InputError):
            Replacement.parse(damaged)


def test_a_question_names_a_replacement_that_it_cannot_read(tmp_path: Path):
    fill(tmp_path / DAY, many(2, 2) | {REPLACEMENT_NAME: b"{"})
    found = ask(COUNT, tmp_path)
    assert found.values == [4]
    assert [Path(item.file).name for item in found.problems.of(Problem.UNREADABLE)] == [REPLACEMENT_NAME]


@pytest.mark.parametrize("source", ["/nowhere/at/all", "file://elsewhere/x", "file:///nowhere/at/all"])
def test_what_is_no_folder_is_refused(source: str):
    with pytest.raises(InputError):
        open_tree(source)


def test_a_file_url_is_a_folder(tmp_path: Path):
    (tmp_path / "a b").mkdir()
    fill(tmp_path / "a b" / DAY, many(2, 2))
    assert len(list(open_tree(f"file://{tmp_path}/a%20b").files())) == 2


def test_what_was_found_knows_its_folder_and_name():
    found = Found("a/b/c", 1, "t", 0)
    assert (found.folder, found.name) == ("a/b/", "c")
    assert Found("c", 1, "t", 0).folder == ""

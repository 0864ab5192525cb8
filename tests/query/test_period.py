"""Which time a question is about, and which files and folders it leaves out unread."""

from __future__ import annotations

from calendar import timegm
from pathlib import Path

import pytest
from asking import FOLDER, HEADER, HIVE, NAME, ask, write

from vnotch.errors import InputError
from vnotch.query.period import Period
from vnotch.query.problems import Problem

NOW = timegm((2026, 1, 31, 12, 0, 0))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", NOW - 90),
        ("30m", NOW - 1800),
        ("1d", NOW - 86_400),
        ("2w", NOW - 14 * 86_400),
        ("2026-01-30", timegm((2026, 1, 30, 0, 0, 0))),
        ("2026-01-30T18:00Z", timegm((2026, 1, 30, 18, 0, 0))),
        ("2026-01-30T18:00:30+02:00", timegm((2026, 1, 30, 16, 0, 30))),
    ],
)
def test_times_are_read(text: str, expected: int):
    assert Period.parse(text, None, NOW) == Period(expected, None)
    assert Period.parse(None, text, NOW) == Period(None, expected)


@pytest.mark.parametrize("text", ["", "yesterday", "1y", "-1d", "2026-13-01", "1d1h"])
def test_what_is_no_time_is_refused(text: str):
    with pytest.raises(InputError, match="neither a duration nor a time"):
        Period.parse(text, None, NOW)


def test_a_period_that_ends_before_it_begins_is_refused():
    with pytest.raises(InputError, match="not before"):
        Period.parse("1h", "2h", NOW)


def record(end_s: int) -> str:
    return f"2 123456789010 eni-1 10.0.0.1 10.0.0.2 1 2 6 1 40 {end_s - 10} {end_s} ACCEPT OK"


def test_rows_that_end_in_the_period_are_in_it(tmp_path: Path):
    write(tmp_path / "a.log", *(record(NOW + offset) for offset in (-1, 0, 59, 60)))
    found = ask('select "end" from flow_logs', tmp_path, since="2026-01-31T12:00Z", until="2026-01-31T12:01Z")
    assert sorted(found.values) == [NOW, NOW + 59]


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("hourly", [False, True])
@pytest.mark.parametrize("hive", [False, True])
def test_files_and_folders_of_other_times_are_not_read(tmp_path: Path, suffix: str, hourly: bool, hive: bool):
    """They hold what would be a problem if it were read."""

    def place(day: str, time: str) -> Path:
        year, month, date = day.split("-")
        folder = (HIVE if hive else FOLDER).format(
            year=year, month=month, day=date if hive else f"{year}/{month}/{date}"
        )
        hour = (f"hour={time[:2]}/" if hive else f"{time[:2]}/") if hourly else ""
        return tmp_path / folder / hour / (NAME.format(time=f"{year}{month}{date}T{time}Z") + suffix)

    write(place("2026-01-31", "1200"), record(NOW + 5))
    for day, time in (("2026-01-30", "1200"), ("2026-01-31", "0900"), ("2026-01-31", "1500"), ("2025-01-31", "1200")):
        path = place(day, time)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\x1f\x8b garbage")
    found = ask("select count(*) from flow_logs", tmp_path, since="2026-01-31T11:50", until="2026-01-31T12:30")
    assert found.values == [1]
    assert not found.problems
    assert sum(found.problems.other_times.values()) == 4, "and that is said"
    assert next(found.problems.summary()).startswith("of other times, not read: ")
    everything = ask("select count(*) from flow_logs", tmp_path)
    assert everything.problems.files == 4


def test_a_format_without_times_is_of_the_time_of_its_files_slot(tmp_path: Path):
    for time in ("1155", "1200", "1205"):
        path = tmp_path / FOLDER.format(day="2026/01/31") / NAME.format(time=f"20260131T{time}Z")
        write(path, f"10.0.0.{time[2:]}", header="srcaddr")
    undated = write(tmp_path / "renamed.log", "10.0.0.1", header="srcaddr")
    found = ask("select srcaddr from flow_logs", tmp_path, since="2026-01-31T12:00", until="2026-01-31T12:05")
    assert found.values == ["10.0.0.00"]
    assert [item.file for item in found.problems.of(Problem.UNDATED)] == [str(undated)]


def test_nothing_of_that_time_is_an_error_that_says_so(tmp_path: Path):
    write(tmp_path / FOLDER.format(day="2026/01/31") / NAME.format(time="20260131T1200Z"), header=HEADER)
    with pytest.raises(InputError, match="no flow logs of that time"):
        ask("select 1", tmp_path, since="2027-01-01")

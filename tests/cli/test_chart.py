"""Charts of block characters."""

from __future__ import annotations

import pytest

from vnotch.cli.chart import bars, over_time, short_number


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (7, "7"), (999, "999"), (1000, "1.00k"), (1234, "1.23k"), (12_345, "12.3k"), (999_500, "1.00M"),
     (123_456_789, "123M"), (2.5, "2.50"), (-1500, "-1.50k"), (10**18, "1.00E")],
)  # fmt: skip
def test_numbers_are_short(value: float, text: str):
    assert short_number(value) == text


def test_bars_are_as_long_as_their_part_of_the_greatest():
    lines = bars(["a", "bb", "c", "d"], [8, 4, 0.5, 0], 26)
    room = 26 - 2 - 4 - 4
    assert lines[0] == f"a   {'█' * room}     8"
    assert lines[1].count("█") == room // 2
    assert "▏" in lines[2] or "█" in lines[2]
    assert not set(lines[3]) & set("█▏▎▍▌▋▊▉")


def test_many_bars_are_counted_and_long_names_cut():
    lines = bars([f"{'x' * 100}{n}" for n in range(60)], [1.0] * 60, 80)
    assert len(lines) == 51
    assert lines[-1] == "10 more"
    assert all(len(line) <= 80 for line in lines)


def test_no_bars_and_no_times_are_no_error():
    assert bars([], [], 80) == []
    assert over_time([], [], 80) == []
    assert bars(["a"], [0], 40)[0].rstrip().endswith("0")
    assert over_time([0], [0], 40)[-1].strip() == "1970-01-01 00:00"


def test_times_without_a_value_are_gaps():
    lines = over_time([0, 60, 240], [1, 1, 1], 80, height=2)
    assert lines[0] == "1 ┤██  █"
    assert lines[1] == "0 ┤██  █"


def test_a_peak_is_seen_however_many_times_there_are():
    values = [1.0] * 10_000
    values[5000] = 100.0
    lines = over_time([60.0 * place for place in range(10_000)], values, 80)
    assert lines[0].count("█") == 1
    assert all(len(line) <= 80 for line in lines)
    assert lines[-1].split() == ["1970-01-01", "00:00", "1970-01-07", "22:39"]

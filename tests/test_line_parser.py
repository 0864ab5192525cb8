"""The native parser of lines is held to the two in Python: what it takes, they take, with the same values."""

from __future__ import annotations

import random
from socket import AF_INET, inet_pton

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnotch.coded import coded, is_coded, plain_table
from vnotch.errors import InputError
from vnotch.fields import DEFAULT_FORMAT, FIELDS, Format, format_text, parse_format
from vnotch.line import parse_coded, parse_line, parse_valid, record_lines
from vnotch.line_parser import LineParser, dotted_quads, line_lengths

DEFAULT = parse_format(DEFAULT_FORMAT)
CUSTOM = parse_format("${x-process} ${srcport} ${bytes} ${start} ${end} ${srcaddr}")
GOOD = (
    "2 123456789010 eni-1235b8ca1234567 172.31.16.139 172.31.16.21 20641 22 6 20 4249 1418530010 1418530070 ACCEPT OK"
)
NODATA = "2 123456789010 eni-1235b8ca1234567 - - - - - - - 1431280876 1431280934 - NODATA"
NUMBERS = ["0", "00", "01", "-", "--", "-1", "+1", "9", "99999999", "100000000", "2147483647", "2147483648",
           "4294967296", "9223372036854775807", "9223372036854775808", "18446744073709551615", "18446744073709551616",
           "1" * 19, "9" * 19, "9" * 20, "1" * 40, "12a", "a", "", " ", "１"]  # fmt: skip
TEXTS = ["a", "-", "--", "~", "!", "", " ", "\x7f", "\x1f", "é", "x" * 7, "x" * 8, "x" * 9, "x" * 300, "x" * 7 + "\x7f",
         "x" * 8 + "\t", "10.0.0.1", "10.0.0.01", "2001:db8::1", "ACCEPT", "OK", "a\nb", "\r"]  # fmt: skip


def agreed(lines: list[str], format: Format) -> pa.Table:
    """What the parsers agree on; the native one sees the lines as a slice of a larger array too."""
    table, mask = parse_coded(pa.array(lines, pa.string()), format)
    wanted, right = parse_valid(pa.array(lines, pa.string()), format)
    assert mask.tolist() == right.to_pylist()
    assert plain_table(table).cast(wanted.schema).equals(wanted)
    sliced, mask = parse_coded(pa.array(["é 1", *lines, GOOD]).slice(1, len(lines)), format)
    assert mask.tolist() == right.to_pylist()
    assert plain_table(sliced).equals(plain_table(table))
    if table.num_rows:
        kept = [line for line, taken in zip(lines, right.to_pylist(), strict=True) if taken]
        assert record_lines(plain_table(table), format).to_pylist() == kept
    return table


def with_value(line: str, place: int, value: str) -> str:
    values = line.split(" ")
    values[place] = value
    return " ".join(values)


@pytest.mark.parametrize("place", range(14))
@pytest.mark.parametrize("base", [GOOD, NODATA])
def test_odd_values_are_taken_where_both_take_them(base: str, place: int) -> None:
    agreed([with_value(base, place, value) for value in [*NUMBERS, *TEXTS]], DEFAULT)


def test_lines_with_odd_shapes_are_none() -> None:
    odd = ["", " ", "-", GOOD + " ", " " + GOOD, GOOD.replace(" ", "  ", 1), GOOD + "\n", GOOD + "\r", GOOD + " x",
           GOOD[:-3], GOOD.replace(" ", "\t"), GOOD * 2, "\0", GOOD + "\0"]  # fmt: skip
    assert agreed([*odd, GOOD], DEFAULT).num_rows == 1
    assert agreed([], DEFAULT).num_rows == 0
    assert agreed([""], DEFAULT).num_rows == 0


@given(
    st.lists(
        st.lists(st.sampled_from([*NUMBERS, *TEXTS]) | st.text(max_size=12), min_size=4, max_size=7).map(" ".join),
        max_size=12,
    )
)
def test_any_text_gives_what_the_parser_in_python_gives(lines: list[str]) -> None:
    agreed(lines, CUSTOM)


def test_damaged_lines_give_what_the_line_parser_gives() -> None:
    """Held to `parse_line` too, which reads one line and shares nothing with the others."""
    chance = random.Random(3)
    lines = []
    for _ in range(3000):
        line = list(chance.choice((GOOD, NODATA)))
        for _ in range(chance.randrange(3)):
            place = chance.randrange(len(line))
            line[place : place + chance.randrange(2)] = chance.choice([*"0123456789 -.:~!aé\x7f", ""])
        lines.append("".join(line))
    _, mask = parse_coded(pa.array(lines), DEFAULT)
    assert 0 < mask.sum() < len(lines)
    for line, taken in zip(lines, mask.tolist(), strict=True):
        try:
            parse_line(line, DEFAULT)
        except InputError:
            assert not taken, line
        else:
            assert taken, line
    agreed(lines, DEFAULT)


def test_every_field_in_one_format() -> None:
    tags = {"instance": ("a", "b"), "network-interface": ("a", "b"), "auto-scaling-group": ("a", "b")}
    every = parse_format(format_text([item.name for item in FIELDS]), tags)
    values = [
        str(every.version) if item.name == "version"
        else (item.values[0] if item.values else "2001:db8::1" if item.address else "x/1%2D")
        if item.type == pa.string() else "7"
        for item in FIELDS
    ]  # fmt: skip
    absent = [value if item.required else "-" for item, value in zip(FIELDS, values, strict=True)]
    assert agreed([" ".join(values), " ".join(absent)], every).num_rows == 2


def test_many_distinct_texts_keep_theirs() -> None:
    lines = [
        f"p/{number} {number % 65536} {number} {number} {number} 10.{number % 200}.1.2" for number in range(100_000)
    ]
    table = agreed(lines, CUSTOM)
    assert len(table["x_process"].chunk(0).dictionary) == 100_000
    assert len(table["srcaddr"].chunk(0).dictionary) == 200


def parser(format: Format) -> LineParser:
    return LineParser([item.type for item in format.fields], [item.required for item in format.fields])


MANY = 1 << 30


@pytest.mark.parametrize("end", ["", "\n", "\n\n\n"])
def test_a_block_of_lines_is_the_same_as_its_lines(end: str) -> None:
    lines = [GOOD, NODATA, *(with_value(GOOD, 3, f"10.0.0.{number}") for number in range(200))]
    reader = parser(DEFAULT)
    for separator in ("\n", "\n\n"):
        block = (separator.join(lines) + end).encode()
        assert reader.append(block, MANY) == len(block)
        assert reader.rows == len(lines)
        columns = reader.take()
        assert plain_table(pa.table(columns, names=DEFAULT.columns)).equals(plain_table(agreed(lines, DEFAULT)))
    assert reader.append(b"", MANY) == 0
    assert [len(column) for column in reader.take()] == [0] * 14
    shortest = parser(parse_format("${srcport} ${bytes}"))
    assert shortest.append(b"1 2\n3 4\n5 6", MANY) == 11
    assert [column.to_pylist() for column in shortest.take()] == [[1, 3, 5], [2, 4, 6]]


@pytest.mark.parametrize("rows_max", [1, 7, 500, 100_000, MANY])
def test_blocks_that_are_appended_are_one_table(rows_max: int) -> None:
    """A text has one code in all of them; where the table is full the rest of the block is for the next one."""
    lines = [
        f"p/{number} {number % 65536} {number} {number} {number} {'-' if number % 9 == 0 else f'10.{number % 200}.1.2'}"
        for number in range(2000 if rows_max < 500 else 150_000)
    ]
    reader, tables = parser(CUSTOM), []
    for begin in range(0, len(lines), 999):
        block = ("\n".join(lines[begin : begin + 999]) + "\n").encode()
        while block:
            read = reader.append(block, rows_max)
            assert read
            block = block[read:]
            if block or reader.rows == rows_max:
                assert reader.rows == rows_max
                tables.append(pa.table(reader.take(), names=CUSTOM.columns))
    if reader.rows:
        tables.append(pa.table(reader.take(), names=CUSTOM.columns))
    assert [table.num_rows for table in tables[:-1]] == [rows_max] * (len(tables) - 1)
    whole = pa.concat_tables([plain_table(table) for table in tables]).combine_chunks()
    assert record_lines(whole, CUSTOM).to_pylist() == lines
    for table in tables:
        texts = table["srcaddr"].chunk(0).dictionary
        assert len(texts) == len(pc.unique(texts)) <= 200


@pytest.mark.parametrize(
    "odd", [GOOD + " ", "x", with_value(GOOD, 5, "020641"), GOOD + "\r", with_value(GOOD, 0, "é"), " "]
)
def test_a_block_with_an_odd_line_leaves_nothing_behind(odd: str) -> None:
    reader = parser(DEFAULT)
    other = with_value(GOOD, 3, "10.9.9.9")
    for lines in ([odd], [other, odd], [odd, GOOD], [other] * 100 + [odd]):
        assert reader.append("\n".join(lines).encode(), MANY) is None
        assert reader.rows == 0
    assert reader.append(GOOD.encode(), MANY) == len(GOOD)
    assert reader.append("\n".join([other, odd]).encode(), MANY) is None
    assert reader.append(NODATA.encode(), MANY) == len(NODATA)
    table = pa.table(reader.take(), names=DEFAULT.columns)
    assert record_lines(plain_table(table), DEFAULT).to_pylist() == [GOOD, NODATA]
    assert [len(column.chunk(0).dictionary) for column in table.columns if is_coded(column.type)] == [1] * 5 + [2]


def test_texts_are_told_apart_by_every_byte() -> None:
    """Short ones are compared as two words, longer ones by these and the bytes behind them."""
    texts = [
        "x" * place + other + "x" * (length - place - 1)
        for length in (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 23, 24, 25, 33, 70)
        for place in range(length)
        for other in "abx"
    ]
    lines = [f"{text} 1 2 3 4 10.0.0.1" for text in texts]
    table = agreed(lines, CUSTOM)
    assert len(table["x_process"].chunk(0).dictionary) == len(set(texts))


NUMBERS_OF = {
    kind: st.one_of(
        st.integers(0, largest),
        st.sampled_from(
            [10**power + step for power in range(19) for step in (-1, 0, 1) if 10**power + step <= largest]
        ),
        st.none(),
    )
    for kind, largest in ((pa.int32(), 2**31 - 1), (pa.int64(), 2**63 - 1))
}


@given(st.data(), st.integers(1, 30), st.integers(0, 3))
def test_the_length_of_a_line_is_that_of_the_line_that_is_written(data: st.DataObject, rows: int, before: int) -> None:
    """Also of columns that are slices of larger ones, and with values absent."""
    columns, written = [], []
    for kind in (pa.int32(), pa.int64(), pa.string()):
        values = st.sampled_from([None, "a", "10.0.0.1", "é", "x" * 300]) if kind == pa.string() else NUMBERS_OF[kind]
        column = pa.array(data.draw(st.lists(values, min_size=before + rows, max_size=before + rows)), kind)
        column = coded(column) if kind == pa.string() else column
        columns.append(column.slice(before))
        written.append(column.slice(before).to_pylist())
    lines = [" ".join("-" if value is None else str(value) for value in row) for row in zip(*written, strict=True)]
    lengths, bounds = line_lengths(columns)
    assert lengths.tolist() == [len(line.encode()) for line in lines]
    for values, found in zip(written[:2], bounds[:2], strict=True):
        there = [value for value in values if value is not None]
        assert found == ((min(there), max(there)) if there else None)
    assert bounds[2] is None


def is_address(text: str) -> bool:
    try:
        inet_pton(AF_INET, text)
    except (OSError, ValueError):
        return False
    return True


OCTETS = st.sampled_from(
    ["0", "1", "9", "10", "99", "100", "199", "249", "250", "255", "256", "299", "00", "01", "1000", ""]
)
QUADS = st.lists(OCTETS, min_size=3, max_size=5).map(".".join)


@given(st.lists(st.one_of(QUADS, st.text("0123456789.: \0é", max_size=16)), max_size=20), st.integers(0, 3))
def test_a_dotted_quad_is_what_inet_pton_takes(texts: list[str], before: int) -> None:
    found = dotted_quads(pa.array(["10.0.0.1"] * before + texts, pa.string()).slice(before))
    assert found.tolist() == [is_address(text) for text in texts]


def test_a_negative_number_shows_in_the_bounds() -> None:
    least = [-(2**31), -(2**63)]
    _, bounds = line_lengths([pa.array([low, 7], kind) for low, kind in zip(least, NUMBERS_OF, strict=True)])
    assert bounds == [(low, 7) for low in least]

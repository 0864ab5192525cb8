"""Lines: what is printed parses back to the same record, and nothing else parses."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnotch.errors import InputError
from vnotch.fields import DEFAULT_FORMAT, FIELDS, Field, Format, format_text, parse_format
from vnotch.line import Coded, join_columns, parse_line, parse_lines, parse_valid, record_lines, typed_column

DEFAULT = parse_format(DEFAULT_FORMAT)
GOOD = "2 123456789010 eni-1 172.31.16.139 172.31.16.21 20641 22 6 20 4249 1418530010 1418530070 ACCEPT OK"
TAG_KEYS = {"instance": "ab", "network-interface": "ab", "auto-scaling-group": "ab"}
PRINTABLE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1).filter(lambda text: text != "-")


def value(item: Field, format_: Format) -> st.SearchStrategy[Any]:
    if item.name == "version":
        return st.just(format_.version)
    if item.address:
        strategy: st.SearchStrategy[Any] = st.ip_addresses().map(str)
    elif item.values:
        strategy = st.sampled_from(item.values)
    elif pa.types.is_string(item.type):
        strategy = PRINTABLE
    else:
        strategy = st.integers(0, 2**31 - 1 if item.type == pa.int32() else 2**63 - 1)
    return strategy if item.required else st.none() | strategy


@st.composite
def tables(draw: st.DrawFn) -> tuple[pa.Table, Format]:
    names = draw(st.lists(st.sampled_from([item.name for item in FIELDS]), min_size=1, unique=True))
    format_ = parse_format(format_text(names), TAG_KEYS)
    record = st.fixed_dictionaries({item.column: value(item, format_) for item in format_.fields})
    return pa.Table.from_pylist(draw(st.lists(record, max_size=6)), schema=format_.schema), format_


@given(tables())
def test_every_record_parses_back_to_itself(case: tuple[pa.Table, Format]):
    table, format_ = case
    lines = record_lines(table, format_)
    assert len(lines) == table.num_rows
    assert all(line.count(" ") == len(format_.fields) - 1 for line in lines.to_pylist())
    assert parse_lines(lines, format_).equals(table)
    assert [parse_line(line, format_) for line in lines.to_pylist()] == table.to_pylist()


WORDS = "- 0 1 2 00 +1 OK NODATA ACCEPT REJECT 10.0.0.1 ::1 10.0.0.256"
ALPHABET = st.sampled_from(WORDS.split())
TEXTS = ALPHABET | st.integers(0, 2**64).map(str) | st.text(max_size=3)


@given(st.lists(st.lists(TEXTS, min_size=3, max_size=5).map(" ".join) | st.none(), max_size=8))
def test_the_two_parsers_agree_on_anything(lines: list[str | None]):
    format_ = parse_format("${version} ${srcaddr} ${bytes} ${log-status}")
    expected = []
    for line in lines:
        try:
            expected.append(None if line is None else parse_line(line, format_))
        except InputError:
            expected.append(None)
    table, valid = parse_valid(pa.array(lines, pa.string()), format_)
    assert valid.to_pylist() == [record is not None for record in expected]
    good = [record for record in expected if record is not None]
    sliced, sliced_valid = parse_valid(pa.array(["x", *lines, "2 - 0 OK"], pa.string()).slice(1, len(lines)), format_)
    assert (sliced, sliced_valid) == (table, valid)
    assert table.to_pylist() == good
    assert record_lines(table, format_).to_pylist() == [
        line for line, record in zip(lines, expected, strict=True) if record is not None
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((0, "3"), "column version: '3' is not right .lines of this format have version 2"),
        ((0, "-"), "column version: '-' is not right .this field is never absent"),
        ((3, "172.31.16"), "column srcaddr: '172.31.16' is not right .an IPv4 or IPv6 address"),
        ((4, "fe80::1%eth0"), "column dstaddr"),
        ((5, "020641"), "column srcport: '020641' is not right .a decimal number"),
        ((6, "2147483648"), "column dstport: '2147483648' is not right .at most 2147483647"),
        ((7, "tcp"), "column protocol: 'tcp'"),
        ((8, "-20"), "column packets: '-20'"),
        ((9, "9223372036854775808"), "column bytes: '9223372036854775808' is not right .at most 9223372036854775807"),
        ((9, "٣"), "column bytes"),
        ((10, "-"), "column start: '-' is not right .this field is never absent"),
        ((11, "1418530070.5"), "column end"),
        ((12, "accept"), "column action: 'accept' is not right .one of ACCEPT, REJECT"),
        ((13, "OKAY"), "column log_status: 'OKAY' is not right .one of OK, NODATA, SKIPDATA"),
        ((13, "OK\n"), "column log_status"),
        ((2, ""), "column interface_id: '' is not right"),
        ((2, "eni\t1"), "column interface_id"),
        ((2, "é"), "column interface_id"),
        ((2, "eni 1"), "15 values in a line whose format has 14 fields"),
    ],
)
def test_errors_name_the_column(change: tuple[int, str], message: str):
    texts = GOOD.split(" ")
    texts[change[0]] = change[1]
    line = " ".join(texts)
    with pytest.raises(InputError, match=message):
        parse_line(line, DEFAULT)
    with pytest.raises(InputError, match=f"line 2: {message}"):
        parse_lines(pa.array([GOOD, line]), DEFAULT)


@pytest.mark.parametrize("line", ["", " ", GOOD + " ", " " + GOOD, GOOD.replace(" 22 ", "  22 "), DEFAULT.header])
def test_what_is_no_record_line_is_refused(line: str):
    with pytest.raises(InputError):
        parse_line(line, DEFAULT)
    table, valid = parse_valid(pa.array([line, GOOD, line]), DEFAULT)
    assert valid.to_pylist() == [False, True, False]
    assert table.to_pylist() == [parse_line(GOOD, DEFAULT)]


def test_types_of_a_parsed_record():
    assert parse_line(GOOD, DEFAULT) == {
        "version": 2,
        "account_id": "123456789010",
        "interface_id": "eni-1",
        "srcaddr": "172.31.16.139",
        "dstaddr": "172.31.16.21",
        "srcport": 20641,
        "dstport": 22,
        "protocol": 6,
        "packets": 20,
        "bytes": 4249,
        "start": 1418530010,
        "end": 1418530070,
        "action": "ACCEPT",
        "log_status": "OK",
    }


def test_no_lines_and_chunked_lines():
    assert parse_lines(pa.array([], pa.string()), DEFAULT).schema == DEFAULT.schema
    chunked = pa.chunked_array([pa.array([GOOD]), pa.array([GOOD, GOOD])])
    assert parse_lines(chunked, DEFAULT).num_rows == 3
    assert record_lines(DEFAULT.schema.empty_table(), DEFAULT).to_pylist() == []


def test_lines_are_parsed_in_parts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("vnotch.line._PARSE_ROWS", 3)
    lines = [GOOD.replace(" 20 ", f" {number} ") for number in range(8)]
    table, valid = parse_valid(pa.array([*lines[:4], "no record", *lines[4:]]), DEFAULT)
    assert table["packets"].to_pylist() == list(range(8))
    assert valid.to_pylist() == [True] * 4 + [False] + [True] * 4
    with pytest.raises(InputError, match="line 5: 2 values"):
        parse_lines(pa.array([*lines[:4], "no record"]), DEFAULT)


@pytest.mark.parametrize("rows", [3, 5000])
def test_columns_that_are_joined_early_give_the_same_lines(rows: int):
    """Constants, coded columns and arrays in every neighbourhood, short and long."""
    codes = pa.array([number % 2 for number in range(rows)], pa.int32())
    coded = Coded(codes, pa.array(["a", None]))
    numbers = Coded(codes, pa.array([70_000, 5], pa.int64()))
    other = Coded(pa.array(list(range(rows)), pa.int32()), pa.array(range(rows), pa.int32()))
    array = pa.array([None if number % 3 == 0 else number * 40 for number in range(rows)], pa.int64())
    columns = ["x", 7, coded, numbers, None, "y", array, other, coded, "z", other, array]
    expected = []
    for row in range(rows):
        pair = ("a", "70000") if row % 2 == 0 else ("-", "5")
        cell = "-" if row % 3 == 0 else str(row * 40)
        expected.append(f"x 7 {pair[0]} {pair[1]} - y {cell} {row} {pair[0]} z {row} {cell}")
    assert join_columns(columns, rows).to_pylist() == expected
    assert join_columns(["x", None, 3], rows).to_pylist() == ["x - 3"] * rows
    assert typed_column(None, pa.int32(), 2).to_pylist() == [None, None]
    assert typed_column("x", pa.string(), 2).to_pylist() == ["x", "x"]
    assert typed_column(numbers, pa.int64(), rows).to_pylist()[:2] == [70_000, 5]

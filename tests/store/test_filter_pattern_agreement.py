"""The two evaluators of filter patterns agree on generated patterns and messages, as text and as typed records."""

from __future__ import annotations

import json

import duckdb
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vnotch.coded import plain_table
from vnotch.fields import DEFAULT_FORMAT, Format, format_text, parse_format
from vnotch.store.event_rows import PUT_SCHEMA, line_rows
from vnotch.store.event_table import RECORD_COLUMNS
from vnotch.store.filter_pattern import FilterPattern
from vnotch.store.formats import Formats

PIECES = ["a", "b", "ab", "10", "10.0", "-1", "1e3", '"', "[", "]", " ", "  ", "\t", "*", "x y", '"a b"', "[a b]", "é",
          "%", "_", "\\", "\n", "REJECT", "-"]  # fmt: skip
WORDS = st.sampled_from(["a", "b", "ab", "10", "é", "REJECT"])
QUOTED = st.sampled_from(['"a b"', '"a"', '"*a"', '"a*b*"', '"\\""', '"%_"', '"10"', '"-"', '"é*"', '"\\n"'])
REGEX = st.sampled_from(["%a+b?%", "%^a%", "%b$%", "%[^a]b%", r"%\d{1,2}%", "%a|10%", r"%\x22%", "%.%"])
NUMBERS = st.sampled_from(["10", "10.0", "-1", "0", "22", "1e1", "+10"])
OPERATORS = st.sampled_from(["=", "!="])
ORDERS = st.sampled_from(["<", "<=", ">", ">="])
BARE = st.sampled_from(["a", "a*", "*b", "a*b", "*", "10.*", "1*0*", "-", "172.31.*", "REJECT", "R*T", "OK"])

MESSAGES = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


@st.composite
def terms(draw: st.DrawFn) -> str:
    items = st.tuples(st.sampled_from(["", "-", "?"]), WORDS | QUOTED).map("".join)
    return " ".join(draw(st.lists(items, min_size=1, max_size=4)))


@st.composite
def comparison(draw: st.DrawFn, subject: str, regexes: bool = True) -> str:
    values = BARE | QUOTED | NUMBERS
    if regexes:
        values = values | REGEX
    if draw(st.booleans()):
        return f"{subject} {draw(OPERATORS)} {draw(values)}"
    return f"{subject}{draw(ORDERS)}{draw(NUMBERS)}"


@st.composite
def column(draw: st.DrawFn, number: int, conditions: bool) -> str:
    name = f"c{number}"
    if not conditions:
        return draw(st.sampled_from([name, ""])) or name
    parts = [draw(comparison(name, regexes=number % 7 == 0)) for _ in range(draw(st.integers(1, 2)))]
    return draw(st.sampled_from([" && ", " || "])).join(parts)


@st.composite
def columns(draw: st.DrawFn, most: int) -> str:
    count = draw(st.integers(1, most))
    chosen = draw(st.sets(st.integers(0, count - 1), max_size=3))
    # Two regular expressions at most, so one column alone may have them.
    listed = [draw(column(number if number else 1, number in chosen)) for number in range(count)]
    if draw(st.booleans()):
        listed.insert(draw(st.integers(0, count)), "...")
    return f"[{', '.join(listed)}]"


SELECTORS = st.sampled_from(["$.a", "$.b", "$.a.b", "$.a[0]", "$.a[1].b", "$.a[*]", "$.*", "$.a.*", "$.['c.d']"])


@st.composite
def json_pattern(draw: st.DrawFn) -> str:
    parts = []
    for _ in range(draw(st.integers(1, 3))):
        selector = draw(SELECTORS)
        kind = draw(st.sampled_from(["compare", "compare", "IS NULL", "IS TRUE", "IS FALSE", "NOT EXISTS"]))
        parts.append(draw(comparison(selector, regexes=False)) if kind == "compare" else f"{selector} {kind}")
    text = parts[0]
    for part in parts[1:]:
        operator = draw(st.sampled_from(["&&", "||"]))
        text = draw(st.sampled_from([f"({text}) {operator} {part}", f"{text} {operator} ({part})"]))
    return "{ " + text + " }"


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-12, 30)
    | st.sampled_from([10.0, 0.5, -1.0, 1e30, 1.5e-9, 2**70, "10", "a", "ab", "a b", "", "-", "é", "true", 'a"b'])
)
KEYS = st.sampled_from(["a", "b", "c.d"])
DOCUMENTS = st.recursive(
    LEAVES,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(KEYS, children, max_size=3),
    max_leaves=8,
)
JSON_MESSAGES = (st.dictionaries(KEYS, DOCUMENTS, max_size=3) | DOCUMENTS).map(json.dumps) | MESSAGES


@pytest.fixture(scope="module")
def connection() -> duckdb.DuckDBPyConnection:
    return duckdb.connect(":memory:", config={"threads": "1"})


def agree(connection: duckdb.DuckDBPyConnection, pattern: str, messages: list[str]) -> None:
    read = FilterPattern.parse(pattern)
    predicate = read.predicate()
    if predicate is None:
        assert all(read.matches(message) for message in messages)
        return
    connection.register("given", pa.table({"number": range(len(messages)), "message": pa.array(messages, pa.string())}))
    sql = f"SELECT number FROM given WHERE {predicate.sql} ORDER BY number"
    found = {row[0] for row in connection.execute(sql, list(predicate.parameters)).fetchall()}
    assert found == {number for number, message in enumerate(messages) if read.matches(message)}


SOME = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@SOME
@given(pattern=terms() | REGEX, messages=st.lists(MESSAGES, min_size=4, max_size=12))
def test_terms(connection: duckdb.DuckDBPyConnection, pattern: str, messages: list[str]) -> None:
    agree(connection, pattern, messages)


@SOME
@given(pattern=columns(5), messages=st.lists(MESSAGES, min_size=4, max_size=12))
def test_columns(connection: duckdb.DuckDBPyConnection, pattern: str, messages: list[str]) -> None:
    agree(connection, pattern, messages)


@SOME
@given(pattern=json_pattern(), messages=st.lists(JSON_MESSAGES, min_size=4, max_size=12))
def test_json(connection: duckdb.DuckDBPyConnection, pattern: str, messages: list[str]) -> None:
    agree(connection, pattern, messages)


# Records

SHORT = format_text(["interface-id", "srcaddr", "dstport", "bytes", "action", "x-process"])
FORMATS = {1: parse_format(DEFAULT_FORMAT), 2: parse_format(SHORT)}
VALUES = {
    "version": st.just("2"),
    "account-id": st.sampled_from(["123456789010", "unknown"]),
    "interface-id": st.sampled_from(["eni-1", '"eni', '["', "[a"]),
    "srcaddr": st.sampled_from(["172.31.9.69", "10.0.0.1", "2001:db8::1", "-"]),
    "dstaddr": st.sampled_from(["172.31.9.12", "-"]),
    "srcport": st.sampled_from(["10", "0", "-", "49761"]),
    "dstport": st.sampled_from(["22", "10", "-"]),
    "protocol": st.sampled_from(["6", "-"]),
    "packets": st.sampled_from(["10", "-"]),
    "bytes": st.sampled_from(["10", "9007199254740993", "-"]),
    "start": st.just("1418530010"),
    "end": st.just("1418530070"),
    "action": st.sampled_from(["ACCEPT", "REJECT", "-"]),
    "log-status": st.sampled_from(["OK", "NODATA", "SKIPDATA"]),
    "x-process": st.sampled_from(["nginx/812", 'b"', "b]", "10", "a", "-"]),
}


@st.composite
def one_condition(draw: st.DrawFn) -> str:
    """A pattern for one of the formats that asks one column for something, so that about half of the records match."""
    width = draw(st.sampled_from([6, 14]))
    at = draw(st.integers(0, width - 1))
    listed = [f"c{number}" for number in range(width)]
    listed[at] = draw(comparison(listed[at]))
    return f"[{', '.join(listed)}]"


PARTS = ["2", "22", "10", "31.9", "REJ", "REJECT", "OK", "eni", "a", "-", "nginx/812", "2001:db8::1", "1418530010", "T"]


@st.composite
def terms_of_records(draw: st.DrawFn) -> str:
    """Terms and phrases of what records have, cut at any place; a phrase of neighbours and of what never are."""
    items = []
    for _ in range(draw(st.integers(1, 3))):
        words = draw(st.lists(st.sampled_from(PARTS), min_size=1, max_size=3))
        phrase = draw(st.sampled_from(["", "", " "])) + " ".join(words) + draw(st.sampled_from(["", "", " "]))
        phrase = draw(st.sampled_from([phrase, "ACCEPT OK", "T OK", "10 10", "- - ", "10  10", "REJECT O", "6 10 - 1"]))
        items.append(draw(st.sampled_from(["", "", "-", "?"])) + f'"{phrase}"')
    return " ".join(items)


def lines_of(format: Format) -> st.SearchStrategy[str]:
    return st.tuples(*(VALUES[name] for name in format.names)).map(" ".join)


@SOME
@given(
    pattern=one_condition() | one_condition() | columns(14) | terms() | terms_of_records() | REGEX | json_pattern(),
    first=st.lists(lines_of(FORMATS[1]), min_size=3, max_size=8),
    second=st.lists(lines_of(FORMATS[2]), min_size=3, max_size=8),
    texts=st.lists(MESSAGES, max_size=4),
)
def test_records_in_typed_columns(
    connection: duckdb.DuckDBPyConnection, pattern: str, first: list[str], second: list[str], texts: list[str]
) -> None:
    tables = [
        pa.table({"format_id": pa.array([None] * len(texts), pa.int32()), "message": pa.array(texts, pa.string())})
    ]
    for format_id, lines in ((1, first), (2, second)):
        events = pa.table([pa.array([0] * len(lines), pa.int64()), pa.array(lines)], schema=PUT_SCHEMA)
        rows = line_rows(events, [FORMATS[format_id]], Formats([(n, 1, f.text) for n, f in FORMATS.items()]))
        tables.append(plain_table(rows))
    tables.append(RECORD_COLUMNS.empty_table())
    events = pa.concat_tables(tables, promote_options="default")
    connection.register("events", events.append_column("number", pa.array(range(events.num_rows))))
    read = FilterPattern.parse(pattern)
    predicate = read.predicate(FORMATS)
    where, parameters = (predicate.sql, list(predicate.parameters)) if predicate is not None else ("true", [])
    found = {row[0] for row in connection.execute(f"SELECT number FROM events WHERE {where}", parameters).fetchall()}
    assert found == {number for number, message in enumerate([*texts, *first, *second]) if read.matches(message)}
    # Each alternative finds what it finds by itself, and no event meets two of them.
    alternatives = predicate.alternatives if predicate is not None else ()
    apart = [
        row[0]
        for part in alternatives
        for row in connection.execute(f"SELECT number FROM events WHERE {part.sql}", list(part.parameters)).fetchall()
    ]
    assert not alternatives or sorted(apart) == sorted(found)


@pytest.mark.parametrize(
    ("pattern", "asked", "parameters"),
    [
        ("REJECT", ['"action" IN (?)'], ["REJECT"]),
        ('"203.0.113.77"', ['contains("srcaddr", ?)', 'contains("dstaddr", ?)'], ["203.0.113.77"] * 2),
        ('"REJECT OK"', ['"action" IN (?)', '"log_status" IN (?)'], ["REJECT", "OK"]),
        ("timeout", [], []),
    ],
)
def test_a_term_asks_the_columns_alone_that_can_have_it(pattern: str, asked: list[str], parameters: list[str]) -> None:
    format = parse_format(DEFAULT_FORMAT.removeprefix("${version} ${account-id} ${interface-id} "))
    predicate = FilterPattern.parse(pattern).predicate({1: format})
    assert predicate is not None
    *typed, text = predicate.alternatives
    assert all(part in typed[0].sql for part in asked)
    assert [part.parameters for part in typed] == ([tuple(parameters)] if asked else [])
    assert text.sql.startswith("(format_id IS NULL")


def test_what_a_record_is_asked_needs_no_text() -> None:
    """The classic of the guide: rejected SSH, on typed columns."""
    names = "version, account, eni, source, destination, srcport, destport=22, protocol=6, packets, bytes, windowstart"
    pattern = FilterPattern.parse(f'[{names}, windowend, action="REJECT", flowlogstatus]')
    predicate = pattern.predicate({1: FORMATS[1]})
    assert predicate is not None
    typed, _, text = predicate.sql.partition(" OR (")
    assert '"dstport" = ?' in typed
    assert '"action" = ?' in typed
    assert "message" not in typed
    assert "format_id IS NULL" in text

"""Records of flow logs in typed columns: what is delivered comes back byte for byte, and is asked for by value."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from lakes import new_lake

from tests.store.test_lake import BASE_MS, EVER, NEVER, batch, read
from vnotch.coded import coded_table
from vnotch.errors import InputError
from vnotch.fields import DEFAULT_FORMAT, FIELDS, Format, parse_format
from vnotch.line import checked_lengths, parse_lines
from vnotch.record import flow_log_format
from vnotch.store import formats
from vnotch.store.batch_keys import batch_key, record_batch_key
from vnotch.store.lake import Lake, Predicate, QueryFailed, QueryInterrupted

DEFAULT = parse_format(DEFAULT_FORMAT)
DATA = Path(__file__).parents[1] / "data"

LINES = [
    # The examples of the VPC user guide, "Flow log record examples".
    "2 123456789010 eni-1235b8ca1234567 172.31.16.139 172.31.16.21 20641 22 6 20 4249 1418530010 1418530070 ACCEPT OK",
    "2 123456789010 eni-1235b8ca123456789 172.31.9.69 172.31.9.12 49761 3389 6 20 4249 1418530010 1418530070 REJECT OK",
    "2 123456789010 eni-1235b8ca123456789 - - - - - - - 1431280876 1431280934 - NODATA",
    "2 123456789010 eni-11111111aaaaaaaaa - - - - - - - 1431280876 1431280934 - SKIPDATA",
    "2 123456789010 eni-1235b8ca123456789 2001:db8:1234:a100:8d6e:3477:df66:f105 "
    "2001:db8:1234:a102:3304:8879:34cf:4071 34892 22 6 54 8855 1477913708 1477913820 ACCEPT OK",
]
TEXTS = [
    "hello",
    "2 123456789010 eni-1235b8ca1234567 172.31.16.139 172.31.16.21 20641 22 6 20 4249 1418530010 1418530070 ACCEPT OK ",
    "2 123456789010 eni-1235b8ca1234567 172.31.16.139 172.31.16.021 20641 22 6 20 4249 1418530010 1418530070 ACCEPT OK",
    "2 123456789010 eni-1235b8ca1234567 172.31.16.139 172.31.16.21 020641 22 6 20 4249 1418530010 1418530070 ACCEPT OK",
    "3 123456789010 eni-1235b8ca1234567 172.31.16.139 172.31.16.21 20641 22 6 20 4249 1418530010 1418530070 ACCEPT OK",
    "2 123456789010 eni-1235b8ca1234567 172.31.16.139 172.31.16.21 20641 22 6 20 4249 1418530010 1418530070 MAYBE OK",
    "2 123456789010 eni-1235b8ca1234567 172.31.16.139 172.31.16.21 20641 22 6 20 99999999999999999999 1 2 ACCEPT OK",
    "2 123456789010 eni-1235b8ca1234567 172.31.16.139 172.31.16.21 20641 22 6 20 4249 1418530010 14185300 REJECT OK\n",
    "2 é - - - - - - - - 1418530010 1418530070 - NODATA",
]
EVERY = parse_format(
    " ".join(f"${{{item.name}}}" for item in FIELDS),
    {"instance": ("a", "b"), "network-interface": ("a", "b"), "auto-scaling-group": ("a", "b")},
)


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    lake = new_lake(tmp_path / "lake", intervals=NEVER)
    lake.upkeep().result()
    yield lake
    lake.close()


def typed(lake: Lake, condition: str = "true", group: int = 1) -> list[str]:
    relation = lake.relation([group], start_ms=0, end_ms=EVER)
    where = f"format_id IS NOT NULL AND {condition}"
    sql = f"SELECT message FROM {relation.sql} WHERE {where} ORDER BY timestamp_ms, sequence"
    return lake.arrow(sql, relation.parameters)["message"].to_pylist()


def records(lines: list[str], format: Format, at: int = BASE_MS) -> pa.Table:
    table = parse_lines(pa.array(lines), format)
    return table.add_column(0, "timestamp_ms", pa.array(range(at, at + len(lines)), pa.int64()))


def every_line(number: int, absent: bool = False) -> str:
    """A line with a value in every field, or in those alone that are never absent."""
    values = []
    for item in FIELDS:
        if absent and not item.required:
            value = "-"
        elif item.name == "version":
            value = str(EVERY.version)
        elif item.values:
            value = item.values[number % len(item.values)]
        elif item.address:
            value = f"10.0.{number // 256}.{number % 256}" if number % 2 else f"2001:db8::{number:x}"
        elif item.type == pa.string():
            value = f"{item.column}/{number}%2D"
        else:
            value = str((2**31 - 1 if item.type == pa.int32() else 2**63 - 1) - number if number % 3 else number)
        values.append(value)
    return " ".join(values)


@pytest.mark.parametrize("count", [1, 30])
def test_lines_of_a_known_format_are_typed_and_come_back_as_they_were(lake: Lake, count: int) -> None:
    messages = [*LINES, *TEXTS] * count
    lake.submit(1, 1, batch(*messages), 0, candidates=[DEFAULT]).result()
    assert read(lake) == messages
    assert typed(lake) == LINES * count
    assert typed(lake, "dstport = 22 AND action = 'ACCEPT'") == [LINES[0], LINES[4]] * count
    assert typed(lake, "log_status = 'NODATA' AND srcaddr IS NULL AND action IS NULL") == [LINES[2]] * count
    assert lake.status()["stored_records"] == len(LINES) * count


def test_without_a_known_format_all_is_text(lake: Lake) -> None:
    lake.submit(1, 1, batch(*LINES), 0).result()
    assert read(lake) == LINES
    assert typed(lake) == []


@pytest.mark.parametrize("rows", [7, 300])
def test_every_field_comes_back_from_the_catalog_from_files_and_when_merged(lake: Lake, rows: int) -> None:
    """Up to 40 events of a commit are rows in the catalog, more are a file."""
    lines = [every_line(number, absent=number % 5 == 4) for number in range(rows)]
    lake.submit_records(1, 1, EVERY, records(lines, EVERY), 0).result()
    assert read(lake) == lines
    lake.submit(1, 2, batch(*lines, at=BASE_MS + 1000), 0, candidates=[EVERY]).result()
    assert typed(lake) == lines * 2
    for _ in range(2):
        lake.upkeep().result()
        assert read(lake) == lines * 2
        assert typed(lake) == lines * 2


def test_formats_text_and_groups_in_one_commit_stay_apart(lake: Lake) -> None:
    custom = parse_format("${srcaddr} ${x-rule-id} ${end} ${start} ${log-status}")
    other = ["10.0.0.1 sgr-1 5 4 OK", "- - 9 8 NODATA"] * 30
    futures = [
        lake.submit_records(1, 1, DEFAULT, records(LINES, DEFAULT), 0),
        lake.submit_records(1, 2, custom, records(other, custom, BASE_MS + 100), 0),
        lake.submit(1, 3, batch(*TEXTS, at=BASE_MS + 200), 0),
        lake.submit_records(2, 4, custom, records(other[:1], custom), 0),
    ]
    for future in futures:
        future.result()
    assert read(lake) == [*LINES, *other, *TEXTS]
    assert read(lake, group=2) == other[:1]
    assert {format.text for format in lake.formats([1]).values()} == {DEFAULT.text, custom.text}
    assert {format.text for format in lake.formats([2]).values()} == {custom.text}
    relation = lake.relation([1, 2], start_ms=0, end_ms=EVER)
    sql = f"SELECT {relation.text('x_rule_id')} AS rule, count(*) AS n FROM {relation.sql} GROUP BY ALL ORDER BY ALL"
    # `-` is what the custom lines show; the default format and text have no such field at all.
    assert lake.arrow(sql).to_pylist() == [
        {"rule": "-", "n": 30},
        {"rule": "sgr-1", "n": 31},
        {"rule": None, "n": len(LINES) + len(TEXTS)},
    ]


def test_a_line_that_fits_two_formats_stays_text(lake: Lake) -> None:
    one, two = parse_format("${srcaddr} ${dstaddr} ${action}"), parse_format("${dstaddr} ${srcaddr} ${action}")
    lake.submit(1, 1, batch("10.0.0.1 10.0.0.2 ACCEPT", "x y z"), 0, candidates=[one, two]).result()
    assert read(lake) == ["10.0.0.1 10.0.0.2 ACCEPT", "x y z"]
    assert typed(lake) == []


def test_formats_beyond_their_bound_are_stored_as_text(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "FORMATS_MAX", 1)
    custom = parse_format("${srcaddr} ${end} ${start}")
    lake.submit_records(1, 1, DEFAULT, records(LINES, DEFAULT), 0).result()
    lake.submit_records(1, 2, custom, records(["10.0.0.1 5 4"], custom, BASE_MS + 100), 0).result()
    lake.submit(1, 3, batch("10.0.0.1 5 4", at=BASE_MS + 200), 0, candidates=[custom]).result()
    assert read(lake) == [*LINES, "10.0.0.1 5 4", "10.0.0.1 5 4"]
    assert typed(lake) == LINES


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("version", 3),
        ("srcaddr", "10.0.0"),
        ("srcaddr", ""),
        ("srcaddr", "-"),
        ("interface_id", "eni 1"),
        ("interface_id", "eni-1\n"),
        ("action", "MAYBE"),
        ("dstport", -1),
        ("start", None),
        ("log_status", None),
    ],
)
def test_a_record_whose_line_would_not_come_back_is_refused(lake: Lake, column: str, value: Any) -> None:
    table = records(LINES[:2], DEFAULT)
    place = table.column_names.index(column)
    kind = table.schema.field(column).type
    bad = pa.array([table[column][0].as_py(), value], kind)
    with pytest.raises(InputError, match=column):
        lake.submit_records(1, 1, DEFAULT, table.set_column(place, pa.field(column, kind), bad), 0)


def test_the_length_of_a_line_is_known_without_writing_it() -> None:
    for lines, format in ((LINES, DEFAULT), ([every_line(n, n % 5 == 4) for n in range(40)], EVERY)):
        sizes = checked_lengths(coded_table(parse_lines(pa.array(lines), format)), format)
        assert sizes.tolist() == [len(line) for line in lines]


def test_stored_bytes_count_the_message_of_records_as_of_text(tmp_path: Path) -> None:
    text, record = new_lake(tmp_path / "a", intervals=NEVER), new_lake(tmp_path / "b", intervals=NEVER)
    text.submit(1, 1, batch(*LINES), 0).result()
    record.submit_records(1, 1, DEFAULT, records(LINES, DEFAULT), 0).result()
    assert text.totals_after(0)[0].bytes == record.totals_after(0)[0].bytes == sum(map(len, LINES)) + 26 * len(LINES)
    assert text.status()["stored_bytes"] == record.status()["stored_bytes"]
    text.close()
    record.close()


def test_a_batch_of_records_counts_once(lake: Lake) -> None:
    table = records(LINES, DEFAULT)
    key = record_batch_key(1, 1, "id", table, DEFAULT)
    assert not lake.submit_records(1, 1, DEFAULT, table, 0, key).result().duplicate
    assert lake.submit_records(1, 1, DEFAULT, table, 0, key).result().duplicate
    assert read(lake) == LINES
    other = table.set_column(1, "version", pc_plus(table["version"]))
    keys = {
        key,
        record_batch_key(1, 2, "id", table, DEFAULT),
        record_batch_key(1, 1, "ie", table, DEFAULT),
        record_batch_key(1, 1, "id", other, DEFAULT),
        record_batch_key(1, 1, "id", table.slice(0, 4), DEFAULT),
    }
    assert len(keys) == 5
    # Other memory, the same content.
    chunked = pa.concat_tables([table.slice(0, 2), table.slice(2)])
    assert record_batch_key(1, 1, "id", chunked, DEFAULT) == key


def pc_plus(column: pa.ChunkedArray) -> pa.Array:
    return pa.array([value + 1 for value in column.to_pylist()], column.type)


def test_predicates_are_asked_of_what_is_stored_and_lines_are_rendered_behind_them(lake: Lake) -> None:
    lake.submit_records(1, 1, DEFAULT, records(LINES, DEFAULT), 0).result()
    lake.submit(1, 1, batch(*TEXTS, at=BASE_MS + 100), 0).result()
    assert read(lake, predicate=Predicate("srcaddr = ?", ("172.31.9.69",))) == [LINES[1]]
    assert read(lake, predicate=Predicate("contains(message, ?)", ("172.31.9.69",))) == []
    assert read(lake, predicate=Predicate("contains(message, ?)", ("hello",))) == ["hello"]
    assert read(lake, limit=2, descending=True, predicate=Predicate("dstport = 22")) == [LINES[4], LINES[0]]
    assert lake.events_after(1, 0, limit=100)["message"].to_pylist() == [*LINES, *TEXTS]


def test_what_all_events_of_a_snapshot_meet_is_no_condition(lake: Lake) -> None:
    assert lake.extent() is None
    lake.submit_records(1, 1, DEFAULT, records(LINES, DEFAULT), 0).result()
    lake.submit(1, 2, batch(*TEXTS, at=BASE_MS + 100), 0).result()
    lake.upkeep().result()  # some in files
    lake.submit(1, 2, batch("last", at=BASE_MS + 500), 0).result()  # and one in the catalog
    extent = lake.extent()
    assert extent is not None
    assert (extent.first_ms, extent.last_ms) == (BASE_MS, BASE_MS + 500)
    assert (extent.first_group, extent.last_group) == (1, 1)

    def asked(group: int, start_ms: int, end_ms: int) -> tuple[str, list[str]]:
        relation = lake.relation([group], start_ms=start_ms, end_ms=end_ms, extent=extent)
        sql = f"SELECT message FROM {relation.sql} ORDER BY timestamp_ms, sequence"
        return relation.where, lake.arrow(sql)["message"].to_pylist()

    everything = [*LINES, *TEXTS, "last"]
    assert asked(1, BASE_MS, BASE_MS + 501) == ("true", everything)
    # What is stored from now on is not of the snapshot, whose conditions are left out.
    lake.submit(1, 2, batch("early", at=BASE_MS - 1), 0).result()
    lake.submit(2, 3, batch("other"), 0).result()
    assert asked(1, BASE_MS, BASE_MS + 501) == ("true", everything)
    # What some events do not meet stays.
    for begin, end, group, expected in (
        (BASE_MS + 1, BASE_MS + 501, 1, everything[1:]),
        (BASE_MS, BASE_MS + 500, 1, everything[:-1]),
        (BASE_MS, BASE_MS + 501, 2, []),
    ):
        where, found = asked(group, begin, end)
        assert where != "true"
        assert found == expected
    newest = lake.extent()
    assert newest is not None
    assert (newest.first_ms, newest.last_group) == (BASE_MS - 1, 2)


def test_a_reopened_lake_knows_its_formats(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path / "lake", intervals=NEVER)
    lake.submit_records(1, 1, DEFAULT, records(LINES, DEFAULT), 0).result()
    lake.close()
    lake = Lake.open(tmp_path / "lake", intervals=NEVER)
    assert read(lake) == LINES
    custom = parse_format("${srcaddr} ${end} ${start}")
    lake.submit_records(1, 1, custom, records(["10.0.0.1 5 4"], custom, BASE_MS + 50), 0).result()
    assert read(lake) == [*LINES, "10.0.0.1 5 4"]
    lake.close()


def test_an_upgrade_keeps_what_the_release_before_stored(tmp_path: Path) -> None:
    """The archive is a lake of the last release that stored text alone: two files, rows in the catalog, batch keys."""
    folder = tmp_path / "elsewhere"
    with tarfile.open(DATA / "lake-text-only.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    old = [
        f"2 123456789012 eni-0123456789abcdef0 10.0.0.{n % 250} 10.0.1.7 {40000 + n} 443 6 12 4711 1700000000 "
        "1700000059 ACCEPT OK"
        for n in range(500)
    ]
    small = ["2 123456789012 eni-0123456789abcdef0 - - - - - - - 1700000000 1700000059 - NODATA", "hello"]
    for _ in range(2):
        lake = Lake.open(folder, intervals=NEVER)
        assert read(lake) == [*old, *small]
        assert read(lake, group=2) == [f"text {n} €" for n in range(300)]
        assert {(row.group_id, row.stream_id): row.events for row in lake.totals_after(0)} == {
            (1, 1): 500,
            (1, 2): 2,
            (2, 3): 300,
        }
        assert sum(row.bytes for row in lake.totals_after(0)) == sum(
            len(message.encode()) + 26 for message in [*old, *small, *(f"text {n} €" for n in range(300))]
        )
        lake.upkeep().result()
        lake.close()
    lake = Lake.open(folder, intervals=NEVER)
    # A batch that the release before acknowledged is recognised.
    again = batch(*old)
    assert lake.submit(1, 1, again, 0, batch_key(1, 1, "old", again)).result().duplicate
    lake.submit(1, 5, batch(*LINES, at=BASE_MS + 5000), 0, candidates=[flow_log_format(DEFAULT_FORMAT)]).result()
    lake.upkeep().result()
    assert read(lake) == [*old, *small, *LINES]
    assert typed(lake) == LINES
    lake.close()


def test_a_reading_streams_stops_and_fails_by_itself(lake: Lake) -> None:
    lake.submit_records(1, 1, DEFAULT, records(LINES, DEFAULT), 0).result()
    with lake.reading() as reading:
        rows = sum(part.num_rows for part in reading.batches("SELECT range FROM range(200_000)"))
        assert rows == 200_000
        relation = lake.relation([1], start_ms=0, end_ms=EVER)
        assert reading.arrow(f"SELECT sum(packets) AS n FROM {relation.sql}")["n"].to_pylist() == [94]
        reading.interrupt()
        with pytest.raises(QueryInterrupted):
            reading.arrow("SELECT 1")
    with lake.reading(seconds=0.2) as reading, pytest.raises(QueryFailed, match="within"):
        reading.arrow("SELECT sum(hash(a.range + b.range)) FROM range(10_000_000) a, range(10_000_000) b")
    assert lake.committed_after(0, 0)
    assert not lake.committed_after(lake.last_sequence, 0.01)


def test_a_value_that_begins_like_a_quoted_column_makes_its_record_text(lake: Lake) -> None:
    """A filter pattern reads `[kworker/9 80 1` as the beginning of one column, and columns value by value."""
    custom = parse_format("${x-process} ${srcport} ${start} ${end}")
    lines = ["nginx/1 80 1 2", "[kworker/9 80 1 2", "- 80 1 2", '"q 80 1 2', "a[b 80 1 2"]
    lake.submit_records(1, 1, custom, records(lines, custom), 0).result()
    lake.submit(1, 2, batch(*lines, "odd", at=BASE_MS + 100), 0, candidates=[custom]).result()
    assert read(lake) == [*lines, *lines, "odd"]
    assert typed(lake) == [lines[0], lines[2], lines[4]] * 2

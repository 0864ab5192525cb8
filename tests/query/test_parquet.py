"""Parquet files: AWS's columns and types, and what other writers make of them; pyarrow writes."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from asking import FOLDER, NAME, ask, write
from parquet_files import DEFAULT, RECORD, parquet

from vnotch.errors import InputError
from vnotch.query.problems import Problem


def test_records_are_read_with_awss_names_and_types(tmp_path: Path):
    found = ask("select * from flow_logs", parquet(tmp_path / "a.log.parquet"))
    assert found.rows == [RECORD]
    kinds = ask("select column_type from (describe flow_logs)", tmp_path).values
    expected = {pa.int32(): "INTEGER", pa.int64(): "BIGINT", pa.string(): "VARCHAR"}
    assert kinds == [expected[item.type] for item in DEFAULT.fields]


def test_text_and_parquet_are_one_table(tmp_path: Path):
    parquet(tmp_path / "a.parquet")
    pq.write_table(pa.table({"srcaddr": ["10.0.0.9"], "tcp_flags": pa.array([3], pa.int32())}), tmp_path / "b.parquet")
    write(tmp_path / "c.log.gz", "10.0.0.7 eu-west-1", header="srcaddr region")
    found = ask("select srcaddr, dstport, tcp_flags, region from flow_logs order by 1", tmp_path)
    assert [tuple(row.values()) for row in found.rows] == [
        ("10.0.0.7", None, None, "eu-west-1"),
        ("10.0.0.9", None, 3, None),
        ("172.31.16.139", 22, None, None),
    ]


def test_dash_is_null_where_a_writer_kept_it(tmp_path: Path):
    parquet(tmp_path / "a.parquet", [RECORD | {"srcaddr": "-"}, RECORD])
    assert ask("select srcaddr from flow_logs order by 1 nulls first", tmp_path).values == [None, RECORD["srcaddr"]]


def test_wider_integers_are_taken(tmp_path: Path):
    """AWS's own DDL for Parquet declares protocol as bigint."""
    parquet(tmp_path / "a.parquet", [RECORD | {"protocol": 2**40}], protocol=pa.int64())
    parquet(tmp_path / "b.parquet")
    assert ask("select protocol from flow_logs order by 1", tmp_path).values == [6, 2**40]


def test_unsigned_numbers_are_taken_as_far_as_a_field_holds_them(tmp_path: Path):
    parquet(tmp_path / "a.parquet", [RECORD | {"bytes": 2**63 - 1}], bytes=pa.uint64())
    parquet(tmp_path / "b.parquet", [RECORD | {"bytes": 2**63}], bytes=pa.uint64())
    found = ask("select bytes from flow_logs", tmp_path)
    assert found.values == [2**63 - 1]
    (problem,) = found.problems.of(Problem.COLUMN_TYPE)
    assert (Path(problem.file).name, problem.sample) == ("b.parquet", "bytes has a value above 9223372036854775807")


def test_dictionaries_and_large_strings_are_texts(tmp_path: Path):
    parquet(tmp_path / "a.parquet", srcaddr=pa.large_string(), action=pa.dictionary(pa.int32(), pa.string()))
    assert ask("select srcaddr, action from flow_logs", tmp_path).rows == [
        {"srcaddr": "172.31.16.139", "action": "ACCEPT"}
    ]


def test_columns_with_dashes_in_their_names_are_the_fields(tmp_path: Path):
    pq.write_table(pa.table({"flow-direction": ["egress"], "other-thing": [1.5]}), tmp_path / "a.parquet")
    found = ask("select * from flow_logs", tmp_path)
    assert found.rows == [{"flow_direction": "egress", "other_thing": "1.5"}]
    assert any("other_thing" in note for note in found.problems.notes)


def test_what_is_no_parquet_is_named_and_the_rest_is_read(tmp_path: Path):
    parquet(tmp_path / "a.parquet")
    whole = parquet(tmp_path / "b.parquet").read_bytes()
    (tmp_path / "b.parquet").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "c.parquet").write_bytes(b"")
    (tmp_path / "d.parquet").write_bytes(b"PAR1" + b"\xff" * 100 + b"\xff\xff\xff\x7fPAR1")
    (tmp_path / "e.parquet").write_bytes(b"PAR1" + b"\x01" * 100 + b"\x20\0\0\0PAR1")
    found = ask("select count(*) from flow_logs", tmp_path)
    assert found.values == [1]
    names = [Path(item.file).name for item in found.problems.of(Problem.DAMAGED_PARQUET)]
    assert names == ["b.parquet", "c.parquet", "d.parquet", "e.parquet"]


def test_damage_within_a_file_is_found_when_it_is_read(tmp_path: Path):
    """The footer is whole, the pages are not: all begins anew without the file, and the answer says so."""
    rows = [RECORD | {"srcaddr": f"10.0.{number // 256}.{number % 256}"} for number in range(5000)]
    path = parquet(tmp_path / "a.parquet", rows)
    data = bytearray(path.read_bytes())
    data[4:20_000] = b"\xff" * 19_996
    path.write_bytes(bytes(data))
    parquet(tmp_path / "b.parquet")
    found = ask("select count(distinct srcaddr) from flow_logs", tmp_path)
    assert found.values == [1]
    assert [item.file for item in found.problems.of(Problem.DAMAGED_PARQUET)] == [str(path)]


def test_columns_of_another_type_are_named(tmp_path: Path):
    parquet(tmp_path / "a.parquet", [RECORD | {"bytes": "4249"}], bytes=pa.string())
    parquet(tmp_path / "b.parquet")
    found = ask("select sum(bytes) from flow_logs", tmp_path)
    assert found.values == [4249]
    assert found.problems.of(Problem.COLUMN_TYPE)[0].sample == "bytes is string"


def test_parquet_of_something_else_is_named(tmp_path: Path):
    pq.write_table(pa.table({"x": [1]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="nothing could be read"):
        ask("select 1 from flow_logs", tmp_path)


def test_the_period_chooses_rows_and_files(tmp_path: Path):
    rows = [RECORD | {"end": end} for end in (1418529999, 1418530000, 1418530099, 1418530100)]
    parquet(tmp_path / "a.parquet", rows)
    found = ask(
        'select "end" from flow_logs order by 1', tmp_path, since="2014-12-14T04:06:40", until="2014-12-14T04:08:20"
    )
    assert found.values == [1418530000, 1418530099]


def test_parquet_without_times_is_of_its_slot(tmp_path: Path):
    for time in ("1155", "1200"):
        path = tmp_path / FOLDER.format(day="2026/01/31") / (NAME.format(time=f"20260131T{time}Z") + ".parquet")
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"srcaddr": [time]}), path)
    assert ask(
        "select srcaddr from flow_logs", tmp_path, since="2026-01-31T12:00", until="2026-01-31T12:05"
    ).values == ["1200"]


@pytest.mark.parametrize("name", ["a[1]*?.parquet", "100%41.parquet", "ü ñ.parquet", "it's.parquet", "a;b\n.parquet"])
def test_any_file_name_is_read_as_it_is(tmp_path: Path, name: str):
    folder = tmp_path / "AWSLogs" / "%2e%2e" / "year=x"
    parquet(folder / name, [RECORD | {"srcaddr": "10.9.9.9"}])
    parquet(folder / "a1x.parquet")
    assert ask("select srcaddr from flow_logs", folder / name).values == ["10.9.9.9"]
    assert len(ask("select srcaddr from flow_logs", tmp_path).rows) == 2

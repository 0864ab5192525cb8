"""A question reads the table and nothing else, within its bounds."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path

import pyarrow as pa
import pytest
from asking import RDP, SSH, ask, write
from parquet_files import RECORD, parquet

from vnotch.errors import InputError, LimitError
from vnotch.query.engine import Engine, Settings
from vnotch.query.period import Period
from vnotch.query.problems import Problems
from vnotch.query.progress import Progress
from vnotch.query.table import find_files, open_table


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    folder = tmp_path / "logs"
    write(folder / "a.log", SSH, RDP)
    parquet(folder / "b.parquet")
    return folder


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A file that no question may see or change, in a folder where nothing may appear."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret.csv").write_text("a,b\n1,2\n")
    parquet(folder / "secret.parquet")
    return folder


ATTEMPTS = [
    "copy (select 1) to '{out}/x.csv'",
    "copy (select * from flow_logs) to '{logs}/b.parquet' (format parquet)",
    "copy flow_logs from '{out}/secret.csv'",
    "attach '{out}/x.duckdb'",
    "attach '{out}/x.duckdb' as y; select 1",
    "install httpfs",
    "load httpfs",
    "set memory_limit = '100GB'",
    "set enable_external_access = true",
    "reset lock_configuration",
    "pragma enable_profiling",
    "pragma profiling_output = '{out}/x.json'",
    "export database '{out}/x'",
    "import database '{out}'",
    "create table x as select 1",
    "create or replace view flow_logs as select 1 as a",
    "drop view flow_logs",
    "insert into flow_logs select 1",
    "delete from flow_logs",
    "call enable_logging(storage = 'file', storage_path = '{out}')",
    "checkpoint",
    "vacuum",
    "begin",
    "create secret (type s3)",
    "prepare x as select 1",
    "select 1; select 2",
    "explain copy (select 1) to '{out}/x.csv'",
    "explain analyze copy (select 1) to '{out}/x.csv'",
    "select * from read_csv('{out}/secret.csv')",
    "select * from read_parquet('{out}/secret.parquet')",
    "select * from read_parquet('{logs}/b.parquet')",
    "select * from parquet_scan(['{out}/secret.parquet'])",
    "select * from parquet_metadata('{out}/secret.parquet')",
    "select * from read_text('{out}/secret.csv')",
    "select * from read_blob('{out}/*')",
    "select * from read_json('{out}/secret.csv')",
    "select * from glob('{out}/*')",
    "select * from sniff_csv('{out}/secret.csv')",
    "select * from '{out}/secret.csv'",
    "select * from '{out}/secret.parquet'",
    'select * from "{out}/secret.parquet"',
    "select (select count(*) from glob('{out}/*')) from flow_logs",
    "with x as (from read_text('{out}/secret.csv')) select * from x",
    "from flow_logs where srcaddr in (select content from read_text('{out}/secret.csv'))",
    "select * from query('select * from read_text(''{out}/secret.csv'')')",
    "select * from query_table('{out}/secret.csv')",
    "select * from enable_logging(storage = 'file', storage_path = '{out}')",
    "select * from duckdb_secrets()",
    "select * from duckdb_settings()",
    "select * from json_execute_serialized_sql(json_serialize_sql('select 1'))",
    "select * from arrow_scan(1::ubigint, 1::ubigint, 1::ubigint)",
    "select * from python_variable",
    "select write_log('x')",
    "describe select * from '{out}/secret.csv'",
    "summarize '{out}/secret.parquet'",
    "pivot (from read_csv('{out}/secret.csv')) on a in (1) using sum(b)",
    "",
    ";",
    "select",
]


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_what_is_no_question_is_refused_and_touches_nothing(logs: Path, outside: Path, attempt: str):
    python_variable = pa.table({"a": [1]})  # noqa: F841 - DuckDB could see it, if it looked
    before = sorted((path, path.read_bytes()) for path in (*outside.iterdir(), *logs.iterdir()))
    with pytest.raises(InputError):
        ask(attempt.format(out=outside, logs=logs), logs)
    assert sorted((path, path.read_bytes()) for path in (*outside.iterdir(), *logs.iterdir())) == before


LOCKED = [sql for sql in ATTEMPTS if "{out}" in sql and "explain" not in sql and "enable_logging" not in sql]
"""Attempts at files. DuckDB's logging to a file is refused too, but only when the first line is logged, and nothing
after that is answered; EXPLAIN ANALYZE of a COPY is in the list as COPY."""


@pytest.mark.parametrize("attempt", LOCKED)
def test_duckdb_itself_is_locked_where_the_check_of_statements_would_fail(
    logs: Path, outside: Path, attempt: str, monkeypatch: pytest.MonkeyPatch
):
    """The second lock alone: no file appears and none of outside is read."""
    monkeypatch.setattr("vnotch.query.engine.check_statement", lambda connection, sql: None)
    before = sorted((path, path.read_bytes()) for path in (*outside.iterdir(), *logs.iterdir()))
    try:
        rows = ask(attempt.format(out=outside, logs=logs), logs).rows
    except Exception as error:
        rows = [{"error": type(error).__name__}]
    assert "1,2" not in str(rows)
    assert RECORD["srcaddr"] not in str(rows)
    assert sorted((path, path.read_bytes()) for path in (*outside.iterdir(), *logs.iterdir())) == before


@pytest.mark.parametrize(
    "sql",
    [
        "select count(*) from flow_logs",
        "from flow_logs select count(*)",
        "with x as (select * from flow_logs) select count(*) from x",
        "select count(*) from (table flow_logs)",
        "-- a comment\nselect count(*) from flow_logs;",
        "select count(*) from flow_logs, unnest([1]) union all select count(*) from range(0)",
    ],
)
def test_questions_of_any_form_are_answered(logs: Path, sql: str):
    assert ask(sql, logs).values[0] == 3


def test_a_question_can_be_explained_and_described(logs: Path):
    assert "flow" in str(ask("explain select srcaddr from flow_logs", logs).rows) or ask("explain select 1", logs).rows
    assert len(ask("describe flow_logs", logs).rows) == 14
    assert len(ask("summarize flow_logs", logs).rows) == 14
    assert ask("pivot flow_logs on action in ('ACCEPT', 'REJECT') using count(*) group by version", logs).rows[0] == {
        "version": 2, "ACCEPT": 2, "REJECT": 1,
    }  # fmt: skip


def test_a_table_may_be_read_more_than_once(logs: Path):
    sql = "select count(*) from flow_logs a join flow_logs b on a.srcaddr = b.srcaddr"
    assert ask(sql, logs).values == [5]  # SSH twice with itself and each other, RDP once


def test_conditions_of_every_kind_are_answered_alike_in_text_and_parquet(tmp_path: Path):
    """What DuckDB pushes down to our scanner is what it would have done itself."""
    rows = [RECORD | {"srcport": port, "srcaddr": f"10.0.0.{port}", "instance": None} for port in range(50)]
    parquet(tmp_path / "p" / "a.parquet", rows)
    lines = [SSH.replace("20641", str(port)).replace("172.31.16.139", f"10.0.0.{port}") for port in range(50)]
    write(tmp_path / "t" / "a.log.gz", *lines)
    for condition in (
        "srcport = 7", "srcport <> 7", "srcport between 3 and 9", "srcport in (1, 2, 99)", "srcaddr like '10.0.0.4%'",
        "srcaddr = '10.0.0.3' or dstport = 23", "srcaddr is null", "srcaddr is not null and srcport > 40",
        "not (srcport < 45)", "bytes / packets > 1", "srcaddr >= '10.0.0.5'", "srcaddr in ('10.0.0.1', 'x''y')",
        "\"end\" - start = 60 and srcport % 7 = 0", "true", "false",
    ):  # fmt: skip
        counts = [ask(f"select count(*) from flow_logs where {condition}", tmp_path / kind).values for kind in "pt"]
        assert counts[0] == counts[1], condition


def test_a_parameter_is_a_value_and_never_sql(logs: Path):
    sql = "select count(*) from flow_logs where srcaddr = $address"
    assert ask(sql, logs, parameters={"address": "172.31.9.69"}).values == [1]
    assert ask(sql, logs, parameters={"address": "' or true --"}).values == [0]


def test_a_field_that_the_format_lacks_is_named(logs: Path):
    with pytest.raises(InputError, match=r"the format of these flow logs has no tcp-flags.*they have: version"):
        ask("select tcp_flags from flow_logs", logs)
    with pytest.raises(InputError, match="sourceaddr"):
        ask("select sourceaddr from flow_logs", logs)
    assert ask("select tcp_flags from flow_logs", logs, extra=["tcp_flags"]).values == [None] * 3


def test_columns_that_look_like_sql_are_names(tmp_path: Path):
    write(tmp_path / "a.log", "10.0.0.1 1", header="srcaddr select")
    parquet(tmp_path / "b.parquet")
    assert sorted(map(str, ask('select "select" from flow_logs', tmp_path).values)) == ["1", "None"]


def test_a_question_that_takes_too_long_is_ended(tmp_path: Path):
    write(tmp_path / "a.log", *[SSH] * 2000)
    joined = "flow_logs a, flow_logs b, flow_logs c, flow_logs d"
    sql = f"select count(*) from {joined} where a.bytes + b.bytes > c.bytes + d.bytes"
    with pytest.raises(LimitError, match="no answer within"):
        ask(sql, tmp_path, timeout_seconds=0.5)


def test_memory_is_bounded_and_what_does_not_fit_is_spilled(tmp_path: Path):
    lines = [SSH.replace("20641", str(number % 60_000)).replace("4249", str(number)) for number in range(300_000)]
    write(tmp_path / "a.log", *lines)
    found = ask(
        "select count(*) from (select *, row_number() over (order by bytes desc) as r from flow_logs) where r > 0",
        tmp_path,
        memory_bytes=64_000_000,
    )
    assert found.values == [300_000]


def test_nothing_is_left_behind(logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    ask("select srcaddr from flow_logs limit 1", logs)
    with pytest.raises(InputError):
        ask("copy flow_logs to 'x'", logs)
    assert list(temporary.iterdir()) == []
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("vnotch-")] == []


def test_an_answer_that_is_not_taken_to_the_end_can_be_closed(tmp_path: Path):
    write(tmp_path / "a.log", *[SSH] * 500_000)
    problems, progress, period = Problems(), Progress(), Period()
    table = open_table(find_files([str(tmp_path)], period, problems), period, None, problems, progress)
    engine = Engine(table, period, None, None, Settings(200_000_000, 2), problems, progress)
    answer = engine.ask("select srcport from flow_logs")
    next(answer.batches)
    engine.close()


def test_progress_counts_bytes_and_rows(tmp_path: Path):
    path = write(tmp_path / "a.log.gz", *[SSH] * 1000)
    problems, progress, period = Problems(), Progress(), Period()
    table = open_table(find_files([str(tmp_path)], period, problems), period, None, problems, progress)
    engine = Engine(table, period, None, None, Settings(200_000_000, 2), problems, progress)
    try:
        list(engine.ask("select sum(bytes) from flow_logs").batches)
    finally:
        engine.close()
    assert progress.bytes_total == progress.bytes_done == path.stat().st_size
    assert progress.rows == 1000


def test_progress_of_parquet_is_duckdbs_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("vnotch.query.engine._TICK_SECONDS", 0.001)
    rows = [RECORD | {"srcaddr": f"10.{number % 200}.{number % 250}.{number % 240}"} for number in range(200_000)]
    path = parquet(tmp_path / "a.parquet", rows)
    problems, progress, period = Problems(), Progress(), Period()
    table = open_table(find_files([str(tmp_path)], period, problems), period, None, problems, progress)
    engine = Engine(table, period, None, None, Settings(200_000_000, 2), problems, progress)
    seen = set()
    try:
        sql = "select count(distinct srcaddr || srcport || dstaddr), count(distinct srcaddr || bytes) from flow_logs"
        list(engine.ask(sql, waiting=lambda: seen.add(progress.bytes_done)).batches)
    finally:
        engine.close()
    assert progress.bytes_total == path.stat().st_size
    assert max(seen) > 0

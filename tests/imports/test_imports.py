"""Importing files into a log group: every record, once, whatever comes between; what is missing is named."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from asking import HEADER, write
from flow_log_trees import DAY, DEFAULT, fill, line, many, name, parquet_file, text_file
from lakes import new_lake

from vnotch.api.log_imports import LogImports
from vnotch.api.logs import Logs
from vnotch.coded import plain_table
from vnotch.errors import InputError
from vnotch.imports import parts as parting
from vnotch.imports.body import part_schema, read_part, write_part
from vnotch.imports.parts import FileParts, Part, file_id
from vnotch.imports.run import Import, Result
from vnotch.imports.service import LogService, PartRefused
from vnotch.line import parse_lines, record_lines
from vnotch.query import files as query_files
from vnotch.query import text as query_text
from vnotch.query.files import LocalFiles, LogFile
from vnotch.query.period import Period
from vnotch.query.problems import Problem, Problems
from vnotch.query.progress import Progress
from vnotch.query.table import find_files
from vnotch.signed_http import NoAnswer, Refused, SignedHttp

GROUP = "old/logs"


@pytest.fixture
def logs(api: Any, tmp_path: Path) -> Iterator[Any]:
    """boto3's client of the log service."""
    lake = new_lake(tmp_path / "lake")
    api.serve(Logs(api.state, lake), routes=LogImports(api.state, lake).routes())
    client = api.client("logs")
    client.create_log_group(logGroupName=GROUP)
    yield client
    lake.close()


@pytest.fixture
def connect(api: Any, logs: Any) -> Callable[[], LogService]:
    key = api.administrator_key
    return lambda: LogService(SignedHttp(api.endpoint, "us-east-1", *key), GROUP, sleep=lambda seconds: None)


def imported(
    connect: Callable[[], LogService], *sources: Path, stream: str | None = None, problems: Problems | None = None
) -> Result:
    problems = Problems() if problems is None else problems
    files = find_files([str(source) for source in sources], Period(), problems)
    return Import(connect, None, stream, problems, Progress()).run(files)


def messages(logs: Any, group: str = GROUP) -> Counter[str]:
    pages = logs.get_paginator("filter_log_events").paginate(logGroupName=group)
    return Counter(event["message"] for page in pages for event in page["events"])


def lines(count: int) -> list[str]:
    return [line(number) for number in range(count)]


@pytest.mark.parametrize("suffix", [".log.gz", ".log.parquet"])
def test_every_record_is_there_once_under_its_interface(
    tmp_path: Path, logs: Any, connect: Callable[[], LogService], suffix: str
):
    """AWS: a stream an interface, and an event has the time of the record's start, in milliseconds."""
    fill(tmp_path / "logs" / DAY, many(3, 40, suffix))
    result = imported(connect, tmp_path / "logs")
    assert (result.files, result.records) == (3, 120)
    assert messages(logs) == Counter(lines(120))
    streams = [item["logStreamName"] for item in logs.describe_log_streams(logGroupName=GROUP)["logStreams"]]
    assert streams == [f"eni-{number:017x}-all" for number in range(3)]
    events = logs.get_log_events(logGroupName=GROUP, logStreamName=streams[1], startFromHead=True)["events"]
    assert all(event["timestamp"] == int(event["message"].split()[10]) * 1000 for event in events)
    assert [event["timestamp"] for event in events] == sorted(event["timestamp"] for event in events)


def test_a_repeat_changes_nothing(tmp_path: Path, logs: Any, connect: Callable[[], LogService]):
    fill(tmp_path / "logs" / DAY, many(3, 40))
    imported(connect, tmp_path / "logs")
    again = imported(connect, tmp_path / "logs")
    assert (again.files, again.files_before, again.records) == (0, 3, 0)
    (tmp_path / "logs").rename(tmp_path / "elsewhere")
    fill(tmp_path / "elsewhere" / DAY, {name("20260131T1210Z", "0000000a"): text_file([line(999)])})
    more = imported(connect, tmp_path / "elsewhere")
    assert (more.files, more.files_before, more.records) == (1, 3, 1)
    assert messages(logs) == Counter([*lines(120), line(999)])


def test_logs_of_any_age_are_taken_and_those_beyond_the_retention_are_counted(
    tmp_path: Path, logs: Any, connect: Callable[[], LogService]
):
    """PutLogEvents takes no event older than 14 days; these are of 2014, and of now."""
    old = line(1).replace(str(1769860801), "1418530010")
    now = int(time.time())
    new = line(2).replace(str(1769860802), str(now - 60)).replace("1769860860", str(now))
    fill(tmp_path / DAY, {name("20260131T1200Z", "00000001"): text_file([old, new])})
    assert imported(connect, tmp_path / DAY).records == 2
    assert messages(logs) == Counter([old, new])
    logs.create_log_group(logGroupName="short")
    logs.put_retention_policy(logGroupName="short", retentionInDays=7)
    service = connect()
    service._group = "short"
    result = imported(lambda: service, tmp_path / DAY)
    assert (result.records, result.expired) == (1, 1)
    assert messages(logs, "short") == Counter([new])


class Breaking(LogService):
    """The connection goes at the n-th part, before or after it was stored."""

    left = 0
    after = False

    def put(self, file_id: str, part: Part) -> dict[str, int]:
        Breaking.left -= 1
        if Breaking.left < 0:
            raise NoAnswer("gone")
        if Breaking.left == 0 and not Breaking.after:
            raise NoAnswer("gone")
        counted = super().put(file_id, part)
        if Breaking.left == 0:
            raise NoAnswer("gone")
        return counted


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("dies_at", [1, 2, 4])
def test_an_import_that_ended_is_taken_up(
    api: Any, tmp_path: Path, logs: Any, connect: Callable[[], LogService], monkeypatch: pytest.MonkeyPatch,
    dies_at: int, after: bool,
):  # fmt: skip
    monkeypatch.setattr(parting, "PART_ROWS", 10)
    fill(tmp_path / "logs" / DAY, many(2, 35))
    Breaking.left, Breaking.after = dies_at, after
    breaking = lambda: Breaking(SignedHttp(api.endpoint, "us-east-1", *api.administrator_key), GROUP)  # noqa: E731
    with pytest.raises(NoAnswer):
        imported(breaking, tmp_path / "logs")
    imported(connect, tmp_path / "logs")
    assert messages(logs) == Counter(lines(70))


def test_two_imports_at_once_take_each_file_once(tmp_path: Path, logs: Any, connect: Callable[[], LogService]):
    fill(tmp_path / "logs" / DAY, many(4, 50))
    threads = [threading.Thread(target=imported, args=(connect, tmp_path / "logs")) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert messages(logs) == Counter(lines(200))


def test_files_of_several_formats_keep_theirs(tmp_path: Path, logs: Any, connect: Callable[[], LogService]):
    custom = "10.0.0.1 eni-0000000000000000a 1769860800 ACCEPT"
    write(tmp_path / "a.log.gz", custom, header="srcaddr interface-id start action")
    write(tmp_path / "b.log.gz", line(1))
    imported(connect, tmp_path)
    assert messages(logs) == Counter([custom, line(1)])


def test_records_without_interface_or_time_have_their_files(tmp_path: Path, logs: Any, connect: Any):
    fill(tmp_path, {name("20260131T1205Z", "00000001"): text_file(["10.0.0.1 10.0.0.2"], "srcaddr dstaddr")})
    imported(connect, tmp_path)
    (stream,) = logs.describe_log_streams(logGroupName=GROUP)["logStreams"]
    assert stream["logStreamName"] == "fl-1234abcd-all"
    assert stream["firstEventTimestamp"] == 1769861100000, "2026-01-31 12:05"


def test_a_file_without_any_time_is_named(tmp_path: Path, logs: Any, connect: Any):
    fill(tmp_path, {"a.log.gz": text_file(["10.0.0.1 10.0.0.2"], "srcaddr dstaddr")})
    problems = Problems()
    imported(connect, tmp_path, problems=problems)
    (problem,) = problems.of(Problem.UNDATED)
    assert problem.sample == "no start, no end, and no time in the file's name"
    assert messages(logs) == Counter()


def test_one_stream_for_all(tmp_path: Path, logs: Any, connect: Callable[[], LogService]):
    fill(tmp_path, many(1, 30))
    imported(connect, tmp_path, stream="all of it")
    (stream,) = logs.describe_log_streams(logGroupName=GROUP)["logStreams"]
    assert stream["logStreamName"] == "all of it"


def test_what_cannot_be_read_is_named_and_the_rest_is_there(tmp_path: Path, logs: Any, connect: Any):
    files = many(3, 300)
    truncated, damaged = sorted(files)[1], name("20260131T1200Z", "0000000b", ".log.parquet")
    whole = files[truncated]
    files[truncated] = whole[: len(whole) // 2]
    files[damaged] = parquet_file([line(1)])[:200]
    odd = [line(1000), "2 too few", line(1001).replace(" 443 ", " 443x "), line(1002).replace("ACCEPT", "MAYBE")]
    files[name("20260131T1200Z", "0000000c")] = text_file(odd)
    files[name("20260131T1200Z", "0000000d")] = text_file(["1 2"], "srcaddr colour")
    fill(tmp_path / DAY, files)
    problems = Problems()
    imported(connect, tmp_path / DAY, problems=problems)
    assert [Path(item.file).name for item in problems.of(Problem.TRUNCATED)] == [truncated]
    assert [Path(item.file).name for item in problems.of(Problem.DAMAGED_PARQUET)] == [damaged]
    assert [item.lines for item in problems.of(Problem.WRONG_COUNT)] == [1]
    assert [item.lines for item in problems.of(Problem.WRONG_VALUE)] == [1]
    assert "colour" in problems.of(Problem.BAD_HEADER)[0].sample
    found = messages(logs)
    assert set(found.values()) == {1}
    assert set(lines(300)) | {line(1000)} <= set(found)
    # Mended, it gives what it has more, and nothing twice.
    fill(tmp_path / DAY, {truncated: whole})
    imported(connect, tmp_path / DAY / truncated)
    assert set(lines(900)) <= set(messages(logs))


def parquet_of(**columns: pa.Array) -> bytes:
    known = {"version": pa.array([2], pa.int32()), "srcaddr": pa.array(["10.0.0.1"]), "bytes": pa.array([77])}
    known |= {"start": pa.array([1_769_860_800]), "end": pa.array([1_769_860_860]), "action": pa.array(["ACCEPT"])}
    out = pa.BufferOutputStream()
    pq.write_table(pa.table(known | columns), out)
    return out.getvalue().to_pybytes()


def test_columns_of_types_that_no_field_has_leave_their_file_out_and_the_others_are_there(
    tmp_path: Path, logs: Any, connect: Any
):
    """A list cannot be cast at all; a time or a truth value could be, to a number that means nothing."""
    moment = pa.array([datetime(2026, 1, 31, tzinfo=UTC)])
    files = {
        "list.parquet": parquet_of(action=pa.array([["ACCEPT"]])),
        "struct.parquet": parquet_of(srcaddr=pa.array([{"a": "10.0.0.1"}])),
        "time.parquet": parquet_of(start=moment),
        "truth.parquet": parquet_of(bytes=pa.array([True])),
    }
    out = pa.BufferOutputStream()
    twice = [pa.array(["ACCEPT"]), pa.array(["REJECT"]), pa.array([1_769_860_800])]
    pq.write_table(pa.table(twice, names=["action", "action", "start"]), out)
    files["twice.parquet"] = out.getvalue().to_pybytes()
    files["z-views.parquet"] = parquet_of(action=pa.array(["REJECT"], pa.string_view()))
    fill(tmp_path, files)
    problems = Problems()
    imported(connect, tmp_path, problems=problems)
    wrong = [Path(item.file).name for item in problems.of(Problem.COLUMN_TYPE)]
    assert sorted(wrong) == ["list.parquet", "struct.parquet", "time.parquet", "truth.parquet"]
    assert [Path(item.file).name for item in problems.of(Problem.BAD_HEADER)] == ["twice.parquet"]
    assert messages(logs) == {"2 10.0.0.1 77 1769860800 1769860860 REJECT": 1}


def test_a_group_that_is_not_there_is_named(api: Any, tmp_path: Path, connect: Any):
    fill(tmp_path, many(1, 1))
    service = connect()
    service._group = "missing"
    with pytest.raises(Refused, match="log group does not exist"):
        imported(lambda: service, tmp_path)


def test_who_may_not_put_events_imports_nothing(api: Any, tmp_path: Path, logs: Any):
    fill(tmp_path, many(1, 1))
    user = api.client("iam")
    user.create_user(UserName="reader")
    key = user.create_access_key(UserName="reader")["AccessKey"]
    http = SignedHttp(api.endpoint, "us-east-1", key["AccessKeyId"], key["SecretAccessKey"])
    with pytest.raises(Refused, match="logs:PutLogEvents"):
        imported(lambda: LogService(http, GROUP), tmp_path)
    assert not messages(logs)


def part_of(*records: tuple[str, int, str]) -> pa.Table:
    table = parse_lines(pa.array([text for _, _, text in records]), DEFAULT)
    first = [pa.array([stream for stream, _, _ in records]), pa.array([time for _, time, _ in records], pa.int64())]
    return pa.table([*first, *table.columns], schema=part_schema(DEFAULT))


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ([("a", 2, line(1)), ("a", 1, line(2))], "chronological"),
        ([("a", 1, line(1)), ("b", 1, line(2)), ("a", 2, line(3))], "follow one another"),
        ([("a:b", 1, line(1))], "neither : nor"),
        ([("", 1, line(1))], "1 to 512"),
        ([("a", -1, line(1))], "not negative"),
    ],
)
def test_parts_that_are_not_right_are_refused(connect: Any, records: list[tuple[str, int, str]], words: str):
    with pytest.raises(PartRefused, match=words):
        connect().put("0" * 32, Part(0, DEFAULT, part_of(*records)))


def test_bodies_that_are_not_right_are_refused():
    good = bytes(write_part(part_of(("a", 1, line(1))), DEFAULT))
    assert read_part(good)[0].num_rows == 1
    for bad in (b"", b"nonsense", good[: len(good) // 2], good[:100] + b"\xff" * 50 + good[150:]):
        with pytest.raises(InputError):
            read_part(bad)
    sink = pa.BufferOutputStream()
    schema = part_schema(DEFAULT).with_metadata({"vnotch.format": DEFAULT.text})
    with pa.ipc.new_stream(sink, schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(part_of(*[("a", 1, line(1))] * 50).cast(schema))
    with pytest.raises(InputError, match="compressed"):
        read_part(sink.getvalue().to_pybytes())


def test_a_file_has_the_same_parts_whenever_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parting, "PART_ROWS", 16)
    fill(tmp_path, many(1, 100))
    (path,) = tmp_path.iterdir()
    file = LogFile(LocalFiles(), str(path), str(path), path.stat().st_size)

    def bodies() -> list[memoryview]:
        return [write_part(part.records, part.format) for part in FileParts(file, None, None, Problems(), Progress())]

    assert len(bodies()) == 7
    assert bodies() == bodies()
    copy = tmp_path / "copy" / path.name
    copy.parent.mkdir()
    copy.write_bytes(path.read_bytes())
    assert file_id(LogFile(LocalFiles(), "x", str(copy), copy.stat().st_size)) == file_id(file)


@pytest.mark.parametrize("odd", ["", "nonsense", HEADER, line(7).replace("443", "0443")])
def test_the_parts_are_the_same_however_a_file_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, odd: str):
    """From a bucket it may come in other pieces, and as it was half imported it must be completed."""
    monkeypatch.setattr(parting, "PART_ROWS", 30)
    monkeypatch.setattr(parting, "GATHERED_ROWS", 100)
    path = tmp_path / name("20260131T1200Z", "00000001")
    lines = [line(number * 13 % 1000) for number in range(1000)]
    path.write_bytes(text_file([*lines[:321], odd, lines[321], odd, *lines[322:]]))

    def parts(chunk_bytes: int, gzip_bytes: int, gathered_bytes: int) -> list[memoryview]:
        monkeypatch.setattr(query_files, "CHUNK_BYTES", chunk_bytes)
        monkeypatch.setattr(query_text, "_GZIP_BYTES", gzip_bytes)
        monkeypatch.setattr(query_text, "_GATHERED_BYTES", gathered_bytes)
        file = LogFile(LocalFiles(), str(path), str(path), path.stat().st_size)
        found = list(FileParts(file, None, None, Problems(), Progress()))
        assert [part.number for part in found] == list(range(len(found)))
        got = [text for part in found for text in record_lines(plain_table(part.records), DEFAULT).to_pylist()]
        assert Counter(got) == Counter(lines + ([odd.replace("0443", "443")] * 2 if "ACCEPT" in odd else []))
        return [write_part(part.records, part.format) for part in found]

    whole = parts(1 << 20, 1 << 20, 1 << 20)
    assert [read_part(body)[0].num_rows for body in whole[:8]] == [25] * 8
    for sizes in ((1000, 100, 2000), (333, 1000, 100), (7, 5, 1), (1 << 20, 1 << 16, 5000)):
        assert parts(*sizes) == whole


def test_the_command_imports_and_says_so(
    api: Any, logs: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    from vnotch.__main__ import main
    from vnotch.config import Folders

    data = tmp_path / "data"
    data.mkdir()
    key_id, secret = api.administrator_key
    document = {"access_key_id": key_id, "secret_access_key": secret, "region": "us-east-1", "account": "123456789012"}
    Folders(data).credentials.write_text(json.dumps(document))
    fill(tmp_path / "logs" / DAY, many(2, 10))

    def run(*arguments: str) -> tuple[int, str, str]:
        where = ["--data-dir", str(data), "--endpoint-url", api.endpoint]
        monkeypatch.setattr(sys, "argv", ["vnotch", "import", str(tmp_path / "logs"), *arguments, *where])
        with pytest.raises(SystemExit) as left:
            main()
        return int(left.value.code or 0), *capfd.readouterr()

    status, _, err = run("--log-group", "fresh")
    assert (status, "there is no log group fresh" in err, "--create" in err) == (2, True, True)
    status, out, _ = run("--log-group", "fresh", "--create")
    assert (status, out) == (0, "20 records of 2 files are in fresh\n")
    status, out, _ = run("--log-group", "fresh", "--json")
    assert (status, json.loads(out)["files_before"]) == (0, 2)
    fill(tmp_path / "logs" / DAY, {name("20260131T1200Z", "000000ff"): b"\x1f\x8bnot gzip"})
    status, _, err = run("--log-group", "fresh")
    assert (status, "not everything is imported" in err) == (3, True)


def test_a_stream_that_a_policy_denies_is_not_imported_into(api: Any, logs: Any) -> None:
    group = f"arn:aws:logs:us-east-1:123456789012:log-group:{GROUP}"
    statements = [
        {"Effect": "Allow", "Action": "logs:*", "Resource": f"{group}:*"},
        {"Effect": "Deny", "Action": "logs:PutLogEvents", "Resource": f"{group}:log-stream:b"},
        {"Effect": "Deny", "Action": "logs:CreateLogStream", "Resource": f"{group}:log-stream:c"},
    ]
    iam = api.client("iam")
    iam.create_user(UserName="ana")
    document = json.dumps({"Version": "2012-10-17", "Statement": statements})
    iam.put_user_policy(UserName="ana", PolicyName="p", PolicyDocument=document)
    made = iam.create_access_key(UserName="ana")["AccessKey"]
    http = SignedHttp(api.endpoint, "us-east-1", made["AccessKeyId"], made["SecretAccessKey"])
    service = LogService(http, GROUP, sleep=lambda seconds: None)
    now_s = int(time.time())
    service.put("0" * 32, Part(0, DEFAULT, part_of(("a", now_s, line(1)))))
    for denied in ("b", "c"):
        records = part_of(("a", now_s, line(2)), (denied, now_s, line(3)))
        with pytest.raises((Refused, PartRefused), match="not authorized to perform: logs:"):
            service.put("1" * 32, Part(0, DEFAULT, records))
    streams = [stream["logStreamName"] for stream in logs.describe_log_streams(logGroupName=GROUP)["logStreams"]]
    assert streams == ["a"]
    assert sum(messages(logs).values()) == 1

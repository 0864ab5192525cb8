"""Deliveries of typed records over HTTP: PutLogEvents' rules and permissions, and nothing but well-formed records."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from lakes import new_lake
from test_iam import user_key

from tests.store.test_records import DEFAULT, LINES
from vnotch.api.log_records import LogRecords
from vnotch.api.logs import Logs
from vnotch.deliver.record_body import write_body
from vnotch.fields import Format, parse_format
from vnotch.line import parse_lines
from vnotch.store.lake import Lake

PATH = "/vnotch/v1/log-records"
QUERY = "group=flow&stream=eni-1-all"
DAY_MS = 86_400_000


@pytest.fixture
def lake(tmp_path: Any) -> Iterator[Lake]:
    lake = new_lake(tmp_path / "lake")
    yield lake
    lake.close()


@pytest.fixture
def logs(api: Any, lake: Lake) -> Any:
    service = Logs(api.state, lake)
    api.serve(service, routes=LogRecords(service).routes())
    client = api.client("logs")
    client.create_log_group(logGroupName="flow")
    client.create_log_stream(logGroupName="flow", logStreamName="eni-1-all")
    return client


def now_ms() -> int:
    return int(time.time() * 1000)


def records(lines: list[str], format: Format = DEFAULT, times: list[int] | None = None) -> pa.Table:
    stamps = times or [now_ms() + number for number in range(len(lines))]
    return parse_lines(pa.array(lines), format).add_column(0, "timestamp", pa.array(stamps, pa.int64()))


def put(api: Any, body: bytes, query: str = QUERY, key: Any = None, **headers: str) -> tuple[int, dict[str, Any]]:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = api.send("vnotch", body, key, path=PATH, query=query, headers=sent)
    return answer.status_code, answer.json()


def messages(logs: Any, stream: str = "eni-1-all") -> list[str]:
    found = logs.get_log_events(logGroupName="flow", logStreamName=stream, startFromHead=True)["events"]
    return [event["message"] for event in found]


def test_records_are_events_as_soon_as_they_are_acknowledged(api: Any, logs: Any, lake: Lake) -> None:
    custom = parse_format("${dstport} ${srcaddr} ${x-rule-id} ${end} ${start}")
    other = ["22 2001:db8::1 acl-1/ingress/* 5 4", "- - - 5 4"]
    assert put(api, write_body(records(LINES), DEFAULT)) == (200, {})
    assert put(api, write_body(records(other, custom), custom)) == (200, {})
    assert messages(logs) == [*LINES, *other]
    assert lake.status()["stored_records"] == len(LINES) + 2
    (stream,) = logs.describe_log_streams(logGroupName="flow")["logStreams"]
    assert now_ms() - 60_000 < stream["lastEventTimestamp"] < now_ms() + 60_000
    found = logs.filter_log_events(logGroupName="flow", filterPattern='"2001:db8::1"')["events"]
    assert [event["message"] for event in found] == other[:1]


def test_text_comes_as_codes_or_as_such_and_is_the_same_batch(api: Any, logs: Any) -> None:
    plain = records(LINES)
    texts = ["172.31.16.139", "172.31.9.69", "2001:db8:1234:a100:8d6e:3477:df66:f105", "10.9.9.9"]
    codes = pa.DictionaryArray.from_arrays(pa.array([0, 1, None, None, 2], pa.int8()), pa.array(texts))
    coded = plain.set_column(plain.column_names.index("srcaddr"), "srcaddr", codes)
    named = {"vnotch.format": DEFAULT.text}
    for body in (
        stream_of(coded, named),
        stream_of(plain, named),
        write_body(plain, DEFAULT),
        write_body(coded, DEFAULT),
    ):
        assert put(api, body, x_vnotch_batch_id="a") == (200, {})
    assert messages(logs) == LINES


def test_a_batch_that_comes_again_counts_once(api: Any, logs: Any) -> None:
    body = write_body(records(LINES), DEFAULT)
    for _ in range(2):
        assert put(api, body, x_vnotch_batch_id="a,b", x_vnotch_batch_events="2,3") == (200, {})
    assert messages(logs) == LINES
    status, answer = put(api, body, x_vnotch_batch_id="a,b", x_vnotch_batch_events="2,2")
    assert (status, answer["__type"]) == (400, "InvalidParameterException")


def test_times_are_bounded_as_in_put_log_events(api: Any, logs: Any) -> None:
    now = now_ms()
    times = [now - 15 * DAY_MS, now - 1000, now, now + 3 * 3_600_000]
    status, answer = put(api, write_body(records(LINES[:4], times=times), DEFAULT))
    assert (status, answer) == (
        200,
        {"rejectedLogEventsInfo": {"tooNewLogEventStartIndex": 3, "tooOldLogEventEndIndex": 1}},
    )
    assert messages(logs) == LINES[1:3]
    for wrong in ([now - 2 * DAY_MS, now], [now, now - 1], [-1, now]):
        status, answer = put(api, write_body(records(LINES[:2], times=wrong), DEFAULT))
        assert (status, answer["__type"]) == (400, "InvalidParameterException")


def test_a_missing_stream_is_made_only_when_asked_for(api: Any, logs: Any) -> None:
    body = write_body(records(LINES), DEFAULT)
    for query in ("group=flow&stream=new", "group=none&stream=new&create=true"):
        status, answer = put(api, body, query)
        assert (status, answer["__type"]) == (400, "ResourceNotFoundException")
    assert put(api, body, "create=true&group=flow&stream=new") == (200, {})
    assert messages(logs, "new") == LINES


def test_what_is_known_of_a_stream_is_forgotten_when_it_changes(api: Any, logs: Any) -> None:
    body = write_body(records(LINES), DEFAULT)
    assert put(api, body) == (200, {})
    logs.delete_log_stream(logGroupName="flow", logStreamName="eni-1-all")
    assert put(api, body)[1]["__type"] == "ResourceNotFoundException"
    assert put(api, body, QUERY + "&create=true") == (200, {})
    assert messages(logs) == LINES
    logs.put_retention_policy(logGroupName="flow", retentionInDays=1)
    old = write_body(records(LINES[:1], times=[now_ms() - 2 * DAY_MS]), DEFAULT)
    assert put(api, old) == (200, {"rejectedLogEventsInfo": {"expiredLogEventEndIndex": 1}})
    logs.delete_log_group(logGroupName="flow")
    assert put(api, body, QUERY + "&create=true")[1]["__type"] == "ResourceNotFoundException"
    logs.create_log_group(logGroupName="flow")
    assert put(api, body, QUERY + "&create=true") == (200, {})
    assert messages(logs) == LINES


def test_it_needs_the_permissions_of_put_log_events_on_that_stream(api: Any, logs: Any) -> None:
    iam = api.client("iam")
    iam.create_user(UserName="writer")
    made = iam.create_access_key(UserName="writer")["AccessKey"]
    key = (made["AccessKeyId"], made["SecretAccessKey"])
    body = write_body(records(LINES), DEFAULT)

    def allow(*actions: str) -> None:
        resource = "arn:aws:logs:us-east-1:123456789012:log-group:flow:log-stream:eni-*"
        statement = {"Effect": "Allow", "Action": actions, "Resource": resource}
        document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        iam.put_user_policy(UserName="writer", PolicyName="p", PolicyDocument=document)

    def outcome(query: str) -> str | None:
        return put(api, body, query, key)[1].get("__type")

    assert outcome(QUERY) == "AccessDeniedException"
    allow("logs:PutLogEvents")
    assert outcome(QUERY) is None
    assert outcome("group=flow&stream=other") == "AccessDeniedException"
    assert outcome("group=flow&stream=eni-2-all&create=true") == "AccessDeniedException"
    allow("logs:PutLogEvents", "logs:CreateLogStream")
    assert outcome("group=flow&stream=eni-2-all&create=true") is None
    assert messages(logs, "eni-2-all") == LINES
    assert put(api, body, key=())[0] == 403 or put(api, body, key=())[1]["__type"].startswith("MissingAuth")


def stream_of(table: pa.Table, metadata: dict[str, str] | None, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    schema = table.schema.with_metadata(metadata)
    with pa.ipc.new_stream(sink, schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table.cast(schema) if metadata is not None else table)
    body: bytes = sink.getvalue().to_pybytes()
    return body


def coded_at(table: pa.Table, column: str, texts: list[str | None], codes: list[int]) -> pa.Table:
    """The table with a column as dictionary, right or not."""
    column_of_codes = pa.DictionaryArray.from_arrays(pa.array(codes, pa.int8()), pa.array(texts), safe=False)
    return table.set_column(table.column_names.index(column), column, column_of_codes)


def bad_bodies() -> Iterator[tuple[str, bytes]]:
    good = records(LINES)
    named = {"vnotch.format": DEFAULT.text}
    yield "empty", b""
    yield "no Arrow", b"[1, 2]" * 100
    yield "cut", write_body(good, DEFAULT)[:-300]
    yield "no format", stream_of(good, None)
    yield "no such format", stream_of(good, {"vnotch.format": "${nothing}"})
    yield "another format", stream_of(good, {"vnotch.format": "${srcaddr}"})
    yield "compressed", stream_of(good, named, compression="lz4")
    yield "no rows", write_body(good.slice(0, 0), DEFAULT)
    numbers = good.set_column(7, "dstport", good["dstport"].dictionary_encode())
    yield "coded numbers", stream_of(numbers, named)
    yield (
        "compressed texts",
        stream_of(coded_at(good, "srcaddr", ["10.0.0.1"] * 400, [0] * 5), named, compression="lz4"),
    )
    yield "a code of no text", stream_of(coded_at(good, "srcaddr", ["10.0.0.1"], [0, 0, 0, 0, 1]), named)
    yield "a code below all", stream_of(coded_at(good, "srcaddr", ["10.0.0.1"], [0, 0, 0, 0, -1]), named)
    yield "a text that is null", stream_of(coded_at(good, "log_status", ["OK", None], [0, 0, 0, 0, 1]), named)
    yield "a text that is no value", stream_of(coded_at(good, "action", ["ACCEPT", "MAYBE"], [0] * 5), named)
    long = pa.concat_tables([coded_at(good.slice(0, 1), "interface_id", ["x" * 60_000], [0])] * 2000)
    yield "lines of 120 MB", stream_of(long.unify_dictionaries().combine_chunks(), named)
    yield "wrong value", write_body(good.set_column(13, "action", pa.array(["MAYBE"] * 5)), DEFAULT)
    # The third offset of the account ids points far outside of them.
    torn = bytearray(stream_of(good, named))
    place = bytes(torn).index((0).to_bytes(4, "little") + (12).to_bytes(4, "little") + (24).to_bytes(4, "little"))
    torn[place + 8 : place + 12] = (2**30).to_bytes(4, "little")
    yield "torn", bytes(torn)


@pytest.mark.parametrize(("what", "body"), list(bad_bodies()))
def test_what_is_no_stream_of_records_is_refused(api: Any, logs: Any, what: str, body: bytes) -> None:
    status, answer = put(api, body)
    assert (status, answer["__type"]) == (400, "InvalidParameterException")
    assert messages(logs) == []


def test_tags_of_the_group_decide_as_they_do_of_put_log_events(api: Any, logs: Any) -> None:
    logs.tag_log_group(logGroupName="flow", tags={"env": "production"})
    tagged = {"StringEquals": {"aws:ResourceTag/env": "production"}}
    keys = {}
    for name, statements in (
        ("may", [{"Effect": "Allow", "Action": "logs:*", "Resource": "*", "Condition": tagged}]),
        (
            "must-not",
            [
                {"Effect": "Allow", "Action": "logs:*", "Resource": "*"},
                {"Effect": "Deny", "Action": "logs:PutLogEvents", "Resource": "*", "Condition": tagged},
            ],
        ),
    ):
        keys[name] = user_key(api, name, json.dumps({"Version": "2012-10-17", "Statement": statements}))
    body = write_body(records(LINES), DEFAULT)
    assert put(api, body, key=keys["may"])[0] == 200
    status, answer = put(api, body, key=keys["must-not"])
    assert (status, answer["__type"]) == (400, "AccessDeniedException")

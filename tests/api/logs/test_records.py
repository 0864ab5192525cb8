"""GetLogRecord and GetLogGroupFields through boto3, against the API reference of CloudWatch Logs and the user guide,
"Supported logs and discovered fields"."""

from __future__ import annotations

import base64
import time
from typing import Any

import pytest
from botocore.exceptions import ClientError

RECORD = "2 123456789010 eni-1 172.31.9.69 172.31.9.12 49761 22 6 20 4249 1418530010 1418530070 REJECT OK"
NODATA = "2 123456789010 eni-1 - - - - - - - 1431280876 1431280934 - NODATA"
FLOW_FIELDS = [
    *(
        "version",
        "accountId",
        "interfaceId",
        "srcAddr",
        "dstAddr",
        "srcPort",
        "dstPort",
        "protocol",
        "packets",
        "bytes",
    ),
    *("startTime", "endTime", "action", "logStatus"),
]
"""User guide, discovered fields of VPC flow logs."""


def refused(code: str) -> Any:
    return pytest.raises(ClientError, match=code)


def put(logs: Any, *messages: str) -> int:
    now_ms = int(time.time() * 1000)
    events = [{"timestamp": now_ms, "message": message} for message in messages]
    logs.put_log_events(logGroupName="flow", logStreamName="eni-1-all", logEvents=events)
    return now_ms


def pointers(logs: Any) -> dict[str, str]:
    """Message -> @ptr, of all that a query finds."""
    now = int(time.time())
    query = logs.start_query(
        logGroupName="flow", startTime=now - 3600, endTime=now + 3600, queryString="fields @message"
    )["queryId"]
    while (answer := logs.get_query_results(queryId=query))["status"] in ("Scheduled", "Running"):
        time.sleep(0.05)
    rows = [{cell["field"]: cell["value"] for cell in row} for row in answer["results"]]
    return {row["@message"]: row["@ptr"] for row in rows}


def test_a_record_has_all_its_fields_though_the_query_had_one(logs: Any, stream: Any) -> None:
    text = '{"a": {"b": [1, "x"]}, "c": true, "d": null}'
    now_ms = put(logs, RECORD, text, "plain")
    found = pointers(logs)
    record = logs.get_log_record(logRecordPointer=found[RECORD])["logRecord"]
    assert [record[name] for name in FLOW_FIELDS] == RECORD.split()
    assert record["@message"] == RECORD
    assert record["@timestamp"] == str(now_ms)
    assert (record["@log"], record["@logStream"]) == ("123456789012:flow", "eni-1-all")
    assert record["@ptr"] == found[RECORD]
    document = logs.get_log_record(logRecordPointer=found[text])["logRecord"]
    assert {name: value for name, value in document.items() if name[0] != "@"} == {
        "a.b.0": "1",
        "a.b.1": "x",
        "c": "true",
        "d": "null",
    }
    assert not [name for name in logs.get_log_record(logRecordPointer=found["plain"])["logRecord"] if name[0] != "@"]


def test_pointers_that_lead_nowhere(logs: Any, stream: Any) -> None:
    put(logs, "gone")
    pointer = pointers(logs)["gone"]
    numbers = base64.b64decode(pointer).decode()
    other = base64.b64encode(f"{numbers}9".encode()[:60]).decode()
    for wrong in ("x", "%", base64.b64encode(b"1/2/3").decode()):
        with refused("InvalidParameterException"):
            logs.get_log_record(logRecordPointer=wrong)
    with refused("ResourceNotFoundException|InvalidParameterException"):
        logs.get_log_record(logRecordPointer=other)
    logs.delete_log_stream(**stream)
    with refused("ResourceNotFoundException"):
        logs.get_log_record(logRecordPointer=pointer)


def test_the_fields_of_a_group_with_the_share_of_events_that_have_them(logs: Any, stream: Any) -> None:
    assert logs.get_log_group_fields(logGroupName="flow")["logGroupFields"] == []
    put(logs, RECORD, NODATA, '{"a": {"b": 1}}', "plain")
    arn = "arn:aws:logs:us-east-1:123456789012:log-group:flow"
    fields = logs.get_log_group_fields(logGroupIdentifier=arn)["logGroupFields"]
    shares = {field["name"]: field["percent"] for field in fields}
    assert {name for name, percent in shares.items() if percent == 100} == {
        "@timestamp",
        "@ingestionTime",
        "@message",
        "@logStream",
        "@log",
        "@ptr",
    }
    assert {name for name, percent in shares.items() if percent == 50} == set(FLOW_FIELDS)
    assert shares["a.b"] == 25
    assert [field["percent"] for field in fields] == sorted((field["percent"] for field in fields), reverse=True)


def test_the_time_is_the_middle_of_what_is_looked_at(logs: Any, stream: Any) -> None:
    now = int(time.time())
    put(logs, RECORD)
    names = {
        field["name"] for field in logs.get_log_group_fields(logGroupName="flow", time=now + 400)["logGroupFields"]
    }
    assert "srcAddr" in names
    assert logs.get_log_group_fields(logGroupName="flow", time=now - 600)["logGroupFields"] == []
    with refused("InvalidParameterException"):
        logs.get_log_group_fields()
    with refused("ResourceNotFoundException"):
        logs.get_log_group_fields(logGroupName="none")

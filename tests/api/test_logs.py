"""Log groups, log streams and log events through boto3, against the API reference of CloudWatch Logs (2014-03-28)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError
from lakes import new_lake

from vnotch.api.logs import Logs
from vnotch.api.logs import events as log_events
from vnotch.store.lake import Lake
from vnotch.store.network import FlowLog

DAY_MS = 86_400_000
HOUR_MS = 3_600_000
LINE = "2 123456789012 eni-0123456789abcdef0 203.0.113.12 172.31.16.139 0 22 6 4 336 1432917027 1432917142 REJECT OK"


@pytest.fixture
def lake(tmp_path: Any) -> Iterator[Lake]:
    lake = new_lake(tmp_path / "lake")
    yield lake
    lake.close()


@pytest.fixture
def logs(api: Any, lake: Lake) -> Any:
    api.serve(Logs(api.state, lake))
    return api.client("logs")


@pytest.fixture
def stream(logs: Any) -> Any:
    logs.create_log_group(logGroupName="flow")
    logs.create_log_stream(logGroupName="flow", logStreamName="eni-1-all")
    return {"logGroupName": "flow", "logStreamName": "eni-1-all"}


def now_ms() -> int:
    return int(time.time() * 1000)


def events(*pairs: tuple[int, str]) -> list[dict[str, Any]]:
    return [{"timestamp": stamp, "message": text} for stamp, text in pairs]


def refused(code: str, text: str = "") -> Any:
    return pytest.raises(ClientError, match=f"{code}.*{text}")


# Groups


def test_a_group_is_described_as_aws_does(logs: Any) -> None:
    before = now_ms()
    logs.create_log_group(logGroupName="/vpc/flow.logs_1#a", tags={"team": "net"})
    (group,) = logs.describe_log_groups()["logGroups"]
    assert before <= group.pop("creationTime") <= now_ms()
    assert group == {
        "logGroupName": "/vpc/flow.logs_1#a",
        "metricFilterCount": 0,
        "arn": "arn:aws:logs:us-east-1:123456789012:log-group:/vpc/flow.logs_1#a:*",
        "logGroupArn": "arn:aws:logs:us-east-1:123456789012:log-group:/vpc/flow.logs_1#a",
        "storedBytes": 0,
        "logGroupClass": "STANDARD",
        "deletionProtectionEnabled": False,
    }


def test_group_errors_have_awss_texts(logs: Any) -> None:
    logs.create_log_group(logGroupName="a")
    with refused("ResourceAlreadyExistsException", "The specified log group already exists"):
        logs.create_log_group(logGroupName="a")
    for call in (
        lambda: logs.delete_log_group(logGroupName="b"),
        lambda: logs.put_retention_policy(logGroupName="b", retentionInDays=7),
        lambda: logs.delete_retention_policy(logGroupName="b"),
        lambda: logs.create_log_stream(logGroupName="b", logStreamName="s"),
        lambda: logs.describe_log_streams(logGroupName="b"),
        lambda: logs.filter_log_events(logGroupName="b"),
        lambda: logs.get_log_events(logGroupName="b", logStreamName="s"),
        lambda: logs.put_log_events(logGroupName="b", logStreamName="s", logEvents=events((now_ms(), "x"))),
    ):
        with refused("ResourceNotFoundException", r"The specified log group does not exist\."):
            call()


@pytest.mark.parametrize("name", ["a b", "a:b", "ä", "a*", "aws/mine"])
def test_group_names_that_aws_refuses(logs: Any, name: str) -> None:
    with refused("InvalidParameterException"):
        logs.create_log_group(logGroupName=name)


def test_what_groups_cannot_do_is_refused(logs: Any) -> None:
    with refused("InvalidParameterException", "kmsKeyId"):
        logs.create_log_group(logGroupName="a", kmsKeyId="arn:aws:kms:us-east-1:123456789012:key/1")
    with refused("InvalidParameterException", "logGroupClass"):
        logs.create_log_group(logGroupName="a", logGroupClass="DELIVERY")
    with refused("InvalidParameterException"):
        logs.describe_log_groups(logGroupNamePrefix="a", logGroupNamePattern="b")
    assert logs.describe_log_groups()["logGroups"] == []


def test_groups_are_listed_in_ascii_order_by_prefix_pattern_and_page(logs: Any) -> None:
    names = [f"g{number:03d}" for number in range(60)] + ["Upper", "under_score", "underXscore"]
    for name in names:
        logs.create_log_group(logGroupName=name)
    pages = list(logs.get_paginator("describe_log_groups").paginate(PaginationConfig={"PageSize": 7}))
    assert all(len(page["logGroups"]) <= 7 for page in pages)
    assert [group["logGroupName"] for page in pages for group in page["logGroups"]] == sorted(names)
    assert len(logs.describe_log_groups()["logGroups"]) == 50

    def listed(**query: Any) -> list[str]:
        return [group["logGroupName"] for group in logs.describe_log_groups(**query)["logGroups"]]

    assert listed(logGroupNamePrefix="g00") == [f"g00{digit}" for digit in range(10)]
    assert listed(logGroupNamePrefix="under_") == ["under_score"]
    assert listed(logGroupNamePattern="pper") == ["Upper"]
    assert listed(logGroupNamePattern="upper") == []
    assert listed(logGroupIdentifiers=["g001", "arn:aws:logs:us-east-1:123456789012:log-group:g003"]) == [
        "g001",
        "g003",
    ]
    token = logs.describe_log_groups(limit=2)["nextToken"]
    with refused("InvalidParameterException", r"The specified nextToken is invalid\."):
        logs.describe_log_groups(limit=2, logGroupNamePrefix="g", nextToken=token)
    with refused("InvalidParameterException", r"The specified nextToken is invalid\."):
        logs.describe_log_groups(nextToken="abc")


def test_retention_is_stored_and_hides_what_is_older(logs: Any, stream: Any) -> None:
    with refused("InvalidParameterException", "retentionInDays"):
        logs.put_retention_policy(logGroupName="flow", retentionInDays=2)
    old, new = now_ms() - 3 * DAY_MS, now_ms()
    logs.put_log_events(**stream, logEvents=events((old, "old")))
    logs.put_log_events(**stream, logEvents=events((new, "new")))
    logs.put_retention_policy(logGroupName="flow", retentionInDays=1)
    assert logs.describe_log_groups()["logGroups"][0]["retentionInDays"] == 1
    assert [event["message"] for event in logs.filter_log_events(logGroupName="flow")["events"]] == ["new"]
    assert [event["message"] for event in logs.get_log_events(**stream)["events"]] == ["new"]
    logs.delete_retention_policy(logGroupName="flow")
    assert "retentionInDays" not in logs.describe_log_groups()["logGroups"][0]
    assert len(logs.filter_log_events(logGroupName="flow")["events"]) == 2


def test_upkeep_deletes_what_is_past_retention_and_keeps_totals_true(logs: Any, stream: Any, lake: Lake) -> None:
    new = now_ms()
    logs.put_log_events(**stream, logEvents=events((new - 3 * DAY_MS, "old"), (new - 3 * DAY_MS + 1, "older")))
    logs.put_log_events(**stream, logEvents=events((new, "new")))
    assert logs.describe_log_groups()["logGroups"][0]["storedBytes"] == 3 + 5 + 3 + 3 * 26
    logs.put_retention_policy(logGroupName="flow", retentionInDays=1)
    lake.upkeep().result()
    logs.delete_retention_policy(logGroupName="flow")
    assert [event["message"] for event in logs.filter_log_events(logGroupName="flow")["events"]] == ["new"]
    assert lake.status()["expired_events_retention"] == 2
    assert logs.describe_log_groups()["logGroups"][0]["storedBytes"] == 3 + 26
    (described,) = logs.describe_log_streams(logGroupName="flow")["logStreams"]
    assert (described["firstEventTimestamp"], described["lastEventTimestamp"]) == (new, new)


def test_a_deleted_group_is_empty_at_once_and_new_when_made_again(logs: Any, stream: Any, lake: Lake) -> None:
    logs.put_log_events(**stream, logEvents=events((now_ms(), "before")))
    logs.delete_log_group(logGroupName="flow")
    with refused("ResourceNotFoundException"):
        logs.filter_log_events(logGroupName="flow")
    logs.create_log_group(logGroupName="flow")
    logs.create_log_stream(**stream)
    assert logs.filter_log_events(logGroupName="flow")["events"] == []
    assert "lastEventTimestamp" not in logs.describe_log_streams(logGroupName="flow")["logStreams"][0]
    logs.put_log_events(**stream, logEvents=events((now_ms(), "after")))
    lake.upkeep().result()
    assert [event["message"] for event in logs.filter_log_events(logGroupName="flow")["events"]] == ["after"]
    assert lake.arrow("SELECT message FROM events").to_pylist() == [{"message": "after"}]


def test_a_deleted_stream_takes_its_events_with_it(logs: Any, stream: Any, lake: Lake) -> None:
    logs.create_log_stream(logGroupName="flow", logStreamName="other")
    logs.put_log_events(**stream, logEvents=events((now_ms(), "gone")))
    logs.put_log_events(logGroupName="flow", logStreamName="other", logEvents=events((now_ms(), "kept")))
    logs.delete_log_stream(**stream)
    assert [event["message"] for event in logs.filter_log_events(logGroupName="flow")["events"]] == ["kept"]
    assert logs.describe_log_groups()["logGroups"][0]["storedBytes"] == 4 + 26
    with refused("ResourceNotFoundException", r"The specified log stream does not exist\."):
        logs.get_log_events(**stream)
    logs.create_log_stream(**stream)
    assert logs.get_log_events(**stream)["events"] == []
    lake.upkeep().result()
    assert lake.arrow("SELECT message FROM events").to_pylist() == [{"message": "kept"}]


def test_deletion_protection(logs: Any, stream: Any) -> None:
    logs.put_log_group_deletion_protection(logGroupIdentifier="flow", deletionProtectionEnabled=True)
    with refused("ValidationException"):
        logs.delete_log_group(logGroupName="flow")
    logs.put_log_group_deletion_protection(logGroupIdentifier="flow", deletionProtectionEnabled=False)
    logs.delete_log_group(logGroupName="flow")


# Streams


def test_streams_are_listed_in_both_orders(logs: Any) -> None:
    logs.create_log_group(logGroupName="flow")
    names = [f"eni-{number:02d}-all" for number in range(12)]
    for name in names:
        logs.create_log_stream(logGroupName="flow", logStreamName=name)
    with refused("ResourceAlreadyExistsException", "The specified log stream already exists"):
        logs.create_log_stream(logGroupName="flow", logStreamName=names[0])
    begin = now_ms() - 60_000
    # Times run against names; two streams share a time; two have no event at all.
    times = {name: begin + 1000 * (20 - number) for number, name in enumerate(names[:10])}
    times[names[4]] = times[names[5]]
    for name, stamp in times.items():
        logs.put_log_events(logGroupName="flow", logStreamName=name, logEvents=events((stamp, "x")))

    def listed(**query: Any) -> list[str]:
        pages = logs.get_paginator("describe_log_streams").paginate(
            logGroupName="flow", PaginationConfig={"PageSize": 5}, **query
        )
        return [stream["logStreamName"] for page in pages for stream in page["logStreams"]]

    by_time = sorted(names, key=lambda name: (times.get(name, 0), name))
    assert listed() == names
    assert listed(descending=True) == names[::-1]
    assert listed(orderBy="LastEventTime") == by_time
    assert listed(orderBy="LastEventTime", descending=True) == by_time[::-1]
    assert listed(logStreamNamePrefix="eni-0") == names[:10]
    with refused("InvalidParameterException"):
        listed(orderBy="LastEventTime", logStreamNamePrefix="eni")
    with refused("InvalidParameterException"):
        logs.describe_log_streams()
    arn = "arn:aws:logs:us-east-1:123456789012:log-group:flow"
    assert len(logs.describe_log_streams(logGroupIdentifier=arn)["logStreams"]) == 12


def test_the_last_event_of_a_stream_is_true_at_once_and_whatever_the_order(logs: Any, stream: Any) -> None:
    base = now_ms() - 10_000
    (described,) = logs.describe_log_streams(logGroupName="flow")["logStreams"]
    assert not {"firstEventTimestamp", "lastEventTimestamp", "lastIngestionTime"} & described.keys()
    for stamp, first, last in ((base, base, base), (base + 5, base, base + 5), (base - 7, base - 7, base + 5)):
        logs.put_log_events(**stream, logEvents=events((stamp, "x")))
        (described,) = logs.describe_log_streams(logGroupName="flow")["logStreams"]
        assert (described["firstEventTimestamp"], described["lastEventTimestamp"]) == (first, last)
        assert base <= described["lastIngestionTime"] <= now_ms()
        assert described["arn"] == "arn:aws:logs:us-east-1:123456789012:log-group:flow:log-stream:eni-1-all"
        assert described["storedBytes"] == 0


# PutLogEvents


def test_a_put_is_read_back_with_its_times(logs: Any, stream: Any) -> None:
    before = now_ms()
    answer = logs.put_log_events(**stream, logEvents=events((before - 5, LINE), (before, 'ä "quoted" \x00 \U0001f600')))
    assert "rejectedLogEventsInfo" not in answer
    assert answer["nextSequenceToken"]
    logs.put_log_events(**stream, logEvents=events((before, "third")), sequenceToken="whatever")
    read = logs.get_log_events(**stream, startFromHead=True)["events"]
    assert [(event["timestamp"], event["message"]) for event in read] == [
        (before - 5, LINE),
        (before, 'ä "quoted" \x00 \U0001f600'),
        (before, "third"),
    ]
    assert all(before <= event["ingestionTime"] <= now_ms() for event in read)


def test_limits_of_a_batch(api: Any, logs: Any, stream: Any) -> None:
    stamp = now_ms()
    unchecked = api.client("logs", parameter_validation=False)
    put = lambda batch: unchecked.put_log_events(**stream, logEvents=batch)  # noqa: E731
    with refused("InvalidParameterException", "chronological order"):
        put(events((stamp, "b"), (stamp - 1, "a")))
    with refused("InvalidParameterException", "24 hours"):
        put(events((stamp - DAY_MS - 1, "a"), (stamp, "b")))
    with refused("InvalidParameterException"):
        put([])
    with refused("InvalidParameterException"):
        put(events((stamp, "")))
    with refused("InvalidParameterException"):
        put(events(*[(stamp, "x")] * 10_001))
    # 1,048,576 bytes are the messages in UTF-8 and 26 for each event; ä has two bytes.
    whole = "ä" * ((1_048_576 // 2 - 26) // 2)
    assert (len(whole.encode()) + 26) * 2 == 1_048_576
    with refused("InvalidParameterException", "Upload too large: 1048577 bytes exceeds limit of 1048576"):
        put(events((stamp, whole), (stamp, whole + "x")))
    with refused("InvalidParameterException", "Log event too large"):
        put(events((stamp, "x" * 1_048_577)))
    assert logs.get_log_events(**stream)["events"] == []
    put(events((stamp, whole), (stamp, whole)))
    put(events((stamp - DAY_MS, "a"), (stamp, "b")))
    put(events(*[(stamp, "x")] * 10_000))
    with refused("ResourceNotFoundException", r"The specified log stream does not exist\."):
        logs.put_log_events(logGroupName="flow", logStreamName="none", logEvents=events((stamp, "x")))


def test_events_out_of_time_are_dropped_and_told(logs: Any, stream: Any) -> None:
    now = now_ms()
    answer = logs.put_log_events(
        **stream,
        logEvents=events(
            (now - 15 * DAY_MS, "old 0"),
            (now - 14 * DAY_MS - 60_000, "old 1"),
            (now - HOUR_MS, "good 2"),
            (now + HOUR_MS, "good 3"),
            (now + 2 * HOUR_MS + 60_000, "new 4"),
            (now + 9 * HOUR_MS, "new 5"),
        ),
    )
    # The end index is exclusive, the start index inclusive (service model).
    assert answer["rejectedLogEventsInfo"] == {"tooOldLogEventEndIndex": 2, "tooNewLogEventStartIndex": 4}
    assert [event["message"] for event in logs.get_log_events(**stream)["events"]] == ["good 2", "good 3"]
    answer = logs.put_log_events(**stream, logEvents=events((now + 3 * HOUR_MS, "new 0")))
    assert answer["rejectedLogEventsInfo"] == {"tooNewLogEventStartIndex": 0}
    logs.put_retention_policy(logGroupName="flow", retentionInDays=3)
    answer = logs.put_log_events(
        **stream,
        logEvents=events((now - 20 * DAY_MS, "old"), (now - 4 * DAY_MS, "expired"), (now - 2 * DAY_MS, "good")),
    )
    assert answer["rejectedLogEventsInfo"] == {"tooOldLogEventEndIndex": 1, "expiredLogEventEndIndex": 2}
    assert next(event["message"] for event in logs.get_log_events(**stream)["events"]) == "good"


def test_a_batch_id_counts_once_in_its_stream_and_for_its_content(api: Any, lake: Lake, logs: Any, stream: Any) -> None:
    now = now_ms()

    def put(batch_id: str, batch: list[dict[str, Any]], name: str = "eni-1-all") -> None:
        client = api.client("logs")
        client.meta.events.register(
            "before-call.logs.PutLogEvents",
            lambda params, **_: params["headers"].update({"x-vnotch-batch-id": batch_id}),
        )
        client.put_log_events(logGroupName="flow", logStreamName=name, logEvents=batch)

    logs.create_log_stream(logGroupName="flow", logStreamName="other")
    # The first event leaves the two hours ahead between a batch and its retry: it is still the same batch.
    batch = events((now, "a"), (now, "b"))
    put("one", batch)
    put("one", batch)
    assert len(logs.get_log_events(**stream)["events"]) == 2
    put("one", batch, "other")
    put("one", events((now, "a"), (now, "c")))
    put("two", batch)
    assert len(logs.get_log_events(logGroupName="flow", logStreamName="other")["events"]) == 2
    assert len(logs.get_log_events(**stream)["events"]) == 6
    assert lake.status()["duplicate_batches"] == 1
    with refused("InvalidParameterException", "x-vnotch-batch-id"):
        put("x" * 129, batch)


def test_batches_that_come_together_count_once_in_any_grouping(api: Any, lake: Lake, logs: Any, stream: Any) -> None:
    now = now_ms()
    a, b, c = events((now, "a1"), (now, "a2")), events((now, "b1")), events((now, "c1"), (now + 1, "c2"))

    def put(ids: str, counts: str, batch: list[dict[str, Any]]) -> None:
        client = api.client("logs")
        headers = {"x-vnotch-batch-id": ids, "x-vnotch-batch-events": counts}
        client.meta.events.register(
            "before-call.logs.PutLogEvents", lambda params, **_: params["headers"].update(headers)
        )
        client.put_log_events(**stream, logEvents=batch)

    put("a,b", "2,1", [*a, *b])
    put("b,c", "1,2", [*b, *c])
    put("a", "2", a)
    put("a,b,c", "2,1,2", [*a, *b, *c])
    found = [event["message"] for event in logs.get_log_events(**stream)["events"]]
    assert sorted(found) == ["a1", "a2", "b1", "c1", "c2"]
    assert lake.status()["duplicate_batches"] == 5
    for ids, counts in (("a,b", "2"), ("a,b", "1,1"), ("a,b", "3,0"), ("a,b", "2,x"), ("a,a", "2,1"), ("a,b", "-1,4")):
        with refused("InvalidParameterException", "x-vnotch-batch-events"):
            put(ids, counts, [*a, *b])
    with refused("InvalidParameterException", "x-vnotch-batch-id"):
        put("a,", "2,1", [*a, *b])


# Reading


@pytest.fixture
def filled(logs: Any, stream: Any, lake: Lake) -> list[tuple[int, str]]:
    """2,500 events at 500 times in five puts, some after a merge: (time, message) in the order of reading."""
    base = now_ms() - 1_000_000
    put: list[tuple[int, str]] = []
    for part in range(5):
        batch = [(base + 1000 * (number // 5 + part * 50), f"{part}-{number}") for number in range(500)]
        logs.put_log_events(**stream, logEvents=events(*batch))
        put += batch
        if part == 2:
            lake.upkeep().result()
    return sorted(put, key=lambda event: event[0])


def test_pages_forward_have_every_event_once_and_end(logs: Any, stream: Any, filled: list[tuple[int, str]]) -> None:
    some = filled[500:570]
    for limit, wanted in ((7, some), (700, filled), (2500, filled), (10_000, filled)):
        # Five events share each time, so these bounds cut nothing apart.
        asked = {**stream, "startFromHead": True, "startTime": wanted[0][0], "endTime": wanted[-1][0] + 1}
        seen: list[tuple[int, str]] = []
        page = logs.get_log_events(**asked, limit=limit)
        while True:
            seen += [(event["timestamp"], event["message"]) for event in page["events"]]
            token = page["nextForwardToken"]
            page = logs.get_log_events(**asked, limit=limit, nextToken=token)
            if page["nextForwardToken"] == token:
                break
        assert page["events"] == []
        assert seen == wanted
        back = logs.get_log_events(**asked, limit=limit, nextToken=page["nextBackwardToken"])["events"]
        assert [event["message"] for event in back] == [message for _, message in wanted[-limit:]]


def test_pages_backward_have_every_event_once_and_end(logs: Any, stream: Any, filled: list[tuple[int, str]]) -> None:
    seen: list[tuple[int, str]] = []
    page = logs.get_log_events(**stream, limit=300)
    while True:
        seen = [(event["timestamp"], event["message"]) for event in page["events"]] + seen
        token = page["nextBackwardToken"]
        page = logs.get_log_events(**stream, limit=300, nextToken=token)
        if page["nextBackwardToken"] == token:
            break
    assert seen == filled
    ahead = logs.get_log_events(**stream, startFromHead=True, limit=3, nextToken=page["nextForwardToken"])["events"]
    assert [event["message"] for event in ahead] == [message for _, message in filled[:3]]


def test_the_latest_come_first_without_start_from_head(logs: Any, stream: Any, filled: list[tuple[int, str]]) -> None:
    read = logs.get_log_events(**stream, limit=100)["events"]
    assert [event["message"] for event in read] == [message for _, message in filled[-100:]]


def test_a_follower_goes_on_from_the_end_token(logs: Any, stream: Any) -> None:
    empty = logs.get_log_events(**stream)
    assert empty["events"] == []
    stamp = now_ms()
    logs.put_log_events(**stream, logEvents=events((stamp, "1")))
    page = logs.get_log_events(**stream, nextToken=empty["nextForwardToken"])
    assert [event["message"] for event in page["events"]] == ["1"]
    logs.put_log_events(**stream, logEvents=events((stamp, "2")))
    page = logs.get_log_events(**stream, nextToken=page["nextForwardToken"])
    assert [event["message"] for event in page["events"]] == ["2"]


def test_end_times(logs: Any, stream: Any) -> None:
    stamp = now_ms()
    logs.put_log_events(**stream, logEvents=events((stamp, "a"), (stamp + 1, "b"), (stamp + 2, "c")))
    bounds = {"startTime": stamp, "endTime": stamp + 1}
    assert [event["message"] for event in logs.get_log_events(**stream, **bounds)["events"]] == ["a"]
    assert [event["message"] for event in logs.filter_log_events(logGroupName="flow", **bounds)["events"]] == ["a", "b"]


def test_foreign_tokens_are_refused(logs: Any, stream: Any) -> None:
    logs.put_log_events(**stream, logEvents=events((now_ms(), "a")))
    logs.create_log_stream(logGroupName="flow", logStreamName="other")
    token = logs.get_log_events(**stream)["nextForwardToken"]
    for bad in ("f/999/s", "x", "f//s", token.replace("f/", "g/"), "f/" + "9" * 64 + "/s"):
        with refused("InvalidParameterException", r"The specified nextToken is invalid\."):
            logs.get_log_events(**stream, nextToken=bad)
    with refused("InvalidParameterException", r"The specified nextToken is invalid\."):
        logs.get_log_events(logGroupName="flow", logStreamName="other", nextToken=token)


def test_a_page_is_at_most_one_megabyte(logs: Any, stream: Any) -> None:
    stamp = now_ms()
    for number in range(3):
        logs.put_log_events(**stream, logEvents=events((stamp + number, str(number) * 700_000)))
    forward = logs.get_log_events(**stream, startFromHead=True)
    assert [event["message"][0] for event in forward["events"]] == ["0"]
    assert [event["message"][0] for event in logs.get_log_events(**stream)["events"]] == ["2"]
    pages = list(logs.get_paginator("filter_log_events").paginate(logGroupName="flow"))
    assert [[event["message"][0] for event in page["events"]] for page in pages] == [["0"], ["1"], ["2"]]


def test_filter_interleaves_streams_by_time_over_pages(logs: Any) -> None:
    logs.create_log_group(logGroupName="flow")
    base = now_ms() - 100_000
    expected = []
    for number, name in enumerate(("a-1", "a-2", "b-1")):
        logs.create_log_stream(logGroupName="flow", logStreamName=name)
        batch = [(base + 3 * index + number, f"{name} {index}") for index in range(40)]
        logs.put_log_events(logGroupName="flow", logStreamName=name, logEvents=events(*batch))
        expected += [(stamp, name, text) for stamp, text in batch]
    expected.sort()

    def read(**query: Any) -> list[tuple[int, str, str]]:
        pages = list(
            logs.get_paginator("filter_log_events").paginate(
                logGroupName="flow", PaginationConfig={"PageSize": 11}, **query
            )
        )
        assert all(page["searchedLogStreams"] == [] for page in pages)
        found = [event for page in pages for event in page["events"]]
        ids = [event["eventId"] for event in found]
        assert len(set(ids)) == len(ids)
        return [(event["timestamp"], event["logStreamName"], event["message"]) for event in found]

    assert read() == expected
    assert read(startFromHead=False) == expected[::-1]
    assert read(logStreamNames=["a-1", "b-1"]) == [event for event in expected if event[1] != "a-2"]
    assert read(logStreamNamePrefix="a-") == [event for event in expected if event[1] != "b-1"]
    assert read(logStreamNamePrefix="none") == []
    assert read(startTime=base + 10, endTime=base + 20) == [e for e in expected if base + 10 <= e[0] <= base + 20]
    assert read(filterPattern='"a-1 7"') == [e for e in expected if e[2] == "a-1 7"]
    with refused("InvalidParameterException"):
        read(logStreamNames=["a-1"], logStreamNamePrefix="a-")
    with refused("ResourceNotFoundException", r"The specified log stream does not exist\."):
        read(logStreamNames=["a-1", "zz"])
    token = logs.filter_log_events(logGroupName="flow", limit=1)["nextToken"]
    with refused("InvalidParameterException", r"The specified nextToken is invalid\."):
        logs.filter_log_events(logGroupName="flow", limit=1, startTime=5, nextToken=token)


@pytest.mark.parametrize("from_head", [True, False])
def test_a_search_for_what_is_rare_ends_early_and_goes_on_by_its_token(
    logs: Any, stream: Any, monkeypatch: pytest.MonkeyPatch, from_head: bool
) -> None:
    """Pages may have few events or none and still a token (FilterLogEvents), so that each takes a bounded time."""
    base = now_ms() - 100_000
    texts = ["rare" if number in (3, 4, 37) else "often" for number in range(40)]
    stamped = [(base + 2000 * number, f"{text} {number}") for number, text in enumerate(texts)]
    logs.put_log_events(**stream, logEvents=events(*stamped))
    monkeypatch.setattr(log_events, "FIRST_SEARCHED_EVENTS", 1)
    monkeypatch.setattr(log_events, "SEARCHED_EVENTS_MIN", 3)
    monkeypatch.setattr(log_events, "SEARCH_SECONDS", 0.0)
    paginator = logs.get_paginator("filter_log_events")
    asked = {"logGroupName": "flow", "filterPattern": "rare", "startFromHead": from_head}
    pages = [
        [event["message"] for event in page["events"]]
        for page in paginator.paginate(**asked, PaginationConfig={"PageSize": 2})
    ]
    found = [message for page in pages for message in page]
    assert found == (["rare 3", "rare 4", "rare 37"] if from_head else ["rare 37", "rare 4", "rare 3"])
    assert [] in pages
    # Without a pattern there is nothing to search for.
    (page,) = paginator.paginate(logGroupName="flow", startFromHead=from_head)
    assert len(page["events"]) == 40


def test_a_pattern_that_is_not_understood_is_refused_with_its_place(logs: Any, stream: Any) -> None:
    with refused("InvalidParameterException", r"Invalid filter pattern: .* at character 8"):
        logs.filter_log_events(logGroupName="flow", filterPattern=" { $.a ~ 1 }")


def test_totals_catch_up_after_a_crash(api: Any, tmp_path: Any) -> None:
    """The process dies after the lake's commit and before the totals are written: the next start counts the rest."""
    lake = Lake.open(tmp_path / "lake")
    api.serve(Logs(api.state, lake))
    logs = api.client("logs")
    logs.create_log_group(logGroupName="flow")
    logs.create_log_stream(logGroupName="flow", logStreamName="s")
    stamp = now_ms()
    logs.put_log_events(logGroupName="flow", logStreamName="s", logEvents=events((stamp, "one")))
    lake.watch(lambda deltas, sequence: None)
    logs.put_log_events(logGroupName="flow", logStreamName="s", logEvents=events((stamp + 9, "more")))
    assert logs.describe_log_streams(logGroupName="flow")["logStreams"][0]["lastEventTimestamp"] == stamp
    lake.close()
    lake = Lake.open(tmp_path / "lake")
    Logs(api.state, lake)
    described = logs.describe_log_streams(logGroupName="flow")["logStreams"][0]
    assert (described["firstEventTimestamp"], described["lastEventTimestamp"]) == (stamp, stamp + 9)
    assert logs.describe_log_groups()["logGroups"][0]["storedBytes"] == 3 + 4 + 2 * 26
    lake.close()


def test_a_role_may_write_to_its_group_alone(api: Any, lake: Lake) -> None:
    api.serve(Logs(api.state, lake))
    admin, iam = api.client("logs"), api.client("iam")
    for name in ("mine", "other"):
        admin.create_log_group(logGroupName=name)
        admin.create_log_stream(logGroupName=name, logStreamName="s")
    iam.create_user(UserName="writer")
    iam.put_user_policy(
        UserName="writer",
        PolicyName="p",
        PolicyDocument="""{"Version": "2012-10-17", "Statement": [{"Effect": "Allow",
          "Action": ["logs:PutLogEvents", "logs:DescribeLogStreams"],
          "Resource": "arn:aws:logs:us-east-1:123456789012:log-group:mine:*"}]}""",
    )
    key = iam.create_access_key(UserName="writer")["AccessKey"]
    writer = api.client("logs", key=(key["AccessKeyId"], key["SecretAccessKey"]))
    writer.put_log_events(logGroupName="mine", logStreamName="s", logEvents=events((now_ms(), "x")))
    assert len(writer.describe_log_streams(logGroupName="mine")["logStreams"]) == 1
    for call in (
        lambda: writer.put_log_events(logGroupName="other", logStreamName="s", logEvents=events((now_ms(), "x"))),
        lambda: writer.describe_log_streams(logGroupName="other"),
        lambda: writer.describe_log_groups(),
        lambda: writer.get_log_events(logGroupName="mine", logStreamName="s"),
    ):
        with refused("AccessDenied"):
            call()


def test_lines_of_a_flow_logs_format_are_stored_as_records(api: Any, logs: Any, stream: Any, lake: Lake) -> None:
    """The default format is known of every group, another one of the groups that a flow log with it delivers to."""
    lines = [
        LINE,
        "172.31.16.139 22 REJECT",
        "hello",
    ]
    now = int(time.time() * 1000)
    events = [{"timestamp": now + number, "message": line} for number, line in enumerate(lines)]
    logs.put_log_events(**stream, logEvents=events)
    records = "SELECT count(format_id) AS records, count(*) AS events FROM events"
    assert lake.arrow(records).to_pylist() == [{"records": 1, "events": 3}]
    with api.state.write() as session:
        session.add(
            FlowLog(
                flow_log_id="fl-1",
                resource_id="eni-1",
                resource_type="NetworkInterface",
                traffic_type="ALL",
                log_destination_type="cloud-watch-logs",
                log_group_name=stream["logGroupName"],
                deliver_logs_permission_arn="arn",
                log_format="${srcaddr} ${dstport} ${action}",
                max_aggregation_interval=60,
                created_ms=now,
            )
        )
    logs.put_log_events(**stream, logEvents=events)
    assert lake.arrow(records).to_pylist() == [{"records": 3, "events": 6}]
    found = logs.get_log_events(**stream, startFromHead=True)["events"]
    assert [event["message"] for event in found] == [line for line in lines for _ in range(2)]

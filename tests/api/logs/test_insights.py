"""Logs Insights through boto3 and the aws CLI: AWS's sample queries for flow logs, and the life of a query.

The answers expected are worked out by hand from the records below, the samples are the user guide's ("Sample queries").
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from lakes import new_lake

from vnotch.api.logs import Logs, insights
from vnotch.api.quotas import Quotas
from vnotch.insights.pointers import Pointer

HOUR_S = 3600
ENI, OTHER = "eni-0123456789abcdef0", "eni-0aaaaaaaaaaaaaaa0"

Query = Callable[..., list[dict[str, str]]]


def record(eni: str, rest: str, second: int = 0) -> str:
    return f"2 123456789012 {eni} {rest}".replace("START", str(1_700_000_000 + second)).replace(
        "END", str(1_700_000_060 + second)
    )


RECORDS = [
    record(ENI, "192.0.2.10 203.0.113.5 40000 443 6 10 1000 START END ACCEPT OK"),
    record(ENI, "192.0.2.10 203.0.113.5 40001 443 6 30 3000 START END ACCEPT OK"),
    record(ENI, "192.0.2.11 203.0.113.9 40002 53 17 2 150 START END ACCEPT OK"),
    record(ENI, "198.51.100.7 192.0.2.10 50000 22 6 5 200 START END REJECT OK"),
    record(ENI, "198.51.100.7 192.0.2.11 50001 22 6 7 280 START END REJECT OK"),
    record(OTHER, "198.51.100.8 192.0.2.11 50002 3389 6 1 40 START END REJECT OK"),
    record(OTHER, "2001:db8::1 2001:db8:1::2 123 123 17 4 304 START END ACCEPT OK"),
    record(OTHER, "- - - - - - - START END - NODATA"),
    record(OTHER, "- - - - - - - START END - SKIPDATA"),
]


@pytest.fixture(scope="module")
def begin_s() -> int:
    """A full hour, some hours ago; the records are 20 minutes apart from it on."""
    return (int(time.time()) // HOUR_S - 6) * HOUR_S


def put_records(logs: Any, begin_s: int) -> Any:
    events = [
        {"timestamp": (begin_s + number * 1200) * 1000, "message": message} for number, message in enumerate(RECORDS)
    ]
    logs.put_log_events(logGroupName="flow", logStreamName="eni-1-all", logEvents=events)
    return logs


@pytest.fixture
def corpus(logs: Any, stream: Any, begin_s: int) -> Any:
    """The records in a group of the test's own."""
    return put_records(logs, begin_s)


@pytest.fixture(scope="module")
def shared(shared_api: Any, tmp_path_factory: pytest.TempPathFactory, begin_s: int) -> Iterator[Any]:
    """The records for tests that only ask."""
    lake = new_lake(tmp_path_factory.mktemp("lake") / "lake")
    service = Logs(shared_api.state, lake)
    shared_api.serve(service)
    logs = shared_api.client("logs")
    logs.create_log_group(logGroupName="flow")
    logs.create_log_stream(logGroupName="flow", logStreamName="eni-1-all")
    yield put_records(logs, begin_s)
    service.close()
    lake.close()


def ask(logs: Any, text: str, begin_s: int, end_s: int | None = None, **more: Any) -> dict[str, Any]:
    """The final answer of GetQueryResults."""
    more = {"logGroupName": "flow"} | more if not {"logGroupNames", "logGroupIdentifiers"} & more.keys() else more
    end_s = begin_s + 6 * HOUR_S if end_s is None else end_s
    query_id = logs.start_query(startTime=begin_s, endTime=end_s, queryString=text, **more)["queryId"]
    return finished(logs, query_id)


def finished(logs: Any, query_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while True:
        answer = logs.get_query_results(queryId=query_id)
        if answer["status"] not in ("Scheduled", "Running"):
            return dict(answer)
        assert time.monotonic() < deadline, answer
        time.sleep(0.02)


def rows_of(answer: dict[str, Any]) -> list[dict[str, str]]:
    assert answer["status"] == "Complete"
    return [{cell["field"]: cell["value"] for cell in row} for row in answer["results"]]


@pytest.fixture
def query(shared: Any, begin_s: int) -> Query:
    return lambda text, **more: rows_of(ask(shared, text, begin_s, **more))


# The samples


def test_top_packet_transfers_across_hosts(query: Query) -> None:
    text = """stats sum(packets) as packetsTransferred by srcAddr, dstAddr
        | sort packetsTransferred desc
        | limit 15"""
    found = query(text)
    assert found[:3] == [
        {"srcAddr": "192.0.2.10", "dstAddr": "203.0.113.5", "packetsTransferred": "40"},
        {"srcAddr": "198.51.100.7", "dstAddr": "192.0.2.11", "packetsTransferred": "7"},
        {"srcAddr": "198.51.100.7", "dstAddr": "192.0.2.10", "packetsTransferred": "5"},
    ]
    # The records without traffic have no packets to add up; what is missing is left out and sorts last downwards.
    assert found[-1] == {"srcAddr": "-", "dstAddr": "-"}
    assert len(found) == 7


def test_top_byte_receivers_of_a_subnets_hosts(query: Query) -> None:
    text = (
        'filter isIpv4InSubnet(srcAddr, "192.0.2.0/24") | stats sum(bytes) as bytesTransferred by dstAddr '
        "| sort bytesTransferred desc | limit 15"
    )
    assert query(text) == [
        {"dstAddr": "203.0.113.5", "bytesTransferred": "4000"},
        {"dstAddr": "203.0.113.9", "bytesTransferred": "150"},
    ]


def test_addresses_that_use_udp(query: Query) -> None:
    assert sorted(query("filter protocol=17 | stats count(*) by srcAddr"), key=str) == [
        {"srcAddr": "192.0.2.11", "count(*)": "1"},
        {"srcAddr": "2001:db8::1", "count(*)": "1"},
    ]


def test_skipped_windows_by_the_hour(query: Query, begin_s: int) -> None:
    hour = time.strftime("%Y-%m-%d %H:00:00.000", time.gmtime(begin_s + 2 * HOUR_S))
    assert query('filter logStatus="SKIPDATA" | stats count(*) by bin(1h) as t | sort t') == [
        {"t": hour, "count(*)": "1"}
    ]


def test_status_of_an_interface(query: Query) -> None:
    text = f"""fields @timestamp, @message, @logStream, @log
        | filter interfaceId = '{OTHER}'
        | stats count(*) by interfaceId, logStatus
        | sort by interfaceId, logStatus"""
    assert query(text) == [
        {"interfaceId": OTHER, "logStatus": "NODATA", "count(*)": "1"},
        {"interfaceId": OTHER, "logStatus": "OK", "count(*)": "2"},
        {"interfaceId": OTHER, "logStatus": "SKIPDATA", "count(*)": "1"},
    ]


def test_the_interface_by_a_regular_expression(query: Query) -> None:
    found = query("parse @message /(?<NetworkInterface>eni-.*?) / | display NetworkInterface, @message")
    assert [row["NetworkInterface"] for row in found] == [OTHER] * 4 + [ENI] * 5
    assert [row["@message"] for row in found] == RECORDS[::-1]


def test_rejected_by_source(query: Query) -> None:
    text = 'filter action = "REJECT" | stats count(*) as rejections by srcAddr | sort rejections desc | limit 10'
    assert query(text) == [
        {"srcAddr": "198.51.100.7", "rejections": "2"},
        {"srcAddr": "198.51.100.8", "rejections": "1"},
    ]


# What events show


def test_events_come_newest_first_with_their_pointer(query: Query, begin_s: int) -> None:
    newest, *_ = query("fields @timestamp, @logStream, @log, srcPort | limit 1", limit=5)
    pointer = Pointer.parse(newest.pop("@ptr"))
    assert pointer.timestamp_ms == (begin_s + 8 * 1200) * 1000
    assert newest == {
        "@timestamp": time.strftime("%Y-%m-%d %H:%M:%S.000", time.gmtime(begin_s + 8 * 1200)),
        "@logStream": "eni-1-all",
        "@log": "123456789012:flow",
        "srcPort": "-",
    }


def test_without_fields_the_time_and_the_message_are_shown(query: Query) -> None:
    (row,) = query("filter dstPort = 3389")
    assert row.keys() == {"@timestamp", "@message", "@ptr"}
    assert row["@message"] == RECORDS[5]


def test_fields_of_a_custom_format_and_json(logs: Any, stream: Any, begin_s: int) -> None:
    lines = ['{"level": "WARN", "user": {"id": "u-1", "roles": ["a", "b"]}, "took": 1.5}', "no json at all"]
    events = [{"timestamp": begin_s * 1000 + number, "message": line} for number, line in enumerate(lines)]
    logs.put_log_events(**stream, logEvents=events)
    text = "filter isPresent(level) | fields level, user.id, user.roles.1, took * 2 as twice, srcAddr"
    (row,) = rows_of(ask(logs, text, begin_s))
    row.pop("@ptr")
    assert row == {"level": "WARN", "user.id": "u-1", "user.roles.1": "b", "twice": "3"}


def test_the_time_of_a_query_includes_both_its_seconds(shared: Any, begin_s: int) -> None:
    count = "stats count(*) as n"
    assert rows_of(ask(shared, count, begin_s + 1200, begin_s + 2400)) == [{"n": "2"}]
    assert rows_of(ask(shared, count, begin_s + 1201, begin_s + 2399)) == [{"n": "0"}]


# Statistics and pages


def test_statistics_say_what_was_scanned_and_matched(shared: Any, begin_s: int) -> None:
    for text in ('filter action = "REJECT"', 'filter action = "REJECT" | stats sum(bytes) by srcAddr'):
        statistics = ask(shared, text, begin_s)["statistics"]
        assert statistics["recordsMatched"] == 3
        assert statistics["recordsScanned"] == len(RECORDS)
        assert statistics["logGroupsScanned"] == 1
    described = shared.describe_log_groups()["logGroups"][0]
    assert statistics["bytesScanned"] == described["storedBytes"]
    nothing = ask(shared, 'filter action = "x" | stats count(*) by srcAddr', begin_s)
    assert nothing["results"] == []
    assert nothing["statistics"]["recordsMatched"] == 0
    assert nothing["statistics"]["recordsScanned"] == len(RECORDS)


def test_results_come_in_pages(shared: Any, begin_s: int) -> None:
    answer = ask(shared, "fields srcPort | sort @timestamp asc", begin_s)
    assert "nextToken" not in answer
    query_id = shared.describe_queries()["queries"][0]["queryId"]
    ports: list[str] = []
    token: dict[str, str] = {}
    while True:
        page = shared.get_query_results(queryId=query_id, maxItems=4, **token)
        ports += [row[0]["value"] for row in page["results"]]
        if "nextToken" not in page:
            break
        assert len(page["results"]) == 4
        token = {"nextToken": page["nextToken"]}
    assert ports == ["40000", "40001", "40002", "50000", "50001", "50002", "123", "-", "-"]
    with pytest.raises(ClientError, match=r"InvalidParameterException.*nextToken"):
        shared.get_query_results(queryId=query_id, nextToken="x")


def test_the_limit_of_the_query_goes_before_that_of_the_call(query: Query) -> None:
    assert len(query("fields @message", limit=2)) == 2
    assert len(query("fields @message | limit 4", limit=2)) == 4


# Which groups


def test_several_groups_are_asked_together(corpus: Any, begin_s: int) -> None:
    corpus.create_log_group(logGroupName="app")
    corpus.create_log_stream(logGroupName="app", logStreamName="s")
    corpus.put_log_events(
        logGroupName="app", logStreamName="s", logEvents=[{"timestamp": begin_s * 1000, "message": "hello"}]
    )
    text = "stats count(*) as n by @log | sort n"
    expected = [{"@log": "123456789012:app", "n": "1"}, {"@log": "123456789012:flow", "n": "9"}]
    assert rows_of(ask(corpus, text, begin_s, logGroupNames=["app", "flow", "app"])) == expected
    arn = "arn:aws:logs:us-east-1:123456789012:log-group:flow"
    assert rows_of(ask(corpus, text, begin_s, logGroupIdentifiers=["app", arn])) == expected


@pytest.mark.parametrize("many", [1, 1_000_000], ids=["of a snapshot", "by conditions"])
def test_deleted_and_expired_events_are_not_asked(
    corpus: Any, stream: Any, begin_s: int, many: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(insights, "MANY_EVENTS", many)
    corpus.create_log_stream(logGroupName="flow", logStreamName="gone")
    corpus.put_log_events(
        logGroupName="flow", logStreamName="gone", logEvents=[{"timestamp": begin_s * 1000, "message": "gone"}]
    )
    old_ms = (begin_s - 3 * 86_400) * 1000
    corpus.put_log_events(**stream, logEvents=[{"timestamp": old_ms, "message": "old"}])
    begin_all_s = begin_s - 10 * 86_400

    def count() -> str:
        return rows_of(ask(corpus, "stats count(*) as n", begin_all_s, begin_s + 6 * HOUR_S))[0]["n"]

    assert count() == str(len(RECORDS) + 2)
    corpus.delete_log_stream(logGroupName="flow", logStreamName="gone")
    assert count() == str(len(RECORDS) + 1)
    corpus.put_retention_policy(logGroupName="flow", retentionInDays=1)
    assert count() == str(len(RECORDS))


@pytest.mark.parametrize(
    "groups",
    [{}, {"logGroupName": "flow", "logGroupNames": ["flow"]}, {"logGroupNames": [f"g{n}" for n in range(51)]}],
    ids=["none", "two members", "51 groups"],
)
def test_groups_are_named_in_one_member(shared: Any, groups: dict[str, Any]) -> None:
    with pytest.raises(ClientError, match="InvalidParameterException"):
        shared.start_query(startTime=0, endTime=1, queryString="limit 1", **groups)


def test_a_group_that_does_not_exist(shared: Any) -> None:
    with pytest.raises(ClientError, match="ResourceNotFoundException"):
        shared.start_query(logGroupName="nowhere", startTime=0, endTime=1, queryString="limit 1")


@pytest.mark.parametrize(
    ("member", "value"),
    [("queryLanguage", "SQL"), ("endTime", 0), ("startTime", 1_700_000_000_000), ("limit", 100_001)],
)
def test_what_a_call_cannot_ask(shared: Any, member: str, value: Any) -> None:
    asked = {"logGroupName": "flow", "startTime": 5, "endTime": 10, "queryString": "limit 1", member: value}
    with pytest.raises(ClientError, match="InvalidParameterException"):
        shared.start_query(**asked)


# Malformed queries


def test_a_malformed_query_is_refused_with_its_place(shared: Any) -> None:
    with pytest.raises(ClientError) as caught:
        shared.start_query(logGroupName="flow", startTime=0, endTime=1, queryString="fields a\n| sort a b")
    response = caught.value.response
    assert response["Error"]["Code"] == "MalformedQueryException"
    assert "unexpected symbol found b at line 2 and position 9" in response["Error"]["Message"]
    assert response["queryCompileError"]["location"] == {"startCharOffset": 18, "endCharOffset": 19}
    assert response["queryCompileError"]["message"] == response["Error"]["Message"]
    assert "| sort a b" not in str(shared.describe_queries()["queries"])


# The life of a query


def test_queries_are_described_newest_first(corpus: Any, begin_s: int) -> None:
    first = corpus.start_query(logGroupName="flow", startTime=begin_s, endTime=begin_s, queryString="limit 1")
    finished(corpus, first["queryId"])
    second = corpus.start_query(logGroupName="flow", startTime=begin_s, endTime=begin_s, queryString="limit 2")
    finished(corpus, second["queryId"])
    found = corpus.describe_queries(logGroupName="flow", status="Complete")["queries"]
    assert [item["queryId"] for item in found] == [second["queryId"], first["queryId"]]
    assert found[0]["queryString"] == "limit 2"
    assert found[0]["logGroupName"] == "flow"
    assert abs(found[0]["createTime"] - time.time() * 1000) < 60_000
    assert found[0]["userIdentity"].startswith("arn:aws:iam::123456789012:")
    page = corpus.describe_queries(maxResults=1)
    assert [item["queryId"] for item in page["queries"]] == [second["queryId"]]
    rest = corpus.describe_queries(maxResults=1, nextToken=page["nextToken"])
    assert [item["queryId"] for item in rest["queries"]] == [first["queryId"]]
    assert corpus.describe_queries(status="Running")["queries"] == []


def test_a_query_that_has_ended_cannot_be_stopped(shared: Any, begin_s: int) -> None:
    query_id = shared.start_query(logGroupName="flow", startTime=begin_s, endTime=begin_s, queryString="limit 1")
    finished(shared, query_id["queryId"])
    with pytest.raises(ClientError, match=r"InvalidParameterException.*not running"):
        shared.stop_query(**{"queryId": query_id["queryId"]})
    for call in (shared.stop_query, shared.get_query_results):
        with pytest.raises(ClientError, match="ResourceNotFoundException"):
            call(queryId="11111111-2222-3333-4444-555555555555")


def test_permission_to_query_is_asked_for_each_group(api: Any, corpus: Any, begin_s: int) -> None:
    corpus.create_log_group(logGroupName="secret")
    iam = api.client("iam")
    iam.create_user(UserName="analyst")
    statement = {
        "Effect": "Allow",
        "Action": ["logs:StartQuery", "logs:GetQueryResults"],
        "Resource": "arn:aws:logs:us-east-1:123456789012:log-group:flow:*",
    }
    everywhere = {"Effect": "Allow", "Action": "logs:GetQueryResults", "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [statement, everywhere]})
    iam.put_user_policy(UserName="analyst", PolicyName="p", PolicyDocument=document)
    key = iam.create_access_key(UserName="analyst")["AccessKey"]
    theirs = api.client("logs", key=(key["AccessKeyId"], key["SecretAccessKey"]))
    assert rows_of(ask(theirs, "stats count(*) as n", begin_s)) == [{"n": "9"}]
    for groups in (["secret"], ["flow", "secret"]):
        with pytest.raises(ClientError, match=r"AccessDeniedException.*logs:StartQuery"):
            ask(theirs, "stats count(*) as n", begin_s, logGroupNames=groups)


class TestQuota:
    @pytest.fixture
    def quotas(self) -> Quotas:
        return Quotas(log_queries=0)

    def test_more_queries_than_the_quota_are_refused(self, logs: Any, stream: Any) -> None:
        with pytest.raises(ClientError, match="LimitExceededException"):
            logs.start_query(logGroupName="flow", startTime=0, endTime=1, queryString="limit 1")


# Definitions


def test_query_definitions(logs: Any) -> None:
    made = logs.put_query_definition(name="vpc/top", queryString="stats count(*)", logGroupNames=["flow"])
    other = logs.put_query_definition(name="app", queryString="limit 1")
    assert made["queryDefinitionId"] != other["queryDefinitionId"]
    found = logs.describe_query_definitions()["queryDefinitions"]
    assert [item["name"] for item in found] == ["app", "vpc/top"]
    (top,) = logs.describe_query_definitions(queryDefinitionNamePrefix="vpc/")["queryDefinitions"]
    assert top["queryDefinitionId"] == made["queryDefinitionId"]
    assert (top["queryString"], top["logGroupNames"]) == ("stats count(*)", ["flow"])
    # An update keeps nothing of what was there before.
    logs.put_query_definition(
        queryDefinitionId=made["queryDefinitionId"], name="vpc/new", queryString="stats count(*) by srcAddr"
    )
    (top,) = logs.describe_query_definitions(queryDefinitionNamePrefix="vpc/")["queryDefinitions"]
    assert (top["name"], top["queryString"], top["logGroupNames"]) == ("vpc/new", "stats count(*) by srcAddr", [])
    page = logs.describe_query_definitions(maxResults=1)
    rest = logs.describe_query_definitions(maxResults=1, nextToken=page["nextToken"])
    assert [page["queryDefinitions"][0]["name"], rest["queryDefinitions"][0]["name"]] == ["app", "vpc/new"]
    assert "nextToken" not in rest
    assert logs.delete_query_definition(queryDefinitionId=made["queryDefinitionId"])["success"] is True
    for call in (
        lambda: logs.delete_query_definition(queryDefinitionId=made["queryDefinitionId"]),
        lambda: logs.put_query_definition(queryDefinitionId="x", name="a", queryString="b"),
    ):
        with pytest.raises(ClientError, match="ResourceNotFoundException"):
            call()


def test_a_client_token_makes_one_definition(logs: Any) -> None:
    token = "0" * 36
    ids = {logs.put_query_definition(name="a", queryString="b", clientToken=token)["queryDefinitionId"] for _ in "ab"}
    assert len(ids) == 1


# The other client


def test_the_aws_cli_asks(shared_api: Any, shared: Any, begin_s: int) -> None:
    key_id, secret = shared_api.administrator_key

    def aws(*arguments: str) -> Any:
        command = [
            str(Path(sys.executable).with_name("aws")), "--endpoint-url", shared_api.endpoint, "--region", "us-east-1",
            "--output", "json", "logs", *arguments,
        ]  # fmt: skip
        environment = {"AWS_ACCESS_KEY_ID": key_id, "AWS_SECRET_ACCESS_KEY": secret, "PATH": "/usr/bin:/bin"}
        return json.loads(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)

    query_id = aws(
        "start-query", "--log-group-name", "flow", "--start-time", str(begin_s), "--end-time", str(begin_s + 9 * 1200),
        "--query-string", "filter action='REJECT' | stats count(*) as n by dstPort | sort n desc",
    )["queryId"]  # fmt: skip
    finished(shared, query_id)
    answer = aws("get-query-results", "--query-id", query_id)
    assert rows_of(answer) == [{"dstPort": "22", "n": "2"}, {"dstPort": "3389", "n": "1"}]

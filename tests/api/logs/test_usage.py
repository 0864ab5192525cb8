"""GET /vnotch/v1/usage: a month's quantities by log group and the account's bill."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from vnotch.api.log_prices import GB
from vnotch.api.logs import Logs
from vnotch.api.usage import Usage, document
from vnotch.store.log_usage import LogUsage, month_of


@pytest.fixture
def usage(api: Any, lake: Any) -> Any:
    service = Logs(api.state, lake)
    found = Usage(api.state, api.access_log)
    api.serve(service, routes=found.routes())
    yield found
    service.close()


def asked(api: Any, query: str = "", key: tuple[str, str] | None = None) -> tuple[int, dict[str, Any]]:
    answer = api.send("vnotch", b"", key, method="GET", path="/vnotch/v1/usage", query=query)
    return answer.status_code, answer.json()


def put_two(logs: Any) -> None:
    logs.create_log_group(logGroupName="app")
    logs.create_log_stream(logGroupName="app", logStreamName="s")
    now_ms = int(time.time() * 1000)
    # 5 bytes in UTF-8 and 6, of 5 characters each.
    events = [{"timestamp": now_ms, "message": text} for text in ("hello", "h\u00e9llo")]
    logs.put_log_events(logGroupName="app", logStreamName="s", logEvents=events)


def test_events_and_requests_are_counted_in_their_group(api: Any, usage: Any) -> None:
    logs = api.client("logs")
    put_two(logs)
    logs.describe_log_groups()
    status, found = asked(api)
    assert (status, found["month"]) == (200, month_of(int(time.time() * 1000)))
    by_name = {row["group"]: row for row in found["groups"]}
    app = by_name["app"]
    size = 5 + 26 + 6 + 26
    assert (app["events"], app["custom_bytes"], app["vended_bytes"], app["stored_bytes"]) == (2, size, 0, size)
    # CreateLogGroup, CreateLogStream and PutLogEvents; DescribeLogGroups names none.
    assert (app["requests"], by_name[None]["requests"]) == (3, 1)
    assert found["total"] == "0"


def test_a_query_counts_the_bytes_that_it_says_it_scanned(api: Any, usage: Any) -> None:
    logs = api.client("logs")
    put_two(logs)
    now_s = int(time.time())
    question = {"startTime": now_s - 60, "endTime": now_s + 60, "queryString": "stats count(*) as n"}
    query_id = logs.start_query(logGroupName="app", **question)["queryId"]
    until = time.monotonic() + 30
    while (answer := logs.get_query_results(queryId=query_id))["status"] != "Complete" and time.monotonic() < until:
        time.sleep(0.02)
    assert answer["statistics"]["bytesScanned"] == 63
    (app,) = (row for row in asked(api)[1]["groups"] if row["group"] == "app")
    assert app["scanned_bytes"] == 63


def test_requests_are_written_at_the_end_too(api: Any, usage: Any) -> None:
    usage.start()
    api.client("logs").create_log_group(logGroupName="app")
    usage.close()
    again = Usage(api.state, api.access_log)
    (row,) = again._rows(month_of(int(time.time() * 1000)))
    assert (row.name, row.requests) == ("app", 1)


def test_another_month_is_asked_by_its_name_and_nonsense_is_refused(api: Any, usage: Any) -> None:
    put_two(api.client("logs"))
    status, found = asked(api, "month=2001-01")
    assert (status, found["groups"], found["total"]) == (200, [], "0")
    for query in ("month=2026-13", "month=now", "year=2026"):
        status, refusal = asked(api, query)
        assert (status, refusal["__type"]) == (400, "InvalidParameterException"), query


def test_it_needs_a_permission(api: Any, usage: Any) -> None:
    iam = api.client("iam")
    iam.create_user(UserName="ana")
    made = iam.create_access_key(UserName="ana")["AccessKey"]
    key = (made["AccessKeyId"], made["SecretAccessKey"])
    assert asked(api, key=key)[1]["__type"] == "AccessDeniedException"
    statement = {"Effect": "Allow", "Action": "vnotch:GetUsage", "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    iam.put_user_policy(UserName="ana", PolicyName="usage", PolicyDocument=policy)
    assert asked(api, key=key)[0] == 200


def test_the_bill_is_of_the_whole_account() -> None:
    def row(name: str, log_class: str = "STANDARD", **sizes: int) -> LogUsage:
        zero = dict.fromkeys(("events", "custom_bytes", "vended_bytes", "stored_bytes", "scanned_bytes", "requests"), 0)
        return LogUsage(month="2026-01", group_id=1, name=name, log_class=log_class, **(zero | sizes))

    rows = [
        row("app", custom_bytes=4 * GB, stored_bytes=4 * GB, requests=7),
        row("flow", vended_bytes=11 * GB, stored_bytes=11 * GB, scanned_bytes=105 * GB),
        row("old", "INFREQUENT_ACCESS", custom_bytes=2 * GB),
    ]
    found = document(rows, "2026-01", "eu-west-1")
    costs = {line["dimension"]: float(line["cost"]) for line in found["bill"]}
    # Free: app's 4 GB and one of old's 2. Beyond: 1 * 0.25, 11 * 0.50, (15 - 5) * 0.03, (105 - 5) * 0.005.
    assert costs == {
        "custom_ingestion": 0,
        "custom_ingestion_infrequent_access": 0.25,
        "vended_ingestion": 5.5,
        "vended_ingestion_infrequent_access": 0,
        "storage": 0.3,
        "insights": 0.5,
        "requests": 0,
    }
    assert float(found["total"]) == 6.55
    assert (found["region"], found["prices"]["region"]) == ("eu-west-1", "us-east-1")

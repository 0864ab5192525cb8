"""Questions that would take for ever, or more memory than there is, and tokens that are none: AWS's errors, and the
service goes on."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError
from lakes import new_lake

from vnotch.api.logs import Logs
from vnotch.store.lake import Lake


def put(logs: Any, stream: Any, *messages: str) -> None:
    now_ms = int(time.time() * 1000)
    logs.put_log_events(**stream, logEvents=[{"timestamp": now_ms, "message": message} for message in messages])


def filtered(logs: Any, pattern: str) -> list[str]:
    return [event["message"] for event in logs.filter_log_events(logGroupName="flow", filterPattern=pattern)["events"]]


def asked(logs: Any, query: str) -> dict[str, Any]:
    now_s = int(time.time())
    started = logs.start_query(
        logGroupName="flow", startTime=now_s - 3600, endTime=now_s + 3600, queryString=query, limit=100_000
    )
    while True:
        answer: dict[str, Any] = logs.get_query_results(queryId=started["queryId"])
        if answer["status"] not in ("Scheduled", "Running"):
            return answer


BACKTRACKING = ["a*a*a*a*a*a*a*a*a*a*b", "^[a-z]*a[a-z]*a[a-z]*a[a-z]*a[a-z]*#$", "a?a?a?a?a?a?a?a?aaaaaaaab"]
"""A backtracking engine takes time exponential or of a high power in the length of what does not match."""


@pytest.mark.parametrize("expression", BACKTRACKING)
def test_no_regular_expression_runs_for_ever(logs: Any, stream: Any, expression: str) -> None:
    put(logs, stream, *["a" * 50_000] * 10)
    assert filtered(logs, f"%{expression}%") == []
    assert filtered(logs, f"[one = %{expression}%, ...]") == []
    answer = asked(logs, f"filter @message like /{expression}/ | stats count(*) as n")
    assert [row[0]["value"] for row in answer["results"]] == ["0"]


@pytest.mark.parametrize("expression", ["(((a{99}){99}){99})", "a{1001}", "(?=a)", r"(a)\1"])
def test_an_expression_that_is_too_large_or_looks_around_is_malformed(logs: Any, stream: Any, expression: str) -> None:
    with pytest.raises(ClientError, match="MalformedQueryException"):
        asked(logs, f"filter @message like /{expression}/")
    with pytest.raises(ClientError, match="InvalidParameterException"):
        filtered(logs, f"%{expression}%")


def test_wildcards_and_globs_take_time_linear_in_the_text(logs: Any, stream: Any) -> None:
    put(logs, stream, *["ab" * 20_000] * 10)
    assert filtered(logs, "[one = *a*a*a*a*a*a*a*a*a*a*!*, ...]") == []
    answer = asked(
        logs, 'parse @message "*a*a*a*a*a*a*!" as b, c, d, e, f, g, h | filter isPresent(b) | stats count(*) as n'
    )
    assert [row[0]["value"] for row in answer["results"]] == ["0"]


def test_a_document_nested_without_end_is_no_match_and_no_crash(logs: Any, stream: Any) -> None:
    deep = '{"a":' * 50_000 + "1" + "}" * 50_000
    put(logs, stream, deep, '{"a": 1}')
    assert filtered(logs, "{ $.a = 1 }") == ['{"a": 1}']
    answer = asked(logs, "filter a = 1 | stats count(*) as n")
    assert [row[0]["value"] for row in answer["results"]] == ["1"]


PAGED: dict[str, dict[str, str]] = {
    "describe_log_groups": {},
    "list_log_groups": {},
    "describe_log_streams": {"logGroupName": "flow"},
    "filter_log_events": {"logGroupName": "flow"},
    "get_log_events": {"logGroupName": "flow", "logStreamName": "eni-1-all"},
    "describe_metric_filters": {},
    "describe_queries": {},
    "describe_query_definitions": {},
    "describe_resource_policies": {},
}
FORGED = base64.urlsafe_b64encode(json.dumps(["0" * 18, 7]).encode()).decode()


@pytest.mark.parametrize("token", ["x", "f/777/s", FORGED, "=" * 100])
def test_a_token_that_no_operation_gave_is_refused_by_each(logs: Any, stream: Any, token: str) -> None:
    for operation, members in PAGED.items():
        with pytest.raises(ClientError, match=r"InvalidParameterException.*nextToken is invalid"):
            getattr(logs, operation)(**members, nextToken=token)


class TestLittleMemory:
    """A log service with 48 MB for all its questions, and as much disk as it wants to spill to."""

    @pytest.fixture
    def lake(self, tmp_path: Any) -> Iterator[Lake]:
        lake = new_lake(tmp_path / "lake", memory_bytes=48_000_000)
        yield lake
        lake.close()

    @pytest.fixture
    def logs(self, api: Any, lake: Lake) -> Iterator[Any]:
        service = Logs(api.state, lake)
        api.serve(service)
        yield api.client("logs", read_timeout=120)
        service.close()

    def test_a_query_over_memory_fails_by_itself_and_the_service_goes_on(self, logs: Any, stream: Any) -> None:
        for number in range(70):
            put(logs, stream, *(f"{number} {row} " + "x" * 900 for row in range(1000)))
        heavy = 'stats latest(@message), earliest(@message), sortsLast(@message) by @message, concat(@message, "y")'
        answer = asked(logs, heavy)
        assert (answer["status"], answer["results"]) == ("Failed", [])
        assert logs.describe_queries(status="Failed")["queries"][0]["queryString"] == heavy
        (row,) = asked(logs, "stats count(*) as n")["results"]
        assert row[0]["value"] == "70000"
        put(logs, stream, "after")
        assert filtered(logs, "after") == ["after"]

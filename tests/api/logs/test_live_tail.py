"""StartLiveTail through boto3, against the API reference and the service model of CloudWatch Logs."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError, EventStreamError

from vnotch.api.exchange import Limits
from vnotch.api.logs import live_tail
from vnotch.api.logs.live_tail import LiveTail
from vnotch.api.quotas import Quotas

ARN = "arn:aws:logs:us-east-1:123456789012:log-group:flow"
REJECTED = "2 123456789010 eni-1 172.31.9.69 172.31.9.12 49761 22 6 20 4249 1418530010 1418530070 REJECT OK"
ACCEPTED = REJECTED.replace("REJECT", "ACCEPT")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS sends an update a second; here ten."""
    monkeypatch.setattr(LiveTail, "update_seconds", 0.1)


@pytest.fixture
def tail(api: Any, logs: Any, stream: Any) -> Any:
    """Starts sessions, whose host has no prefix, as people set it for an endpoint of their own."""
    return api.client("logs", inject_host_prefix=False)


def refused(code: str, text: str = "") -> Any:
    return pytest.raises(ClientError, match=f"{code}.*{text}")


def put(logs: Any, *messages: str, group: str = "flow", stream: str = "eni-1-all") -> None:
    now_ms = int(time.time() * 1000)
    events = [{"timestamp": now_ms, "message": message} for message in messages]
    logs.put_log_events(logGroupName=group, logStreamName=stream, logEvents=events)


def results(events: Iterator[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """The next `count` log events of a session."""
    found: list[dict[str, Any]] = []
    while len(found) < count:
        found += next(events)["sessionUpdate"]["sessionResults"]
    return found


def test_a_session_begins_beats_and_shows_what_is_stored_after_its_start(logs: Any, tail: Any) -> None:
    put(logs, "before")
    session = tail.start_live_tail(logGroupIdentifiers=[ARN])["responseStream"]
    events = iter(session)
    start = next(events)["sessionStart"]
    assert start["logGroupIdentifiers"] == [ARN]
    assert start["requestId"] != start["sessionId"]
    # Without events too an update comes each second.
    assert next(events)["sessionUpdate"] == {"sessionMetadata": {"sampled": False}, "sessionResults": []}
    before_ms = int(time.time() * 1000)
    put(logs, REJECTED, "text")
    found = results(events, 2)
    assert [event["message"] for event in found] == [REJECTED, "text"]
    assert {event["logStreamName"] for event in found} == {"eni-1-all"}
    assert {event["logGroupIdentifier"] for event in found} == {ARN}
    assert all(before_ms <= event["timestamp"] <= event["ingestionTime"] + 1000 for event in found)
    put(logs, "more")
    assert [event["message"] for event in results(events, 1)] == ["more"]
    session.close()


def test_streams_prefixes_groups_and_patterns_choose(logs: Any, tail: Any) -> None:
    for name in ("eni-2-all", "other"):
        logs.create_log_stream(logGroupName="flow", logStreamName=name)
    logs.create_log_group(logGroupName="second")
    logs.create_log_stream(logGroupName="second", logStreamName="s")
    sessions = {
        "names": {"logGroupIdentifiers": [ARN], "logStreamNames": ["eni-2-all", "later"]},
        "prefixes": {"logGroupIdentifiers": [ARN], "logStreamNamePrefixes": ["eni-", "la"]},
        "pattern": {"logGroupIdentifiers": [ARN], "logEventFilterPattern": "[..., action = REJECT, status]"},
        "groups": {"logGroupIdentifiers": [ARN, ARN.replace("flow", "second")], "logEventFilterPattern": "-x"},
    }
    opened = {name: iter(tail.start_live_tail(**asked)["responseStream"]) for name, asked in sessions.items()}
    for events in opened.values():
        assert "sessionStart" in next(events)
    put(logs, REJECTED, ACCEPTED)
    put(logs, "two", stream="eni-2-all")
    put(logs, "x other", stream="other")
    put(logs, "of the second", group="second", stream="s")
    # A stream that is made while the session is open.
    logs.create_log_stream(logGroupName="flow", logStreamName="later")
    put(logs, "later", stream="later")

    def messages(name: str, count: int) -> set[str]:
        return {event["message"] for event in results(opened[name], count)}

    assert messages("names", 2) == {"two", "later"}
    assert messages("prefixes", 4) == {REJECTED, ACCEPTED, "two", "later"}
    assert messages("pattern", 1) == {REJECTED}
    assert messages("groups", 5) == {REJECTED, ACCEPTED, "two", "later", "of the second"}


def test_more_than_500_in_an_update_are_sampled_and_it_is_said(logs: Any, tail: Any) -> None:
    events = iter(tail.start_live_tail(logGroupIdentifiers=[ARN])["responseStream"])
    next(events)
    put(logs, *(f"event {number}" for number in range(1200)))
    while not (update := next(events)["sessionUpdate"])["sessionResults"]:
        pass
    assert update["sessionMetadata"]["sampled"] is True
    found = {event["message"] for event in update["sessionResults"]}
    assert len(found) == 500
    put(logs, "few")
    while not (update := next(events)["sessionUpdate"])["sessionResults"]:
        pass
    assert update["sessionMetadata"]["sampled"] is False


def test_an_update_is_bounded_in_bytes(logs: Any, tail: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_tail, "UPDATE_BYTES_MAX", 10_000)
    events = iter(tail.start_live_tail(logGroupIdentifiers=[ARN])["responseStream"])
    next(events)
    put(logs, *("x" * 3000 for _ in range(5)))
    while not (update := next(events)["sessionUpdate"])["sessionResults"]:
        pass
    assert len(update["sessionResults"]) == 3
    assert update["sessionMetadata"]["sampled"] is True


def test_what_a_session_cannot_be_asked_for(logs: Any, tail: Any) -> None:
    logs.create_log_group(logGroupName="rare", logGroupClass="INFREQUENT_ACCESS")
    second = ARN.replace("flow", "rare")
    for code, asked in (
        ("InvalidParameterException", {"logGroupIdentifiers": ["flow"]}),
        ("InvalidParameterException", {"logGroupIdentifiers": [ARN + ":*"]}),
        ("InvalidParameterException", {"logGroupIdentifiers": [ARN] * 11}),
        ("InvalidParameterException", {"logGroupIdentifiers": [ARN, second], "logStreamNames": ["a"]}),
        (
            "InvalidParameterException",
            {"logGroupIdentifiers": [ARN], "logStreamNames": ["a"], "logStreamNamePrefixes": ["a"]},
        ),
        ("InvalidParameterException", {"logGroupIdentifiers": [ARN], "logEventFilterPattern": "[a"}),
        ("ResourceNotFoundException", {"logGroupIdentifiers": [ARN + "x"]}),
        ("ResourceNotFoundException", {"logGroupIdentifiers": [ARN.replace("123456789012", "210987654321")]}),
        ("InvalidOperationException", {"logGroupIdentifiers": [second]}),
    ):
        with refused(code):
            tail.start_live_tail(**asked)


class TestQuota:
    @pytest.fixture
    def quotas(self) -> Quotas:
        return Quotas.of(["live-tail-sessions=2"])

    def test_the_account_has_so_many_sessions_and_ended_ones_do_not_count(self, tail: Any) -> None:
        sessions = [tail.start_live_tail(logGroupIdentifiers=[ARN])["responseStream"] for _ in range(2)]
        with refused("LimitExceededException"):
            tail.start_live_tail(logGroupIdentifiers=[ARN])
        sessions[0].close()
        deadline = time.monotonic() + 20
        while True:
            try:
                tail.start_live_tail(logGroupIdentifiers=[ARN])["responseStream"].close()
                break
            except ClientError:
                assert time.monotonic() < deadline
                time.sleep(0.05)


def test_a_session_ends_with_a_timeout_exception(tail: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LiveTail, "session_seconds", 0.25)
    with pytest.raises(EventStreamError, match="SessionTimeoutException"):
        list(tail.start_live_tail(logGroupIdentifiers=[ARN])["responseStream"])


def test_sessions_end_with_the_server(api: Any, tail: Any) -> None:
    events = iter(tail.start_live_tail(logGroupIdentifiers=[ARN])["responseStream"])
    next(events)
    api.services[-1].end()
    for _ in range(100):
        if next(events, None) is None:
            break
    else:
        pytest.fail("the session goes on")


def test_the_hosts_prefix_of_sdks_is_taken(api: Any, logs: Any, stream: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """SDKs put `stream-` (before April 2026 `streaming-`) before the endpoint's host, here one that resolves."""
    resolve = socket.getaddrinfo
    asked = []

    def getaddrinfo(host: Any, *arguments: Any, **more: Any) -> Any:
        asked.append(host)
        return resolve("127.0.0.1", *arguments, **more)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    client = api.client("logs")
    for prefix in ("stream-", "streaming-"):
        client.meta.service_model.operation_model("StartLiveTail").endpoint["hostPrefix"] = prefix
        session = client.start_live_tail(logGroupIdentifiers=[ARN])["responseStream"]
        assert "sessionStart" in next(iter(session))
        session.close()
    assert {"stream-127.0.0.1", "streaming-127.0.0.1"} <= set(asked)


@pytest.fixture
def hasty(api: Any) -> None:
    api.limits = Limits(write_seconds=0.5)


def test_a_client_that_does_not_read_loses_the_oldest_and_is_cut_off(
    api: Any, hasty: None, logs: Any, tail: Any
) -> None:
    response = tail.start_live_tail(logGroupIdentifiers=[ARN])
    body = "x" * 1_000_000
    service = api.services[-1]
    deadline = time.monotonic() + 60
    # What the sockets between hold is some megabytes; then the server waits no longer than it says.
    while service.sessions:
        assert time.monotonic() < deadline
        put(logs, body)
    response["responseStream"].close()


def test_an_unsigned_or_denied_session_is_refused_before_it_streams(api: Any, logs: Any, stream: Any) -> None:
    iam = api.client("iam")
    iam.create_user(UserName="reader")
    key = iam.create_access_key(UserName="reader")["AccessKey"]
    reader = api.client("logs", key=(key["AccessKeyId"], key["SecretAccessKey"]), inject_host_prefix=False)
    with refused("AccessDenied"):
        reader.start_live_tail(logGroupIdentifiers=[ARN])
    iam.put_user_policy(
        UserName="reader",
        PolicyName="p",
        PolicyDocument='{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "logs:StartLiveTail",'
        f' "Resource": "{ARN}:*"}}]}}',
    )
    session = reader.start_live_tail(logGroupIdentifiers=[ARN])["responseStream"]
    assert "sessionStart" in next(iter(session))
    session.close()

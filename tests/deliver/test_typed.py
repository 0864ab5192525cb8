"""Typed deliveries from the agent's side: over HTTP to a server of ours, and as lines to one that knows none."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from lakes import new_lake

from tests.api.conftest import RunningApi
from tests.deliver.fake_logs import FakeLogs
from tests.deliver.test_logs import ROLE
from tests.store.test_records import DEFAULT, LINES
from vnotch.api.log_records import LogRecords
from vnotch.api.logs import Logs
from vnotch.deliver import typed
from vnotch.deliver.batch import Batch, Entry, as_text, decode, encode, join
from vnotch.deliver.endpoint import BatchRefused, Endpoint, Key
from vnotch.deliver.logs import LogGroups
from vnotch.deliver.role import Roles
from vnotch.errors import AccessError
from vnotch.fields import DEFAULT_FORMAT
from vnotch.line import parse_lines


class AdministratorsRoles(Roles):
    """The administrator's key in the place of a role's session."""

    def __init__(self, key: Key) -> None:
        self.current = key

    def key(self, flow_log_id: str, role_arn: str) -> Key:
        return self.current

    def forget(self, flow_log_id: str) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningApi]:
    api = RunningApi(tmp_path)
    lake = new_lake(tmp_path / "lake")
    service = Logs(api.state, lake)
    api.serve(service, routes=LogRecords(service).routes())
    yield api
    api.close()
    lake.close()


def groups_of(api: RunningApi) -> LogGroups:
    endpoint = Endpoint(api.endpoint, "us-east-1")
    return LogGroups(endpoint, AdministratorsRoles(Key(*api.administrator_key)), typed=True)


def batch(lines: list[str], name: str, at_ms: int | None = None, stream: str = "eni-1-all") -> Batch:
    first = int(time.time() * 1000) if at_ms is None else at_ms
    times = pa.array(range(first, first + len(lines)), pa.int64())
    table = parse_lines(pa.array(lines), DEFAULT).add_column(0, "timestamp", times)
    return Batch(name, "fl-1", "g", stream, ROLE, table, log_format=DEFAULT_FORMAT)


def messages(api: RunningApi) -> list[str]:
    found = api.client("logs").get_log_events(logGroupName="g", logStreamName="eni-1-all", startFromHead=True)
    return [event["message"] for event in found["events"]]


def test_records_are_delivered_once_and_group_and_stream_are_made(server: RunningApi) -> None:
    groups = groups_of(server)
    sent = batch(LINES, "b1")
    for _ in range(2):
        assert groups.deliver(sent).accepted == len(LINES)
    assert messages(server) == LINES
    assert server.services[-1].lake.status()["stored_records"] == len(LINES)  # type: ignore[attr-defined]


def test_joined_batches_count_once_each_in_any_grouping(server: RunningApi) -> None:
    groups = groups_of(server)
    now = int(time.time() * 1000) - 1000
    one, two, three = (batch(LINES, f"b{number}", now + 100 * number) for number in range(3))
    together = join([one, two])
    assert together is not None
    groups.deliver(together)
    again = join([two, three])
    assert again is not None
    groups.deliver(again)
    groups.deliver(one)
    assert messages(server) == LINES * 3


def test_a_large_batch_goes_in_several_calls(server: RunningApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(typed, "CALL_RECORDS_MAX", 2)
    groups = groups_of(server)
    sent = batch(LINES, "b1")
    for _ in range(2):
        assert groups.deliver(sent).accepted == len(LINES)
    assert messages(server) == LINES


def test_what_an_error_means(server: RunningApi) -> None:
    iam = server.client("iam")
    iam.create_user(UserName="nobody")
    made = iam.create_access_key(UserName="nobody")["AccessKey"]
    groups = groups_of(server)
    groups.deliver(batch(LINES, "b1"))
    groups._roles.current = Key(made["AccessKeyId"], made["SecretAccessKey"])  # type: ignore[attr-defined]
    with pytest.raises(AccessError):
        groups.deliver(batch(LINES, "b2"))
    groups._roles.current = Key(*server.administrator_key)  # type: ignore[attr-defined]
    wrong = batch(LINES, "b3")
    table = wrong.events.set_column(13, "action", pa.array(["MAYBE"] * len(LINES)))
    with pytest.raises(BatchRefused):
        groups.deliver(Batch("b3", "fl-1", "g", "eni-1-all", ROLE, table, log_format=DEFAULT_FORMAT))
    assert messages(server) == LINES


def test_a_server_that_knows_no_typed_deliveries_gets_lines(tmp_path: Path) -> None:
    api = RunningApi(tmp_path)
    lake = new_lake(tmp_path / "lake")
    api.serve(Logs(api.state, lake))
    groups = groups_of(api)
    sent = batch(LINES, "b1")
    for _ in range(2):
        assert groups.deliver(sent).accepted == len(LINES)
    assert messages(api) == LINES
    api.close()
    lake.close()


def test_aws_itself_gets_lines() -> None:
    """Whoever is not told that it is a vnotch server is spoken to as AWS."""
    logs = FakeLogs()
    endpoint = Endpoint(logs.url, "us-east-1")
    groups = LogGroups(endpoint, Roles(endpoint, Key("AKIAAGENT", "secret")))
    sent = batch(LINES, "b1")
    groups.deliver(sent)
    assert [message for _, message in logs.events("g", "eni-1-all")] == LINES
    logs.close()


@pytest.mark.parametrize("lines", [LINES, LINES * 100])
def test_a_spooled_batch_is_the_same_and_one_of_a_release_before_is_read(lines: list[str]) -> None:
    for sent in (batch(lines, "b1"), as_text(batch(lines, "b1"))):
        entry, data = encode(sent, 3, 4, 1_700_000_000)
        read = decode(Entry.parse(entry.name) or entry, data.to_pybytes())
        assert read.events.equals(sent.events)
        assert read.log_format == sent.log_format
        assert as_text(read).events["message"].to_pylist() == lines
    assert b"log_format" not in data.to_pybytes()


def test_batches_of_two_formats_do_not_join() -> None:
    assert join([batch(LINES, "a", 1), as_text(batch(LINES, "b", 100))]) is None
    typed_ones: Any = join([batch(LINES, "a", 1), batch(LINES, "b", 100)])
    assert typed_ones.events.num_rows == 2 * len(LINES)

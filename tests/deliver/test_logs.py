"""Delivery into log groups, against a server that answers like CloudWatch Logs and breaks on demand."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from fake_logs import FakeLogs
from hypothesis import given, settings
from hypothesis import strategies as st

from vnotch.deliver.batch import EVENT_SCHEMA, Batch, join
from vnotch.deliver.courier import PER_FLOW_LOG, Courier
from vnotch.deliver.endpoint import BatchRefused, Endpoint, Key
from vnotch.deliver.logs import Delivered, LogGroups, parts, put_log_events_body, without_too_large
from vnotch.deliver.role import Roles
from vnotch.deliver.spool import Spool
from vnotch.errors import AccessError, DestinationUnavailable, RateLimitedError

NOW_MS = int(time.time()) * 1000
ROLE = "arn:aws:iam::123456789012:role/flow-logs"


def table(events: list[tuple[int, str]]) -> pa.Table:
    times, messages = zip(*events, strict=True) if events else ((), ())
    return pa.table([pa.array(times, pa.int64()), pa.array(messages, pa.string())], schema=EVENT_SCHEMA)


def batch(events: list[tuple[int, str]], name: str = "b1", flow_log: str = "fl-1", group: str = "g") -> Batch:
    return Batch(name, flow_log, group, "eni-1-all", ROLE, table(events))


def log_groups(logs: FakeLogs, read_timeout_seconds: float = 5.0, **more: Any) -> LogGroups:
    endpoint = Endpoint(logs.url, "us-east-1", connect_timeout_seconds=1, read_timeout_seconds=read_timeout_seconds)
    return LogGroups(endpoint, Roles(endpoint, Key("AKIAAGENT", "secret")), **more)


ONE = [(NOW_MS, "2 123456789012 eni-1 10.0.0.1 10.0.0.2 1 2 6 1 40 1 2 ACCEPT OK")]


def test_the_group_and_the_stream_are_made_on_first_traffic_and_not_again(logs: FakeLogs) -> None:
    groups = log_groups(logs)
    assert logs.calls == []
    groups.deliver(batch(ONE))
    made = ["CreateLogStream", "CreateLogGroup", "CreateLogStream"]
    assert logs.operations() == ["AssumeRole", "PutLogEvents", *made, "PutLogEvents"]
    assert logs.events("g", "eni-1-all") == ONE
    groups.deliver(batch(ONE, "b2"))
    assert logs.operations()[6:] == ["PutLogEvents"]


def test_the_role_is_assumed_by_the_agents_key_in_the_name_of_the_flow_log(logs: FakeLogs) -> None:
    log_groups(logs).deliver(batch(ONE))
    operation, params, headers = logs.calls[0]
    assert operation == "AssumeRole"
    assert (params["RoleArn"], params["RoleSessionName"]) == (ROLE, "fl-1")
    assert "Credential=AKIAAGENT/" in headers["Authorization"]
    for operation, _, headers in logs.calls[1:]:
        assert "Credential=ASIA0000000000000001/" in headers["Authorization"], operation
        assert headers["X-Amz-Security-Token"] == "token1"


def test_the_batch_id_is_in_a_signed_header_and_the_same_when_retried(logs: FakeLogs) -> None:
    groups = log_groups(logs)
    logs.groups["g"] = {"eni-1-all": []}
    logs.faults["PutLogEvents"] = ["taken-then-reset"]
    with pytest.raises(DestinationUnavailable):
        groups.deliver(batch(ONE))
    groups.deliver(batch(ONE))
    headers = [headers for operation, _, headers in logs.calls if operation == "PutLogEvents"]
    assert [h["x-vnotch-batch-id"] for h in headers] == ["b1/0", "b1/0"]
    assert all("x-vnotch-batch-id" in h["Authorization"].partition("SignedHeaders=")[2] for h in headers)
    assert logs.events("g", "eni-1-all") == ONE, "once"


def test_a_stream_that_someone_deleted_is_made_again(logs: FakeLogs) -> None:
    groups = log_groups(logs)
    groups.deliver(batch(ONE))
    del logs.groups["g"]
    groups.deliver(batch(ONE, "b2"))
    assert logs.events("g", "eni-1-all") == ONE


def test_a_group_that_was_deleted_is_not_made_again_for_a_flow_log_that_is_gone(logs: FakeLogs) -> None:
    served = {"fl-1"}
    groups = log_groups(logs, is_served=served.__contains__)
    groups.deliver(batch(ONE))
    served.clear()
    groups.deliver(batch(ONE, "b2"))
    assert logs.events("g", "eni-1-all") == ONE * 2, "its last records"
    del logs.groups["g"]
    with pytest.raises(BatchRefused):
        groups.deliver(batch(ONE, "b3"))
    assert logs.groups == {}


@pytest.mark.parametrize(
    ("operation", "fault", "error", "status"),
    [
        ("AssumeRole", "deny", AccessError, "Access error"),
        ("AssumeRole", "invalid", AccessError, "Access error"),
        ("AssumeRole", "throttle", RateLimitedError, "Rate limited"),
        ("AssumeRole", "error", DestinationUnavailable, "Unknown error"),
        ("PutLogEvents", "deny", AccessError, "Access error"),
        ("PutLogEvents", "throttle", RateLimitedError, "Rate limited"),
        ("PutLogEvents", "error", DestinationUnavailable, "Unknown error"),
        ("PutLogEvents", "reset", DestinationUnavailable, "Unknown error"),
        ("PutLogEvents", "invalid", BatchRefused, "Unknown error"),
        # A proxy, or another server on that port: no word of AWS's in the answer, so no batch is thrown away.
        ("PutLogEvents", "not-found", DestinationUnavailable, "Unknown error"),
        ("PutLogEvents", "not-allowed", DestinationUnavailable, "Unknown error"),
        ("PutLogEvents", "no-code", DestinationUnavailable, "Unknown error"),
        ("AssumeRole", "not-found", DestinationUnavailable, "Unknown error"),
        ("CreateLogGroup", "deny", AccessError, "Access error"),
        ("CreateLogGroup", "limit", RateLimitedError, "Rate limited"),
        ("CreateLogStream", "deny", AccessError, "Access error"),
    ],
)
def test_what_an_error_means(logs: FakeLogs, operation: str, fault: str, error: type, status: str) -> None:
    groups = log_groups(logs)
    logs.faults[operation] = [fault]
    with pytest.raises(error) as raised:
        groups.deliver(batch(ONE))
    assert raised.value.status == status
    assert logs.operations().count(operation) == 1, "botocore does not retry by itself"
    groups.deliver(batch(ONE))
    assert logs.events("g", "eni-1-all") == ONE


def test_nothing_listens_there() -> None:
    server = FakeLogs()
    groups = log_groups(server)
    server.close()
    with pytest.raises(DestinationUnavailable):
        groups.deliver(batch(ONE))


def test_a_server_that_hangs_is_given_up(logs: FakeLogs) -> None:
    groups = log_groups(logs, read_timeout_seconds=0.3)
    logs.groups["g"] = {"eni-1-all": []}
    logs.faults["PutLogEvents"] = ["hang"]
    began = time.monotonic()
    with pytest.raises(DestinationUnavailable):
        groups.deliver(batch(ONE))
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("fault", ["expired", "unknown"])
def test_credentials_that_ran_out_are_renewed_once(logs: FakeLogs, fault: str) -> None:
    """`unknown`: the role was deleted and made again, which leaves its sessions without meaning."""
    groups = log_groups(logs)
    logs.groups["g"] = {"eni-1-all": []}
    logs.faults["PutLogEvents"] = [fault]
    groups.deliver(batch(ONE))
    assert logs.sessions == 2
    logs.faults["PutLogEvents"] = [fault, fault]
    with pytest.raises(AccessError):
        groups.deliver(batch(ONE, "b2"))
    assert logs.sessions == 3


def test_credentials_are_kept_until_shortly_before_they_end(logs: FakeLogs) -> None:
    logs.session_seconds = 3600
    endpoint = Endpoint(logs.url, "us-east-1")
    clock = [time.time()]
    roles = Roles(endpoint, Key("AKIAAGENT", "secret"), now=lambda: clock[0])
    first = roles.key("fl-1", ROLE)
    clock[0] += 3200
    assert roles.key("fl-1", ROLE) == first
    assert roles.key("fl-2", ROLE) != first, "a session for each flow log"
    clock[0] += 200
    assert roles.key("fl-1", ROLE) != first
    assert logs.sessions == 3


def test_events_that_the_service_leaves_out_are_counted(logs: FakeLogs) -> None:
    day = 24 * 3600 * 1000
    old = [(NOW_MS - 15 * day, "a"), (NOW_MS - 15 * day + 1, "b")]
    new = [(NOW_MS - 1, "c"), (NOW_MS, "d"), (NOW_MS + 3 * 3600 * 1000, "e")]
    delivered = log_groups(logs).deliver(batch([*old, *new, (NOW_MS + 3 * 3600 * 1000, "x" * 1_048_551)]))
    assert vars(delivered) == {"accepted": 2, "too_old": 2, "too_new": 1, "expired": 0, "too_large": 1}
    assert [message for _, message in logs.events("g", "eni-1-all")] == ["c", "d"]


def test_a_large_batch_goes_in_calls_within_the_limits(logs: FakeLogs) -> None:
    """The fake service refuses a call that is over any limit of PutLogEvents."""
    events = [(NOW_MS - 1000 + i // 100, f"{i} " + "x" * (i % 300)) for i in range(25_000)]
    delivered = log_groups(logs).deliver(batch(events))
    assert delivered.accepted == 25_000
    assert logs.events("g", "eni-1-all") == events
    ids = [headers["x-vnotch-batch-id"] for operation, _, headers in logs.calls if operation == "PutLogEvents"]
    assert len(set(ids)) == len(ids) - 1, (
        "each part has its own id; the first was sent twice, before the group was there"
    )


def test_a_large_batch_that_breaks_half_way_arrives_once(logs: FakeLogs) -> None:
    events = [(NOW_MS, f"{i}") for i in range(25_000)]
    groups = log_groups(logs)
    logs.groups["g"] = {"eni-1-all": []}
    logs.faults["PutLogEvents"] = ["", "taken-then-reset"]
    with pytest.raises(DestinationUnavailable):
        groups.deliver(batch(events))
    groups.deliver(batch(events))
    assert logs.events("g", "eni-1-all") == events


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3 * 24 * 3600 * 1000), st.integers(1, 400_000)), min_size=1, max_size=40),
    st.integers(1, 400),
)
def test_parts_are_whole_in_order_and_within_the_limits(shape: list[tuple[int, int]], repeat: int) -> None:
    events = sorted((when, "x" * size) for when, size in shape)
    events = sorted(events + [(events[0][0], "y")] * repeat * 50)
    cut = list(parts(table(events)))
    assert [pair for part in cut for pair in zip(*part.to_pydict().values(), strict=True)] == events
    for part in cut:
        times, messages = part.to_pydict().values()
        assert 1 <= len(times) <= 10_000
        assert sum(len(message.encode()) + 26 for message in messages) <= 1_048_576
        assert times[-1] - times[0] <= 24 * 3600 * 1000


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(min_size=1), min_size=1, max_size=5), st.text(min_size=1), st.text(min_size=1))
def test_the_body_is_json_whatever_the_text(messages: list[str], group: str, stream: str) -> None:
    messages = [message.encode(errors="replace").decode() for message in messages]
    group, stream = (name.encode(errors="replace").decode() for name in (group, stream))
    body = json.loads(put_log_events_body(group, stream, table([(-5, message) for message in messages])))
    assert body == {
        "logGroupName": group,
        "logStreamName": stream,
        "logEvents": [{"timestamp": -5, "message": message} for message in messages],
    }


def test_an_event_that_no_call_can_hold_is_left_out() -> None:
    kept, left_out = without_too_large(table([(1, ""), (2, "x" * 1_048_550), (3, "x" * 1_048_551), (4, "ok")]))
    assert kept["timestamp"].to_pylist() == [2, 4]
    assert left_out == 2


# The courier


class Carrying:
    """A courier on a spool, with waits short enough to be tested."""

    def __init__(self, folder: Path, deliver: Callable[[Batch], object], *, start: bool = True) -> None:
        self.spool = Spool(folder, bytes_max=10**9, seconds_max=3600, complete_commit=0)
        self.courier = Courier(
            self.spool, deliver, join=join, backoff_seconds=0.02, backoff_seconds_max=0.1, on_status=self._note
        )
        self.seen: list[dict[str, tuple[str, str | None]]] = []
        self._commit = 0
        if start:
            self.courier.start()

    def _note(self) -> None:
        self.seen.append(self.courier.statuses())

    def put(self, *batches: Batch) -> None:
        self._commit += 1
        self.spool.write(self._commit, batches, time.time())
        self.spool.release(self._commit)
        self.courier.wake()

    def close(self) -> None:
        self.courier.stop(5)


def test_a_destination_that_fails_holds_up_no_other(tmp_path: Path, logs: FakeLogs) -> None:
    logs.denied_groups = {"denied"}
    carrying = Carrying(tmp_path, log_groups(logs).deliver)
    for number in range(5):
        carrying.put(
            *(batch([(NOW_MS, f"{f} {number}")], f"{f}/{number}", f"fl-{f}", group="g") for f in range(8)),
            batch(ONE, f"denied/{number}", "fl-denied", group="denied"),
        )
    deadline = time.monotonic() + 20
    while carrying.spool.waiting() != {"fl-denied": 5} and time.monotonic() < deadline:
        time.sleep(0.01)
    assert carrying.spool.waiting() == {"fl-denied": 5}
    statuses = carrying.courier.statuses()
    assert statuses["fl-denied"] == ("FAILED", "Access error")
    assert {statuses[f"fl-{f}"] for f in range(8)} == {("SUCCESS", None)}
    logs.denied_groups = set()
    assert carrying.courier.wait_until_empty(10)
    assert carrying.courier.statuses()["fl-denied"] == ("SUCCESS", None)
    assert logs.events("denied", "eni-1-all") == ONE * 5
    carrying.close()


def test_batches_of_one_flow_log_arrive_in_order_through_all_faults(tmp_path: Path, logs: FakeLogs) -> None:
    logs.faults["PutLogEvents"] = ["throttle", "error", "reset", "taken-then-reset", "expired", "deny", "", "reset"]
    logs.faults["AssumeRole"] = ["error", "throttle"]
    carrying = Carrying(tmp_path, log_groups(logs).deliver)
    events = [[(NOW_MS + number, f"{number}")] for number in range(12)]
    for number, event in enumerate(events):
        carrying.put(batch(event, f"b{number}"))
    assert carrying.courier.wait_until_empty(20)
    carrying.close()
    assert logs.events("g", "eni-1-all") == [event[0] for event in events]
    assert ("FAILED", "Rate limited") in [statuses.get("fl-1") for statuses in carrying.seen]
    assert carrying.courier.statuses()["fl-1"] == ("SUCCESS", None)
    counters = carrying.courier.counters()["fl-1"]
    assert counters["batches"] == 12
    assert counters["attempts_failed"]["Rate limited"] == 2


def test_a_flow_log_that_is_gone_is_forgotten_when_its_last_records_are_delivered(
    tmp_path: Path, logs: FakeLogs
) -> None:
    logs.denied_groups = {"g"}
    carrying = Carrying(tmp_path, log_groups(logs).deliver)
    carrying.put(batch(ONE), batch(ONE, "b2", "fl-2", group="h"))
    deadline = time.monotonic() + 20
    while len(carrying.courier.statuses()) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert carrying.courier.forget_all_but({"fl-2"}) == []
    logs.denied_groups = set()
    assert carrying.courier.wait_until_empty(20)
    carrying.close()
    assert carrying.courier.forget_all_but({"fl-2"}) == ["fl-1"]
    assert list(carrying.courier.statuses()) == ["fl-2"]


def test_what_has_gathered_of_a_stream_goes_in_one_call_and_counts_once(tmp_path: Path, logs: FakeLogs) -> None:
    """The first call is taken and its answer lost; meanwhile more has come, and the next call holds both."""
    logs.groups["g"] = {"eni-1-all": []}
    logs.faults["PutLogEvents"] = ["taken-then-reset"]
    carrying = Carrying(tmp_path, log_groups(logs).deliver, start=False)
    wanted = [[(NOW_MS + number, f"{number}")] for number in range(9)]
    for number, events in enumerate(wanted[:4]):
        carrying.put(batch(events, f"b{number}"))
    carrying.courier._backoff_seconds = 0.5  # so that the rest is there before the second try
    carrying.courier._backoff_seconds_max = 0.5
    carrying.courier.start()
    deadline = time.monotonic() + 10
    while not carrying.courier.counters().get("fl-1", {}).get("failures") and time.monotonic() < deadline:
        time.sleep(0.001)
    for number, events in enumerate(wanted[4:], 4):
        carrying.put(batch(events, f"b{number}"))
    assert carrying.courier.wait_until_empty(10)
    carrying.close()
    assert logs.events("g", "eni-1-all") == [event for events in wanted for event in events]
    puts = [headers for operation, _, headers in logs.calls if operation == "PutLogEvents"]
    assert puts[0]["x-vnotch-batch-id"] == "b0/0,b1/0,b2/0,b3/0"
    assert puts[0]["x-vnotch-batch-events"] == "1,1,1,1"
    assert puts[1]["x-vnotch-batch-id"].startswith("b0/0,b1/0,b2/0,b3/0,b4/0")
    assert "x-vnotch-batch-events" in puts[0]["Authorization"].partition("SignedHeaders=")[2]
    counters = carrying.courier.counters()["fl-1"]
    assert (counters["batches"], counters["events"]["accepted"]) == (9, 9)


def test_batches_that_no_call_can_hold_together_go_one_by_one(tmp_path: Path, logs: FakeLogs) -> None:
    """The second is of a time before the first: the clock was set back. The third is large."""
    logs.groups["g"] = {"eni-1-all": []}
    carrying = Carrying(tmp_path, log_groups(logs).deliver, start=False)
    large = [(NOW_MS + number, f"{number}") for number in range(3000)]
    for name, events in (("b0", ONE), ("b1", [(NOW_MS - 5000, "earlier")]), ("b2", large), ("b3", ONE)):
        carrying.put(batch(events, name))
    carrying.courier.start()
    assert carrying.courier.wait_until_empty(10)
    carrying.close()
    assert sorted(logs.events("g", "eni-1-all")) == sorted([*ONE, (NOW_MS - 5000, "earlier"), *large, *ONE])
    assert not [headers for _, _, headers in logs.calls if "x-vnotch-batch-events" in headers]


def test_streams_of_a_flow_log_go_at_once_within_a_bound_and_each_in_order(tmp_path: Path) -> None:
    lock, together, most, order = threading.Lock(), 0, 0, []
    full = threading.Event()

    def deliver(found: Batch) -> Delivered:
        nonlocal together, most
        with lock:
            together += 1
            most = max(most, together)
            assert sum(b.stream == found.stream for b in under_way) == 0, "one call of a stream at a time"
            under_way.append(found)
            if together == PER_FLOW_LOG:
                full.set()
        assert full.wait(10), "as many as the bound allows are under way"
        with lock:
            together -= 1
            under_way.remove(found)
            order.extend((found.stream, member.batch_id) for member in found.members or (found,))
        return Delivered(accepted=found.events.num_rows)

    under_way: list[Batch] = []
    carrying = Carrying(tmp_path, deliver, start=False)
    streams = [f"eni-{number}-all" for number in range(2 * PER_FLOW_LOG)]
    for number in range(3):
        carrying.put(*(replace(batch(ONE, f"{number}"), stream=stream) for stream in streams))
    carrying.courier.start()
    assert carrying.courier.wait_until_empty(20)
    carrying.close()
    assert most == PER_FLOW_LOG
    for stream in streams:
        assert [name for where, name in order if where == stream] == ["0", "1", "2"]


def test_a_flow_log_that_fails_is_tried_by_one_call_at_a_time(tmp_path: Path) -> None:
    lock, together, most, failing = threading.Lock(), 0, 0, True

    def deliver(found: Batch) -> Delivered:
        nonlocal together, most
        with lock:
            together += 1
            if carrying.courier.counters()["fl-1"]["failures"]:
                most = max(most, together)
        time.sleep(0.005)
        with lock:
            together -= 1
        if failing:
            raise RateLimitedError("slower")
        return Delivered(accepted=1)

    carrying = Carrying(tmp_path, deliver, start=False)
    carrying.put(batch(ONE))
    carrying.courier.start()
    while not carrying.courier.counters().get("fl-1", {}).get("failures"):
        time.sleep(0.001)
    carrying.put(*(replace(batch(ONE, f"{number}"), stream=f"eni-{number}-all") for number in range(40)))
    time.sleep(0.3)
    assert most == 1
    assert carrying.courier.statuses()["fl-1"] == ("FAILED", "Rate limited")
    failing = False
    assert carrying.courier.wait_until_empty(10)
    carrying.close()
    assert carrying.courier.statuses()["fl-1"] == ("SUCCESS", None)


def test_a_batch_that_will_never_be_taken_is_dropped_and_counted(tmp_path: Path, logs: FakeLogs) -> None:
    logs.groups["g"] = {"eni-1-all": []}
    logs.faults["PutLogEvents"] = ["invalid", "invalid"]  # both together, then the first of them alone
    carrying = Carrying(tmp_path, log_groups(logs).deliver)
    carrying.put(batch(ONE, "b1"), batch(ONE, "b2"))
    assert carrying.courier.wait_until_empty(10)
    carrying.close()
    assert logs.events("g", "eni-1-all") == ONE
    assert [(c["reason"], c["events"]) for c in carrying.spool.counters()["dropped"]] == [("refused", 1)]


def test_a_mistake_of_ours_ends_no_thread(tmp_path: Path) -> None:
    attempts: list[str] = []

    def deliver(found: Batch) -> object:
        attempts.append(found.batch_id)
        if len(attempts) <= 6:
            raise ZeroDivisionError
        return Delivered(accepted=1)

    carrying = Carrying(tmp_path, deliver)
    carrying.put(batch(ONE))
    assert carrying.courier.wait_until_empty(10)
    carrying.close()
    assert carrying.seen[0] == {"fl-1": ("FAILED", "Unknown error")}


def test_waits_grow_and_stay_bounded(tmp_path: Path) -> None:
    courier = Courier(
        Spool(tmp_path, bytes_max=1, seconds_max=1, complete_commit=0),
        lambda _: None,  # type: ignore[arg-type, return-value]
        backoff_seconds=0.5,
        backoff_seconds_max=30,
    )
    for failures, longest in [(1, 0.5), (2, 1), (3, 2), (7, 30), (10_000, 30)]:
        waits = [courier._backoff(failures) for _ in range(200)]
        assert longest / 2 <= min(waits) < max(waits) <= longest


def test_stopping_does_not_wait_for_a_destination_that_hangs(tmp_path: Path) -> None:
    release = threading.Event()

    def deliver(_: Batch) -> Delivered:
        release.wait(30)
        return Delivered()

    carrying = Carrying(tmp_path, deliver)
    carrying.put(batch(ONE))
    time.sleep(0.05)
    began = time.monotonic()
    carrying.courier.stop(0.2)
    assert time.monotonic() - began < 2
    assert carrying.spool.waiting() == {"fl-1": 1}
    release.set()
    carrying.close()

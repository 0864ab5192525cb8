"""Alerts on flow logs: records made by hand go in, and a web server gets exactly the calls that they are worth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pytest

from vnotch.api.cloudwatch import alert_watch, webhooks
from vnotch.api.cloudwatch.alert_settings import flow_alerts
from vnotch.api.cloudwatch.alert_watch import AlertWatch
from vnotch.api.cloudwatch.webhooks import Webhooks
from vnotch.api.ec2 import Ec2
from vnotch.fields import DEFAULT_FORMAT
from vnotch.record import flow_log_format
from vnotch.store.lake import PUT_SCHEMA, Lake, QueryFailed
from vnotch.store.log_groups import LogGroup, delete_group, find_group

NOW_MS = 1_700_000_000_000
FLAGS = DEFAULT_FORMAT + " ${tcp-flags}"
ATTACKER, SERVER = "198.51.100.7", "172.31.9.12"

Record = tuple[int, str]
"""Milliseconds after NOW_MS, line."""


def line(
    source: str = ATTACKER,
    destination: str = SERVER,
    sport: int = 49761,
    dport: int = 22,
    action: str = "REJECT",
    *,
    protocol: int = 6,
    packets: int = 3,
    eni: str = "eni-1",
    flags: int | None = None,
) -> str:
    ports = f"{sport} {dport} {protocol} {packets} 400"
    version, end = (2, "") if flags is None else (3, f" {flags}")
    return f"{version} 123456789010 {eni} {source} {destination} {ports} 1418530010 1418530070 {action} OK{end}"


class Ground:
    """A log group `flow` that records are put into, and what watches it."""

    def __init__(self, api: Any, lake: Lake, hook: Any) -> None:
        self.api, self.lake, self.hook = api, lake, hook
        self.webhooks = Webhooks()
        self.watch: AlertWatch

    def make_group(self) -> None:
        with self.api.state.write() as session:
            session.add(LogGroup(name="flow", creation_ms=NOW_MS, log_class="STANDARD"))

    def put(self, *records: Record) -> None:
        with self.api.state.read() as session:
            group = find_group(session, "flow")
        assert group is not None
        rows = sorted(records)
        columns = [pa.array([NOW_MS + at for at, _ in rows], pa.int64()), pa.array([text for _, text in rows])]
        formats = [flow_log_format(DEFAULT_FORMAT), flow_log_format(FLAGS)]
        self.lake.submit(group.id, 1, pa.table(columns, schema=PUT_SCHEMA), NOW_MS, None, formats).result(20)

    def begin(self, *settings: str) -> None:
        """Starts with the alerts, or starts again: nothing but the state and the lake is left of before."""
        alerts = flow_alerts(f"{setting}={self.hook.url}" for setting in settings)
        self.watch = AlertWatch(self.api.state, self.lake, self.api.accounts, self.webhooks, alerts)
        self.watch.step(NOW_MS)

    def calls(self, *, step: bool = True) -> list[dict[str, Any]]:
        """The calls of a round, after which the next ones begin."""
        if step:
            self.watch.step(NOW_MS)
        expected = self.counters["findings"]
        while len(self.hook.calls) < expected:
            self.hook.wait()
        new = self.hook.calls[self.seen :]
        self.seen = len(self.hook.calls)
        return list(new)

    seen = 0

    @property
    def counters(self) -> Any:
        (standing,) = self.watch.standing.values()
        return standing.counters


@pytest.fixture
def ground(api: Any, lake: Lake, hook: Any) -> Iterator[Ground]:
    ground = Ground(api, lake, hook)
    yield ground
    ground.webhooks.close()


@pytest.fixture
def flow(ground: Ground) -> Ground:
    ground.make_group()
    return ground


def many(count: int, start_ms: int, step_ms: int, **values: Any) -> list[Record]:
    return [(start_ms + number * step_ms, line(**values)) for number in range(count)]


# Bursts


def test_a_burst_of_rejects_from_one_source_is_told_once_a_window(flow: Ground) -> None:
    flow.begin("rejects,log-group=flow,count=10,seconds=60")
    others = [(number, line(source=f"10.0.0.{number}")) for number in range(20)]
    flow.put(*many(9, 0, 1000), *many(20, 0, 1000, action="ACCEPT"), *others)
    assert flow.calls() == []
    flow.put((9000, line()))
    (call,) = flow.calls()
    counts = {"records": 10, "rejected": 10, "sources": 1, "destinations": 1, "ports": 1}
    assert call == {
        "kind": "rejects",
        "alert": "rejects,log-group=flow,count=10,seconds=60,by=source",
        "account": "123456789012",
        "region": "us-east-1",
        "logGroup": "flow",
        "window": {"start": "2023-11-14T22:13:20.000Z", "end": "2023-11-14T22:14:20.000Z"},
        "source": ATTACKER,
        "destination": None,
        "port": None,
        "protocol": None,
        "counts": counts,
        "examples": [line()] * 5,
    }
    flow.put(*many(30, 10_000, 1000))
    assert flow.calls() == []  # the same window
    flow.put(*many(9, 60_000, 1000))
    assert flow.calls() == []
    flow.put((119_999, line()))
    (call,) = flow.calls()  # a window begins where the one before ended
    assert call["window"] == {"start": "2023-11-14T22:14:20.000Z", "end": "2023-11-14T22:15:20.000Z"}
    assert flow.counters == {"findings": 2, "late": 0, "dropped": 0}


def test_a_burst_is_found_wherever_it_lies_and_not_beyond_its_window(flow: Ground) -> None:
    flow.begin("rejects,log-group=flow,count=4,seconds=10")
    flow.put(*many(2, 8000, 1000), *many(2, 11_000, 1000))  # round the tenth second
    flow.put((40_000, line(source="10.0.0.1")), *many(3, 50_000, 1000, source="10.0.0.1"))  # 10.000 s from the first
    (call,) = flow.calls()
    assert (call["source"], call["counts"]["records"]) == (ATTACKER, 4)


def test_a_long_burst_that_comes_at_once_is_a_call_for_each_window(flow: Ground) -> None:
    flow.begin("rejects,log-group=flow,count=5,seconds=10")
    flow.put(*many(35, 0, 1000))
    assert [call["counts"]["records"] for call in flow.calls()] == [10, 10, 10, 5]
    assert flow.calls() == []


def test_rejects_of_all_sources_together(flow: Ground) -> None:
    flow.begin("rejects,log-group=flow,count=10,seconds=60,by=all")
    flow.put(*[(number, line(source=f"10.0.0.{number}")) for number in range(10)])
    (call,) = flow.calls()
    assert (call["source"], call["counts"]["sources"]) == (None, 10)


def test_text_and_nodata_are_no_rejects(flow: Ground) -> None:
    flow.begin("rejects,log-group=flow,count=1,by=all")
    flow.put((0, "REJECT"), (1, "2 123456789010 eni-1 - - - - - - - 1431280876 1431280934 - NODATA"))
    assert flow.calls() == []


# Port scans


def test_a_scan_of_one_destination_is_told_and_a_servers_answers_are_none(flow: Ground) -> None:
    flow.begin("port-scan,log-group=flow,ports=20,seconds=60")
    answers = [(port, line(SERVER, "10.0.0.1", sport=443, dport=50_000 + port, action="ACCEPT")) for port in range(100)]
    wide = [(at, line("10.0.0.9", f"10.1.0.{at}", dport=100 + at)) for at in range(40)]  # a port of each of many
    flow.put(*answers, *wide, *[(port, line(dport=port)) for port in range(1, 20)], (30, line(dport=7)))
    assert flow.calls() == []
    flow.put((40, line(dport=20, action="ACCEPT")))
    (call,) = flow.calls()
    assert (call["kind"], call["source"], call["destination"]) == ("port-scan", ATTACKER, SERVER)
    assert call["counts"] == {"records": 21, "rejected": 20, "sources": 1, "destinations": 1, "ports": 20}
    flow.put(*[(100 + port, line(dport=port)) for port in range(1, 100)])
    assert flow.calls() == []  # one scan


# New listeners


@pytest.fixture
def eni(ground: Ground) -> tuple[str, str]:
    """Id and address of an interface."""
    ground.api.serve(Ec2(ground.api.state, ground.api.accounts))
    ec2 = ground.api.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="172.31.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="172.31.9.0/24")["Subnet"]["SubnetId"]
    made = ec2.create_network_interface(SubnetId=subnet, PrivateIpAddress=SERVER)["NetworkInterface"]
    return made["NetworkInterfaceId"], SERVER


Connection = Callable[..., Sequence[Record]]


@pytest.fixture
def connection(eni: tuple[str, str]) -> Connection:
    interface, address = eni

    def made(
        port: int, *, peer: str = ATTACKER, sport: int = 49761, answer: int = 3, flags: int | None = None, **more: Any
    ) -> Sequence[Record]:
        """Records of a connection to the interface; `answer` packets come back, none where it is 0."""
        values = {"action": "ACCEPT", "eni": interface, **more}
        asked = line(peer, address, sport, port, flags=None if flags is None else 2, **values)
        back = line(address, peer, port, sport, packets=answer, flags=flags, **values)
        return [(0, asked), *([(0, back)] if answer else [])]

    return made


def test_a_new_listener_is_told_once_and_what_was_there_before_is_known(flow: Ground, connection: Connection) -> None:
    flow.put(*connection(22))
    flow.begin("new-listener,log-group=flow")
    assert flow.counters["learned"] == 1
    flow.put(*connection(22), *connection(443), *connection(443, peer="10.0.0.1"))
    (call,) = flow.calls()
    assert (call["kind"], call["destination"], call["port"], call["protocol"]) == ("new-listener", SERVER, 443, 6)
    assert call["source"] in (ATTACKER, "10.0.0.1")
    assert call["counts"]["records"] == 2
    assert len(call["examples"]) == 2
    flow.put(*connection(443))
    assert flow.calls() == []


def test_what_does_not_answer_or_is_not_ours_is_no_listener(
    flow: Ground, connection: Connection, eni: tuple[str, str]
) -> None:
    flow.begin("new-listener,log-group=flow")
    refused = connection(81, answer=1)  # a lone packet back: a refusal
    theirs = [(0, line("10.0.0.1", "10.0.0.2", dport=83, action="ACCEPT"))]
    theirs += [(0, line("10.0.0.2", "10.0.0.1", 83, 49761, action="ACCEPT"))]
    client = connection(50_000, sport=443)  # our own connection to a server, seen from its answers
    flow.put(*connection(80, answer=0), *refused, *connection(82, action="REJECT"), *theirs, *client)
    flow.put(*connection(84, eni="eni-of-another-vpc"))  # the same address in another VPC
    assert flow.calls() == []


def test_tcp_flags_tell_who_listens_whatever_the_ports(flow: Ground, connection: Connection) -> None:
    flow.begin("new-listener,log-group=flow")
    flow.put(*connection(60_000, flags=18, answer=1), *connection(82, flags=4), *connection(83, flags=1))
    assert [call["port"] for call in flow.calls()] == [60_000]


def test_a_udp_listener_is_one_that_answers(flow: Ground, connection: Connection) -> None:
    flow.begin("new-listener,log-group=flow")
    flow.put(*connection(53, protocol=17, answer=1), *connection(123, protocol=17, answer=0))
    assert [(call["port"], call["protocol"]) for call in flow.calls()] == [(53, 17)]


def test_an_answer_that_comes_later_completes_the_finding(flow: Ground, connection: Connection) -> None:
    flow.begin("new-listener,log-group=flow")
    asked, answer = connection(443)
    flow.put(asked)
    assert flow.calls() == []
    flow.put(answer)
    assert [call["port"] for call in flow.calls()] == [443]


# Restarts, groups that come and go, faults


def test_a_restart_repeats_nothing_and_passes_nothing_over(flow: Ground) -> None:
    setting = "rejects,log-group=flow,count=10,seconds=60"
    flow.begin(setting)
    flow.put(*many(12, 0, 1000))
    assert len(flow.calls()) == 1
    flow.put(*many(12, 30_000, 1000))  # of the told window; looked at by the next process
    flow.put(*many(12, 120_000, 1000))
    flow.begin(setting)
    (call,) = flow.hook.wait() and flow.hook.calls[1:]
    assert call["window"]["start"] == "2023-11-14T22:15:20.000Z"
    flow.begin(setting)
    assert flow.counters["findings"] == 0


def test_listeners_stay_known_over_a_restart(flow: Ground, connection: Connection) -> None:
    flow.begin("new-listener,log-group=flow,days=0")
    flow.put(*connection(443))
    assert len(flow.calls()) == 1
    flow.begin("new-listener,log-group=flow,days=0")
    flow.put(*connection(443))
    assert flow.calls(step=True) == flow.hook.calls[1:] == []


def test_what_was_stored_before_the_alert_is_not_told(flow: Ground) -> None:
    flow.put(*many(12, 0, 1000))
    flow.begin("rejects,log-group=flow,count=10,seconds=60")
    assert flow.calls() == []


def test_a_group_that_is_not_there_yet_is_waited_for(ground: Ground) -> None:
    ground.begin("rejects,log-group=flow,count=10,seconds=60")
    (standing,) = ground.watch.standing.values()
    assert standing.state == "waiting"
    ground.make_group()
    ground.put(*many(10, 0, 1000))
    assert len(ground.calls()) == 1
    assert standing.state == "watching"
    with ground.api.state.write() as session:
        group = find_group(session, "flow")
        assert group is not None
        delete_group(session, group)
    ground.watch.step(NOW_MS)
    assert standing.state == "waiting"
    ground.make_group()
    ground.put(*many(10, 120_000, 1000))
    assert len(ground.calls()) == 1


def test_old_records_are_counted_as_late_and_alert_nobody(flow: Ground) -> None:
    flow.begin("rejects,log-group=flow,count=10,seconds=60")
    flow.put(*many(12, -86_400_000, 1000))
    assert flow.calls() == []
    assert flow.counters["late"] == 12


def test_a_question_over_its_budget_is_skipped_counted_and_shown(flow: Ground, monkeypatch: Any) -> None:
    flow.begin("rejects,log-group=flow,count=10,seconds=60")
    flow.put(*many(10, 0, 1000))

    def fail(*_: Any) -> Any:
        raise QueryFailed("the log store did not answer within 5 s")

    with monkeypatch.context() as changed:
        changed.setattr(alert_watch, "bursts", fail)
        assert flow.calls() == []
    (standing,) = flow.watch.standing.values()
    assert (standing.counters["skipped"], standing.error) == (1, "the log store did not answer within 5 s")
    assert flow.calls() == []  # passed over
    flow.put(*many(10, 120_000, 1000))
    assert len(flow.calls()) == 1
    assert standing.error is None


def test_more_findings_than_calls_may_wait_are_dropped_and_counted(flow: Ground, monkeypatch: Any) -> None:
    monkeypatch.setattr(alert_watch, "FINDINGS_MAX", 3)
    flow.begin("rejects,log-group=flow,count=1,seconds=60")
    flow.put(*[(number, line(source=f"10.0.0.{number}")) for number in range(10)])
    assert [call["source"] for call in flow.calls()] == ["10.0.0.0", "10.0.0.1", "10.0.0.2"]
    assert flow.counters["dropped"] == 7


def test_a_url_that_fails_is_tried_again_and_then_counted(flow: Ground, monkeypatch: Any) -> None:
    monkeypatch.setattr(webhooks, "TRIES_SECONDS", (0.0, 0.0, 0.0))
    flow.begin("rejects,log-group=flow,count=10,seconds=60")
    flow.hook.answers += [500, 404, 503, 500]
    flow.put(*many(10, 0, 1000), *many(10, 120_000, 1000))
    flow.watch.step(NOW_MS)
    assert flow.hook.wait()["window"]["start"] == "2023-11-14T22:15:20.000Z"
    flow.webhooks.close()
    assert flow.webhooks.counters == {"called": 1, "failed": 1, "dropped": 0}


def test_the_thread_tells_by_itself_and_the_route_shows_how_the_alerts_stand(flow: Ground, monkeypatch: Any) -> None:
    monkeypatch.setattr(alert_watch, "STEP_SECONDS", 0.05)
    monkeypatch.setattr(alert_watch.time, "time", lambda: NOW_MS / 1000)
    flow.begin("rejects,log-group=flow,count=10,seconds=60")
    flow.watch.start()
    try:
        flow.put(*many(10, 0, 1000))
        assert flow.hook.wait()["source"] == ATTACKER
    finally:
        flow.watch.close()
    assert len(flow.hook.calls) == 1
    shown = flow.watch.shown()
    assert shown["alerts"][0]["alert"] == "rejects,log-group=flow,count=10,seconds=60,by=source"
    assert shown["alerts"][0]["counters"] == {"findings": 1, "late": 0, "dropped": 0}
    assert flow.hook.url not in str(shown)

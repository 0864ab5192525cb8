"""`vnotch insights` as people run it."""

from __future__ import annotations

import csv
import io
import json
import time
from typing import Any

import pytest
from botocore.session import Session
from botocore.stub import Stubber

from tests.cli.running import RunningServer, run
from vnotch.cli.tail import choose_group
from vnotch.errors import InputError

SSH = "2 123456789010 eni-1235b8ca123456789 172.31.16.139 172.31.16.21 20641 22 6 20 4249 START END ACCEPT OK"
RDP = "2 123456789010 eni-1235b8ca123456789 172.31.9.69 172.31.9.12 49761 3389 6 20 4249 START END REJECT OK"
"""VPC user guide, "Flow log record examples", with times of now."""


@pytest.fixture(scope="module")
def group(server: RunningServer) -> str:
    """A group with an SSH record of 40, 30, 20 and 10 minutes ago, and an RDP record of 5 minutes ago."""
    now_s = int(time.time())
    logs = server.endpoint.client("logs")
    logs.create_log_group(logGroupName="flow")
    logs.create_log_stream(logGroupName="flow", logStreamName="s")
    lines = [(40, SSH), (30, SSH), (20, SSH), (10, SSH), (5, RDP)]
    events = []
    for minutes, line in lines:
        second = now_s - minutes * 60
        text = line.replace("START", str(second)).replace("END", str(second + 60))
        events.append({"timestamp": second * 1000, "message": text})
    logs.put_log_events(logGroupName="flow", logStreamName="s", logEvents=events)
    return "flow"


def insights(server: RunningServer, *arguments: str) -> Any:
    return run("insights", *arguments, "--data-dir", server.data_dir)


BY_ACTION = "stats count(*) as n, sum(bytes) as total by action | sort n desc"


def test_the_answer_is_a_table(server: RunningServer, group: str) -> None:
    done = insights(server, BY_ACTION, "--log-group", group)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines() if line.strip(" ─")]
    assert lines == [["action", "n", "total"], ["ACCEPT", "4", "16996"], ["REJECT", "1", "4249"]]


def test_the_only_group_needs_no_name_and_since_bounds_the_time(server: RunningServer, group: str) -> None:
    done = insights(server, "stats count(*) as n", "--since", "15m", "--json")
    assert json.loads(done.stdout) == [{"n": 2}]


def test_csv_has_numbers_and_times(server: RunningServer, group: str) -> None:
    query = "fields @timestamp, srcAddr, dstPort, version * 1.25 as x | sort dstPort desc | limit 1"
    done = insights(server, query, "-g", group, "--output", "csv")
    (row,) = csv.DictReader(io.StringIO(done.stdout))
    assert (row["srcAddr"], row["dstPort"], row["x"]) == ("172.31.9.69", "3389", "2.5")
    # In CSV what a spreadsheet would take for a formula has an apostrophe before it.
    assert row["'@timestamp"].startswith("20")
    assert len(row) == 4


def test_a_chart_over_time_for_bins(server: RunningServer, group: str) -> None:
    done = insights(server, "stats sum(bytes) as total by bin(5m)", "-g", group, "--chart")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("total by bin(5m)\n")
    assert "█" in done.stdout


def test_a_malformed_query_is_told_with_its_place(server: RunningServer, group: str) -> None:
    done = insights(server, "filter action = 'REJECT'\n| stats cuont(*) by srcAddr", "-g", group)
    assert done.returncode == 2
    assert "cuont" in done.stderr
    assert "did you mean count?" in done.stderr
    assert "  | stats cuont(*) by srcAddr\n          ^" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("limit 1", "-g", "nowhere"), "there is no log group nowhere"),
        (("limit 1", "-g", "flow", "--chart", "--json"), "a chart has no other form"),
        (("limit 1", "-g", "flow", "--since", "yesterday"), "neither a duration nor a time"),
        (("limit 1", "-g", "flow", "--output", "xml"), "one of table, csv"),
    ],
)
def test_bad_arguments(server: RunningServer, group: str, arguments: tuple[str, ...], said: str) -> None:
    done = insights(server, *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_no_rows(server: RunningServer, group: str) -> None:
    done = insights(server, 'filter action = "x" | stats count(*) by srcAddr', "-g", group, "--json")
    assert (done.returncode, json.loads(done.stdout)) == (0, [])


def test_a_field_that_is_nearly_one_of_records_is_named(server: RunningServer, group: str) -> None:
    done = insights(server, 'filter srcaddr = "10.0.0.1" or `user` = "a" | stats count(*) as srcadr', "-g", group)
    assert done.returncode == 0
    assert "records have no field srcaddr: did you mean srcAddr?" in done.stderr
    assert "user" not in done.stderr
    assert "srcadr" not in done.stderr


@pytest.mark.parametrize("waits", [True, False])
def test_only_who_waits_for_a_group_is_told_to_name_one(waits: bool) -> None:
    logs = Session().create_client(
        "logs", region_name="us-east-1", aws_access_key_id="key", aws_secret_access_key="secret"
    )
    with Stubber(logs) as stub:
        stub.add_response("describe_log_groups", {"logGroups": []}, {})
        with pytest.raises(InputError) as refused:
            choose_group(logs, None, waits)
    assert "there is no log group yet" in str(refused.value)
    assert ("name it to wait for it" in str(refused.value)) == waits

"""`vnotch usage` as people run it."""

from __future__ import annotations

import json
import time
from typing import Any

from tests.cli.running import RunningServer, run
from vnotch.cli.terminal import out
from vnotch.cli.usage import caveat, shown


def usage(server: RunningServer, *arguments: str) -> Any:
    return run("usage", *arguments, "--data-dir", server.data_dir)


def test_the_groups_and_the_bill_are_shown(server: RunningServer) -> None:
    logs = server.endpoint.client("logs")
    logs.create_log_group(logGroupName="used")
    logs.create_log_stream(logGroupName="used", logStreamName="s")
    event = {"timestamp": int(time.time() * 1000), "message": "hello"}
    logs.put_log_events(logGroupName="used", logStreamName="s", logEvents=[event])
    done = usage(server)
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stdout.splitlines() if line.strip().startswith("used"))
    # One event of 5 + 26 bytes, stored still; three requests.
    assert line.split() == ["used", "1", "31", "B", "0", "B", "31", "B", "0", "B", "3"]
    assert "0.00" in done.stdout.split("total")[1].split()[0]
    assert "us-east-1" in done.stdout.splitlines()[-1]
    found = json.loads(usage(server, "--json").stdout)
    (row,) = (row for row in found["groups"] if row["group"] == "used")
    assert (row["custom_bytes"], row["stored_bytes"], found["prices"]["currency"]) == (31, 31, "USD")


def test_a_month_that_is_none_is_refused(server: RunningServer) -> None:
    done = usage(server, "--month", "2026-13")
    assert (done.returncode, done.stdout) == (2, "")
    assert "2026-13 is no month" in done.stderr


def test_another_region_is_said() -> None:
    prices = {"currency": "USD", "region": "us-east-1", "as_of": "2025-10-28"}
    assert "this account is in eu-west-1" in caveat({"region": "eu-west-1", "prices": prices})
    assert "this account" not in caveat({"region": "us-east-1", "prices": prices})


def test_names_cannot_steer_the_terminal_and_amounts_are_rounded_to_cents() -> None:
    row = {"group": "a[bold]/b", "events": 1234567, "requests": 0}
    row |= {"custom_bytes": 0, "vended_bytes": 3 << 29, "stored_bytes": 0, "scanned_bytes": 0}
    line = {"dimension": "vended_ingestion", "unit": "GB", "quantity": "7.5", "free": "5", "cost": "1.25"}
    prices = {"currency": "USD", "region": "us-east-1", "as_of": "2025-10-28"}
    parts = shown(
        {"month": "2026-01", "region": "us-east-1", "groups": [row], "bill": [line], "total": "1.25", "prices": prices}
    )
    with out.capture() as captured:
        for part in parts:
            out.print(part)
    text = captured.get()
    assert "a[bold]/b" in text
    assert "1,234,567" in text
    assert "1.5 GB" in text
    assert ["vended", "ingestion", "7.500000", "5", "GB", "1.25"] in [found.split() for found in text.splitlines()]

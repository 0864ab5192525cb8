"""When an alarm changes its state, against the CloudWatch user guide, "Using Amazon CloudWatch alarms"."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vnotch.store.alarms import decide, values
from vnotch.store.metrics import MetricName, Sample, forget_old, put_samples
from vnotch.store.state import State

MINUTE_MS = 60_000
NOW_MS = 1_800_000_000_000 - 1_800_000_000_000 % 3_600_000 + 30_000
METRIC = MetricName.of("VPC", "RejectedSsh", {})
ASKED: dict[str, Any] = {
    "AlarmName": "ssh",
    "Namespace": "VPC",
    "MetricName": "RejectedSsh",
    "Statistic": "Sum",
    "Period": 60,
    "EvaluationPeriods": 3,
    "Threshold": 10.0,
    "ComparisonOperator": "GreaterThanOrEqualToThreshold",
}


def found(text: str) -> list[tuple[int, float] | None]:
    """`X0-` is a breaching value, one that is not, and a gap, oldest first as the guide prints them."""
    return [None if letter == "-" else (0, 12.0 if letter == "X" else 1.0) for letter in reversed(text)]


@pytest.mark.parametrize(
    ("periods", "points", "needed", "missing", "state"),
    [
        # The guide's tables, where they depend on the evaluation periods alone; None keeps the state (OK).
        ("XXX", 3, 3, "missing", "ALARM"),
        ("0XX", 3, 3, "missing", None),
        ("0XX", 3, 2, "missing", "ALARM"),
        ("X0X", 3, 2, "missing", "ALARM"),
        ("---", 3, 3, "missing", "INSUFFICIENT_DATA"),
        ("---", 3, 3, "ignore", None),
        ("---", 3, 3, "breaching", "ALARM"),
        ("---", 3, 3, "notBreaching", None),
        ("-X-", 3, 3, "missing", "ALARM"),
        ("-X-", 3, 3, "ignore", None),
        ("-X-", 3, 3, "breaching", "ALARM"),
        ("-X-", 3, 3, "notBreaching", None),
        ("--0", 3, 3, "breaching", None),
        ("--X", 3, 2, "missing", "ALARM"),
        ("--X", 3, 2, "breaching", "ALARM"),
        ("--X", 3, 2, "notBreaching", None),
        ("X", 1, 1, "notBreaching", "ALARM"),
        ("0", 1, 1, "notBreaching", None),
    ],
)
def test_tables_of_the_guide(periods: str, points: int, needed: int, missing: str, state: str | None) -> None:
    asked = {**ASKED, "EvaluationPeriods": points, "DatapointsToAlarm": needed, "TreatMissingData": missing}
    decision = decide(asked, "OK", found(periods))
    assert (decision and decision.state) == state


@pytest.mark.parametrize(
    ("operator", "value", "breaches"),
    [
        ("GreaterThanOrEqualToThreshold", 10.0, True),
        ("GreaterThanThreshold", 10.0, False),
        ("GreaterThanThreshold", 10.5, True),
        ("LessThanThreshold", 10.0, False),
        ("LessThanThreshold", 9.5, True),
        ("LessThanOrEqualToThreshold", 10.0, True),
    ],
)
def test_operators(operator: str, value: float, breaches: bool) -> None:
    asked = {**ASKED, "EvaluationPeriods": 1, "ComparisonOperator": operator}
    decision = decide(asked, "INSUFFICIENT_DATA", [(0, value)])
    assert decision is not None
    assert decision.state == ("ALARM" if breaches else "OK")


def test_the_reason_is_worded_as_awss() -> None:
    asked = {**ASKED, "EvaluationPeriods": 1}
    decision = decide(asked, "OK", [(1_418_530_020_000, 12.0)])
    assert decision is not None
    assert decision.reason == (
        "Threshold Crossed: 1 out of the last 1 datapoints [12.0 (14/12/14 04:07:00)] was greater than or equal to the "
        "threshold (10.0) (minimum 1 datapoint for OK -> ALARM transition)."
    )
    decision = decide({**ASKED, "EvaluationPeriods": 1}, "OK", [None])
    assert decision is not None
    assert decision.reason == "Insufficient Data: 1 datapoint was unknown."


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    state = State.open(tmp_path)
    state.create_tables()
    yield state
    state.close()


def put(state: State, minutes_ago: int, value: float, **more: Any) -> None:
    with state.write() as session:
        time_ms = NOW_MS - minutes_ago * MINUTE_MS
        assert put_samples(session, [Sample(METRIC, time_ms, 1, value, value, value, **more)]) == 0


def test_periods_end_with_the_minute_that_goes_on_only_where_the_value_can_only_rise(state: State) -> None:
    put(state, 0, 7)
    put(state, 1, 2)
    put(state, 2, 1)
    with state.read() as session:
        growing = values(session, ASKED, NOW_MS)
        falling = values(session, {**ASKED, "ComparisonOperator": "LessThanThreshold"}, NOW_MS)
        average = values(session, {**ASKED, "Statistic": "Average"}, NOW_MS)
    assert [pair and pair[1] for pair in growing] == [7, 2, 1]
    assert [pair and pair[1] for pair in falling] == [2, 1, None]
    assert [pair and pair[1] for pair in average] == [2, 1, None]


def test_an_hour_adds_up_its_minutes(state: State) -> None:
    for minutes in range(0, 120, 10):
        put(state, minutes, 2)
    with state.read() as session:
        (hour,) = values(session, {**ASKED, "Period": 3600, "EvaluationPeriods": 1}, NOW_MS)
    assert hour is not None
    assert hour[1] == 12


def test_a_default_value_gives_way_to_what_is_counted(state: State) -> None:
    put(state, 1, 5, is_default=True)
    put(state, 1, 5, is_default=True)
    with state.read() as session:
        assert [pair and pair[1] for pair in values(session, ASKED, NOW_MS)] == [None, 5, None]
    put(state, 1, 1)
    put(state, 1, 1)
    put(state, 1, 5, is_default=True)
    with state.read() as session:
        assert [pair and pair[1] for pair in values(session, ASKED, NOW_MS)] == [None, 2, None]


def test_data_is_kept_for_fifteen_days(state: State) -> None:
    put(state, 15 * 24 * 60 + 1, 1)
    put(state, 14 * 24 * 60, 1)
    with state.write() as session:
        forget_old(session, NOW_MS)
    asked = {**ASKED, "Period": 86_400, "EvaluationPeriods": 20}
    with state.read() as session:
        assert sum(pair is not None for pair in values(session, asked, NOW_MS)) == 1

"""Alarms on metrics: what is kept of them, and when one changes its state. `decide` is pure; time is passed in.

Source: CloudWatch user guide, "Using Amazon CloudWatch alarms": evaluation, "Configuring how CloudWatch alarms treat
missing data". Here the range that is looked at is exactly the evaluation periods; AWS may look a little further back.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, String, Text
from sqlalchemy.orm import Mapped, Session, mapped_column

from vnotch.store.metrics import MINUTE_MS, MetricName, Point, merged, points
from vnotch.store.state import Base

GROWING = ("Sum", "SampleCount", "Maximum")
"""Statistics that only rise while a period goes on: an alarm above a threshold need not wait for its end."""

OPERATORS: dict[str, tuple[str, Callable[[float, float], bool]]] = {
    "GreaterThanOrEqualToThreshold": ("greater than or equal to", operator.ge),
    "GreaterThanThreshold": ("greater than", operator.gt),
    "LessThanThreshold": ("less than", operator.lt),
    "LessThanOrEqualToThreshold": ("less than or equal to", operator.le),
}
MISSING = ("missing", "breaching", "notBreaching", "ignore")


class Alarm(Base):
    __tablename__ = "metric_alarm"
    name: Mapped[str] = mapped_column(String(255), primary_key=True)
    asked: Mapped[dict[str, Any]] = mapped_column(JSON)  # model: PutMetricAlarmInput
    configured_ms: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[str] = mapped_column(String(32))
    reason: Mapped[str] = mapped_column(Text)
    reason_data: Mapped[str | None] = mapped_column(Text)
    updated_ms: Mapped[int] = mapped_column(BigInteger)
    transitioned_ms: Mapped[int] = mapped_column(BigInteger)


@dataclass(frozen=True)
class Decision:
    state: str
    reason: str


def values(session: Session, asked: dict[str, Any], now_ms: int) -> list[tuple[int, float] | None]:
    """The alarm's statistic in each of its evaluation periods, newest first, with the time at which the period begins;
    None where there is no data. The newest period ends at the last full minute, or takes in the minute that goes on."""
    period_ms = asked["Period"] * 1000
    ends_ms = now_ms - now_ms % MINUTE_MS
    if asked["Statistic"] in GROWING and asked["ComparisonOperator"].startswith("Greater"):
        ends_ms += MINUTE_MS
    count = asked["EvaluationPeriods"]
    start_ms = ends_ms - count * period_ms
    dimensions = {item["Name"]: item["Value"] for item in asked.get("Dimensions") or ()}
    metric = MetricName.of(asked["Namespace"], asked["MetricName"], dimensions)
    by_period: dict[int, list[Point]] = {}
    for point in points(session, metric, start_ms, ends_ms, period_ms, asked.get("Unit")):
        by_period.setdefault(point.time_ms, []).append(point)
    found: list[tuple[int, float] | None] = []
    for number in range(count):
        begin_ms = ends_ms - (number + 1) * period_ms
        whole = merged(by_period.get(begin_ms, ()), begin_ms)
        found.append((begin_ms, whole.statistic(asked["Statistic"])) if whole is not None else None)
    return found


def decide(asked: dict[str, Any], state: str, found: Sequence[tuple[int, float] | None]) -> Decision | None:
    """The state that follows from the values; None where the alarm keeps the one that it has."""
    wanted = asked.get("DatapointsToAlarm") or asked["EvaluationPeriods"]
    missing = asked.get("TreatMissingData") or "missing"
    words, breaches = OPERATORS[asked["ComparisonOperator"]]
    there = [value for value in found if value is not None]
    breaching = sum(breaches(value, asked["Threshold"]) for _, value in there)
    gaps = len(found) - len(there)
    if missing == "breaching":
        breaching, gaps = breaching + gaps, 0
    if missing == "notBreaching":
        gaps = 0
    if breaching >= wanted:
        decided = "ALARM"
    elif breaching + gaps < wanted:
        decided = "OK"
    elif missing == "ignore":
        return None
    elif not there:
        decided = "INSUFFICIENT_DATA"
    else:
        decided = "ALARM" if breaching >= min(wanted, len(there)) else "OK"
    if decided == state:
        return None
    if decided == "INSUFFICIENT_DATA":
        noun = "datapoint was" if gaps == 1 else "datapoints were"
        return Decision(decided, f"Insufficient Data: {gaps} {noun} unknown.")
    shown = ", ".join(f"{value} ({_time(begin_ms)})" for begin_ms, value in there) or "no datapoints"
    number, negation = (breaching, "") if decided == "ALARM" else (len(found) - breaching, "not ")
    noun = "datapoint" if wanted == 1 else "datapoints"
    return Decision(
        decided,
        f"Threshold Crossed: {number} out of the last {len(found)} datapoints [{shown}] was {negation}{words} the "
        f"threshold ({float(asked['Threshold'])}) (minimum {wanted} {noun} for {state} -> {decided} transition).",
    )


def _time(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%d/%m/%y %H:%M:%S")


def change_state(alarm: Alarm, state: str, reason: str, reason_data: str | None, now_ms: int) -> bool:
    """Returns whether the state is another one now."""
    changed = alarm.state != state
    alarm.state, alarm.reason, alarm.reason_data, alarm.updated_ms = state, reason, reason_data, now_ms
    if changed:
        alarm.transitioned_ms = now_ms
    return changed

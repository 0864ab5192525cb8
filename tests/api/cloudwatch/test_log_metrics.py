"""What log groups take in as metrics of the namespace AWS/Logs (CloudWatch Logs user guide, "Monitoring with CloudWatch
metrics": names, dimension, units; Sum is the valid statistic)."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from vnotch.store.log_metrics import LogMetrics


@pytest.fixture
def logs(api: Any, watch: Any) -> Any:
    return api.client("logs")


def put(logs: Any, group: str, *messages: str) -> None:
    now_ms = int(time.time() * 1000)
    events = [{"timestamp": now_ms, "message": message} for message in messages]
    logs.put_log_events(logGroupName=group, logStreamName="s", logEvents=events)


@pytest.fixture
def groups(logs: Any) -> None:
    for group in ("a", "b"):
        logs.create_log_group(logGroupName=group)
        logs.create_log_stream(logGroupName=group, logStreamName="s")


def sums(cloudwatch: Any, group: str | None) -> tuple[float, float]:
    """IncomingBytes and IncomingLogEvents of the last two hours, of a group or of all."""
    now = datetime.now(UTC)
    dimensions = [{"Name": "LogGroupName", "Value": group}] if group is not None else []
    metrics = [
        {"Namespace": "AWS/Logs", "MetricName": name, "Dimensions": dimensions}
        for name in ("IncomingBytes", "IncomingLogEvents")
    ]
    answer = cloudwatch.get_metric_data(
        MetricDataQueries=[
            {"Id": f"m{number}", "MetricStat": {"Metric": metric, "Period": 60, "Stat": "Sum"}}
            for number, metric in enumerate(metrics)
        ],
        StartTime=now - timedelta(hours=1),
        EndTime=now + timedelta(hours=1),
    )
    size, events = (sum(result["Values"]) for result in answer["MetricDataResults"])
    return size, events


def test_bytes_and_events_are_counted_by_group_and_of_all(cloudwatch: Any, logs: Any, watch: Any, groups: None) -> None:
    put(logs, "a", "12345", "é")
    put(logs, "a", "1")
    put(logs, "b", "12")
    watch.log_metrics.step(now=True)
    # Each event counts 26 bytes more than its message in UTF-8, as it does against the limits of a batch.
    assert sums(cloudwatch, "a") == (5 + 2 + 1 + 3 * 26, 3)
    assert sums(cloudwatch, "b") == (2 + 26, 1)
    assert sums(cloudwatch, None) == (10 + 4 * 26, 4)
    listed = cloudwatch.list_metrics(Namespace="AWS/Logs", MetricName="IncomingBytes")["Metrics"]
    dimensions = [[dimension["Value"] for dimension in metric["Dimensions"]] for metric in listed]
    assert sorted(dimensions) == [[], ["a"], ["b"]]
    (point,) = cloudwatch.get_metric_statistics(
        Namespace="AWS/Logs",
        MetricName="IncomingBytes",
        Dimensions=[{"Name": "LogGroupName", "Value": "b"}],
        StartTime=datetime.now(UTC) - timedelta(hours=1),
        EndTime=datetime.now(UTC) + timedelta(hours=1),
        Period=60,
        Statistics=["Sum"],
    )["Datapoints"]
    assert (point["Sum"], point["Unit"]) == (28, "Bytes")


def test_each_event_counts_once_also_when_the_server_starts_again(
    api: Any, lake: Any, cloudwatch: Any, logs: Any, watch: Any, groups: None
) -> None:
    put(logs, "a", "1")
    watch.log_metrics.step(now=True)
    watch.log_metrics.step(now=True)
    put(logs, "a", "2", "3")
    again = LogMetrics(api.state, lake)
    again.step(now=True)
    again.step(now=True)
    LogMetrics(api.state, lake).step(now=True)
    assert sums(cloudwatch, "a") == (3 * 27, 3)


def test_what_came_before_counting_began_does_not_count(
    api: Any, lake: Any, cloudwatch: Any, logs: Any, groups: None
) -> None:
    put(logs, "a", "1")
    later = LogMetrics(api.state, lake)  # a state of a release before these metrics
    later.step(now=True)
    put(logs, "a", "2")
    LogMetrics(api.state, lake).step(now=True)
    assert sums(cloudwatch, "a") == (27, 1)


def test_an_alarm_may_look_at_them(cloudwatch: Any, logs: Any, watch: Any, groups: None) -> None:
    cloudwatch.put_metric_alarm(
        AlarmName="much",
        Namespace="AWS/Logs",
        MetricName="IncomingLogEvents",
        Dimensions=[{"Name": "LogGroupName", "Value": "a"}],
        Statistic="Sum",
        Period=60,
        EvaluationPeriods=1,
        Threshold=2,
        ComparisonOperator="GreaterThanOrEqualToThreshold",
    )
    put(logs, "a", "1", "2")
    watch.log_metrics.step(now=True)
    watch.step(int(time.time() * 1000))
    assert cloudwatch.describe_alarms()["MetricAlarms"][0]["StateValue"] == "ALARM"


def test_they_are_the_services_own(cloudwatch: Any) -> None:
    with pytest.raises(ClientError, match="InvalidParameterValue"):
        cloudwatch.put_metric_data(Namespace="AWS/Logs", MetricData=[{"MetricName": "IncomingBytes", "Value": 1}])

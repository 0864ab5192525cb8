"""Alarms and metric filters through boto3, against the API reference and the classic of the VPC user guide: rejected
SSH is counted, an alarm is raised, somebody is called."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from vnotch.api.cloudwatch import webhooks

TOPIC = "arn:aws:sns:us-east-1:123456789012:ops"
REJECTED_SSH = (
    '[version, account, eni, source, destination, srcport, destport="22", protocol="6", packets, bytes, windowstart, '
    'windowend, action="REJECT", flowlogstatus]'
)
ALARM: dict[str, Any] = {
    "AlarmName": "rejected-ssh",
    "Namespace": "LogMetrics",
    "MetricName": "RejectedSsh",
    "Statistic": "Sum",
    "Period": 3600,
    "EvaluationPeriods": 1,
    "DatapointsToAlarm": 1,
    "Threshold": 10.0,
    "ComparisonOperator": "GreaterThanOrEqualToThreshold",
    "TreatMissingData": "notBreaching",
    "AlarmActions": [TOPIC],
}


def refused(code: str, text: str = "") -> Any:
    return pytest.raises(ClientError, match=f"{code}.*{text}")


def line(action: str = "REJECT", port: int = 22, size: int = 100, eni: str = "eni-1") -> str:
    return f"2 123456789010 {eni} 172.31.9.69 172.31.9.12 49761 {port} 6 20 {size} 1418530010 1418530070 {action} OK"


@pytest.fixture
def logs(api: Any, watch: Any) -> Any:
    client = api.client("logs")
    client.create_log_group(logGroupName="flow")
    client.create_log_stream(logGroupName="flow", logStreamName="s")
    return client


def put(logs: Any, *messages: str) -> None:
    now_ms = int(time.time() * 1000)
    events = [{"timestamp": now_ms, "message": message} for message in messages]
    logs.put_log_events(logGroupName="flow", logStreamName="s", logEvents=events)


def metric_filter(**made: Any) -> dict[str, Any]:
    transformation = {"metricNamespace": "LogMetrics", "metricName": "RejectedSsh", "metricValue": "1", **made}
    return {
        "logGroupName": "flow",
        "filterName": "ssh",
        "filterPattern": REJECTED_SSH,
        "metricTransformations": [transformation],
    }


def statistics(cloudwatch: Any, name: str = "RejectedSsh", **dimensions: str) -> dict[str, float]:
    """Of the last hours together."""
    now = datetime.now(UTC)
    points = cloudwatch.get_metric_statistics(
        Namespace="LogMetrics",
        MetricName=name,
        Dimensions=[{"Name": key, "Value": value} for key, value in dimensions.items()],
        StartTime=now - timedelta(hours=2),
        EndTime=now + timedelta(hours=1),
        Period=60,
        Statistics=["SampleCount", "Sum"],
    )["Datapoints"]
    return {key: sum(point[key] for point in points) for key in ("SampleCount", "Sum")}


def test_rejected_ssh_is_counted_raises_an_alarm_and_calls_a_webhook(
    cloudwatch: Any, logs: Any, watch: Any, hook: Any
) -> None:
    put(logs, *[line()] * 20)  # before the filter is there: these do not count
    logs.put_metric_filter(**metric_filter())
    cloudwatch.put_metric_alarm(**ALARM, AlarmDescription="many")
    now_ms = int(time.time() * 1000)
    watch.step(now_ms)
    (alarm,) = cloudwatch.describe_alarms()["MetricAlarms"]
    assert (alarm["StateValue"], alarm["AlarmActions"]) == ("OK", [TOPIC])
    assert alarm["AlarmArn"] == "arn:aws:cloudwatch:us-east-1:123456789012:alarm:rejected-ssh"
    put(logs, *[line()] * 9, *[line("ACCEPT")] * 5, *[line(port=80)] * 5, "text")
    watch.step(now_ms)
    assert statistics(cloudwatch) == {"SampleCount": 9, "Sum": 9}
    assert hook.calls == []
    put(logs, line())
    watch.step(int(time.time() * 1000))
    call = hook.wait()
    assert (call["AlarmName"], call["NewStateValue"], call["OldStateValue"]) == ("rejected-ssh", "ALARM", "OK")
    assert call["NewStateReason"].startswith("Threshold Crossed: 1 out of the last 1 datapoints [10.0 (")
    assert (call["AWSAccountId"], call["AlarmDescription"]) == ("123456789012", "many")
    assert call["Trigger"]["Statistic"] == "SUM"
    assert call["Trigger"]["Threshold"] == 10
    watch.step(int(time.time() * 1000))
    (alarm,) = cloudwatch.describe_alarms(StateValue="ALARM")["MetricAlarms"]
    assert alarm["StateReason"] == call["NewStateReason"]
    assert len(hook.calls) == 1  # said once


def test_each_event_counts_once_also_when_the_server_starts_again(
    api: Any, lake: Any, logs: Any, watch: Any, cloudwatch: Any
) -> None:
    from vnotch.store.log_totals import LogTotals
    from vnotch.store.metric_filters import MetricFilters

    logs.put_metric_filter(**metric_filter())
    put(logs, *[line()] * 3)
    watch.filters.step()
    put(logs, *[line()] * 4)
    again = MetricFilters(api.state, lake, LogTotals(api.state, lake))
    again.step()
    again.step()
    watch.filters.step()
    assert statistics(cloudwatch)["Sum"] == 7


def test_values_dimensions_and_defaults(cloudwatch: Any, logs: Any, watch: Any) -> None:
    logs.put_metric_filter(
        **metric_filter(metricName="Bytes", metricValue="$bytes", dimensions={"eni": "$eni"}, unit="Bytes")
    )
    other = metric_filter(metricName="Any", defaultValue=0.5) | {"filterName": "any", "filterPattern": "nothing"}
    logs.put_metric_filter(**other)
    json_filter = metric_filter(metricName="Latency", metricValue="$.latency")
    logs.put_metric_filter(**json_filter | {"filterName": "json", "filterPattern": "{ $.latency = * }"})
    put(logs, line(size=100), line(size=50), line(size=7, eni="eni-2"), '{"latency": 2.5}', '{"latency": "slow"}')
    # The same as text: this line is of no format that is known.
    put(logs, line(size=1000) + "  ")
    watch.filters.step()
    assert statistics(cloudwatch, "Bytes", eni="eni-1") == {"SampleCount": 3, "Sum": 1150}
    assert statistics(cloudwatch, "Bytes", eni="eni-2") == {"SampleCount": 1, "Sum": 7}
    assert statistics(cloudwatch, "Latency") == {"SampleCount": 1, "Sum": 2.5}
    assert statistics(cloudwatch, "Any")["Sum"] in (0.5, 1.0)  # two minutes, where one ended in between
    assert logs.describe_log_groups()["logGroups"][0]["metricFilterCount"] == 3


def test_filters_are_described_changed_and_deleted(logs: Any, watch: Any) -> None:
    logs.put_metric_filter(**metric_filter())
    logs.put_metric_filter(**metric_filter(metricName="Other"))
    (found,) = logs.describe_metric_filters(logGroupName="flow", filterNamePrefix="s")["metricFilters"]
    assert (found["filterName"], found["logGroupName"], found["filterPattern"]) == ("ssh", "flow", REJECTED_SSH)
    assert found["metricTransformations"][0]["metricName"] == "Other"
    assert logs.describe_metric_filters(metricName="Other", metricNamespace="LogMetrics")["metricFilters"]
    assert not logs.describe_metric_filters(metricName="x", metricNamespace="LogMetrics")["metricFilters"]
    with refused("InvalidParameterException"):
        logs.describe_metric_filters(metricName="x")
    logs.delete_metric_filter(logGroupName="flow", filterName="ssh")
    with refused("ResourceNotFoundException"):
        logs.delete_metric_filter(logGroupName="flow", filterName="ssh")
    logs.put_metric_filter(**metric_filter())
    logs.delete_log_group(logGroupName="flow")
    assert logs.describe_metric_filters()["metricFilters"] == []


@pytest.mark.parametrize(
    "changed",
    [
        {"filterPattern": "[a"},
        {"made": {"metricValue": "x"}},
        {"made": {"metricValue": "nan"}},
        {"made": {"metricValue": "$unknown"}},
        {"made": {"metricNamespace": "AWS/Logs", "metricName": "IncomingBytes"}},
        {"made": {"metricValue": "$.bytes"}},
        {"made": {"dimensions": {"a": "$unknown"}}},
        {"made": {"dimensions": dict.fromkeys("abcd", "$eni")}},
        {"made": {"dimensions": {"a": "$eni"}, "defaultValue": 0}},
        {"applyOnTransformedLogs": True},
    ],
    ids=str,
)
def test_filters_that_are_refused(logs: Any, watch: Any, changed: dict[str, Any]) -> None:
    made = changed.pop("made", {})
    with refused("InvalidParameterException"):
        logs.put_metric_filter(**{**metric_filter(**made), **changed})
    assert logs.describe_metric_filters()["metricFilters"] == []


def test_five_filters_of_a_group_may_have_regular_expressions(logs: Any, watch: Any) -> None:
    for number in range(5):
        logs.put_metric_filter(**metric_filter() | {"filterName": f"r{number}", "filterPattern": "%a+%"})
    with refused("LimitExceededException"):
        logs.put_metric_filter(**metric_filter() | {"filterName": "r5", "filterPattern": "%a+%"})
    logs.put_metric_filter(**metric_filter() | {"filterName": "plain", "filterPattern": '"%a+%"'})


def test_a_state_that_is_set_calls_and_the_next_look_decides_anew(cloudwatch: Any, watch: Any, hook: Any) -> None:
    cloudwatch.put_metric_alarm(**ALARM, OKActions=[hook.url])
    cloudwatch.set_alarm_state(AlarmName="rejected-ssh", StateValue="ALARM", StateReason="a test")
    assert hook.wait()["NewStateReason"] == "a test"
    watch.step(int(time.time() * 1000))
    assert hook.wait()["NewStateValue"] == "OK"
    cloudwatch.disable_alarm_actions(AlarmNames=["rejected-ssh"])
    cloudwatch.set_alarm_state(AlarmName="rejected-ssh", StateValue="ALARM", StateReason="quiet")
    assert cloudwatch.describe_alarms()["MetricAlarms"][0]["ActionsEnabled"] is False
    cloudwatch.enable_alarm_actions(AlarmNames=["rejected-ssh"])
    assert cloudwatch.describe_alarms()["MetricAlarms"][0]["ActionsEnabled"] is True
    with refused("ResourceNotFound"):
        cloudwatch.set_alarm_state(AlarmName="none", StateValue="ALARM", StateReason="x")
    cloudwatch.delete_alarms(AlarmNames=["rejected-ssh"])
    cloudwatch.delete_alarms(AlarmNames=["rejected-ssh"])
    assert cloudwatch.describe_alarms()["MetricAlarms"] == []
    assert len(hook.calls) == 2


@pytest.mark.parametrize(
    "changed",
    [
        {"AlarmActions": ["arn:aws:sns:us-east-1:123456789012:unknown"]},
        {"AlarmActions": ["ftp://example.com"]},
        {"Period": 10},
        {"Period": 3600, "EvaluationPeriods": 200},
        {"DatapointsToAlarm": 2},
        {"TreatMissingData": "maybe"},
        {"ComparisonOperator": "GreaterThanUpperThreshold"},
        {"Threshold": None},
        {"Statistic": None, "ExtendedStatistic": "p99"},
    ],
    ids=str,
)
def test_alarms_that_are_refused(api: Any, watch: Any, changed: dict[str, Any]) -> None:
    cloudwatch = api.client("cloudwatch")
    asked = {name: value for name, value in {**ALARM, **changed}.items() if value is not None}
    with refused("(ValidationError|InvalidParameterValue)"):
        cloudwatch.put_metric_alarm(**asked)
    assert cloudwatch.describe_alarms()["MetricAlarms"] == []


def test_alarms_are_described_in_pages_and_deleted_all_or_none(cloudwatch: Any) -> None:
    for number in range(5):
        cloudwatch.put_metric_alarm(**ALARM | {"AlarmName": f"a{number}"})
    pages = list(cloudwatch.get_paginator("describe_alarms").paginate(PaginationConfig={"PageSize": 2}))
    assert [row["AlarmName"] for page in pages for row in page["MetricAlarms"]] == [f"a{n}" for n in range(5)]
    assert len(cloudwatch.describe_alarms(AlarmNamePrefix="a1")["MetricAlarms"]) == 1
    assert len(cloudwatch.describe_alarms(ActionPrefix="arn:aws:sns")["MetricAlarms"]) == 5
    with refused("ResourceNotFound"):
        cloudwatch.delete_alarms(AlarmNames=["a1", "none"])
    cloudwatch.delete_alarms(AlarmNames=["a1", "a2"])
    assert len(cloudwatch.describe_alarms()["MetricAlarms"]) == 3


def test_a_webhook_is_tried_again_and_given_up_by_and_by(
    api: Any, watch: Any, hook: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "TRIES_SECONDS", (0.0, 0.01, 0.01))
    cloudwatch = api.client("cloudwatch")
    cloudwatch.put_metric_alarm(**ALARM)
    hook.answers = [500, 503]
    cloudwatch.set_alarm_state(AlarmName="rejected-ssh", StateValue="ALARM", StateReason="x")
    hook.wait()
    hook.answers = [500, 500, 500]
    cloudwatch.set_alarm_state(AlarmName="rejected-ssh", StateValue="OK", StateReason="x")
    cloudwatch.set_alarm_state(AlarmName="rejected-ssh", StateValue="ALARM", StateReason="y")
    deadline = time.monotonic() + 30
    while not watch.webhooks.counters["failed"]:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_policies_name_cloudwatchs_actions(api: Any, watch: Any) -> None:
    iam = api.client("iam")
    iam.create_user(UserName="u")
    key = iam.create_access_key(UserName="u")["AccessKey"]
    client = api.client("cloudwatch", key=(key["AccessKeyId"], key["SecretAccessKey"]))
    with refused("AccessDenied"):
        client.list_metrics()
    iam.put_user_policy(
        UserName="u",
        PolicyName="p",
        PolicyDocument='{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", '
        '"Action": "cloudwatch:ListMetrics", "Resource": "*"}]}',
    )
    assert client.list_metrics()["Metrics"] == []

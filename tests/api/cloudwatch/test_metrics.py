"""Metrics through boto3 in each protocol, against the API reference of CloudWatch (2010-08-01)."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

NOW = datetime.now(UTC).replace(second=0, microsecond=0)
HOUR = timedelta(hours=1)


def refused(code: str, text: str = "") -> Any:
    return pytest.raises(ClientError, match=f"{code}.*{text}")


def test_what_is_put_is_read_as_statistics(cloudwatch: Any) -> None:
    minute = NOW - timedelta(minutes=5)
    dimensions = [{"Name": "eni", "Value": "eni-1"}]
    cloudwatch.put_metric_data(
        Namespace="Mine",
        MetricData=[
            {"MetricName": "m", "Dimensions": dimensions, "Timestamp": minute, "Value": 2.5, "Unit": "Count"},
            {"MetricName": "m", "Dimensions": dimensions, "Timestamp": minute, "Values": [1, 4], "Counts": [2, 1],
             "Unit": "Count"},
            {"MetricName": "m", "Dimensions": dimensions, "Timestamp": minute - timedelta(minutes=1), "Unit": "Count",
             "StatisticValues": {"SampleCount": 2, "Sum": 10, "Minimum": 3, "Maximum": 7}},
            {"MetricName": "m", "Value": 99},
        ],
    )  # fmt: skip
    asked = {"Namespace": "Mine", "MetricName": "m", "Dimensions": dimensions}
    times = {"StartTime": NOW - HOUR, "EndTime": NOW}
    answer = cloudwatch.get_metric_statistics(
        **asked, **times, Period=60, Statistics=["SampleCount", "Sum", "Average", "Minimum", "Maximum"]
    )
    assert answer["Label"] == "m"
    second, first = sorted(answer["Datapoints"], key=lambda point: point["Timestamp"])
    assert (first["Timestamp"], first["Unit"]) == (minute, "Count")
    assert (first["SampleCount"], first["Sum"], first["Minimum"], first["Maximum"]) == (4, 8.5, 1, 4)
    assert first["Average"] == 8.5 / 4
    assert (second["SampleCount"], second["Sum"], second["Maximum"]) == (2, 10, 7)
    (hour,) = cloudwatch.get_metric_statistics(
        **asked, StartTime=NOW - 24 * HOUR, EndTime=NOW, Period=86_400, Statistics=["Sum"], Unit="Count"
    )["Datapoints"] or [None]
    assert hour is None or hour["Sum"] == 18.5
    empty = cloudwatch.get_metric_statistics(**asked, **times, Period=60, Statistics=["Sum"], Unit="Bytes")
    assert empty["Datapoints"] == []

    listed = cloudwatch.list_metrics(Namespace="Mine")["Metrics"]
    assert {(row["MetricName"], len(row["Dimensions"])) for row in listed} == {("m", 0), ("m", 1)}
    assert len(cloudwatch.list_metrics(Dimensions=[{"Name": "eni"}])["Metrics"]) == 1
    assert cloudwatch.list_metrics(Dimensions=[{"Name": "eni", "Value": "eni-2"}])["Metrics"] == []


def test_metric_data_comes_by_query_in_order_and_in_pages(cloudwatch: Any) -> None:
    for number in range(4):
        cloudwatch.put_metric_data(
            Namespace="Mine",
            MetricData=[
                {"MetricName": name, "Timestamp": NOW - timedelta(minutes=number + 1), "Value": number}
                for name in ("a", "b")
            ],
        )
    queries = [
        {
            "Id": name,
            "MetricStat": {"Metric": {"Namespace": "Mine", "MetricName": name}, "Period": 60, "Stat": "Sum"},
            "Label": f"label of {name}",
        }
        for name in ("a", "b")
    ]
    asked = {"MetricDataQueries": queries, "StartTime": NOW - HOUR, "EndTime": NOW}
    first, second = cloudwatch.get_metric_data(**asked)["MetricDataResults"]
    assert (first["Id"], first["Label"], first["StatusCode"]) == ("a", "label of a", "Complete")
    assert first["Values"] == [0, 1, 2, 3]
    assert first["Timestamps"][0] == NOW - timedelta(minutes=1)
    assert second["Values"] == [0, 1, 2, 3]
    ascending = cloudwatch.get_metric_data(**asked, ScanBy="TimestampAscending")["MetricDataResults"][0]
    assert ascending["Values"] == [3, 2, 1, 0]
    pages = list(cloudwatch.get_paginator("get_metric_data").paginate(**asked, MaxDatapoints=3))
    assert len(pages) == 3
    for name in ("a", "b"):
        values = [
            value for page in pages for row in page["MetricDataResults"] if row["Id"] == name for value in row["Values"]
        ]
        assert values == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("datum", "code"),
    [
        ({"Value": 1, "Timestamp": NOW - timedelta(days=15)}, "InvalidParameterValue"),
        ({"Value": 1, "Timestamp": NOW + timedelta(hours=3)}, "InvalidParameterValue"),
        ({"Value": 1, "Values": [1]}, "InvalidParameterCombination"),
        ({}, "InvalidParameterCombination"),
        ({"Value": 2.0**400}, "InvalidParameterValue"),
        ({"Value": 1, "StorageResolution": 1}, "InvalidParameterValue"),
        ({"Values": [1, 2], "Counts": [1]}, "InvalidParameterValue"),
        ({"Value": 1, "Dimensions": [{"Name": "a", "Value": "1"}] * 2}, "InvalidParameterValue"),
        ({"StatisticValues": {"SampleCount": 0, "Sum": 0, "Minimum": 0, "Maximum": 0}}, "InvalidParameterValue"),
    ],
    ids=str,
)
def test_data_that_is_refused(api: Any, watch: Any, datum: dict[str, Any], code: str) -> None:
    cloudwatch = api.client("cloudwatch")
    with refused(code):
        cloudwatch.put_metric_data(
            Namespace="Mine", MetricData=[{"MetricName": "good", "Value": 1}, {"MetricName": "m", **datum}]
        )
    assert cloudwatch.list_metrics()["Metrics"] == []


def test_questions_that_are_refused(cloudwatch: Any) -> None:
    asked = {"Namespace": "Mine", "MetricName": "m", "Period": 60, "StartTime": NOW - HOUR, "EndTime": NOW}
    with refused("InvalidParameterCombination"):
        cloudwatch.get_metric_statistics(**asked)
    with refused("InvalidParameterValue", "ExtendedStatistics is not supported"):
        cloudwatch.get_metric_statistics(**asked, ExtendedStatistics=["p99"])
    with refused("InvalidParameterCombination", "exceeds the limit of 1440"):
        cloudwatch.get_metric_statistics(**{**asked, "StartTime": NOW - 48 * HOUR}, Statistics=["Sum"])
    with refused("InvalidParameterValue"):
        cloudwatch.get_metric_statistics(**{**asked, "StartTime": NOW}, Statistics=["Sum"])
    with refused("InvalidParameterValue", "MetricDataQueries.Expression is not supported"):
        cloudwatch.get_metric_data(
            MetricDataQueries=[{"Id": "a", "Expression": "1 + 1"}], StartTime=NOW - HOUR, EndTime=NOW
        )
    metric = {"Metric": {"Namespace": "Mine", "MetricName": "m"}, "Period": 60, "Stat": "Sum"}
    for name in ("A", "1a", "a b", "a-b", "_a"):  # what an expression could not name
        with refused("InvalidParameterValue", "Id is not matching the expected pattern"):
            cloudwatch.get_metric_data(
                MetricDataQueries=[{"Id": name, "MetricStat": metric}], StartTime=NOW - HOUR, EndTime=NOW
            )
    with refused("InvalidParameterValue", "p99 for parameter MetricDataQueries.MetricStat.Stat is not supported"):
        cloudwatch.get_metric_data(
            MetricDataQueries=[{"Id": "a", "MetricStat": {**metric, "Stat": "p99"}}], StartTime=NOW - HOUR, EndTime=NOW
        )
    with refused("InvalidParameterValue", "AWS/"):
        cloudwatch.put_metric_data(Namespace="AWS/EC2", MetricData=[{"MetricName": "m", "Value": 1}])


@pytest.mark.parametrize(
    "position", [b"7", b'["ListMetrics", "a"]', b'["DescribeAlarms", 1]', b'["ListMetrics", [1]]', b"\xff"]
)
def test_a_token_of_something_else_is_refused(cloudwatch: Any, position: bytes) -> None:
    token = base64.urlsafe_b64encode(position).decode()
    with pytest.raises(ClientError, match="InvalidNextToken"):
        cloudwatch.list_metrics(NextToken=token)
    with pytest.raises(ClientError, match="InvalidNextToken"):
        cloudwatch.describe_alarms(NextToken=token)


def test_a_large_request_comes_compressed(cloudwatch: Any) -> None:
    """SDKs compress the body of PutMetricData from 10 KB on."""
    data = [{"MetricName": f"metric-number-{number}", "Value": number} for number in range(500)]
    sent = []
    cloudwatch.meta.events.register("before-send.cloudwatch.PutMetricData", lambda request, **_: sent.append(request))
    cloudwatch.put_metric_data(Namespace="Mine", MetricData=data)
    assert sent[0].headers["Content-Encoding"] in ("gzip", b"gzip")
    names = {
        row["MetricName"] for page in cloudwatch.get_paginator("list_metrics").paginate() for row in page["Metrics"]
    }
    assert len(names) == 500


def test_what_is_no_gzip_and_what_grows_without_end_is_refused(api: Any, watch: Any) -> None:
    import gzip

    headers = {"content-encoding": "gzip"}
    answer = api.send("monitoring", b"Action=ListMetrics&Version=2010-08-01", headers=headers)
    assert answer.status_code == 400
    bomb = gzip.compress(b"Action=" + b"x" * (17 << 20))
    answer = api.send("monitoring", bomb, headers=headers)
    assert answer.status_code == 413
    good = gzip.compress(b"Action=ListMetrics&Version=2010-08-01")
    assert api.send("monitoring", good, headers=headers).status_code == 200

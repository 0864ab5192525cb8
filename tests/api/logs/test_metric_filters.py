"""TestMetricFilter through boto3, against the API reference of CloudWatch Logs."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError

RECORDS = [
    "2 123456789010 eni-1 172.31.16.139 172.31.16.21 20641 22 6 20 4249 1418530010 1418530070 ACCEPT OK",
    "2 123456789010 eni-1 172.31.9.69 172.31.9.12 49761 22 6 20 4249 1418530010 1418530070 REJECT OK",
]
REJECTED_SSH = (
    '[version, account, eni, source, destination, srcport, destport="22", protocol="6", packets, bytes, windowstart, '
    'windowend, action="REJECT", flowlogstatus]'
)
"""VPC user guide, "Create a CloudWatch metric filter and alarm for a flow log"."""


def test_the_guides_filter_finds_rejected_ssh_and_extracts_its_columns(logs: Any) -> None:
    (match,) = logs.test_metric_filter(filterPattern=REJECTED_SSH, logEventMessages=RECORDS)["matches"]
    assert (match["eventNumber"], match["eventMessage"]) == (2, RECORDS[1])
    assert match["extractedValues"]["$source"] == "172.31.9.69"
    assert match["extractedValues"]["$bytes"] == "4249"
    assert len(match["extractedValues"]) == 14


def test_what_is_not_understood_names_its_place(api: Any, logs: Any) -> None:
    logs = api.client("logs", parameter_validation=False)
    for pattern, place in (("[a, b", 6), ("{ $.a ~ 1 }", 7), ("%a(b)%", 3), ("a b.c", 4)):
        with pytest.raises(ClientError, match=rf"InvalidParameterException.*at character {place} "):
            logs.test_metric_filter(filterPattern=pattern, logEventMessages=["x"])
    with pytest.raises(ClientError, match="InvalidParameterException"):
        logs.test_metric_filter(filterPattern="a", logEventMessages=["x"] * 51)
    with pytest.raises(ClientError, match="InvalidParameterException"):
        logs.test_metric_filter(filterPattern="a", logEventMessages=[""])
    assert len(logs.test_metric_filter(filterPattern="", logEventMessages=["x", "y"])["matches"]) == 2

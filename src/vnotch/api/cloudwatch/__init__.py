"""The service `monitoring`: CloudWatch, as far as metric filters and alarms on flow logs need it.

Clients ask in the query protocol, in JSON 1.0 or in rpcv2Cbor, by their age; the app reads all three.
"""

from __future__ import annotations

from vnotch.api.cloudwatch.alarms import Alarms
from vnotch.api.cloudwatch.metrics import Metrics


class CloudWatch(Metrics, Alarms):
    """`state` must have its tables. Alarms are evaluated, and their webhooks called, by `watch.AlarmWatch`."""

    name = "monitoring"
    model = "cloudwatch"
    policy_prefix = "cloudwatch"

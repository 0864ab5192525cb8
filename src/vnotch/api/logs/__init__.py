"""The service `logs`: CloudWatch Logs for flow logs.

The operations are in one class a noun: log groups, log streams, tags, log events, live tail, metric
filters, resource policies.
"""

from __future__ import annotations

from vnotch.api.ec2.quotas import Quotas
from vnotch.api.logs.events import LogEvents
from vnotch.api.logs.groups import LogGroups, LogStreams
from vnotch.api.logs.live_tail import LiveTail
from vnotch.api.logs.metric_filters import MetricFilters
from vnotch.api.logs.resource_policies import ResourcePolicies
from vnotch.api.logs.tags import LogTags
from vnotch.store.lake import Lake
from vnotch.store.log_totals import LogTotals
from vnotch.store.state import State


class Logs(LogGroups, LogStreams, LogTags, LogEvents, LiveTail, MetricFilters, ResourcePolicies):
    """`lake` must be open and `state` have its tables; the totals of streams catch up with the lake here."""

    name = "logs"
    model = "logs"

    def __init__(self, state: State, lake: Lake, quotas: Quotas | None = None) -> None:
        super().__init__(state, lake, LogTotals(state, lake), quotas)

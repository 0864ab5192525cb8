"""The service `logs`: CloudWatch Logs for flow logs.

The operations are in one class a noun: log groups, log streams, tags, log events, live tail, metric filters, resource
policies, queries and their definitions, the fields of events.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from sqlalchemy import select

from vnotch.api.logs.events import LogEvents
from vnotch.api.logs.groups import LogGroups, LogStreams
from vnotch.api.logs.insights import InsightsQueries
from vnotch.api.logs.live_tail import LiveTail
from vnotch.api.logs.metric_filters import MetricFilters
from vnotch.api.logs.query_definitions import QueryDefinitions
from vnotch.api.logs.records import LogRecords
from vnotch.api.logs.resource_policies import ResourcePolicies
from vnotch.api.logs.tags import LogTags
from vnotch.api.quotas import Quotas
from vnotch.api.request_context import tag_context
from vnotch.api.service import Call, Further
from vnotch.insights.runs import Queries, Run
from vnotch.store.lake import Lake
from vnotch.store.log_groups import LogGroup, LogGroupTag
from vnotch.store.log_totals import LogTotals
from vnotch.store.log_usage import add_scanned, month_of
from vnotch.store.state import State


class Logs(
    LogGroups,
    LogStreams,
    LogTags,
    LogEvents,
    LiveTail,
    MetricFilters,
    ResourcePolicies,
    InsightsQueries,
    QueryDefinitions,
    LogRecords,
):
    """`lake` must be open and `state` have its tables; the totals of streams catch up with the lake here."""

    name = "logs"
    model = "logs"
    unsupported_code = "InvalidParameterException"

    def __init__(self, state: State, lake: Lake, quotas: Quotas | None = None) -> None:
        super().__init__(state, lake, LogTotals(state, lake), quotas)
        self.queries = Queries(lake.reading, unfinished_max=self.quotas.log_queries, answered=self._count_scanned)

    def _count_scanned(self, run: Run) -> None:
        with self.state.write(notify=False) as session:
            month = month_of(int(time.time() * 1000))
            add_scanned(session, month, run.question.groups, int(run.statistics.scanned_bytes))

    def further(self, call: Call, resources: Sequence[str]) -> list[Further]:
        """Tags of a new log group need one of two permissions (API reference, CreateLogGroup, tags)."""
        tags = call.operation == "CreateLogGroup" and call.params.get("tags")
        return [Further(("logs:TagResource", "logs:TagLogGroup"), tuple(resources))] if tags else []

    def resource_keys(self, call: Call, resource: str) -> dict[str, str | tuple[str, ...]]:
        """The tags of the log group that a resource is or is in."""
        name = resource.partition(":log-group:")[2].partition(":")[0]
        with self.state.read() as session:
            tags = select(LogGroupTag).join(LogGroup, LogGroup.id == LogGroupTag.group_id)
            rows = session.scalars(tags.where(LogGroup.name == name)).all()
        return tag_context([{"Key": row.key, "Value": row.value} for row in rows], "aws:resourcetag/")

    def close(self) -> None:
        self.queries.close()

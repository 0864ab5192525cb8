"""Metric filters of CloudWatch Logs: PutMetricFilter, DescribeMetricFilters, DeleteMetricFilter, TestMetricFilter (API
reference 2014-03-28)."""

from __future__ import annotations

import math
from typing import Any

from sqlalchemy import select

from vnotch.api.logs.part import (
    ON_ALL_GROUPS,
    ON_GROUP,
    PAGE_MAX,
    LogsPart,
    existing_group,
    filter_pattern,
    group_name,
    integer_between,
    invalid,
    limit_exceeded,
    page_token,
    token_position,
)
from vnotch.api.service import ANY_RESOURCE, ApiError, Call, operation
from vnotch.errors import InputError
from vnotch.store.filter_pattern import FilterPattern
from vnotch.store.log_groups import LogGroup, starts_with
from vnotch.store.metric_filters import MetricFilter, filters_of
from vnotch.store.metrics import OWN_NAMESPACES

DIMENSIONS_MAX = 3
REGEX_PATTERNS_MAX = 5
"""Filters of a log group whose patterns have regular expressions (user guide, filter pattern syntax)."""


class MetricFilters(LogsPart):
    @operation(
        "PutMetricFilter",
        ON_GROUP,
        unsupported="applyOnTransformedLogs fieldSelectionCriteria emitSystemFieldDimensions",
    )
    def put_metric_filter(self, call: Call) -> dict[str, Any]:
        name = call.params["filterName"]
        pattern = filter_pattern(call.params["filterPattern"])
        (made,) = call.params["metricTransformations"]
        _check_transformation(pattern, made)
        with self.state.write(notify=False) as session:
            group = existing_group(session, group_name(call))
            others = [row for row in filters_of(session, group.id) if row.name != name]
            if len(others) >= self.quotas.metric_filters_per_log_group:
                raise limit_exceeded()
            if pattern.has_regex and sum(FilterPattern.parse(row.pattern).has_regex for row in others) >= (
                REGEX_PATTERNS_MAX
            ):
                raise limit_exceeded()
            row = session.get(MetricFilter, (group.id, name))
            if row is None:
                row = MetricFilter(group_id=group.id, name=name, creation_ms=call.now_ms)
                session.add(row)
            row.pattern, row.transformation = pattern.text, made
            # Only events that come from now on count (user guide).
            row.position = self.lake.last_sequence
        return {}

    @operation("DescribeMetricFilters", ON_ALL_GROUPS)
    def describe_metric_filters(self, call: Call) -> dict[str, Any]:
        params = call.params
        asked = {
            name: params.get(name) for name in ("logGroupName", "filterNamePrefix", "metricName", "metricNamespace")
        }
        if (asked["metricName"] is None) != (asked["metricNamespace"] is None):
            raise invalid("metricName and metricNamespace must be specified together.")
        limit = integer_between(call, "limit", 1, PAGE_MAX, PAGE_MAX)
        after = token_position(call, asked)
        wanted = select(MetricFilter, LogGroup.name).join(LogGroup, LogGroup.id == MetricFilter.group_id)
        with self.state.read() as session:
            if asked["logGroupName"] is not None:
                wanted = wanted.where(LogGroup.id == existing_group(session, group_name(call)).id)
                if asked["filterNamePrefix"]:
                    # AWS looks at the prefix only where the log group is given.
                    wanted = wanted.where(*starts_with(MetricFilter.name, asked["filterNamePrefix"]))
            if after is not None:
                wanted = wanted.where(
                    (MetricFilter.name > after[0]) | ((MetricFilter.name == after[0]) & (LogGroup.name > after[1]))
                )
            rows = list(session.execute(wanted.order_by(MetricFilter.name, LogGroup.name)))
        if asked["metricName"] is not None:
            metric = (asked["metricNamespace"], asked["metricName"])
            rows = [
                row
                for row in rows
                if (row[0].transformation["metricNamespace"], row[0].transformation["metricName"]) == metric
            ]
        page = rows[:limit]
        answer: dict[str, Any] = {"metricFilters": [_describe(row, group) for row, group in page]}
        if len(rows) > limit:
            answer["nextToken"] = page_token(call, asked, [page[-1][0].name, page[-1][1]])
        return answer

    @operation("DeleteMetricFilter", ON_GROUP)
    def delete_metric_filter(self, call: Call) -> dict[str, Any]:
        with self.state.write(notify=False) as session:
            group = existing_group(session, group_name(call))
            row = session.get(MetricFilter, (group.id, call.params["filterName"]))
            if row is None:
                raise ApiError("ResourceNotFoundException", "The specified metric filter does not exist.")
            session.delete(row)
        return {}

    @operation("TestMetricFilter", ANY_RESOURCE)
    def test_metric_filter(self, call: Call) -> dict[str, Any]:
        pattern = filter_pattern(call.params["filterPattern"])
        matches = []
        for number, message in enumerate(call.params["logEventMessages"], 1):
            values = pattern.extract(message)
            if values is not None:
                matches.append({"eventNumber": number, "eventMessage": message, "extractedValues": values})
        return {"matches": matches}


def _check_transformation(pattern: FilterPattern, made: dict[str, Any]) -> None:
    value, dimensions = made["metricValue"], made.get("dimensions") or {}
    if not made["metricName"] or not made["metricNamespace"]:
        raise invalid("metricName and metricNamespace cannot be empty.")
    if made["metricNamespace"].startswith(OWN_NAMESPACES):
        raise invalid(f"metricNamespace cannot begin with {OWN_NAMESPACES}: those are of metrics that services give.")
    try:
        if value.startswith("$"):
            pattern.value(value)
        elif not math.isfinite(float(value)):
            raise ValueError
        for selector in dimensions.values():
            pattern.value(selector)
    except InputError as error:
        raise invalid(f"Invalid metric transformation: {error}.") from error
    except ValueError:
        raise invalid(f"Invalid metric transformation: {value!r} is neither a number nor $name.") from None
    if len(dimensions) > DIMENSIONS_MAX:
        raise invalid(f"A metric filter can have at most {DIMENSIONS_MAX} dimensions.")
    if dimensions and made.get("defaultValue") is not None:
        raise invalid("A metric filter cannot have dimensions and a default value.")


def _describe(row: MetricFilter, group: str) -> dict[str, Any]:
    return {
        "filterName": row.name,
        "filterPattern": row.pattern,
        "metricTransformations": [row.transformation],
        "creationTime": row.creation_ms,
        "logGroupName": group,
    }

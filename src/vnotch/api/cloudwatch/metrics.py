"""Metrics of CloudWatch: PutMetricData, GetMetricData, GetMetricStatistics, ListMetrics (API reference 2010-08-01).

Data has a resolution of one minute, is kept for 15 days, and is read as statistics; percentiles and metric math are
refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from vnotch.api.cloudwatch.part import (
    CloudWatchPart,
    dimension_list,
    dimensions_of,
    invalid_combination,
    invalid_value,
    page_token,
    token_position,
)
from vnotch.api.service import ANY_RESOURCE, Call, operation
from vnotch.store.metrics import (
    METRICS_MAX,
    MINUTE_MS,
    OWN_NAMESPACES,
    MetricName,
    Point,
    Sample,
    find_metrics,
    points,
    put_samples,
)

DATA_MAX = 1000
VALUES_MAX = 150
DIMENSIONS_MAX = 30
OLD_MS = 14 * 86_400_000
NEW_MS = 2 * 3_600_000
VALUE_MAX = 2.0**360
"""PutMetricData, Value: from -2^360 to 2^360, without NaN and infinities."""

QUERIES_MAX = 500
DATAPOINTS_MAX = 100_800
STATISTICS_POINTS_MAX = 1440
LISTED_MAX = 500
ACTIVE_MS = 3 * 3_600_000
_QUERY_ID = re.compile("[a-z][a-zA-Z0-9_]*")
STATISTICS = ("SampleCount", "Average", "Sum", "Minimum", "Maximum")


class Metrics(CloudWatchPart):
    @operation(
        "PutMetricData",
        ANY_RESOURCE,
        unsupported="EntityMetricData StrictEntityValidation",
        only={"MetricData.StorageResolution": (60,)},
    )
    def put_metric_data(self, call: Call) -> dict[str, Any]:
        namespace, data = call.params["Namespace"], call.params.get("MetricData") or []
        if namespace.startswith(OWN_NAMESPACES):
            raise invalid_value("The value AWS/ for parameter Namespace is invalid.")
        if not data:
            raise invalid_value("The parameter MetricData must have at least one datum.")
        if len(data) > DATA_MAX:
            raise invalid_value(f"The collection MetricData must not have a size greater than {DATA_MAX}.")
        samples = [_sample(call, namespace, datum, f"MetricData.member.{n}") for n, datum in enumerate(data, 1)]
        with self.state.write(notify=False) as session:
            if turned_away := put_samples(session, samples):
                raise invalid_value(f"{turned_away} data would be of new metrics, of which there are {METRICS_MAX}.")
        return {}

    @operation("ListMetrics", ANY_RESOURCE, unsupported="IncludeLinkedAccounts OwningAccount")
    def list_metrics(self, call: Call) -> dict[str, Any]:
        params = call.params
        since_ms = call.now_ms - ACTIVE_MS if params.get("RecentlyActive") else None
        begin = max(0, token_position(call, int) or 0)
        with self.state.read() as session:
            found = find_metrics(session, params.get("Namespace"), params.get("MetricName"), since_ms)
        wanted = params.get("Dimensions") or ()
        names = [name for name, _ in found if all(_has(name, item) for item in wanted)]
        answer: dict[str, Any] = {
            "Metrics": [
                {
                    "Namespace": name.namespace,
                    "MetricName": name.name,
                    "Dimensions": dimension_list(name.dimensions),
                }
                for name in names[begin : begin + LISTED_MAX]
            ]
        }
        if len(names) > begin + LISTED_MAX:
            answer["NextToken"] = page_token(call, begin + LISTED_MAX)
        return answer

    @operation(
        "GetMetricStatistics", ANY_RESOURCE, unsupported="ExtendedStatistics", note="`Period` is a multiple of 60"
    )
    def get_metric_statistics(self, call: Call) -> dict[str, Any]:
        params = call.params
        statistics = params.get("Statistics") or []
        if not statistics:
            raise invalid_combination("At least one of Statistics and ExtendedStatistics must be specified.")
        start_ms, end_ms, period_ms = _range(call, params["Period"])
        if (end_ms - start_ms) / period_ms > STATISTICS_POINTS_MAX:
            raise invalid_combination(
                f"You have requested up to {math.ceil((end_ms - start_ms) / period_ms)} datapoints, which exceeds the "
                f"limit of {STATISTICS_POINTS_MAX}. You may reduce the datapoints requested by increasing Period, or "
                "decreasing the time range."
            )
        name = MetricName.of(params["Namespace"], params["MetricName"], dimensions_of(params.get("Dimensions")))
        with self.state.read() as session:
            found = points(session, name, start_ms, end_ms, period_ms, params.get("Unit"))
        return {
            "Label": params["MetricName"],
            "Datapoints": [
                {
                    "Timestamp": _moment(point.time_ms),
                    "Unit": point.unit,
                    **{statistic: point.statistic(statistic) for statistic in statistics},
                }
                for point in found
            ],
        }

    @operation(
        "GetMetricData",
        ANY_RESOURCE,
        unsupported="LabelOptions MetricDataQueries.Expression",
        only={"MetricDataQueries.MetricStat.Stat": STATISTICS},
        note="`Period` is a multiple of 60",
    )
    def get_metric_data(self, call: Call) -> dict[str, Any]:
        queries = call.params["MetricDataQueries"]
        if not 1 <= len(queries) <= QUERIES_MAX:
            raise invalid_value(f"The parameter MetricDataQueries must have 1 to {QUERIES_MAX} queries.")
        if len({query["Id"] for query in queries}) != len(queries):
            raise invalid_value("The values for parameter id in MetricDataQueries are not unique.")
        for number, query in enumerate(queries, 1):
            if not _QUERY_ID.fullmatch(query["Id"]):
                raise invalid_value(
                    f"The value {query['Id']} for parameter MetricDataQueries.member.{number}.Id is not matching the "
                    f"expected pattern ^{_QUERY_ID.pattern}$."
                )
        most = call.params.get("MaxDatapoints") or DATAPOINTS_MAX
        if not 1 <= most <= DATAPOINTS_MAX:
            raise invalid_value(f"MaxDatapoints must be from 1 to {DATAPOINTS_MAX}.")
        newest_first = (call.params.get("ScanBy") or "TimestampDescending") == "TimestampDescending"
        begin = max(0, token_position(call, int) or 0)
        shown = [query for query in queries if query.get("ReturnData", True)]
        # Points of all queries one after another, of which this page has `most` from `begin` on.
        results, passed, more = [], 0, False
        with self.state.read() as session:
            for query in shown:
                values = _query_points(call, session, query)
                values.sort(key=lambda pair: pair[0], reverse=newest_first)
                part = values[max(0, begin - passed) : max(0, begin + most - passed)]
                cut = passed + len(values) > begin + most
                more = more or cut
                passed += len(values)
                results.append(
                    {
                        "Id": query["Id"],
                        "Label": query.get("Label") or query["MetricStat"]["Metric"]["MetricName"],
                        "Timestamps": [_moment(time_ms) for time_ms, _ in part],
                        "Values": [value for _, value in part],
                        "StatusCode": "PartialData" if cut else "Complete",
                    }
                )
        answer: dict[str, Any] = {"MetricDataResults": results, "Messages": []}
        if more:
            answer["NextToken"] = page_token(call, begin + most)
        return answer


def _query_points(call: Call, session: Any, query: dict[str, Any]) -> list[tuple[int, float]]:
    stat = query.get("MetricStat")
    if stat is None:
        raise invalid_value(f"MetricDataQueries, {query['Id']}: MetricStat must be specified.")
    if query.get("AccountId") not in (None, call.account):
        raise invalid_value(f"MetricDataQueries, {query['Id']}: AccountId of another account is not supported.")
    metric = stat["Metric"]
    if not metric.get("Namespace") or not metric.get("MetricName"):
        raise invalid_value(f"MetricDataQueries, {query['Id']}: Namespace and MetricName must be specified.")
    start_ms, end_ms, period_ms = _range(call, stat["Period"])
    name = MetricName.of(metric["Namespace"], metric["MetricName"], dimensions_of(metric.get("Dimensions")))
    found = points(session, name, start_ms, end_ms, period_ms, stat.get("Unit"))
    return [(point.time_ms, point.statistic(stat["Stat"])) for point in _one_a_period(found)]


def _one_a_period(found: list[Point]) -> Iterator[Point]:
    """Of data in several units, the first unit's: GetMetricData without a unit gives one point a period."""
    seen: set[int] = set()
    for point in found:
        if point.time_ms not in seen:
            seen.add(point.time_ms)
            yield point


def _range(call: Call, period: int) -> tuple[int, int, int]:
    """Start and end in whole periods since the epoch, and the period, all in ms."""
    start_ms, end_ms = (int(call.params[name].timestamp() * 1000) for name in ("StartTime", "EndTime"))
    if period % 60:
        raise invalid_value("The parameter Period must be a multiple of 60: data has a resolution of one minute.")
    if start_ms >= end_ms:
        raise invalid_value("The parameter StartTime must be less than the parameter EndTime.")
    period_ms = period * 1000
    return start_ms - start_ms % period_ms, end_ms, period_ms


def _moment(time_ms: int) -> datetime:
    return datetime.fromtimestamp(time_ms / 1000, UTC)


def _has(name: MetricName, wanted: dict[str, str]) -> bool:
    value = dict(name.dimensions).get(wanted["Name"])
    return value is not None and wanted.get("Value") in (None, value)


def _sample(call: Call, namespace: str, datum: dict[str, Any], where: str) -> Sample:
    kinds = [name for name in ("Value", "StatisticValues", "Values") if datum.get(name) is not None]
    if len(kinds) != 1:
        raise invalid_combination(f"{where}: exactly one of Value, StatisticValues and Values must be specified.")
    time_ms = int(datum["Timestamp"].timestamp() * 1000) if datum.get("Timestamp") else call.now_ms
    if not call.now_ms - OLD_MS <= time_ms <= call.now_ms + NEW_MS:
        raise invalid_value(
            f"The parameter {where}.Timestamp must specify a time within the past two weeks or the next two hours."
        )
    samples, total, least, greatest = _statistics(datum, kinds[0], where)
    name = MetricName.of(namespace, datum["MetricName"], dimensions_of(datum.get("Dimensions")))
    return Sample(name, time_ms - time_ms % MINUTE_MS, samples, total, least, greatest, datum.get("Unit") or "None")


def _statistics(datum: dict[str, Any], kind: str, where: str) -> tuple[float, float, float, float]:
    if kind == "StatisticValues":
        given = datum[kind]
        values = [float(given[name]) for name in ("SampleCount", "Sum", "Minimum", "Maximum")]
        _check_values(values, where)
        if values[0] <= 0 or values[2] > values[3]:
            raise invalid_value(f"The parameter {where}.StatisticValues is not a set of statistics.")
        return values[0], values[1], values[2], values[3]
    numbers = [float(number) for number in (datum["Values"] if kind == "Values" else [datum["Value"]])]
    counts = [float(number) for number in datum.get("Counts") or [1.0] * len(numbers)]
    if not numbers or len(numbers) > VALUES_MAX or len(counts) != len(numbers):
        raise invalid_value(f"{where}: Values has 1 to {VALUES_MAX} numbers, and Counts as many.")
    _check_values([*numbers, *counts], where)
    if min(counts) <= 0:
        raise invalid_value(f"The parameter {where}.Counts must have positive numbers.")
    total = sum(number * count for number, count in zip(numbers, counts, strict=True))
    return sum(counts), total, min(numbers), max(numbers)


def _check_values(values: list[float], where: str) -> None:
    if not all(math.isfinite(value) and abs(value) <= VALUE_MAX for value in values):
        raise invalid_value(f"The value of parameter {where}.Value is out of range: -2^360 to 2^360, no NaN.")

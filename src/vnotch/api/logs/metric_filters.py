"""Metric filters of CloudWatch Logs (API reference 2014-03-28)."""

from __future__ import annotations

from typing import Any

from vnotch.api.logs.part import LogsPart, filter_pattern
from vnotch.api.service import ANY_RESOURCE, Call, operation


class MetricFilters(LogsPart):
    @operation("TestMetricFilter", ANY_RESOURCE)
    def test_metric_filter(self, call: Call) -> dict[str, Any]:
        pattern = filter_pattern(call.params["filterPattern"])
        matches = []
        for number, message in enumerate(call.params["logEventMessages"], 1):
            values = pattern.extract(message)
            if values is not None:
                matches.append({"eventNumber": number, "eventMessage": message, "extractedValues": values})
        return {"matches": matches}

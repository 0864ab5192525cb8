"""What log groups take in, as the metrics that CloudWatch Logs gives of itself (user guide, "Monitoring with CloudWatch
metrics"): `AWS/Logs`, IncomingBytes and IncomingLogEvents, of each group by LogGroupName and of all together.

They follow the lake by the sequence number of events, as metric filters do: what came in and up to where it is counted
is written in one transaction, so that no event counts twice, also across a crash. A sample is what one call brought to
a stream, in the minute in which it came.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

import pyarrow as pa
from sqlalchemy import BigInteger, Integer
from sqlalchemy.orm import Mapped, mapped_column

from vnotch.store.lake import Lake
from vnotch.store.log_groups import group_names
from vnotch.store.metrics import MINUTE_MS, MetricName, Sample, put_samples
from vnotch.store.state import Base, State
from vnotch.store.upkeep import EVENT_BYTES

NAMESPACE = "AWS/Logs"
METRICS = (("IncomingBytes", "Bytes", "bytes"), ("IncomingLogEvents", "None", "events"))
STEP_SECONDS = 10.0

_CAME_IN = f"""
    SELECT group_id, minute_ms, count(*) AS samples,
        CAST(sum(events) AS BIGINT) AS events, min(events) AS least_events, max(events) AS most_events,
        CAST(sum(bytes) AS BIGINT) AS bytes, min(bytes) AS least_bytes, max(bytes) AS most_bytes
    FROM (
        SELECT group_id, ingestion_ms - ingestion_ms % {MINUTE_MS} AS minute_ms, count(*) AS events,
            CAST(sum({EVENT_BYTES}) AS BIGINT) AS bytes
        FROM events WHERE sequence > ? AND sequence <= ? GROUP BY group_id, stream_id, ingestion_ms
    ) GROUP BY group_id, minute_ms"""


class LogMetricProgress(Base):
    """One row: what came in is counted up to `sequence`."""

    __tablename__ = "log_metric_progress"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    sequence: Mapped[int] = mapped_column(BigInteger)


class LogMetrics:
    """`step` is called by one thread, now and then. In a state of before, counting begins with what comes from now on.

    `samples_dropped` are those beyond the bound of metrics.
    """

    def __init__(self, state: State, lake: Lake) -> None:
        self.state = state
        self.lake = lake
        self.counters = {"samples": 0, "samples_dropped": 0}
        self._due = 0.0
        with state.read() as session:
            row = session.get(LogMetricProgress, 1)
        self._counted = row.sequence if row is not None else lake.last_sequence
        self._is_noted = row is not None

    def step(self, *, now: bool = False) -> None:
        """Counts what came since the last step; not before the next is due, but `now`."""
        upto = self.lake.last_sequence
        if (upto == self._counted and self._is_noted) or (not now and time.monotonic() < self._due):
            return
        self._due = time.monotonic() + STEP_SECONDS
        found = self.lake.arrow(_CAME_IN, [self._counted, upto])
        with self.state.write(notify=False) as session:
            names = group_names(session, set(found["group_id"].to_pylist()))
            samples = list(_samples(found, names))
            dropped = put_samples(session, samples)
            session.merge(LogMetricProgress(id=1, sequence=upto))
        self._counted, self._is_noted = upto, True
        self.counters["samples"] += len(samples) - dropped
        self.counters["samples_dropped"] += dropped


def _samples(found: pa.Table, names: Mapping[int, str]) -> Iterator[Sample]:
    for row in found.to_pylist():
        # A group that is deleted has no name any more; what came into it is in the sum of all.
        name = names.get(row["group_id"])
        for metric, unit, column in METRICS:
            values = row["samples"], row[column], row[f"least_{column}"], row[f"most_{column}"]
            for dimensions in ({}, {"LogGroupName": name}) if name is not None else ({},):
                yield Sample(MetricName.of(NAMESPACE, metric, dimensions), row["minute_ms"], *values, unit)

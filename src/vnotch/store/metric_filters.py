"""Metric filters of log groups, and what they make of new events.

A filter follows its group by the sequence number of events: what it has counted and how far it has come are written in
one transaction, so that no event counts twice or is passed over, also across a crash. Counting is done in SQL, a few
rows a minute and dimension come out, however many events came in.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from sqlalchemy import JSON, BigInteger, ForeignKey, String, Text, func, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from vnotch.store.filter_pattern import FilterPattern
from vnotch.store.lake import EVER_MS, Lake, Relation
from vnotch.store.log_totals import LogTotals, graves_of
from vnotch.store.metrics import MINUTE_MS, MetricName, Sample, put_samples
from vnotch.store.state import Base, State

log = logging.getLogger(__name__)

ROWS_MAX = 10_000
"""Minutes times dimension values that one look at new events may give."""


class MetricFilter(Base):
    __tablename__ = "metric_filter"
    group_id: Mapped[int] = mapped_column(ForeignKey("log_group.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(512), primary_key=True)
    pattern: Mapped[str] = mapped_column(Text)
    transformation: Mapped[dict[str, Any]] = mapped_column(JSON)  # model: MetricTransformation
    creation_ms: Mapped[int] = mapped_column(BigInteger)
    position: Mapped[int] = mapped_column(BigInteger)  # the sequence number up to which events are counted


@dataclass(frozen=True)
class Counted:
    samples: list[Sample]
    dropped: int


class MetricFilters:
    """Counts what is new. `step` is called by one thread, now and then."""

    def __init__(self, state: State, lake: Lake, totals: LogTotals) -> None:
        self.state = state
        self.lake = lake
        self.totals = totals
        self.counters = {"samples": 0, "samples_dropped": 0, "failures": 0}
        self._all_looked_at = False

    def step(self) -> None:
        """Counts the events since the last step, of the groups that have any."""
        with self.state.read() as session:
            filters = list(session.scalars(select(MetricFilter)))
        for row in filters:
            newest = self.totals.committed.get(row.group_id, 0)
            if newest > row.position or not self._all_looked_at:
                try:
                    self._count(row, max(newest, self.lake.last_sequence))
                except Exception as error:
                    # The others go on; this one is tried again from where it stands.
                    self.counters["failures"] += 1
                    log.error("metric filter %s: %s", row.name, error)
        self._all_looked_at = True

    def _count(self, row: MetricFilter, upto: int) -> None:
        if upto <= row.position:
            return
        counted = self._counted(row, upto)
        with self.state.write(notify=False) as session:
            current = session.get(MetricFilter, (row.group_id, row.name))
            if current is None or current.position != row.position or current.pattern != row.pattern:
                return  # changed or deleted meanwhile
            dropped = counted.dropped + put_samples(session, counted.samples)
            current.position = upto
        self.counters["samples"] += len(counted.samples)
        self.counters["samples_dropped"] += dropped

    def _counted(self, row: MetricFilter, upto: int) -> Counted:
        made = row.transformation
        pattern = FilterPattern.parse(row.pattern)
        with self.state.read() as session:
            buried = graves_of(session, row.group_id)

        def relation() -> Relation:
            everything = self.lake.relation([row.group_id], start_ms=0, end_ms=EVER_MS, without_streams=buried)
            return everything.stored(row.position, upto)

        found = self.lake.arrow(*_counting(pattern, made, relation()))
        samples = [_sample(made, found, number) for number in range(min(found.num_rows, ROWS_MAX))]
        if made.get("defaultValue") is not None:
            there = {sample.time_ms for sample in samples}
            minutes = self.lake.arrow(*_minutes(relation()))["minute_ms"].to_pylist()
            value = float(made["defaultValue"])
            name = MetricName.of(made["metricNamespace"], made["metricName"], {})
            unit = made.get("unit") or "None"
            samples += [
                Sample(name, minute, 1, value, value, value, unit, is_default=True)
                for minute in minutes
                if minute not in there
            ]
        return Counted(samples, max(0, found.num_rows - ROWS_MAX))


def _counting(pattern: FilterPattern, made: Mapping[str, Any], relation: Relation) -> tuple[str, list[Any]]:
    """The statement that counts: one row a minute and combination of dimensions."""
    columns = [f"timestamp_ms - timestamp_ms % {MINUTE_MS} AS minute_ms"]
    parameters: list[Any] = []
    value = made["metricValue"]
    if value.startswith("$"):
        extracted = pattern.value(value, relation.formats)
        columns.append(f"TRY_CAST({extracted.sql} AS DOUBLE) AS value")
        parameters += extracted.parameters
    else:
        columns.append(f"CAST({float(value)!r} AS DOUBLE) AS value")
    kept = ["value IS NOT NULL", "isfinite(value)"]
    names = []
    for number, selector in enumerate((made.get("dimensions") or {}).values()):
        extracted = pattern.value(selector, relation.formats)
        columns.append(f"{extracted.sql} AS d{number}")
        parameters += extracted.parameters
        names.append(f"d{number}")
        kept.append(f"d{number} IS NOT NULL")
    where = "true"
    parameters += relation.parameters
    predicate = pattern.predicate(relation.formats)
    if predicate is not None:
        where = predicate.sql
        parameters += predicate.parameters
    grouped = ", ".join(["minute_ms", *names])
    sql = (
        f"SELECT {grouped}, count(*) AS samples, sum(value) AS total, min(value) AS least, max(value) AS greatest "
        f"FROM (SELECT {', '.join(columns)} FROM {relation.table} WHERE {relation.where} AND ({where})) "
        f"WHERE {' AND '.join(kept)} GROUP BY {grouped} ORDER BY {grouped} LIMIT {ROWS_MAX + 1}"
    )
    return sql, parameters


def _minutes(relation: Relation) -> tuple[str, list[Any]]:
    minute = f"timestamp_ms - timestamp_ms % {MINUTE_MS}"
    found = f"SELECT DISTINCT {minute} AS minute_ms FROM {relation.table} WHERE {relation.where}"
    return f"{found} ORDER BY minute_ms LIMIT {ROWS_MAX}", list(relation.parameters)


def _sample(made: Mapping[str, Any], found: pa.Table, number: int) -> Sample:
    row = {name: found[name][number].as_py() for name in found.column_names}
    dimensions = {name: row[f"d{at}"] for at, name in enumerate(made.get("dimensions") or {})}
    name = MetricName.of(made["metricNamespace"], made["metricName"], dimensions)
    unit = made.get("unit") or "None"
    return Sample(name, row["minute_ms"], row["samples"], row["total"], row["least"], row["greatest"], unit)


def filters_of(session: Session, group_id: int) -> list[MetricFilter]:
    return list(session.scalars(select(MetricFilter).where(MetricFilter.group_id == group_id)))


def filter_counts(session: Session, group_ids: Sequence[int]) -> dict[int, int]:
    """Group -> how many metric filters it has, of those that have any."""
    wanted = select(MetricFilter.group_id, func.count()).where(MetricFilter.group_id.in_(group_ids))
    return {row[0]: row[1] for row in session.execute(wanted.group_by(MetricFilter.group_id))}

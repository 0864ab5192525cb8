"""Metrics: what CloudWatch keeps of numbers that are put or counted, one row a metric, unit and minute.

A row is a statistic set (count, sum, least, greatest), so that any number of samples takes the same room. Rows of a
metric filter's default value give way to the first sample of their minute.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import BigInteger, Float, Index, Integer, String, Text, case, delete, false, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Mapped, Session, mapped_column

from vnotch.store.state import Base

MINUTE_MS = 60_000
METRICS_MAX = 10_000
"""Of an account; a dimension with many values would make as many metrics."""

OWN_NAMESPACES = "AWS/"
OWN_METRICS_MAX = 50_000
"""Of those that services give of themselves, which do not take an account's room."""

POINTS_MAX = 2_000_000
"""Minutes of all metrics that are kept, about 0.3 GB; beyond, the oldest go first."""

METRICS_AT_ONCE = 10_000
"""SQLite takes 32,766 parameters in a statement."""

KEPT_MS = 15 * 86_400_000
"""How long AWS keeps data of one minute; here all data has that resolution."""


class Metric(Base):
    __tablename__ = "metric"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    namespace: Mapped[str] = mapped_column(String(255), index=True)
    name: Mapped[str] = mapped_column(String(255))
    dimensions: Mapped[str] = mapped_column(Text)  # JSON object, keys sorted
    last_ms: Mapped[int] = mapped_column(BigInteger)


class MetricPoint(Base):
    __tablename__ = "metric_point"
    metric_id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    minute_ms: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    unit: Mapped[str] = mapped_column(String(32), primary_key=True)
    samples: Mapped[float] = mapped_column(Float)
    total: Mapped[float] = mapped_column(Float)
    least: Mapped[float] = mapped_column(Float)
    greatest: Mapped[float] = mapped_column(Float)
    is_default: Mapped[bool] = mapped_column(default=False)
    __table_args__ = (Index("metric_point_minute", "minute_ms"),)


@dataclass(frozen=True)
class MetricName:
    namespace: str
    name: str
    dimensions: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, namespace: str, name: str, dimensions: Mapping[str, str]) -> MetricName:
        return cls(namespace, name, tuple(sorted(dimensions.items())))

    @property
    def digest(self) -> str:
        text = json.dumps([self.namespace, self.name, self.dimensions])
        return hashlib.blake2b(text.encode(), digest_size=24).hexdigest()


@dataclass(frozen=True)
class Sample:
    """A statistic set of one metric and minute."""

    metric: MetricName
    time_ms: int
    samples: float
    total: float
    least: float
    greatest: float
    unit: str = "None"
    is_default: bool = False


@dataclass(frozen=True)
class Point:
    """What a metric has in one period, which begins at `time_ms`."""

    time_ms: int
    samples: float
    total: float
    least: float
    greatest: float
    unit: str

    def statistic(self, name: str) -> float:
        """SampleCount, Sum, Average, Minimum or Maximum."""
        return {
            "SampleCount": self.samples,
            "Sum": self.total,
            "Average": self.total / self.samples if self.samples else 0.0,
            "Minimum": self.least,
            "Maximum": self.greatest,
        }[name]


def put_samples(session: Session, samples: Iterable[Sample]) -> int:
    """Adds samples, few statements for many of them; returns how many were turned away because there would be too many
    metrics."""
    merged: dict[tuple[MetricName, int, str], Sample] = {}
    given: Counter[MetricName] = Counter()
    for sample in samples:
        given[sample.metric] += 1
        key = sample.metric, sample.time_ms - sample.time_ms % MINUTE_MS, sample.unit
        merged[key] = _together(merged[key], sample) if key in merged else sample
    ids = _metric_ids(session, merged.values())
    rows = [
        {
            "metric_id": ids[metric],
            "minute_ms": minute_ms,
            "unit": unit,
            "samples": sample.samples,
            "total": sample.total,
            "least": sample.least,
            "greatest": sample.greatest,
            "is_default": sample.is_default,
        }
        for (metric, minute_ms, unit), sample in merged.items()
        if metric in ids
    ]
    _add(session, rows)
    return sum(count for metric, count in given.items() if metric not in ids)


def _together(one: Sample, other: Sample) -> Sample:
    """Of one metric, minute and unit. A default gives way."""
    if one.is_default or other.is_default:
        return other if one.is_default else one
    return replace(
        one,
        samples=one.samples + other.samples,
        total=one.total + other.total,
        least=min(one.least, other.least),
        greatest=max(one.greatest, other.greatest),
    )


def _metric_ids(session: Session, samples: Iterable[Sample]) -> dict[MetricName, int]:
    """The rows of metrics, made where they are new and there is room; the times of their newest samples are noted."""
    newest: dict[MetricName, int] = {}
    for sample in samples:
        newest[sample.metric] = max(newest.get(sample.metric, 0), sample.time_ms)
    digests = {metric.digest: metric for metric in newest}
    ids: dict[MetricName, int] = {}
    later = []
    listed = list(digests)
    for start in range(0, len(listed), METRICS_AT_ONCE):
        part = listed[start : start + METRICS_AT_ONCE]
        columns = select(Metric.id, Metric.digest, Metric.last_ms).where(Metric.digest.in_(part))
        for row in session.execute(columns):
            metric = digests[row.digest]
            ids[metric] = row.id
            if newest[metric] > row.last_ms:
                later.append({"id": row.id, "last_ms": newest[metric]})
    if later:
        session.execute(update(Metric), later)
    for own in (False, True):
        new = [metric for metric in newest if metric not in ids and metric.namespace.startswith(OWN_NAMESPACES) == own]
        room = max(0, (OWN_METRICS_MAX if own else METRICS_MAX) - _count(session, own)) if new else 0
        made = [(metric, _row(metric, newest[metric])) for metric in new[:room]]
        session.add_all(row for _, row in made)
        session.flush()
        ids |= {metric: row.id for metric, row in made}
    return ids


def _row(metric: MetricName, last_ms: int) -> Metric:
    dimensions = json.dumps(dict(metric.dimensions))
    return Metric(
        digest=metric.digest, namespace=metric.namespace, name=metric.name, dimensions=dimensions, last_ms=last_ms
    )


def _count(session: Session, own: bool) -> int:
    is_own = Metric.namespace.startswith(OWN_NAMESPACES, autoescape=True)
    counted = select(func.count()).select_from(Metric).where(is_own if own else ~is_own)
    return session.scalar(counted) or 0


def _add(session: Session, rows: Sequence[Mapping[str, object]]) -> None:
    """One row is one metric, minute and unit: added to what is there, of which a default gives way."""
    insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    there, keys = MetricPoint.__table__.c, ["metric_id", "minute_ms", "unit"]
    defaults = [row for row in rows if row["is_default"]]
    if defaults:
        session.execute(insert(MetricPoint).on_conflict_do_nothing(index_elements=keys), defaults)
    values = [row for row in rows if not row["is_default"]]
    if not values:
        return
    statement: Any = insert(MetricPoint)
    new = statement.excluded
    added = {
        "samples": there.samples + new.samples,
        "total": there.total + new.total,
        "least": case((there.least < new.least, there.least), else_=new.least),
        "greatest": case((there.greatest > new.greatest, there.greatest), else_=new.greatest),
    }
    changed = {name: case((there.is_default, new[name]), else_=value) for name, value in added.items()}
    statement = statement.on_conflict_do_update(index_elements=keys, set_={**changed, "is_default": false()})
    session.execute(statement, values)


def find_metrics(
    session: Session, namespace: str | None = None, name: str | None = None, since_ms: int | None = None
) -> list[tuple[MetricName, int]]:
    """The metrics of a namespace and name, in order, with the time of their newest sample."""
    wanted = select(Metric).order_by(Metric.namespace, Metric.name, Metric.dimensions)
    for column, value in ((Metric.namespace, namespace), (Metric.name, name)):
        if value is not None:
            wanted = wanted.where(column == value)
    if since_ms is not None:
        wanted = wanted.where(Metric.last_ms >= since_ms)
    return [(_name(metric), metric.last_ms) for metric in session.scalars(wanted)]


def _name(metric: Metric) -> MetricName:
    return MetricName.of(metric.namespace, metric.name, json.loads(metric.dimensions))


def points(
    session: Session, metric: MetricName, start_ms: int, end_ms: int, period_ms: int, unit: str | None = None
) -> list[Point]:
    """Start to end, end not included, in periods from `start_ms` on; a period without samples has no point. Without a
    unit there is one point a unit."""
    wanted = (
        select(MetricPoint)
        .join(Metric, Metric.id == MetricPoint.metric_id)
        .where(Metric.digest == metric.digest, MetricPoint.minute_ms >= start_ms, MetricPoint.minute_ms < end_ms)
        .order_by(MetricPoint.minute_ms, MetricPoint.unit)
    )
    if unit is not None:
        wanted = wanted.where(MetricPoint.unit == unit)
    found: dict[tuple[int, str], Point] = {}
    for row in session.scalars(wanted):
        begin_ms = start_ms + (row.minute_ms - start_ms) // period_ms * period_ms
        before = found.get((begin_ms, row.unit))
        found[begin_ms, row.unit] = Point(
            begin_ms,
            row.samples + (before.samples if before else 0),
            row.total + (before.total if before else 0),
            min(row.least, before.least) if before else row.least,
            max(row.greatest, before.greatest) if before else row.greatest,
            row.unit,
        )
    return list(found.values())


def forget_old(session: Session, now_ms: int) -> None:
    """Drops what is past its time, and metrics that have nothing left."""
    session.execute(delete(MetricPoint).where(MetricPoint.minute_ms < now_ms - KEPT_MS))
    beyond = (session.scalar(select(func.count()).select_from(MetricPoint)) or 0) - POINTS_MAX
    if beyond > 0:
        oldest = select(MetricPoint.minute_ms).order_by(MetricPoint.minute_ms).offset(beyond - 1).limit(1)
        session.execute(delete(MetricPoint).where(MetricPoint.minute_ms <= oldest.scalar_subquery()))
    session.execute(delete(Metric).where(Metric.last_ms < now_ms - KEPT_MS))


def merged(parts: Sequence[Point], time_ms: int) -> Point | None:
    """One point of several; None of none."""
    if not parts:
        return None
    return Point(
        time_ms,
        sum(part.samples for part in parts),
        sum(part.total for part in parts),
        min(part.least for part in parts),
        max(part.greatest for part in parts),
        parts[0].unit,
    )

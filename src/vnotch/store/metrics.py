"""Metrics: what CloudWatch keeps of numbers that are put or counted, one row a metric, unit and minute.

A row is a statistic set (count, sum, least, greatest), so that any number of samples takes the same room. Rows of a
metric filter's default value give way to the first sample of their minute.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import BigInteger, Float, Index, Integer, String, Text, delete, func, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from vnotch.errors import LimitError
from vnotch.store.state import Base

MINUTE_MS = 60_000
METRICS_MAX = 10_000
"""Of an account; a dimension with many values would make as many metrics."""

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
    """Adds samples; returns how many were turned away because there would be too many metrics."""
    turned_away = 0
    ids: dict[MetricName, int] = {}
    for sample in samples:
        if sample.metric not in ids:
            try:
                ids[sample.metric] = _metric_id(session, sample)
            except LimitError:
                turned_away += 1
                continue
        _add(session, ids[sample.metric], sample)
    return turned_away


def _metric_id(session: Session, sample: Sample) -> int:
    found = session.scalar(select(Metric).where(Metric.digest == sample.metric.digest))
    if found is None:
        if (session.scalar(select(func.count()).select_from(Metric)) or 0) >= METRICS_MAX:
            raise LimitError(f"there are {METRICS_MAX} metrics already")
        name = sample.metric
        found = Metric(digest=name.digest, namespace=name.namespace, name=name.name, last_ms=sample.time_ms)
        found.dimensions = json.dumps(dict(name.dimensions))
        session.add(found)
        session.flush()
    found.last_ms = max(found.last_ms, sample.time_ms)
    return found.id


def _add(session: Session, metric_id: int, sample: Sample) -> None:
    minute_ms = sample.time_ms - sample.time_ms % MINUTE_MS
    row = session.get(MetricPoint, (metric_id, minute_ms, sample.unit))
    values = {
        "samples": sample.samples,
        "total": sample.total,
        "least": sample.least,
        "greatest": sample.greatest,
        "is_default": sample.is_default,
    }
    if row is None:
        session.add(MetricPoint(metric_id=metric_id, minute_ms=minute_ms, unit=sample.unit, **values))
    elif sample.is_default:
        return
    elif row.is_default:
        for name, value in values.items():
            setattr(row, name, value)
    else:
        row.samples += sample.samples
        row.total += sample.total
        row.least = min(row.least, sample.least)
        row.greatest = max(row.greatest, sample.greatest)


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

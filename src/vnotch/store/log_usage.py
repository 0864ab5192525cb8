"""What each log group took in, answered and kept in a month (UTC): the quantities that AWS bills.

A row outlives its group, as a bill does. What was taken in is counted with the lake's commits: `LogUsageProgress` says
up to which sequence number, in the same transaction, so that each event counts once also across a crash.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from sqlalchemy import BigInteger, Integer, String, bindparam, insert, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from vnotch.store.committer import StreamDelta
from vnotch.store.log_groups import LogGroup
from vnotch.store.network import FlowLog
from vnotch.store.state import Base

NO_GROUP = 0
"""The group id of requests that name no group that there is."""


class LogUsage(Base):
    """`vended_bytes` came into a group while a flow log delivered to it, `custom_bytes` into one without; both with 26
    bytes an event. `stored_bytes` is the last that was seen in the month."""

    __tablename__ = "log_usage"
    month: Mapped[str] = mapped_column(String(7), primary_key=True)  # 2026-01
    group_id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(String(512))
    log_class: Mapped[str] = mapped_column(String(32))
    events: Mapped[int] = mapped_column(BigInteger, default=0)
    custom_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    vended_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    scanned_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    stored_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    requests: Mapped[int] = mapped_column(BigInteger, default=0)


COUNTS = ("events", "custom_bytes", "vended_bytes", "scanned_bytes", "requests")
"""Columns that add up."""


class LogUsageProgress(Base):
    """One row: what was taken in is counted up to `sequence`."""

    __tablename__ = "log_usage_progress"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    sequence: Mapped[int] = mapped_column(BigInteger)


def month_of(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m")


def usage_progress(session: Session) -> int | None:
    """None in a state of before usage was counted: counting begins there."""
    row = session.get(LogUsageProgress, 1)
    return None if row is None else row.sequence


def add_ingested(session: Session, deltas: Sequence[StreamDelta], sequence: int) -> None:
    """Counts what commits up to `sequence` brought, in the month in which it came."""
    totals: dict[tuple[str, int], list[int]] = {}
    for delta in deltas:
        total = totals.setdefault((month_of(delta.ingestion_ms), delta.group_id), [0, 0])
        total[0] += delta.events
        total[1] += delta.bytes
    groups = _groups(session, {group_id for _, group_id in totals})
    names = [group.name for group in groups.values()]
    vended = set(session.scalars(select(FlowLog.log_group_name).where(FlowLog.log_group_name.in_(names))))
    more = []
    for (month, group_id), (events, size) in totals.items():
        group = groups.get(group_id)
        origin = "vended_bytes" if group is not None and group.name in vended else "custom_bytes"
        more.append((month, group_id, group, {"events": events, origin: size}))
    _add(session, more)
    session.merge(LogUsageProgress(id=1, sequence=sequence))


def add_scanned(session: Session, month: str, names: Sequence[str], scanned_bytes: int) -> None:
    """What a query read. Of several groups each is counted by its share of what they store together."""
    groups = list(session.scalars(select(LogGroup).where(LogGroup.name.in_(names)).order_by(LogGroup.id)))
    if not groups or not scanned_bytes:
        return
    stored = sum(group.stored_bytes for group in groups)
    shares = [scanned_bytes * group.stored_bytes // stored if stored else 0 for group in groups]
    shares[0] += scanned_bytes - sum(shares)
    _add(
        session,
        [(month, group.id, group, {"scanned_bytes": share}) for group, share in zip(groups, shares, strict=True)],
    )


def add_requests(session: Session, counts: Mapping[tuple[str, str], int]) -> None:
    """Requests by (month, name of a log group); those of a name that is no group's count for the account alone."""
    names = {name for _, name in counts}
    groups = {group.name: group for group in session.scalars(select(LogGroup).where(LogGroup.name.in_(names)))}
    merged: Counter[tuple[str, str]] = Counter()
    for (month, name), requests in counts.items():
        merged[month, name if name in groups else ""] += requests
    more = []
    for (month, name), requests in merged.items():
        group = groups.get(name)
        more.append((month, group.id if group is not None else NO_GROUP, group, {"requests": requests}))
    _add(session, more)


def note_stored(session: Session, month: str) -> None:
    """Writes down what every group keeps now, as what it kept in this month."""
    rows = session.execute(select(LogUsage.group_id, LogUsage.stored_bytes).where(LogUsage.month == month))
    known = {row.group_id: row.stored_bytes for row in rows}
    groups = {group.id: group for group in session.scalars(select(LogGroup))}
    _add(session, [(month, group_id, groups[group_id], {}) for group_id in groups.keys() - known.keys()])
    for group_id in groups.keys() | known.keys():
        stored = groups[group_id].stored_bytes if group_id in groups else 0
        if known.get(group_id, 0) != stored:
            of_group = LogUsage.month == month, LogUsage.group_id == group_id
            session.execute(update(LogUsage).where(*of_group).values(stored_bytes=stored))


def usage_of(session: Session, month: str) -> list[LogUsage]:
    return list(session.scalars(select(LogUsage).where(LogUsage.month == month).order_by(LogUsage.name)))


def _groups(session: Session, ids: Iterable[int]) -> dict[int, LogGroup]:
    return {group.id: group for group in session.scalars(select(LogGroup).where(LogGroup.id.in_(list(ids))))}


def _add(session: Session, more: Sequence[tuple[str, int, LogGroup | None, Mapping[str, int]]]) -> None:
    """Adds (month, group id, group, counts) to the rows, few statements for many groups. The state has one writer at a
    time, so that a row that is not there is nobody else's to make."""
    months, ids = {month for month, *_ in more}, {group_id for _, group_id, *_ in more}
    wanted = select(LogUsage.month, LogUsage.group_id).where(LogUsage.month.in_(months), LogUsage.group_id.in_(ids))
    there = {tuple(row) for row in session.execute(wanted)}
    new = [
        {
            "month": month,
            "group_id": group_id,
            "name": group.name if group is not None else "",
            "log_class": group.log_class if group is not None else "STANDARD",
            **dict.fromkeys((*COUNTS, "stored_bytes"), 0),
        }
        for month, group_id, group, _ in more
        if (month, group_id) not in there
    ]
    connection, table = session.connection(), LogUsage.__table__
    if new:
        connection.execute(insert(LogUsage), new)
    if more:
        of_group = table.c.month == bindparam("of_month"), table.c.group_id == bindparam("of_group")
        changes = {name: table.c[name] + bindparam(f"more_{name}") for name in COUNTS}
        connection.execute(
            update(table).where(*of_group).values(changes),  # type: ignore[arg-type]
            [
                {"of_month": month, "of_group": group_id, **{f"more_{name}": counts.get(name, 0) for name in COUNTS}}
                for month, group_id, _, counts in more
            ],
        )

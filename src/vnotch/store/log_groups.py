"""Log groups and log streams: what they are called, how long they keep, and what each stream holds.

The events themselves are in the lake, under the ids of these rows. Ids are never reused, so a group that is created
again under an old name is a new one. A deletion removes the rows and leaves a grave, in one transaction, so that
nothing is read from then on; the lake deletes the events later and the grave with them.

The totals a stream follow the lake's commits. `LogProgress` says up to which sequence number they go, in the same
transaction: after a crash the rest is counted again from the lake, so they are never wrong for longer than a start.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BigInteger,
    ForeignKey,
    Index,
    Integer,
    String,
    Text,
    bindparam,
    case,
    delete,
    func,
    select,
    update,
)
from sqlalchemy.orm import Mapped, Session, mapped_column

from vnotch.store.committer import StreamDelta
from vnotch.store.state import Base
from vnotch.store.upkeep import Expired

DAY_MS = 86_400_000
IDS_AT_ONCE = 10_000
"""SQLite takes 32,766 parameters in a statement."""


class LogGroup(Base):
    __tablename__ = "log_group"
    __table_args__ = ({"sqlite_autoincrement": True},)
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    name: Mapped[str] = mapped_column(String(512), unique=True)
    creation_ms: Mapped[int] = mapped_column(BigInteger)
    retention_days: Mapped[int | None]
    log_class: Mapped[str] = mapped_column(String(32))
    deletion_protection: Mapped[bool] = mapped_column(default=False)
    stored_bytes: Mapped[int] = mapped_column(BigInteger, default=0)


class LogGroupTag(Base):
    __tablename__ = "log_group_tag"
    group_id: Mapped[int] = mapped_column(ForeignKey("log_group.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(String(128), primary_key=True)
    value: Mapped[str] = mapped_column(Text)


class LogStream(Base):
    """A stream and its totals. Times in Unix ms, None while there is no event; `last_ms` as 0 in the order by time."""

    __tablename__ = "log_stream"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    group_id: Mapped[int] = mapped_column(ForeignKey("log_group.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(String(512))
    creation_ms: Mapped[int] = mapped_column(BigInteger)
    first_ms: Mapped[int | None] = mapped_column(BigInteger)
    last_ms: Mapped[int | None] = mapped_column(BigInteger)
    ingestion_ms: Mapped[int | None] = mapped_column(BigInteger)
    events: Mapped[int] = mapped_column(BigInteger, default=0)
    bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    __table_args__ = (
        Index("log_stream_name", "group_id", "name", unique=True),
        Index("log_stream_time", "group_id", func.coalesce(last_ms, 0), "name"),
        {"sqlite_autoincrement": True},
    )


class LogResourcePolicy(Base):
    """A resource policy of the account (group_id 0, under its name) or of a log group (under no key, as it has one)."""

    __tablename__ = "log_resource_policy"
    group_id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    key: Mapped[str] = mapped_column(String(512), primary_key=True)
    name: Mapped[str] = mapped_column(String(512))
    document: Mapped[str] = mapped_column(Text)
    revision: Mapped[str] = mapped_column(String(64))
    updated_ms: Mapped[int] = mapped_column(BigInteger)


class LogGrave(Base):
    """A deleted group (stream_id 0) or stream whose events may still be in the lake."""

    __tablename__ = "log_grave"
    group_id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    stream_id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)


class LogProgress(Base):
    """One row: the totals include the lake's events up to `sequence`."""

    __tablename__ = "log_progress"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    sequence: Mapped[int] = mapped_column(BigInteger)


LAST_MS = func.coalesce(LogStream.last_ms, 0)
RECOUNT = -1
"""Progress during a deletion of events: a process that dies then counts everything anew at its next start."""


@dataclass(frozen=True)
class Span:
    """What a selection of streams holds together."""

    first_ms: int | None
    last_ms: int | None
    events: int

    def window_ms(self, limit: int) -> int | None:
        """How much time probably holds `limit` events; None where that is all of it."""
        if self.first_ms is None or self.last_ms is None or self.events <= limit:
            return None
        return max(1000, (self.last_ms - self.first_ms + 1) * limit * 2 // self.events)


def find_group(session: Session, name: str) -> LogGroup | None:
    return session.scalar(select(LogGroup).where(LogGroup.name == name))


def find_stream(session: Session, group_id: int, name: str) -> LogStream | None:
    return session.scalar(select(LogStream).where(LogStream.group_id == group_id, LogStream.name == name))


def starts_with(column: Any, prefix: str) -> tuple[Any, ...]:
    """Conditions for a prefix that an index serves and that are exact in case, unlike SQLite's LIKE."""
    # U+10FFFF sorts after every other character, in UTF-8 bytes as in code points.
    return (column >= prefix, column < prefix + "\U0010ffff")


def has_part(column: Any, part: str) -> Any:
    """The condition that a text is somewhere in the column, exact in case in every database."""
    return func.replace(column, part, "") != column


def streams_named(names: Sequence[str] | None, prefix: str | None) -> tuple[Any, ...]:
    """Conditions that select streams of a group by name or by prefix; empty where all are wanted."""
    if names:
        return (LogStream.name.in_(names),)
    return starts_with(LogStream.name, prefix) if prefix else ()


def stream_ids(session: Session, group_id: int, selection: tuple[Any, ...]) -> list[int]:
    return list(session.scalars(select(LogStream.id).where(LogStream.group_id == group_id, *selection)))


def stream_names(session: Session, ids: Collection[int]) -> dict[int, str]:
    """Id -> name of those that still exist."""
    return _names(session, LogStream, ids)


def group_names(session: Session, ids: Collection[int]) -> dict[int, str]:
    """The same of groups."""
    return _names(session, LogGroup, ids)


def _names(session: Session, table: type[LogStream] | type[LogGroup], ids: Collection[int]) -> dict[int, str]:
    wanted = list(ids)
    names: dict[int, str] = {}
    for start in range(0, len(wanted), IDS_AT_ONCE):
        part = wanted[start : start + IDS_AT_ONCE]
        rows = session.execute(select(table.id, table.name).where(table.id.in_(part)))
        names.update((row.id, row.name) for row in rows)
    return names


def span_of(session: Session, group_id: int, selection: tuple[Any, ...] = ()) -> Span:
    """The extent of a group or of some of its streams."""
    first_ms, last_ms, events = session.execute(
        select(func.min(LogStream.first_ms), func.max(LogStream.last_ms), func.sum(LogStream.events)).where(
            LogStream.group_id == group_id, *selection
        )
    ).one()
    return Span(first_ms, last_ms, events or 0)


def delete_group(session: Session, group: LogGroup) -> None:
    session.execute(delete(LogStream).where(LogStream.group_id == group.id))
    session.execute(delete(LogResourcePolicy).where(LogResourcePolicy.group_id == group.id))
    session.delete(group)
    session.merge(LogGrave(group_id=group.id, stream_id=0))


def delete_stream(session: Session, stream: LogStream) -> None:
    session.execute(
        update(LogGroup).where(LogGroup.id == stream.group_id).values(stored_bytes=LogGroup.stored_bytes - stream.bytes)
    )
    session.delete(stream)
    session.merge(LogGrave(group_id=stream.group_id, stream_id=stream.id))


def graves(session: Session, group_id: int | None = None) -> list[tuple[int, int | None]]:
    """(group, stream or None for the whole group) of what is deleted but may still be in the lake."""
    wanted = select(LogGrave.group_id, LogGrave.stream_id)
    if group_id is not None:
        wanted = wanted.where(LogGrave.group_id == group_id)
    return [(group, stream or None) for group, stream in session.execute(wanted)]


def forget_graves(session: Session, buried: Iterable[tuple[int, int | None]]) -> None:
    for group_id, stream_id in buried:
        session.execute(delete(LogGrave).where(LogGrave.group_id == group_id, LogGrave.stream_id == (stream_id or 0)))


def retention_cutoffs(session: Session, now_ms: int) -> dict[int, int]:
    """Group id -> oldest event time that is kept, for the groups that do not keep for ever."""
    rows = session.execute(select(LogGroup.id, LogGroup.retention_days).where(LogGroup.retention_days.is_not(None)))
    return {group_id: now_ms - days * DAY_MS for group_id, days in rows if days is not None}


def progress(session: Session) -> int:
    """Up to which sequence number the totals go; RECOUNT where they must be counted anew, 0 at the very first."""
    row = session.get(LogProgress, 1)
    return row.sequence if row is not None else 0


def set_progress(session: Session, sequence: int) -> None:
    session.merge(LogProgress(id=1, sequence=sequence))


def add_totals(session: Session, deltas: Sequence[StreamDelta]) -> None:
    """Adds what a commit brought. Streams that were deleted meanwhile are passed over."""
    if not deltas:
        return
    first: Any = bindparam("first")
    last: Any = bindparam("last")
    arrived: Any = bindparam("arrived")
    stream = LogStream.__table__
    connection = session.connection()
    connection.execute(
        update(stream)  # type: ignore[arg-type]
        .where(stream.c.id == bindparam("stream"))
        .values(
            first_ms=case((stream.c.first_ms < first, stream.c.first_ms), else_=first),
            last_ms=case((stream.c.last_ms > last, stream.c.last_ms), else_=last),
            ingestion_ms=case((stream.c.ingestion_ms > arrived, stream.c.ingestion_ms), else_=arrived),
            events=stream.c.events + bindparam("more_events"),
            bytes=stream.c.bytes + bindparam("more_bytes"),
        ),
        [
            {
                "stream": delta.stream_id,
                "first": delta.first_ms,
                "last": delta.last_ms,
                "arrived": delta.ingestion_ms,
                "more_events": delta.events,
                "more_bytes": delta.bytes,
            }
            for delta in deltas
        ],
    )
    _add_group_bytes(session, ((delta.group_id, delta.bytes) for delta in deltas))


def take_totals(session: Session, expired: Sequence[Expired]) -> None:
    """Takes off what was deleted from streams; a stream without events has no first and last time any more."""
    for lost in expired:
        stream = session.get(LogStream, lost.stream_id)
        if stream is None:
            continue
        stream.events = max(0, stream.events - lost.events)
        stream.bytes = max(0, stream.bytes - lost.bytes)
        stream.first_ms = lost.first_ms
        if lost.first_ms is None:
            stream.last_ms = None
        _add_group_bytes(session, [(lost.group_id, -lost.bytes)])


def reset_totals(session: Session) -> None:
    session.execute(update(LogStream).values(first_ms=None, last_ms=None, events=0, bytes=0))
    session.execute(update(LogGroup).values(stored_bytes=0))


def _add_group_bytes(session: Session, pairs: Iterable[tuple[int, int]]) -> None:
    totals: dict[int, int] = {}
    for group_id, size in pairs:
        totals[group_id] = totals.get(group_id, 0) + size
    for group_id, size in totals.items():
        session.execute(
            update(LogGroup).where(LogGroup.id == group_id).values(stored_bytes=LogGroup.stored_bytes + size)
        )

"""Tables of log groups and streams: the pages of large accounts are read from an index."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session
from state_database import open_state

from vnotch.api.logs.groups import _streams
from vnotch.store.committer import StreamDelta
from vnotch.store.log_groups import (
    LogGroup,
    LogStream,
    Span,
    add_totals,
    delete_group,
    find_group,
    graves,
    span_of,
    starts_with,
    stream_ids,
    stream_names,
    take_totals,
)
from vnotch.store.state import State
from vnotch.store.upkeep import Expired

STREAMS = 10_000


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    state = open_state(tmp_path)
    state.create_tables()
    yield state
    state.close()


def large_group(session: Session) -> LogGroup:
    group = LogGroup(name="flow", creation_ms=1, log_class="STANDARD")
    session.add(group)
    session.flush()
    rows = [{"group_id": group.id, "name": f"eni-{number:05d}-all", "creation_ms": 1} for number in range(STREAMS)]
    session.execute(LogStream.__table__.insert(), rows)  # type: ignore[attr-defined]
    return group


def plan(session: Session, statement: object) -> str:
    sql = statement.compile(session.get_bind(), compile_kwargs={"literal_binds": True})  # type: ignore[attr-defined]
    return " ".join(str(row[3]) for row in session.execute(text(f"EXPLAIN QUERY PLAN {sql}")))


def test_ten_thousand_streams_are_paged_whole_in_both_orders(state: State) -> None:
    with state.write() as session:
        group = large_group(session)
        ids = stream_ids(session, group.id, ())
        assert len(ids) == STREAMS
        add_totals(session, [StreamDelta(group.id, number, 5, 1000 - number % 7, 9, 2, 60) for number in ids[::2]])
    with state.read() as session:
        assert len(stream_names(session, ids)) == STREAMS
        assert span_of(session, group.id) == Span(5, 1000, STREAMS)
        for order in ("LogStreamName", "LastEventTime"):
            asked = {"order": order, "descending": True, "prefix": None}
            seen: list[str] = []
            after = None
            while page := _streams(session, group.id, asked, after, 900):
                seen += [stream.name for stream in page]
                after = [page[-1].last_ms or 0, page[-1].name]
            assert len(seen) == len(set(seen)) == STREAMS


def test_pages_are_read_from_an_index(state: State) -> None:
    with state.write() as session:
        large_group(session)
    with state.read() as session:
        from vnotch.store.log_groups import LAST_MS

        by_name = select(LogStream).where(LogStream.group_id == 1).order_by(LogStream.name.desc()).limit(50)
        by_time = (
            select(LogStream).where(LogStream.group_id == 1).order_by(LAST_MS.desc(), LogStream.name.desc()).limit(50)
        )
        prefixed = select(LogStream).where(LogStream.group_id == 1, *starts_with(LogStream.name, "eni-00"))
        for statement, index in ((by_name, "log_stream_name"), (by_time, "log_stream_time"), (prefixed, "_name")):
            steps = plan(session, statement)
            assert index in steps
            assert "TEMP B-TREE" not in steps


def test_totals_add_up_and_are_taken_off(state: State) -> None:
    with state.write() as session:
        group = LogGroup(name="g", creation_ms=1, log_class="STANDARD")
        session.add(group)
        session.flush()
        stream = LogStream(group_id=group.id, name="s", creation_ms=1)
        session.add(stream)
        session.flush()
        add_totals(session, [StreamDelta(group.id, stream.id, 100, 200, 1000, 3, 90)])
        add_totals(session, [StreamDelta(group.id, stream.id, 50, 150, 900, 2, 60)])
        session.expire_all()
        assert (stream.first_ms, stream.last_ms, stream.ingestion_ms) == (50, 200, 1000)
        assert (stream.events, stream.bytes, group.stored_bytes) == (5, 150, 150)
        take_totals(session, [Expired(group.id, stream.id, 2, 60, 100)])
        session.flush()
        session.expire_all()
        assert (stream.first_ms, stream.last_ms, stream.events, group.stored_bytes) == (100, 200, 3, 90)
        take_totals(session, [Expired(group.id, stream.id, 3, 90, None)])
        session.flush()
        session.expire_all()
        assert (stream.first_ms, stream.last_ms, stream.events, group.stored_bytes) == (None, None, 0, 0)


def test_ids_are_never_used_again(state: State) -> None:
    ids = []
    for _ in range(2):
        with state.write() as session:
            session.add(LogGroup(name="g", creation_ms=1, log_class="STANDARD"))
        with state.write() as session:
            group = find_group(session, "g")
            assert group is not None
            ids.append(group.id)
            delete_group(session, group)
    assert len(set(ids)) == 2
    with state.read() as session:
        assert sorted(graves(session)) == [(number, None) for number in sorted(ids)]

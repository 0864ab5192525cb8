"""What log groups took in, by month: each event once, with 26 bytes beyond its message, whatever happens between."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lakes import new_lake
from sqlalchemy import delete
from state_database import open_state

from tests.store.test_lake import BASE_MS, numbered
from vnotch.store.committer import StreamDelta
from vnotch.store.lake import Lake
from vnotch.store.log_groups import RECOUNT, LogGroup, LogStream, delete_group, set_progress
from vnotch.store.log_totals import LogTotals
from vnotch.store.log_usage import (
    LogUsage,
    LogUsageProgress,
    add_ingested,
    add_requests,
    add_scanned,
    month_of,
    note_stored,
    usage_of,
)
from vnotch.store.network import FlowLog
from vnotch.store.state import State

JANUARY_MS = 1_769_903_999_999  # 2026-01-31T23:59:59.999Z
FEBRUARY_MS = JANUARY_MS + 1
EVENT_BYTES = 2 + 26
"""Of m0 to m9."""


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    state = open_state(tmp_path / "state")
    state.create_tables()
    with state.write() as session:
        for number, name in ((1, "flow"), (2, "app")):
            session.add(LogGroup(id=number, name=name, creation_ms=0, log_class="STANDARD"))
            session.flush()
            session.add(LogStream(id=number, group_id=number, name="s", creation_ms=0))
    yield state
    state.close()


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    lake = new_lake(tmp_path / "lake")
    yield lake
    lake.close()


def rows(state: State, month: str) -> dict[str, LogUsage]:
    with state.read() as session:
        return {row.name: row for row in usage_of(session, month)}


def put(lake: Lake, count: int, start: int, ingestion_ms: int, group: int = 1) -> None:
    lake.submit(group, group, numbered(count, start), ingestion_ms).result()


def delta(group: int, ingestion_ms: int, events: int, size: int) -> StreamDelta:
    return StreamDelta(group, group, BASE_MS, BASE_MS, ingestion_ms, events, size)


def test_months_are_utc() -> None:
    assert [month_of(JANUARY_MS), month_of(FEBRUARY_MS)] == ["2026-01", "2026-02"]


def test_each_commit_counts_in_the_month_in_which_it_came(state: State, lake: Lake) -> None:
    LogTotals(state, lake)
    put(lake, 3, 0, JANUARY_MS)
    put(lake, 2, 3, FEBRUARY_MS)
    put(lake, 1, 0, FEBRUARY_MS, group=2)
    (january,) = rows(state, "2026-01").values()
    assert (january.name, january.events, january.custom_bytes) == ("flow", 3, 3 * EVENT_BYTES)
    february = rows(state, "2026-02")
    assert {name: (row.events, row.custom_bytes) for name, row in february.items()} == {
        "flow": (2, 2 * EVENT_BYTES),
        "app": (1, EVENT_BYTES),
    }


def test_a_start_counts_what_a_crash_left_uncounted_and_nothing_twice(state: State, tmp_path: Path) -> None:
    lake = Lake.open(tmp_path / "lake")
    LogTotals(state, lake)
    put(lake, 3, 0, JANUARY_MS)
    lake.close()
    lake = Lake.open(tmp_path / "lake")  # nobody watches: as if the process died between the two transactions
    put(lake, 4, 3, JANUARY_MS)
    lake.close()
    for _ in range(2):
        lake = Lake.open(tmp_path / "lake")
        LogTotals(state, lake)
        lake.close()
        assert rows(state, "2026-01")["flow"].custom_bytes == 7 * EVENT_BYTES


def test_a_recount_of_streams_leaves_the_usage_alone(state: State, lake: Lake) -> None:
    LogTotals(state, lake)
    put(lake, 3, 0, JANUARY_MS)
    with state.write() as session:
        set_progress(session, RECOUNT)
    LogTotals(state, lake)
    assert rows(state, "2026-01")["flow"].events == 3


def test_usage_that_could_not_be_written_comes_with_the_next_commit(
    state: State, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    LogTotals(state, lake)

    def fail(*_: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr("vnotch.store.log_totals.add_ingested", fail)
        put(lake, 3, 0, JANUARY_MS)
    assert rows(state, "2026-01") == {}
    put(lake, 1, 3, JANUARY_MS)
    assert rows(state, "2026-01")["flow"].custom_bytes == 4 * EVENT_BYTES


def test_a_state_of_before_begins_to_count_with_what_comes(state: State, lake: Lake) -> None:
    LogTotals(state, lake)
    put(lake, 3, 0, JANUARY_MS)
    with state.write() as session:
        session.execute(delete(LogUsage))
        session.execute(delete(LogUsageProgress))
    LogTotals(state, lake)
    put(lake, 1, 3, JANUARY_MS)
    assert rows(state, "2026-01")["flow"].events == 1


def test_what_comes_into_a_group_of_a_flow_log_is_vended(state: State) -> None:
    with state.write() as session:
        session.add(
            FlowLog(
                flow_log_id="fl-0667848f2d19786ca",
                resource_id="vpc-0123456789abcdef0",
                resource_type="VPC",
                traffic_type="ALL",
                log_destination_type="cloud-watch-logs",
                log_group_name="flow",
                deliver_logs_permission_arn="arn:aws:iam::123456789012:role/r",
                log_format="${version}",
                max_aggregation_interval=60,
                created_ms=0,
            )
        )
        session.flush()
        add_ingested(session, [delta(1, JANUARY_MS, 1, 40), delta(2, JANUARY_MS, 1, 50)], 1)
        session.execute(delete(FlowLog))
        add_ingested(session, [delta(1, JANUARY_MS, 1, 30)], 2)
    found = rows(state, "2026-01")
    assert (found["flow"].vended_bytes, found["flow"].custom_bytes) == (40, 30)
    assert (found["app"].vended_bytes, found["app"].custom_bytes) == (0, 50)


def test_a_query_of_several_groups_counts_by_what_they_store(state: State) -> None:
    with state.write() as session:
        for number, size in ((1, 300), (2, 100)):
            group = session.get(LogGroup, number)
            assert group is not None
            group.stored_bytes = size
        session.flush()
        add_scanned(session, "2026-01", ["flow", "app"], 202)
        add_scanned(session, "2026-01", ["app"], 10)
        add_scanned(session, "2026-01", ["gone"], 10)
    # 202 * 100 // 400 = 50 for app, the rest for flow; a group that is gone has no row to count in.
    assert {name: row.scanned_bytes for name, row in rows(state, "2026-01").items()} == {"flow": 152, "app": 60}


def test_requests_add_up_and_those_of_no_group_are_the_accounts(state: State) -> None:
    for _ in range(2):
        with state.write() as session:
            add_requests(session, {("2026-01", "flow"): 2, ("2026-01", "nothing"): 3, ("2026-01", ""): 1})
    assert {name: row.requests for name, row in rows(state, "2026-01").items()} == {"flow": 4, "": 8}


def test_a_deleted_group_keeps_its_usage_and_stores_nothing(state: State) -> None:
    with state.write() as session:
        add_ingested(session, [delta(1, JANUARY_MS, 1, 40)], 1)
        group = session.get(LogGroup, 1)
        assert group is not None
        group.stored_bytes = 40
        session.flush()
        note_stored(session, "2026-01")
    assert rows(state, "2026-01")["flow"].stored_bytes == 40
    with state.write() as session:
        group = session.get(LogGroup, 1)
        assert group is not None
        delete_group(session, group)
        session.flush()
        note_stored(session, "2026-01")
    found = rows(state, "2026-01")["flow"]
    assert (found.custom_bytes, found.stored_bytes) == (40, 0)


def test_expired_events_stay_counted(state: State, lake: Lake) -> None:
    LogTotals(state, lake)
    with state.write() as session:
        group = session.get(LogGroup, 1)
        assert group is not None
        group.retention_days = 1
    put(lake, 3, 0, int(time.time() * 1000))  # their times are of years ago
    lake.upkeep().result()
    with state.read() as session:
        group = session.get(LogGroup, 1)
        assert group is not None
        assert group.stored_bytes == 0
    assert rows(state, month_of(int(time.time() * 1000)))["flow"].events == 3

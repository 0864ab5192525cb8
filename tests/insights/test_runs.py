"""Queries that run: their bounds, how they end, and what is kept of them. The log store is a stand-in that waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pytest

from tests.insights.world import ASKED, World
from vnotch.errors import HostError, LimitError
from vnotch.insights.malformed import MalformedQuery
from vnotch.insights.runs import Queries, Question, Run, Status

WORLD = World(["a", "b", "c"])


class Store:
    """Answers from WORLD once `open` is set; an interrupt raises, as the log store's does."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.stopped = threading.Event()
        self.error: Exception | None = None
        self.asked = 0

    @contextmanager
    def reading(self, seconds: float) -> Iterator[Store]:
        yield self

    def batches(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        self.asked += 1
        while not self.open.wait(0.01):
            if self.stopped.is_set():
                raise HostError("stopped")
        if self.error is not None:
            raise self.error
        answer = WORLD.database.cursor().execute(sql, list(parameters)).to_arrow_table()
        return iter(answer.to_batches())

    def arrow(self, sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
        return WORLD.database.cursor().execute(sql, list(parameters)).to_arrow_table()

    def interrupt(self) -> None:
        self.stopped.set()

    def progress(self) -> float:
        return 25.0


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def make(store: Store) -> Iterator[Callable[..., Queries]]:
    made: list[Queries] = []

    def queries(**bounds: Any) -> Queries:
        made.append(Queries(store.reading, **bounds))
        return made[-1]

    yield queries
    store.open.set()
    for one in made:
        one.close()


def question(text: str = "fields @message | sort @message", **more: Any) -> Question:
    return Question(text, ("flow",), ASKED, 10_000, "arn", lambda: WORLD.source, 30.0, **more)


def until(run: Run, *statuses: Status) -> None:
    deadline = time.monotonic() + 20
    while run.status not in statuses:
        assert time.monotonic() < deadline, run.status
        time.sleep(0.005)


def test_a_query_is_scheduled_runs_and_completes(store: Store, make: Callable[..., Queries]) -> None:
    queries = make(threads=1)
    first, second = queries.start(question()), queries.start(question("stats count(*) as n"))
    until(first, Status.RUNNING)
    assert second.status is Status.SCHEDULED
    assert first.page(0, 10) == []
    assert queries.progress(first) == 0.25
    store.open.set()
    until(second, Status.COMPLETE)
    assert [row[0] for row in first.page(1, 5)] == [{"field": "@message", "value": text} for text in "bc"]
    assert second.page(0, 10) == [[{"field": "n", "value": "3"}]]
    assert (second.statistics.matched, second.statistics.scanned, second.statistics.scanned_bytes) == (3, 3, 90.0)
    assert [run.id for run in queries.all()] == [second.id, first.id]


def test_who_waits_hears_of_the_end_and_who_gave_up_is_forgotten(store: Store, make: Callable[..., Queries]) -> None:
    queries = make(threads=1)
    run = queries.start(question())
    for _ in range(100):
        queries.end_of(run).cancel()
    waiting = queries.end_of(run)
    assert len(run.waiting) <= 2
    assert not waiting.done()
    store.open.set()
    assert waiting.result(20) is None
    assert run.status is Status.COMPLETE
    assert queries.end_of(run).done()


def test_a_malformed_query_never_starts(make: Callable[..., Queries]) -> None:
    queries = make()
    with pytest.raises(MalformedQuery):
        queries.start(question("fields"))
    assert queries.all() == []


def test_queries_that_run_or_wait_can_be_stopped(store: Store, make: Callable[..., Queries]) -> None:
    queries = make(threads=1)
    running, waiting = queries.start(question()), queries.start(question())
    until(running, Status.RUNNING)
    assert queries.stop(waiting)
    assert waiting.status is Status.CANCELLED
    assert queries.stop(running)
    until(running, Status.CANCELLED)
    assert not queries.stop(running)
    assert store.asked == 1
    assert queries.counters["cancelled"] == 2


def test_more_than_the_bound_are_refused_and_counted(make: Callable[..., Queries]) -> None:
    queries = make(unfinished_max=2)
    queries.start(question())
    second = queries.start(question())
    with pytest.raises(LimitError):
        queries.start(question())
    assert queries.counters["refused"] == 1
    queries.stop(second)
    until(second, Status.CANCELLED)
    queries.start(question())


def test_a_query_beyond_its_time_is_a_timeout(store: Store, make: Callable[..., Queries]) -> None:
    queries = make(seconds_max=0.05)
    run = queries.start(question())
    until(run, Status.RUNNING)
    time.sleep(0.06)
    store.stopped.set()  # as the log store ends what takes longer
    until(run, Status.TIMEOUT)


def test_a_query_that_needs_too_much_memory_fails_alone(store: Store, make: Callable[..., Queries]) -> None:
    queries = make()
    store.error = HostError("the log store could not answer: out of memory")
    store.open.set()
    run = queries.start(question())
    until(run, Status.FAILED)
    assert "out of memory" in run.reason
    assert run.page(0, 10) == []
    store.error = None
    until(queries.start(question()), Status.COMPLETE)


def test_a_format_that_came_in_between_is_asked_again(store: Store, make: Callable[..., Queries]) -> None:
    queries = make()
    store.error = HostError("new format")
    store.open.set()

    def again(error: Exception) -> bool:
        store.error = None
        return "new format" in str(error)

    until(queries.start(question(again=again)), Status.COMPLETE)
    assert store.asked == 2


def test_an_answer_beyond_its_bound_fails(store: Store, make: Callable[..., Queries]) -> None:
    store.open.set()
    run = make(answer_bytes_max=10).start(question())
    until(run, Status.FAILED)
    assert "by limit" in run.reason


def test_the_oldest_answers_make_room(store: Store, make: Callable[..., Queries]) -> None:
    store.open.set()
    queries = make(kept_bytes_max=1)
    first = queries.start(question())
    until(first, Status.COMPLETE)
    second = queries.start(question())
    until(second, Status.COMPLETE)
    deadline = time.monotonic() + 10
    while queries.get(first.id) is not None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert queries.get(second.id) is second
    assert queries.counters["forgotten"] == 1


def test_answers_are_kept_for_their_time_only(store: Store, make: Callable[..., Queries]) -> None:
    store.open.set()
    queries = make(kept_seconds=0.05)
    run = queries.start(question())
    until(run, Status.COMPLETE)
    time.sleep(0.06)
    assert queries.get(run.id) is None


def test_closing_stops_what_runs(store: Store, make: Callable[..., Queries]) -> None:
    queries = make(threads=1)
    running, waiting = queries.start(question()), queries.start(question())
    until(running, Status.RUNNING)
    queries.close()
    assert (running.status, waiting.status) == (Status.CANCELLED, Status.CANCELLED)

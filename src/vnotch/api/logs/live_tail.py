"""StartLiveTail: events of log groups as they are stored (CloudWatch Logs API reference; user guide, "Live Tail").

    a session: task of its own, once a second -> up to 500 events that were stored since -> queue of 10 -> event stream

A session that matches nothing costs a look into a table a second. A client that reads slower than events come loses the
oldest updates, as on AWS, and is cut off when it reads nothing at all (`api.http`).
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import and_, or_

from vnotch.api.logs.part import (
    LogsPart,
    existing_group,
    filter_pattern,
    group_name_of_arn,
    invalid,
    limit_exceeded,
    stream_arn,
)
from vnotch.api.service import ApiError, Call, Streamed, operation
from vnotch.errors import HostError
from vnotch.store.filter_pattern import FilterPattern
from vnotch.store.lake import EVENT_SCHEMA, EVER_MS
from vnotch.store.log_groups import LogStream, starts_with, stream_ids, stream_names, streams_named
from vnotch.store.log_totals import graves_of
from vnotch.store.pages import page_sql

log = logging.getLogger(__name__)

UPDATE_SECONDS = 1.0
UPDATE_EVENTS_MAX = 500
UPDATE_BYTES_MAX = 1 << 20
"""Of an update's messages: with the sessions and the updates that wait for a client, what live tail can take."""

UPDATES_WAITING_MAX = 10
SESSION_SECONDS = 3 * 3600
LOOKED_THROUGH_MAX = 20_000
"""Events that one update is sampled from: a flood beyond is sampled by how it is stored."""

THREADS = 2


def _tailed(call: Call) -> list[str]:
    names = [identifier.rpartition(":log-group:")[2] for identifier in call.params["logGroupIdentifiers"]]
    return [stream_arn(call, name, "") for name in names]


@dataclass
class Session:
    """What a session asks for, how far it has read, and the updates that its client has not taken yet."""

    groups: dict[int, str]  # id -> ARN
    names: Sequence[str]
    prefixes: Sequence[str]
    pattern: FilterPattern
    position: int
    deadline: float
    waiting: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=UPDATES_WAITING_MAX))
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    end: ApiError | None = None


class LiveTail(LogsPart):
    update_seconds = UPDATE_SECONDS
    session_seconds: float = SESSION_SECONDS

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._sessions: set[int] = set()
        self._ending = False
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="live-tail")

    def end(self) -> None:
        """Sessions end at their next update."""
        super().end()
        self._ending = True

    @operation("StartLiveTail", _tailed)
    def start_live_tail(self, call: Call) -> Streamed:
        arns = list(dict.fromkeys(call.params["logGroupIdentifiers"]))
        names, prefixes = call.params.get("logStreamNames") or (), call.params.get("logStreamNamePrefixes") or ()
        if names and prefixes:
            raise invalid("logStreamNames and logStreamNamePrefixes cannot be specified together.")
        if (names or prefixes) and len(arns) > 1:
            raise invalid("Log streams can be specified for a single log group only.")
        text = call.params.get("logEventFilterPattern") or ""
        pattern = filter_pattern(text)
        groups: dict[int, str] = {}
        with self.state.read() as session:
            for arn in arns:
                group = existing_group(session, group_name_of_arn(call, arn))
                if group.log_class != "STANDARD":
                    words = f"Live Tail does not follow log groups of the class {group.log_class}."
                    raise ApiError("InvalidOperationException", words)
                groups[group.id] = arn
        if len(self._sessions) >= self.quotas.live_tail_sessions:
            raise limit_exceeded()
        deadline = time.monotonic() + self.session_seconds
        tail = Session(groups, names, prefixes, pattern, self.lake.last_sequence, deadline)
        self._sessions.add(id(tail))
        start: dict[str, Any] = {
            "requestId": call.request_id,
            "sessionId": str(uuid.uuid4()),
            "logGroupIdentifiers": arns,
            "logStreamNames": list(names),
            "logStreamNamePrefixes": list(prefixes),
            "logEventFilterPattern": text,
        }
        return Streamed(self._events(tail, start), lambda: self._sessions.discard(id(tail)))

    @property
    def sessions(self) -> int:
        """How many are open."""
        return len(self._sessions)

    async def _events(self, tail: Session, start: dict[str, Any]) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        producer = asyncio.create_task(self._follow(tail))
        try:
            yield "sessionStart", start
            while True:
                await tail.ready.wait()
                if tail.waiting:
                    yield "sessionUpdate", tail.waiting.popleft()
                elif tail.end is not None:
                    raise tail.end
                elif producer.done():
                    return
                else:
                    tail.ready.clear()
        finally:
            producer.cancel()

    async def _follow(self, tail: Session) -> None:
        """Makes an update a second until the session ends."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        try:
            while not self._ending:
                due = max(due + self.update_seconds, loop.time())
                await asyncio.sleep(due - loop.time())
                if time.monotonic() >= tail.deadline:
                    tail.end = ApiError("SessionTimeoutException", "The Live Tail session has been open for 3 hours.")
                    return
                tail.waiting.append(await loop.run_in_executor(self._pool, self._update, tail))
                tail.ready.set()
        except HostError as error:
            log.error("live tail: %s", error)
            tail.end = ApiError("SessionStreamingException", str(error))
        except Exception:
            log.exception("live tail failed")
            tail.end = ApiError("SessionStreamingException", "An unknown error occurred.")
        finally:
            tail.ready.set()

    def _update(self, tail: Session) -> dict[str, Any]:
        newest = max((self.totals.committed.get(group, 0) for group in tail.groups), default=0)
        if newest <= tail.position:
            return {"sessionMetadata": {"sampled": False}, "sessionResults": []}
        # Whatever is stored by now is looked at, also of a commit that has not been heard of.
        upto = max(newest, self.lake.last_sequence)
        events, sampled = self._new_events(tail, upto)
        tail.position = upto
        with self.state.read() as session:
            streams = stream_names(session, set(events["stream_id"].to_pylist()))
        results = [
            {
                "logStreamName": streams[row["stream_id"]],
                "logGroupIdentifier": tail.groups[row["group_id"]],
                "message": row["message"],
                "timestamp": row["timestamp_ms"],
                "ingestionTime": row["ingestion_ms"],
            }
            for row in events.to_pylist()
            if row["stream_id"] in streams  # deleted while it was read
        ]
        return {"sessionMetadata": {"sampled": sampled}, "sessionResults": results}

    def _new_events(self, tail: Session, upto: int) -> tuple[pa.Table, bool]:
        """At most 500 matching events up to a sequence number, by time, and whether they are a sample of more."""
        groups = list(tail.groups)
        with self.state.read() as session:
            chosen = _chosen_streams(tail)
            streams = stream_ids(session, groups[0], chosen) if chosen else None
            buried = [stream for group in groups for stream in graves_of(session, group)]

        def statement() -> tuple[str, list[Any]]:
            relation = self.lake.relation(
                groups, start_ms=0, end_ms=EVER_MS, stream_ids=streams, without_streams=buried
            ).stored(tail.position, upto)
            predicate = tail.pattern.predicate(relation.formats)
            return page_sql(relation, ["group_id", *EVENT_SCHEMA.names], [], predicate, None, LOOKED_THROUGH_MAX)

        found = self.lake.rendered(statement)
        sampled = found.num_rows > UPDATE_EVENTS_MAX
        if sampled:
            found = found.take(pa.array(random.sample(range(found.num_rows), UPDATE_EVENTS_MAX)))
        sizes = pc.cumulative_sum(pc.binary_length(found["message"]).cast(pa.int64()))
        fitting = max(1, pc.sum(pc.less_equal(sizes, UPDATE_BYTES_MAX)).as_py() or 0)
        if fitting < found.num_rows:
            found, sampled = found.slice(0, fitting), True
        return found.sort_by([("timestamp_ms", "ascending"), ("sequence", "ascending")]), sampled


def _chosen_streams(tail: Session) -> tuple[Any, ...]:
    """By name or by prefix, asked anew for each update: streams come while a session is open."""
    if tail.names:
        return streams_named(tail.names, None)
    if not tail.prefixes:
        return ()
    return (or_(*(and_(*starts_with(LogStream.name, prefix)) for prefix in tail.prefixes)),)

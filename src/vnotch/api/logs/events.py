"""Log events of CloudWatch Logs: PutLogEvents, GetLogEvents, FilterLogEvents (API reference 2014-03-28)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vnotch.api.logs.part import (
    ON_GROUP,
    ON_STREAM,
    LogsPart,
    constraint,
    existing_group,
    existing_stream,
    filter_pattern,
    group_in,
    group_name,
    integer_between,
    invalid,
    no_such_stream,
    page_token,
    stream_name,
    token_position,
    unavailable,
)
from vnotch.api.logs.puts import COMMIT_SECONDS_MAX, members_of, stored, submitted, within_time
from vnotch.api.service import Call, Deferred, operation
from vnotch.store.batch_keys import batch_key
from vnotch.store.committer import EVENT_OVERHEAD_BYTES
from vnotch.store.event_rows import PUT_SCHEMA
from vnotch.store.filter_pattern import FilterPattern
from vnotch.store.lake import QueryFailed
from vnotch.store.log_groups import DAY_MS, LogGroup, Span, span_of, stream_ids, stream_names, streams_named
from vnotch.store.log_totals import graves_of
from vnotch.store.pages import Budget, Found, Position, ended_early

BATCH_BYTES_MAX = 1_048_576
BATCH_EVENTS_MAX = 10_000
EVENT_BYTES_MAX = 1_048_576 - EVENT_OVERHEAD_BYTES
"""1 MB an event with its overhead, so that one that is let in also fits a batch."""

PAGE_BYTES_MAX = 1_048_576
PAGE_EVENTS_MAX = 10_000
STREAM_NAMES_MAX = 100
SEARCHED_EVENTS_MIN = 1_000_000
"""What one call of FilterLogEvents looks through at least before it gives what it has found so far (twice that, by the
group's mean density), so that what is rare among many millions is found page by page in bounded time each."""

SEARCH_SECONDS = 0.3
FIRST_SEARCHED_EVENTS = 100_000
TIME_MS_MAX = 2**53


class LogEvents(LogsPart):
    @operation("PutLogEvents", ON_STREAM, note="an `entity` is answered with `rejectedEntityInfo`")
    def put_log_events(self, call: Call) -> dict[str, Any] | Deferred:
        group_text, stream_text = group_name(call), stream_name(call)
        events = _checked_batch(call.params.get("logEvents"))
        members = members_of(call.headers, events.num_rows)
        with self.state.read() as session:
            group = existing_group(session, group_text)
            stream = existing_stream(session, group, stream_text)
        begin, end, rejected = within_time(events, call.now_ms, group.retention_days)
        answer: dict[str, Any] = {"nextSequenceToken": f"{call.now_ms:056d}"}
        if rejected:
            answer["rejectedLogEventsInfo"] = rejected
        if call.params.get("entity"):
            answer["rejectedEntityInfo"] = {"errorType": "UnsupportedLogGroupType"}
        rows = self.lake.line_rows(events, self.known_formats.of_group(group.id, group.name))
        futures = []
        for batch_id, first, last in members:
            valid = rows.slice(max(first, begin), max(0, min(last, end) - max(first, begin)))
            if valid.num_rows:
                # The key is of all its events: a retry a moment later may have fewer that are still in time.
                whole = events.slice(first, last - first)
                key = batch_key(group.id, stream.id, batch_id, whole) if batch_id is not None else None
                futures.append(submitted(partial(self.lake.submit_rows, group.id, stream.id, valid, call.now_ms, key)))
        return Deferred(futures, COMMIT_SECONDS_MAX, lambda: stored(futures, answer)) if futures else answer

    @operation("GetLogEvents", ON_STREAM)
    def get_log_events(self, call: Call) -> dict[str, Any]:
        name, stream_text = group_in(call), stream_name(call)
        limit = integer_between(call, "limit", 1, PAGE_EVENTS_MAX, PAGE_EVENTS_MAX)
        with self.state.read() as session:
            group = existing_group(session, name)
            stream = existing_stream(session, group, stream_text)
        span = Span(stream.first_ms, stream.last_ms, stream.events)
        token = call.params.get("nextToken")
        place = StreamPlace.from_token(token, stream.id) if token is not None else None
        forward = place.forward if place else bool(call.params.get("startFromHead"))
        # endTime is exclusive here and inclusive in FilterLogEvents.
        start_ms, end_ms = self._range(call, group, span, call.params.get("endTime"))
        try:
            events = self.lake.events(
                group.id,
                stream_ids=[stream.id],
                start_ms=start_ms,
                end_ms=end_ms,
                after=place.position if place and forward else None,
                before=place.position if place and not forward else None,
                descending=not forward,
                limit=limit,
                first_window_ms=span.window_ms(limit),
            )
        except QueryFailed as error:
            raise unavailable(str(error)) from error
        events = events.slice(0, _rows_in_page(events))
        if not forward:
            events = events.take(pa.array(range(events.num_rows - 1, -1, -1), pa.int64()))
        asked_start_ms = max(0, int(call.params.get("startTime") or 0))
        tokens = _stream_tokens(events, stream.id, asked_start_ms, token, place)
        return {"events": _stream_events(events), **tokens}

    @operation("FilterLogEvents", ON_GROUP)
    def filter_log_events(self, call: Call) -> dict[str, Any]:
        name = group_in(call)
        params = call.params
        names, prefix = params.get("logStreamNames"), params.get("logStreamNamePrefix")
        if names and prefix:
            raise invalid("logStreamNames and logStreamNamePrefix cannot be specified together.")
        if names and len(names) > STREAM_NAMES_MAX:
            raise constraint("logStreamNames", names, f"have length less than or equal to {STREAM_NAMES_MAX}")
        pattern = params.get("filterPattern") or ""
        parsed = filter_pattern(pattern)
        limit = integer_between(call, "limit", 1, PAGE_EVENTS_MAX, PAGE_EVENTS_MAX)
        asked = {
            "group": name,
            "streams": sorted(names or []),
            "prefix": prefix,
            "start": params.get("startTime"),
            "end": params.get("endTime"),
            "pattern": pattern,
        }
        position = _filter_position(token_position(call, asked))
        from_head = params.get("startFromHead", True) is not False
        if position is not None:
            from_head = position[0]
        with self.state.read() as session:
            group = existing_group(session, name)
            selection = streams_named(names, prefix)
            streams = stream_ids(session, group.id, selection) if selection else None
            buried = graves_of(session, group.id)
            span = span_of(session, group.id, selection)
        if names and streams is not None and len(streams) < len(set(names)):
            raise no_such_stream()
        end_ms = params.get("endTime")
        start_ms, end_ms = self._range(call, group, span, None if end_ms is None else end_ms + 1)
        place = position[1] if position is not None else None
        chosen = {"stream_ids": streams, "without_streams": buried, "start_ms": start_ms, "end_ms": end_ms}
        found = self._search(group.id, parsed, span, place, from_head, limit + 1, chosen)
        events = found.events
        rows = min(limit, _rows_in_page(events))
        page = events.slice(0, rows)
        answer: dict[str, Any] = {"events": self._filtered_events(page), "searchedLogStreams": []}
        if rows < events.num_rows:
            answer["nextToken"] = page_token(call, asked, [from_head, *_place(page, rows - 1)])
        elif found.ended is not None:
            # "This operation can return empty results while there are more log events available through the token."
            answer["nextToken"] = page_token(call, asked, [from_head, *found.ended])
        return answer

    def _search(
        self,
        group_id: int,
        pattern: FilterPattern,
        span: Span,
        place: Position | None,
        from_head: bool,
        limit: int,
        chosen: dict[str, Any],
    ) -> Found:
        predicate = pattern.predicate(self.lake.formats([group_id]))
        budget: Budget | None = None
        first_ms, least_ms = span.window_ms(limit), span.window_ms(SEARCHED_EVENTS_MIN)
        if predicate is not None and least_ms is not None:
            budget = Budget(least_ms, SEARCH_SECONDS)
            is_rare = place is not None and ended_early(place)
            first_ms = least_ms if is_rare else span.window_ms(max(limit, FIRST_SEARCHED_EVENTS))
        try:
            return self.lake.search(
                group_id,
                after=place if from_head else None,
                before=None if from_head else place,
                descending=not from_head,
                limit=limit,
                predicate=predicate,
                first_window_ms=first_ms,
                budget=budget,
                **chosen,
            )
        except QueryFailed as error:
            raise unavailable(str(error)) from error

    def _range(self, call: Call, group: LogGroup, span: Span, end_ms: int | None) -> tuple[int, int]:
        """The times to search [start, end): what was asked for, what is not expired, and what there is at all."""
        start_ms = max(0, int(call.params.get("startTime") or 0))
        end_ms = TIME_MS_MAX if end_ms is None else int(end_ms)
        if group.retention_days is not None:
            start_ms = max(start_ms, call.now_ms - group.retention_days * DAY_MS)
        if not self.totals.behind and span.first_ms is not None and span.last_ms is not None:
            # Totals are written before a put is answered, so they cover every event that a reader can know of.
            start_ms = max(start_ms, min(span.first_ms, end_ms))
            end_ms = min(end_ms, span.last_ms + 1)
        return start_ms, end_ms

    def _filtered_events(self, events: pa.Table) -> list[dict[str, Any]]:
        with self.state.read() as session:
            names = stream_names(session, set(events["stream_id"].to_pylist()))
        members = ("stream_id", "timestamp_ms", "message", "ingestion_ms", "sequence")
        columns = (events[name].to_pylist() for name in members)
        return [
            {
                "logStreamName": names[stream],
                "timestamp": timestamp,
                "message": message,
                "ingestionTime": ingestion,
                "eventId": event_id(timestamp, sequence),
            }
            for stream, timestamp, message, ingestion, sequence in zip(*columns, strict=True)
            if stream in names  # deleted while it was read
        ]


@dataclass(frozen=True)
class StreamPlace:
    """A place in a stream as GetLogEvents' tokens say it: `f/NUMBER/s` goes on after it, `b/NUMBER/s` before it.

    The number has AWS's form, the event's time above 144 bits; below are the sequence and the stream, so that a token
    of another stream is recognised.
    """

    forward: bool
    position: Position
    stream_id: int

    @property
    def token(self) -> str:
        timestamp_ms, sequence = self.position
        number = timestamp_ms << 144 | sequence << 80 | self.stream_id
        return f"{'f' if self.forward else 'b'}/{number:056d}/s"

    @classmethod
    def from_token(cls, token: str, stream_id: int) -> StreamPlace:
        direction, _, rest = token.partition("/")
        digits, _, end = rest.partition("/")
        if direction in ("f", "b") and end == "s" and digits.isascii() and digits.isdigit() and len(digits) <= 64:
            number = int(digits)
            position = (number >> 144, (number >> 80) & (2**64 - 1))
            if number & (2**80 - 1) == stream_id and position[0] < TIME_MS_MAX and position[1] < 2**63:
                return cls(direction == "f", position, stream_id)
        raise invalid("The specified nextToken is invalid.")


def event_id(timestamp_ms: int, sequence: int) -> str:
    """A unique id that sorts like the events; on AWS too the time stands above 144 bits of a 56-digit number."""
    return f"{timestamp_ms << 144 | sequence:056d}"


def _stream_tokens(
    events: pa.Table, stream_id: int, start_ms: int, token: str | None, place: StreamPlace | None
) -> dict[str, str]:
    """Both tokens of a page. At an end the token that led there comes back, which is how clients see that it is one."""
    if events.num_rows:
        ahead, back = _place(events, events.num_rows - 1), _place(events, 0)
    elif place is None:
        ahead = back = (start_ms, 0)
    else:
        # Nothing lies beyond the place. The way back begins at the same place, seen from its other side.
        timestamp_ms, sequence = place.position
        ahead, back = (timestamp_ms, max(0, sequence - 1)), (timestamp_ms, sequence + 1)
    tokens = {
        "nextForwardToken": StreamPlace(True, ahead, stream_id).token,
        "nextBackwardToken": StreamPlace(False, back, stream_id).token,
    }
    if not events.num_rows and place is not None and token is not None:
        tokens["nextForwardToken" if place.forward else "nextBackwardToken"] = token
    return tokens


def _place(events: pa.Table, row: int) -> Position:
    return events["timestamp_ms"][row].as_py(), events["sequence"][row].as_py()


def _filter_position(position: Any) -> tuple[bool, Position] | None:
    """From head, and the event after (or before) which the next page begins."""
    if position is None:
        return None
    match position:
        case [bool() as from_head, int() as timestamp_ms, int() as sequence]:
            return from_head, (timestamp_ms, sequence)
    raise invalid("The specified nextToken is invalid.")


def _stream_events(events: pa.Table) -> list[dict[str, Any]]:
    columns = (events[name].to_pylist() for name in ("timestamp_ms", "message", "ingestion_ms"))
    return [
        {"timestamp": timestamp, "message": message, "ingestionTime": ingestion}
        for timestamp, message, ingestion in zip(*columns, strict=True)
    ]


def _rows_in_page(events: pa.Table) -> int:
    """How many of the first rows make a page of at most 1 MB; never none where there are rows."""
    if not events.num_rows:
        return 0
    sizes = pc.binary_length(events["message"]).to_numpy().astype(np.int64) + EVENT_OVERHEAD_BYTES
    return max(1, int(np.searchsorted(np.cumsum(sizes), PAGE_BYTES_MAX, side="right")))


def _checked_batch(events: Any) -> pa.Table:
    """The events of a request as PUT_SCHEMA. Raises ApiError for what makes AWS refuse the whole request."""
    if not events:
        raise constraint("logEvents", "[]", "have length greater than or equal to 1")
    if len(events) > BATCH_EVENTS_MAX:
        raise constraint("logEvents", f"{len(events)} events", f"have length less than or equal to {BATCH_EVENTS_MAX}")
    try:
        times = pa.array([event["timestamp"] for event in events], pa.int64())
        messages = pa.array([event["message"] for event in events], pa.string())
    except (KeyError, TypeError, OverflowError, UnicodeError, pa.ArrowException) as error:
        raise invalid(f"logEvents: each event needs a timestamp and a message: {error}") from error
    if times.null_count or messages.null_count:
        raise invalid("logEvents: each event needs a timestamp and a message.")
    sizes = pc.binary_length(messages).to_numpy(zero_copy_only=False)
    if not sizes.all():
        empty = int(np.argmin(sizes)) + 1
        raise constraint(f"logEvents.{empty}.member.message", "", "have length greater than or equal to 1")
    if (largest := int(sizes.max())) > EVENT_BYTES_MAX:
        raise invalid(f"Log event too large: {largest} bytes exceeds limit of {EVENT_BYTES_MAX}")
    total = int(sizes.sum()) + EVENT_OVERHEAD_BYTES * len(events)
    if total > BATCH_BYTES_MAX:
        raise invalid(f"Upload too large: {total} bytes exceeds limit of {BATCH_BYTES_MAX}")
    stamps = times.to_numpy()
    if stamps.min() < 0:
        first = int(np.argmax(stamps < 0)) + 1
        raise constraint(
            f"logEvents.{first}.member.timestamp", int(stamps.min()), "have value greater than or equal to 0"
        )
    if bool(np.any(stamps[1:] < stamps[:-1])):
        raise invalid("Log events in a single PutLogEvents request must be in chronological order.")
    return pa.table([times, messages], schema=PUT_SCHEMA)

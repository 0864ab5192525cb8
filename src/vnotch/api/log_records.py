"""Deliveries of records in typed columns: vnotch's own way beside PutLogEvents, with the same permissions and rules.

    POST /vnotch/v1/log-records?group=NAME&stream=NAME[&create=true]     logs:PutLogEvents on the log stream

The body is one Arrow IPC stream, not compressed: `timestamp` (int64, Unix ms, ascending) and the columns of a flow
log's format as `Format.schema` has them; the schema's metadata `vnotch.format` is the format's text. The headers for
batch ids are those of PutLogEvents, and so are the bounds on times and the answer. With `create=true` a stream that is
missing is made, which needs logs:CreateLogStream as well; a group never is.
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
from starlette.routing import Route

from vnotch.api.logs import Logs
from vnotch.api.logs.part import (
    GROUP_NAME,
    STREAM_NAME,
    checked_name,
    constraint,
    existing_group,
    invalid,
    no_such_group,
    no_such_stream,
)
from vnotch.api.logs.puts import COMMIT_SECONDS_MAX, members_of, stored, submitted, within_time
from vnotch.api.own_routes import SignedRequest, signed_route
from vnotch.deliver.record_body import TIMESTAMP, read_body
from vnotch.errors import InputError
from vnotch.fields import Format
from vnotch.store.batch_keys import record_batch_key
from vnotch.store.committer import Appended
from vnotch.store.log_groups import LogGroup, find_stream
from vnotch.store.remembered import Remembered
from vnotch.store.stream_maker import Made

RECORDS_MAX = 200_000
TURNS = os.cpu_count() or 1
"""Deliveries that are read and checked at a time. More of them would not be done sooner, and whoever reads meanwhile
would share the processors with all of them."""


HandedIn: TypeAlias = "tuple[list[Future[Appended]], dict[str, Any]]"
"""What is about to be stored, and the answer to be given then."""


class LogRecords:
    """The endpoint. `logs` is the service whose groups these are."""

    def __init__(self, logs: Logs) -> None:
        self.logs = logs
        self._turns = asyncio.Semaphore(TURNS)
        self._streams: Remembered[tuple[str, str], tuple[LogGroup, int]] = Remembered(logs.state)

    def routes(self) -> list[Route]:
        return [signed_route("/vnotch/v1/log-records", self.put, ["POST"])]

    async def put(self, request: SignedRequest) -> dict[str, Any]:
        asked = request.query_params
        group = checked_name("group", asked.get("group"), GROUP_NAME, r"[\.\-_/#A-Za-z0-9]+")
        stream = checked_name("stream", asked.get("stream"), STREAM_NAME, "[^:*]*")
        arn = f"arn:aws:logs:{request.region}:{request.account}:log-group:{group}:log-stream:{stream}"
        request.authorise("logs:PutLogEvents", arn)
        handed_in = await self._in_turn(request, group, stream)
        if handed_in is None:
            if asked.get("create") != "true":
                raise no_such_stream()
            request.authorise("logs:CreateLogStream", arn)
            await request.in_pool(partial(self._make, group, stream, request.now_ms))
            handed_in = await self._in_turn(request, group, stream)
        if handed_in is None:
            raise no_such_stream()  # deleted again in this moment
        futures, answer = handed_in
        waiting = [asyncio.wrap_future(future) for future in futures]
        if waiting:
            await asyncio.wait(waiting, timeout=COMMIT_SECONDS_MAX)
        return stored(futures, answer)

    async def _in_turn(self, request: SignedRequest, group: str, stream: str) -> HandedIn | None:
        """None where the stream is missing."""
        async with self._turns:
            handed_in: HandedIn | None = await request.in_pool(partial(self._submit_to, request, group, stream))
            return handed_in

    def _submit_to(self, request: SignedRequest, group: str, stream: str) -> HandedIn | None:
        found = self._streams.get((group, stream), partial(self._find, group, stream))
        return None if found is None else self._submit(request, *found)

    def _find(self, group: str, stream: str) -> tuple[LogGroup, int] | None:
        with self.logs.state.read() as session:
            found = existing_group(session, group)
            row = find_stream(session, found.id, stream)
        return (found, row.id) if row is not None else None

    def _make(self, group: str, stream: str, now_ms: int) -> None:
        with self.logs.state.read() as session:
            group_id = existing_group(session, group).id
        if self.logs.stream_maker.make(group_id, stream, now_ms) is Made.NO_GROUP:
            raise no_such_group()

    def _submit(self, request: SignedRequest, group: LogGroup, stream_id: int) -> HandedIn:
        records, format = read_records(request.exchange.body)
        members = members_of(request.exchange.header, records.num_rows)
        try:
            rows = self.logs.lake.record_rows(records, format)
        except InputError as error:
            raise invalid(str(error)) from error
        begin, end, rejected = within_time(records, request.now_ms, group.retention_days)
        futures = []
        for batch_id, first, last in members:
            valid = rows.slice(max(first, begin), max(0, min(last, end) - max(first, begin)))
            if valid.num_rows:
                # The key is of all its records: a retry a moment later may have fewer that are still in time.
                whole = records.slice(first, last - first)
                key = None
                if batch_id is not None:
                    key = record_batch_key(group.id, stream_id, batch_id, whole, format)
                submit = partial(self.logs.lake.submit_rows, group.id, stream_id, valid, request.now_ms, key)
                futures.append(submitted(submit))
        return futures, {"rejectedLogEventsInfo": rejected} if rejected else {}


def read_records(body: bytes) -> tuple[pa.Table, Format]:
    """The body of a delivery -> (`timestamp_ms` and the format's columns, the format). Raises ApiError."""
    try:
        table, format = read_body(body)
    except InputError as error:
        raise invalid(f"The body is no Arrow IPC stream of records: {error}") from None
    if not 1 <= table.num_rows <= RECORDS_MAX:
        raise constraint("records", table.num_rows, f"be between 1 and {RECORDS_MAX}")
    times = table[TIMESTAMP]
    if times.null_count or pc.min(times).as_py() < 0:
        raise invalid("Each record needs a timestamp that is not negative.")
    stamps = times.to_numpy()
    if bool((stamps[1:] < stamps[:-1]).any()):
        raise invalid("The records of a delivery must be in chronological order.")
    return table.rename_columns(["timestamp_ms", *format.columns]), format

"""Imports of existing flow logs: files, part by part, into a log group, each once.

    POST /vnotch/v1/log-imports?group=NAME&file=ID&part=NUMBER    logs:PutLogEvents on the streams
    POST /vnotch/v1/log-imports/status?group=NAME                 logs:PutLogEvents on the group's streams
    POST /vnotch/v1/log-imports/complete?group=NAME               the same

A part is as `imports.body` says. Streams that are missing are made (logs:CreateLogStream). Old records are what an
import is for: AWS's bounds of 14 days and of 24 hours in a call are not kept to, the group's retention is.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa
from sqlalchemy import select
from starlette.routing import Route

from vnotch.api.logs.part import existing_group, invalid
from vnotch.api.logs.puts import COMMIT_SECONDS_MAX, NEW_MS, stored, submitted
from vnotch.api.own_routes import SignedRequest, signed_route
from vnotch.coded import coded, codes_of
from vnotch.errors import InputError
from vnotch.fields import Format
from vnotch.imports.body import STREAM, TIMESTAMP, read_part
from vnotch.store.committer import Appended
from vnotch.store.lake import Lake
from vnotch.store.log_groups import DAY_MS, LogGroup, LogStream
from vnotch.store.log_imports import FILE_ID_CHARACTERS, add_part, complete, imported
from vnotch.store.state import State

STREAMS_MAX = 5_000
"""Of one part."""
FILES_MAX = 1000
"""Of one question about their state."""
NAME_CHARACTERS_MAX = 2000
_HEX = frozenset("0123456789abcdef")


@dataclass
class Counted:
    """What became of a part's records. Those that were stored before, by a part that comes again, count as stored."""

    stored: int = 0
    expired: int = 0
    too_new: int = 0


class LogImports:
    """The endpoint's handlers. `routes()` goes into `build_app(extra_routes=...)`."""

    def __init__(self, state: State, lake: Lake) -> None:
        self.state = state
        self.lake = lake

    def routes(self) -> list[Route]:
        return [
            signed_route("/vnotch/v1/log-imports", self.put, ["POST"]),
            signed_route("/vnotch/v1/log-imports/status", self.status, ["POST"]),
            signed_route("/vnotch/v1/log-imports/complete", self.complete, ["POST"]),
        ]

    async def put(self, request: SignedRequest) -> dict[str, Any]:
        asked = request.query_params
        name, file_id, number = asked.get("group", ""), _file_id(asked.get("file")), asked.get("part", "")
        if not (number.isascii() and number.isdigit() and len(number) < 10):
            raise invalid("part is a number from 0.")
        request.authorise("logs:PutLogEvents", _streams_arn(request, name))
        records, format = await request.in_pool(_read, request.exchange.body)
        runs = _runs(records)
        _authorise_each(request, "logs:PutLogEvents", name, [run.stream for run in runs])
        group, ids = await request.in_pool(self._find, name, [run.stream for run in runs])
        if missing := [run.stream for run in runs if run.stream not in ids]:
            _authorise_each(request, "logs:CreateLogStream", name, missing)
            ids |= await request.in_pool(self._make, group, missing, request.now_ms)
        # Bound to the content: a part that comes again is the same in all its bytes.
        label = f"import {file_id}/{number} {request.exchange.payload_sha256}"
        futures, counted = await request.in_pool(
            partial(self._submit, group, ids, runs, records, format, label, request.now_ms)
        )
        waiting = [asyncio.wrap_future(future) for future in futures]
        if waiting:
            await asyncio.wait(waiting, timeout=COMMIT_SECONDS_MAX)
        stored(futures, {})
        await request.in_pool(self._stored, group.id, file_id, int(number))
        return asdict(counted)

    async def status(self, request: SignedRequest) -> dict[str, Any]:
        name = request.query_params.get("group", "")
        request.authorise("logs:PutLogEvents", _streams_arn(request, name))
        files = request.json().get("files")
        if not isinstance(files, list) or len(files) > FILES_MAX:
            raise invalid(f"files is a list of at most {FILES_MAX} ids.")
        ids = [_file_id(item) for item in files]

        def read() -> dict[str, Any]:
            with self.state.read() as session:
                found = imported(session, existing_group(session, name).id, ids)
            return {"files": {key: asdict(value) for key, value in found.items()}}

        answer: dict[str, Any] = await request.in_pool(read)
        return answer

    async def complete(self, request: SignedRequest) -> dict[str, Any]:
        name, body = request.query_params.get("group", ""), request.json()
        request.authorise("logs:PutLogEvents", _streams_arn(request, name))
        file_id, label = _file_id(body.get("file")), body.get("name")
        if not isinstance(label, str) or len(label) > NAME_CHARACTERS_MAX:
            raise invalid(f"name is a text of at most {NAME_CHARACTERS_MAX} characters.")

        def write() -> None:
            with self.state.write() as session:
                complete(session, existing_group(session, name).id, file_id, label, request.now_ms)

        await request.in_pool(write)
        return {}

    def _find(self, name: str, streams: list[str]) -> tuple[LogGroup, dict[str, int]]:
        with self.state.read() as session:
            group = existing_group(session, name)
            query = select(LogStream.name, LogStream.id)
            rows = session.execute(query.where(LogStream.group_id == group.id, LogStream.name.in_(streams)))
            return group, {row.name: row.id for row in rows}

    def _make(self, group: LogGroup, streams: list[str], now_ms: int) -> dict[str, int]:
        with self.state.write() as session:
            query = select(LogStream.name).where(LogStream.group_id == group.id, LogStream.name.in_(streams))
            there = set(session.scalars(query))
            session.add_all(
                LogStream(group_id=group.id, name=name, creation_ms=now_ms) for name in streams if name not in there
            )
        return self._find(group.name, streams)[1]

    def _submit(
        self,
        group: LogGroup,
        ids: dict[str, int],
        runs: list[_Run],
        records: pa.Table,
        format: Format,
        label: str,
        now_ms: int,
    ) -> tuple[list[Future[Appended]], Counted]:
        oldest_ms = 0 if group.retention_days is None else now_ms - group.retention_days * DAY_MS
        counted = Counted()
        times = records[TIMESTAMP].to_numpy()
        try:
            rows = self.lake.record_rows(records, format)
        except InputError as error:
            raise invalid(str(error)) from None
        streams, slices = [], []
        for run in runs:
            begin = run.begin + int(np.searchsorted(times[run.begin : run.end], oldest_ms))
            end = run.begin + int(np.searchsorted(times[run.begin : run.end], now_ms + NEW_MS, side="right"))
            counted.expired += begin - run.begin
            counted.too_new += run.end - end
            counted.stored += end - begin
            if begin < end:
                streams.append((ids[run.stream], end - begin))
                slices.append(rows.slice(begin, end - begin))
        if not streams:
            return [], counted
        if counted.stored < rows.num_rows:
            rows = pa.concat_tables(slices).combine_chunks()
        # One batch: the part is stored as a whole or not at all.
        key = blake2b(f"{group.id} {label}".encode(), digest_size=16).digest()
        return [submitted(partial(self.lake.submit_runs, group.id, streams, rows, now_ms, key))], counted

    def _stored(self, group_id: int, file_id: str, number: int) -> None:
        with self.state.write() as session:
            add_part(session, group_id, file_id, number)


@dataclass(frozen=True)
class _Run:
    """The rows of one stream."""

    stream: str
    begin: int
    end: int


def _runs(records: pa.Table) -> list[_Run]:
    """Raises ApiError where a stream comes in several places, or its records are not in order of time."""
    found = coded(records[STREAM])
    places = codes_of(found)
    begins = [0, *(np.flatnonzero(places[1:] != places[:-1]) + 1).tolist()]
    texts = found.dictionary.take(pa.array(places[begins])).to_pylist()
    names = set(texts)
    if len(texts) > len(names):
        raise invalid("The records of a stream must follow one another.")
    if len(names) > STREAMS_MAX:
        raise invalid(f"A part has at most {STREAMS_MAX} streams.")
    times = records[TIMESTAMP].to_numpy()
    down = np.flatnonzero(times[1:] < times[:-1]) + 1
    if not set(down.tolist()) <= set(begins):
        raise invalid("The records of a stream must be in chronological order.")
    if any(not name or len(name) > 512 or ":" in name or "*" in name for name in names):
        raise invalid("A stream's name has 1 to 512 characters, and neither : nor *.")
    ends = [*begins[1:], records.num_rows]
    return [_Run(text, begin, end) for text, begin, end in zip(texts, begins, ends, strict=True)]


def _read(body: bytes) -> tuple[pa.Table, Format]:
    try:
        return read_part(body)
    except InputError as error:
        raise invalid(str(error)) from None


def _file_id(text: Any) -> str:
    if not isinstance(text, str) or len(text) != FILE_ID_CHARACTERS or not set(text) <= _HEX:
        raise invalid(f"file is an id of {FILE_ID_CHARACTERS} hexadecimal digits.")
    return text


def _authorise_each(request: SignedRequest, action: str, group: str, streams: list[str]) -> None:
    """A policy may speak of one stream alone; whoever wrote it means imports too."""
    prefix = _streams_arn(request, group).removesuffix("*")
    request.authorise(action, *(prefix + stream for stream in streams))


def _streams_arn(request: SignedRequest, group: str) -> str:
    return f"arn:aws:logs:{request.region}:{request.account}:log-group:{group}:log-stream:*"

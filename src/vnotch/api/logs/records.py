"""What fields events have: GetLogRecord and GetLogGroupFields (CloudWatch Logs API reference 2014-03-28; user guide,
"Supported logs and discovered fields")."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import orjson
from sqlalchemy import select

from vnotch.api.logs.part import ON_GROUP, LogsPart, existing_group, group_in, invalid, stream_arn
from vnotch.api.service import ApiError, Call, operation
from vnotch.errors import InputError
from vnotch.fields import FIELDS, SEPARATOR, Format
from vnotch.insights.events import RECORD_FIELDS, SYSTEM_FIELDS, discovered_name
from vnotch.insights.pointers import Pointer
from vnotch.store.log_groups import DAY_MS, LogGroup, LogStream
from vnotch.store.log_totals import graves_of

AROUND_MS = 8 * 60_000
RECENT_MS = 15 * 60_000
SECONDS_MAX = 100_000_000_000
"""A larger `time` is one in milliseconds."""

TEXTS_LOOKED_AT = 10_000
"""Text messages of the period whose JSON fields are counted; their shares stand for the others."""

FIELDS_MAX = 1000
NAMES = {item.name: {"start": "startTime", "end": "endTime"}.get(item.name, discovered_name(item)) for item in FIELDS}
"""Field of a record -> its name among the discovered fields."""

assert set(NAMES.values()) <= RECORD_FIELDS.keys()


class LogRecords(LogsPart):
    def group_of_pointer(self, call: Call) -> list[str]:
        """GetLogRecord is authorised on the group of the record; of a pointer to nothing, on any."""
        try:
            pointer = Pointer.parse(call.params["logRecordPointer"])
        except InputError:
            return ["*"]
        with self.state.read() as session:
            name = session.scalar(select(LogGroup.name).where(LogGroup.id == pointer.group_id))
        return [stream_arn(call, name, "")] if name is not None else ["*"]

    @operation("GetLogRecord", "group_of_pointer")
    def get_log_record(self, call: Call) -> dict[str, Any]:
        try:
            pointer = Pointer.parse(call.params["logRecordPointer"])
        except InputError as error:
            raise invalid(error.message) from None
        with self.state.read() as session:
            wanted = select(LogGroup, LogStream).join(LogStream, LogStream.group_id == LogGroup.id)
            found = session.execute(
                wanted.where(LogGroup.id == pointer.group_id, LogStream.id == pointer.stream_id)
            ).one_or_none()
        if found is None or _is_expired(found[0], pointer.timestamp_ms, call.now_ms):
            raise _no_record()
        group, stream = found
        relation = self.lake.relation(
            [group.id], start_ms=pointer.timestamp_ms, end_ms=pointer.timestamp_ms + 1, stream_ids=[stream.id]
        )
        sql = f"SELECT ingestion_ms, format_id, message FROM {relation.sql} WHERE sequence = ?"
        rows = self.lake.arrow(sql, [*relation.parameters, pointer.sequence]).to_pylist()
        if not rows:
            raise _no_record()
        row = rows[0]
        record = {
            "@timestamp": str(pointer.timestamp_ms),
            "@ingestionTime": str(row["ingestion_ms"]),
            "@message": row["message"],
            "@logStream": stream.name,
            "@log": f"{call.account}:{group.name}",
            "@ptr": call.params["logRecordPointer"],
        }
        form = relation.formats.get(row["format_id"])
        return {"logRecord": {**discovered(row["message"], form), **record}}

    @operation("GetLogGroupFields", ON_GROUP)
    def get_log_group_fields(self, call: Call) -> dict[str, Any]:
        name = group_in(call)
        start_ms, end_ms = _period(call)
        with self.state.read() as session:
            group = existing_group(session, name)
            buried = graves_of(session, group.id)
        if group.retention_days is not None:
            start_ms = max(start_ms, call.now_ms - group.retention_days * DAY_MS)
        relation = self.lake.relation([group.id], start_ms=start_ms, end_ms=end_ms, without_streams=buried)
        by_format = f"SELECT format_id, count(*) AS events FROM {relation.sql} GROUP BY format_id"
        counts = {
            row["format_id"]: row["events"] for row in self.lake.arrow(by_format, relation.parameters).to_pylist()
        }
        total = sum(counts.values())
        having: defaultdict[str, float] = defaultdict(float)
        for format_id, form in relation.formats.items():
            for item in form.fields:
                having[NAMES[item.name]] += counts.get(format_id, 0)
        if texts := counts.get(None, 0):
            sql = f"SELECT message FROM {relation.sql} WHERE format_id IS NULL LIMIT {TEXTS_LOOKED_AT}"
            messages = self.lake.arrow(sql, relation.parameters)["message"].to_pylist()
            seen = Counter(key for message in messages for key in discovered(message, None))
            for key, number in seen.most_common(FIELDS_MAX):
                having[key] += number * texts / len(messages)
        if not total:
            return {"logGroupFields": []}
        for key in SYSTEM_FIELDS:
            having[key] = total
        shares = {key: round(100 * number / total) for key, number in having.items() if number}
        listed = sorted(shares.items(), key=lambda pair: (-pair[1], pair[0]))[:FIELDS_MAX]
        return {"logGroupFields": [{"name": key, "percent": percent} for key, percent in listed]}


def _no_record() -> ApiError:
    return ApiError("ResourceNotFoundException", "The specified log record does not exist.")


def _is_expired(group: LogGroup, timestamp_ms: int, now_ms: int) -> bool:
    return group.retention_days is not None and timestamp_ms < now_ms - group.retention_days * DAY_MS


def _period(call: Call) -> tuple[int, int]:
    """Start and end, end not included: 8 minutes to either side of `time` (epoch seconds), or the last 15 minutes."""
    time = call.params.get("time")
    if time is None:
        return call.now_ms - RECENT_MS, call.now_ms + 1
    middle_ms = time * 1000 if time < SECONDS_MAX else time
    return max(0, middle_ms - AROUND_MS), middle_ms + AROUND_MS + 1


def discovered(message: str, form: Format | None) -> dict[str, str]:
    """The fields of a message: those of its format, or of the JSON object that it is."""
    if form is not None:
        values = message.split(SEPARATOR)
        return {NAMES[item.name]: value for item, value in zip(form.fields, values, strict=True)}
    if not message.lstrip().startswith("{"):
        return {}
    try:
        document = orjson.loads(message)
    except orjson.JSONDecodeError:
        return {}
    found: dict[str, str] = {}
    for key, value in _leaves("", document):
        if len(found) >= FIELDS_MAX:
            break
        found[key] = value
    return found


def _leaves(prefix: str, node: Any) -> Iterator[tuple[str, str]]:
    """`a.b.0`: dots into objects and lists. orjson bounds how deep a document goes."""
    stack: list[tuple[str, Any]] = [(prefix, node)]
    while stack:
        name, value = stack.pop()
        children: dict[Any, Any] | None = None
        if isinstance(value, dict):
            children = value
        elif isinstance(value, list):
            children = dict(enumerate(value))
        if children is None:
            yield name, value if isinstance(value, str) else orjson.dumps(value).decode()
        else:
            stack += [(f"{name}.{key}" if name else str(key), child) for key, child in reversed(list(children.items()))]

"""The log events that a query reads, and the fields that they have by themselves.

Fields with `@` are every event's. A record of a known format has the fields of its format, under the names of AWS's
discovered fields (`srcAddr` for srcaddr, `pktSrcAddr`, `vpcId`); any other message has those of the JSON object that it
is, with dots into objects and lists.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from vnotch.fields import FIELDS, Field, Format, column_name
from vnotch.insights import pointers
from vnotch.insights.values import Alternatives, Kind, Sql, Value, bound, joined, number_value, sql, text_value


@dataclass(frozen=True)
class Source:
    """Where events come from: SQL that stands behind FROM, with its parameters.

    It has the columns group_id, stream_id, timestamp_ms, ingestion_ms, sequence, format_id (NULL: a text message),
    message (NULL in records), and a typed column for each field of `fields.FIELDS`, NULL where the line has `-`.
    `line` is SQL on these columns for the message as it was delivered; it costs, so it is not one of them. `formats`
    are all that occur. `groups` are the names of log groups by their ids, `streams` those of log streams.
    """

    sql: str
    parameters: tuple[object, ...]
    line: str
    formats: Mapping[int, Format]
    account: str
    groups: Mapping[int, str]
    streams: Mapping[int, str] = field(default_factory=dict)


_WORDS = (("src", "Src"), ("dst", "Dst"))


def discovered_name(item: Field) -> str:
    """The name of a record's field in queries: camelCase, with `srcaddr` as two words."""
    words = re.sub(r"(src|dst)(addr|port)", r"\1-\2", item.name).split("-")
    return words[0] + "".join(word.capitalize() for word in words[1:])


def _names() -> dict[str, Field]:
    names = {discovered_name(item): item for item in FIELDS}
    by_field = {item.name: item for item in FIELDS}
    # AWS discovers startTime and endTime; its transformer for flow logs calls the same two start and end.
    names["startTime"], names["endTime"] = by_field["start"], by_field["end"]
    # User guides write these either way.
    for name, item in list(names.items()):
        names.setdefault(name.replace("Addr", "addr").replace("Port", "port") if "pkt" in name else name, item)
    return names


RECORD_FIELDS = _names()
"""Name in queries -> field of records."""


def system_field(name: str, source: Source) -> Value | None:
    """The value of a field that every event has; None where there is none of that name."""
    match name:
        case "@timestamp":
            return Value(Kind.TIME, Sql("timestamp_ms"))
        case "@ingestionTime":
            return Value(Kind.TIME, Sql("ingestion_ms"))
        case "@message":
            return text_value(Sql(f"({source.line})"))
        case "@logStream":
            return text_value(Sql("stream_name"))
        case "@log":
            return text_value(_log(source))
        case "@ptr":
            return text_value(Sql(pointers.SQL))
    return None


SYSTEM_FIELDS = ("@timestamp", "@ingestionTime", "@message", "@logStream", "@log", "@ptr")


def _log(source: Source) -> Sql:
    whens = [
        sql("WHEN {} THEN {}", bound(number), bound(f"{source.account}:{name}"))
        for number, name in source.groups.items()
    ]
    return sql("CASE group_id {} END", joined(" ", whens)) if whens else Sql("NULL::VARCHAR")


def events(source: Source, *, with_streams: bool) -> Sql:
    """The events; with a column stream_name only where it is asked for, since it costs a join."""
    found = Sql(source.sql, tuple(source.parameters))
    if not with_streams:
        return found
    return sql(
        "(SELECT e.*, s.stream_name FROM {} AS e LEFT JOIN (SELECT unnest({}::INTEGER[]) AS stream_id, "
        "unnest({}::VARCHAR[]) AS stream_name) AS s ON s.stream_id = e.stream_id)",
        found, bound(list(source.streams)), bound(list(source.streams.values())),
    )  # fmt: skip


def discovered_field(keys: Sequence[str], source: Source) -> Value:
    """The value of a field that only some events have."""
    item = RECORD_FIELDS.get(keys[0]) if len(keys) == 1 else None
    json = json_text(Sql("CASE WHEN starts_with(ltrim(message), '{') THEN message END"), keys)
    if item is None:
        return text_value(json)
    having = [number for number, form in source.formats.items() if item in form.fields]
    if not having:
        return text_value(json)
    column = Sql('"' + column_name(item.name) + '"')
    known = Sql("format_id IN (" + ", ".join(str(int(number)) for number in having) + ")")
    fallback = sql("CASE WHEN {} THEN '-' WHEN format_id IS NULL THEN {} END", known, json)
    if pa.types.is_integer(item.type):
        other = sql("CASE WHEN {} IS NULL THEN {} END", column, fallback)
        alternatives = Alternatives(number_value(column), known, text_value(json))
        return Value(Kind.MIXED, sql("CAST({} AS BIGINT)", column), other, alternatives=alternatives)
    alternatives = Alternatives(text_value(column), known, text_value(json))
    # CASE and not coalesce, which DuckDB computes at three times the cost here.
    shown = sql("CASE WHEN {} IS NOT NULL THEN {} ELSE {} END", column, column, fallback)
    return Value(Kind.TEXT, shown, alternatives=alternatives)


def json_text(of: Sql, keys: Sequence[str]) -> Sql:
    """A value in a JSON text, at a path of keys and positions; NULL where there is none."""
    pointer = "".join("/" + key.replace("~", "~0").replace("/", "~1") for key in keys)
    return sql("try(json_extract_string({}, {}))", of, bound(pointer))


def json_value(of: Sql, keys: Sequence[str]) -> Sql:
    """As `json_text`, as JSON."""
    pointer = "".join("/" + key.replace("~", "~0").replace("/", "~1") for key in keys)
    return sql("try(json_extract({}, {}))", of, bound(pointer))

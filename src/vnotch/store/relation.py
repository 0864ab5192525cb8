"""Events as a relation for SQL: every column of the table, and the message of records rendered as it was delivered.

Rendering is an expression on the record's columns. It costs about a microsecond a row, and only where a statement uses
it; conditions belong on the typed columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vnotch.fields import ABSENT, SEPARATOR, Format
from vnotch.store.event_table import EVENT_COLUMNS, RECORD_COLUMNS, quoted

UNKNOWN_FORMAT = "the format of a record is new"
"""What a statement raises that began before, and ran after, the very first record of a format was stored in its
group: it can render all that it was made for, and is made anew for the rest."""


@dataclass(frozen=True)
class Predicate:
    """A condition on events as SQL with bound parameters."""

    sql: str
    parameters: tuple[Any, ...] = ()
    alternatives: tuple[Predicate, ...] = ()
    """The same as several conditions of which an event meets at most one. Asked one by one, those that are on typed
    columns are answered without the message, which a statement that has it anywhere renders for every event."""


@dataclass(frozen=True)
class Extent:
    """Between which times and groups all events lie that the lake had up to a snapshot of its catalog."""

    snapshot: int
    first_ms: int
    last_ms: int
    first_group: int
    last_group: int

    @property
    def table(self) -> str:
        """SQL: the events of this snapshot, whatever is stored meanwhile."""
        return f"events AT (VERSION => {int(self.snapshot)})"


@dataclass(frozen=True)
class Relation:
    """`sql` stands behind FROM; `parameters` are for its `?`. `formats` are all that its records can have.

    Columns: group_id, stream_id, timestamp_ms, ingestion_ms, sequence, format_id, message (never NULL) and one for each
    field, which is NULL where the line has `-`, where the format lacks the field, and in text.
    """

    where: str
    parameters: tuple[Any, ...]
    formats: Mapping[int, Format]
    table: str = "events"

    def stored(self, after: int, upto: int) -> Relation:
        """Of these the events with after < sequence <= upto; others are left out before anything is rendered."""
        return replace(self, where=f"{self.where} AND sequence > {int(after)} AND sequence <= {int(upto)}")

    @property
    def sql(self) -> str:
        stored = ", ".join(column.name for column in EVENT_COLUMNS if column.name != "message")
        typed = ", ".join(quoted(column.name) for column in RECORD_COLUMNS)
        return (
            f"(SELECT {stored}, {message_sql(self.formats)} AS message, {typed} FROM {self.table} WHERE {self.where})"
        )

    @property
    def typed_columns(self) -> list[str]:
        """The fields that its records can have a value in."""
        names = {name for format in self.formats.values() for name in format.columns}
        return [name for name in RECORD_COLUMNS.names if name in names]

    def text(self, column: str) -> str:
        """SQL: a field's value as the line shows it, `-` where it is absent; NULL in text and where the format lacks
        the field."""
        numbers = [str(number) for number, format in self.formats.items() if column in format.columns]
        if not numbers:
            return "CAST(NULL AS VARCHAR)"
        return f"CASE WHEN format_id IN ({', '.join(numbers)}) THEN {_shown(quoted(column))} END"

    def message_of(self, format: Format) -> str:
        """SQL: the line of a record of this format."""
        return line_sql(format)


def relation_of(
    group_ids: Sequence[int],
    formats: Mapping[int, Format],
    *,
    start_ms: int,
    end_ms: int,
    stream_ids: Sequence[int] | None = None,
    without_streams: Sequence[int] = (),
    extent: Extent | None = None,
) -> Relation:
    """The events of some groups with start_ms <= time < end_ms; with an `extent`, those of its snapshot.

    What all events of the extent meet is no condition then: its columns would be read for nothing.
    """
    conditions = []
    if extent is None or start_ms > extent.first_ms or end_ms <= extent.last_ms:
        conditions += [f"timestamp_ms >= {int(start_ms)}", f"timestamp_ms < {int(end_ms)}"]
    if extent is None or not {extent.first_group} == {extent.last_group} == set(group_ids):
        conditions.append(_is_in("group_id", group_ids))
    if stream_ids is not None:
        conditions.append(_is_in("stream_id", stream_ids))
    if without_streams:
        conditions.append(f"NOT {_is_in('stream_id', without_streams)}")
    table = extent.table if extent is not None else "events"
    return Relation(" AND ".join(conditions) or "true", (), formats, table)


def message_sql(formats: Mapping[int, Format]) -> str:
    """SQL: the message of an event, whichever it is."""
    if not formats:
        return f"CASE WHEN format_id IS NULL THEN message ELSE error('{UNKNOWN_FORMAT}') END"
    cases = " ".join(f"WHEN {number} THEN {line_sql(format)}" for number, format in formats.items())
    return (
        f"CASE WHEN format_id IS NULL THEN message ELSE CASE format_id {cases} ELSE error('{UNKNOWN_FORMAT}') END END"
    )


def line_sql(format: Format) -> str:
    """SQL: the line of a record, as `line.record_lines` writes it."""
    return f"concat_ws('{SEPARATOR}', {', '.join(_shown(quoted(column)) for column in format.columns)})"


def _shown(column: str) -> str:
    return f"coalesce(CAST({column} AS VARCHAR), '{ABSENT}')"


def _is_in(column: str, numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return f"{column} = {int(numbers[0])}"
    return f"{column} IN ({', '.join(str(int(number)) for number in numbers) or 'NULL'})"

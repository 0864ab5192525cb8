"""A few events in a table like that of the log service, and queries over them without a server.

Records are given as lines of the default format; any other message is a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from vnotch.errors import InputError
from vnotch.fields import DEFAULT_FORMAT, Format, parse_format
from vnotch.insights.calls import Asked
from vnotch.insights.compile import Compiled, compile_query
from vnotch.insights.events import Source
from vnotch.insights.pointers import Pointer
from vnotch.insights.runs import Question, Run
from vnotch.line import parse_line
from vnotch.store.event_table import EVENT_COLUMNS, RECORD_COLUMNS, quoted
from vnotch.store.relation import message_sql

BEGIN_MS = 1_700_000_000_000
"""2023-11-14 22:13:20 UTC."""

ASKED = Asked(now_ms=BEGIN_MS + 3_600_500, start_ms=BEGIN_MS, end_ms=BEGIN_MS + 3_600_999)
FORMAT = parse_format(DEFAULT_FORMAT)
SQL_TYPES = {"int32": "INTEGER", "int64": "BIGINT", "string": "VARCHAR"}


@dataclass
class World:
    """Events a minute apart, in order of their sequence; stream 1 is named `eni-1-all`, group 1 `flow`."""

    messages: Sequence[str]
    format: Format = FORMAT

    def __post_init__(self) -> None:
        self.database = duckdb.connect()
        columns = [*EVENT_COLUMNS, *RECORD_COLUMNS]
        kinds = ", ".join(f"{quoted(column.name)} {SQL_TYPES[str(column.type)]}" for column in columns)
        self.database.execute(f"CREATE TABLE events ({kinds})")
        for number, message in enumerate(self.messages):
            self._insert(number, message)
        self.source = Source(
            "(SELECT * FROM events)", (), message_sql({1: self.format}), {1: self.format}, "123456789012",
            {1: "flow"}, {1: "eni-1-all"},
        )  # fmt: skip

    def _insert(self, number: int, message: str) -> None:
        values: dict[str, Any] = {
            "group_id": 1, "stream_id": 1, "timestamp_ms": BEGIN_MS + number * 60_000,
            "ingestion_ms": BEGIN_MS + number * 60_000 + 5, "sequence": number,
        }  # fmt: skip
        try:
            values |= {"format_id": 1, **parse_line(message, self.format)}
        except InputError:
            values["message"] = message
        names = ", ".join(quoted(name) for name in values)
        marks = ", ".join("?" * len(values))
        self.database.execute(f"INSERT INTO events ({names}) VALUES ({marks})", list(values.values()))

    def compile(self, query: str, limit: int = 10_000) -> Compiled:
        return compile_query(query, self.source, ASKED, limit)

    def ask(self, query: str, limit: int = 10_000) -> list[dict[str, str]]:
        """Rows as GetQueryResults gives them, without pointers."""
        rows = self._answer(query, limit)
        return [{name: value for name, value in row.items() if name != "@ptr"} for row in rows]

    def sequences(self, query: str) -> list[int]:
        """Which events an answer has, in its order."""
        return [Pointer.parse(row["@ptr"]).sequence for row in self._answer(query, 10_000)]

    def one(self, expression: str) -> str | None:
        """The value of an expression that needs no event."""
        (row,) = self.ask(f"fields {expression} as answer | limit 1")
        return row.get("answer")

    def matched(self, query: str) -> int | None:
        """How many events matched, where the query's own answer does not say it."""
        statement = self.compile(query).matched
        if statement is None:
            return None
        (count,) = self.database.execute(statement.text, list(statement.parameters)).fetchall()
        return int(count[0])

    def _answer(self, query: str, limit: int) -> list[dict[str, str]]:
        compiled = self.compile(query, limit)
        answer = self.database.execute(compiled.statement.text, list(compiled.statement.parameters)).to_arrow_table()
        question = Question(query, ("flow",), ASKED, limit, "", lambda: self.source, 0.0)
        run = Run("", question, answer=answer, compiled=compiled)
        return [{cell["field"]: cell["value"] for cell in row} for row in run.page(0, limit)]

"""What a question may be: one statement that reads the table, and nothing else.

Two locks, of which each holds alone: statements are checked here before they run, and DuckDB itself runs them with no
access to files other than the ones that were opened for the question, and with its settings locked (`engine`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import duckdb

from vnotch.errors import InputError

TABLE_FUNCTIONS = frozenset({"unnest", "range", "generate_series", "repeat"})
"""Functions that stand in FROM and make rows of their arguments alone. All others read files, settings or memory."""

REFUSED_FUNCTIONS = frozenset({"write_log", "pg_sleep", "sleep_ms"})

_EXPLAIN = re.compile(r"\s*explain(?:\s+analyze)?\s+", re.IGNORECASE)
_READ_ONLY = "a question is one SELECT over flow_logs: nothing is written, attached, installed or set"


def check_statement(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Raises InputError for anything but one SELECT (or EXPLAIN, DESCRIBE, SUMMARIZE) of the table."""
    try:
        statements = connection.extract_statements(sql)
    except duckdb.Error as error:
        text = first_lines(error)
        is_column = 'at or near "end"' in text.lower()
        raise InputError(text, 'for the column of that name write "end", in quotes' if is_column else None) from None
    if not statements:
        raise InputError("there is no question", 'for instance "select action, count(*) from flow_logs group by 1"')
    kinds = [statement.type for statement in statements]
    if kinds == [duckdb.StatementType.CREATE, duckdb.StatementType.SELECT] and "pivot" in sql.lower():
        raise InputError("PIVOT needs its values here", "write PIVOT ... ON action IN ('ACCEPT', 'REJECT')")
    if len(statements) > 1:
        raise InputError(f"{len(statements)} statements in one question", _READ_ONLY)
    text = statements[0].query
    if kinds[0] == duckdb.StatementType.EXPLAIN:
        text = _EXPLAIN.sub("", text, count=1)
    elif kinds[0] != duckdb.StatementType.SELECT:
        raise InputError(f"{kinds[0].name} is refused", _READ_ONLY)
    serialized = connection.execute("SELECT json_serialize_sql(?)", [text]).fetchone()
    tree = json.loads(serialized[0]) if serialized else {"error": True}
    if tree.get("error"):
        raise InputError("this statement is refused", _READ_ONLY)
    for kind, name in _functions(tree):
        if (kind == "TABLE_FUNCTION" and name not in TABLE_FUNCTIONS) or name in REFUSED_FUNCTIONS:
            raise InputError(f"the function {name} is refused", _READ_ONLY)


def _functions(node: Any) -> Iterator[tuple[str, str]]:
    """-> (type of the node, name of the function) of all functions in a serialized statement."""
    if isinstance(node, dict):
        if node.get("type") == "TABLE_FUNCTION":
            yield "TABLE_FUNCTION", str(node["function"].get("function_name", "")).lower()
        elif "function_name" in node:
            yield "FUNCTION", str(node["function_name"]).lower()
        for value in node.values():
            yield from _functions(value)
    elif isinstance(node, list):
        for value in node:
            yield from _functions(value)


def first_lines(error: duckdb.Error) -> str:
    """DuckDB's message without its drawing of the statement, on one line."""
    lines = str(error).partition("\n\nLINE ")[0].splitlines()
    return " ".join(line.strip() for line in lines if line.strip())

"""The schema that states had when revisions began, and how the states of before are brought to it.

Until then tables were made as the release at hand declared them, and a later one added the columns that it missed. So a
state without a revision may lack tables, columns and indexes, depending on the commits that have opened it; each column
that came later is nullable or has a default. One column is gone since.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from sqlalchemy import Column, Connection, MetaData, Table, inspect, text
from sqlalchemy.schema import CreateColumn, CreateIndex

schema = MetaData()
required = partial(Column, nullable=False)
_GONE = {"bindings": ("allow",)}


def table(name: str, *parts: Any, **options: Any) -> None:
    """Declares a table of the baseline."""
    Table(name, schema, *parts, **options)


def bring_to_baseline(connection: Connection) -> None:
    """Makes what is missing, in an empty database or in a state of before; rows stay as they are."""
    inspector = inspect(connection)
    there = set(inspector.get_table_names())
    for wanted in schema.sorted_tables:
        if wanted.name not in there:
            wanted.create(connection)
            continue
        found = {column["name"] for column in inspector.get_columns(wanted.name)}
        for column in wanted.columns:
            if column.name not in found:
                declaration = CreateColumn(column).compile(dialect=connection.dialect)
                connection.execute(text(f"ALTER TABLE {wanted.name} ADD COLUMN {declaration}"))
        for name in _GONE.get(wanted.name, ()):
            if name in found:
                connection.execute(text(f"ALTER TABLE {wanted.name} DROP COLUMN {name}"))
        for index in wanted.indexes:
            connection.execute(CreateIndex(index, if_not_exists=True))

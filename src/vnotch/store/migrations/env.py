"""Run by Alembic on the connection that `vnotch.store.schema` gives it, within the transaction that is open there."""

from __future__ import annotations

from alembic import context

from vnotch.errors import InputError
from vnotch.store.schema import metadata

connection = context.config.attributes.get("connection")
if connection is None:
    raise InputError("vnotch's migrations run when a server opens its state", "start `vnotch server`")
context.configure(
    connection=connection,
    target_metadata=metadata,
    render_as_batch=True,  # SQLite changes a column by making its table anew
    compare_server_default=True,
)
with context.begin_transaction():
    context.run_migrations()

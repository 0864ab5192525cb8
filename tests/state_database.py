"""The database that tests of the state run on: SQLite, or PostgreSQL where VNOTCH_TEST_POSTGRESQL has a server's URL.

`make soak` runs them on PostgreSQL as well (tests/store/test_postgresql.py).
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from vnotch.store.state import State

VARIABLE = "VNOTCH_TEST_POSTGRESQL"
_IN_C = "TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'"


def state_url(options: str = _IN_C) -> str | None:
    """The URL of a new, empty database; None where tests run on SQLite."""
    server = os.environ.get(VARIABLE)
    if server is None:
        return None
    name = f"vnotch_{secrets.token_hex(8)}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} {options}"))
    engine.dispose()
    return make_url(server).set(database=name).render_as_string(hide_password=False)


def open_state(folder: Path) -> State:
    """A state without tables yet."""
    return State.open(folder, state_url())

"""The database that tests of the state run on: SQLite, or PostgreSQL where VNOTCH_TEST_POSTGRESQL has a server's URL.

`make soak` runs them on PostgreSQL as well (tests/store/test_postgresql.py).
"""

from __future__ import annotations

import os
import secrets
import tempfile
from functools import cache
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


class States:
    """States with empty tables, one after another behind few engines.

    An engine keeps the statements that it has compiled, and compiling them anew is a third of what a test of the API
    costs; so on SQLite it is the file that is new, a copy of one whose tables were made once.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="vntest-state-")
        self._free: list[tuple[Path, State]] = []
        self._lent: dict[int, Path] = {}
        made = State.open(Path(self._folder.name) / "empty")
        made.create_tables()
        made.close()
        self._empty = (Path(self._folder.name) / "empty" / "state.sqlite").read_bytes()

    def take(self) -> State:
        if self._free:
            folder, state = self._free.pop()
        else:
            folder = Path(self._folder.name) / str(len(self._lent))  # each has one of its own for good
            state = State.open(folder)
        for name in ("state.sqlite-wal", "state.sqlite-shm"):
            (folder / name).unlink(missing_ok=True)
        written = folder / "new"
        written.write_bytes(self._empty)
        written.replace(folder / "state.sqlite")
        self._lent[id(state)] = folder
        return state

    def give_back(self, state: State) -> None:
        state.close()
        state.on_change.clear()
        self._free.append((self._lent[id(state)], state))


@cache
def _states() -> States:
    return States()


def take_state() -> State:
    """A state with empty tables, for `give_back_state` to take back."""
    url = state_url()
    if url is None:
        return _states().take()
    state = State(url)
    state.create_tables()
    return state


def give_back_state(state: State) -> None:
    if VARIABLE not in os.environ:
        _states().give_back(state)
    else:
        state.close()

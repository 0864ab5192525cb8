"""The control plane's database: one that an earlier release made is opened and used, by both releases."""

from __future__ import annotations

import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import inspect, literal, select

from vnotch.errors import HostError, InputError
from vnotch.store import agents, migrations, network
from vnotch.store.state import Base, State

OLD = Path(__file__).parents[1] / "data" / "state_0_1_0.sql"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with sqlite3.connect(tmp_path / "state.sqlite") as database:
        database.executescript(OLD.read_text())
    database.close()
    return tmp_path


def opened(folder: Path) -> State:
    state = State.open(folder)
    state.create_tables()
    return state


def test_a_state_of_release_0_1_0_keeps_its_rows_and_gets_the_columns_of_today(folder: Path) -> None:
    with sqlite3.connect(folder / "state.sqlite") as database:
        before = {row[1] for row in database.execute("PRAGMA table_info(bindings)")}
    database.close()
    assert "sense" not in before, "the fixture is a database of before"
    state = opened(folder)
    with state.read() as session:
        told = agents.configuration(session, "web1", "123456789012", "us-east-1")
    assert told is not None
    [interface] = told.interfaces
    assert (interface.interface_id, interface.device, interface.enforce) == ("eni-0a", "vn-a", True)
    assert (interface.sense, interface.enforce_until_ms, interface.reserved_addresses) == ("outside", None, True)
    with state.write() as session:
        binding = session.get(network.Binding, "eni-0a")
        assert binding is not None
        binding.sense = "inside"
    state.close()
    state = opened(folder)
    with state.read() as session:
        again = session.get(network.Binding, "eni-0a")
        assert again is not None
        assert again.sense == "inside", "a second start adds nothing and loses nothing"
    state.close()


def test_an_upgrade_keeps_every_row_and_a_copy_of_the_state_of_before(folder: Path) -> None:
    """One more row in each table, of the number 9 and the text `a`, so that they refer to each other."""

    def rows(file: Path, columns: dict[str, list[str]]) -> dict[str, list[tuple[object, ...]]]:
        with closing(sqlite3.connect(file)) as database:
            return {
                table: database.execute(f"SELECT {', '.join(names)} FROM {table} ORDER BY 1").fetchall()
                for table, names in columns.items()
            }

    with closing(sqlite3.connect(folder / "state.sqlite")) as database, database:
        columns: dict[str, list[str]] = {}
        for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            if table.startswith("sqlite_"):
                continue
            found = [(f'"{row[1]}"', row[2]) for row in database.execute(f"PRAGMA table_info({table})")]
            values = ["'a'" if kind.startswith(("VARCHAR", "TEXT", "JSON", "BLOB")) else "9" for _, kind in found]
            database.execute(f"INSERT INTO {table} VALUES ({', '.join(values)})")
            columns[table] = [name for name, _ in found if (table, name) != ("bindings", '"allow"')]
    before = rows(folder / "state.sqlite", columns)
    assert len(before) == 36
    assert all(before.values())
    opened(folder).close()
    assert rows(folder / "state.sqlite", columns) == before
    copy = folder / f"state.sqlite.before-{migrations.HEAD}"
    assert rows(copy, columns | {"bindings": [*columns["bindings"], "allow"]}).keys() == before.keys()
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600, "it has keys in it"
    opened(folder).close()
    assert [path.name for path in folder.glob("*.before-*")] == [copy.name]
    # With the copy in its place the release of before goes on; and it can be raised again.
    copy.replace(folder / "state.sqlite")
    opened(folder).close()
    assert rows(folder / "state.sqlite", columns) == before


def test_a_state_whose_rows_do_not_agree_is_not_raised(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "state.sqlite")) as database, database:
        database.execute("DELETE FROM agents")
    with pytest.raises(HostError, match="of its table bindings refers to one of agents that is not there"):
        opened(folder)
    with closing(sqlite3.connect(folder / "state.sqlite")) as database:
        assert "sense" not in {row[1] for row in database.execute("PRAGMA table_info(bindings)")}


def test_every_column_of_today_is_there_after_the_opening(folder: Path) -> None:
    state = opened(folder)
    inspector = inspect(state.engine)
    for table in Base.metadata.sorted_tables:
        there = {column["name"] for column in inspector.get_columns(table.name)}
        assert there >= {column.name for column in table.columns}, table.name
    state.close()


def test_a_release_of_before_still_writes_to_it(folder: Path) -> None:
    """Its INSERT does not name the new columns."""
    opened(folder).close()
    with sqlite3.connect(folder / "state.sqlite") as database:
        row = database.execute("SELECT * FROM bindings").fetchone()
        database.execute("DELETE FROM bindings")
        database.execute(
            "INSERT INTO bindings (interface_id, agent, device, enforce, attachment_id, attached_ms, revision, state) "
            "VALUES ('eni-0a', 'web1', 'vn-b', 0, 'eni-attach-0b', 5, 6, 'pending')"
        )
        sense = database.execute("SELECT sense FROM bindings").fetchone()
    database.close()
    assert row is not None
    assert sense == ("outside",)


def test_a_file_that_is_no_database_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "state.sqlite").write_text("no database, but longer than a header of SQLite, which has 100 bytes" * 20)
    with pytest.raises(HostError, match="cannot be opened"):
        opened(tmp_path)


@pytest.mark.parametrize("value", ["\ud800", 2**63, -(2**63) - 1])
def test_a_value_that_the_database_cannot_hold_is_the_caller_s_mistake(tmp_path: Path, value: object) -> None:
    state = opened(tmp_path)
    with pytest.raises(InputError, match="cannot hold"), state.read() as session:
        session.scalar(select(network.Agent.name).where(network.Agent.created_ms == literal(value)))
    with state.read() as session:
        assert session.scalar(select(literal(1))) == 1
    state.close()

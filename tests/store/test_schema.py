"""The state's schema and its revisions agree, from nothing and from states of before, whoever comes first.

`make soak` runs these on PostgreSQL too.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text
from state_database import open_state

from vnotch.errors import HostError
from vnotch.store import flow_log_files, migrations, network, principals, schema
from vnotch.store.state import State

NO_EXPRESSIONS = pytest.mark.filterwarnings("ignore:.*expression-based index")
"""SQLAlchemy does not read indexes over expressions back from SQLite, and says so each time."""
SOURCE = Path(__file__).parents[2] / "src"


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    opened = open_state(tmp_path)
    yield opened
    opened.close()


def differences(connection: Connection) -> list[Any]:
    """Between the database and the tables as they are declared, as Alembic finds them."""
    return compare_metadata(
        MigrationContext.configure(connection, opts={"compare_server_default": True}), schema.metadata
    )


def without_revisions(state: State) -> None:
    """A state of the last release that had none: the tables of the first revision."""
    with state.engine.begin() as connection:
        schema.run_revisions(connection, "0001")
        connection.execute(text(f"DROP TABLE {schema.VERSION.name}"))


def test_the_revisions_are_those_that_are_named_and_one_follows_the_other() -> None:
    scripts = ScriptDirectory(str(migrations.FOLDER))
    assert scripts.get_heads() == [migrations.HEAD]
    assert tuple(script.revision for script in scripts.walk_revisions())[::-1] == migrations.REVISIONS


@NO_EXPRESSIONS
def test_the_revisions_from_nothing_make_the_tables_that_are_declared(state: State) -> None:
    with state.engine.begin() as connection:
        schema.run_revisions(connection)
        assert differences(connection) == []


@NO_EXPRESSIONS
def test_a_new_state_is_at_the_newest_revision(state: State) -> None:
    state.create_tables()
    with state.engine.begin() as connection:
        assert schema.revision_of(connection) == migrations.HEAD
        assert differences(connection) == []


def test_both_ways_give_sqlite_the_same_statements(tmp_path: Path) -> None:
    """Alembic's comparison does not see keys of several columns, expressions in indexes and AUTOINCREMENT."""

    def statements(connection: Connection) -> set[tuple[str, ...]]:
        """Each by its parts: a column that came with a revision is the last one."""
        rows = connection.execute(text("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")).scalars()
        return {tuple(sorted(re.split(r"\s*[,()]\s*", " ".join(row.split())))) for row in rows}

    one, other = State.open(tmp_path / "one"), State.open(tmp_path / "other")
    one.create_tables()
    with other.engine.begin() as connection:
        schema.run_revisions(connection)
        made = statements(connection)
    with one.engine.connect() as connection:
        assert statements(connection) == made
    one.close()
    other.close()


def test_every_module_that_declares_tables_is_known() -> None:
    declaring = set()
    for path in (SOURCE / "vnotch").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Name) and node.id == "__tablename__" and isinstance(node.ctx, ast.Store):
                declaring.add(".".join(path.relative_to(SOURCE).with_suffix("").parts))
    code = "import sys, vnotch.store.schema; print(*(name for name in sys.modules if name.startswith('vnotch')))"
    ended = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(SOURCE)}, capture_output=True, text=True, check=True
    )
    assert declaring
    assert declaring <= set(ended.stdout.split())


@NO_EXPRESSIONS
def test_a_state_of_before_revisions_is_raised_with_its_rows(state: State) -> None:
    """One that some commits have opened: a table is not there yet, columns are missing, one has gone since."""
    without_revisions(state)
    with state.engine.begin() as connection:
        for statement in (
            "INSERT INTO iam_role (name_key, name, path, role_id, trust_policy, max_session_seconds, tags, created_ms) "
            "VALUES ('r', 'R', '/', 'AROA1', '{}', 3600, '[]', 1)",
            "INSERT INTO vpcs (vpc_id, created_ms, dns_support) VALUES ('vpc-0a', 5, false)",
            "DROP TABLE alert_listener",
            "ALTER TABLE iam_role DROP COLUMN trusted_ids",
            "ALTER TABLE enrolments DROP COLUMN mac",
            "ALTER TABLE vpcs DROP COLUMN dns_support",
            "ALTER TABLE bindings ADD COLUMN allow JSON",
        ):
            connection.execute(text(statement))
    state.create_tables()
    with state.engine.connect() as connection:
        assert schema.revision_of(connection) == migrations.HEAD
        assert differences(connection) == []
    with state.read() as session:
        role, vpc = session.get(principals.Role, "r"), session.get(network.Vpc, 1)
    assert role is not None
    assert vpc is not None
    assert (role.role_id, role.trusted_ids) == ("AROA1", None)
    assert (vpc.vpc_id, vpc.dns_support) == ("vpc-0a", True)  # the column's default


def test_a_state_of_a_later_release_is_refused_and_left_as_it_is(state: State) -> None:
    state.create_tables()
    with state.engine.begin() as connection:
        connection.execute(text(f"UPDATE {schema.VERSION.name} SET version_num = '0999'"))
    with pytest.raises(HostError, match=rf"later release of vnotch.*0999.*up to {migrations.HEAD}") as refused:
        state.create_tables()
    assert refused.value.remedy is not None
    assert "install that release" in refused.value.remedy
    with state.engine.connect() as connection:
        assert schema.revision_of(connection) == "0999"


@pytest.mark.parametrize("before", ["nothing", "a state of before revisions"])
def test_servers_that_start_at_once_make_or_raise_it_once(state: State, before: str) -> None:
    if before != "nothing":
        without_revisions(state)
    servers = [State(state.engine.url.render_as_string(hide_password=False)) for _ in range(4)]
    together = threading.Barrier(len(servers))
    failed: list[BaseException] = []

    def start(server: State) -> None:
        try:
            together.wait(10)
            server.create_tables()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=start, args=[server]) for server in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for server in servers:
        server.close()
    assert failed == []
    with state.engine.connect() as connection:
        assert connection.execute(text(f"SELECT version_num FROM {schema.VERSION.name}")).scalars().all() == [
            migrations.HEAD
        ]


def test_an_upgrade_that_fails_changes_nothing(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    without_revisions(state)
    with state.engine.begin() as connection:
        connection.execute(text("DROP TABLE alert_listener"))
        connection.execute(text("ALTER TABLE enrolments DROP COLUMN mac"))
    right = schema.run_revisions

    def fails_at_its_end(connection: Connection) -> None:
        right(connection)
        raise OSError("the machine fails here")

    monkeypatch.setattr(schema, "run_revisions", fails_at_its_end)
    with pytest.raises(OSError, match="fails here"):
        state.create_tables()
    with state.engine.connect() as connection:
        inspector = inspect(connection)
        assert schema.revision_of(connection) is None
        assert not inspector.has_table("alert_listener")
        assert "mac" not in {column["name"] for column in inspector.get_columns("enrolments")}
    monkeypatch.undo()
    state.create_tables()
    with state.engine.connect() as connection:
        assert schema.revision_of(connection) == migrations.HEAD


def test_a_state_at_the_newest_revision_is_opened_without_alembic(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from vnotch.store.state import State\n"
        "state = State.open(Path(sys.argv[1])); state.create_tables(); state.close(); print('alembic' in sys.modules)"
    )
    for _ in range(2):  # a new one, and one that is there
        ended = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)],
            env={"PYTHONPATH": str(SOURCE)}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert ended.stdout == "False\n"


@NO_EXPRESSIONS
def test_names_of_files_in_buckets_come_along_and_outlive_their_flow_log(state: State) -> None:
    with state.engine.begin() as connection:
        schema.run_revisions(connection, "0001")
        connection.execute(
            text(
                "INSERT INTO flow_logs (flow_log_id, resource_id, resource_type, traffic_type, log_destination_type, "
                "log_group_name, deliver_logs_permission_arn, log_format, max_aggregation_interval, created_ms) "
                "VALUES ('fl-1', 'vpc-1', 'VPC', 'ALL', 's3', '', '', '', 60, 1)"
            )
        )
        connection.execute(
            text("INSERT INTO flow_log_files VALUES ('fl-1', 300, 'fe123456', 'a', 'digest', 1000)")
        )  # fmt: skip
    state.create_tables()
    with state.write() as session:
        session.execute(text("DELETE FROM flow_logs"))
    with state.read() as session:
        assert flow_log_files.owner(session, "fl-1", 300, "fe123456") == ("a", "digest")

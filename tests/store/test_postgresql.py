"""The control plane's state on PostgreSQL: the tests of the state, the accounts and the API, run again on it.

Debian's `postgresql` on loopback, a cluster of the test's own. PostgreSQL refuses root, so root becomes the package's
user `postgres` for it.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.engine import make_url
from state_database import VARIABLE, state_url, take_state

from vnotch.errors import HostError, InputError
from vnotch.store import network
from vnotch.store.state import State

pytestmark = pytest.mark.soak

ROOT = Path(__file__).parents[2]
SUITES = [
    "tests/api",
    "tests/iam/test_accounts.py",
    "tests/store/test_log_groups.py",
    "tests/store/test_schema.py",
    "tests/store/test_wipe.py",
]
SQLITES_OWN = [
    # Each of these asks SQLite itself: for its plan, and for a full disk.
    "tests/store/test_log_groups.py::test_pages_are_read_from_an_index",
    "tests/api/test_app.py::test_a_full_disk_is_no_mistake_of_the_server",
    "tests/store/test_schema.py::test_both_ways_give_sqlite_the_same_statements",
]


def binaries() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    assert found, "PostgreSQL is missing: sudo apt install postgresql"
    return found[-1].parent


def as_postgres(*command: str) -> list[str]:
    return ["runuser", "-u", "postgres", "--", *command] if os.geteuid() == 0 else list(command)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a cluster's database `postgres`; the cluster ends with the module."""
    folder = Path("/tmp") / f"vnotch-pg-{os.getpid()}"  # a socket's path is short, and others may enter /tmp
    folder.mkdir(mode=0o700)
    data = folder / "data"
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        initdb = as_postgres(str(binaries() / "initdb"), "-D", str(data), "-A", "trust", "-U", "vnotch", "-E", "UTF8")
        subprocess.run(initdb, check=True, capture_output=True, cwd="/")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c max_connections=200"
        control = as_postgres(str(binaries() / "pg_ctl"), "-D", str(data), "-w")
        subprocess.run([*control, "-o", options, "-l", str(folder / "log"), "start"], check=True, cwd="/")
        try:
            yield f"postgresql+psycopg://vnotch@127.0.0.1:{port}/postgres"
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], check=True, capture_output=True, cwd="/")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.timeout(3600)
def test_the_tests_of_the_state_pass_on_postgresql(server: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not soak and not root", "-p", "no:cacheprovider", *SUITES]
    command += [f"--deselect={name}" for name in SQLITES_OWN]
    ended = subprocess.run(command, cwd=ROOT, env=os.environ | {VARIABLE: server}, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout[-5000:]
    assert " passed" in ended.stdout


def test_a_database_that_sorts_otherwise_than_aws_is_refused(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, server)
    other = "TEMPLATE template0 ENCODING 'UTF8' LOCALE_PROVIDER icu ICU_LOCALE 'en' LC_COLLATE 'C' LC_CTYPE 'C'"
    url = state_url(other)
    assert url is not None
    state = State.open(Path("/nonexistent"), url)
    with pytest.raises(HostError, match="collation"):
        state.create_tables()
    state.close()


@pytest.mark.parametrize(
    "name",
    ["a\0b", "\ud800", secrets.token_hex(20_000)],
    ids=["nul", "lone surrogate", "longer than an index has room"],
)
def test_a_text_that_postgresql_cannot_hold_is_the_caller_s_mistake(server: str, monkeypatch: Any, name: str) -> None:
    monkeypatch.setenv(VARIABLE, server)
    state = take_state()
    with pytest.raises(InputError, match="cannot hold"), state.write() as session:
        session.add(network.Agent(name=name, revision=1, created_ms=0))
    with state.write() as session:
        session.add(network.Agent(name="a", revision=2**62, created_ms=2**61))
    with state.read() as session:
        total = session.scalar(select(func.sum(network.Agent.revision)))
        assert (type(total), total) == (int, 2**62), "not a Decimal"
    state.close()


def test_a_server_that_is_not_there_is_named(server: str) -> None:
    gone = make_url(server).set(port=1).render_as_string()
    state = State.open(Path("/nonexistent"), gone)
    with pytest.raises(HostError, match="connection"):
        state.create_tables()
    state.close()


@pytest.mark.parametrize("url", ["nonsense", "oracle+nothing://x/y"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="URL"):
        State.open(Path("/nonexistent"), url)

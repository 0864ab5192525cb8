"""The state's schema: made where there is none, raised where an earlier release made it, refused where a later one did.

A new state's tables are made as they are declared, which is quick; one that is there goes through the revisions
(`vnotch.store.migrations`), all in one transaction. Tests hold the two ways to each other. A state at the newest
revision is opened by one look at it, and Alembic is not even imported.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Column, Connection, Engine, MetaData, PrimaryKeyConstraint, String, Table, inspect, select, text

from vnotch.errors import HostError
from vnotch.store import (  # noqa: F401  they declare the tables
    alarms,
    elastic_addresses,
    enrolment,
    firewall,
    flow_alerts,
    flow_log_files,
    instances,
    last_used,
    log_groups,
    log_imports,
    log_metrics,
    log_usage,
    metric_filters,
    metrics,
    network,
    principals,
    query_definitions,
    routing,
)
from vnotch.store.database_copy import copy_database
from vnotch.store.migrations import FOLDER, HEAD, REVISIONS
from vnotch.store.state import WRITER_LOCK, Base

UPGRADE_WAIT_SECONDS = 60
"""How long a server waits for another one that makes or raises the same state."""
VERSION = Table(
    "alembic_version",
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)
"""Alembic's own table, as Alembic makes it."""

log = logging.getLogger(__name__)
metadata = Base.metadata


def prepare(engine: Engine) -> None:
    """Brings the database to the newest revision. Servers that start at once do it one after the other.

    Raises HostError where a later release made it, and what the database raises; nothing is changed then.
    """
    with engine.connect() as connection:
        if _known(connection) == HEAD:
            return
    with _alone(engine) as connection:
        revision = _known(connection)
        if revision == HEAD:
            return  # another server was first
        if revision is None and not set(inspect(connection).get_table_names()) & set(metadata.tables):
            metadata.create_all(connection)
            VERSION.create(connection)
            connection.execute(VERSION.insert(), {"version_num": HEAD})
        else:
            copy = _keep_copy(engine)
            run_revisions(connection)
            log.warning(
                "the state was raised from %s to revision %s%s",
                f"revision {revision}" if revision else "the schema of before revisions",
                HEAD,
                f"; as it was before it is in {copy}" if copy else "",
            )


def revision_of(connection: Connection) -> str | None:
    """The revision that a database says it has; None where it is new, or of before there were any."""
    if not inspect(connection).has_table(VERSION.name):
        return None
    return connection.execute(select(VERSION.c.version_num)).scalar()


def check_known(revision: str | None, what: str, remedy: str) -> None:
    """Raises HostError for a revision that this release does not know."""
    if revision is not None and revision not in REVISIONS:
        raise HostError(
            f"{what} was written by a later release of vnotch: its schema has revision {revision}, this release knows "
            f"those up to {HEAD}",
            remedy,
        )


def _known(connection: Connection) -> str | None:
    revision = revision_of(connection)
    where = connection.engine.url.render_as_string(hide_password=True)
    check_known(revision, f"the state {where}", "install that release again, or name another folder with --data-dir")
    return revision


@contextmanager
def _alone(engine: Engine) -> Iterator[Connection]:
    """A transaction that no other server's change of the schema runs beside."""
    with engine.connect() as connection:
        if engine.dialect.name != "sqlite":
            with connection.begin():
                connection.execute(
                    text("SELECT set_config('lock_timeout', :wait, true)"), {"wait": f"{UPGRADE_WAIT_SECONDS}s"}
                )
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": WRITER_LOCK})
                yield connection
            return
        # A table that is made anew would take the rows that refer to it along. It cannot be set within a transaction.
        driver = connection.connection.dbapi_connection
        assert isinstance(driver, sqlite3.Connection)
        before = driver.execute("PRAGMA busy_timeout").fetchone()[0]
        driver.execute("PRAGMA foreign_keys=OFF")
        driver.execute(f"PRAGMA busy_timeout={UPGRADE_WAIT_SECONDS * 1000}")
        try:
            with connection.execution_options(vnotch_immediate=True).begin():
                yield connection
                if broken := connection.exec_driver_sql("PRAGMA foreign_key_check").first():
                    raise HostError(
                        f"the state {engine.url.database} cannot be raised: row {broken[1]} of its table {broken[0]} "
                        f"refers to one of {broken[2]} that is not there",
                        "put the file back from a copy, or name another folder with --data-dir",
                    )
        finally:
            driver.execute("PRAGMA foreign_keys=ON")
            driver.execute(f"PRAGMA busy_timeout={before}")


def run_revisions(connection: Connection, until: str = HEAD) -> None:
    """Runs the revisions that the database has not had, in the transaction that is open."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, until)


def _keep_copy(engine: Engine) -> Path | None:
    """The newest state of before an upgrade is kept beside it: with it the release of before can be installed again."""
    if engine.dialect.name != "sqlite" or not engine.url.database:
        return None
    source = Path(engine.url.database)
    for earlier in source.parent.glob(f"{source.name}.before-*"):
        earlier.unlink()
    copy = source.with_name(f"{source.name}.before-{HEAD}")
    try:
        copy_database(source.absolute(), copy.absolute())
        copy.chmod(0o600)
    except (sqlite3.Error, OSError) as error:
        raise HostError(
            f"the state {source} could not be copied before its upgrade: {error}", "make room on the server's disk"
        ) from None
    return copy

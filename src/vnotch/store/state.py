"""The control plane's state: one SQL database, by default SQLite (WAL, synchronous=full), PostgreSQL by its URL.

Each part of the API declares its own tables on `Base`, next to the code that uses them (`store/accounts.py`,
`store/network.py`, `store/log_groups.py`). A session is one transaction; SQLite has one writer at a time, so writing
transactions begin IMMEDIATE and wait up to `BUSY_TIMEOUT_SECONDS` for each other instead of failing half way. On
PostgreSQL writing transactions take one advisory lock for the same reason: what is checked is still so when it is
written, also with several servers on one database.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, Integer, create_engine, event, text
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import ArgumentError, DatabaseError, DataError, NoSuchModuleError, OperationalError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker
from sqlalchemy.sql import functions

from vnotch.errors import HostError, InputError

log = logging.getLogger(__name__)

BUSY_TIMEOUT_SECONDS = 10
WRITER_LOCK = 0x766E6F7463680001
"""The key of PostgreSQL's advisory lock that writing transactions take: "vnotch" and a number."""

_PROGRAM_LIMIT_EXCEEDED = "54000"
"""PostgreSQL's error for a row that is too long for an index (its manual, "PostgreSQL Error Codes")."""

_LOCK_TIMEOUT = f"{BUSY_TIMEOUT_SECONDS}s"
_POOL = {"pool_pre_ping": True, "pool_size": 20, "max_overflow": 20, "pool_timeout": BUSY_TIMEOUT_SECONDS}

_HOST_CODES = frozenset({5, 6, 7, 8, 10, 13, 14})
"""SQLite's primary result codes that are the host's fault (sqlite.org/rescode.html): BUSY, LOCKED, NOMEM, READONLY,
IOERR, FULL, CANTOPEN."""


class Base(DeclarativeBase):
    """All tables of the control plane."""


class State:
    """The open database. `read()` and `write()` are sessions as context managers; write commits at its end.

    Both raise HostError where the host is in the way: a full disk, a folder that went away, a lock that is held too
    long; InputError for a value that the database cannot hold. Nothing of the transaction is kept then.

    After each committed write, `on_change` is called (the agents' long poll wakes up by it); it must be quick and safe
    to call from any thread.
    """

    def __init__(self, url: str) -> None:
        try:
            # An error's text would have the parameters of its statement in it, and so would the log: secrets of keys.
            settings = {"hide_parameters": True} | ({} if url.startswith("sqlite") else _POOL)
            self.engine: Engine = create_engine(url, **settings)
        except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
            raise InputError(
                f"the state cannot be opened by this URL: {error}",
                "sqlite:///PATH, or postgresql+psycopg://USER@HOST/DATABASE with psycopg installed beside vnotch",
            ) from None
        event.listen(self.engine, "handle_error", _refuse_value)
        self.on_change: list[Any] = []
        self._writer = threading.Lock()
        if self.engine.dialect.name == "sqlite":
            _prepare_sqlite(self.engine)
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)

    @classmethod
    def open(cls, folder: Path, url: str | None = None) -> State:
        """The state at `url`, else the embedded one in `folder`, which is made where it is not there."""
        if url is not None:
            return cls(url)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return cls(f"sqlite:///{folder / 'state.sqlite'}")

    def create_tables(self) -> None:
        """Makes the tables, or raises those of an earlier release to today's (`vnotch.store.schema`).

        Raises HostError where a later release made them, where the file is no database, or where the host does not let
        it be used.
        """
        from vnotch.store import schema  # it imports every module that declares tables, and those import this one

        try:
            with _host_errors():
                _check_collation(self.engine)
                schema.prepare(self.engine)
        except DatabaseError as error:
            raise HostError(
                f"the state in {self.engine.url.database} cannot be opened: {error.orig}",
                "put the file back from a copy, or name another folder with --data-dir",
            ) from error

    @contextmanager
    def read(self) -> Iterator[Session]:
        with _host_errors(), self._sessions() as session:
            yield session
            session.expunge_all()  # rows that were read stay readable; a rollback would expire them
            session.rollback()

    @contextmanager
    def write(self, notify: bool = True) -> Iterator[Session]:
        """`notify` False: a write that no agent needs to hear of, such as the statistics of log streams."""
        with _host_errors(), self._turn(), self._sessions() as session:
            if self.engine.dialect.name == "sqlite":
                session.connection(execution_options={"vnotch_immediate": True})
            else:
                session.execute(text("SELECT set_config('lock_timeout', :wait, true)"), {"wait": _LOCK_TIMEOUT})
                session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": WRITER_LOCK})
            yield session
            session.commit()
        for heard in self.on_change if notify else ():
            heard()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Writers of this process wait for each other here on SQLite, whose own waiting is sleep of growing length and
        knows no order. On PostgreSQL the advisory lock is the queue."""
        if self.engine.dialect.name != "sqlite":
            yield
        elif self._writer.acquire(timeout=BUSY_TIMEOUT_SECONDS):
            try:
                yield
            finally:
                self._writer.release()
        else:
            raise HostError("the state's database cannot be used: another write does not end", "is the disk slow?")

    def close(self) -> None:
        self.engine.dispose()


@contextmanager
def _host_errors() -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        if (reason := _host_reason(error)) is None:
            raise
        raise HostError(f"the state's database cannot be used: {reason}", "make room on the server's disk") from error


def _refuse_value(context: ExceptionContext) -> None:
    """A value that the driver or the database cannot hold came from a request that got past its checks: a text with
    U+0000 or a lone surrogate, a number beyond 64 bits, a text too long for its index."""
    error = context.original_exception
    refused = isinstance(context.sqlalchemy_exception, DataError) or isinstance(
        error, OverflowError | UnicodeEncodeError
    )
    if refused or getattr(error, "sqlstate", None) == _PROGRAM_LIMIT_EXCEEDED:
        log.warning("the state refused a value: %s", error)
        raise InputError("a value is one that the state's database cannot hold") from error


@compiles(functions.sum, "postgresql")
def _sum(element: functions.sum[Any], compiler: Any, **options: Any) -> str:
    """PostgreSQL sums 64-bit integers to a `numeric`, a Decimal in Python; a sum is of the kind of what is summed."""
    plain = compiler.visit_function(element, **options)
    return f"CAST({plain} AS BIGINT)" if isinstance(element.type, Integer) else plain


def _check_collation(engine: Engine) -> None:
    """AWS sorts names by their bytes, and so does SQLite; a PostgreSQL database does where its collation is C."""
    if engine.dialect.name != "postgresql":
        return
    with engine.connect() as connection:
        row = connection.execute(text("SELECT * FROM pg_database WHERE datname = current_database()")).mappings().one()
    # The locale of ICU has another column in each release from 15 on.
    found = row.get("datlocale") or row.get("daticulocale") or row["datcollate"]
    if found not in ("C", "POSIX", "C.UTF-8", "C.utf8"):
        raise HostError(
            f"the state's database sorts names by the collation {found}; AWS's order is that of C",
            "CREATE DATABASE vnotch TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'",
        )


def _host_reason(error: BaseException | None) -> str | None:
    """What the host refused. Of PostgreSQL that is every OperationalError: the connection, the server's resources, or a
    lock that was waited for in vain (PEP 249). SQLite ends the whole transaction on a full disk, so that the first
    error seen may be that a savepoint is gone; the reason is then behind it."""
    while error is not None:
        if type(getattr(error, "orig", None)).__module__.startswith("psycopg"):
            return str(getattr(error, "orig", error)).strip()
        code = getattr(getattr(error, "orig", None), "sqlite_errorcode", None)
        if code is not None and code & 0xFF in _HOST_CODES:
            return str(getattr(error, "orig", error))
        error = error.__context__
    return None


def _prepare_sqlite(engine: Engine) -> None:
    # pysqlite opens transactions by itself and late; SQLAlchemy's documentation gives these two hooks to take over.
    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            f"busy_timeout={BUSY_TIMEOUT_SECONDS * 1000}",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        immediate = connection.get_execution_options().get("vnotch_immediate")
        # Of the driver's connection: by SQLAlchemy's path it takes as long as a small SELECT.
        connection.connection.driver_connection.execute("BEGIN IMMEDIATE" if immediate else "BEGIN")


def new_id(prefix: str) -> str:
    """An id of AWS's form: the prefix, a hyphen and 17 hexadecimal digits, for instance `fl-0667848f2d19786ca`."""
    return f"{prefix}-0{secrets.token_hex(8)}"

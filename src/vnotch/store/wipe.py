"""A fresh state: everything that was made by the API and every log event goes, whoever may call stays who they are.

    goes    networks, flow logs, log groups and their events, metrics, alarms, users, roles and policies
    stays   the account's number and region, the administrator with its key, agents with their keys

So clients and agents go on with the keys that they have, and find a server as after its first start. Sessions of before
(STS) end with the key that authenticated them. Buckets, agents' spools and the access log are no part of the state.

A new state is made beside the old one first; its name, once it has it, is what completes the rest, also after a kill:
`finish` is called before a state is opened.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import insert, inspect, select, text
from sqlalchemy.orm import Session

from vnotch.durable import give_as, sync_folder
from vnotch.errors import HostError, InputError
from vnotch.store import schema
from vnotch.store.network import Agent, Revision
from vnotch.store.principals import AccessKey, AccountRow, now_ms
from vnotch.store.state import Base, State

_NEW, _MAKING, _OLD = ".fresh-state", ".fresh-state.part", ".wiped"


@dataclass(frozen=True)
class Kept:
    """Rows that outlive a wipe, as the new state has them."""

    account: dict[str, Any] | None
    agents: Sequence[dict[str, Any]]
    keys: Sequence[dict[str, Any]]  # of agents; the administrator's is in its file


def wipe(root: Path, state_url: str | None = None) -> None:
    """Makes the state of the data folder `root` a fresh one. No server may have it open.

    Raises InputError where there is none, HostError where another server uses the database of `state_url`, where a
    later release made the state, or where the disk does not let it be changed.
    """
    if state_url is None and not (root / "state" / "state.sqlite").exists():
        raise InputError(
            f"{root} has no state",
            "name the data folder of a server with --data-dir, and its database with --state-url if it has one",
        )
    database = State.open(root / "state", state_url) if state_url is not None else None
    try:
        if database is not None:
            _refuse_others(database)
        finish(root)
        shutil.rmtree(root / _MAKING, ignore_errors=True)
        (root / _MAKING).mkdir(mode=0o700)
        if database is None:
            _make_beside(State.open(root / "state"), State.open(root / _MAKING))
        give_as(root / _MAKING, root)
        (root / _MAKING).rename(root / _NEW)
        sync_folder(root)
        finish(root)
        if database is not None:
            _make_anew(database)
    except OSError as error:
        raise HostError(f"the state in {root} could not be wiped: {error}", "run it again") from error
    finally:
        if database is not None:
            database.close()


def finish(root: Path) -> None:
    """Completes a wipe that was begun; does nothing where none was. Raises OSError."""
    new, old = root / _NEW, root / _OLD
    if new.exists():
        has_state = (new / "state.sqlite").exists()  # else it is in a database elsewhere
        old.mkdir(exist_ok=True, mode=0o700)
        for name in ("lake", "state") if has_state else ("lake",):
            # In this order: while the state is there it says what the lake had, and a new one meets no old events.
            if (root / name).exists():
                (root / name).rename(old / f"{name}-{secrets.token_hex(4)}")
        if has_state:
            new.rename(root / "state")
        else:
            new.rmdir()
        sync_folder(root)
    shutil.rmtree(old, ignore_errors=True)


def _make_beside(old: State, new: State) -> None:
    try:
        for state in (old, new):
            state.create_tables()
        with old.read() as session:
            kept = _kept(session)
        with new.write() as session:
            _keep(session, kept)
    finally:
        old.close()
        new.close()


def _make_anew(state: State) -> None:
    """In one transaction: servers that start meanwhile wait for its end."""
    state.create_tables()
    with state.write() as session:
        kept = _kept(session)
        session.expunge_all()
        schema.metadata.drop_all(session.connection())
        schema.metadata.create_all(session.connection())
        _keep(session, kept)


def _kept(session: Session) -> Kept:
    made_ms = now_ms()
    account = session.get(AccountRow, 1)
    agents = session.scalars(select(Agent)).all()
    keys = session.scalars(select(AccessKey).where(AccessKey.agent.is_not(None))).all()
    return Kept(
        {**_row(account), "session_key": secrets.token_bytes(32), "created_ms": made_ms} if account else None,
        # A later revision than any before: agents that wait for news get it.
        [{**_row(agent), "revision": made_ms, "status": None, "received_ms": None} for agent in agents],
        [_row(key) for key in keys],
    )


def _row(row: Base) -> dict[str, Any]:
    return {column.key: getattr(row, column.key) for column in inspect(type(row)).column_attrs}


def _keep(session: Session, kept: Kept) -> None:
    if kept.account is not None:
        session.execute(insert(AccountRow), kept.account)
    if kept.agents:
        session.execute(insert(Revision), {"id": 1, "value": kept.agents[0]["revision"]})
        session.execute(insert(Agent), kept.agents)
    if kept.keys:
        session.execute(insert(AccessKey), kept.keys)


def _refuse_others(state: State) -> None:
    """Servers name themselves to PostgreSQL (`State`); this process has one name for all its connections."""
    if state.engine.dialect.name != "postgresql":
        return
    with state.read() as session:
        others = session.scalars(
            text(
                "SELECT DISTINCT application_name FROM pg_stat_activity WHERE datname = current_database() "
                "AND application_name LIKE 'vnotch %' AND application_name <> current_setting('application_name')"
            )
        ).all()
    if others:
        raise HostError(f"other servers use this database: {', '.join(sorted(others))}", "stop them first")

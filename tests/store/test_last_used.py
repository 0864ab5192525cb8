"""When keys and roles were used last: noted in memory, written together, forgotten with their keys and roles."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select
from state_database import open_state

from vnotch.errors import HostError
from vnotch.store.accounts import Accounts
from vnotch.store.administrator import ensure_administrator
from vnotch.store.last_used import LastUse, LastUses, Use
from vnotch.store.principals import AccessKey
from vnotch.store.state import State


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    state = open_state(tmp_path)
    state.create_tables()
    yield state
    state.close()


@pytest.fixture
def key_id(state: State, tmp_path: Path) -> str:
    ensure_administrator(Accounts(state, "123456789012", "us-east-1"), tmp_path / "credentials.json")
    with state.read() as session:
        return session.scalars(select(AccessKey.access_key_id)).one()


def last(state: State, uses: LastUses, key_id: str) -> Use | None:
    with state.read() as session:
        return uses.of(session, [key_id]).get(key_id)


def rows(state: State) -> list[str]:
    with state.read() as session:
        return list(session.scalars(select(LastUse.subject_id)))


def test_a_use_is_told_at_once_and_written_later(state: State, key_id: str) -> None:
    uses = LastUses(state)
    assert last(state, uses, key_id) is None
    uses.note(key_id, Use(1_000, "ec2", "us-east-1"))
    uses.note(key_id, Use(2_000, "logs", "us-east-1"))
    assert last(state, uses, key_id) == Use(2_000, "logs", "us-east-1")
    assert rows(state) == []
    uses.write()
    assert rows(state) == [key_id]
    assert last(state, LastUses(state), key_id) == Use(2_000, "logs", "us-east-1")
    uses.note(key_id, Use(3_000, "iam", "us-east-1"))
    uses.close()
    assert last(state, LastUses(state), key_id) == Use(3_000, "iam", "us-east-1")


def test_a_key_that_is_deleted_is_forgotten(state: State, key_id: str) -> None:
    uses = LastUses(state)
    uses.note(key_id, Use(1_000, "ec2", "us-east-1"))
    uses.note("AKIAGONE", Use(1_000, "ec2", "us-east-1"))
    uses.write()
    assert rows(state) == [key_id]


def test_what_could_not_be_written_is_written_the_next_time(
    state: State, key_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uses = LastUses(state)
    uses.note(key_id, Use(1_000, "ec2", "us-east-1"))

    def full(notify: bool = True) -> None:
        raise HostError("the disk is full", "make room")

    with monkeypatch.context() as patch:
        patch.setattr(state, "write", full)
        uses.write()
    assert rows(state) == []
    uses.write()
    assert rows(state) == [key_id]

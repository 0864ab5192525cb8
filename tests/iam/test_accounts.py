"""Accounts: keys are found, cached no longer than told, survive a restart, and end when they should."""

from __future__ import annotations

import json
import os
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import IntegrityError
from state_database import open_state

from vnotch.errors import InputError
from vnotch.store import schema
from vnotch.store.accounts import Accounts
from vnotch.store.administrator import ensure_administrator
from vnotch.store.principals import AccessKey, InlinePolicy, Role
from vnotch.store.state import State

TRUST = '{"Version":"2012-10-17","Statement":[]}'


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    state = open_state(tmp_path / "state")
    state.create_tables()
    yield state
    state.close()


def new_role(accounts: Accounts, name: str = "r") -> Role:
    with accounts.write() as session:
        role = accounts.make_role(session, name, TRUST)
        assert role is not None
        session.add(InlinePolicy(owner_id=role.role_id, name="p", document="{}"))
    return role


def test_account_and_region_are_fixed_at_the_first_start(state: State) -> None:
    first = Accounts(state, "111122223333", "eu-west-1")
    assert (first.account, first.region) == ("111122223333", "eu-west-1")
    assert Accounts(state).account == "111122223333"
    with pytest.raises(InputError, match="111122223333"):
        Accounts(state, "999999999999")
    with pytest.raises(InputError, match="eu-west-1"):
        Accounts(state, region="us-east-1")


def test_the_administrators_file_is_private_and_made_once(state: State, tmp_path: Path) -> None:
    accounts = Accounts(state)
    file = tmp_path / "data" / "credentials.json"
    ensure_administrator(accounts, file)
    content = json.loads(file.read_text())
    assert set(content) == {"access_key_id", "secret_access_key", "account", "region"}
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o600
    identity = accounts.identity(content["access_key_id"])
    assert identity is not None
    assert identity.secret_access_key == content["secret_access_key"]
    assert identity.arn == "arn:aws:iam::123456789012:user/administrator"
    ensure_administrator(accounts, file)
    assert json.loads(file.read_text()) == content


@pytest.mark.parametrize("spoil", ["remove", "garbage", "another secret"])
def test_a_lost_administrators_file_gets_a_new_key(state: State, tmp_path: Path, spoil: str) -> None:
    accounts, file = Accounts(state), tmp_path / "credentials.json"
    for _ in range(4):  # more often than a user may have keys
        ensure_administrator(accounts, file)
        old = json.loads(file.read_text())
        if spoil == "remove":
            file.unlink()
        else:
            file.write_text("{" if spoil == "garbage" else json.dumps({**old, "secret_access_key": "x"}))
        ensure_administrator(accounts, file)
        new = json.loads(file.read_text())
        assert new["access_key_id"] != old["access_key_id"]
        assert accounts.identity(new["access_key_id"]) is not None
        file.unlink()


def test_a_session_survives_a_restart_and_ends_with_its_role(state: State) -> None:
    accounts = Accounts(state)
    role = new_role(accounts)
    made = accounts.make_session(role, "fl-1", now_s=1_000, duration_seconds=900, policy='{"x":1}')
    restarted = Accounts(state)
    identity = restarted.identity(made.access_key_id, made.session_token)
    assert identity is not None
    assert identity.secret_access_key == made.secret_access_key
    assert (identity.kind, identity.session, identity.expires_s) == ("assumed-role", "fl-1", 1_900)
    assert identity.arn == "arn:aws:sts::123456789012:assumed-role/r/fl-1"
    assert [policy.document for policy in identity.session_policies or ()] == ['{"x":1}']
    assert [policy.name for policy in identity.policies] == ["p"]
    with restarted.write() as session:
        session.delete(session.get(Role, "r"))
    assert restarted.identity(made.access_key_id, made.session_token) is None
    new_role(restarted)  # of the same name, but not the same role
    assert restarted.identity(made.access_key_id, made.session_token) is None


def test_a_token_that_is_not_ours_is_nobodys(state: State) -> None:
    accounts = Accounts(state)
    made = accounts.make_session(new_role(accounts), "s", 0, 900)
    token = made.session_token
    flipped = token[:50] + ("A" if token[50] != "A" else "B") + token[51:]
    for key_id, other in ((made.access_key_id, flipped), (made.access_key_id, "x"), ("ASIAOTHER", token)):
        assert accounts.identity(key_id, other) is None
    # The secret is not in the token, and a token is no key without itself.
    assert made.secret_access_key not in token
    assert accounts.identity(made.access_key_id) is None


def test_what_is_cached_costs_no_query_and_a_write_is_seen_at_once(state: State) -> None:
    accounts = Accounts(state)
    key_id, _ = accounts.make_agent_key("a1")
    queries: list[str] = []
    event.listen(state.engine, "before_cursor_execute", lambda *event: queries.append(event[2]))
    assert accounts.identity(key_id) is not None
    assert queries
    queries.clear()
    start = time.perf_counter()
    for _ in range(1_000):
        accounts.identity(key_id)
    assert not queries
    assert time.perf_counter() - start < 0.2  # microseconds each
    new_id, _ = accounts.make_agent_key("a1")
    assert accounts.identity(key_id) is None
    identity = accounts.identity(new_id)
    assert identity is not None
    assert (identity.kind, identity.name) == ("agent", "a1")
    accounts.delete_agent_keys("a1")
    assert accounts.identity(new_id) is None


def test_a_read_that_began_before_a_write_is_not_kept(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    accounts = Accounts(state)
    key_id, _ = accounts.make_agent_key("a1")
    loaded, written = threading.Event(), threading.Event()
    original = accounts._key_identity

    def slow(session: object, key: str) -> object:
        found = original(session, key)  # type: ignore[arg-type]
        loaded.set()
        assert written.wait(5)
        return found

    monkeypatch.setattr(accounts, "_key_identity", slow)
    reader = threading.Thread(target=accounts.identity, args=(key_id,))
    reader.start()
    assert loaded.wait(5)
    accounts.delete_agent_keys("a1")
    written.set()
    reader.join(5)
    monkeypatch.setattr(accounts, "_key_identity", original)
    assert accounts.identity(key_id) is None


def test_another_process_is_seen_within_the_caches_time(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vnotch.store.accounts.CACHE_SECONDS", 0.05)
    accounts, other = Accounts(state), Accounts(state)
    key_id, _ = accounts.make_agent_key("a1")
    assert accounts.identity(key_id) is not None
    other.delete_agent_keys("a1")
    time.sleep(0.06)
    assert accounts.identity(key_id) is None


def test_a_state_without_boundaries_and_groups_is_opened(tmp_path: Path) -> None:
    """Of before revisions: users and roles had neither boundaries nor groups, and there were no managed policies."""
    state = open_state(tmp_path / "before")
    with state.engine.begin() as connection:
        schema.run_revisions(connection, "0001")
    accounts = Accounts(state, "123456789012", "us-east-1")
    role = new_role(accounts)
    with accounts.write() as session:
        user = accounts.make_user(session, "ana")
        assert user is not None
        key = accounts.make_user_key(session, user)
    made = accounts.make_session(role, "s", now_s=1_000, duration_seconds=900)
    new = ["iam_group_member", "iam_policy_version", "iam_attachment", "iam_instance_profile"]
    with state.engine.begin() as connection:
        for table in (*new, "iam_group", "iam_managed_policy", "alembic_version"):
            connection.execute(text(f"DROP TABLE {table}"))
        for table, column in (("iam_user", "boundary_arn"), ("iam_role", "boundary_arn"), ("iam_role", "trusted_ids")):
            connection.execute(text(f"ALTER TABLE {table} DROP COLUMN {column}"))
    state.create_tables()
    opened = Accounts(state)
    found = opened.identity(key.access_key_id)
    assert found is not None
    assert (found.name, found.boundary) == ("ana", None)
    session_of = opened.identity(made.access_key_id, made.session_token)
    assert session_of is not None
    assert [policy.name for policy in session_of.policies] == ["p"]
    state.close()


def test_a_state_made_anew_takes_the_key_of_the_file(tmp_path: Path) -> None:
    """Clients that have the key go on after the state was wiped; the file says the new account."""
    file = tmp_path / "credentials.json"
    contents = []
    for folder, account in (("one", "111122223333"), ("two", "444455556666")):
        state = open_state(tmp_path / folder)
        state.create_tables()
        accounts = Accounts(state, account)
        ensure_administrator(accounts, file)
        contents.append(json.loads(file.read_text()))
        found = accounts.identity(contents[-1]["access_key_id"])
        assert found is not None
        assert found.arn == f"arn:aws:iam::{account}:user/administrator"
        assert found.secret_access_key == contents[-1]["secret_access_key"]
        state.close()
    assert [content.pop("account") for content in contents] == ["111122223333", "444455556666"]
    assert contents[0] == contents[1]


def test_names_are_one_without_regard_to_case(state: State) -> None:
    accounts = Accounts(state)
    with accounts.write() as session:
        assert accounts.make_user(session, "Ana") is not None
        assert accounts.make_user(session, "ANA") is None
        session.flush()
        assert session.query(AccessKey).count() == 0


def test_a_failed_write_changes_nothing_and_forgets(state: State) -> None:
    accounts = Accounts(state)

    def fail() -> None:
        with accounts.write() as session:
            accounts.make_user(session, "ana")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with accounts.write() as session:
        assert accounts.make_user(session, "ana") is not None


def test_no_secret_is_in_the_text_of_a_database_error(state: State) -> None:
    """Such a text goes into the server's log."""
    accounts = Accounts(state)
    key_id, secret = accounts.make_agent_key("a1")
    again = AccessKey(access_key_id=key_id, secret_access_key=secret, agent="a2", status="Active", created_ms=1)
    with pytest.raises(IntegrityError) as caught, accounts.write() as session:
        session.add(again)
    assert "iam_access_key" in str(caught.value)
    assert secret not in str(caught.value)

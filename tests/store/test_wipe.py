"""A fresh state: what goes, who stays, and a wipe that is killed at any of its steps is completed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from lakes import new_lake
from sqlalchemy import func, select, text
from state_database import VARIABLE, state_url

from vnotch.errors import HostError, InputError
from vnotch.store import schema, wipe
from vnotch.store.accounts import Accounts
from vnotch.store.administrator import ensure_administrator
from vnotch.store.backup import back_up, restore
from vnotch.store.log_groups import LogGroup
from vnotch.store.network import Agent, Revision, Vpc
from vnotch.store.principals import AccessKey, User
from vnotch.store.state import State

ON_SQLITE = pytest.mark.skipif(VARIABLE in os.environ, reason="it is about the files of SQLite")


class Before:
    """A state with something of each kind, and what is remembered of it."""

    def __init__(self, root: Path, url: str | None = None) -> None:
        self.root, self.url = root, url
        state = self.opened()
        accounts = Accounts(state, "111122223333", "eu-west-1")
        ensure_administrator(accounts, root / "credentials.json")
        self.file = (root / "credentials.json").read_bytes()
        with state.write() as session:
            session.add(Agent(name="web1", revision=7, created_ms=5, status={"a": 1}, received_ms=6))
            session.add(Vpc(vpc_id="vpc-0a", created_ms=1))
            session.add(LogGroup(name="g", creation_ms=0, log_class="STANDARD"))
            accounts.make_user(session, "ana")
        self.agent_key = accounts.make_agent_key("web1")
        state.close()
        (root / "lake").mkdir()
        (root / "lake" / "events").write_text("events")

    def opened(self) -> State:
        state = State.open(self.root / "state", self.url)
        state.create_tables()
        return state

    def check_fresh(self) -> None:
        """Nothing is left of it, and whoever had a key still has it."""
        assert not (self.root / "lake").exists()
        state = self.opened()
        accounts = Accounts(state)
        assert (accounts.account, accounts.region) == ("111122223333", "eu-west-1")
        found = accounts.identity(self.agent_key[0])
        assert found is not None
        assert (found.kind, found.name, found.secret_access_key) == ("agent", "web1", self.agent_key[1])
        ensure_administrator(accounts, self.root / "credentials.json")
        assert (self.root / "credentials.json").read_bytes() == self.file
        with state.read() as session:
            assert [user.name for user in session.scalars(select(User))] == ["administrator"]
            [agent] = session.scalars(select(Agent))
            revision = session.get(Revision, 1)
            assert revision is not None
            assert agent.revision == revision.value > 7, "the agent's long poll is answered"
            assert (agent.status, agent.created_ms) == (None, 5)
            left = {
                table.name
                for table in schema.metadata.sorted_tables
                if session.scalar(select(func.count()).select_from(table))
            }
        state.close()
        assert left == {"account", "iam_user", "iam_inline_policy", "iam_access_key", "agents", "revision"}
        assert [path.name for path in self.root.iterdir() if path.name.startswith(".")] == []


@pytest.fixture
def before(tmp_path: Path) -> Before:
    return Before(tmp_path, state_url())


def test_everything_goes_but_who_may_call(before: Before) -> None:
    wipe.wipe(before.root, before.url)
    before.check_fresh()
    wipe.wipe(before.root, before.url)
    before.check_fresh()


def test_sessions_of_before_end(before: Before) -> None:
    def key() -> bytes:
        state = before.opened()
        found = Accounts(state).tokens._key
        state.close()
        return found

    old = key()
    wipe.wipe(before.root, before.url)
    assert key() != old


@ON_SQLITE
@pytest.mark.parametrize("step", range(4))
def test_a_wipe_that_is_killed_is_completed_at_the_next_start(
    before: Before, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends before each of its renames: then nothing has changed, or all of it has once it was completed."""
    renames: list[Path] = []
    right: Callable[[Path, Path], Path] = Path.rename

    def rename(path: Path, target: Path) -> Path:
        renames.append(path)
        if len(renames) == step + 1:
            raise KeyboardInterrupt
        return right(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(KeyboardInterrupt):
        wipe.wipe(before.root)
    monkeypatch.undo()
    wipe.finish(before.root)
    if step == 0:
        state = before.opened()
        with state.read() as session:
            assert session.scalar(select(Vpc.vpc_id)) == "vpc-0a"
        state.close()
        assert (before.root / "lake" / "events").exists()
        wipe.wipe(before.root)
    before.check_fresh()


@ON_SQLITE
@pytest.mark.root
def test_what_root_wipes_or_restores_stays_its_owners(before: Before, tmp_path: Path) -> None:
    """As `sudo vnotch wipe` does in the folder of a service with a user of its own."""
    nobody = 65534
    backup = tmp_path.parent / f"{tmp_path.name}-backup"
    shutil.rmtree(before.root / "lake")
    new_lake(before.root / "lake").close()
    back_up(before.root, backup, 0)
    for path in (before.root, *before.root.rglob("*")):
        os.chown(path, nobody, nobody)
    wipe.wipe(before.root)
    assert {path.stat().st_uid for path in (before.root / "state", *(before.root / "state").rglob("*"))} == {nobody}
    restore(backup, before.root, force=True)
    assert {path.stat().st_uid for path in before.root.rglob("*")} == {nobody}


@ON_SQLITE
def test_a_folder_without_a_state_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lake").mkdir()
    with pytest.raises(InputError, match=r"has no state.*--state-url"):
        wipe.wipe(tmp_path)
    assert (tmp_path / "lake").exists()


def test_a_database_that_another_server_uses_is_left_alone(before: Before) -> None:
    if before.url is None:
        pytest.skip("one process has a data folder")
    other = State.open(before.root, before.url)
    with other.engine.connect() as connection:
        connection.execute(text("SET application_name = 'vnotch other 1'"))
        with pytest.raises(HostError, match="other servers use this database: vnotch other 1"):
            wipe.wipe(before.root, before.url)
    other.close()
    assert (before.root / "lake" / "events").exists()
    state = before.opened()
    with state.read() as session:
        assert session.scalar(select(Vpc.vpc_id)) == "vpc-0a"
        assert session.scalar(select(func.count()).select_from(AccessKey)) == 2
    state.close()

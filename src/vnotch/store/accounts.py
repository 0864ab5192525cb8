"""Who there is: the account, and whose a key is with all that decides what it may do.

Access keys belong to a user or to an agent; the keys of sessions (AssumeRole, GetSessionToken) are in no table, see
`vnotch.store.session_tokens`.

Reads go through a cache of at most `CACHE_SECONDS`, which every write of this process empties at once; another process
on the same state (a rotated key) is seen within that time. Nothing of a secret is ever logged.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy import Select, delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from vnotch.errors import InputError
from vnotch.store.last_used import LastUses
from vnotch.store.policies import PolicyText, managed_policy_text, policies_of
from vnotch.store.principals import (
    AccessKey,
    AccountRow,
    Group,
    InstanceProfile,
    ManagedPolicy,
    Role,
    User,
    new_access_key,
    new_secret,
    new_unique_id,
    now_ms,
    tag_keys,
)
from vnotch.store.session_tokens import SessionCredentials, SessionTokens
from vnotch.store.state import Base, State

CACHE_SECONDS = 1.0
CACHE_ENTRIES_MAX = 10_000
KEYS_PER_USER_MAX = 2  # IAM quota


@dataclass(frozen=True)
class Identity:
    """Whose a key is, with all that a call needs to know of them. `kind` is user, assumed-role or agent."""

    kind: str
    name: str
    arn: str
    unique_id: str  # AIDA..., AROA...:session, or the agent's key id
    access_key_id: str
    secret_access_key: str
    active: bool = True
    session: str = ""
    role_arn: str = ""
    policies: tuple[PolicyText, ...] = ()
    boundary: PolicyText | None = None
    session_policies: tuple[PolicyText, ...] | None = None
    tags: dict[str, str] = field(default_factory=dict, hash=False)  # as condition keys: aws:principaltag/team
    issued_s: int = 0
    expires_s: int | None = None  # of temporary credentials


@dataclass(frozen=True)
class _Held:
    """What a user or role has, as it is kept in the cache."""

    principal: User | Role
    policies: tuple[PolicyText, ...]
    boundary: PolicyText | None


T = TypeVar("T")
_TABLES: dict[str, type[User | Role | Group | ManagedPolicy | InstanceProfile]] = {
    table.arn_kind: table for table in (User, Role, Group, ManagedPolicy, InstanceProfile)
}


class Accounts:
    """The account's users, roles and keys on an open state whose tables exist."""

    def __init__(self, state: State, account: str | None = None, region: str | None = None) -> None:
        """`account` and `region` are fixed at the first start; later ones must be the same (or None)."""
        self.state = state
        self.account, self.region, session_key = self._fix(account, region)
        self.tokens = SessionTokens(session_key)
        self.last_uses = LastUses(state)
        self._lock = threading.Lock()
        self._generation = 0
        self._cache: dict[tuple[str, str], tuple[float, Any]] = {}

    def _fix(self, account: str | None, region: str | None) -> tuple[str, str, bytes]:
        with self.state.write() as session:
            row = session.get(AccountRow, 1)
            if row is None:
                row = AccountRow(
                    id=1,
                    account_id=account or "123456789012",
                    region=region or "us-east-1",
                    session_key=secrets.token_bytes(32),
                    created_ms=now_ms(),
                )
                session.add(row)
            for name, given, fixed in (("account", account, row.account_id), ("region", region, row.region)):
                if given is not None and given != fixed:
                    raise InputError(f"the {name} of this data folder is {fixed}, not {given}", f"use {fixed}")
            return row.account_id, row.region, row.session_key

    # --- finding who signs ---

    def identity(self, access_key_id: str, session_token: str = "") -> Identity | None:
        """Whose key this is, or None. A session's expiry and a key's status are for the caller to judge."""
        if session_token:
            return self._session_identity(access_key_id, session_token)
        return self._cached(("key", access_key_id), lambda session: self._key_identity(session, access_key_id))

    def _key_identity(self, session: Session, access_key_id: str) -> Identity | None:
        key = session.get(AccessKey, access_key_id)
        if key is None:
            return None
        active = key.status == "Active"
        if key.agent is not None:
            arn = self.agent_arn(key.agent)
            return Identity("agent", key.agent, arn, access_key_id, access_key_id, key.secret_access_key, active)
        user = session.get(User, key.user_key)
        assert user is not None  # a foreign key
        return self._user_identity(self._held(session, user), access_key_id, key.secret_access_key, active=active)

    def _user_identity(self, held: _Held, access_key_id: str, secret: str, **more: Any) -> Identity:
        user = held.principal
        return Identity(
            kind="user",
            name=user.name,
            arn=user.arn(self.account),
            unique_id=user.unique_id,
            access_key_id=access_key_id,
            secret_access_key=secret,
            policies=held.policies,
            boundary=held.boundary,
            tags=tag_keys(user.tag_list, "aws:principaltag/"),
            **more,
        )

    def _session_identity(self, access_key_id: str, token: str) -> Identity | None:
        claims = self.tokens.claims(access_key_id, token)
        if claims is None:
            return None
        secret, times = self.tokens.secret(token), {"issued_s": claims["issued"], "expires_s": claims["expires"]}
        if "user" in claims:
            user = select(User).where(User.user_id == claims["user"])
            held = self._cached(("user", claims["user"]), lambda session: self._held_by(session, user))
            return None if held is None else self._user_identity(held, access_key_id, secret, **times)
        found = select(Role).where(Role.role_id == claims["role"])
        held = self._cached(("role", claims["role"]), lambda session: self._held_by(session, found))
        if held is None:
            return None
        role = held.principal
        tags = tag_keys([*role.tag_list, *claims.get("tags", ())], "aws:principaltag/")  # the session's own go first
        return Identity(
            kind="assumed-role",
            name=role.name,
            arn=f"arn:aws:sts::{self.account}:assumed-role/{role.name}/{claims['session']}",
            unique_id=f"{role.unique_id}:{claims['session']}",
            access_key_id=access_key_id,
            secret_access_key=secret,
            session=claims["session"],
            role_arn=role.arn(self.account),
            policies=held.policies,
            boundary=held.boundary,
            session_policies=self._session_policies(claims),
            tags=tags,
            **times,
        )

    def _session_policies(self, claims: dict[str, Any]) -> tuple[PolicyText, ...] | None:
        if "policy" not in claims and "policies" not in claims:
            return None
        inline = (PolicyText("session policy", claims["policy"]),) if "policy" in claims else ()
        managed = [self._managed_text(arn) for arn in claims.get("policies", ())]
        return (*inline, *(policy for policy in managed if policy is not None))

    def _managed_text(self, arn: str) -> PolicyText | None:
        return self._cached(("policy", arn), lambda session: managed_policy_text(session, self.account, arn))

    def _held_by(self, session: Session, found: Select[Any]) -> _Held | None:
        row: User | Role | None = session.scalar(found)  # of either table
        return None if row is None else self._held(session, row)

    def _held(self, session: Session, principal: User | Role) -> _Held:
        boundary = None
        if principal.boundary_arn is not None:
            boundary = managed_policy_text(session, self.account, principal.boundary_arn)
            assert boundary is not None  # a policy that is a boundary cannot be deleted
        held = _Held(principal, policies_of(session, self.account, principal), boundary)
        session.expunge(principal)  # it outlives the session in the cache
        return held

    def _cached(self, key: tuple[str, str], load: Callable[[Session], T | None]) -> T | None:
        now = time.monotonic()
        entry = self._cache.get(key)
        if entry is not None and entry[0] > now:
            value: T = entry[1]
            return value
        generation = self._generation
        with self.state.read() as session:
            loaded = load(session)
        # What is not there is not kept: unknown key ids come from anyone and would fill the cache.
        if loaded is not None:
            with self._lock:
                # A write since the read began may have made it stale.
                if generation == self._generation:
                    if len(self._cache) >= CACHE_ENTRIES_MAX:
                        self._cache.clear()
                    self._cache[key] = (now + CACHE_SECONDS, loaded)
        return loaded

    def forget(self) -> None:
        """Empties the cache; called after every write."""
        with self._lock:
            self._generation += 1
            self._cache.clear()

    # --- names ---

    def agent_arn(self, agent: str) -> str:
        return f"arn:aws:vnotch:{self.region}:{self.account}:agent/{agent}"

    def resource_keys(self, arn: str) -> dict[str, str | tuple[str, ...]]:
        """The condition keys of a resource of IAM: its tags, and a user's or role's permissions boundary."""
        table = _TABLES.get(arn.rpartition(":")[2].partition("/")[0])
        if table is None:
            return {}
        with self.state.read() as session:
            row = session.get(table, arn.rpartition("/")[2].lower())
            if row is None or row.arn(self.account) != arn:
                return {}
            keys: dict[str, str | tuple[str, ...]] = {}
            keys |= tag_keys(row.tag_list, "aws:resourcetag/") | tag_keys(row.tag_list, "iam:resourcetag/")
            if isinstance(row, User | Role) and row.boundary_arn is not None:
                keys["iam:permissionsboundary"] = row.boundary_arn
            return keys

    # --- sessions ---

    def make_session(
        self,
        role: Role,
        name: str,
        now_s: int,
        duration_seconds: int,
        policy: str | None = None,
        policy_arns: tuple[str, ...] = (),
        tags: list[dict[str, str]] | None = None,
    ) -> SessionCredentials:
        """Credentials of a session of `role`; session policies and tags, where there are any, travel in the token."""
        subject: dict[str, Any] = {"role": role.role_id, "session": name}
        if policy is not None:
            subject["policy"] = policy
        if policy_arns:
            subject["policies"] = list(policy_arns)
        if tags:
            subject["tags"] = tags
        return self.tokens.issue(subject, now_s, duration_seconds)

    def make_user_session(self, user_id: str, now_s: int, duration_seconds: int) -> SessionCredentials:
        """Temporary credentials of a user (GetSessionToken)."""
        return self.tokens.issue({"user": user_id}, now_s, duration_seconds)

    # --- users and their keys ---

    def make_user(self, session: Session, name: str, path: str = "/", tags: str = "[]") -> User | None:
        """A new user, or None where one of that name is there."""
        user = User(
            name_key=name.lower(), name=name, path=path, user_id=new_unique_id("AIDA"), tags=tags, created_ms=now_ms()
        )
        return user if _added(session, user) else None

    def make_user_key(self, session: Session, user: User) -> AccessKey:
        key = new_access_key(new_unique_id("AKIA"), new_secret(), user=user)
        session.add(key)
        return key

    def make_agent_key(self, agent: str) -> tuple[str, str]:
        """A new key for an agent, in place of the one it had: (access key id, secret access key)."""
        key = new_access_key(new_unique_id("AKIA"), new_secret(), agent=agent)
        with self.write() as session:
            session.execute(delete(AccessKey).where(AccessKey.agent == agent))
            session.add(key)
        return key.access_key_id, key.secret_access_key

    def delete_agent_keys(self, agent: str) -> None:
        with self.write() as session:
            session.execute(delete(AccessKey).where(AccessKey.agent == agent))

    def write(self) -> _Write:
        """A writing transaction that empties the cache when it is over."""
        return _Write(self)

    # --- roles ---

    def role_by_arn(self, session: Session, arn: str) -> Role | None:
        role = session.get(Role, arn.rpartition("/")[2].lower())
        return role if role is not None and role.arn(self.account) == arn else None

    def make_role(
        self,
        session: Session,
        name: str,
        trust_policy: str,
        *,
        path: str = "/",
        description: str | None = None,
        max_session_seconds: int = 3600,
        tags: str = "[]",
    ) -> Role | None:
        """A new role, or None where one of that name is there."""
        role = Role(
            name_key=name.lower(),
            name=name,
            path=path,
            role_id=new_unique_id("AROA"),
            trust_policy=trust_policy,
            description=description,
            max_session_seconds=max_session_seconds,
            tags=tags,
            created_ms=now_ms(),
        )
        return role if _added(session, role) else None


class _Write:
    """Accounts.write(): State.write(), then the cache is emptied, whatever became of the transaction."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts
        self._context = accounts.state.write()

    def __enter__(self) -> Session:
        return self._context.__enter__()

    def __exit__(self, *error: Any) -> bool | None:
        try:
            return self._context.__exit__(*error)
        finally:
            self._accounts.forget()


def _added(session: Session, row: Base) -> bool:
    """Adds a row unless its key is taken; a savepoint keeps the rest of the transaction."""
    try:
        with session.begin_nested():
            session.add(row)
        return True
    except IntegrityError:
        return False

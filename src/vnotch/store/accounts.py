"""Who there is: the account, users, roles, their policies, access keys and sessions.

Access keys belong to a user or to an agent. Sessions (AssumeRole) are in no table: a session token carries the role,
the name and the expiry, authenticated with a key that the state keeps, and the session's secret is derived from it. So
they survive a restart, serve every server on the same state, and cost no write; deleting the role ends them.

Reads go through a cache of at most `CACHE_SECONDS`, which every write of this process empties at once; another process
on the same state (a rotated key) is seen within that time. Nothing of a secret is ever logged.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import secrets
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import BigInteger, ForeignKey, LargeBinary, String, Text, delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, Session, mapped_column

from vnotch.errors import InputError
from vnotch.store.state import Base, State

CACHE_SECONDS = 1.0
CACHE_ENTRIES_MAX = 10_000
KEYS_PER_USER_MAX = 2  # IAM quota
ADMINISTRATOR = "administrator"
ADMINISTRATOR_POLICY = json.dumps(
    {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
)


class AccountRow(Base):
    """One row: what is fixed from the first start on, and the key that authenticates session tokens."""

    __tablename__ = "account"
    id: Mapped[int] = mapped_column(primary_key=True)
    account_id: Mapped[str] = mapped_column(String(12))
    region: Mapped[str] = mapped_column(String(32))
    session_key: Mapped[bytes] = mapped_column(LargeBinary)
    created_ms: Mapped[int] = mapped_column(BigInteger)


class User(Base):
    __tablename__ = "iam_user"
    # IAM's names are unique without regard to case, so the key is the name in lower case.
    name_key: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(64))
    path: Mapped[str] = mapped_column(String(512))
    user_id: Mapped[str] = mapped_column(String(32), unique=True)
    tags: Mapped[str] = mapped_column(Text, default="[]")  # JSON list of {"Key", "Value"}
    created_ms: Mapped[int] = mapped_column(BigInteger)


class Role(Base):
    __tablename__ = "iam_role"
    name_key: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(64))
    path: Mapped[str] = mapped_column(String(512))
    role_id: Mapped[str] = mapped_column(String(32), unique=True)
    trust_policy: Mapped[str] = mapped_column(Text)
    description: Mapped[str | None] = mapped_column(Text)
    max_session_seconds: Mapped[int]
    tags: Mapped[str] = mapped_column(Text, default="[]")
    created_ms: Mapped[int] = mapped_column(BigInteger)


class InlinePolicy(Base):
    """An inline policy of a user or a role. `owner_id` is the owner's unique id, so a new owner never inherits it."""

    __tablename__ = "iam_inline_policy"
    owner_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    document: Mapped[str] = mapped_column(Text)


class AccessKey(Base):
    __tablename__ = "iam_access_key"
    access_key_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    secret_access_key: Mapped[str] = mapped_column(String(64))
    user_key: Mapped[str | None] = mapped_column(ForeignKey("iam_user.name_key"), index=True)
    agent: Mapped[str | None] = mapped_column(String(128), index=True)
    status: Mapped[str] = mapped_column(String(8))  # Active or Inactive
    created_ms: Mapped[int] = mapped_column(BigInteger)


@dataclass(frozen=True)
class PolicyText:
    name: str
    document: str


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
    session_policy: str | None = None
    issued_s: int = 0
    expires_s: int | None = None


@dataclass(frozen=True)
class SessionCredentials:
    access_key_id: str
    secret_access_key: str
    session_token: str
    expires_s: int


T = TypeVar("T")


class Accounts:
    """The account's users, roles and keys on an open state whose tables exist."""

    def __init__(self, state: State, account: str | None = None, region: str | None = None) -> None:
        """`account` and `region` are fixed at the first start; later ones must be the same (or None)."""
        self.state = state
        self.account, self.region, self._session_key = self._fix(account, region)
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
                    created_ms=_now_ms(),
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
        return Identity(
            kind="user",
            name=user.name,
            arn=self.user_arn(user),
            unique_id=user.user_id,
            access_key_id=access_key_id,
            secret_access_key=key.secret_access_key,
            active=active,
            policies=_policies(session, user.user_id),
        )

    def _session_identity(self, access_key_id: str, token: str) -> Identity | None:
        claims = self._read_token(token)
        if claims is None or claims["key"] != access_key_id:
            return None
        found = self._cached(("role", claims["role"]), lambda session: _role_with_policies(session, claims["role"]))
        if found is None:
            return None
        role, policies = found
        return Identity(
            kind="assumed-role",
            name=role.name,
            arn=f"arn:aws:sts::{self.account}:assumed-role/{role.name}/{claims['session']}",
            unique_id=f"{role.role_id}:{claims['session']}",
            access_key_id=access_key_id,
            secret_access_key=self._session_secret(token),
            session=claims["session"],
            role_arn=self.role_arn(role),
            policies=policies,
            session_policy=claims.get("policy"),
            issued_s=claims["issued"],
            expires_s=claims["expires"],
        )

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

    def user_arn(self, user: User) -> str:
        return f"arn:aws:iam::{self.account}:user{user.path}{user.name}"

    def role_arn(self, role: Role) -> str:
        return f"arn:aws:iam::{self.account}:role{role.path}{role.name}"

    def agent_arn(self, agent: str) -> str:
        return f"arn:aws:vnotch:{self.region}:{self.account}:agent/{agent}"

    # --- sessions ---

    def make_session(
        self, role: Role, name: str, now_s: int, duration_seconds: int, policy: str | None = None
    ) -> SessionCredentials:
        """Credentials of a session of `role`; the session policy, where there is one, travels in the token."""
        access_key_id = _key_id("ASIA")
        claims = {
            "key": access_key_id,
            "role": role.role_id,
            "session": name,
            "issued": now_s,
            "expires": now_s + duration_seconds,
        }
        if policy is not None:
            claims["policy"] = policy
        payload = zlib.compress(json.dumps(claims, separators=(",", ":")).encode())
        tag = hmac.digest(self._session_key, b"token" + payload, "sha256")
        token = base64.b64encode(tag + payload).decode()
        return SessionCredentials(access_key_id, self._session_secret(token), token, now_s + duration_seconds)

    def _read_token(self, token: str) -> dict[str, Any] | None:
        try:
            data = base64.b64decode(token, validate=True)
        except ValueError:
            return None
        tag, payload = data[:32], data[32:]
        if not hmac.compare_digest(tag, hmac.digest(self._session_key, b"token" + payload, "sha256")):
            return None
        claims: dict[str, Any] = json.loads(zlib.decompress(payload))  # ours, by the tag
        return claims

    def _session_secret(self, token: str) -> str:
        digest = hmac.digest(self._session_key, b"secret" + token.encode(), hashlib.sha256)
        return base64.b64encode(digest[:30]).decode()

    # --- users and their keys ---

    def make_user(self, session: Session, name: str, path: str = "/", tags: str = "[]") -> User | None:
        """A new user, or None where one of that name is there."""
        user = User(
            name_key=name.lower(), name=name, path=path, user_id=_key_id("AIDA"), tags=tags, created_ms=_now_ms()
        )
        return user if _added(session, user) else None

    def make_user_key(self, session: Session, user: User) -> AccessKey:
        key = AccessKey(
            access_key_id=_key_id("AKIA"),
            secret_access_key=_secret(),
            user_key=user.name_key,
            agent=None,
            status="Active",
            created_ms=_now_ms(),
        )
        session.add(key)
        return key

    def make_agent_key(self, agent: str) -> tuple[str, str]:
        """A new key for an agent, in place of the one it had: (access key id, secret access key)."""
        key = AccessKey(
            access_key_id=_key_id("AKIA"),
            secret_access_key=_secret(),
            user_key=None,
            agent=agent,
            status="Active",
            created_ms=_now_ms(),
        )
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
        return role if role is not None and self.role_arn(role) == arn else None

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
            role_id=_key_id("AROA"),
            trust_policy=trust_policy,
            description=description,
            max_session_seconds=max_session_seconds,
            tags=tags,
            created_ms=_now_ms(),
        )
        return role if _added(session, role) else None

    # --- the first key ---

    def ensure_administrator(self, file: Path) -> None:
        """Makes the administrator, with a key in `file` that only its owner may read; does nothing if it works.

        A lost or spoilt file gets a new key; of the administrator's keys the oldest goes when the quota is full.
        """
        if self._file_works(file):
            return
        with self.write() as session:
            user = session.get(User, ADMINISTRATOR) or self.make_user(session, ADMINISTRATOR)
            assert user is not None
            if session.get(InlinePolicy, (user.user_id, "AdministratorAccess")) is None:
                session.add(
                    InlinePolicy(owner_id=user.user_id, name="AdministratorAccess", document=ADMINISTRATOR_POLICY)
                )
            session.flush()
            keys = list(
                session.scalars(
                    select(AccessKey).where(AccessKey.user_key == user.name_key).order_by(AccessKey.created_ms)
                )
            )
            for key in keys[: max(0, len(keys) - KEYS_PER_USER_MAX + 1)]:
                session.delete(key)
            new = self.make_user_key(session, user)
            # Before the commit: a file whose key is unknown is made anew, a key that no file holds is lost.
            write_private(file, json.dumps(self._file_content(new), indent=2) + "\n")

    def _file_content(self, key: AccessKey) -> dict[str, str]:
        return {
            "access_key_id": key.access_key_id,
            "secret_access_key": key.secret_access_key,
            "account": self.account,
            "region": self.region,
        }

    def _file_works(self, file: Path) -> bool:
        try:
            content = json.loads(file.read_bytes())
            key_id, secret = str(content["access_key_id"]), str(content["secret_access_key"])
        except (OSError, ValueError, KeyError, TypeError):
            return False
        identity = self.identity(key_id)
        return identity is not None and identity.active and hmac.compare_digest(identity.secret_access_key, secret)


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


def _role_with_policies(session: Session, role_id: str) -> tuple[Role, tuple[PolicyText, ...]] | None:
    role = session.scalar(select(Role).where(Role.role_id == role_id))
    if role is None:
        return None
    policies = _policies(session, role_id)
    session.expunge(role)  # it outlives the session in the cache
    return role, policies


def _policies(session: Session, owner_id: str) -> tuple[PolicyText, ...]:
    rows = session.scalars(select(InlinePolicy).where(InlinePolicy.owner_id == owner_id).order_by(InlinePolicy.name))
    return tuple(PolicyText(row.name, row.document) for row in rows)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _key_id(prefix: str) -> str:
    """20 or 21 characters of AWS's form: the prefix and 16 of the base32 alphabet."""
    return prefix + base64.b32encode(secrets.token_bytes(10)).decode()


def _secret() -> str:
    return base64.b64encode(secrets.token_bytes(30)).decode()  # 40 characters, as AWS's


def write_private(file: Path, text: str) -> None:
    """Writes a file that only its owner may read, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    new = file.with_name(file.name + ".new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(new, file)

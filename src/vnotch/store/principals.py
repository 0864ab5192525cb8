"""Users, groups, roles and the policies that they have, as rows.

Rules that the tables keep:
- IAM's names are unique without regard to case, so the keys are the names in lower case (`name_key`).
- What belongs to a principal is held by its unique id (AIDA..., AGPA..., AROA...), so that one that is made again under
  an old name inherits nothing.
- AWS's own managed policies are no rows (`vnotch.store.aws_managed`); a `PolicyAttachment` names them by ARN.
"""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import Iterable
from typing import ClassVar

from sqlalchemy import BigInteger, ForeignKey, LargeBinary, String, Text
from sqlalchemy.orm import Mapped, declared_attr, mapped_column

from vnotch.store.state import Base

SERVICE_ROLE_PATH = "/aws-service-role/"


class AccountRow(Base):
    """One row: what is fixed from the first start on, and the key that authenticates session tokens."""

    __tablename__ = "account"
    id: Mapped[int] = mapped_column(primary_key=True)
    account_id: Mapped[str] = mapped_column(String(12))
    region: Mapped[str] = mapped_column(String(32))
    session_key: Mapped[bytes] = mapped_column(LargeBinary)
    created_ms: Mapped[int] = mapped_column(BigInteger)


class Entity(Base):
    """What users, groups, roles, managed policies and instance profiles have in common."""

    __abstract__ = True
    kind: ClassVar[str]  # as in the names of operations and parameters
    arn_kind: ClassVar[str]
    id_column: ClassVar[str]  # the column of the unique id
    name_characters: ClassVar[int] = 128  # IAM and STS quotas, "IAM name limits"; users and roles have 64

    @declared_attr
    def name_key(cls) -> Mapped[str]:
        return mapped_column(String(cls.name_characters), primary_key=True)

    @declared_attr
    def name(cls) -> Mapped[str]:
        return mapped_column(String(cls.name_characters))

    path: Mapped[str] = mapped_column(String(512))
    tags: Mapped[str] = mapped_column(Text, default="[]")  # JSON list of {"Key", "Value"}; IAM tags no groups
    created_ms: Mapped[int] = mapped_column(BigInteger)

    @property
    def unique_id(self) -> str:
        return str(getattr(self, self.id_column))

    def arn(self, account: str) -> str:
        return f"arn:aws:iam::{account}:{self.arn_kind}{self.path}{self.name}"

    @property
    def tag_list(self) -> list[dict[str, str]]:
        found: list[dict[str, str]] = json.loads(self.tags)
        return found


class Bounded(Entity):
    """What may have a permissions boundary: users and roles."""

    __abstract__ = True
    name_characters = 64
    boundary_arn: Mapped[str | None] = mapped_column(String(2048))


class User(Bounded):
    __tablename__ = "iam_user"
    kind, arn_kind, id_column = "User", "user", "user_id"
    user_id: Mapped[str] = mapped_column(String(32), unique=True)


class Role(Bounded):
    __tablename__ = "iam_role"
    kind, arn_kind, id_column = "Role", "role", "role_id"
    role_id: Mapped[str] = mapped_column(String(32), unique=True)
    trust_policy: Mapped[str] = mapped_column(Text)
    description: Mapped[str | None] = mapped_column(Text)
    max_session_seconds: Mapped[int]
    # JSON: the ARNs of this account that the trust names, each with the unique id that it had then.
    trusted_ids: Mapped[str | None] = mapped_column(Text)

    def trusts_id(self, arn: str, unique_id: str) -> bool:
        """Whether the principal of that ARN is the one that the trust policy was written for."""
        ids: dict[str, str] = json.loads(self.trusted_ids or "{}")
        return ids.get(arn, unique_id) == unique_id

    @property
    def service_linked(self) -> bool:
        return self.path.startswith(SERVICE_ROLE_PATH)


class Group(Entity):
    __tablename__ = "iam_group"
    kind, arn_kind, id_column = "Group", "group", "group_id"
    group_id: Mapped[str] = mapped_column(String(32), unique=True)


Principal = User | Role | Group


class Membership(Base):
    __tablename__ = "iam_group_member"
    group_id: Mapped[str] = mapped_column(ForeignKey("iam_group.group_id", ondelete="CASCADE"), primary_key=True)
    user_id: Mapped[str] = mapped_column(
        ForeignKey("iam_user.user_id", ondelete="CASCADE"), primary_key=True, index=True
    )


class InlinePolicy(Base):
    """An inline policy of a user, group or role, by its unique id."""

    __tablename__ = "iam_inline_policy"
    owner_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    document: Mapped[str] = mapped_column(Text)


class ManagedPolicy(Entity):
    """A customer managed policy; its documents are its versions, of which one is the default."""

    __tablename__ = "iam_managed_policy"
    kind, arn_kind, id_column = "Policy", "policy", "policy_id"
    policy_id: Mapped[str] = mapped_column(String(32), unique=True)
    description: Mapped[str | None] = mapped_column(Text)
    default_version: Mapped[int]
    last_version: Mapped[int]  # numbers of deleted versions are not given again
    updated_ms: Mapped[int] = mapped_column(BigInteger)


class PolicyVersion(Base):
    __tablename__ = "iam_policy_version"
    policy_id: Mapped[str] = mapped_column(
        ForeignKey("iam_managed_policy.policy_id", ondelete="CASCADE"), primary_key=True
    )
    number: Mapped[int] = mapped_column(primary_key=True)  # v1 is 1
    document: Mapped[str] = mapped_column(Text)
    created_ms: Mapped[int] = mapped_column(BigInteger)


class PolicyAttachment(Base):
    """A managed policy on a user, group or role."""

    __tablename__ = "iam_attachment"
    owner_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    policy_arn: Mapped[str] = mapped_column(String(2048), primary_key=True, index=True)


class InstanceProfile(Entity):
    __tablename__ = "iam_instance_profile"
    kind, arn_kind, id_column = "InstanceProfile", "instance-profile", "profile_id"
    profile_id: Mapped[str] = mapped_column(String(32), unique=True)
    role_id: Mapped[str | None] = mapped_column(ForeignKey("iam_role.role_id"), index=True)


class AccessKey(Base):
    __tablename__ = "iam_access_key"
    access_key_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    secret_access_key: Mapped[str] = mapped_column(String(64))
    user_key: Mapped[str | None] = mapped_column(ForeignKey("iam_user.name_key"), index=True)
    agent: Mapped[str | None] = mapped_column(String(128), index=True)
    status: Mapped[str] = mapped_column(String(8))  # Active or Inactive
    created_ms: Mapped[int] = mapped_column(BigInteger)


def new_access_key(key_id: str, secret: str, *, user: User | None = None, agent: str | None = None) -> AccessKey:
    """The row of a new key of one of both."""
    return AccessKey(
        access_key_id=key_id,
        secret_access_key=secret,
        user_key=user.name_key if user else None,
        agent=agent,
        status="Active",
        created_ms=now_ms(),
    )


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def new_unique_id(prefix: str) -> str:
    """20 or 21 characters of AWS's form: the prefix and 16 of the base32 alphabet."""
    return prefix + base64.b32encode(secrets.token_bytes(10)).decode()


def new_secret() -> str:
    return base64.b64encode(secrets.token_bytes(30)).decode()  # 40 characters, as AWS's


def tag_keys(tags: Iterable[dict[str, str]], prefix: str) -> dict[str, str]:
    """Tags as condition keys in lower case: `aws:principaltag/team` and its value."""
    return {prefix + tag["Key"].lower(): tag["Value"] for tag in tags}

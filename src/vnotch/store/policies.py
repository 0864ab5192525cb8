"""The policies that apply to someone, as they are stored: inline, attached, those of a user's groups, boundaries."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from vnotch.store.aws_managed import aws_policies
from vnotch.store.principals import (
    Group,
    InlinePolicy,
    ManagedPolicy,
    Membership,
    PolicyAttachment,
    PolicyVersion,
    Principal,
    User,
)


@dataclass(frozen=True)
class PolicyText:
    """A policy as it applies to someone. `source` is SimulatePrincipalPolicy's PolicySourceType: user, group, role,
    aws-managed or user-managed."""

    name: str
    document: str
    source: str = ""


def policies_of(session: Session, account: str, principal: Principal) -> tuple[PolicyText, ...]:
    """The identity policies that apply to a user, group or role: its own, and for a user those of its groups."""
    found = _own_policies(session, account, principal)
    if isinstance(principal, User):
        groups = select(Group).join(Membership, Membership.group_id == Group.group_id)
        for group in session.scalars(groups.where(Membership.user_id == principal.user_id).order_by(Group.name_key)):
            found += _own_policies(session, account, group)
    return tuple(found)


def _own_policies(session: Session, account: str, principal: Principal) -> list[PolicyText]:
    owner_id, source = principal.unique_id, principal.kind.lower()
    inline = session.scalars(select(InlinePolicy).where(InlinePolicy.owner_id == owner_id).order_by(InlinePolicy.name))
    found = [PolicyText(row.name, row.document, source) for row in inline]
    attached = select(PolicyAttachment.policy_arn).where(PolicyAttachment.owner_id == owner_id)
    for arn in session.scalars(attached.order_by(PolicyAttachment.policy_arn)):
        policy = managed_policy_text(session, account, arn)
        assert policy is not None  # a policy that is attached cannot be deleted
        found.append(policy)
    return found


def managed_policy_text(session: Session, account: str, arn: str) -> PolicyText | None:
    """The default version of a managed policy, AWS's or the account's own; None where there is none of that ARN."""
    if (aws := aws_policies().get(arn)) is not None:
        return PolicyText(aws.name, aws.document, "aws-managed")
    policy = managed_policy(session, account, arn)
    if policy is None:
        return None
    version = session.get(PolicyVersion, (policy.policy_id, policy.default_version))
    assert version is not None  # the default version cannot be deleted
    return PolicyText(policy.name, version.document, "user-managed")


def managed_policy(session: Session, account: str, arn: str) -> ManagedPolicy | None:
    """The account's own managed policy of that ARN."""
    policy = session.get(ManagedPolicy, arn.rpartition("/")[2].lower())
    return policy if policy is not None and policy.arn(account) == arn else None

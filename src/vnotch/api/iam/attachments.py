"""Managed policies on users, groups and roles: attach, detach, list, and who has one."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from vnotch.api.iam.part import (
    ITEMS_DEFAULT,
    IamPart,
    check_count,
    find_policy,
    find_principal,
    marker,
    page,
    read_marker,
)
from vnotch.api.service import ApiError, Call, operation
from vnotch.store.aws_managed import AwsPolicy
from vnotch.store.principals import Group, InlinePolicy, PolicyAttachment, Principal, Role, User

ATTACHED_MAX = 10
"""IAM quota: managed policies on one user, group or role."""

_FILTER = {"User": User, "Group": Group, "Role": Role}


class Attachments(IamPart):
    @operation("AttachUserPolicy", "user_resource")
    def attach_user_policy(self, call: Call) -> dict[str, Any]:
        return self._attach(call, "User")

    @operation("AttachGroupPolicy", "group_resource")
    def attach_group_policy(self, call: Call) -> dict[str, Any]:
        return self._attach(call, "Group")

    @operation("AttachRolePolicy", "role_resource")
    def attach_role_policy(self, call: Call) -> dict[str, Any]:
        return self._attach(call, "Role")

    def _attach(self, call: Call, kind: str) -> dict[str, Any]:
        arn = call.params["PolicyArn"]
        with self.accounts.write() as session:
            owner = find_principal(session, call, kind, to_change=True)
            policy = find_policy(session, self.account, arn)
            if isinstance(policy, AwsPolicy) and not policy.attachable:
                raise ApiError("PolicyNotAttachable", f"Cannot attach a Service Role Policy to a Customer {kind}.")
            if session.get(PolicyAttachment, (owner.unique_id, arn)) is None:
                mine = PolicyAttachment.owner_id == owner.unique_id
                check_count(session, PolicyAttachment, ATTACHED_MAX, f"PoliciesPer{kind}", mine)
                session.add(PolicyAttachment(owner_id=owner.unique_id, policy_arn=arn))
        return {}

    @operation("DetachUserPolicy", "user_resource")
    def detach_user_policy(self, call: Call) -> dict[str, Any]:
        return self._detach(call, "User")

    @operation("DetachGroupPolicy", "group_resource")
    def detach_group_policy(self, call: Call) -> dict[str, Any]:
        return self._detach(call, "Group")

    @operation("DetachRolePolicy", "role_resource")
    def detach_role_policy(self, call: Call) -> dict[str, Any]:
        return self._detach(call, "Role")

    def _detach(self, call: Call, kind: str) -> dict[str, Any]:
        arn = call.params["PolicyArn"]
        with self.accounts.write() as session:
            owner = find_principal(session, call, kind, to_change=True)
            attachment = session.get(PolicyAttachment, (owner.unique_id, arn))
            if attachment is None:
                raise ApiError("NoSuchEntity", f"Policy {arn} was not found.")
            session.delete(attachment)
        return {}

    @operation("ListAttachedUserPolicies", "user_resource")
    def list_attached_user_policies(self, call: Call) -> dict[str, Any]:
        return self._list_attached(call, "User")

    @operation("ListAttachedGroupPolicies", "group_resource")
    def list_attached_group_policies(self, call: Call) -> dict[str, Any]:
        return self._list_attached(call, "Group")

    @operation("ListAttachedRolePolicies", "role_resource")
    def list_attached_role_policies(self, call: Call) -> dict[str, Any]:
        return self._list_attached(call, "Role")

    def _list_attached(self, call: Call, kind: str) -> dict[str, Any]:
        prefix = call.params.get("PathPrefix", "/")
        with self.accounts.state.read() as session:
            found = attached_policies(session, find_principal(session, call, kind))
        listed = [item for item in found if item["PolicyArn"].partition(":policy")[2].startswith(prefix)]
        return page(call, "AttachedPolicies", listed, "PolicyName")

    @operation("ListEntitiesForPolicy", "policy_resource")
    def list_entities_for_policy(self, call: Call) -> dict[str, Any]:
        """Users, groups and roles in one row of pages, in this order."""
        params, arn = call.params, call.params["PolicyArn"]
        wanted = [params["EntityFilter"]] if "EntityFilter" in params else ["Group", "User", "Role"]
        if wanted[0] not in _FILTER:
            wanted = []  # managed policies have no policies
        usage, prefix = params.get("PolicyUsageFilter"), params.get("PathPrefix", "/")
        found: list[tuple[str, Principal]] = []
        with self.accounts.state.read() as session:
            find_policy(session, self.account, arn)
            for kind in wanted:
                rows = _having(session, kind, arn, usage)
                found += [(f"{kind}/{row.name_key}", row) for row in rows if row.path.startswith(prefix)]
        return _entities_page(call, found)


def _having(session: Session, kind: str, arn: str, usage: str | None) -> list[Principal]:
    """The users, groups or roles that have the policy attached or, but for groups, as their boundary."""
    table: Any = _FILTER[kind]
    column = {"User": User.user_id, "Group": Group.group_id, "Role": Role.role_id}[kind]
    found: dict[str, Principal] = {}
    if usage in (None, "PermissionsPolicy"):
        rows = select(table).join(PolicyAttachment, PolicyAttachment.owner_id == column)
        found |= {row.name_key: row for row in session.scalars(rows.where(PolicyAttachment.policy_arn == arn))}
    if usage in (None, "PermissionsBoundary") and kind != "Group":
        found |= {row.name_key: row for row in session.scalars(select(table).where(table.boundary_arn == arn))}
    return [found[name] for name in sorted(found)]


def _entities_page(call: Call, found: list[tuple[str, Principal]]) -> dict[str, Any]:
    start = 0
    if "Marker" in call.params:
        last = read_marker(call.params["Marker"])
        keys = [key for key, _ in found]
        start = keys.index(last) + 1 if last in keys else len(keys)
    shown = found[start : start + call.params.get("MaxItems", ITEMS_DEFAULT)]
    answer: dict[str, Any] = {"PolicyGroups": [], "PolicyUsers": [], "PolicyRoles": []}
    for _, row in shown:
        answer[f"Policy{row.kind}s"].append({f"{row.kind}Name": row.name, f"{row.kind}Id": row.unique_id})
    answer["IsTruncated"] = start + len(shown) < len(found)
    if answer["IsTruncated"]:
        answer["Marker"] = marker(shown[-1][0])
    return answer


def attached_policies(session: Session, owner: Principal) -> list[dict[str, str]]:
    arns = select(PolicyAttachment.policy_arn).where(PolicyAttachment.owner_id == owner.unique_id)
    listed = [{"PolicyName": arn.rpartition("/")[2], "PolicyArn": arn} for arn in session.scalars(arns)]
    return sorted(listed, key=lambda item: (item["PolicyName"].lower(), item["PolicyArn"]))


def refuse_with_policies(session: Session, owner: Principal) -> None:
    """DeleteConflict where the owner still has policies."""
    if session.scalar(select(InlinePolicy).where(InlinePolicy.owner_id == owner.unique_id).limit(1)) is not None:
        raise conflict("must delete policies first")
    if attached_policies(session, owner):
        raise conflict("must detach all policies first")


def conflict(what_first: str) -> ApiError:
    return ApiError("DeleteConflict", f"Cannot delete entity, {what_first}.")

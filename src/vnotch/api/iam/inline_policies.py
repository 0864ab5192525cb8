"""Inline policies of users, groups and roles: the same four operations for each."""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from vnotch.api.iam.part import IamPart, characters, check_policy, encoded, find_principal, page
from vnotch.api.service import ApiError, Call, operation
from vnotch.store.principals import InlinePolicy

# IAM quotas (IAM user guide, "IAM and AWS STS quotas"): characters without white space, over all inline policies.
CHARACTERS_MAX = {"User": 2_048, "Group": 5_120, "Role": 10_240}


class InlinePolicies(IamPart):
    @operation("PutUserPolicy", "user_resource")
    def put_user_policy(self, call: Call) -> dict[str, Any]:
        return self._put_inline(call, "User")

    @operation("PutGroupPolicy", "group_resource")
    def put_group_policy(self, call: Call) -> dict[str, Any]:
        return self._put_inline(call, "Group")

    @operation("PutRolePolicy", "role_resource")
    def put_role_policy(self, call: Call) -> dict[str, Any]:
        return self._put_inline(call, "Role")

    def _put_inline(self, call: Call, kind: str) -> dict[str, Any]:
        name, document = call.params["PolicyName"], call.params["PolicyDocument"]
        with self.accounts.write() as session:
            owner = find_principal(session, call, kind, to_change=True)
            check_policy(document)
            mine = InlinePolicy.owner_id == owner.unique_id
            others = session.scalars(select(InlinePolicy.document).where(mine, InlinePolicy.name != name))
            if sum(map(characters, (document, *others))) > CHARACTERS_MAX[kind]:
                size = f"Maximum policy size of {CHARACTERS_MAX[kind]} bytes exceeded"
                raise ApiError("LimitExceeded", f"{size} for {kind.lower()} {owner.name}")
            session.execute(delete(InlinePolicy).where(mine, InlinePolicy.name == name))
            session.add(InlinePolicy(owner_id=owner.unique_id, name=name, document=document))
        return {}

    @operation("GetUserPolicy", "user_resource")
    def get_user_policy(self, call: Call) -> dict[str, Any]:
        return self._get_inline(call, "User")

    @operation("GetGroupPolicy", "group_resource")
    def get_group_policy(self, call: Call) -> dict[str, Any]:
        return self._get_inline(call, "Group")

    @operation("GetRolePolicy", "role_resource")
    def get_role_policy(self, call: Call) -> dict[str, Any]:
        return self._get_inline(call, "Role")

    def _get_inline(self, call: Call, kind: str) -> dict[str, Any]:
        with self.accounts.state.read() as session:
            owner = find_principal(session, call, kind)
            policy = _policy(session, owner.unique_id, call, kind)
            document = encoded(policy.document)
            return {f"{kind}Name": owner.name, "PolicyName": policy.name, "PolicyDocument": document}

    @operation("DeleteUserPolicy", "user_resource")
    def delete_user_policy(self, call: Call) -> dict[str, Any]:
        return self._delete_inline(call, "User")

    @operation("DeleteGroupPolicy", "group_resource")
    def delete_group_policy(self, call: Call) -> dict[str, Any]:
        return self._delete_inline(call, "Group")

    @operation("DeleteRolePolicy", "role_resource")
    def delete_role_policy(self, call: Call) -> dict[str, Any]:
        return self._delete_inline(call, "Role")

    def _delete_inline(self, call: Call, kind: str) -> dict[str, Any]:
        with self.accounts.write() as session:
            owner = find_principal(session, call, kind, to_change=True)
            session.delete(_policy(session, owner.unique_id, call, kind))
        return {}

    @operation("ListUserPolicies", "user_resource")
    def list_user_policies(self, call: Call) -> dict[str, Any]:
        return self._list_inline(call, "User")

    @operation("ListGroupPolicies", "group_resource")
    def list_group_policies(self, call: Call) -> dict[str, Any]:
        return self._list_inline(call, "Group")

    @operation("ListRolePolicies", "role_resource")
    def list_role_policies(self, call: Call) -> dict[str, Any]:
        return self._list_inline(call, "Role")

    def _list_inline(self, call: Call, kind: str) -> dict[str, Any]:
        with self.accounts.state.read() as session:
            owner = find_principal(session, call, kind)
            names = session.scalars(select(InlinePolicy.name).where(InlinePolicy.owner_id == owner.unique_id)).all()
        return page(call, "PolicyNames", sorted(names, key=str.lower))


def _policy(session: Session, owner_id: str, call: Call, kind: str) -> InlinePolicy:
    policy = session.get(InlinePolicy, (owner_id, call.params["PolicyName"]))
    if policy is None:
        text = f"The {kind.lower()} policy with name {call.params['PolicyName']} cannot be found."
        raise ApiError("NoSuchEntity", text)
    return policy

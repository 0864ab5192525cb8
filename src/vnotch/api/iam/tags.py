"""Tags of users, roles, managed policies and instance profiles."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from vnotch.api.iam.part import IamPart, checked_tags, find, find_own_policy, find_role, page
from vnotch.api.service import Call, operation
from vnotch.store.principals import InstanceProfile, ManagedPolicy, Role, User

Tagged = User | Role | ManagedPolicy | InstanceProfile


class Tags(IamPart):
    @operation("TagUser", "user_resource")
    def tag_user(self, call: Call) -> dict[str, Any]:
        return self._put_tags(call, "User")

    @operation("TagRole", "role_resource")
    def tag_role(self, call: Call) -> dict[str, Any]:
        return self._put_tags(call, "Role")

    @operation("TagPolicy", "policy_resource")
    def tag_policy(self, call: Call) -> dict[str, Any]:
        return self._put_tags(call, "Policy")

    @operation("TagInstanceProfile", "profile_resource")
    def tag_instance_profile(self, call: Call) -> dict[str, Any]:
        return self._put_tags(call, "InstanceProfile")

    def _put_tags(self, call: Call, kind: str) -> dict[str, Any]:
        """A tag takes the place of one whose key differs in case only (IAM user guide, "Tagging IAM resources")."""
        new = call.params["Tags"]
        checked_tags(new)
        with self.accounts.write() as session:
            row = self._tagged(session, call, kind, to_change=True)
            given = {tag["Key"].lower() for tag in new}
            row.tags = checked_tags([*(tag for tag in row.tag_list if tag["Key"].lower() not in given), *new])
        return {}

    @operation("UntagUser", "user_resource")
    def untag_user(self, call: Call) -> dict[str, Any]:
        return self._drop_tags(call, "User")

    @operation("UntagRole", "role_resource")
    def untag_role(self, call: Call) -> dict[str, Any]:
        return self._drop_tags(call, "Role")

    @operation("UntagPolicy", "policy_resource")
    def untag_policy(self, call: Call) -> dict[str, Any]:
        return self._drop_tags(call, "Policy")

    @operation("UntagInstanceProfile", "profile_resource")
    def untag_instance_profile(self, call: Call) -> dict[str, Any]:
        return self._drop_tags(call, "InstanceProfile")

    def _drop_tags(self, call: Call, kind: str) -> dict[str, Any]:
        gone = {key.lower() for key in call.params["TagKeys"]}
        with self.accounts.write() as session:
            row = self._tagged(session, call, kind, to_change=True)
            row.tags = checked_tags([tag for tag in row.tag_list if tag["Key"].lower() not in gone])
        return {}

    @operation("ListUserTags", "user_resource")
    def list_user_tags(self, call: Call) -> dict[str, Any]:
        return self._list_tags(call, "User")

    @operation("ListRoleTags", "role_resource")
    def list_role_tags(self, call: Call) -> dict[str, Any]:
        return self._list_tags(call, "Role")

    @operation("ListPolicyTags", "policy_resource")
    def list_policy_tags(self, call: Call) -> dict[str, Any]:
        return self._list_tags(call, "Policy")

    @operation("ListInstanceProfileTags", "profile_resource")
    def list_instance_profile_tags(self, call: Call) -> dict[str, Any]:
        return self._list_tags(call, "InstanceProfile")

    def _list_tags(self, call: Call, kind: str) -> dict[str, Any]:
        with self.accounts.state.read() as session:
            tags = self._tagged(session, call, kind).tag_list
        return page(call, "Tags", sorted(tags, key=lambda tag: tag["Key"].lower()), "Key")

    def _tagged(self, session: Session, call: Call, kind: str, to_change: bool = False) -> Tagged:
        if kind == "Role":
            return find_role(session, call, to_change)
        if kind == "Policy":
            return find_own_policy(session, self.account, call.params["PolicyArn"])
        name = call.params[f"{kind}Name"]
        return find(session, User, name) if kind == "User" else find(session, InstanceProfile, name)

"""Groups of users, whose policies they share."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select

from vnotch.api.iam.attachments import conflict, refuse_with_policies
from vnotch.api.iam.part import IamPart, check_count, find, page
from vnotch.api.service import ApiError, Call, operation
from vnotch.store.principals import Group, Membership, User, new_unique_id, now_ms

GROUPS_MAX = 300
GROUPS_PER_USER_MAX = 10


class Groups(IamPart):
    @operation("CreateGroup", "group_resource")
    def create_group(self, call: Call) -> dict[str, Any]:
        name = call.params["GroupName"]
        with self.accounts.write() as session:
            if session.get(Group, name.lower()) is not None:
                raise _exists(name)
            check_count(session, Group, GROUPS_MAX, "GroupsPerAccount")
            group = Group(
                name_key=name.lower(),
                name=name,
                path=call.params.get("Path", "/"),
                group_id=new_unique_id("AGPA"),
                tags="[]",
                created_ms=now_ms(),
            )
            session.add(group)
        return {"Group": self.group_members(group)}

    @operation("GetGroup", "group_resource")
    def get_group(self, call: Call) -> dict[str, Any]:
        """The group and a page of its users."""
        with self.accounts.state.read() as session:
            group = find(session, Group, call.params["GroupName"])
            members = select(User).join(Membership, Membership.user_id == User.user_id)
            rows = session.scalars(members.where(Membership.group_id == group.group_id).order_by(User.name_key)).all()
        listed = [self.entity_members(user, "UserId", "UserName") for user in rows]
        return {"Group": self.group_members(group), **page(call, "Users", listed, "UserName")}

    @operation("ListGroups")
    def list_groups(self, call: Call) -> dict[str, Any]:
        prefix = call.params.get("PathPrefix", "/")
        with self.accounts.state.read() as session:
            rows = session.scalars(select(Group).order_by(Group.name_key)).all()
        listed = [self.group_members(group) for group in rows if group.path.startswith(prefix)]
        return page(call, "Groups", listed, "GroupName")

    @operation("ListGroupsForUser", "user_resource")
    def list_groups_for_user(self, call: Call) -> dict[str, Any]:
        with self.accounts.state.read() as session:
            user = find(session, User, call.params["UserName"])
            mine = select(Group).join(Membership, Membership.group_id == Group.group_id)
            rows = session.scalars(mine.where(Membership.user_id == user.user_id).order_by(Group.name_key)).all()
        return page(call, "Groups", [self.group_members(group) for group in rows], "GroupName")

    @operation("UpdateGroup", "renamed_group_resource")
    def update_group(self, call: Call) -> dict[str, Any]:
        name = call.params.get("NewGroupName")
        with self.accounts.write() as session:
            group = find(session, Group, call.params["GroupName"])
            group.path = call.params.get("NewPath", group.path)
            if name is not None:
                taken = session.get(Group, name.lower())
                if taken is not None and taken is not group:
                    raise _exists(name)
                group.name, group.name_key = name, name.lower()
        return {}

    @operation("DeleteGroup", "group_resource")
    def delete_group(self, call: Call) -> dict[str, Any]:
        with self.accounts.write() as session:
            group = find(session, Group, call.params["GroupName"])
            if session.scalar(select(Membership).where(Membership.group_id == group.group_id).limit(1)) is not None:
                raise conflict("must remove users from group first")
            refuse_with_policies(session, group)
            session.delete(group)
        return {}

    # --- membership: authorised on the group ---

    @operation("AddUserToGroup", "group_resource")
    def add_user_to_group(self, call: Call) -> dict[str, Any]:
        with self.accounts.write() as session:
            group = find(session, Group, call.params["GroupName"])
            user = find(session, User, call.params["UserName"])
            if session.get(Membership, (group.group_id, user.user_id)) is None:
                mine = Membership.user_id == user.user_id
                if (session.scalar(select(func.count()).where(mine)) or 0) >= GROUPS_PER_USER_MAX:
                    text = f"Cannot exceed quota for GroupsPerUser: {GROUPS_PER_USER_MAX}"
                    raise ApiError("LimitExceeded", text)
                session.add(Membership(group_id=group.group_id, user_id=user.user_id))
        return {}

    @operation("RemoveUserFromGroup", "group_resource")
    def remove_user_from_group(self, call: Call) -> dict[str, Any]:
        with self.accounts.write() as session:
            group = find(session, Group, call.params["GroupName"])
            user = find(session, User, call.params["UserName"])
            member = session.get(Membership, (group.group_id, user.user_id))
            if member is None:
                raise ApiError("NoSuchEntity", f"User {user.name} is not in group {group.name}")
            session.delete(member)
        return {}


def _exists(name: str) -> ApiError:
    return ApiError("EntityAlreadyExists", f"Group with name {name} already exists.")

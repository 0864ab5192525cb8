"""Users: make, look, rename, delete."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from vnotch.api.iam.attachments import conflict, refuse_with_policies
from vnotch.api.iam.boundaries import checked_boundary
from vnotch.api.iam.part import IamPart, check_count, checked_tags, find_user, keys_of, page
from vnotch.api.service import ApiError, Call, operation
from vnotch.store.principals import AccessKey, Membership, User

USERS_MAX = 5_000


class Users(IamPart):
    @operation("CreateUser", "user_resource")
    def create_user(self, call: Call) -> dict[str, Any]:
        params = call.params
        with self.accounts.write() as session:
            check_count(session, User, USERS_MAX, "UsersPerAccount")
            tags = checked_tags(params.get("Tags", []))
            user = self.accounts.make_user(session, params["UserName"], params.get("Path", "/"), tags)
            if user is None:
                raise _exists(params["UserName"])
            user.boundary_arn = checked_boundary(session, self.account, params.get("PermissionsBoundary"))
        return {"User": self.user_members(user)}

    @operation("GetUser", "user_resource")
    def get_user(self, call: Call) -> dict[str, Any]:
        with self.accounts.state.read() as session:
            return {"User": self.user_members(find_user(session, call))}

    @operation("ListUsers")
    def list_users(self, call: Call) -> dict[str, Any]:
        prefix = call.params.get("PathPrefix", "/")
        with self.accounts.state.read() as session:
            rows = session.scalars(select(User).order_by(User.name_key)).all()
        # Tags and boundaries are not in lists (IAM API Reference, ListUsers).
        listed = [self.entity_members(user, "UserId", "UserName") for user in rows if user.path.startswith(prefix)]
        return page(call, "Users", listed, "UserName")

    @operation("UpdateUser", "renamed_user_resource")
    def update_user(self, call: Call) -> dict[str, Any]:
        """A new name or path; the unique id and so all that the user has stays."""
        name = call.params.get("NewUserName")
        with self.accounts.write() as session:
            user = find_user(session, call)
            user.path = call.params.get("NewPath", user.path)
            if name is not None:
                _rename(session, user, name)
        return {}

    @operation("DeleteUser", "user_resource")
    def delete_user(self, call: Call) -> dict[str, Any]:
        with self.accounts.write() as session:
            user = find_user(session, call)
            if keys_of(session, user):
                raise conflict("must delete access keys first")
            refuse_with_policies(session, user)
            if session.scalar(select(Membership).where(Membership.user_id == user.user_id).limit(1)) is not None:
                raise conflict("must remove users from group first")
            session.delete(user)
        return {}


def _rename(session: Session, user: User, name: str) -> None:
    taken = session.get(User, name.lower())
    if taken is not None and taken is not user:
        raise _exists(name)
    # Keys name their user by the name: they are set free while it changes.
    key_ids = [key.access_key_id for key in keys_of(session, user)]
    mine = AccessKey.access_key_id.in_(key_ids)
    session.execute(update(AccessKey).where(mine).values(user_key=None))
    user.name, user.name_key = name, name.lower()
    session.flush()
    session.execute(update(AccessKey).where(mine).values(user_key=user.name_key))


def _exists(name: str) -> ApiError:
    return ApiError("EntityAlreadyExists", f"User with name {name} already exists.")

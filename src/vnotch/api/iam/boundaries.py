"""Permissions boundaries of users and roles."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from vnotch.api.iam.part import IamPart, find, find_policy, find_role
from vnotch.api.service import ApiError, Call, operation
from vnotch.store.aws_managed import AwsPolicy
from vnotch.store.principals import Role, User


class Boundaries(IamPart):
    @operation("PutUserPermissionsBoundary", "user_resource")
    def put_user_permissions_boundary(self, call: Call) -> dict[str, Any]:
        return self._set_boundary(call, "User", call.params["PermissionsBoundary"])

    @operation("PutRolePermissionsBoundary", "role_resource")
    def put_role_permissions_boundary(self, call: Call) -> dict[str, Any]:
        return self._set_boundary(call, "Role", call.params["PermissionsBoundary"])

    @operation("DeleteUserPermissionsBoundary", "user_resource")
    def delete_user_permissions_boundary(self, call: Call) -> dict[str, Any]:
        return self._set_boundary(call, "User", None)

    @operation("DeleteRolePermissionsBoundary", "role_resource")
    def delete_role_permissions_boundary(self, call: Call) -> dict[str, Any]:
        return self._set_boundary(call, "Role", None)

    def _set_boundary(self, call: Call, kind: str, arn: str | None) -> dict[str, Any]:
        with self.accounts.write() as session:
            row: User | Role
            row = find_role(session, call, True) if kind == "Role" else find(session, User, call.params["UserName"])
            if arn is None and row.boundary_arn is None:
                raise ApiError("NoSuchEntity", f"{kind} {row.name} has no permissions boundary.")
            row.boundary_arn = checked_boundary(session, self.account, arn)
        return {}


def checked_boundary(session: Session, account: str, arn: str | None) -> str | None:
    """The ARN, once there is such a policy and it may be a boundary."""
    if arn is not None:
        policy = find_policy(session, account, arn)
        if isinstance(policy, AwsPolicy) and not policy.attachable:
            raise ApiError("PolicyNotAttachable", "A Service Role Policy cannot be a permissions boundary.")
    return arn

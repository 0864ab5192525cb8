"""Roles and their trust policies."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from vnotch.api.iam.attachments import conflict, refuse_with_policies
from vnotch.api.iam.boundaries import checked_boundary
from vnotch.api.iam.part import IamPart, check_count, check_policy, check_size, checked_tags, find_role, page
from vnotch.api.service import ApiError, Call, operation
from vnotch.iam.grammar import parse_policy
from vnotch.iam.policy import Kind
from vnotch.store.principals import SERVICE_ROLE_PATH, InstanceProfile, Role, User

# IAM quotas (IAM user guide, "IAM and AWS STS quotas"): characters without white space.
TRUST_POLICY_CHARACTERS_MAX = 4_096
ROLES_MAX = 1_000
SESSION_SECONDS_DEFAULT = 3600

_TRUSTED: dict[str, type[User] | type[Role]] = {"user": User, "role": Role}


class Roles(IamPart):
    @operation("CreateRole", "role_resource", unsupported="MaxSigninSessionDuration")
    def create_role(self, call: Call) -> dict[str, Any]:
        params = call.params
        name, trust = params["RoleName"], params["AssumeRolePolicyDocument"]
        if params.get("Path", "/").startswith(SERVICE_ROLE_PATH):
            text = f"Cannot create a role with the path {SERVICE_ROLE_PATH}: use CreateServiceLinkedRole"
            raise ApiError("InvalidInput", text)
        _check_trust(trust)
        with self.accounts.write() as session:
            check_count(session, Role, ROLES_MAX, "RolesPerAccount")
            role = self.accounts.make_role(
                session,
                name,
                trust,
                path=params.get("Path", "/"),
                description=params.get("Description"),
                max_session_seconds=params.get("MaxSessionDuration", SESSION_SECONDS_DEFAULT),
                tags=checked_tags(params.get("Tags", [])),
            )
            if role is None:
                raise ApiError("EntityAlreadyExists", f"Role with name {name} already exists.")
            role.trusted_ids = self._trusted_ids(session, trust)
            role.boundary_arn = checked_boundary(session, self.account, params.get("PermissionsBoundary"))
        return {"Role": self.role_members(role)}

    @operation("GetRole", "role_resource")
    def get_role(self, call: Call) -> dict[str, Any]:
        with self.accounts.state.read() as session:
            role = find_role(session, call)
            return {"Role": {**self.role_members(role), **self.last_use_member(session, role)}}

    @operation("ListRoles")
    def list_roles(self, call: Call) -> dict[str, Any]:
        prefix = call.params.get("PathPrefix", "/")
        with self.accounts.state.read() as session:
            rows = session.scalars(select(Role).order_by(Role.name_key)).all()
        listed = [self.role_members(role) for role in rows if role.path.startswith(prefix)]
        for role in listed:  # tags and boundary are not in lists (IAM API Reference, ListRoles)
            role.pop("Tags", None)
            role.pop("PermissionsBoundary", None)
        return page(call, "Roles", listed, "RoleName")

    @operation("UpdateRole", "role_resource", unsupported="MaxSigninSessionDuration ResetMaxSigninSessionDuration")
    def update_role(self, call: Call) -> dict[str, Any]:
        """What is not given becomes its default (IAM API Reference, UpdateRole)."""
        with self.accounts.write() as session:
            role = find_role(session, call, to_change=True)
            role.description = call.params.get("Description", role.description)
            role.max_session_seconds = call.params.get("MaxSessionDuration", SESSION_SECONDS_DEFAULT)
        return {}

    @operation("UpdateRoleDescription", "role_resource")
    def update_role_description(self, call: Call) -> dict[str, Any]:
        with self.accounts.write() as session:
            role = find_role(session, call, to_change=True)
            role.description = call.params["Description"]
        return {"Role": self.role_members(role)}

    @operation("UpdateAssumeRolePolicy", "role_resource")
    def update_assume_role_policy(self, call: Call) -> dict[str, Any]:
        document = call.params["PolicyDocument"]
        _check_trust(document)
        with self.accounts.write() as session:
            role = find_role(session, call, to_change=True)
            role.trust_policy, role.trusted_ids = document, self._trusted_ids(session, document)
        return {}

    def _trusted_ids(self, session: Session, document: str) -> str:
        """The unique ids of the users and roles that a trust policy names: one that is made again under an old name is
        not trusted (IAM user guide, "AWS JSON policy elements: Principal"). Raises MalformedPolicyDocument for one that
        is not there."""
        ids: dict[str, str] = {}
        for statement in parse_policy(document, Kind.TRUST).statements:
            for kind, arn in statement.principals:
                table = _TRUSTED.get(arn.removeprefix(f"arn:aws:iam::{self.account}:").partition("/")[0])
                if kind != "AWS" or table is None:
                    continue
                row: User | Role | None = session.get(table, arn.rpartition("/")[2].lower())  # type: ignore[assignment]
                if row is None or row.arn(self.account) != arn:
                    raise ApiError("MalformedPolicyDocument", f'Invalid principal in policy: "AWS":"{arn}"')
                ids[arn] = row.unique_id
        return json.dumps(ids)

    @operation("DeleteRole", "role_resource")
    def delete_role(self, call: Call) -> dict[str, Any]:
        with self.accounts.write() as session:
            role = find_role(session, call, to_change=True)
            refuse_with_policies(session, role)
            held = InstanceProfile.role_id == role.role_id
            if session.scalar(select(InstanceProfile).where(held).limit(1)) is not None:
                raise conflict("must remove roles from instance profile first")
            session.delete(role)
        return {}


def _check_trust(document: str) -> None:
    check_policy(document, Kind.TRUST)
    check_size(document, TRUST_POLICY_CHARACTERS_MAX, f"ACLSizePerRole: {TRUST_POLICY_CHARACTERS_MAX}")

"""The service-linked role of flow logs (VPC user guide, "Service-linked role for VPC Flow Logs").

Its name, path, trust and policy are AWS's. Here nothing assumes it: tag fields are read from the server's own state. It
is there for tools that look for it, and its making needs the permission that AWS asks for.
"""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy.orm import Session

from vnotch.api.iam.part import IamPart, check_count, find_role
from vnotch.api.iam.roles import ROLES_MAX
from vnotch.api.service import ApiError, Call, operation
from vnotch.iam.delivery_role import SERVICE_PRINCIPAL
from vnotch.store.accounts import Accounts
from vnotch.store.principals import SERVICE_ROLE_PATH, PolicyAttachment, Role, new_unique_id

# Service -> the name of its role, and the ARN of the policy that it has.
SERVICES = {
    SERVICE_PRINCIPAL: (
        "AWSServiceRoleForVPCFlowLogs",
        "arn:aws:iam::aws:policy/aws-service-role/AWSVPCFlowLogsServiceRolePolicy",
    )
}


def make_service_linked_role(
    session: Session, accounts: Accounts, service: str, description: str | None = None
) -> Role | None:
    """The new role, or None where it is there."""
    name, policy_arn = SERVICES[service]
    statement = {"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}
    trust = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    path = f"{SERVICE_ROLE_PATH}{service}/"
    role = accounts.make_role(session, name, trust, path=path, description=description)
    if role is not None:
        session.add(PolicyAttachment(owner_id=role.role_id, policy_arn=policy_arn))
    return role


class ServiceLinkedRoles(IamPart):
    def service_role_resource(self, call: Call) -> list[str]:
        service = call.params["AWSServiceName"]
        name = SERVICES.get(service, ("*", ""))[0]
        return [f"arn:aws:iam::{self.account}:role{SERVICE_ROLE_PATH}{service}/{name}"]

    @operation(
        "CreateServiceLinkedRole",
        "service_role_resource",
        unsupported="CustomSuffix",
        note=f"for {', '.join(SERVICES)} alone",
    )
    def create_service_linked_role(self, call: Call) -> dict[str, Any]:
        service = call.params["AWSServiceName"]
        if service not in SERVICES:
            text = f"Service role creation is not supported for {service}: vnotch has that of {', '.join(SERVICES)}."
            raise ApiError("InvalidInput", text)
        with self.accounts.write() as session:
            check_count(session, Role, ROLES_MAX, "RolesPerAccount")
            role = make_service_linked_role(session, self.accounts, service, call.params.get("Description"))
            if role is None:
                name = SERVICES[service][0]
                text = f"Service role name {name} has been taken in this account, please try a different suffix."
                raise ApiError("InvalidInput", text)
        return {"Role": self.role_members(role)}

    @operation("DeleteServiceLinkedRole", "role_resource")
    def delete_service_linked_role(self, call: Call) -> dict[str, Any]:
        """At once; the task that AWS makes of it is already done when it is asked for."""
        with self.accounts.write() as session:
            role = find_role(session, call)
            if not role.service_linked:
                raise ApiError("NoSuchEntity", f"The role with name {role.name} is no service-linked role.")
            for attachment in session.query(PolicyAttachment).filter(PolicyAttachment.owner_id == role.role_id):
                session.delete(attachment)
            session.delete(role)
        return {"DeletionTaskId": f"task{role.path}{role.name}/{new_unique_id('')}"}

    def role_of_task(self, call: Call) -> list[str]:
        """The role whose deletion the task is."""
        path = call.params["DeletionTaskId"].removeprefix("task").rpartition("/")[0]
        return [f"arn:aws:iam::{self.account}:role{path}"]

    @operation("GetServiceLinkedRoleDeletionStatus", "role_of_task")
    def get_service_linked_role_deletion_status(self, call: Call) -> dict[str, Any]:
        parts = call.params["DeletionTaskId"].split("/")
        known = len(parts) == 5 and parts[0] == "task" and SERVICES.get(parts[2], ("", ""))[0] == parts[3]
        if not known:
            raise ApiError("NoSuchEntity", f"The deletion task {call.params['DeletionTaskId']} cannot be found.")
        return {"Status": "SUCCEEDED"}

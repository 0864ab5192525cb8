"""What all parts of IAM share: finding what a call names, what it is authorised on, checks of policies, paging.

Texts of errors are AWS's where they are known; others say what is right in AWS's manner.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any, TypeVar
from urllib.parse import quote

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from vnotch.api.gate import Gate
from vnotch.api.service import ApiError, Call, Further, Service
from vnotch.api.wire.dialect import QUERY
from vnotch.iam.grammar import PolicyError, parse_policy
from vnotch.iam.policy import Kind
from vnotch.store.accounts import Accounts
from vnotch.store.aws_managed import AwsPolicy, aws_policies
from vnotch.store.policies import managed_policy
from vnotch.store.principals import (
    AccessKey,
    Entity,
    Group,
    InstanceProfile,
    ManagedPolicy,
    Principal,
    Role,
    User,
)
from vnotch.store.state import Base

ITEMS_DEFAULT = 100
TAGS_MAX = 50
_NOUNS: dict[Any, str] = {User: "user", Role: "role", Group: "group", InstanceProfile: "Instance Profile"}
PRINCIPALS: dict[str, type[Principal]] = {"User": User, "Role": Role, "Group": Group}

Named = TypeVar("Named", bound=User | Role | Group | InstanceProfile)


class IamPart(Service):
    """Base of the parts of IAM."""

    name = "iam"
    model = "iam"
    unsupported_code = "InvalidInput"

    def __init__(self, accounts: Accounts) -> None:
        self.accounts = accounts
        self._gate = Gate(accounts)

    @property
    def account(self) -> str:
        return self.accounts.account

    # --- what a call is authorised on ---

    def _named_resource(self, call: Call, table: Any, name: str) -> list[str]:
        """The ARN with its path; of one that is not there, with the path that the call gives."""
        with self.accounts.state.read() as session:
            row: Entity | None = session.get(table, name.lower())
            if row is not None:
                return [row.arn(self.account)]
        return [f"arn:aws:iam::{self.account}:{table.arn_kind}{call.params.get('Path', '/')}{name}"]

    def _renamed_resource(self, call: Call, table: Any, name: str, new_name_member: str) -> list[str]:
        """What it is and what it becomes: who renames needs the permission on both (IAM API Reference, UpdateUser,
        UpdateGroup)."""
        [old] = self._named_resource(call, table, name)
        path, _, old_name = old.rpartition("/")
        prefix = f"arn:aws:iam::{self.account}:{table.arn_kind}"
        new_path = call.params.get("NewPath", f"{path.removeprefix(prefix)}/")
        return list(dict.fromkeys([old, f"{prefix}{new_path}{call.params.get(new_name_member, old_name)}"]))

    def role_resource(self, call: Call) -> list[str]:
        return self._named_resource(call, Role, call.params["RoleName"])

    def user_resource(self, call: Call) -> list[str]:
        """Without a name the caller is meant."""
        return self._named_resource(call, User, call.params.get("UserName") or call.principal.name)

    def group_resource(self, call: Call) -> list[str]:
        return self._named_resource(call, Group, call.params["GroupName"])

    def renamed_user_resource(self, call: Call) -> list[str]:
        return self._renamed_resource(call, User, call.params["UserName"], "NewUserName")

    def renamed_group_resource(self, call: Call) -> list[str]:
        return self._renamed_resource(call, Group, call.params["GroupName"], "NewGroupName")

    def profile_resource(self, call: Call) -> list[str]:
        return self._named_resource(call, InstanceProfile, call.params["InstanceProfileName"])

    def policy_resource(self, call: Call) -> list[str]:
        return [call.params["PolicyArn"]]

    def request_keys(self, call: Call) -> dict[str, str | tuple[str, ...]]:
        """Service authorization reference, IAM: condition keys."""
        keys: dict[str, str | tuple[str, ...]] = {}
        if "PolicyArn" in call.params:
            keys["iam:policyarn"] = call.params["PolicyArn"]
        if "PermissionsBoundary" in call.params:
            keys["iam:permissionsboundary"] = call.params["PermissionsBoundary"]
        if "AWSServiceName" in call.params:
            keys["iam:awsservicename"] = call.params["AWSServiceName"]
        return keys

    def further(self, call: Call, resources: Sequence[str]) -> list[Further]:
        """Who makes a user, role, policy or instance profile with tags needs the permission to tag it as well."""
        tags = call.params.get("Tags") and call.operation.startswith("Create")
        action = f"iam:Tag{call.operation.removeprefix('Create')}"
        return [Further((action,), tuple(resources))] if tags else []

    def require_pass_role(self, call: Call, role_arn: str, service: str) -> None:
        """Asks for iam:PassRole beside the call's own permission. Raises AccessDenied."""
        assert call.identity is not None  # the app gives every call its identity
        context = {**call.context, "iam:passedtoservice": service}
        decision = self._gate.authorise(call.identity, "iam:PassRole", [role_arn], context, QUERY)
        call.note("iam:PassRole", role_arn, decision)

    # --- what several answers hold ---

    def entity_members(self, row: Any, id_member: str, name_member: str) -> dict[str, Any]:
        return {
            "Path": row.path,
            name_member: row.name,
            id_member: row.profile_id if isinstance(row, InstanceProfile) else row.unique_id,
            "Arn": row.arn(self.account),
            "CreateDate": row.created_ms / 1000,
        }

    def user_members(self, user: User) -> dict[str, Any]:
        return {
            **self.entity_members(user, "UserId", "UserName"),
            **boundary_member(user),
            "Tags": user.tag_list or None,
        }

    def role_members(self, role: Role) -> dict[str, Any]:
        return {
            **self.entity_members(role, "RoleId", "RoleName"),
            "AssumeRolePolicyDocument": encoded(role.trust_policy),
            "Description": role.description,
            "MaxSessionDuration": role.max_session_seconds,
            **boundary_member(role),
            "Tags": role.tag_list or None,
        }

    def last_use_member(self, session: Session, role: Role) -> dict[str, Any]:
        """Of GetRole and GetAccountAuthorizationDetails alone; empty for a role that nobody has used."""
        use = self.accounts.last_uses.of(session, [role.role_id]).get(role.role_id)
        return {"RoleLastUsed": {} if use is None else {"LastUsedDate": use.used_ms / 1000, "Region": use.region}}

    def group_members(self, group: Group) -> dict[str, Any]:
        return self.entity_members(group, "GroupId", "GroupName")


def boundary_member(row: User | Role) -> dict[str, Any]:
    if row.boundary_arn is None:
        return {}
    # The type is always Policy (API AttachedPermissionsBoundary), written PermissionsBoundaryPolicy in its model.
    kind = "PermissionsBoundaryPolicy"
    return {"PermissionsBoundary": {"PermissionsBoundaryType": kind, "PermissionsBoundaryArn": row.boundary_arn}}


# --- rows ---


def find(session: Session, table: type[Named], name: str) -> Named:
    row = session.get(table, name.lower())
    if row is None:
        raise ApiError("NoSuchEntity", f"The {_NOUNS[table]} with name {name} cannot be found.")
    return row


def find_role(session: Session, call: Call, to_change: bool = False) -> Role:
    role = find(session, Role, call.params["RoleName"])
    if to_change and role.service_linked:
        service = role.path.split("/")[2]
        raise ApiError(
            "UnmodifiableEntity",
            f"Cannot perform the operation on the protected role '{role.name}' - this role is only modifiable by AWS "
            f"({service})",
        )
    return role


def find_user(session: Session, call: Call) -> User:
    name = call.params.get("UserName")
    if name is None:
        # Without a name the caller is meant (IAM API Reference, GetUser, CreateAccessKey).
        if call.principal.kind != "user":
            raise ApiError("ValidationError", "Must specify userName when calling with non-User credentials")
        name = call.principal.name
    return find(session, User, name)


def find_principal(session: Session, call: Call, kind: str, to_change: bool = False) -> Principal:
    """The user, role or group that the call names."""
    if kind == "Role":
        return find_role(session, call, to_change)
    return find(session, PRINCIPALS[kind], call.params[f"{kind}Name"])


def find_policy(session: Session, account: str, arn: str) -> ManagedPolicy | AwsPolicy:
    """A managed policy, the account's own or AWS's."""
    found = aws_policies().get(arn) or managed_policy(session, account, arn)
    if found is None:
        raise ApiError("NoSuchEntity", f"Policy {arn} does not exist or is not attachable.")
    return found


def find_own_policy(session: Session, account: str, arn: str) -> ManagedPolicy:
    """One that can be changed."""
    found = find_policy(session, account, arn)
    if isinstance(found, AwsPolicy):
        raise ApiError("AccessDenied", f"Policy {arn} is an AWS managed policy, which cannot be changed.", 403)
    return found


def keys_of(session: Session, user: User) -> Sequence[AccessKey]:
    keys = select(AccessKey).where(AccessKey.user_key == user.name_key)
    return session.scalars(keys.order_by(AccessKey.created_ms, AccessKey.access_key_id)).all()


def check_count(session: Session, table: type[Base], most: int, quota: str, *where: Any) -> None:
    """LimitExceeded where there are already `most` rows."""
    if (session.scalar(select(func.count()).select_from(table).where(*where)) or 0) >= most:
        raise limit_exceeded(f"{quota}: {most}")


def limit_exceeded(quota: str) -> ApiError:
    return ApiError("LimitExceeded", f"Cannot exceed quota for {quota}")


# --- parameters ---


def check_policy(document: str, kind: Kind = Kind.IDENTITY) -> None:
    try:
        parse_policy(document, kind)
    except PolicyError as error:
        raise ApiError("MalformedPolicyDocument", error.message) from None


def characters(document: str) -> int:
    return len("".join(document.split()))  # IAM does not count white space


def check_size(document: str, characters_max: int, quota: str) -> None:
    if characters(document) > characters_max:
        raise limit_exceeded(quota)


def checked_tags(tags: Sequence[dict[str, str]]) -> str:
    """Tags as they are kept. Raises ApiError for what IAM refuses (IAM user guide, "Tagging IAM resources")."""
    if len({tag["Key"].lower() for tag in tags}) != len(tags):
        raise ApiError("InvalidInput", "Duplicate tag keys found. Please note that Tag keys are case insensitive.")
    if len(tags) > TAGS_MAX:
        raise limit_exceeded(f"TagsPerResource: {TAGS_MAX}")
    for tag in tags:
        if tag["Key"].lower().startswith("aws:"):
            raise ApiError("InvalidInput", "Tag keys starting with 'aws:' are reserved for internal use.")
    return json.dumps([{"Key": tag["Key"], "Value": tag["Value"]} for tag in tags])


def encoded(document: str) -> str:
    return quote(document, safe="-_.~")


def page(call: Call, member: str, items: list[Any], key: str | None = None) -> dict[str, Any]:
    """A page of `items`, which are in order. The marker names the last item given, so paging survives changes."""
    start = 0
    if "Marker" in call.params:
        last = read_marker(call.params["Marker"])
        names = [(item[key] if key else item).lower() for item in items]
        start = next((index for index, name in enumerate(names) if name > last), len(items))
    size = call.params.get("MaxItems", ITEMS_DEFAULT)
    shown = items[start : start + size]
    answer: dict[str, Any] = {member: shown, "IsTruncated": start + size < len(items)}
    if answer["IsTruncated"]:
        answer["Marker"] = marker((shown[-1][key] if key else shown[-1]).lower())
    return answer


def marker(last: str) -> str:
    return base64.b64encode(last.encode()).decode()


def read_marker(text: str) -> str:
    try:
        return base64.b64decode(text, validate=True).decode()
    except ValueError:
        raise ApiError("ValidationError", "Invalid Marker.") from None

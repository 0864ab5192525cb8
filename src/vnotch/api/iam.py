"""IAM: roles, users, their inline policies and access keys (IAM API Reference, one operation a method).

Policies are checked when they are put: one that is not understood is refused as MalformedPolicyDocument with the
reason. Answers carry policy documents percent-encoded, as IAM's do (RFC 3986); SDKs decode them.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from vnotch.api.service import ApiError, Call, Service, operation
from vnotch.iam.grammar import PolicyError, parse_policy
from vnotch.iam.policy import Kind
from vnotch.store.accounts import KEYS_PER_USER_MAX, AccessKey, Accounts, InlinePolicy, Role, User

# IAM quotas (IAM user guide, "IAM and AWS STS quotas"): characters without white space, over all inline policies.
ROLE_POLICY_CHARACTERS_MAX = 10_240
USER_POLICY_CHARACTERS_MAX = 2_048
TRUST_POLICY_CHARACTERS_MAX = 4_096
ROLES_MAX = 1_000
USERS_MAX = 5_000
ITEMS_DEFAULT = 100


class Iam(Service):
    name = "iam"
    model = "iam"

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    # --- what a call is authorised on ---

    def role_resource(self, call: Call) -> list[str]:
        """The role's ARN with its path; of one that is not there, with the path that the call gives."""
        with self._accounts.state.read() as session:
            role = session.get(Role, call.params["RoleName"].lower())
            if role is not None:
                return [self._accounts.role_arn(role)]
        return [f"arn:aws:iam::{call.account}:role{call.params.get('Path', '/')}{call.params['RoleName']}"]

    def user_resource(self, call: Call) -> list[str]:
        """The user's ARN with its path; without a name the caller is meant."""
        name = call.params.get("UserName") or call.principal.name
        with self._accounts.state.read() as session:
            user = session.get(User, name.lower())
            if user is not None:
                return [self._accounts.user_arn(user)]
        return [f"arn:aws:iam::{call.account}:user{call.params.get('Path', '/')}{name}"]

    # --- roles ---

    @operation("CreateRole", "role_resource")
    def create_role(self, call: Call) -> dict[str, Any]:
        params = call.params
        _refuse_unsupported(params, "PermissionsBoundary")
        name, trust = params["RoleName"], params["AssumeRolePolicyDocument"]
        _check_policy(trust, Kind.TRUST)
        _check_size(trust, TRUST_POLICY_CHARACTERS_MAX, f"ACLSizePerRole: {TRUST_POLICY_CHARACTERS_MAX}")
        with self._accounts.write() as session:
            if _count(session, Role) >= ROLES_MAX:
                raise ApiError("LimitExceeded", f"Cannot exceed quota for RolesPerAccount: {ROLES_MAX}")
            role = self._accounts.make_role(
                session,
                name,
                trust,
                path=params.get("Path", "/"),
                description=params.get("Description"),
                max_session_seconds=params.get("MaxSessionDuration", 3600),
                tags=_tags(params),
            )
            if role is None:
                raise ApiError("EntityAlreadyExists", f"Role with name {name} already exists.")
        return {"Role": self._role(role)}

    @operation("GetRole", "role_resource")
    def get_role(self, call: Call) -> dict[str, Any]:
        with self._accounts.state.read() as session:
            return {"Role": self._role(_role(session, call))}

    @operation("ListRoles")
    def list_roles(self, call: Call) -> dict[str, Any]:
        prefix = call.params.get("PathPrefix", "/")
        with self._accounts.state.read() as session:
            rows = session.scalars(select(Role).order_by(Role.name_key)).all()
            # Tags and description are not in lists (IAM API Reference, ListRoles).
            listed = [self._role(role) for role in rows if role.path.startswith(prefix)]
        for role in listed:
            role.pop("Tags", None)
        return _page(call, "Roles", listed, "RoleName")

    @operation("DeleteRole", "role_resource")
    def delete_role(self, call: Call) -> dict[str, Any]:
        with self._accounts.write() as session:
            role = _role(session, call)
            if _policy_names(session, role.role_id):
                raise ApiError("DeleteConflict", "Cannot delete entity, must delete policies first.")
            session.delete(role)
        return {}

    @operation("UpdateAssumeRolePolicy", "role_resource")
    def update_assume_role_policy(self, call: Call) -> dict[str, Any]:
        document = call.params["PolicyDocument"]
        _check_policy(document, Kind.TRUST)
        _check_size(document, TRUST_POLICY_CHARACTERS_MAX, f"ACLSizePerRole: {TRUST_POLICY_CHARACTERS_MAX}")
        with self._accounts.write() as session:
            _role(session, call).trust_policy = document
        return {}

    # --- inline policies of roles ---

    @operation("PutRolePolicy", "role_resource")
    def put_role_policy(self, call: Call) -> dict[str, Any]:
        with self._accounts.write() as session:
            role = _role(session, call)
            limit = f"Maximum policy size of {ROLE_POLICY_CHARACTERS_MAX} bytes exceeded for role {role.name}"
            _put_policy(session, role.role_id, call, ROLE_POLICY_CHARACTERS_MAX, limit)
        return {}

    @operation("GetRolePolicy", "role_resource")
    def get_role_policy(self, call: Call) -> dict[str, Any]:
        with self._accounts.state.read() as session:
            role = _role(session, call)
            policy = _policy(session, role.role_id, call, "role")
            return {"RoleName": role.name, "PolicyName": policy.name, "PolicyDocument": _encoded(policy.document)}

    @operation("DeleteRolePolicy", "role_resource")
    def delete_role_policy(self, call: Call) -> dict[str, Any]:
        with self._accounts.write() as session:
            session.delete(_policy(session, _role(session, call).role_id, call, "role"))
        return {}

    @operation("ListRolePolicies", "role_resource")
    def list_role_policies(self, call: Call) -> dict[str, Any]:
        with self._accounts.state.read() as session:
            names = _policy_names(session, _role(session, call).role_id)
        return _page(call, "PolicyNames", names)

    # --- users ---

    @operation("CreateUser", "user_resource")
    def create_user(self, call: Call) -> dict[str, Any]:
        params = call.params
        _refuse_unsupported(params, "PermissionsBoundary")
        with self._accounts.write() as session:
            if _count(session, User) >= USERS_MAX:
                raise ApiError("LimitExceeded", f"Cannot exceed quota for UsersPerAccount: {USERS_MAX}")
            user = self._accounts.make_user(session, params["UserName"], params.get("Path", "/"), _tags(params))
            if user is None:
                raise ApiError("EntityAlreadyExists", f"User with name {params['UserName']} already exists.")
        return {"User": self._user(user)}

    @operation("GetUser", "user_resource")
    def get_user(self, call: Call) -> dict[str, Any]:
        with self._accounts.state.read() as session:
            return {"User": self._user(_user(session, call))}

    @operation("DeleteUser", "user_resource")
    def delete_user(self, call: Call) -> dict[str, Any]:
        with self._accounts.write() as session:
            user = _user(session, call)
            if _keys(session, user):
                raise ApiError("DeleteConflict", "Cannot delete entity, must delete access keys first.")
            if _policy_names(session, user.user_id):
                raise ApiError("DeleteConflict", "Cannot delete entity, must delete policies first.")
            session.delete(user)
        return {}

    # --- inline policies of users ---

    @operation("PutUserPolicy", "user_resource")
    def put_user_policy(self, call: Call) -> dict[str, Any]:
        with self._accounts.write() as session:
            user = _user(session, call)
            limit = f"Maximum policy size of {USER_POLICY_CHARACTERS_MAX} bytes exceeded for user {user.name}"
            _put_policy(session, user.user_id, call, USER_POLICY_CHARACTERS_MAX, limit)
        return {}

    @operation("GetUserPolicy", "user_resource")
    def get_user_policy(self, call: Call) -> dict[str, Any]:
        with self._accounts.state.read() as session:
            user = _user(session, call)
            policy = _policy(session, user.user_id, call, "user")
            return {"UserName": user.name, "PolicyName": policy.name, "PolicyDocument": _encoded(policy.document)}

    @operation("DeleteUserPolicy", "user_resource")
    def delete_user_policy(self, call: Call) -> dict[str, Any]:
        with self._accounts.write() as session:
            session.delete(_policy(session, _user(session, call).user_id, call, "user"))
        return {}

    @operation("ListUserPolicies", "user_resource")
    def list_user_policies(self, call: Call) -> dict[str, Any]:
        with self._accounts.state.read() as session:
            names = _policy_names(session, _user(session, call).user_id)
        return _page(call, "PolicyNames", names)

    # --- access keys ---

    @operation("CreateAccessKey", "user_resource")
    def create_access_key(self, call: Call) -> dict[str, Any]:
        with self._accounts.write() as session:
            user = _user(session, call)
            if len(_keys(session, user)) >= KEYS_PER_USER_MAX:
                raise ApiError("LimitExceeded", f"Cannot exceed quota for AccessKeysPerUser: {KEYS_PER_USER_MAX}")
            key = self._accounts.make_user_key(session, user)
            answer = {**_key(user, key), "SecretAccessKey": key.secret_access_key}
        return {"AccessKey": answer}

    @operation("ListAccessKeys", "user_resource")
    def list_access_keys(self, call: Call) -> dict[str, Any]:
        with self._accounts.state.read() as session:
            user = _user(session, call)
            listed = [_key(user, key) for key in sorted(_keys(session, user), key=lambda key: key.access_key_id)]
        return _page(call, "AccessKeyMetadata", listed, "AccessKeyId")

    @operation("UpdateAccessKey", "user_resource")
    def update_access_key(self, call: Call) -> dict[str, Any]:
        with self._accounts.write() as session:
            status = call.params["Status"]
            if status not in ("Active", "Inactive"):
                raise ApiError("ValidationError", f"The status {status} is not supported.")
            _access_key(session, call).status = status
        return {}

    @operation("DeleteAccessKey", "user_resource")
    def delete_access_key(self, call: Call) -> dict[str, Any]:
        with self._accounts.write() as session:
            session.delete(_access_key(session, call))
        return {}

    # --- shapes ---

    def _role(self, role: Role) -> dict[str, Any]:
        return {
            "Path": role.path,
            "RoleName": role.name,
            "RoleId": role.role_id,
            "Arn": self._accounts.role_arn(role),
            "CreateDate": role.created_ms / 1000,
            "AssumeRolePolicyDocument": _encoded(role.trust_policy),
            "Description": role.description,
            "MaxSessionDuration": role.max_session_seconds,
            "Tags": json.loads(role.tags) or None,
        }

    def _user(self, user: User) -> dict[str, Any]:
        return {
            "Path": user.path,
            "UserName": user.name,
            "UserId": user.user_id,
            "Arn": self._accounts.user_arn(user),
            "CreateDate": user.created_ms / 1000,
            "Tags": json.loads(user.tags) or None,
        }


def _key(user: User, key: AccessKey) -> dict[str, Any]:
    return {
        "UserName": user.name,
        "AccessKeyId": key.access_key_id,
        "Status": key.status,
        "CreateDate": key.created_ms / 1000,
    }


# --- rows ---


def _role(session: Session, call: Call) -> Role:
    name = call.params["RoleName"]
    role = session.get(Role, name.lower())
    if role is None:
        raise ApiError("NoSuchEntity", f"The role with name {name} cannot be found.")
    return role


def _user(session: Session, call: Call) -> User:
    name = call.params.get("UserName")
    if name is None:
        # Without a name the caller is meant (IAM API Reference, GetUser, CreateAccessKey).
        if call.principal.kind != "user":
            raise ApiError("ValidationError", "Must specify userName when calling with non-User credentials")
        name = call.principal.name
    user = session.get(User, name.lower())
    if user is None:
        raise ApiError("NoSuchEntity", f"The user with name {name} cannot be found.")
    return user


def _keys(session: Session, user: User) -> Sequence[AccessKey]:
    keys = select(AccessKey).where(AccessKey.user_key == user.name_key)
    return session.scalars(keys.order_by(AccessKey.created_ms, AccessKey.access_key_id)).all()


def _access_key(session: Session, call: Call) -> AccessKey:
    user, key_id = _user(session, call), call.params["AccessKeyId"]
    key = session.get(AccessKey, key_id)
    if key is None or key.user_key != user.name_key:
        raise ApiError("NoSuchEntity", f"The Access Key with id {key_id} cannot be found.")
    return key


def _policy(session: Session, owner_id: str, call: Call, kind: str) -> InlinePolicy:
    policy = session.get(InlinePolicy, (owner_id, call.params["PolicyName"]))
    if policy is None:
        raise ApiError("NoSuchEntity", f"The {kind} policy with name {call.params['PolicyName']} cannot be found.")
    return policy


def _policy_names(session: Session, owner_id: str) -> list[str]:
    names = select(InlinePolicy.name).where(InlinePolicy.owner_id == owner_id).order_by(InlinePolicy.name)
    return list(session.scalars(names))


def _put_policy(session: Session, owner_id: str, call: Call, characters_max: int, limit: str) -> None:
    name, document = call.params["PolicyName"], call.params["PolicyDocument"]
    _check_policy(document, Kind.IDENTITY)
    others = select(InlinePolicy.document).where(InlinePolicy.owner_id == owner_id, InlinePolicy.name != name)
    if sum(map(_characters, (document, *session.scalars(others)))) > characters_max:
        raise ApiError("LimitExceeded", limit)
    session.execute(delete(InlinePolicy).where(InlinePolicy.owner_id == owner_id, InlinePolicy.name == name))
    session.add(InlinePolicy(owner_id=owner_id, name=name, document=document))


def _count(session: Session, table: type[Role] | type[User]) -> int:
    return session.scalar(select(func.count()).select_from(table)) or 0


# --- parameters ---


def _refuse_unsupported(params: dict[str, Any], *names: str) -> None:
    for name in names:
        if name in params:
            raise ApiError("InvalidInput", f"The parameter {name} is not supported.")


def _check_policy(document: str, kind: Kind) -> None:
    try:
        parse_policy(document, kind)
    except PolicyError as error:
        raise ApiError("MalformedPolicyDocument", error.message) from None


def _characters(document: str) -> int:
    return len("".join(document.split()))  # IAM does not count white space


def _check_size(document: str, characters_max: int, quota: str) -> None:
    if _characters(document) > characters_max:
        raise ApiError("LimitExceeded", f"Cannot exceed quota for {quota}")


def _tags(params: dict[str, Any]) -> str:
    tags = params.get("Tags", [])
    if len({tag["Key"].lower() for tag in tags}) != len(tags):
        raise ApiError("InvalidInput", "Duplicate tag keys found. Please note that Tag keys are case insensitive.")
    return json.dumps(tags)


def _encoded(document: str) -> str:
    return quote(document, safe="-_.~")


def _page(call: Call, member: str, items: list[Any], key: str | None = None) -> dict[str, Any]:
    """A page of `items`, which are in order. The marker names the last item given, so paging survives changes."""
    start = 0
    if "Marker" in call.params:
        last = _read_marker(call.params["Marker"])
        names = [(item[key] if key else item).lower() for item in items]
        start = next((index for index, name in enumerate(names) if name > last), len(items))
    size = call.params.get("MaxItems", ITEMS_DEFAULT)
    page = items[start : start + size]
    answer: dict[str, Any] = {member: page, "IsTruncated": start + size < len(items)}
    if answer["IsTruncated"]:
        answer["Marker"] = base64.b64encode((page[-1][key] if key else page[-1]).lower().encode()).decode()
    return answer


def _read_marker(marker: str) -> str:
    try:
        return base64.b64decode(marker, validate=True).decode()
    except ValueError:
        raise ApiError("ValidationError", "Invalid Marker.") from None

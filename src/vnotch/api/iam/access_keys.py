"""Access keys of users."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from vnotch.api.iam.part import IamPart, find_user, keys_of, limit_exceeded, page
from vnotch.api.service import ApiError, Call, operation
from vnotch.store.accounts import KEYS_PER_USER_MAX
from vnotch.store.principals import AccessKey, User


class AccessKeys(IamPart):
    @operation("CreateAccessKey", "user_resource")
    def create_access_key(self, call: Call) -> dict[str, Any]:
        with self.accounts.write() as session:
            user = find_user(session, call)
            if len(keys_of(session, user)) >= KEYS_PER_USER_MAX:
                raise limit_exceeded(f"AccessKeysPerUser: {KEYS_PER_USER_MAX}")
            key = self.accounts.make_user_key(session, user)
            answer = {**_members(user, key), "SecretAccessKey": key.secret_access_key}
        return {"AccessKey": answer}

    @operation("ListAccessKeys", "user_resource")
    def list_access_keys(self, call: Call) -> dict[str, Any]:
        with self.accounts.state.read() as session:
            user = find_user(session, call)
            listed = [_members(user, key) for key in sorted(keys_of(session, user), key=lambda key: key.access_key_id)]
        return page(call, "AccessKeyMetadata", listed, "AccessKeyId")

    @operation("UpdateAccessKey", "user_resource")
    def update_access_key(self, call: Call) -> dict[str, Any]:
        with self.accounts.write() as session:
            status = call.params["Status"]
            if status not in ("Active", "Inactive"):
                raise ApiError("ValidationError", f"The status {status} is not supported.")
            _access_key(session, call).status = status
        return {}

    @operation("DeleteAccessKey", "user_resource")
    def delete_access_key(self, call: Call) -> dict[str, Any]:
        with self.accounts.write() as session:
            session.delete(_access_key(session, call))
        return {}

    def user_of_key(self, call: Call) -> list[str]:
        """GetAccessKeyLastUsed is authorised on the key's user; for a key that is no user's, on any."""
        with self.accounts.state.read() as session:
            user = _owner(session, call.params["AccessKeyId"])
        return ["*"] if user is None else [user.arn(self.account)]

    @operation("GetAccessKeyLastUsed", "user_of_key")
    def get_access_key_last_used(self, call: Call) -> dict[str, Any]:
        key_id = call.params["AccessKeyId"]
        with self.accounts.state.read() as session:
            user = _owner(session, key_id)
            use = self.accounts.last_uses.of(session, [key_id]).get(key_id)
        if user is None:
            raise _no_such_key(key_id)
        last: dict[str, Any] = {"ServiceName": "N/A", "Region": "N/A"}
        if use is not None:
            last = {"LastUsedDate": use.used_ms / 1000, "ServiceName": use.service, "Region": use.region}
        return {"UserName": user.name, "AccessKeyLastUsed": last}


def _owner(session: Session, key_id: str) -> User | None:
    key = session.get(AccessKey, key_id)
    return None if key is None or key.user_key is None else session.get(User, key.user_key)


def _no_such_key(key_id: str) -> ApiError:
    return ApiError("NoSuchEntity", f"The Access Key with id {key_id} cannot be found.")


def _members(user: User, key: AccessKey) -> dict[str, Any]:
    return {
        "UserName": user.name,
        "AccessKeyId": key.access_key_id,
        "Status": key.status,
        "CreateDate": key.created_ms / 1000,
    }


def _access_key(session: Session, call: Call) -> AccessKey:
    user, key_id = find_user(session, call), call.params["AccessKeyId"]
    key = session.get(AccessKey, key_id)
    if key is None or key.user_key != user.name_key:
        raise _no_such_key(key_id)
    return key

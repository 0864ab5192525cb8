"""Instance profiles: a name for the role of an instance. Nothing here reads them; tools that make them find them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from vnotch.api.iam.attachments import conflict
from vnotch.api.iam.part import IamPart, check_count, checked_tags, find, find_role, page
from vnotch.api.service import ApiError, Call, operation
from vnotch.store.principals import InstanceProfile, Role, new_unique_id, now_ms

PROFILES_MAX = 1_000


class InstanceProfiles(IamPart):
    @operation("CreateInstanceProfile", "profile_resource")
    def create_instance_profile(self, call: Call) -> dict[str, Any]:
        name = call.params["InstanceProfileName"]
        with self.accounts.write() as session:
            if session.get(InstanceProfile, name.lower()) is not None:
                raise ApiError("EntityAlreadyExists", f"Instance Profile {name} already exists.")
            check_count(session, InstanceProfile, PROFILES_MAX, "InstanceProfilesPerAccount")
            profile = InstanceProfile(
                name_key=name.lower(),
                name=name,
                path=call.params.get("Path", "/"),
                profile_id=new_unique_id("AIPA"),
                role_id=None,
                tags=checked_tags(call.params.get("Tags", [])),
                created_ms=now_ms(),
            )
            session.add(profile)
            return {"InstanceProfile": self.profile_members(session, profile)}

    @operation("GetInstanceProfile", "profile_resource")
    def get_instance_profile(self, call: Call) -> dict[str, Any]:
        with self.accounts.state.read() as session:
            return {"InstanceProfile": self.profile_members(session, self._profile(session, call))}

    @operation("ListInstanceProfiles")
    def list_instance_profiles(self, call: Call) -> dict[str, Any]:
        prefix = call.params.get("PathPrefix", "/")
        with self.accounts.state.read() as session:
            rows = session.scalars(select(InstanceProfile).order_by(InstanceProfile.name_key)).all()
            listed = [self.profile_members(session, row) for row in rows if row.path.startswith(prefix)]
        for profile in listed:
            profile.pop("Tags")  # not in lists (IAM API Reference, ListInstanceProfiles)
        return page(call, "InstanceProfiles", listed, "InstanceProfileName")

    @operation("ListInstanceProfilesForRole", "role_resource")
    def list_instance_profiles_for_role(self, call: Call) -> dict[str, Any]:
        with self.accounts.state.read() as session:
            role = find_role(session, call)
            listed = self.profiles_of(session, role)
        return page(call, "InstanceProfiles", listed, "InstanceProfileName")

    @operation("DeleteInstanceProfile", "profile_resource")
    def delete_instance_profile(self, call: Call) -> dict[str, Any]:
        with self.accounts.write() as session:
            profile = self._profile(session, call)
            if profile.role_id is not None:
                raise conflict("must remove roles from instance profile first")
            session.delete(profile)
        return {}

    @operation("AddRoleToInstanceProfile", "profile_resource")
    def add_role_to_instance_profile(self, call: Call) -> dict[str, Any]:
        """One role at most. Needs iam:PassRole on it as well (service authorization reference, IAM)."""
        with self.accounts.write() as session:
            profile = self._profile(session, call)
            role = find_role(session, call, to_change=True)
            self.require_pass_role(call, role.arn(self.account), "ec2.amazonaws.com")
            if profile.role_id is not None:
                raise ApiError("LimitExceeded", "Cannot exceed quota for InstanceSessionsPerInstanceProfile: 1")
            profile.role_id = role.role_id
        return {}

    @operation("RemoveRoleFromInstanceProfile", "profile_resource")
    def remove_role_from_instance_profile(self, call: Call) -> dict[str, Any]:
        with self.accounts.write() as session:
            profile = self._profile(session, call)
            role = find_role(session, call)
            if profile.role_id != role.role_id:
                raise ApiError("NoSuchEntity", f"The role {role.name} is not in the instance profile {profile.name}.")
            profile.role_id = None
        return {}

    def _profile(self, session: Session, call: Call) -> InstanceProfile:
        return find(session, InstanceProfile, call.params["InstanceProfileName"])

    def profiles_of(self, session: Session, role: Role) -> list[dict[str, Any]]:
        mine = select(InstanceProfile).where(InstanceProfile.role_id == role.role_id)
        rows = session.scalars(mine.order_by(InstanceProfile.name_key)).all()
        listed = [self.profile_members(session, row) for row in rows]
        for profile in listed:
            profile.pop("Tags")
        return listed

    def profile_members(self, session: Session, profile: InstanceProfile) -> dict[str, Any]:
        role = session.scalar(select(Role).where(Role.role_id == profile.role_id)) if profile.role_id else None
        return {
            **self.entity_members(profile, "InstanceProfileId", "InstanceProfileName"),
            "Roles": [] if role is None else [self.role_members(role)],
            "Tags": profile.tag_list or None,
        }

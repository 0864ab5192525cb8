"""Managed policies and their versions: those of the account, and AWS's own to look at."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from vnotch.api.iam.part import (
    IamPart,
    check_count,
    check_policy,
    check_size,
    checked_tags,
    encoded,
    find_own_policy,
    find_policy,
    page,
)
from vnotch.api.service import ApiError, Call, operation
from vnotch.store.aws_managed import AwsPolicy, aws_policies
from vnotch.store.principals import ManagedPolicy, PolicyAttachment, PolicyVersion, Role, User, new_unique_id, now_ms

# IAM quotas (IAM user guide, "IAM and AWS STS quotas").
POLICIES_MAX = 1_500
VERSIONS_MAX = 5
POLICY_CHARACTERS_MAX = 6_144


class ManagedPolicies(IamPart):
    def new_policy_resource(self, call: Call) -> list[str]:
        return [f"arn:aws:iam::{self.account}:policy{call.params.get('Path', '/')}{call.params['PolicyName']}"]

    @operation("CreatePolicy", "new_policy_resource")
    def create_policy(self, call: Call) -> dict[str, Any]:
        params, name = call.params, call.params["PolicyName"]
        _check_document(params["PolicyDocument"])
        with self.accounts.write() as session:
            if session.get(ManagedPolicy, name.lower()) is not None:
                raise ApiError(
                    "EntityAlreadyExists", f"A policy called {name} already exists. Duplicate names are not allowed."
                )
            check_count(session, ManagedPolicy, POLICIES_MAX, "PoliciesPerAccount")
            now = now_ms()
            policy = ManagedPolicy(
                name_key=name.lower(),
                name=name,
                path=params.get("Path", "/"),
                policy_id=new_unique_id("ANPA"),
                description=params.get("Description"),
                default_version=1,
                last_version=1,
                tags=checked_tags(params.get("Tags", [])),
                created_ms=now,
                updated_ms=now,
            )
            session.add(policy)
            session.flush()
            document = params["PolicyDocument"]
            session.add(PolicyVersion(policy_id=policy.policy_id, number=1, document=document, created_ms=now))
            session.flush()
            answer = self.policy_members(session, policy)
        answer.pop("Description", None)
        return {"Policy": answer}

    @operation("GetPolicy", "policy_resource")
    def get_policy(self, call: Call) -> dict[str, Any]:
        with self.accounts.state.read() as session:
            policy = find_policy(session, self.account, call.params["PolicyArn"])
            tags = {} if isinstance(policy, AwsPolicy) else {"Tags": policy.tag_list or None}
            return {"Policy": {**self.policy_members(session, policy), **tags}}

    @operation("ListPolicies")
    def list_policies(self, call: Call) -> dict[str, Any]:
        params = call.params
        scope, prefix = params.get("Scope", "All"), params.get("PathPrefix", "/")
        with self.accounts.state.read() as session:
            found: list[ManagedPolicy | AwsPolicy] = []
            if scope in ("All", "Local"):
                found += session.scalars(select(ManagedPolicy)).all()
            if scope in ("All", "AWS"):
                found += aws_policies().values()
            listed = [self.policy_members(session, policy) for policy in found if policy.path.startswith(prefix)]
        for policy in listed:
            policy.pop("Description", None)  # not in lists (IAM API Reference, Policy)
        if usage := params.get("PolicyUsageFilter"):
            counted = {"PermissionsPolicy": "AttachmentCount", "PermissionsBoundary": "PermissionsBoundaryUsageCount"}
            listed = [policy for policy in listed if policy[counted[usage]]]
        if params.get("OnlyAttached"):
            listed = [policy for policy in listed if policy["AttachmentCount"]]
        return page(call, "Policies", sorted(listed, key=lambda policy: policy["Arn"].lower()), "Arn")

    @operation("DeletePolicy", "policy_resource")
    def delete_policy(self, call: Call) -> dict[str, Any]:
        with self.accounts.write() as session:
            policy = find_own_policy(session, self.account, call.params["PolicyArn"])
            attached, boundary = usage_of(session, policy.arn(self.account))
            if attached:
                raise ApiError("DeleteConflict", "Cannot delete a policy attached to entities.")
            if boundary:
                raise ApiError("DeleteConflict", "Cannot delete a policy used as a permissions boundary.")
            versions = select(func.count()).select_from(PolicyVersion)
            if (session.scalar(versions.where(PolicyVersion.policy_id == policy.policy_id)) or 0) > 1:
                text = "This policy has more than one version. Before you delete a policy, you must delete the "
                raise ApiError(
                    "DeleteConflict", text + "policy's versions. The default version is deleted with the policy."
                )
            session.delete(policy)
        return {}

    # --- versions ---

    @operation("CreatePolicyVersion", "policy_resource")
    def create_policy_version(self, call: Call) -> dict[str, Any]:
        document = call.params["PolicyDocument"]
        _check_document(document)
        with self.accounts.write() as session:
            policy = find_own_policy(session, self.account, call.params["PolicyArn"])
            mine = PolicyVersion.policy_id == policy.policy_id
            if (session.scalar(select(func.count()).select_from(PolicyVersion).where(mine)) or 0) >= VERSIONS_MAX:
                text = (
                    "A managed policy can have up to 5 versions. Before you create a new version, you must delete an "
                )
                raise ApiError("LimitExceeded", text + "existing version.")
            now = now_ms()
            policy.last_version += 1
            version = PolicyVersion(
                policy_id=policy.policy_id, number=policy.last_version, document=document, created_ms=now
            )
            session.add(version)
            if call.params.get("SetAsDefault"):
                policy.default_version = version.number
            policy.updated_ms = now
            answer = version_members(version, policy.default_version)
        answer.pop("Document")
        return {"PolicyVersion": answer}

    @operation("GetPolicyVersion", "policy_resource")
    def get_policy_version(self, call: Call) -> dict[str, Any]:
        with self.accounts.state.read() as session:
            policy = find_policy(session, self.account, call.params["PolicyArn"])
            if isinstance(policy, AwsPolicy):
                if call.params["VersionId"] != f"v{policy.version}":
                    raise _no_version(policy.arn, call.params["VersionId"])
                return {"PolicyVersion": aws_version_members(policy)}
            return {"PolicyVersion": version_members(self._version(session, call, policy), policy.default_version)}

    @operation("ListPolicyVersions", "policy_resource")
    def list_policy_versions(self, call: Call) -> dict[str, Any]:
        with self.accounts.state.read() as session:
            policy = find_policy(session, self.account, call.params["PolicyArn"])
            listed = policy_versions(session, policy)
        for version in listed:
            version.pop("Document")  # not in lists (IAM API Reference, ListPolicyVersions)
        return _versions_page(call, listed)

    @operation("SetDefaultPolicyVersion", "policy_resource")
    def set_default_policy_version(self, call: Call) -> dict[str, Any]:
        with self.accounts.write() as session:
            policy = find_own_policy(session, self.account, call.params["PolicyArn"])
            policy.default_version = self._version(session, call, policy).number
            policy.updated_ms = now_ms()
        return {}

    @operation("DeletePolicyVersion", "policy_resource")
    def delete_policy_version(self, call: Call) -> dict[str, Any]:
        with self.accounts.write() as session:
            policy = find_own_policy(session, self.account, call.params["PolicyArn"])
            version = self._version(session, call, policy)
            if version.number == policy.default_version:
                raise ApiError("DeleteConflict", "Cannot delete the default version of a policy.")
            session.delete(version)
        return {}

    def _version(self, session: Session, call: Call, policy: ManagedPolicy) -> PolicyVersion:
        name = call.params["VersionId"]
        number = name[1:].partition(".")[0]
        # Larger than any number of a version: SQLite's integers end at 2^63.
        version = session.get(PolicyVersion, (policy.policy_id, int(number))) if len(number) < 10 else None
        if version is None or name != f"v{version.number}":
            raise _no_version(policy.arn(self.account), name)
        return version

    def policy_members(self, session: Session, policy: ManagedPolicy | AwsPolicy) -> dict[str, Any]:
        aws = isinstance(policy, AwsPolicy)
        arn = policy.arn if isinstance(policy, AwsPolicy) else policy.arn(self.account)
        attached, boundary = usage_of(session, arn)
        return {
            "PolicyName": policy.name,
            "PolicyId": policy.policy_id,
            "Arn": arn,
            "Path": policy.path,
            "DefaultVersionId": f"v{policy.version if isinstance(policy, AwsPolicy) else policy.default_version}",
            "AttachmentCount": attached,
            "PermissionsBoundaryUsageCount": boundary,
            "IsAttachable": policy.attachable if isinstance(policy, AwsPolicy) else True,
            "Description": policy.description,
            "CreateDate": policy.created_ms / 1000,
            "UpdateDate": (policy.created_ms if aws else policy.updated_ms) / 1000,  # type: ignore[union-attr]
        }


def usage_of(session: Session, arn: str) -> tuple[int, int]:
    """How many users, groups and roles have a policy, and how many it bounds."""
    attachments = select(func.count()).select_from(PolicyAttachment).where(PolicyAttachment.policy_arn == arn)
    attached = session.scalar(attachments) or 0
    bounded = sum(
        session.scalar(select(func.count()).select_from(table).where(table.boundary_arn == arn)) or 0
        for table in (User, Role)
    )
    return attached, bounded


def policy_versions(session: Session, policy: ManagedPolicy | AwsPolicy) -> list[dict[str, Any]]:
    """The newest first."""
    if isinstance(policy, AwsPolicy):
        return [aws_version_members(policy)]
    rows = select(PolicyVersion).where(PolicyVersion.policy_id == policy.policy_id)
    found = session.scalars(rows.order_by(PolicyVersion.number.desc())).all()
    return [version_members(version, policy.default_version) for version in found]


def version_members(version: PolicyVersion, default: int) -> dict[str, Any]:
    return {
        "Document": encoded(version.document),
        "VersionId": f"v{version.number}",
        "IsDefaultVersion": version.number == default,
        "CreateDate": version.created_ms / 1000,
    }


def aws_version_members(policy: AwsPolicy) -> dict[str, Any]:
    return {
        "Document": encoded(policy.document),
        "VersionId": f"v{policy.version}",
        "IsDefaultVersion": True,
        "CreateDate": policy.created_ms / 1000,
    }


def _versions_page(call: Call, listed: list[dict[str, Any]]) -> dict[str, Any]:
    # There are at most five: they are paged in the order of their names, newest first within a page.
    answer = page(call, "Versions", sorted(listed, key=lambda version: version["VersionId"]), "VersionId")
    answer["Versions"].sort(key=lambda version: -int(version["VersionId"][1:]))
    return answer


def _check_document(document: str) -> None:
    check_policy(document)
    check_size(document, POLICY_CHARACTERS_MAX, f"PolicySize: {POLICY_CHARACTERS_MAX}")


def _no_version(arn: str, name: str) -> ApiError:
    return ApiError("NoSuchEntity", f"Policy {arn} version {name} does not exist or is not attachable.")

"""Everything of an account at once: GetAccountAuthorizationDetails and GetAccountSummary."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from vnotch.api.iam.attachments import ATTACHED_MAX, attached_policies
from vnotch.api.iam.groups import GROUPS_MAX, GROUPS_PER_USER_MAX
from vnotch.api.iam.inline_policies import CHARACTERS_MAX
from vnotch.api.iam.instance_profiles import PROFILES_MAX, InstanceProfiles
from vnotch.api.iam.managed_policies import (
    POLICIES_MAX,
    POLICY_CHARACTERS_MAX,
    VERSIONS_MAX,
    ManagedPolicies,
    policy_versions,
)
from vnotch.api.iam.part import ITEMS_DEFAULT, boundary_member, encoded, marker, read_marker
from vnotch.api.iam.roles import ROLES_MAX, TRUST_POLICY_CHARACTERS_MAX
from vnotch.api.iam.users import USERS_MAX
from vnotch.api.service import Call, operation
from vnotch.store.accounts import KEYS_PER_USER_MAX
from vnotch.store.aws_managed import AwsPolicy, aws_policies
from vnotch.store.principals import (
    Group,
    InlinePolicy,
    InstanceProfile,
    ManagedPolicy,
    Membership,
    PolicyVersion,
    Principal,
    Role,
    User,
)

_LISTS = {"User": "UserDetailList", "Group": "GroupDetailList", "Role": "RoleDetailList"}
Row = User | Group | Role | ManagedPolicy | AwsPolicy


class AccountDetails(ManagedPolicies, InstanceProfiles):
    @operation("GetAccountAuthorizationDetails")
    def get_account_authorization_details(self, call: Call) -> dict[str, Any]:
        """Users, groups, roles and managed policies in one row of pages; of AWS's policies those that are in use."""
        wanted = set(call.params.get("Filter") or ("User", "Group", "Role", "LocalManagedPolicy", "AWSManagedPolicy"))
        after = read_marker(call.params["Marker"]) if "Marker" in call.params else ""
        size = call.params.get("MaxItems", ITEMS_DEFAULT)
        answer: dict[str, Any] = {**{member: [] for member in _LISTS.values()}, "Policies": [], "IsTruncated": False}
        with self.accounts.state.read() as session:
            shown, last = 0, ""
            for key, row in self._rows(session, wanted):
                if key <= after:
                    continue
                if shown == size:
                    return answer | {"IsTruncated": True, "Marker": marker(last)}
                kind = "Policy" if isinstance(row, AwsPolicy) else row.kind
                answer[_LISTS.get(kind, "Policies")].append(self._detail(session, row))
                shown, last = shown + 1, key
        return answer

    def _rows(self, session: Session, wanted: set[str]) -> Iterator[tuple[str, Row]]:
        """All rows in the order of their keys, which a marker names."""
        for number, rows in enumerate((select(User), select(Group), select(Role))):
            table: Any = rows.column_descriptions[0]["entity"]
            principals: list[Any] = list(session.scalars(rows.order_by(table.name_key)) if table.kind in wanted else ())
            yield from ((f"{number}/{row.name_key}", row) for row in principals)
        if "LocalManagedPolicy" in wanted:
            for policy in session.scalars(select(ManagedPolicy).order_by(ManagedPolicy.name_key)):
                yield f"3/{policy.name_key}", policy
        if "AWSManagedPolicy" in wanted:
            for arn, aws in sorted(aws_policies().items()):
                if any(self.policy_members(session, aws)[member] for member in _USED):
                    yield f"4/{arn}", aws

    def _detail(self, session: Session, row: Row) -> dict[str, Any]:
        if isinstance(row, AwsPolicy | ManagedPolicy):
            return {**self.policy_members(session, row), "PolicyVersionList": policy_versions(session, row)}
        shared = {"AttachedManagedPolicies": attached_policies(session, row)}
        inline = _inline(session, row)
        if isinstance(row, Group):
            return {**self.group_members(row), **shared, "GroupPolicyList": inline}
        if isinstance(row, User):
            groups = select(Group.name).join(Membership, Membership.group_id == Group.group_id)
            names = session.scalars(groups.where(Membership.user_id == row.user_id).order_by(Group.name_key)).all()
            return {**self.user_members(row), **shared, "UserPolicyList": inline, "GroupList": list(names)}
        role = {
            **self.entity_members(row, "RoleId", "RoleName"),
            "AssumeRolePolicyDocument": encoded(row.trust_policy),
            **boundary_member(row),
            "Tags": row.tag_list or None,
            **self.last_use_member(session, row),
        }
        return {**role, **shared, "RolePolicyList": inline, "InstanceProfileList": self.profiles_of(session, row)}

    @operation("GetAccountSummary")
    def get_account_summary(self, call: Call) -> dict[str, Any]:
        """How much there is and the quotas (IAM API Reference, GetAccountSummary). There is no root user here, so what
        the summary says of its keys and MFA is 0."""
        with self.accounts.state.read() as session:
            counts = {
                name: session.scalar(select(func.count()).select_from(table)) or 0
                for name, table in (
                    ("Users", User),
                    ("Groups", Group),
                    ("Roles", Role),
                    ("Policies", ManagedPolicy),
                    ("PolicyVersionsInUse", PolicyVersion),
                    ("InstanceProfiles", InstanceProfile),
                )
            }
        quotas = {
            "UsersQuota": USERS_MAX,
            "GroupsQuota": GROUPS_MAX,
            "GroupsPerUserQuota": GROUPS_PER_USER_MAX,
            "RolesQuota": ROLES_MAX,
            "PoliciesQuota": POLICIES_MAX,
            "PolicySizeQuota": POLICY_CHARACTERS_MAX,
            "VersionsPerPolicyQuota": VERSIONS_MAX,
            "InstanceProfilesQuota": PROFILES_MAX,
            "AccessKeysPerUserQuota": KEYS_PER_USER_MAX,
            "UserPolicySizeQuota": CHARACTERS_MAX["User"],
            "GroupPolicySizeQuota": CHARACTERS_MAX["Group"],
            "RolePolicySizeQuota": CHARACTERS_MAX["Role"],
            "AssumeRolePolicySizeQuota": TRUST_POLICY_CHARACTERS_MAX,
            "AttachedPoliciesPerUserQuota": ATTACHED_MAX,
            "AttachedPoliciesPerGroupQuota": ATTACHED_MAX,
            "AttachedPoliciesPerRoleQuota": ATTACHED_MAX,
            "AccountMFAEnabled": 0,
            "AccountAccessKeysPresent": 0,
            "MFADevices": 0,
        }
        return {"SummaryMap": counts | quotas}


_USED = ("AttachmentCount", "PermissionsBoundaryUsageCount")


def _inline(session: Session, owner: Principal) -> list[dict[str, str]]:
    rows = select(InlinePolicy).where(InlinePolicy.owner_id == owner.unique_id).order_by(InlinePolicy.name)
    return [{"PolicyName": row.name, "PolicyDocument": encoded(row.document)} for row in session.scalars(rows)]

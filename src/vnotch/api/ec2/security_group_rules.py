"""Rules of security groups: authorize, revoke, modify, describe, and their descriptions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Select, bindparam, delete, func, select
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import set_committed_value

from vnotch.api.ec2.filters import TAG_KEY, column
from vnotch.api.ec2.part import (
    PREFIX_LIST,
    SECURITY_GROUP,
    SECURITY_GROUP_RULE,
    Describe,
    Ec2Part,
    arn,
    ec2_operation,
    required,
    tag_set,
)
from vnotch.api.ec2.permissions import (
    Permission,
    permission_of,
    permissions_of,
    protocol_text,
    rule_description,
)
from vnotch.api.ec2.security_groups import find_group
from vnotch.api.ec2.tags import drop_tags, put_tags, tags_at_creation
from vnotch.api.service import ApiError, Call
from vnotch.store import agents, firewall
from vnotch.store.firewall import SecurityGroup, SecurityGroupRule
from vnotch.store.network import Tag
from vnotch.store.rule_book import agents_with_groups
from vnotch.store.shown_rows import ShownRows
from vnotch.store.state import new_id

FLAT = "IpProtocol FromPort ToPort CidrIp"
"""The members of a single inbound rule, beside `IpPermissions` (API AuthorizeSecurityGroupIngress)."""

PEERING = "IpPermissions.UserIdGroupPairs.PeeringStatus IpPermissions.UserIdGroupPairs.VpcId"
"""Of a group on the other side of a peering connection, of which there is none."""

BY_ID = "groups in `UserIdGroupPairs` are named by `GroupId`, not by name alone"

DESCRIBE = Describe(
    SECURITY_GROUP_RULE,
    "SecurityGroupRuleIds",
    {
        **TAG_KEY,
        "group-id": column(SecurityGroupRule.group_id),
        "security-group-rule-id": column(SecurityGroupRule.rule_id),
    },
    ShownRows(SecurityGroupRule, "tags"),
)


def _group_and_rules(call: Call) -> list[str]:
    """ModifySecurityGroupRules is authorised on the group and on each of the rules."""
    rules = [item.get("SecurityGroupRuleId") or "*" for item in call.params.get("SecurityGroupRules") or ()]
    group = arn(call, SECURITY_GROUP.name, call.params.get("GroupId") or "*")
    return [group, *(arn(call, SECURITY_GROUP_RULE.name, rule_id) for rule_id in rules)]


class SecurityGroupRules(Ec2Part):
    @ec2_operation(
        "DescribeSecurityGroupRules", "SecurityGroupRuleIds Filters MaxResults NextToken", filters=DESCRIBE.names
    )
    def describe_security_group_rules(self, call: Call) -> dict[str, Any]:
        with self.state.read() as session:
            rows, more = DESCRIBE.rows(session, call)
            return {"SecurityGroupRules": [_describe(rule, call) for rule in rows], **more}

    # --- authorize

    @ec2_operation(
        "AuthorizeSecurityGroupIngress",
        f"GroupId GroupName IpPermissions TagSpecifications {FLAT}",
        "named_group",
        unsupported=PEERING,
        note=BY_ID,
    )
    def authorize_security_group_ingress(self, call: Call) -> dict[str, Any]:
        return self._authorize(call, egress=False)

    @ec2_operation(
        "AuthorizeSecurityGroupEgress",
        "GroupId IpPermissions TagSpecifications",
        "named_group",
        unsupported=PEERING,
        note=BY_ID,
    )
    def authorize_security_group_egress(self, call: Call) -> dict[str, Any]:
        return self._authorize(call, egress=True)

    def _authorize(self, call: Call, egress: bool) -> dict[str, Any]:
        given = _permissions(call)
        tags = tags_at_creation(call, SECURITY_GROUP_RULE)
        with self.state.write() as session:
            group = find_group(session, call, lock=True)
            if len(given) > 2 * self.quotas.rules_per_security_group:
                raise _too_many_rules()  # in whatever families, and before each is looked at
            known = {tuple(key) for key in session.execute(_KEYS, {"group_id": group.group_id, "egress": egress})}
            for permission in given:
                _check_peer(session, group, permission, call.account)
                if permission.key in known:
                    raise _duplicate(permission)
            rows = [_rule(permission, egress) for permission in given]
            firewall.insert_rules(session, group.group_id, rows)
            self._refuse_more_rules(session, [group.group_id])
            for row in rows:
                put_tags(session, SECURITY_GROUP_RULE, row.rule_id, tags)
                set_committed_value(row, "tags", [Tag(key=key, value=value) for key, value in tags.items()])
            agents.touch(session, agents_with_groups(session, [group.group_id]))
            return {"Return": True, "SecurityGroupRules": [_describe(row, call) for row in rows]}

    def _refuse_more_rules(self, session: Session, group_ids: Iterable[str]) -> None:
        refuse_too_many_rules(session, group_ids, self.quotas.rules_per_security_group)

    # --- revoke

    @ec2_operation(
        "RevokeSecurityGroupIngress",
        f"GroupId GroupName IpPermissions SecurityGroupRuleIds {FLAT}",
        "named_group",
        unsupported=PEERING,
        note=BY_ID,
    )
    def revoke_security_group_ingress(self, call: Call) -> dict[str, Any]:
        return self._revoke(call, egress=False)

    @ec2_operation(
        "RevokeSecurityGroupEgress",
        "GroupId IpPermissions SecurityGroupRuleIds",
        "named_group",
        unsupported=PEERING,
        note=BY_ID,
    )
    def revoke_security_group_egress(self, call: Call) -> dict[str, Any]:
        return self._revoke(call, egress=True)

    def _revoke(self, call: Call, egress: bool) -> dict[str, Any]:
        """All that is named or nothing: outside a default VPC a rule that is not there is an error (API
        RevokeSecurityGroupIngress)."""
        with self.state.write() as session:
            group = find_group(session, call, lock=True)
            rows = _named(group, call, egress)
            ids = [row.rule_id for row in rows]
            drop_tags(session, ids)
            session.execute(delete(SecurityGroupRule).where(SecurityGroupRule.rule_id.in_(ids)))
            agents.touch(session, agents_with_groups(session, [group.group_id]))
            return {"Return": True, "RevokedSecurityGroupRules": [_describe_revoked(row) for row in rows]}

    # --- modify

    @ec2_operation("ModifySecurityGroupRules", "GroupId SecurityGroupRules", _group_and_rules)
    def modify_security_group_rules(self, call: Call) -> dict[str, Any]:
        """Each named rule becomes what the call says, whole: what it does not name is not kept from before, and
        inbound stays inbound. All or nothing."""
        wanted = {
            required_of(item, "SecurityGroupRuleId"): permission_of(item.get("SecurityGroupRule") or {})
            for item in required(call, "SecurityGroupRules")
        }
        with self.state.write() as session:
            group = find_group(session, call, lock=True)
            rows = {row.rule_id: row for row in _by_ids(group, list(wanted))}
            for rule_id, permission in wanted.items():
                _check_peer(session, group, permission, call.account)
                _set(rows[rule_id], permission)
            keys: set[tuple[Any, ...]] = set()
            for row in group.rules:
                if (row.egress, permission_key(row)) in keys:
                    raise _duplicate(next(each for each in wanted.values() if each.key == permission_key(row)))
                keys.add((row.egress, permission_key(row)))
            session.flush()
            self._refuse_more_rules(session, [group.group_id])
            agents.touch(session, agents_with_groups(session, [group.group_id]))
            return {"Return": True}

    # --- descriptions: nothing of them reaches an agent

    @ec2_operation(
        "UpdateSecurityGroupRuleDescriptionsIngress",
        "GroupId GroupName IpPermissions SecurityGroupRuleDescriptions",
        "named_group",
        unsupported=PEERING,
        note=BY_ID,
    )
    def update_security_group_rule_descriptions_ingress(self, call: Call) -> dict[str, Any]:
        return self._update_descriptions(call, egress=False)

    @ec2_operation(
        "UpdateSecurityGroupRuleDescriptionsEgress",
        "GroupId GroupName IpPermissions SecurityGroupRuleDescriptions",
        "named_group",
        unsupported=PEERING,
        note=BY_ID,
    )
    def update_security_group_rule_descriptions_egress(self, call: Call) -> dict[str, Any]:
        return self._update_descriptions(call, egress=True)

    def _update_descriptions(self, call: Call, egress: bool) -> dict[str, Any]:
        """By permissions or by rule ids; without a description a rule loses the one it has."""
        listed, described = call.params.get("IpPermissions"), call.params.get("SecurityGroupRuleDescriptions")
        if bool(listed) == bool(described):
            raise ApiError(
                "InvalidParameterCombination",
                "Exactly one of IpPermissions and SecurityGroupRuleDescriptions must be given",
            )
        with self.state.write(notify=False) as session:
            group = find_group(session, call, lock=True)
            if described:
                texts = {
                    required_of(item, "SecurityGroupRuleId"): rule_description(item.get("Description"))
                    for item in described
                }
                for row in _by_ids(group, list(texts), egress):
                    row.description = texts[row.rule_id]
            else:
                permissions = permissions_of(listed or ())
                for row, permission in zip(_by_permissions(group, permissions, egress), permissions, strict=True):
                    row.description = permission.description
            return {"Return": True}


def required_of(item: dict[str, Any], member: str) -> str:
    value = item.get(member)
    if not value:
        raise ApiError("MissingParameter", f"The request must contain the parameter {member}")
    return str(value)


def _permissions(call: Call) -> list[Permission]:
    """What a call names, in `IpPermissions` or, for one inbound rule, in members of its own."""
    flat = [name for name in FLAT.split() if call.params.get(name) is not None]
    if not flat:
        return permissions_of(required(call, "IpPermissions"))
    if call.params.get("IpPermissions"):
        raise ApiError(  # memory
            "InvalidParameterCombination", f"The parameter ipPermissions may not be used in combination with {flat[0]}"
        )
    item = {name: call.params[name] for name in flat if name != "CidrIp"}
    return permissions_of([item | ({"IpRanges": [{"CidrIp": call.params["CidrIp"]}]} if "CidrIp" in flat else {})])


def _named(group: SecurityGroup, call: Call, egress: bool) -> list[SecurityGroupRule]:
    """The rules that a call to revoke names."""
    ids = call.params.get("SecurityGroupRuleIds")
    if not ids:
        return _by_permissions(group, _permissions(call), egress)
    if call.params.get("IpPermissions"):
        raise ApiError(  # memory
            "InvalidParameterCombination",
            "The parameter ipPermissions may not be used in combination with securityGroupRuleIds",
        )
    return _by_ids(group, ids, egress)


def _by_ids(group: SecurityGroup, rule_ids: Sequence[str], egress: bool | None = None) -> list[SecurityGroupRule]:
    """Rules of this group and, where `egress` is given, of this direction; others are not there for the caller."""
    rows = {row.rule_id: row for row in group.rules if egress in (None, row.egress)}
    for rule_id in rule_ids:
        if rule_id not in rows:
            raise SECURITY_GROUP_RULE.missing(rule_id)
    return [rows[rule_id] for rule_id in dict.fromkeys(rule_ids)]


def _by_permissions(group: SecurityGroup, permissions: Iterable[Permission], egress: bool) -> list[SecurityGroupRule]:
    rows = {permission_key(row): row for row in group.rules if row.egress is egress}
    found = [rows.get(permission.key) for permission in permissions]
    if None in found:
        raise ApiError(  # memory
            "InvalidPermission.NotFound", "The specified rule does not exist in this security group."
        )
    return [row for row in found if row is not None]


def permission_key(row: SecurityGroupRule) -> tuple[Any, ...]:
    """As `Permission.key`, of a row."""
    return (row.protocol, row.from_port, row.to_port, row.cidr, row.referenced_group_id, row.prefix_list_id)


_KEYS = select(
    SecurityGroupRule.protocol,
    SecurityGroupRule.from_port,
    SecurityGroupRule.to_port,
    SecurityGroupRule.cidr,
    SecurityGroupRule.referenced_group_id,
    SecurityGroupRule.prefix_list_id,
).where(SecurityGroupRule.group_id == bindparam("group_id"), SecurityGroupRule.egress == bindparam("egress"))
"""The same of all rules of a group in one direction."""


def _duplicate(permission: Permission) -> ApiError:
    return ApiError("InvalidPermission.Duplicate", f'the specified rule "{permission}" already exists')  # seen


def _check_peer(session: Session, group: SecurityGroup, permission: Permission, account: str) -> None:
    """The group or prefix list that a rule refers to is there, and the group in the same VPC."""
    if permission.user_id not in (None, account):
        raise SECURITY_GROUP.missing(permission.group_id or "")
    if permission.group_id is not None:
        other: SecurityGroup = SECURITY_GROUP.find(session, permission.group_id)
        if other.vpc_id != group.vpc_id:
            raise ApiError(  # memory
                "InvalidGroup.NotFound", "You have specified two resources that belong to different networks."
            )
    if permission.prefix_list_id is not None:
        PREFIX_LIST.find(session, permission.prefix_list_id)


def _rule(permission: Permission, egress: bool) -> SecurityGroupRule:
    row = SecurityGroupRule(rule_id=new_id("sgr"), egress=egress)
    _set(row, permission)
    return row


def _set(row: SecurityGroupRule, permission: Permission) -> None:
    row.protocol, row.from_port, row.to_port = permission.protocol, permission.from_port, permission.to_port
    row.cidr, row.prefix_list_id = permission.cidr, permission.prefix_list_id
    row.referenced_group_id = permission.group_id
    row.description = permission.description


def refuse_too_many_rules(session: Session, group_ids: Iterable[str], rules_max: int) -> None:
    """Counted in each direction and for each family apart: a group counts once in both, a prefix list as many times as
    it may have entries (VPC user guide, "Security group size" and "Prefix lists concepts")."""
    rows = session.execute(_rule_counts(), {"group_ids": list(group_ids)})
    counts: dict[tuple[str, bool, int], int] = {}
    for group_id, egress, is_ipv6, list_family, count in rows:
        families = (list_family,) if list_family else (4, 6) if is_ipv6 is None else (6,) if is_ipv6 else (4,)
        for family in families:
            counts[group_id, egress, family] = counts.get((group_id, egress, family), 0) + int(count)
    if max(counts.values(), default=0) > rules_max:
        raise _too_many_rules()


@cache
def _rule_counts() -> Select[*tuple[Any, ...]]:
    size = firewall.PrefixList
    kind = (SecurityGroupRule.group_id, SecurityGroupRule.egress, SecurityGroupRule.cidr.contains(":"), size.family)
    return (
        select(*kind, func.sum(func.coalesce(size.max_entries, 1)))
        .outerjoin(size, size.prefix_list_id == SecurityGroupRule.prefix_list_id)
        .where(SecurityGroupRule.group_id.in_(bindparam("group_ids", expanding=True)))
        .group_by(*kind)
    )


def _too_many_rules() -> ApiError:
    return ApiError(  # seen
        "RulesPerSecurityGroupLimitExceeded", "The maximum number of rules per security group has been reached."
    )


def _describe(rule: SecurityGroupRule, call: Call) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "SecurityGroupRuleId": rule.rule_id,
        "GroupId": rule.group_id,
        "GroupOwnerId": call.account,
        "IsEgress": rule.egress,
        "IpProtocol": protocol_text(rule.protocol),
        "FromPort": rule.from_port,
        "ToPort": rule.to_port,
        "Tags": tag_set(rule.tags),
        "SecurityGroupRuleArn": arn(call, SECURITY_GROUP_RULE.name, rule.rule_id),
    }
    if rule.referenced_group_id:
        shown["ReferencedGroupInfo"] = {"GroupId": rule.referenced_group_id, "UserId": call.account}
    return shown | _cidr(rule) | _described(rule)


def _describe_revoked(rule: SecurityGroupRule) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "SecurityGroupRuleId": rule.rule_id,
        "GroupId": rule.group_id,
        "IsEgress": rule.egress,
        "IpProtocol": protocol_text(rule.protocol),
        "FromPort": rule.from_port,
        "ToPort": rule.to_port,
    }
    if rule.referenced_group_id:
        shown["ReferencedGroupId"] = rule.referenced_group_id
    return shown | _cidr(rule) | _described(rule)


def _cidr(rule: SecurityGroupRule) -> dict[str, str]:
    if rule.prefix_list_id:
        return {"PrefixListId": rule.prefix_list_id}
    if rule.cidr is None:
        return {}
    return {"CidrIpv6" if ":" in rule.cidr else "CidrIpv4": rule.cidr}


def _described(rule: SecurityGroupRule) -> dict[str, str]:
    return {"Description": rule.description} if rule.description else {}

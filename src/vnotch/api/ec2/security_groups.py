"""Security groups: create, describe, delete, and who refers to whom."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from sqlalchemy import Select, bindparam, delete, exists, func, select
from sqlalchemy.orm import Session

from vnotch.api.ec2.filters import TAG_KEY, Filter, column, present
from vnotch.api.ec2.part import (
    SECURITY_GROUP,
    VPC,
    Describe,
    Ec2Part,
    arn,
    arns,
    ec2_operation,
    required,
    tag_set,
)
from vnotch.api.ec2.permissions import TEXT_RIGHT, fits_text, no_default_vpc, protocol_text
from vnotch.api.ec2.tags import drop_tags, put_tags, tags_at_creation
from vnotch.api.service import ApiError, Call
from vnotch.rules import ICMP_PROTOCOLS, PORT_PROTOCOLS
from vnotch.store import firewall, network
from vnotch.store.firewall import SecurityGroupRule
from vnotch.store.shown_rows import ShownRows
from vnotch.store.state import new_id


def _of_rules(egress: bool, values: Callable[[SecurityGroupRule], Iterable[Any]]) -> Filter:
    return Filter(lambda group: (value for rule in group.rules if rule.egress is egress for value in values(rule)))


def _numbered(rule: SecurityGroupRule, number: int) -> tuple[int, ...]:
    """A port, type or code, for rules whose protocol has such."""
    return (number,) if rule.protocol in PORT_PROTOCOLS | ICMP_PROTOCOLS else ()


def _rule_filters(account: str, names: dict[str, str], egress: bool) -> dict[str, Filter]:
    """The filters of API DescribeSecurityGroups on inbound or outbound rules; `names` has group names by id."""
    prefix = "egress.ip-permission" if egress else "ip-permission"
    values: dict[str, Callable[[SecurityGroupRule], Iterable[Any]]] = {
        "cidr": lambda rule: present(rule.cidr) if ":" not in (rule.cidr or "") else (),
        "ipv6-cidr": lambda rule: present(rule.cidr) if ":" in (rule.cidr or "") else (),
        "from-port": lambda rule: _numbered(rule, rule.from_port),
        "to-port": lambda rule: _numbered(rule, rule.to_port),
        "group-id": lambda rule: present(rule.referenced_group_id),
        "group-name": lambda rule: present(names.get(rule.referenced_group_id or "")),
        "prefix-list-id": lambda rule: present(rule.prefix_list_id),
        "protocol": lambda rule: {protocol_text(rule.protocol), str(rule.protocol)},
        "user-id": lambda rule: (account,) if rule.referenced_group_id else (),
    }
    return {f"{prefix}.{name}": _of_rules(egress, function) for name, function in values.items()}


FILTERS = {
    **TAG_KEY,
    "description": column(firewall.SecurityGroup.description),
    "group-id": column(firewall.SecurityGroup.group_id),
    "group-name": column(firewall.SecurityGroup.name),
    "vpc-id": column(firewall.SecurityGroup.vpc_id),
}
FILTER_NAMES = {*FILTERS, *_rule_filters("", {}, False), *_rule_filters("", {}, True), "owner-id"}
SHOWN = ShownRows(firewall.SecurityGroup, "rules tags")
FOR_VPC = Describe(
    SECURITY_GROUP,
    "GroupIds",
    {
        **TAG_KEY,
        "description": column(firewall.SecurityGroup.description),
        "group-id": column(firewall.SecurityGroup.group_id),
        "group-name": column(firewall.SecurityGroup.name),
        "primary-vpc-id": column(firewall.SecurityGroup.vpc_id),
    },
    ShownRows(firewall.SecurityGroup, "tags"),
)


class SecurityGroups(Ec2Part):
    @ec2_operation("CreateSecurityGroup", "Description GroupName VpcId TagSpecifications", "places_of_group")
    def create_security_group(self, call: Call) -> dict[str, Any]:
        name, description = _name(call), _description(call)
        tags = tags_at_creation(call, SECURITY_GROUP)
        with self.state.write() as session:
            vpc_id = call.params.get("VpcId") or network.default_vpc_id(session)
            if vpc_id is None:
                raise ApiError("VPCIdNotSpecified", "No default VPC for this user")
            families = set(session.scalars(_FAMILIES, {"vpc_id": vpc_id}))
            if not families:
                raise VPC.missing(vpc_id)
            self._refuse_more_groups(session, vpc_id, name)
            group_id = new_id("sg")
            firewall.insert_group(session, group_id, vpc_id, name, description, sorted(families), call.now_ms)
            put_tags(session, SECURITY_GROUP, group_id, tags)
            answer: dict[str, Any] = {
                "GroupId": group_id,
                "SecurityGroupArn": arn(call, SECURITY_GROUP.name, group_id),
            }
            return answer | ({"Tags": [{"Key": key, "Value": tags[key]} for key in tags]} if tags else {})

    def _refuse_more_groups(self, session: Session, vpc_id: str, name: str) -> None:
        is_there, count = session.execute(_known_groups(), {"vpc_id": vpc_id, "name_key": name.lower()}).one()
        if is_there:
            raise ApiError(  # memory
                "InvalidGroup.Duplicate", f"The security group '{name}' already exists for VPC '{vpc_id}'"
            )
        if count >= self.quotas.security_groups:
            raise ApiError("SecurityGroupLimitExceeded", "The maximum number of security groups has been reached.")

    @ec2_operation("DescribeSecurityGroups", "GroupIds GroupNames Filters MaxResults NextToken", filters=FILTER_NAMES)
    def describe_security_groups(self, call: Call) -> dict[str, Any]:
        row = firewall.SecurityGroup
        with self.state.read() as session:
            ids = [_named_id(session, name) for name in call.params.get("GroupNames") or ()]
            within = [row.group_id.in_(ids)] if ids else []
            rows, more = self._describe_groups(session, call).rows(session, call, *within)
            return {"SecurityGroups": [_describe(group, call) for group in rows], **more}

    def _describe_groups(self, session: Session, call: Call) -> Describe:
        """Names of groups that rules refer to are read only where a filter asks for them."""
        given = call.params.get("Filters")
        if not given:
            return Describe(SECURITY_GROUP, "GroupIds", FILTERS, SHOWN)
        names: dict[str, str] = {}
        if any("group-name" in (item.get("Name") or "") for item in given):
            row = firewall.SecurityGroup
            names = {group_id: name for group_id, name in session.execute(select(row.group_id, row.name))}  # noqa: C416
        by_rule = _rule_filters(call.account, names, False) | _rule_filters(call.account, names, True)
        return Describe(SECURITY_GROUP, "GroupIds", {**FILTERS, **by_rule}, SHOWN)

    def places_of_group(self, call: Call) -> list[str]:
        """CreateSecurityGroup is authorised on the group and on the VPC that it will be in."""
        if vpc_id := call.params.get("VpcId"):
            return [arn(call, SECURITY_GROUP.name), arn(call, VPC.name, vpc_id)]
        default = select(network.Vpc.vpc_id).where(network.Vpc.is_default)
        return [arn(call, SECURITY_GROUP.name), *self.arns_of(call, (VPC, default))]

    def named_group(self, call: Call) -> list[str]:
        """The group by its id, or by its name in the default VPC."""
        if group_id := call.params.get("GroupId"):
            return [arn(call, SECURITY_GROUP.name, group_id)]
        return self.arns_of(call, (SECURITY_GROUP, _by_name(call.params.get("GroupName") or "")))

    @ec2_operation("DeleteSecurityGroup", "GroupId GroupName", "named_group")
    def delete_security_group(self, call: Call) -> dict[str, Any]:
        with self.state.write() as session:
            group = find_group(session, call, lock=True)
            if group.is_default:
                raise ApiError(  # memory
                    "CannotDelete",
                    f'the specified group: "{group.group_id}" name: "{group.name}" cannot be deleted by a user',
                )
            if _in_use(session, group.group_id):
                raise ApiError("DependencyViolation", f"resource {group.group_id} has a dependent object")  # seen
            drop_tags(session, [group.group_id, *session.scalars(_RULE_IDS, {"group_id": group.group_id})])
            session.execute(_DELETE, {"group_id": group.group_id})
            return {"Return": True, "GroupId": group.group_id}

    @ec2_operation("DescribeSecurityGroupReferences", "GroupId", arns("security-group:GroupId"))
    def describe_security_group_references(self, call: Call) -> dict[str, Any]:
        """References from the other side of a peering connection or a transit gateway; there is neither, so none."""
        with self.state.read() as session:
            for group_id in required(call, "GroupId"):
                SECURITY_GROUP.find(session, group_id)
        return {"SecurityGroupReferenceSet": []}

    @ec2_operation(
        "GetSecurityGroupsForVpc", "VpcId Filters MaxResults NextToken", arns("vpc:VpcId"), filters=FOR_VPC.names
    )
    def get_security_groups_for_vpc(self, call: Call) -> dict[str, Any]:
        """The groups that may be used in the VPC, which are its own."""
        with self.state.read() as session:
            vpc = VPC.find(session, required(call, "VpcId"))
            rows, more = FOR_VPC.rows(session, call, firewall.SecurityGroup.vpc_id == vpc.vpc_id)
            groups = [
                {
                    "GroupId": group.group_id,
                    "GroupName": group.name,
                    "Description": group.description,
                    "OwnerId": call.account,
                    "PrimaryVpcId": group.vpc_id,
                    "Tags": tag_set(group.tags),
                }
                for group in rows
            ]
            return {"SecurityGroupForVpcs": groups, **more}


def find_group(session: Session, call: Call, lock: bool = False) -> firewall.SecurityGroup:
    """The group that a call names by GroupId or, in the default VPC, by GroupName."""
    group_id, name = call.params.get("GroupId"), call.params.get("GroupName")
    if not group_id and name:
        group_id = _named_id(session, name)
    if not group_id:
        raise ApiError("MissingParameter", "The request must contain the parameter groupName or groupId")  # memory
    found: firewall.SecurityGroup = SECURITY_GROUP.find(session, group_id, lock=lock)
    return found


def _by_name(name: str) -> Select[Any]:
    row = firewall.SecurityGroup
    vpc = network.Vpc
    return select(row.group_id).join(vpc, vpc.vpc_id == row.vpc_id).where(vpc.is_default, row.name_key == name.lower())


def _named_id(session: Session, name: str) -> str:
    vpc_id, group_id = network.default_vpc_id(session), session.scalar(_by_name(name))
    if vpc_id is None:
        raise no_default_vpc()
    if group_id is None:
        text = f"The security group '{name}' does not exist in default VPC '{vpc_id}'"
        raise ApiError("InvalidGroup.NotFound", text)
    return str(group_id)


_FAMILIES = select(network.VpcCidr.family).where(network.VpcCidr.vpc_id == bindparam("vpc_id")).distinct()
"""The address families of a VPC, which always has the block that it was made with."""


_RULE_IDS = select(SecurityGroupRule.rule_id).where(SecurityGroupRule.group_id == bindparam("group_id"))
_DELETE = (
    delete(firewall.SecurityGroup)
    .where(firewall.SecurityGroup.group_id == bindparam("group_id"))
    .execution_options(synchronize_session=False)
)


@cache
def _known_groups() -> Select[Any]:
    """Whether the VPC has a group of that name, and how many groups there are."""
    row = firewall.SecurityGroup
    same = exists().where(row.vpc_id == bindparam("vpc_id"), row.name_key == bindparam("name_key"))
    return select(same, select(func.count()).select_from(row).scalar_subquery())


def _in_use(session: Session, group_id: str) -> bool:
    return bool(session.scalar(_uses(), {"group_id": group_id}))


@cache
def _uses() -> Select[Any]:
    """By an interface, or by a rule of another group (API DeleteSecurityGroup)."""
    group_id: Any = bindparam("group_id")
    held = firewall.interface_groups.c.group_id == group_id
    referred = exists().where(SecurityGroupRule.referenced_group_id == group_id, SecurityGroupRule.group_id != group_id)
    return select(exists().where(held) | referred)


def _name(call: Call) -> str:
    name: str = required(call, "GroupName")
    if name.lower() == firewall.DEFAULT_NAME:
        # Memory, for VPCs; InvalidGroup.Reserved, in EC2's error list, was the code of EC2-Classic.
        raise ApiError("InvalidParameterValue", f"Cannot use reserved security group name: {name}")
    if name.lower().startswith("sg-"):
        raise ApiError(  # memory
            "InvalidParameterValue",
            f"Value ({name}) for parameter GroupName is invalid. Group names may not be in the format sg-*.",
        )
    if not fits_text(name) or name != name.strip():
        raise ApiError("InvalidParameterValue", f"Invalid security group name. Valid names {TEXT_RIGHT}")  # memory
    return name


def _description(call: Call) -> str:
    description: str = required(call, "Description")
    if not description.isascii():
        raise ApiError(  # memory
            "InvalidParameterValue",
            f"Value ({description}) for parameter GroupDescription is invalid. Character sets beyond ASCII are not "
            "supported.",
        )
    if not fits_text(description):
        raise ApiError(  # memory
            "InvalidParameterValue", f"Invalid security group description. Valid descriptions {TEXT_RIGHT}"
        )
    return description


def _describe(group: firewall.SecurityGroup, call: Call) -> dict[str, Any]:
    return {
        "GroupId": group.group_id,
        "GroupName": group.name,
        "Description": group.description,
        "OwnerId": call.account,
        "VpcId": group.vpc_id,
        "SecurityGroupArn": arn(call, SECURITY_GROUP.name, group.group_id),
        "IpPermissions": permissions(group.rules, False, call.account),
        "IpPermissionsEgress": permissions(group.rules, True, call.account),
        "Tags": tag_set(group.tags),
    }


def permissions(rules: Iterable[SecurityGroupRule], egress: bool, account: str) -> list[dict[str, Any]]:
    """Rules of one direction as `IpPermissions`: one item for each protocol and range of ports, with all its peers."""
    items: dict[tuple[int, int, int], dict[str, Any]] = {}
    for rule in rules:
        if rule.egress is egress:
            key = (rule.protocol, rule.from_port, rule.to_port)
            item = items.setdefault(key, _permission(rule))
            described = {"Description": rule.description} if rule.description else {}
            if rule.referenced_group_id:
                pair = {"GroupId": rule.referenced_group_id, "UserId": account}
                item["UserIdGroupPairs"].append(pair | described)
            elif rule.prefix_list_id:
                item["PrefixListIds"].append({"PrefixListId": rule.prefix_list_id} | described)
            elif ":" in (rule.cidr or ""):
                item["Ipv6Ranges"].append({"CidrIpv6": rule.cidr} | described)
            else:
                item["IpRanges"].append({"CidrIp": rule.cidr} | described)
    return list(items.values())


def _permission(rule: SecurityGroupRule) -> dict[str, Any]:
    """Ports only for protocols that have some: all traffic and protocols by number are shown without."""
    ports = {"FromPort": rule.from_port, "ToPort": rule.to_port}
    return {
        "IpProtocol": protocol_text(rule.protocol),
        **(ports if rule.protocol in PORT_PROTOCOLS | ICMP_PROTOCOLS else {}),
        "IpRanges": [],
        "Ipv6Ranges": [],
        "PrefixListIds": [],
        "UserIdGroupPairs": [],
    }

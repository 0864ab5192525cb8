"""Security groups, network ACLs and prefix lists of a lab, made and removed through the EC2 API.

`ec2` is a boto3 client; `tags(kind, name)` gives the TagSpecifications by which the lab finds again what it made.
Errors are boto3's; the caller turns them into ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from vnotch.lab.firewall import SecurityGroup, acl_entry, permission
from vnotch.lab.topology import Topology

Tags = Callable[[str, str], list[dict[str, Any]]]


def create_prefix_lists(ec2: Any, topology: Topology, tags: Tags) -> dict[str, str]:
    """Name -> id."""
    made: dict[str, str] = {}
    for each in topology.prefix_lists:
        answer = ec2.create_managed_prefix_list(
            PrefixListName=each.name,
            AddressFamily=f"IPv{each.family}",
            MaxEntries=len(each.cidrs),
            Entries=[{"Cidr": cidr} for cidr in each.cidrs],
            TagSpecifications=tags("prefix-list", each.name),
        )
        made[each.name] = answer["PrefixList"]["PrefixListId"]
    return made


def create_groups(
    ec2: Any, topology: Topology, vpc_id: str, prefix_list_ids: dict[str, str], tags: Tags
) -> dict[str, str]:
    """Name -> id. All groups are made before their rules, which may refer to any of them."""
    made: dict[str, str] = {}
    for group in topology.security_groups:
        answer = ec2.create_security_group(
            VpcId=vpc_id,
            GroupName=group.name,
            Description=group.description,
            TagSpecifications=tags("security-group", group.name),
        )
        made[group.name] = answer["GroupId"]
    for group in topology.security_groups:
        _authorize(ec2, group, made, prefix_list_ids)
    return made


def _authorize(ec2: Any, group: SecurityGroup, group_ids: dict[str, str], prefix_list_ids: dict[str, str]) -> None:
    """The rules of the file; where it says what goes out, instead of the rule that lets everything out."""
    group_id = group_ids[group.name]
    if group.egress_given:
        _revoke(ec2, [group_id], egress_only=True)
    for egress, authorize in (
        (False, ec2.authorize_security_group_ingress),
        (True, ec2.authorize_security_group_egress),
    ):
        items = [permission(rule, group_ids, prefix_list_ids) for rule in group.rules if rule.egress is egress]
        if items:
            authorize(GroupId=group_id, IpPermissions=items)


def create_acls(ec2: Any, topology: Topology, vpc_id: str, subnet_ids: dict[str, str], tags: Tags) -> None:
    """The ACLs with their entries, each before the subnets get it, so that no subnet is shut meanwhile."""
    made: dict[str, str] = {}
    for acl in topology.network_acls:
        answer = ec2.create_network_acl(VpcId=vpc_id, TagSpecifications=tags("network-acl", acl.name))
        made[acl.name] = answer["NetworkAcl"]["NetworkAclId"]
        for entry in acl.entries:
            ec2.create_network_acl_entry(NetworkAclId=made[acl.name], **acl_entry(entry))
    for subnet in topology.subnets:
        if subnet.network_acl:
            association_id = _association(ec2, subnet_ids[subnet.name])
            ec2.replace_network_acl_association(AssociationId=association_id, NetworkAclId=made[subnet.network_acl])


def _association(ec2: Any, subnet_id: str) -> str:
    filters = [{"Name": "association.subnet-id", "Values": [subnet_id]}]
    [acl] = ec2.describe_network_acls(Filters=filters)["NetworkAcls"]
    return next(str(each["NetworkAclAssociationId"]) for each in acl["Associations"] if each["SubnetId"] == subnet_id)


def revoke_all(ec2: Any, group_ids: Iterable[str]) -> None:
    """Empties the groups, so that none is kept by another's reference."""
    _revoke(ec2, group_ids)


def _revoke(ec2: Any, group_ids: Iterable[str], egress_only: bool = False) -> None:
    for group_id in group_ids:
        pages = ec2.get_paginator("describe_security_group_rules").paginate(
            Filters=[{"Name": "group-id", "Values": [group_id]}]
        )
        rules = [rule for page in pages for rule in page["SecurityGroupRules"]]
        for egress, revoke in (
            (False, ec2.revoke_security_group_ingress),
            (True, ec2.revoke_security_group_egress),
        ):
            ids = [rule["SecurityGroupRuleId"] for rule in rules if rule["IsEgress"] is egress]
            if ids and (egress or not egress_only):
                revoke(GroupId=group_id, SecurityGroupRuleIds=ids)

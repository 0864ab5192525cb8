"""Network ACLs: create, describe, delete, and which subnets have them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import delete, exists, select
from sqlalchemy.orm import Session

from vnotch.api.ec2.client_tokens import remember, replay
from vnotch.api.ec2.filters import TAG_KEY, Filter, column
from vnotch.api.ec2.part import (
    NETWORK_ACL,
    SUBNET,
    VPC,
    Describe,
    Ec2Part,
    arn,
    arns,
    ec2_operation,
    required,
    tag_set,
)
from vnotch.api.ec2.permissions import protocol_text
from vnotch.api.ec2.room import refuse_without, room
from vnotch.api.ec2.tags import drop_tags, put_tags, tags_at_creation
from vnotch.api.service import ApiError, Call
from vnotch.rules import ALL_PROTOCOLS, ICMP_PROTOCOLS, LAST_RULE_NUMBER, PORT_PROTOCOLS
from vnotch.store import agents, firewall
from vnotch.store.firewall import NetworkAcl, NetworkAclAssociation, NetworkAclEntry
from vnotch.store.rule_book import agents_with_acl
from vnotch.store.shown_rows import ShownRows
from vnotch.store.state import new_id

DENY_NUMBERS = {4: LAST_RULE_NUMBER + 1, 6: LAST_RULE_NUMBER + 2}
"""What the final `*` of each family is shown as (VPC user guide, quotas: 32767 for IPv4 and 32768 for IPv6)."""


def _of_entries(value: Callable[[dict[str, Any]], Any]) -> Filter:
    """A filter on the entries as they are described, the final ones included."""
    return Filter(lambda acl: (found for entry in entries_of(acl) if (found := value(entry)) is not None))


def _of_associations(attribute: str) -> Filter:
    return Filter(lambda acl: (getattr(association, attribute) for association in acl.associations))


def _protocols(acl: NetworkAcl) -> list[str]:
    """By number and, for those that have one, by name."""
    numbers = {int(entry["Protocol"]) for entry in entries_of(acl)}
    return [text for number in numbers for text in {str(number), protocol_text(number)}]


DESCRIBE = Describe(
    NETWORK_ACL,
    "NetworkAclIds",
    {
        **TAG_KEY,
        "association.association-id": _of_associations("association_id"),
        "association.network-acl-id": _of_associations("acl_id"),
        "association.subnet-id": _of_associations("subnet_id"),
        "default": Filter(lambda acl: (acl.is_default,)),
        "entry.cidr": _of_entries(lambda entry: entry.get("CidrBlock")),
        "entry.ipv6-cidr": _of_entries(lambda entry: entry.get("Ipv6CidrBlock")),
        "entry.icmp.code": _of_entries(lambda entry: entry.get("IcmpTypeCode", {}).get("Code")),
        "entry.icmp.type": _of_entries(lambda entry: entry.get("IcmpTypeCode", {}).get("Type")),
        "entry.port-range.from": _of_entries(lambda entry: entry.get("PortRange", {}).get("From")),
        "entry.port-range.to": _of_entries(lambda entry: entry.get("PortRange", {}).get("To")),
        "entry.protocol": Filter(_protocols),
        "entry.rule-action": _of_entries(lambda entry: entry["RuleAction"]),
        "entry.egress": _of_entries(lambda entry: entry["Egress"]),
        "entry.rule-number": _of_entries(lambda entry: entry["RuleNumber"]),
        "network-acl-id": column(NetworkAcl.acl_id),
        "vpc-id": column(NetworkAcl.vpc_id),
    },
    ShownRows(NetworkAcl, "entries associations tags vpc.cidrs"),
)


class NetworkAcls(Ec2Part):
    @ec2_operation("CreateNetworkAcl", "VpcId TagSpecifications ClientToken", arns("network-acl", "vpc:VpcId"))
    def create_network_acl(self, call: Call) -> dict[str, Any]:
        tags = tags_at_creation(call, NETWORK_ACL)
        with self.state.write() as session:
            if earlier := replay(session, call):
                return _created(NETWORK_ACL.find(session, earlier["NetworkAclId"]), call)
            vpc = VPC.find(session, required(call, "VpcId"), lock=True)
            left = room(session, self.quotas.network_acls_per_vpc, NetworkAcl, NetworkAcl.vpc_id == vpc.vpc_id)
            refuse_without(left, "NetworkAclLimitExceeded", "network ACLs")
            acl = NetworkAcl(acl_id=new_id("acl"), vpc_id=vpc.vpc_id, created_ms=call.now_ms)
            session.add(acl)
            session.flush()
            put_tags(session, NETWORK_ACL, acl.acl_id, tags)
            remember(session, call, {"NetworkAclId": acl.acl_id})
            session.refresh(acl)
            return _created(acl, call)

    @ec2_operation("DescribeNetworkAcls", "NetworkAclIds Filters MaxResults NextToken", filters=DESCRIBE.names)
    def describe_network_acls(self, call: Call) -> dict[str, Any]:
        with self.state.read() as session:
            rows, more = DESCRIBE.rows(session, call)
            return {"NetworkAcls": [_describe(acl, call) for acl in rows], **more}

    @ec2_operation("DeleteNetworkAcl", "NetworkAclId", arns("network-acl:NetworkAclId"))
    def delete_network_acl(self, call: Call) -> dict[str, Any]:
        with self.state.write() as session:
            acl: NetworkAcl = NETWORK_ACL.find(session, required(call, "NetworkAclId"), lock=True)
            if acl.is_default:
                # That it is refused is documented (API DeleteNetworkAcl), its answer is not.
                raise ApiError("InvalidParameterValue", f"Cannot delete default network ACL '{acl.acl_id}'")
            if session.scalar(select(exists().where(NetworkAclAssociation.acl_id == acl.acl_id))):
                raise ApiError(
                    "DependencyViolation", f"The networkAcl '{acl.acl_id}' has dependencies and cannot be deleted."
                )
            drop_tags(session, [acl.acl_id])
            session.execute(delete(NetworkAcl).where(NetworkAcl.acl_id == acl.acl_id))
        return {}

    @ec2_operation("ReplaceNetworkAclAssociation", "AssociationId NetworkAclId", "acl_and_subnet_of_association")
    def replace_network_acl_association(self, call: Call) -> dict[str, Any]:
        """The subnet's network ACL becomes another one, by a new association; the same one changes nothing."""
        with self.state.write() as session:
            association = _association(session, required(call, "AssociationId"))
            acl: NetworkAcl = NETWORK_ACL.find(session, required(call, "NetworkAclId"), lock=True)
            earlier: NetworkAcl = NETWORK_ACL.find(session, association.acl_id)
            if earlier.vpc_id != acl.vpc_id:
                raise ApiError(  # seen, of route tables
                    "InvalidParameterValue",
                    f"network acl {acl.acl_id} and subnet {association.subnet_id} belong to different networks",
                )
            if earlier is not acl:
                association.association_id, association.acl_id = new_id("aclassoc"), acl.acl_id
                session.flush()
                agents.touch(session, agents.agents_on(session, [association.subnet_id]))
            return {"NewAssociationId": association.association_id}

    def acl_and_subnet_of_association(self, call: Call) -> list[str]:
        """ReplaceNetworkAclAssociation is authorised on the new network ACL and on the subnet, which its request does
        not name."""
        row, given = NetworkAclAssociation, call.params.get("AssociationId") or ""
        subnet = select(row.subnet_id).where(row.association_id == given)
        return [
            arn(call, NETWORK_ACL.name, call.params.get("NetworkAclId") or "*"),
            *self.arns_of(call, (SUBNET, subnet)),
        ]


def _association(session: Session, association_id: str) -> NetworkAclAssociation:
    row = session.scalar(
        select(NetworkAclAssociation).where(NetworkAclAssociation.association_id == association_id).with_for_update()
    )
    if row is None:
        raise ApiError("InvalidAssociationID.NotFound", f"The association ID '{association_id}' does not exist")
    return row


def touch(session: Session, acl: NetworkAcl) -> None:
    """Tells the agents whose interfaces the network ACL stands before."""
    agents.touch(session, agents_with_acl(session, acl.acl_id))


def _created(acl: NetworkAcl, call: Call) -> dict[str, Any]:
    token = call.params.get("ClientToken")
    return {"NetworkAcl": _describe(acl, call)} | ({"ClientToken": token} if token else {})


def _describe(acl: NetworkAcl, call: Call) -> dict[str, Any]:
    return {
        "NetworkAclId": acl.acl_id,
        "VpcId": acl.vpc_id,
        "OwnerId": call.account,
        "IsDefault": acl.is_default,
        "Associations": [
            {
                "NetworkAclAssociationId": association.association_id,
                "NetworkAclId": association.acl_id,
                "SubnetId": association.subnet_id,
            }
            for association in acl.associations
        ],
        "Entries": entries_of(acl),
        "Tags": tag_set(acl.tags),
    }


def entries_of(acl: NetworkAcl) -> list[dict[str, Any]]:
    """As described: outbound before inbound, each by number, the final `*` of each family of the VPC last."""
    families = sorted({cidr.family for cidr in acl.vpc.cidrs})
    found = []
    for egress in (True, False):
        found += [_entry(entry) for entry in acl.entries if entry.egress is egress]
        for family in families:
            last = NetworkAclEntry(
                rule_number=DENY_NUMBERS[family],
                egress=egress,
                protocol=ALL_PROTOCOLS,
                allow=False,
                cidr=firewall.EVERYWHERE[family],
            )
            found.append(_entry(last))
    return found


def _entry(entry: NetworkAclEntry) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "Ipv6CidrBlock" if ":" in entry.cidr else "CidrBlock": entry.cidr,
        "Egress": entry.egress,
        "Protocol": str(entry.protocol),
        "RuleAction": "allow" if entry.allow else "deny",
        "RuleNumber": entry.rule_number,
    }
    if entry.protocol in PORT_PROTOCOLS:
        shown["PortRange"] = {"From": entry.from_port, "To": entry.to_port}
    if entry.protocol in ICMP_PROTOCOLS:
        shown["IcmpTypeCode"] = {"Type": entry.icmp_type, "Code": entry.icmp_code}
    return shown

"""VPCs: create, describe, delete, and further CIDR blocks."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from typing import Any

from sqlalchemy import delete, exists, select
from sqlalchemy.orm import Session

from vnotch.api.ec2.addresses import invalid_range, ipv4_cidr, ipv6_cidr, local_ipv6_block
from vnotch.api.ec2.filters import TAG_KEY, Filter, column, constant
from vnotch.api.ec2.part import VPC, Describe, Ec2Part, arns, ec2_operation, invalid_value, required, tag_set
from vnotch.api.ec2.tags import drop_tags, put_tags, tags_at_creation
from vnotch.api.service import ApiError, Call
from vnotch.store import agents, firewall, network, routing
from vnotch.store.state import new_id

CIDRS_MAX = 5
"""IPv4 blocks of a VPC, and IPv6 blocks (VPC user guide, quotas)."""

IPV6_LENGTHS = range(44, 61, 4)
DHCP_OPTIONS = "default"
"""The DHCP options id of a VPC that has no options of its own (API Vpc)."""


def _cidrs(family: int, attribute: str) -> Filter:
    return Filter(lambda vpc: (getattr(cidr, attribute) for cidr in vpc.cidrs_of(family)))


DESCRIBE = Describe(
    VPC,
    "VpcIds",
    {
        **TAG_KEY,
        "cidr": Filter(lambda vpc: (vpc.cidrs_of(4)[0].cidr,)),
        "cidr-block-association.cidr-block": _cidrs(4, "cidr"),
        "cidr-block-association.association-id": _cidrs(4, "association_id"),
        "cidr-block-association.state": constant("associated"),
        "dhcp-options-id": constant(DHCP_OPTIONS),
        "ipv6-cidr-block-association.ipv6-cidr-block": _cidrs(6, "cidr"),
        "ipv6-cidr-block-association.association-id": _cidrs(6, "association_id"),
        "ipv6-cidr-block-association.state": Filter(lambda vpc: ("associated" for _ in vpc.cidrs_of(6))),
        "is-default": constant(False),
        "isDefault": constant(False),
        "state": constant("available"),
        "vpc-id": column(network.Vpc.vpc_id),
    },
)


class Vpcs(Ec2Part):
    @ec2_operation(
        "CreateVpc",
        "CidrBlock AmazonProvidedIpv6CidrBlock Ipv6CidrBlock InstanceTenancy TagSpecifications",
        arns("vpc"),
    )
    def create_vpc(self, call: Call) -> dict[str, Any]:
        block = ipv4_cidr(required(call, "CidrBlock"), "InvalidVpc.Range")
        if (tenancy := call.params.get("InstanceTenancy") or "default") != "default":
            raise invalid_value(tenancy, "instanceTenancy", "vnotch has the tenancy default only.")
        tags = tags_at_creation(self, call, VPC)
        with self.state.write() as session:
            vpc = network.Vpc(vpc_id=new_id("vpc"), created_ms=call.now_ms)
            vpc.cidrs.append(_association(block))
            if (ipv6 := _ipv6_block(session, call)) is not None:
                vpc.cidrs.append(_association(ipv6))
            session.add(vpc)
            session.flush()
            firewall.make_defaults(session, vpc, call.now_ms)
            routing.make_main(session, vpc.vpc_id, call.now_ms)
            put_tags(session, VPC, vpc.vpc_id, tags)
            session.refresh(vpc)
            return {"Vpc": {**_describe(vpc, call), "State": "pending"}}

    @ec2_operation("DescribeVpcs", "VpcIds Filters MaxResults NextToken")
    def describe_vpcs(self, call: Call) -> dict[str, Any]:
        with self.state.read() as session:
            rows, more = DESCRIBE.rows(session, call)
            return {"Vpcs": [_describe(vpc, call) for vpc in rows], **more}

    @ec2_operation("DeleteVpc", "VpcId", arns("vpc:VpcId"))
    def delete_vpc(self, call: Call) -> dict[str, Any]:
        with self.state.write() as session:
            vpc = VPC.find(session, required(call, "VpcId"), lock=True)
            if _in_use(session, vpc.vpc_id):
                raise ApiError("DependencyViolation", f"The vpc '{vpc.vpc_id}' has dependencies and cannot be deleted.")
            made_with_it = [*firewall.default_ids(session, vpc.vpc_id), *routing.table_ids(session, vpc.vpc_id)]
            drop_tags(session, [vpc.vpc_id, *made_with_it])
            session.execute(delete(network.Vpc).where(network.Vpc.vpc_id == vpc.vpc_id))
        return {}

    @ec2_operation(
        "AssociateVpcCidrBlock", "VpcId CidrBlock AmazonProvidedIpv6CidrBlock Ipv6CidrBlock", arns("vpc:VpcId")
    )
    def associate_vpc_cidr_block(self, call: Call) -> dict[str, Any]:
        """One IPv4 or one IPv6 block. The datapath learns it: the VPC's blocks are in the agents' configuration."""
        with self.state.write() as session:
            vpc = VPC.find(session, required(call, "VpcId"), lock=True)
            ipv6 = _ipv6_block(session, call)
            if (ipv6 is None) == (call.params.get("CidrBlock") is None):
                raise ApiError(
                    "InvalidParameterCombination",
                    "Exactly one of CidrBlock, Ipv6CidrBlock and AmazonProvidedIpv6CidrBlock must be given",
                )
            block = ipv6 or ipv4_cidr(call.params["CidrBlock"], "InvalidVpc.Range")
            family = vpc.cidrs_of(block.version)
            if len(family) >= CIDRS_MAX:
                raise ApiError(
                    "CidrLimitExceeded",
                    f"This network '{vpc.vpc_id}' has met its maximum number of allowed CIDRs: {CIDRS_MAX}",
                )
            if any(block.overlaps(type(block)(cidr.cidr)) for cidr in family):
                raise ApiError("InvalidVpc.Range", f"The CIDR '{block}' conflicts with another CIDR block of the VPC.")
            association = _association(block)
            vpc.cidrs.append(association)
            if block.version == 6 and not family:
                firewall.add_ipv6_defaults(session, vpc.vpc_id)
            agents.touch(session, agents.agents_on(session, [vpc.vpc_id]))
            member = "CidrBlockAssociation" if block.version == 4 else "Ipv6CidrBlockAssociation"
            return {"VpcId": vpc.vpc_id, member: _describe_cidr(association, self.region, "associating")}


def _in_use(session: Session, vpc_id: str) -> bool:
    """By a subnet, an internet gateway, or a security group, network ACL or route table beside those that the VPC was
    made with, which go with it (API DeleteVpc)."""
    group, acl = firewall.SecurityGroup, firewall.NetworkAcl
    main = routing.main_association(session, vpc_id).route_table_id
    return bool(
        session.scalar(
            select(
                exists().where(network.Subnet.vpc_id == vpc_id)
                | exists().where(group.vpc_id == vpc_id, ~group.is_default)
                | exists().where(acl.vpc_id == vpc_id, ~acl.is_default)
                | exists().where(routing.InternetGateway.vpc_id == vpc_id)
                | exists().where(routing.RouteTable.vpc_id == vpc_id, routing.RouteTable.route_table_id != main)
            )
        )
    )


def _association(block: IPv4Network | IPv6Network) -> network.VpcCidr:
    return network.VpcCidr(association_id=new_id("vpc-cidr-assoc"), family=block.version, cidr=str(block))


def _ipv6_block(session: Session, call: Call) -> IPv6Network | None:
    """The IPv6 block that the call asks for: given, or one of our own in place of Amazon's."""
    given = call.params.get("Ipv6CidrBlock")
    if given and call.params.get("AmazonProvidedIpv6CidrBlock"):
        raise ApiError(
            "InvalidParameterCombination",
            "The parameter AmazonProvidedIpv6CidrBlock cannot be used with the parameter Ipv6CidrBlock",
        )
    if given:
        return ipv6_cidr(given, IPV6_LENGTHS, "InvalidVpc.Range")
    if not call.params.get("AmazonProvidedIpv6CidrBlock"):
        return None
    taken = [IPv6Network(cidr) for cidr in session.scalars(select(network.VpcCidr.cidr).filter_by(family=6))]
    for _ in range(100):
        block = local_ipv6_block()
        if not any(block.overlaps(other) for other in taken):
            return block
    raise invalid_range(block, "InvalidVpc.Range")


def _describe(vpc: network.Vpc, call: Call) -> dict[str, Any]:
    return {
        "VpcId": vpc.vpc_id,
        "OwnerId": call.account,
        "State": "available",
        "CidrBlock": vpc.cidrs_of(4)[0].cidr,
        "CidrBlockAssociationSet": [_describe_cidr(cidr, call.region) for cidr in vpc.cidrs_of(4)],
        "Ipv6CidrBlockAssociationSet": [_describe_cidr(cidr, call.region) for cidr in vpc.cidrs_of(6)],
        "InstanceTenancy": "default",
        "IsDefault": False,
        "DhcpOptionsId": DHCP_OPTIONS,
        "Tags": tag_set(vpc.tags),
    }


def _describe_cidr(cidr: network.VpcCidr, region: str, state: str = "associated") -> dict[str, Any]:
    if cidr.family == 4:
        return {"AssociationId": cidr.association_id, "CidrBlock": cidr.cidr, "CidrBlockState": {"State": state}}
    return {
        "AssociationId": cidr.association_id,
        "Ipv6CidrBlock": cidr.cidr,
        "Ipv6CidrBlockState": {"State": state},
        "NetworkBorderGroup": region,
        "Ipv6Pool": "Amazon",
        "Ipv6AddressAttribute": "private" if IPv6Network(cidr.cidr).is_private else "public",
        "IpSource": "amazon",
    }

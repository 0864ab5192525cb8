"""VPCs: create, describe, delete."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from sqlalchemy import delete, exists, select
from sqlalchemy.orm import Session

from vnotch.api.ec2.addresses import ipv4_cidr
from vnotch.api.ec2.filters import TAG_KEY, Filter, column, constant
from vnotch.api.ec2.part import VPC, Describe, Ec2Part, arns, ec2_operation, required, tag_set
from vnotch.api.ec2.room import refuse_without, room
from vnotch.api.ec2.tags import drop_tags, put_tags, tags_at_creation
from vnotch.api.ec2.vpc_cidrs import IPV6_POOL, asked_ipv6_block, cidr_association, describe_cidr
from vnotch.api.service import ApiError, Call
from vnotch.store import firewall, network, routing
from vnotch.store.shown_rows import ShownRows
from vnotch.store.state import new_id

DHCP_OPTIONS = "default"
"""The DHCP options id of a VPC that has no options of its own (API Vpc)."""

TENANCY = "default"


def _cidrs(family: int, attribute: str) -> Filter:
    return Filter(lambda vpc: (getattr(cidr, attribute) for cidr in vpc.cidrs_of(family)))


_IS_DEFAULT = Filter(lambda vpc: (vpc.is_default,))

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
        "ipv6-cidr-block-association.ipv6-pool": Filter(lambda vpc: (IPV6_POOL for _ in vpc.cidrs_of(6))),
        "is-default": _IS_DEFAULT,
        "isDefault": _IS_DEFAULT,
        "state": constant("available"),
        "vpc-id": column(network.Vpc.vpc_id),
    },
    ShownRows(network.Vpc, "cidrs tags"),
)


class Vpcs(Ec2Part):
    @ec2_operation(
        "CreateVpc",
        "CidrBlock AmazonProvidedIpv6CidrBlock Ipv6CidrBlock InstanceTenancy TagSpecifications",
        arns("vpc"),
        only={"InstanceTenancy": (TENANCY,)},
    )
    def create_vpc(self, call: Call) -> dict[str, Any]:
        block = ipv4_cidr(required(call, "CidrBlock"), "InvalidVpc.Range")
        tags = tags_at_creation(call, VPC)
        with self.state.write() as session:
            ipv6 = asked_ipv6_block(session, call)
            self.refuse_more_vpcs(session)
            vpc = new_vpc(session, [block, *([ipv6] if ipv6 else [])], call.now_ms)
            put_tags(session, VPC, vpc.vpc_id, tags)
            session.refresh(vpc)
            return {"Vpc": {**describe_vpc(vpc, call), "State": "pending"}}

    def refuse_more_vpcs(self, session: Session) -> None:
        refuse_without(room(session, self.quotas.vpcs, network.Vpc), "VpcLimitExceeded", "VPCs")

    @ec2_operation("DescribeVpcs", "VpcIds Filters MaxResults NextToken", filters=DESCRIBE.names)
    def describe_vpcs(self, call: Call) -> dict[str, Any]:
        with self.state.read() as session:
            rows, more = DESCRIBE.rows(session, call)
            return {"Vpcs": [describe_vpc(vpc, call) for vpc in rows], **more}

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


def new_vpc(
    session: Session, blocks: Sequence[IPv4Network | IPv6Network], now_ms: int, is_default: bool = False
) -> network.Vpc:
    """With what every VPC has: the default security group, network ACL and main route table."""
    vpc = network.Vpc(vpc_id=new_id("vpc"), created_ms=now_ms, is_default=is_default)
    vpc.cidrs = [cidr_association(block) for block in blocks]
    session.add(vpc)
    session.flush()
    firewall.make_defaults(session, vpc, now_ms)
    routing.make_main(session, vpc.vpc_id, now_ms)
    return vpc


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


def describe_vpc(vpc: network.Vpc, call: Call) -> dict[str, Any]:
    return {
        "VpcId": vpc.vpc_id,
        "OwnerId": call.account,
        "State": "available",
        "CidrBlock": vpc.cidrs_of(4)[0].cidr,
        "CidrBlockAssociationSet": [describe_cidr(cidr, call.region) for cidr in vpc.cidrs_of(4)],
        "Ipv6CidrBlockAssociationSet": [describe_cidr(cidr, call.region) for cidr in vpc.cidrs_of(6)],
        "InstanceTenancy": TENANCY,
        "IsDefault": vpc.is_default,
        "DhcpOptionsId": DHCP_OPTIONS,
        "Tags": tag_set(vpc.tags),
    }

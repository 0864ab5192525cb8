"""Attributes of VPCs and subnets that clients set and read back.

The DNS attributes of a VPC are kept and shown; vnotch runs no DNS server that would go by them. A subnet's
AssignIpv6AddressOnCreation is kept by CreateNetworkInterface, its MapPublicIpOnLaunch by RunInstances. Every other
attribute of a subnet asks for something that is not there and is refused unless it asks for what is so already.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from vnotch.api.ec2.addresses import ipv6_cidr
from vnotch.api.ec2.part import SUBNET, VPC, Ec2Part, arns, ec2_operation, invalid_value, only_attribute, required
from vnotch.api.ec2.subnets import IPV6_LENGTHS, check_place, ipv6_associations
from vnotch.api.service import ApiError, Call
from vnotch.store import agents, network
from vnotch.store.state import new_id

VPC_ATTRIBUTES = {
    "enableDnsSupport": ("EnableDnsSupport", network.Vpc.dns_support.key),
    "enableDnsHostnames": ("EnableDnsHostnames", network.Vpc.dns_hostnames.key),
    "enableNetworkAddressUsageMetrics": ("EnableNetworkAddressUsageMetrics", network.Vpc.address_usage_metrics.key),
}
"""The name of an attribute in DescribeVpcAttribute -> its member and its column."""

_ALWAYS_OFF = ("MapCustomerOwnedIpOnLaunch", "EnableDns64")
_SUBNET_ATTRIBUTES = ("AssignIpv6AddressOnCreation", "MapPublicIpOnLaunch", *_ALWAYS_OFF)


class VpcAttributes(Ec2Part):
    @ec2_operation("DescribeVpcAttribute", "VpcId Attribute", arns("vpc:VpcId"))
    def describe_vpc_attribute(self, call: Call) -> dict[str, Any]:
        name = required(call, "Attribute")
        if name not in VPC_ATTRIBUTES:
            raise invalid_value(name, "attribute", f"It is one of {', '.join(VPC_ATTRIBUTES)}.")
        member, column = VPC_ATTRIBUTES[name]
        with self.state.read() as session:
            vpc = VPC.find(session, required(call, "VpcId"))
            return {"VpcId": vpc.vpc_id, member: {"Value": getattr(vpc, column)}}

    @ec2_operation(
        "ModifyVpcAttribute",
        "VpcId EnableDnsSupport EnableDnsHostnames EnableNetworkAddressUsageMetrics",
        arns("vpc:VpcId"),
    )
    def modify_vpc_attribute(self, call: Call) -> dict[str, Any]:
        """One attribute a call (API ModifyVpcAttribute)."""
        member = only_attribute(call, (member for member, _ in VPC_ATTRIBUTES.values()))
        column = dict(VPC_ATTRIBUTES.values())[member]
        with self.state.write() as session:
            vpc = VPC.find(session, required(call, "VpcId"), lock=True)
            setattr(vpc, column, bool(call.params[member].get("Value")))
        return {}

    @ec2_operation(
        "ModifySubnetAttribute",
        " ".join(("SubnetId", *_SUBNET_ATTRIBUTES)),
        arns("subnet:SubnetId"),
        only={f"{member}.Value": (False,) for member in _ALWAYS_OFF},
    )
    def modify_subnet_attribute(self, call: Call) -> dict[str, Any]:
        """One attribute a call (API ModifySubnetAttribute)."""
        member = only_attribute(call, _SUBNET_ATTRIBUTES)
        value = bool(call.params[member].get("Value"))
        with self.state.write() as session:
            subnet = SUBNET.find(session, required(call, "SubnetId"), lock=True)
            if member == "AssignIpv6AddressOnCreation":
                if value and subnet.ipv6_cidr is None:
                    raise ApiError(  # memory
                        "InvalidParameterValue",
                        f"The subnet '{subnet.subnet_id}' has no IPv6 CIDR block to assign addresses from",
                    )
                subnet.gives_ipv6 = value
            if member == "MapPublicIpOnLaunch":
                subnet.maps_public = value
        return {}

    @ec2_operation("AssociateSubnetCidrBlock", "SubnetId Ipv6CidrBlock", arns("subnet:SubnetId"))
    def associate_subnet_cidr_block(self, call: Call) -> dict[str, Any]:
        block = ipv6_cidr(required(call, "Ipv6CidrBlock"), IPV6_LENGTHS, "InvalidSubnet.Range")
        with self.state.write() as session:
            subnet = SUBNET.find(session, required(call, "SubnetId"), lock=True)
            vpc = VPC.find(session, subnet.vpc_id, lock=True)
            if subnet.ipv6_cidr is not None:
                raise ApiError(  # memory
                    "InvalidParameterValue", f"The subnet '{subnet.subnet_id}' already has an IPv6 CIDR block"
                )
            check_place(block, vpc, _ipv6_siblings(session, vpc.vpc_id))
            subnet.ipv6_cidr, subnet.ipv6_association_id = str(block), new_id("subnet-cidr-assoc")
            agents.touch(session, agents.agents_on(session, [subnet.subnet_id]))
            return _association(subnet, "associating")

    @ec2_operation("DisassociateSubnetCidrBlock", "AssociationId", "subnet_of_association")
    def disassociate_subnet_cidr_block(self, call: Call) -> dict[str, Any]:
        association_id = required(call, "AssociationId")
        with self.state.write() as session:
            row = network.Subnet
            subnet = session.scalar(select(row).where(row.ipv6_association_id == association_id).with_for_update())
            if subnet is None:
                raise ApiError(
                    "InvalidSubnetCidrBlockAssociationID.NotFound",
                    f"The subnet CIDR block association ID '{association_id}' does not exist",
                )
            address = network.Address
            if session.scalar(select(address.number).filter_by(subnet_id=subnet.subnet_id, family=6).limit(1)):
                raise ApiError(
                    "InvalidCidrBlock.InUse",
                    f"The subnet {subnet.subnet_id} has interfaces with addresses within {subnet.ipv6_cidr}",
                )
            answer = _association(subnet, "disassociating")
            subnet.ipv6_cidr, subnet.ipv6_association_id, subnet.gives_ipv6 = None, None, False
            agents.touch(session, agents.agents_on(session, [subnet.subnet_id]))
            return answer

    def subnet_of_association(self, call: Call) -> list[str]:
        """DisassociateSubnetCidrBlock is authorised on the subnet, which its request does not name."""
        row, given = network.Subnet, call.params.get("AssociationId") or ""
        return self.arns_of(call, (SUBNET, select(row.subnet_id).where(row.ipv6_association_id == given)))


def _ipv6_siblings(session: Session, vpc_id: str) -> list[str]:
    row = network.Subnet
    return [cidr for cidr in session.scalars(select(row.ipv6_cidr).where(row.vpc_id == vpc_id)) if cidr]


def _association(subnet: network.Subnet, state: str) -> dict[str, Any]:
    association = ipv6_associations(subnet)[0]
    return {
        "SubnetId": subnet.subnet_id,
        "Ipv6CidrBlockAssociation": {**association, "Ipv6CidrBlockState": {"State": state}},
    }

"""The CIDR blocks of VPCs: associate, disassociate.

Texts are those that users have published, unless a comment says otherwise.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from vnotch.api.ec2.addresses import invalid_range, ipv4_cidr, ipv6_cidr, local_ipv6_block
from vnotch.api.ec2.part import VPC, Ec2Part, arns, ec2_operation, required
from vnotch.api.service import ApiError, Call
from vnotch.store import agents, firewall, network
from vnotch.store.state import new_id

IPV6_POOL = "Amazon"
CIDRS_MAX = 5
"""IPv4 blocks of a VPC, and IPv6 blocks (VPC user guide, quotas)."""

IPV6_LENGTHS = range(44, 61, 4)


class VpcCidrs(Ec2Part):
    @ec2_operation(
        "AssociateVpcCidrBlock", "VpcId CidrBlock AmazonProvidedIpv6CidrBlock Ipv6CidrBlock", arns("vpc:VpcId")
    )
    def associate_vpc_cidr_block(self, call: Call) -> dict[str, Any]:
        """One IPv4 or one IPv6 block. The datapath learns it: the VPC's blocks are in the agents' configuration."""
        with self.state.write() as session:
            vpc = VPC.find(session, required(call, "VpcId"), lock=True)
            ipv6 = asked_ipv6_block(session, call)
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
            association = cidr_association(block)
            vpc.cidrs.append(association)
            if block.version == 6 and not family:
                firewall.add_ipv6_defaults(session, vpc.vpc_id)
            agents.touch(session, agents.agents_on(session, [vpc.vpc_id]))
            member = "CidrBlockAssociation" if block.version == 4 else "Ipv6CidrBlockAssociation"
            return {"VpcId": vpc.vpc_id, member: describe_cidr(association, self.region, "associating")}

    @ec2_operation("DisassociateVpcCidrBlock", "AssociationId", "vpc_of_association")
    def disassociate_vpc_cidr_block(self, call: Call) -> dict[str, Any]:
        """Of any block but the first, once no subnet is in it."""
        association_id = required(call, "AssociationId")
        with self.state.write() as session:
            row = network.VpcCidr
            association = session.scalar(select(row).where(row.association_id == association_id).with_for_update())
            if association is None:
                raise ApiError(
                    "InvalidVpcCidrBlockAssociationID.NotFound",
                    f"The vpc CIDR block association ID '{association_id}' does not exist",
                )
            vpc = VPC.find(session, association.vpc_id, lock=True)
            if association is vpc.cidrs_of(4)[0]:
                raise ApiError(
                    "OperationNotPermitted",
                    f"The vpc CIDR block with association ID {association_id} may not be disassociated. It is the "
                    "primary IPv4 CIDR block of the VPC",
                )
            if _has_subnet(session, vpc, association):
                raise ApiError(
                    "InvalidCidrBlock.InUse",
                    f"The vpc {vpc.vpc_id} currently has a subnet within CIDR block {association.cidr}",
                )
            member = "CidrBlockAssociation" if association.family == 4 else "Ipv6CidrBlockAssociation"
            answer = {"VpcId": vpc.vpc_id, member: describe_cidr(association, self.region, "disassociating")}
            vpc.cidrs.remove(association)
            agents.touch(session, agents.agents_on(session, [vpc.vpc_id]))
            return answer

    def vpc_of_association(self, call: Call) -> list[str]:
        """DisassociateVpcCidrBlock is authorised on the VPC, which its request does not name."""
        row, given = network.VpcCidr, call.params.get("AssociationId") or ""
        return self.arns_of(call, (VPC, select(row.vpc_id).where(row.association_id == given)))


def _has_subnet(session: Session, vpc: network.Vpc, association: network.VpcCidr) -> bool:
    kind: Any = IPv4Network if association.family == 4 else IPv6Network
    subnets = session.scalars(select(network.Subnet).where(network.Subnet.vpc_id == vpc.vpc_id))
    blocks = (subnet.cidr if association.family == 4 else subnet.ipv6_cidr for subnet in subnets)
    return any(kind(block).subnet_of(kind(association.cidr)) for block in blocks if block)


def cidr_association(block: IPv4Network | IPv6Network) -> network.VpcCidr:
    return network.VpcCidr(association_id=new_id("vpc-cidr-assoc"), family=block.version, cidr=str(block))


def asked_ipv6_block(session: Session, call: Call) -> IPv6Network | None:
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


def describe_cidr(cidr: network.VpcCidr, region: str, state: str = "associated") -> dict[str, Any]:
    if cidr.family == 4:
        return {"AssociationId": cidr.association_id, "CidrBlock": cidr.cidr, "CidrBlockState": {"State": state}}
    return {
        "AssociationId": cidr.association_id,
        "Ipv6CidrBlock": cidr.cidr,
        "Ipv6CidrBlockState": {"State": state},
        "NetworkBorderGroup": region,
        "Ipv6Pool": IPV6_POOL,
        "Ipv6AddressAttribute": "private" if IPv6Network(cidr.cidr).is_private else "public",
        "IpSource": "amazon",
    }

"""The default VPC and its default subnets, as AWS makes them (VPC user guide, "Default VPC components").

172.31.0.0/16; a /20 in each zone; an internet gateway and a route to it. IAM does not apply to the parts: whoever may
call CreateDefaultVpc gets all of them. Their subnets map public addresses on launch.
"""

from __future__ import annotations

from ipaddress import IPv4Network
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from vnotch.api.ec2.internet_gateways import InternetGateways
from vnotch.api.ec2.part import ec2_operation, required
from vnotch.api.ec2.subnets import Subnets, asked_zone, describe_subnet, new_subnet
from vnotch.api.ec2.vpcs import Vpcs, describe_vpc, new_vpc
from vnotch.api.ec2.zone_ids import zones_of
from vnotch.api.service import ApiError, Call
from vnotch.store import network, routing
from vnotch.store.state import new_id

BLOCK = IPv4Network("172.31.0.0/16")
SUBNET_LENGTH = 20
EVERYWHERE = "0.0.0.0/0"


class DefaultVpc(Vpcs, Subnets, InternetGateways):
    @ec2_operation("CreateDefaultVpc", "")
    def create_default_vpc(self, call: Call) -> dict[str, Any]:
        with self.state.write() as session:
            if session.scalar(select(network.Vpc).where(network.Vpc.is_default)) is not None:
                raise ApiError(
                    "DefaultVpcAlreadyExists", "A Default VPC already exists for this account in this region."
                )
            self.refuse_more_vpcs(session)
            self.refuse_more_gateways(session)
            vpc = new_vpc(session, [BLOCK], call.now_ms, is_default=True)
            for zone, block in zip(zones_of(self.region), BLOCK.subnets(new_prefix=SUBNET_LENGTH), strict=False):
                new_subnet(session, vpc, block, None, zone, call.now_ms, default_for_zone=True)
            _open_to_the_internet(session, vpc, call.now_ms)
            session.refresh(vpc)
            return {"Vpc": {**describe_vpc(vpc, call), "State": "pending"}}

    @ec2_operation("CreateDefaultSubnet", "AvailabilityZone AvailabilityZoneId")
    def create_default_subnet(self, call: Call) -> dict[str, Any]:
        if not call.params.get("AvailabilityZoneId"):
            required(call, "AvailabilityZone")
        zone = asked_zone(self.region, call)
        with self.state.write() as session:
            vpc = session.scalar(select(network.Vpc).where(network.Vpc.is_default).with_for_update())
            if vpc is None:
                raise ApiError("DefaultVpcDoesNotExist", "No default VPC exists for this account in this region.")
            self.refuse_more_subnets(session, vpc)
            row = network.Subnet
            subnets = list(session.scalars(select(row).where(row.vpc_id == vpc.vpc_id)))
            if any(subnet.default_for_zone and subnet.zone == zone.name for subnet in subnets):
                raise ApiError(
                    "DefaultSubnetAlreadyExistsInAvailabilityZone",
                    f"The default subnet in availability zone '{zone.name}' already exists.",
                )
            taken = [IPv4Network(subnet.cidr) for subnet in subnets]
            free = (
                block
                for block in BLOCK.subnets(new_prefix=SUBNET_LENGTH)
                if not any(block.overlaps(other) for other in taken)
            )
            block = next(free, None)
            if block is None:
                raise ApiError(  # memory
                    "InsufficientCidrBlocks", f"The default VPC '{vpc.vpc_id}' has no free /{SUBNET_LENGTH} block"
                )
            subnet = new_subnet(session, vpc, block, None, zone, call.now_ms, default_for_zone=True)
            session.refresh(subnet)
            return {"Subnet": describe_subnet(subnet, call)}


def _open_to_the_internet(session: Session, vpc: network.Vpc, now_ms: int) -> None:
    gateway = routing.InternetGateway(gateway_id=new_id("igw"), created_ms=now_ms, vpc_id=vpc.vpc_id)
    session.add(gateway)
    table_id = routing.main_association(session, vpc.vpc_id).route_table_id
    session.add(routing.Route(route_table_id=table_id, destination=EVERYWHERE, target=gateway.gateway_id))
    session.flush()

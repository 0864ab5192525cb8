"""Internet gateways: create, attach, detach, delete, describe.

Texts are those that users have published, unless a comment says otherwise.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete, exists, select
from sqlalchemy.orm import Session

from vnotch.api.ec2.filters import TAG_KEY, Filter, column
from vnotch.api.ec2.part import (
    INTERNET_GATEWAY,
    VPC,
    Describe,
    Ec2Part,
    arns,
    ec2_operation,
    required,
    tag_set,
)
from vnotch.api.ec2.room import refuse_without, room
from vnotch.api.ec2.tags import drop_tags, put_tags, tags_at_creation
from vnotch.api.service import ApiError, Call
from vnotch.store import agents, elastic_addresses
from vnotch.store.routing import InternetGateway, NatGateway
from vnotch.store.shown_rows import ShownRows
from vnotch.store.state import new_id

ATTACHED = "available"
"""The state of an internet gateway's attachment (API InternetGatewayAttachment: "available" when attached)."""

DESCRIBE = Describe(
    INTERNET_GATEWAY,
    "InternetGatewayIds",
    {
        **TAG_KEY,
        "attachment.state": Filter(lambda gateway: (ATTACHED,) if gateway.vpc_id else ()),
        "attachment.vpc-id": column(InternetGateway.vpc_id),
        "internet-gateway-id": column(InternetGateway.gateway_id),
    },
    ShownRows(InternetGateway, "tags"),
)


class InternetGateways(Ec2Part):
    @ec2_operation("CreateInternetGateway", "TagSpecifications", arns("internet-gateway"))
    def create_internet_gateway(self, call: Call) -> dict[str, Any]:
        tags = tags_at_creation(call, INTERNET_GATEWAY)
        with self.state.write() as session:
            self.refuse_more_gateways(session)
            gateway = InternetGateway(gateway_id=new_id("igw"), created_ms=call.now_ms)
            session.add(gateway)
            session.flush()
            put_tags(session, INTERNET_GATEWAY, gateway.gateway_id, tags)
            session.refresh(gateway)
            return {"InternetGateway": _describe(gateway, call)}

    def refuse_more_gateways(self, session: Session) -> None:
        left = room(session, self.quotas.vpcs, InternetGateway)
        refuse_without(left, "InternetGatewayLimitExceeded", "internet gateways")

    @ec2_operation(
        "DescribeInternetGateways", "InternetGatewayIds Filters MaxResults NextToken", filters=DESCRIBE.names
    )
    def describe_internet_gateways(self, call: Call) -> dict[str, Any]:
        with self.state.read() as session:
            rows, more = DESCRIBE.rows(session, call)
            return {"InternetGateways": [_describe(gateway, call) for gateway in rows], **more}

    @ec2_operation(
        "AttachInternetGateway", "InternetGatewayId VpcId", arns("internet-gateway:InternetGatewayId", "vpc:VpcId")
    )
    def attach_internet_gateway(self, call: Call) -> dict[str, Any]:
        """A gateway has one VPC and a VPC one gateway."""
        with self.state.write() as session:
            gateway: InternetGateway = INTERNET_GATEWAY.find(session, required(call, "InternetGatewayId"), lock=True)
            vpc = VPC.find(session, required(call, "VpcId"), lock=True)
            if gateway.vpc_id is not None:
                raise ApiError(
                    "Resource.AlreadyAssociated",
                    f"resource {gateway.gateway_id} is already attached to network {gateway.vpc_id}",
                )
            if session.scalar(select(exists().where(InternetGateway.vpc_id == vpc.vpc_id))):
                raise ApiError(
                    "InvalidParameterValue", f"Network {vpc.vpc_id} already has an internet gateway attached"
                )
            gateway.vpc_id = vpc.vpc_id
            agents.touch(session, agents.agents_on(session, [vpc.vpc_id]))
        return {}

    @ec2_operation(
        "DetachInternetGateway", "InternetGatewayId VpcId", arns("internet-gateway:InternetGatewayId", "vpc:VpcId")
    )
    def detach_internet_gateway(self, call: Call) -> dict[str, Any]:
        """Routes to it stay and lead nowhere. A public NAT gateway holds it: its address is mapped there."""
        with self.state.write() as session:
            gateway: InternetGateway = INTERNET_GATEWAY.find(session, required(call, "InternetGatewayId"), lock=True)
            vpc = VPC.find(session, required(call, "VpcId"), lock=True)
            if gateway.vpc_id != vpc.vpc_id:
                raise ApiError(
                    "Gateway.NotAttached", f"resource {gateway.gateway_id} is not attached to network {vpc.vpc_id}"
                )
            if _has_public_address(session, vpc.vpc_id):
                raise ApiError(
                    "DependencyViolation",
                    f"Network {vpc.vpc_id} has some mapped public address(es). Please unmap those public address(es) "
                    "before detaching the gateway.",
                )
            gateway.vpc_id = None
            agents.touch(session, agents.agents_on(session, [vpc.vpc_id]))
        return {}

    @ec2_operation("DeleteInternetGateway", "InternetGatewayId", arns("internet-gateway:InternetGatewayId"))
    def delete_internet_gateway(self, call: Call) -> dict[str, Any]:
        with self.state.write() as session:
            gateway: InternetGateway = INTERNET_GATEWAY.find(session, required(call, "InternetGatewayId"), lock=True)
            if gateway.vpc_id is not None:
                raise ApiError(
                    "DependencyViolation",
                    f"The internetGateway '{gateway.gateway_id}' has dependencies and cannot be deleted.",
                )
            drop_tags(session, [gateway.gateway_id])
            session.execute(delete(InternetGateway).where(InternetGateway.gateway_id == gateway.gateway_id))
        return {}


def _has_public_address(session: Session, vpc_id: str) -> bool:
    if elastic_addresses.is_mapped(session, vpc_id):
        return True
    public = exists().where(NatGateway.vpc_id == vpc_id, NatGateway.connectivity_type == "public")
    return bool(session.scalar(select(public)))


def _describe(gateway: InternetGateway, call: Call) -> dict[str, Any]:
    return {
        "InternetGatewayId": gateway.gateway_id,
        "OwnerId": call.account,
        "Attachments": [{"State": ATTACHED, "VpcId": gateway.vpc_id}] if gateway.vpc_id else [],
        "Tags": tag_set(gateway.tags),
    }

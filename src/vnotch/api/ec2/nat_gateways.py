"""NAT gateways: create, describe, delete. Each has a network interface of its own, which the service holds.

A public one takes an Elastic IP address that the caller has allocated, and leaves it when it goes. A gateway is
available at once and, deleted, gone at once; what makes one fail on AWS after a while is an error of the call here.
Without an internet gateway in its VPC it is made and leads nowhere.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from vnotch.api import bindings
from vnotch.api.ec2.client_tokens import remember, replay
from vnotch.api.ec2.filters import TAG_KEY, column, constant
from vnotch.api.ec2.interfaces import delete_interface, service_interface
from vnotch.api.ec2.part import (
    ELASTIC_ADDRESS,
    NAT_GATEWAY,
    SUBNET,
    Describe,
    Ec2Part,
    arns,
    ec2_operation,
    invalid_value,
    required,
    tag_set,
    timestamp,
)
from vnotch.api.ec2.room import INTERFACE_LIMIT, refuse_without, room
from vnotch.api.ec2.tags import drop_tags, put_tags, tags_at_creation
from vnotch.api.service import ApiError, Call
from vnotch.store import agents, network
from vnotch.store.elastic_addresses import ElasticAddress
from vnotch.store.routing import NatGateway
from vnotch.store.shown_rows import ShownRows
from vnotch.store.state import new_id

CONNECTIVITY_TYPES = ("public", "private")
ZONAL = "zonal"

DESCRIBE = Describe(
    NAT_GATEWAY,
    "NatGatewayIds",
    {
        **TAG_KEY,
        "nat-gateway-id": column(NatGateway.nat_gateway_id),
        "state": constant("available"),
        "subnet-id": column(NatGateway.subnet_id),
        "vpc-id": column(NatGateway.vpc_id),
    },
    ShownRows(NatGateway, "tags interface.addresses interface.elastic_addresses"),
    filters_member="Filter",
)


class NatGateways(Ec2Part):
    @ec2_operation(
        "CreateNatGateway",
        "SubnetId AllocationId PrivateIpAddress ConnectivityType AvailabilityMode TagSpecifications ClientToken",
        arns("natgateway", "subnet:SubnetId", "elastic-ip:AllocationId"),
        only={"AvailabilityMode": (ZONAL,)},
        note="a gateway is available at once, also without an internet gateway in its VPC, and leads nowhere then",
    )
    def create_nat_gateway(self, call: Call) -> dict[str, Any]:
        kind = call.params.get("ConnectivityType") or CONNECTIVITY_TYPES[0]
        if kind not in CONNECTIVITY_TYPES:
            raise invalid_value(kind, "connectivityType", f"It is one of {', '.join(CONNECTIVITY_TYPES)}.")
        tags = tags_at_creation(call, NAT_GATEWAY)
        with self.state.write() as session:
            if earlier := replay(session, call):
                return _created(NAT_GATEWAY.find(session, earlier["NatGatewayId"]), call)
            elastic = _elastic_address(session, call, kind)
            subnet_id = required(call, "SubnetId")
            try:
                subnet = SUBNET.find(session, subnet_id, lock=True)
            except ApiError:
                raise ApiError("InvalidSubnet", f"Subnet {subnet_id} was not found") from None
            self._refuse_more(session, subnet.zone)
            refuse_without(self.room_for_interfaces(session), *INTERFACE_LIMIT)
            nat_gateway_id = new_id("nat")
            description = f"Interface for NAT Gateway {nat_gateway_id}"
            address = call.params.get("PrivateIpAddress")
            interface = service_interface(session, subnet, network.NAT_GATEWAY, description, address, call.now_ms)
            gateway = NatGateway(
                nat_gateway_id=nat_gateway_id,
                subnet_id=subnet.subnet_id,
                vpc_id=subnet.vpc_id,
                interface_id=interface.interface_id,
                connectivity_type=kind,
                created_ms=call.now_ms,
            )
            session.add(gateway)
            if elastic is not None:
                elastic.associate(interface.interface_id, interface.addresses_of(4)[0])
            session.flush()
            put_tags(session, NAT_GATEWAY, nat_gateway_id, tags)
            remember(session, call, {"NatGatewayId": nat_gateway_id})
            session.expire_all()
            return _created(gateway, call)

    def _refuse_more(self, session: Session, zone: str) -> None:
        quota = self.quotas.nat_gateways_per_zone
        in_zone = NatGateway.subnet_id.in_(select(network.Subnet.subnet_id).where(network.Subnet.zone == zone))
        if not room(session, quota, NatGateway, in_zone):
            text = f"Performing this operation would exceed the limit of {quota} NAT gateways"
            raise ApiError("NatGatewayLimitExceeded", text)

    @ec2_operation("DescribeNatGateways", "NatGatewayIds Filter MaxResults NextToken", filters=DESCRIBE.names)
    def describe_nat_gateways(self, call: Call) -> dict[str, Any]:
        with self.state.read() as session:
            rows, more = DESCRIBE.rows(session, call)
            return {"NatGateways": [_describe(gateway) for gateway in rows], **more}

    @ec2_operation("DeleteNatGateway", "NatGatewayId", arns("natgateway:NatGatewayId"))
    def delete_nat_gateway(self, call: Call) -> dict[str, Any]:
        """Its interface goes with it, bound or not; routes to it stay and lead nowhere (API DeleteNatGateway)."""
        with self.state.write() as session:
            gateway: NatGateway = NAT_GATEWAY.find(session, required(call, "NatGatewayId"), lock=True)
            interface = gateway.interface
            followers = agents.agents_on(session, [gateway.vpc_id])
            if interface.binding is not None:
                bindings.unbind(session, interface.interface_id)
            drop_tags(session, [gateway.nat_gateway_id])
            session.execute(delete(NatGateway).where(NatGateway.nat_gateway_id == gateway.nat_gateway_id))
            delete_interface(session, interface)
            agents.touch(session, followers)
        return {"NatGatewayId": call.params["NatGatewayId"]}


def _elastic_address(session: Session, call: Call, kind: str) -> ElasticAddress | None:
    """The one that a public gateway takes."""
    allocation_id = call.params.get("AllocationId")
    if kind != CONNECTIVITY_TYPES[0]:
        if allocation_id:
            raise ApiError(  # the rule is documented (API CreateNatGateway), the text is not
                "InvalidParameterCombination", "AllocationId cannot be specified for a private NAT gateway"
            )
        return None
    row: ElasticAddress = ELASTIC_ADDRESS.find(session, required(call, "AllocationId"), lock=True)
    if row.association_id is not None:
        # The text is that of a gateway that fails (VPC user guide, "Troubleshoot NAT gateways").
        raise ApiError("Resource.AlreadyAssociated", f"Elastic IP address [{row.allocation_id}] is already associated")
    return row


def _created(gateway: NatGateway, call: Call) -> dict[str, Any]:
    token = call.params.get("ClientToken")
    answer = {"NatGateway": {**_describe(gateway), "State": "pending"}}
    return answer | ({"ClientToken": token} if token else {})


def _describe(gateway: NatGateway) -> dict[str, Any]:
    private_ip = gateway.interface.addresses_of(4)[0]
    elastic = gateway.interface.elastic_address(private_ip)
    public = elastic and {
        "AllocationId": elastic.allocation_id,
        "AssociationId": elastic.association_id,
        "PublicIp": elastic.public_ip,
    }
    return {
        "NatGatewayId": gateway.nat_gateway_id,
        "VpcId": gateway.vpc_id,
        "SubnetId": gateway.subnet_id,
        "State": "available",
        "CreateTime": timestamp(gateway.created_ms),
        "ConnectivityType": gateway.connectivity_type,
        "AvailabilityMode": ZONAL,
        "NatGatewayAddresses": [
            {
                "NetworkInterfaceId": gateway.interface_id,
                "PrivateIp": private_ip,
                **(public or {}),
                "IsPrimary": True,
                "Status": "succeeded",
            }
        ],
        "Tags": tag_set(gateway.tags),
    }

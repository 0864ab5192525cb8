"""A lab's way out through AWS's own calls: the internet gateway, NAT gateways, and a route table for each way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from botocore.exceptions import ClientError

from vnotch.lab.firewall_control import Tags
from vnotch.lab.topology import Eni, Topology

INTERNET, NONE = "internet", "none"


def create_nat_gateway(ec2: Any, eni: Eni, subnet_id: str, tags: Tags) -> tuple[str, str]:
    """Id and MAC address of the new gateway's network interface."""
    public = _elastic_address(ec2, eni, tags)
    answer = ec2.create_nat_gateway(
        SubnetId=subnet_id,
        AllocationId=public,
        PrivateIpAddress=str(eni.address),
        TagSpecifications=tags("natgateway", eni.name),
    )
    interface_id = answer["NatGateway"]["NatGatewayAddresses"][0]["NetworkInterfaceId"]
    [row] = ec2.describe_network_interfaces(NetworkInterfaceIds=[interface_id])["NetworkInterfaces"]
    return interface_id, row["MacAddress"]


def _elastic_address(ec2: Any, eni: Eni, tags: Tags) -> str:
    """The one that the gateway has in the lab; any where another lab of the server has the same."""
    given = {"TagSpecifications": tags("elastic-ip", eni.name)}
    try:
        return str(ec2.allocate_address(**given, Address=str(eni.public_address))["AllocationId"])
    except ClientError as error:
        if error.response["Error"]["Code"] != "InvalidAddress.NotFound":
            raise
        return str(ec2.allocate_address(**given)["AllocationId"])


def create_routes(
    ec2: Any, topology: Topology, vpc_id: str, subnets: Mapping[str, str], interfaces: Mapping[str, str], tags: Tags
) -> None:
    """The subnets' default routes. `subnets` and `interfaces` are name -> id; a subnet that has no way out keeps to the
    VPC's main route table, which has local routes only."""
    rows = ec2.describe_nat_gateways(Filter=[{"Name": "vpc-id", "Values": [vpc_id]}])["NatGateways"]
    nat_of = {row["NatGatewayAddresses"][0]["NetworkInterfaceId"]: row["NatGatewayId"] for row in rows}
    for way in dict.fromkeys(subnet.default_route for subnet in topology.subnets if subnet.default_route != NONE):
        table = ec2.create_route_table(VpcId=vpc_id, TagSpecifications=tags("route-table", way))
        table_id = table["RouteTable"]["RouteTableId"]
        if way == INTERNET:
            gateway_id = _internet_gateway(ec2, vpc_id, tags)
            ec2.create_route(RouteTableId=table_id, DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway_id)
            if topology.vpc.ipv6_cidr:
                ec2.create_route(RouteTableId=table_id, DestinationIpv6CidrBlock="::/0", GatewayId=gateway_id)
        else:
            nat_gateway_id = nat_of[interfaces[way]]
            ec2.create_route(RouteTableId=table_id, DestinationCidrBlock="0.0.0.0/0", NatGatewayId=nat_gateway_id)
        for subnet in topology.subnets:
            if subnet.default_route == way:
                ec2.associate_route_table(RouteTableId=table_id, SubnetId=subnets[subnet.name])


def _internet_gateway(ec2: Any, vpc_id: str, tags: Tags) -> str:
    made = ec2.create_internet_gateway(TagSpecifications=tags("internet-gateway", INTERNET))
    gateway_id = str(made["InternetGateway"]["InternetGatewayId"])
    ec2.attach_internet_gateway(InternetGatewayId=gateway_id, VpcId=vpc_id)
    return gateway_id

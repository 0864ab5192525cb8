"""Attributes, further blocks and the default VPC, as boto3 sees them.

Expectations are the VPC user guide's ("Default VPC components", "VPC CIDR blocks") and the API reference's pages of
each operation.
"""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError

from vnotch.api.ec2 import Ec2


@pytest.fixture
def ec2(api: Any) -> Any:
    api.serve(Ec2(api.state, api.accounts))
    return api.client("ec2", parameter_validation=False)


def code_of(call: Any, **params: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(**params)
    return str(caught.value.response["Error"]["Code"])


def vpc_of(ec2: Any, **params: Any) -> str:
    return str(ec2.create_vpc(CidrBlock="10.0.0.0/16", **params)["Vpc"]["VpcId"])


def test_the_attributes_of_a_new_vpc_are_aws_defaults(ec2: Any) -> None:
    # API ModifyVpcAttribute and VPC user guide, "DNS attributes for your VPC": support on, hostnames off.
    vpc_id = vpc_of(ec2)
    for name, member, value in (
        ("enableDnsSupport", "EnableDnsSupport", True),
        ("enableDnsHostnames", "EnableDnsHostnames", False),
        ("enableNetworkAddressUsageMetrics", "EnableNetworkAddressUsageMetrics", False),
    ):
        answer = ec2.describe_vpc_attribute(VpcId=vpc_id, Attribute=name)
        assert answer["VpcId"] == vpc_id
        assert answer[member] == {"Value": value}
    assert code_of(ec2.describe_vpc_attribute, VpcId=vpc_id, Attribute="enableMagic") == "InvalidParameterValue"


def test_an_attribute_of_a_vpc_is_kept(ec2: Any) -> None:
    vpc_id = vpc_of(ec2)
    ec2.modify_vpc_attribute(VpcId=vpc_id, EnableDnsHostnames={"Value": True})
    shown = ec2.describe_vpc_attribute(VpcId=vpc_id, Attribute="enableDnsHostnames")
    assert shown["EnableDnsHostnames"] == {"Value": True}
    assert code_of(ec2.modify_vpc_attribute, VpcId=vpc_id) == "InvalidParameterCombination"
    both = {"EnableDnsHostnames": {"Value": True}, "EnableDnsSupport": {"Value": True}}
    assert code_of(ec2.modify_vpc_attribute, VpcId=vpc_id, **both) == "InvalidParameterCombination"


def test_a_block_is_disassociated_when_no_subnet_is_in_it(ec2: Any) -> None:
    vpc_id = vpc_of(ec2)
    second = ec2.associate_vpc_cidr_block(VpcId=vpc_id, CidrBlock="10.1.0.0/16")["CidrBlockAssociation"]
    subnet_id = ec2.create_subnet(VpcId=vpc_id, CidrBlock="10.1.2.0/24")["Subnet"]["SubnetId"]
    by_id = {"AssociationId": second["AssociationId"]}
    assert code_of(ec2.disassociate_vpc_cidr_block, **by_id) == "InvalidCidrBlock.InUse"
    ec2.delete_subnet(SubnetId=subnet_id)
    answer = ec2.disassociate_vpc_cidr_block(**by_id)
    assert answer["VpcId"] == vpc_id
    assert answer["CidrBlockAssociation"] == {
        "AssociationId": second["AssociationId"],
        "CidrBlock": "10.1.0.0/16",
        "CidrBlockState": {"State": "disassociating"},
    }
    left = ec2.describe_vpcs(VpcIds=[vpc_id])["Vpcs"][0]["CidrBlockAssociationSet"]
    assert [item["CidrBlock"] for item in left] == ["10.0.0.0/16"]
    assert code_of(ec2.disassociate_vpc_cidr_block, **by_id) == "InvalidVpcCidrBlockAssociationID.NotFound"


def test_the_primary_block_stays(ec2: Any) -> None:
    # API DisassociateVpcCidrBlock: "You cannot disassociate the CIDR block with which you originally created the VPC".
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]
    first = vpc["CidrBlockAssociationSet"][0]["AssociationId"]
    assert code_of(ec2.disassociate_vpc_cidr_block, AssociationId=first) == "OperationNotPermitted"


def test_a_subnet_gets_an_ipv6_block_and_gives_it_back(ec2: Any) -> None:
    vpc_id = vpc_of(ec2, Ipv6CidrBlock="fd12:3456:789a:bc00::/56")
    subnet_id = ec2.create_subnet(VpcId=vpc_id, CidrBlock="10.0.0.0/24")["Subnet"]["SubnetId"]
    made = ec2.associate_subnet_cidr_block(SubnetId=subnet_id, Ipv6CidrBlock="fd12:3456:789a:bc01::/64")
    association = made["Ipv6CidrBlockAssociation"]
    assert (made["SubnetId"], association["Ipv6CidrBlockState"]) == (subnet_id, {"State": "associating"})
    again = {"SubnetId": subnet_id, "Ipv6CidrBlock": "fd12:3456:789a:bc02::/64"}
    assert code_of(ec2.associate_subnet_cidr_block, **again) == "InvalidParameterValue"
    interface = ec2.create_network_interface(SubnetId=subnet_id, Ipv6AddressCount=1)["NetworkInterface"]
    by_id = {"AssociationId": association["AssociationId"]}
    assert code_of(ec2.disassociate_subnet_cidr_block, **by_id) == "InvalidCidrBlock.InUse"
    ec2.delete_network_interface(NetworkInterfaceId=interface["NetworkInterfaceId"])
    ec2.disassociate_subnet_cidr_block(**by_id)
    assert ec2.describe_subnets(SubnetIds=[subnet_id])["Subnets"][0]["Ipv6CidrBlockAssociationSet"] == []


def test_a_subnets_ipv6_block_is_inside_its_vpcs_and_beside_the_others(ec2: Any) -> None:
    vpc_id = vpc_of(ec2, Ipv6CidrBlock="fd12:3456:789a:bc00::/56")
    ec2.create_subnet(VpcId=vpc_id, CidrBlock="10.0.1.0/24", Ipv6CidrBlock="fd12:3456:789a:bc01::/64")
    subnet_id = ec2.create_subnet(VpcId=vpc_id, CidrBlock="10.0.0.0/24")["Subnet"]["SubnetId"]
    call = ec2.associate_subnet_cidr_block
    assert code_of(call, SubnetId=subnet_id, Ipv6CidrBlock="fd99::/64") == "InvalidSubnet.Range"
    assert code_of(call, SubnetId=subnet_id, Ipv6CidrBlock="fd12:3456:789a:bc01::/64") == "InvalidSubnet.Conflict"


def test_interfaces_get_an_ipv6_address_where_their_subnet_gives_one(ec2: Any) -> None:
    vpc_id = vpc_of(ec2, Ipv6CidrBlock="fd12:3456:789a:bc00::/56")
    subnet_id = ec2.create_subnet(VpcId=vpc_id, CidrBlock="10.0.0.0/24", Ipv6CidrBlock="fd12:3456:789a:bc00::/64")[
        "Subnet"
    ]["SubnetId"]
    ec2.modify_subnet_attribute(SubnetId=subnet_id, AssignIpv6AddressOnCreation={"Value": True})
    assert ec2.describe_subnets(SubnetIds=[subnet_id])["Subnets"][0]["AssignIpv6AddressOnCreation"] is True
    assert len(ec2.create_network_interface(SubnetId=subnet_id)["NetworkInterface"]["Ipv6Addresses"]) == 1
    # API ModifySubnetAttribute: overridden for an interface by a count of its own, 0 included.
    none = ec2.create_network_interface(SubnetId=subnet_id, Ipv6AddressCount=0)["NetworkInterface"]
    assert none["Ipv6Addresses"] == []


@pytest.mark.parametrize("member", ["EnableDns64", "MapCustomerOwnedIpOnLaunch"])
def test_what_a_subnet_cannot_give_is_refused_and_what_is_so_already_is_taken(ec2: Any, member: str) -> None:
    subnet_id = ec2.create_subnet(VpcId=vpc_of(ec2), CidrBlock="10.0.0.0/24")["Subnet"]["SubnetId"]
    ec2.modify_subnet_attribute(SubnetId=subnet_id, **{member: {"Value": False}})
    asked = {"SubnetId": subnet_id, member: {"Value": True}}
    assert code_of(ec2.modify_subnet_attribute, **asked) == "UnsupportedOperation"


def test_the_default_vpc_has_what_awss_has(ec2: Any) -> None:
    vpc = ec2.create_default_vpc()["Vpc"]
    assert (vpc["CidrBlock"], vpc["IsDefault"]) == ("172.31.0.0/16", True)
    subnets = ec2.describe_subnets(Filters=[{"Name": "default-for-az", "Values": ["true"]}])["Subnets"]
    assert {subnet["CidrBlock"].partition("/")[2] for subnet in subnets} == {"20"}
    zones = {zone["ZoneName"] for zone in ec2.describe_availability_zones()["AvailabilityZones"]}
    assert {subnet["AvailabilityZone"] for subnet in subnets} == zones
    # API CreateDefaultSubnet shows 4091 free addresses.
    assert {subnet["AvailableIpAddressCount"] for subnet in subnets} == {4091}
    gateways = ec2.describe_internet_gateways(Filters=[{"Name": "attachment.vpc-id", "Values": [vpc["VpcId"]]}])
    gateway_id = gateways["InternetGateways"][0]["InternetGatewayId"]
    main = ec2.describe_route_tables(
        Filters=[{"Name": "vpc-id", "Values": [vpc["VpcId"]]}, {"Name": "association.main", "Values": ["true"]}]
    )["RouteTables"][0]
    assert ("0.0.0.0/0", gateway_id) in {
        (route["DestinationCidrBlock"], route.get("GatewayId")) for route in main["Routes"]
    }
    assert code_of(ec2.create_default_vpc) == "DefaultVpcAlreadyExists"
    found = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    assert [found["VpcId"] for found in found] == [vpc["VpcId"]]


def test_a_default_subnet_is_made_again_where_it_is_missing(ec2: Any) -> None:
    assert code_of(ec2.create_default_subnet, AvailabilityZone="us-east-1a") == "DefaultVpcDoesNotExist"
    ec2.create_default_vpc()
    taken = code_of(ec2.create_default_subnet, AvailabilityZone="us-east-1a")
    assert taken == "DefaultSubnetAlreadyExistsInAvailabilityZone"
    there = ec2.describe_subnets(Filters=[{"Name": "availability-zone", "Values": ["us-east-1a"]}])["Subnets"][0]
    ec2.delete_subnet(SubnetId=there["SubnetId"])
    made = ec2.create_default_subnet(AvailabilityZone="us-east-1a")["Subnet"]
    assert made["DefaultForAz"] is True
    assert made["CidrBlock"] == there["CidrBlock"]

"""Quotas on what is created: the codes of EC2's error list, and room again once something has gone.

Texts of VPCs, addresses and internet gateways are as users published them.
"""

from __future__ import annotations

from typing import Any

import pytest
from refusals import refused

from vnotch.api.ec2 import Ec2
from vnotch.api.lab_hosts import LabHosts
from vnotch.api.quotas import Quotas


@pytest.fixture
def ec2(api: Any) -> Any:
    quotas = Quotas(vpcs=2, subnets_per_vpc=2, network_interfaces=3, nat_gateways_per_zone=1)
    api.serve(Ec2(api.state, api.accounts, quotas=quotas), routes=LabHosts(api.state, api.accounts).routes())
    return api.client("ec2")


def make_subnet(ec2: Any, vpc: str, number: int, **params: Any) -> str:
    made = ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.0.{number}.0/24", **params)
    return str(made["Subnet"]["SubnetId"])


@pytest.fixture
def vpc(ec2: Any) -> str:
    return str(ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"])


def test_vpcs(ec2: Any, vpc: str) -> None:
    second = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    full = ("VpcLimitExceeded", "The maximum number of VPCs has been reached.")
    assert refused(ec2.create_vpc, CidrBlock="10.0.0.0/16") == full
    assert refused(ec2.create_default_vpc) == full, "the default VPC counts too"
    ec2.delete_vpc(VpcId=second)
    ec2.create_default_vpc()
    assert refused(ec2.create_vpc, CidrBlock="10.0.0.0/16") == full
    assert len(ec2.describe_vpcs()["Vpcs"]) == 2


def test_subnets_of_a_vpc(ec2: Any, vpc: str) -> None:
    first = make_subnet(ec2, vpc, 0)
    make_subnet(ec2, vpc, 1)
    assert refused(ec2.create_subnet, VpcId=vpc, CidrBlock="10.0.2.0/24")[0] == "SubnetLimitExceeded"
    other = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    make_subnet(ec2, other, 0)
    ec2.delete_subnet(SubnetId=first)
    make_subnet(ec2, vpc, 2)


def test_internet_gateways_are_as_many_as_vpcs(ec2: Any) -> None:
    """VPC user guide, quotas: "This quota is directly correlated to the quota on VPCs per Region"."""
    ids = [ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"] for _ in range(2)]
    full = ("InternetGatewayLimitExceeded", "The maximum number of internet gateways has been reached.")
    assert refused(ec2.create_internet_gateway) == full
    assert refused(ec2.create_default_vpc) == full, "which has one"
    ec2.delete_internet_gateway(InternetGatewayId=ids[0])
    ec2.create_internet_gateway()


def test_nat_gateways_of_a_zone(ec2: Any, vpc: str) -> None:
    here = make_subnet(ec2, vpc, 0, AvailabilityZone="us-east-1a")
    there = make_subnet(ec2, vpc, 1, AvailabilityZone="us-east-1b")
    made = ec2.create_nat_gateway(SubnetId=here, ConnectivityType="private")["NatGateway"]["NatGatewayId"]
    code, text = refused(ec2.create_nat_gateway, SubnetId=here, ConnectivityType="private")
    assert (code, text) == (
        "NatGatewayLimitExceeded",
        "Performing this operation would exceed the limit of 1 NAT gateways",
    )
    ec2.create_nat_gateway(SubnetId=there, ConnectivityType="private")
    ec2.delete_nat_gateway(NatGatewayId=made)
    ec2.create_nat_gateway(SubnetId=here, ConnectivityType="private")


def test_network_interfaces_whoever_makes_them(ec2: Any, api: Any, vpc: str) -> None:
    subnet = make_subnet(ec2, vpc, 0)
    image = ec2.describe_images(Owners=["self"])["Images"][0]["ImageId"]
    assert api.send("vnotch", b"{}", method="PUT", path="/vnotch/v1/lab-hosts/host").status_code == 200
    interface = ec2.create_network_interface(SubnetId=subnet)["NetworkInterface"]["NetworkInterfaceId"]
    launched = ec2.run_instances(ImageId=image, MinCount=1, MaxCount=5, SubnetId=subnet)["Instances"]
    assert len(launched) == 2, "as many as there is room for, MinCount at least"
    full = "NetworkInterfaceLimitExceeded"
    assert refused(ec2.create_network_interface, SubnetId=subnet)[0] == full
    assert refused(ec2.run_instances, ImageId=image, MinCount=1, MaxCount=1, SubnetId=subnet)[0] == full
    assert refused(ec2.create_nat_gateway, SubnetId=subnet, ConnectivityType="private")[0] == full
    given = [{"DeviceIndex": 0, "NetworkInterfaceId": interface}]
    ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1, NetworkInterfaces=given)


def test_a_token_repeated_at_the_quota_answers_what_it_made(ec2: Any, vpc: str) -> None:
    subnet = make_subnet(ec2, vpc, 0)
    made = [ec2.create_network_interface(SubnetId=subnet, ClientToken=f"t{number}") for number in range(3)]
    again = ec2.create_network_interface(SubnetId=subnet, ClientToken="t2")
    assert again["NetworkInterface"]["NetworkInterfaceId"] == made[2]["NetworkInterface"]["NetworkInterfaceId"]

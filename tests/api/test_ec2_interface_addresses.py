"""Private addresses of interfaces that come and go, as boto3 sees them.

Members are those of botocore's model that AWS's API reference shows in its samples of AssignPrivateIpAddresses,
UnassignPrivateIpAddresses, AssignIpv6Addresses and UnassignIpv6Addresses.
"""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network
from typing import Any

import pytest
from botocore.exceptions import ClientError

from vnotch.api.ec2 import Ec2

BLOCK6 = "fd12:3456:789a:bc00::/64"


@pytest.fixture
def ec2(api: Any) -> Any:
    api.serve(Ec2(api.state, api.accounts))
    return api.client("ec2", parameter_validation=False)


@pytest.fixture
def subnet_id(ec2: Any) -> str:
    vpc_id = ec2.create_vpc(CidrBlock="10.0.0.0/16", Ipv6CidrBlock="fd12:3456:789a:bc00::/56")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc_id, CidrBlock="10.0.0.0/24", Ipv6CidrBlock=BLOCK6)["Subnet"]
    return str(subnet["SubnetId"])


def interface_of(ec2: Any, subnet_id: str, address: str) -> str:
    made = ec2.create_network_interface(SubnetId=subnet_id, PrivateIpAddress=address)["NetworkInterface"]
    return str(made["NetworkInterfaceId"])


def addresses_of(ec2: Any, interface_id: str) -> list[str]:
    found = ec2.describe_network_interfaces(NetworkInterfaceIds=[interface_id])["NetworkInterfaces"][0]
    return [item["PrivateIpAddress"] for item in found["PrivateIpAddresses"]]


def code_of(call: Any, **params: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(**params)
    return str(caught.value.response["Error"]["Code"])


def test_a_secondary_address_that_is_unassigned_is_free_again(ec2: Any, subnet_id: str) -> None:
    one, other = interface_of(ec2, subnet_id, "10.0.0.10"), interface_of(ec2, subnet_id, "10.0.0.11")
    ec2.assign_private_ip_addresses(NetworkInterfaceId=one, PrivateIpAddresses=["10.0.0.20", "10.0.0.21"])
    ec2.unassign_private_ip_addresses(NetworkInterfaceId=one, PrivateIpAddresses=["10.0.0.20"])
    assert addresses_of(ec2, one) == ["10.0.0.10", "10.0.0.21"]
    ec2.assign_private_ip_addresses(NetworkInterfaceId=other, PrivateIpAddresses=["10.0.0.20"])
    assert addresses_of(ec2, other) == ["10.0.0.11", "10.0.0.20"]


def test_of_several_addresses_all_are_unassigned_or_none(ec2: Any, subnet_id: str) -> None:
    one = interface_of(ec2, subnet_id, "10.0.0.10")
    ec2.assign_private_ip_addresses(NetworkInterfaceId=one, PrivateIpAddresses=["10.0.0.20"])
    for wrong in ("10.0.0.99", "no address", "10.0.0.10"):
        code = code_of(
            ec2.unassign_private_ip_addresses, NetworkInterfaceId=one, PrivateIpAddresses=["10.0.0.20", wrong]
        )
        assert code == "InvalidParameterValue"
    assert addresses_of(ec2, one) == ["10.0.0.10", "10.0.0.20"]


def test_an_address_in_use_moves_only_where_reassignment_is_allowed(ec2: Any, subnet_id: str) -> None:
    one, other = interface_of(ec2, subnet_id, "10.0.0.10"), interface_of(ec2, subnet_id, "10.0.0.11")
    ec2.assign_private_ip_addresses(NetworkInterfaceId=one, PrivateIpAddresses=["10.0.0.20"])
    move = {"NetworkInterfaceId": other, "PrivateIpAddresses": ["10.0.0.20"]}
    assert code_of(ec2.assign_private_ip_addresses, **move) == "InvalidIPAddress.InUse"
    ec2.assign_private_ip_addresses(**move, AllowReassignment=True)
    assert addresses_of(ec2, one) == ["10.0.0.10"]
    assert addresses_of(ec2, other) == ["10.0.0.11", "10.0.0.20"]
    # A primary address never moves.
    primary = {"NetworkInterfaceId": other, "PrivateIpAddresses": ["10.0.0.10"], "AllowReassignment": True}
    assert code_of(ec2.assign_private_ip_addresses, **primary) == "InvalidIPAddress.InUse"


def test_ipv6_addresses_are_assigned_by_value_or_by_number(ec2: Any, subnet_id: str) -> None:
    one = interface_of(ec2, subnet_id, "10.0.0.10")
    given = ec2.assign_ipv6_addresses(NetworkInterfaceId=one, Ipv6Addresses=["fd12:3456:789a:bc00::10"])
    assert given["AssignedIpv6Addresses"] == ["fd12:3456:789a:bc00::10"]
    chosen = ec2.assign_ipv6_addresses(NetworkInterfaceId=one, Ipv6AddressCount=2)["AssignedIpv6Addresses"]
    assert len(set(chosen)) == 2
    assert all(IPv6Address(address) in IPv6Network(BLOCK6) for address in chosen)
    both = {"NetworkInterfaceId": one, "Ipv6Addresses": ["fd12:3456:789a:bc00::11"], "Ipv6AddressCount": 1}
    assert code_of(ec2.assign_ipv6_addresses, **both) == "InvalidParameterCombination"


def test_an_ipv6_address_is_unassigned_in_whatever_form_it_is_written(ec2: Any, subnet_id: str) -> None:
    one = interface_of(ec2, subnet_id, "10.0.0.10")
    ec2.assign_ipv6_addresses(NetworkInterfaceId=one, Ipv6Addresses=["fd12:3456:789a:bc00::10"])
    answer = ec2.unassign_ipv6_addresses(NetworkInterfaceId=one, Ipv6Addresses=["FD12:3456:789A:BC00:0:0:0:10"])
    assert answer["UnassignedIpv6Addresses"] == ["fd12:3456:789a:bc00::10"]
    again = {"NetworkInterfaceId": one, "Ipv6Addresses": ["fd12:3456:789a:bc00::10"]}
    assert code_of(ec2.unassign_ipv6_addresses, **again) == "InvalidParameterValue"


def test_a_subnet_without_ipv6_gives_no_ipv6_address(ec2: Any) -> None:
    vpc_id = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnet_id = ec2.create_subnet(VpcId=vpc_id, CidrBlock="10.0.0.0/24")["Subnet"]["SubnetId"]
    one = interface_of(ec2, subnet_id, "10.0.0.10")
    assert code_of(ec2.assign_ipv6_addresses, NetworkInterfaceId=one, Ipv6AddressCount=1) == "InvalidParameterValue"

"""Elastic IP addresses as boto3 sees them.

Members are those of API AllocateAddress, DescribeAddresses and AssociateAddress; texts are those that users of AWS have
published.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

import pytest
from botocore.exceptions import ClientError
from refusals import refused
from test_ec2_instances import heard, run

from vnotch.api.ec2 import Ec2
from vnotch.api.ec2.elastic_addresses import RANGE
from vnotch.api.ec2.images import IMAGE_ID
from vnotch.api.lab_hosts import LabHosts
from vnotch.api.quotas import Quotas
from vnotch.lab.topology_file import default_topology_path, load_topology

ACCOUNT, REGION = "123456789012", "us-east-1"
NO_PERMISSION = ("AuthFailure", "You do not have permission to access the specified resource.")


@pytest.fixture
def ec2(api: Any) -> Any:
    api.serve(Ec2(api.state, api.accounts), routes=LabHosts(api.state, api.accounts).routes())
    return api.client("ec2", parameter_validation=False)


@dataclass
class Place:
    """A VPC with an internet gateway, a subnet and an interface in it."""

    vpc: str
    gateway: str
    subnet: str
    interface: str


@pytest.fixture
def place(ec2: Any) -> Place:
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.0.0/24")["Subnet"]["SubnetId"]
    return Place(vpc, gateway, subnet, interface_in(ec2, subnet, PrivateIpAddress="10.0.0.10"))


def interface_in(ec2: Any, subnet: str, **params: Any) -> str:
    return str(ec2.create_network_interface(SubnetId=subnet, **params)["NetworkInterface"]["NetworkInterfaceId"])


def allocated(ec2: Any) -> str:
    return str(ec2.allocate_address()["AllocationId"])


def only(ec2: Any, allocation_id: str) -> dict[str, Any]:
    [found] = ec2.describe_addresses(AllocationIds=[allocation_id])["Addresses"]
    return dict(found)


def test_an_address_is_allocated_described_and_released(ec2: Any) -> None:
    tags = [{"ResourceType": "elastic-ip", "Tags": [{"Key": "Name", "Value": "out"}]}]
    made = ec2.allocate_address(Domain="vpc", TagSpecifications=tags)
    del made["ResponseMetadata"]
    allocation_id, public_ip = made["AllocationId"], made["PublicIp"]
    assert allocation_id.startswith("eipalloc-0")
    assert IPv4Address(public_ip) in RANGE
    assert made == {
        "AllocationId": allocation_id,
        "PublicIp": public_ip,
        "PublicIpv4Pool": "amazon",
        "NetworkBorderGroup": REGION,
        "Domain": "vpc",
    }
    assert only(ec2, allocation_id) == {**made, "Tags": [{"Key": "Name", "Value": "out"}]}
    [tag] = ec2.describe_tags(Filters=[{"Name": "resource-id", "Values": [allocation_id]}])["Tags"]
    assert tag["ResourceType"] == "elastic-ip"
    named = ec2.describe_addresses_attribute(AllocationIds=[allocation_id], Attribute="domain-name")["Addresses"]
    assert named == [{"PublicIp": public_ip, "AllocationId": allocation_id}]
    ec2.release_address(AllocationId=allocation_id)
    missing = ("InvalidAllocationID.NotFound", f"The allocation ID '{allocation_id}' does not exist")
    assert refused(ec2.describe_addresses, AllocationIds=[allocation_id]) == missing
    assert refused(ec2.release_address, AllocationId=allocation_id) == missing
    assert ec2.describe_tags()["Tags"] == []


def test_an_address_of_the_callers_network_is_taken_as_it_is_named(ec2: Any) -> None:
    assert ec2.allocate_address(Address="198.18.0.7")["PublicIp"] == "198.18.0.7"
    assert refused(ec2.allocate_address, Address="198.18.0.7")[0] == "InvalidAddress.NotFound"
    for text in ("198.18.0.300", "224.0.0.1", "127.0.0.1", "0.0.0.0", "::1"):
        assert refused(ec2.allocate_address, Address=text)[0] == "InvalidAddress.Malformed"


def test_the_range_is_that_of_the_labs_world() -> None:
    assert load_topology(default_topology_path()).public_cidr == RANGE


def test_there_are_five_of_a_region_or_as_many_as_are_set(api: Any) -> None:
    assert Quotas().elastic_addresses == 5
    api.serve(Ec2(api.state, api.accounts, quotas=Quotas(elastic_addresses=2)))
    ec2 = api.client("ec2")
    first, second = ec2.allocate_address(), ec2.allocate_address()
    assert first["PublicIp"] != second["PublicIp"]
    assert refused(ec2.allocate_address) == (
        "AddressLimitExceeded",
        "The maximum number of addresses has been reached.",
    )


def test_an_association_is_shown_by_address_and_interface(ec2: Any, place: Place) -> None:
    made = ec2.allocate_address()
    names = {"AllocationId": made["AllocationId"]}
    association_id = ec2.associate_address(**names, NetworkInterfaceId=place.interface)["AssociationId"]
    assert association_id.startswith("eipassoc-0")
    found = only(ec2, made["AllocationId"])
    assert {name: found[name] for name in found.keys() - made.keys() - {"Tags"}} == {
        "AssociationId": association_id,
        "NetworkInterfaceId": place.interface,
        "NetworkInterfaceOwnerId": ACCOUNT,
        "PrivateIpAddress": "10.0.0.10",
    }
    [interface] = ec2.describe_network_interfaces(NetworkInterfaceIds=[place.interface])["NetworkInterfaces"]
    association = {
        **names,
        "AssociationId": association_id,
        "IpOwnerId": ACCOUNT,
        "PublicDnsName": "",
        "PublicIp": made["PublicIp"],
    }
    assert interface["Association"] == interface["PrivateIpAddresses"][0]["Association"] == association
    # The same again is no error (API AssociateAddress: an idempotent operation).
    again = ec2.associate_address(**names, NetworkInterfaceId=place.interface, PrivateIpAddress="10.0.0.10")
    assert again["AssociationId"] == association_id
    assert refused(ec2.release_address, **names) == ("InvalidIPAddress.InUse", f"Address {made['PublicIp']} is in use.")
    ec2.disassociate_address(AssociationId=association_id)
    assert "AssociationId" not in only(ec2, made["AllocationId"])
    assert refused(ec2.disassociate_address, AssociationId=association_id) == (
        "InvalidAssociationID.NotFound",
        f"The association ID '{association_id}' does not exist",
    )
    ec2.release_address(**names)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("allocation-id", "{AllocationId}"),
        ("association-id", "{AssociationId}"),
        ("network-border-group", REGION),
        ("network-interface-id", "{NetworkInterfaceId}"),
        ("network-interface-owner-id", ACCOUNT),
        ("private-ip-address", "10.0.0.10"),
        ("public-ip", "{PublicIp}"),
        ("tag:Name", "one"),
        ("tag-key", "Name"),
    ],
)
def test_addresses_are_filtered(ec2: Any, place: Place, name: str, value: str) -> None:
    one, other = allocated(ec2), allocated(ec2)
    ec2.create_tags(Resources=[one], Tags=[{"Key": "Name", "Value": "one"}])
    ec2.associate_address(AllocationId=one, NetworkInterfaceId=place.interface)
    given = [{"Name": name, "Values": [value.format(**only(ec2, one))]}]
    rows = ec2.describe_addresses(Filters=given)["Addresses"]
    assert [row["AllocationId"] for row in rows] == ([one, other] if name == "network-border-group" else [one])
    public = only(ec2, other)["PublicIp"]
    assert [row["AllocationId"] for row in ec2.describe_addresses(PublicIps=[public])["Addresses"]] == [other]
    assert refused(ec2.describe_addresses, PublicIps=["192.0.2.1"]) == (
        "InvalidAddress.NotFound",
        "Address '192.0.2.1' not found.",
    )


def test_interfaces_are_filtered_by_their_association(ec2: Any, place: Place) -> None:
    interface_in(ec2, place.subnet)
    allocation_id = allocated(ec2)
    association_id = ec2.associate_address(AllocationId=allocation_id, NetworkInterfaceId=place.interface)
    for name, value in (
        ("association.allocation-id", allocation_id),
        ("association.association-id", association_id["AssociationId"]),
        ("association.public-ip", only(ec2, allocation_id)["PublicIp"]),
        ("addresses.association.public-ip", only(ec2, allocation_id)["PublicIp"]),
        ("association.ip-owner-id", ACCOUNT),
        ("addresses.association.owner-id", ACCOUNT),
    ):
        rows = ec2.describe_network_interfaces(Filters=[{"Name": name, "Values": [value]}])["NetworkInterfaces"]
        assert [row["NetworkInterfaceId"] for row in rows] == [place.interface]


def test_one_public_address_has_one_private_one(ec2: Any, place: Place) -> None:
    first, second = allocated(ec2), allocated(ec2)
    other = interface_in(ec2, place.subnet)
    associate = ec2.associate_address
    association_id = associate(AllocationId=first, NetworkInterfaceId=place.interface)["AssociationId"]
    assert refused(associate, AllocationId=first, NetworkInterfaceId=other) == (
        "Resource.AlreadyAssociated",
        f"resource {first} is already associated with associate-id {association_id}",
    )
    assert refused(associate, AllocationId=second, NetworkInterfaceId=place.interface) == (
        "Resource.AlreadyAssociated",
        f"resource {place.interface} and 10.0.0.10 is already associated with public address "
        f"{only(ec2, first)['PublicIp']}",
    )
    associate(AllocationId=second, NetworkInterfaceId=place.interface, AllowReassociation=True)
    assert "AssociationId" not in only(ec2, first)
    associate(AllocationId=second, NetworkInterfaceId=other, AllowReassociation=True)
    assert only(ec2, second)["NetworkInterfaceId"] == other


def test_a_secondary_address_has_its_own_and_loses_it_with_itself(ec2: Any, place: Place) -> None:
    ec2.assign_private_ip_addresses(NetworkInterfaceId=place.interface, PrivateIpAddresses=["10.0.0.11"])
    first, second = allocated(ec2), allocated(ec2)
    ec2.associate_address(AllocationId=first, NetworkInterfaceId=place.interface)
    ec2.associate_address(AllocationId=second, NetworkInterfaceId=place.interface, PrivateIpAddress="10.0.0.11")
    assert (
        refused(
            ec2.associate_address, AllocationId=first, NetworkInterfaceId=place.interface, PrivateIpAddress="10.0.0.12"
        )[0]
        == "InvalidParameterValue"
    )
    [interface] = ec2.describe_network_interfaces(NetworkInterfaceIds=[place.interface])["NetworkInterfaces"]
    shown = [item["Association"]["AllocationId"] for item in interface["PrivateIpAddresses"]]
    assert shown == [first, second]
    ec2.unassign_private_ip_addresses(NetworkInterfaceId=place.interface, PrivateIpAddresses=["10.0.0.11"])
    assert "AssociationId" not in only(ec2, second)
    ec2.delete_network_interface(NetworkInterfaceId=place.interface)
    assert "AssociationId" not in only(ec2, first)


def test_without_an_internet_gateway_nothing_is_mapped_and_what_is_mapped_holds_it(ec2: Any, place: Place) -> None:
    allocation_id = allocated(ec2)
    ec2.associate_address(AllocationId=allocation_id, NetworkInterfaceId=place.interface)
    attached = {"InternetGatewayId": place.gateway, "VpcId": place.vpc}
    assert refused(ec2.detach_internet_gateway, **attached)[0] == "DependencyViolation"
    ec2.disassociate_address(AssociationId=only(ec2, allocation_id)["AssociationId"])
    ec2.detach_internet_gateway(**attached)
    assert refused(ec2.associate_address, AllocationId=allocation_id, NetworkInterfaceId=place.interface) == (
        "Gateway.NotAttached",
        f"Network {place.vpc} is not attached to any internet gateway",
    )


def test_a_nat_gateways_address_comes_and_goes_with_it(ec2: Any, place: Place) -> None:
    allocation_id = allocated(ec2)
    gateway = ec2.create_nat_gateway(SubnetId=place.subnet, AllocationId=allocation_id)["NatGateway"]
    [shown] = gateway["NatGatewayAddresses"]
    found = only(ec2, allocation_id)
    assert (found["NetworkInterfaceId"], found["AssociationId"]) == (
        shown["NetworkInterfaceId"],
        shown["AssociationId"],
    )
    assert refused(ec2.create_nat_gateway, SubnetId=place.subnet, AllocationId=allocation_id) == (
        "Resource.AlreadyAssociated",
        f"Elastic IP address [{allocation_id}] is already associated",
    )
    assert refused(ec2.release_address, AllocationId=allocation_id) == NO_PERMISSION
    assert refused(ec2.disassociate_address, AssociationId=shown["AssociationId"]) == NO_PERMISSION
    other = {"AllocationId": allocated(ec2), "NetworkInterfaceId": shown["NetworkInterfaceId"]}
    assert refused(ec2.associate_address, **other) == NO_PERMISSION
    ec2.delete_nat_gateway(NatGatewayId=gateway["NatGatewayId"])
    ec2.release_address(AllocationId=allocation_id)


@pytest.mark.parametrize(
    ("operation", "params", "code", "text"),
    [
        ("allocate_address", {"Domain": "standard"}, "UnsupportedOperation", "The value standard for parameter Domain"),
        ("allocate_address", {"NetworkBorderGroup": "us-west-2"}, "InvalidParameterValue", "us-east-1"),
        (
            "release_address",
            {"PublicIp": "203.0.113.9"},
            "InvalidParameterValue",
            "You must specify an allocation id when releasing a VPC elastic IP address",
        ),
        (
            "release_address",
            {"PublicIp": "203.0.113.9", "AllocationId": "eipalloc-1"},
            "InvalidParameterCombination",
            "You may specify public IP or allocation id, but not both in the same call",
        ),
        (
            "associate_address",
            {"PublicIp": "203.0.113.9", "InstanceId": "i-1"},
            "InvalidParameterCombination",
            "You must specify an allocation id when mapping an address to a VPC instance",
        ),
        (
            "disassociate_address",
            {"PublicIp": "203.0.113.9"},
            "InvalidParameterValue",
            "You must specify an association id when unmapping an address from a VPC instance",
        ),
        ("release_address", {}, "MissingParameter", "AllocationId"),
        ("describe_addresses_attribute", {"Attribute": "name"}, "InvalidParameterValue", "Value (name)"),
    ],
)
def test_calls_that_cannot_be(ec2: Any, operation: str, params: dict[str, Any], code: str, text: str) -> None:
    found, message = refused(getattr(ec2, operation), **params)
    assert found == code
    assert text in message


def test_an_instance_has_the_address_of_its_interface_and_its_host_hears_of_it(
    api: Any, ec2: Any, place: Place
) -> None:
    heard(api)
    [launched] = run(ec2, place.subnet)
    allocation_id = allocated(ec2)
    named = {"AllocationId": allocation_id, "InstanceId": launched["InstanceId"]}
    assert heard(api)["instances"][0]["interfaces"][0]["public_ipv4"] is None
    ec2.associate_address(**named)
    public_ip = only(ec2, allocation_id)["PublicIp"]
    assert only(ec2, allocation_id)["InstanceId"] == launched["InstanceId"]
    assert heard(api)["instances"][0]["interfaces"][0]["public_ipv4"] == public_ip
    for name in ("ip-address", "network-interface.association.public-ip"):
        [reservation] = ec2.describe_instances(Filters=[{"Name": name, "Values": [public_ip]}])["Reservations"]
        [instance] = reservation["Instances"]
        assert (instance["InstanceId"], instance["PublicIpAddress"]) == (launched["InstanceId"], public_ip)
        [interface] = instance["NetworkInterfaces"]
        assert interface["Association"] == {"IpOwnerId": ACCOUNT, "PublicDnsName": "", "PublicIp": public_ip}
    assert [
        row["AllocationId"]
        for row in ec2.describe_addresses(Filters=[{"Name": "instance-id", "Values": [launched["InstanceId"]]}])[
            "Addresses"
        ]
    ] == [allocation_id]
    ec2.terminate_instances(InstanceIds=[launched["InstanceId"]])
    heard(api, {"instance_id": launched["InstanceId"], "state": "terminated"})
    assert "AssociationId" not in only(ec2, allocation_id)
    second = interface_in(ec2, place.subnet)
    both = {**named, "NetworkInterfaceId": second}
    assert refused(ec2.associate_address, **both)[0] == "InvalidParameterCombination"
    assert refused(ec2.associate_address, AllocationId=allocation_id)[0] == "MissingParameter"


def test_instances_in_a_subnet_that_maps_public_addresses_get_one(api: Any, ec2: Any, place: Place) -> None:
    """VPC user guide, "Public IPv4 addresses": an address of Amazon's pool, for as long as the instance lives."""
    heard(api)
    assert ec2.describe_subnets(SubnetIds=[place.subnet])["Subnets"][0]["MapPublicIpOnLaunch"] is False
    ec2.modify_subnet_attribute(SubnetId=place.subnet, MapPublicIpOnLaunch={"Value": True})
    mapping = [{"Name": "map-public-ip-on-launch", "Values": ["true"]}]
    assert [row["SubnetId"] for row in ec2.describe_subnets(Filters=mapping)["Subnets"]] == [place.subnet]
    first, second = run(ec2, place.subnet, MinCount=2, MaxCount=2)
    assert IPv4Address(first["PublicIpAddress"]) in RANGE
    assert first["PublicIpAddress"] != second["PublicIpAddress"]
    [interface] = first["NetworkInterfaces"]
    public = {"IpOwnerId": "amazon", "PublicDnsName": "", "PublicIp": first["PublicIpAddress"]}
    assert interface["Association"] == interface["PrivateIpAddresses"][0]["Association"] == public
    named = [{"Name": "association.ip-owner-id", "Values": ["amazon"]}]
    rows = ec2.describe_network_interfaces(Filters=named)["NetworkInterfaces"]
    assert [row["Association"] for row in rows] == [public, {**public, "PublicIp": second["PublicIpAddress"]}]
    assert heard(api)["instances"][0]["interfaces"][0]["public_ipv4"] == first["PublicIpAddress"]
    assert ec2.describe_addresses()["Addresses"] == []
    assert ec2.allocate_address()["PublicIp"] not in (first["PublicIpAddress"], second["PublicIpAddress"])
    attached = {"InternetGatewayId": place.gateway, "VpcId": place.vpc}
    assert refused(ec2.detach_internet_gateway, **attached)[0] == "DependencyViolation"
    # An Elastic IP address takes its place, and it is gone.
    allocation_id = allocated(ec2)
    ec2.associate_address(AllocationId=allocation_id, InstanceId=first["InstanceId"])
    [row] = ec2.describe_network_interfaces(NetworkInterfaceIds=[interface["NetworkInterfaceId"]])["NetworkInterfaces"]
    assert row["Association"]["AllocationId"] == allocation_id
    ec2.disassociate_address(AssociationId=row["Association"]["AssociationId"])
    [row] = ec2.describe_network_interfaces(NetworkInterfaceIds=[interface["NetworkInterfaceId"]])["NetworkInterfaces"]
    assert "Association" not in row


def test_a_launch_may_ask_for_a_public_address_or_for_none(api: Any, ec2: Any, place: Place) -> None:
    """API InstanceNetworkInterfaceSpecification, AssociatePublicIpAddress."""
    heard(api)

    def launched(*wanted: bool | None) -> dict[str, Any]:
        interfaces = [
            {"DeviceIndex": index, "SubnetId": place.subnet}
            | ({} if public is None else {"AssociatePublicIpAddress": public})
            for index, public in enumerate(wanted)
        ]
        given = {"ImageId": IMAGE_ID, "MinCount": 1, "MaxCount": 1, "NetworkInterfaces": interfaces}
        return dict(ec2.run_instances(**given)["Instances"][0])

    assert "PublicIpAddress" not in launched(None)
    assert "PublicIpAddress" in launched(True)
    ec2.modify_subnet_attribute(SubnetId=place.subnet, MapPublicIpOnLaunch={"Value": True})
    assert "PublicIpAddress" in launched(None)
    assert "PublicIpAddress" not in launched(False)
    assert "PublicIpAddress" not in launched(None, None)
    with pytest.raises(ClientError, match="multiple network interfaces"):
        launched(True, None)


def test_default_subnets_map_public_addresses(ec2: Any) -> None:
    """VPC user guide, "Default VPC components"."""
    ec2.create_default_vpc()
    assert {row["MapPublicIpOnLaunch"] for row in ec2.describe_subnets()["Subnets"]} == {True}

"""VPCs, subnets, network interfaces, tags and zones as boto3 sees them.

Expected texts are those of EC2's error list and of answers of EC2 that users have published; expected members are those
of botocore's model that AWS's documented answers show.
"""

from __future__ import annotations

import threading
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import Any

import pytest
from botocore.exceptions import ClientError

from vnotch.api.agents import Agents
from vnotch.api.ec2 import Ec2
from vnotch.api.ec2.zone_ids import abbreviation


@pytest.fixture
def ec2(api: Any) -> Any:
    api.serve(Ec2(api.state, api.accounts), routes=Agents(api.state, api.accounts).routes())
    return api.client("ec2", parameter_validation=False)


def refused(call: Any, **params: Any) -> tuple[str, str, int]:
    with pytest.raises(ClientError) as caught:
        call(**params)
    answer = caught.value.response
    return answer["Error"]["Code"], answer["Error"]["Message"], answer["ResponseMetadata"]["HTTPStatusCode"]


def vpc_of(ec2: Any, cidr: str = "10.0.0.0/16", **params: Any) -> str:
    return str(ec2.create_vpc(CidrBlock=cidr, **params)["Vpc"]["VpcId"])


def subnet_of(ec2: Any, vpc_id: str, cidr: str = "10.0.0.0/24", **params: Any) -> str:
    return str(ec2.create_subnet(VpcId=vpc_id, CidrBlock=cidr, **params)["Subnet"]["SubnetId"])


def interface_of(ec2: Any, subnet_id: str, **params: Any) -> dict[str, Any]:
    interface: dict[str, Any] = ec2.create_network_interface(SubnetId=subnet_id, **params)["NetworkInterface"]
    return interface


# --- VPCs ---


def test_a_vpc_is_created_pending_and_described_available(ec2: Any) -> None:
    vpc = ec2.create_vpc(
        CidrBlock="10.0.0.0/16",
        TagSpecifications=[{"ResourceType": "vpc", "Tags": [{"Key": "Name", "Value": "lab"}]}],
    )["Vpc"]
    assert vpc["State"] == "pending"
    association = vpc["CidrBlockAssociationSet"][0]["AssociationId"]
    assert association.startswith("vpc-cidr-assoc-")
    assert ec2.describe_vpcs(VpcIds=[vpc["VpcId"]])["Vpcs"] == [
        {
            "VpcId": vpc["VpcId"],
            "OwnerId": "123456789012",
            "State": "available",
            "CidrBlock": "10.0.0.0/16",
            "CidrBlockAssociationSet": [
                {"AssociationId": association, "CidrBlock": "10.0.0.0/16", "CidrBlockState": {"State": "associated"}}
            ],
            "Ipv6CidrBlockAssociationSet": [],
            "InstanceTenancy": "default",
            "IsDefault": False,
            "DhcpOptionsId": "default",
            "Tags": [{"Key": "Name", "Value": "lab"}],
        }
    ]


def test_host_bits_of_a_vpcs_block_are_cleared(ec2: Any) -> None:
    # API CreateVpc: "if you specify 100.68.0.18/18, we modify it to 100.68.0.0/18".
    assert ec2.create_vpc(CidrBlock="100.68.0.18/18")["Vpc"]["CidrBlock"] == "100.68.0.0/18"


@pytest.mark.parametrize("cidr", ["10.0.0.0/8", "10.0.0.0/15", "10.0.0.0/29"])
def test_a_vpc_is_16_to_28(ec2: Any, cidr: str) -> None:
    assert refused(ec2.create_vpc, CidrBlock=cidr) == ("InvalidVpc.Range", f"The CIDR '{cidr}' is invalid.", 400)


@pytest.mark.parametrize("cidr", ["10.0.0.0", "10.0.0.0/33", "300.0.0.0/16", "10.0.0.0/255.255.0.0", "fd00::/56", "x"])
def test_what_is_no_cidr_block_is_refused(ec2: Any, cidr: str) -> None:
    code, text, _ = refused(ec2.create_vpc, CidrBlock=cidr)
    assert (code, text) == (
        "InvalidParameterValue",
        f"Value ({cidr}) for parameter cidrBlock is invalid. This is not a valid CIDR block.",
    )


def test_amazons_ipv6_block_is_a_local_56(ec2: Any) -> None:
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16", AmazonProvidedIpv6CidrBlock=True)["Vpc"]
    block = IPv6Network(vpc["Ipv6CidrBlockAssociationSet"][0]["Ipv6CidrBlock"])
    assert block.prefixlen == 56
    assert block.subnet_of(IPv6Network("fd00::/8"))


def test_further_blocks_are_associated(ec2: Any) -> None:
    vpc_id = vpc_of(ec2)
    ipv4 = ec2.associate_vpc_cidr_block(VpcId=vpc_id, CidrBlock="10.1.0.0/16")["CidrBlockAssociation"]
    assert ipv4["CidrBlockState"] == {"State": "associating"}
    ipv6 = ec2.associate_vpc_cidr_block(VpcId=vpc_id, Ipv6CidrBlock="fd12:3456:789a:bc00::/56")
    assert ipv6["Ipv6CidrBlockAssociation"]["Ipv6CidrBlock"] == "fd12:3456:789a:bc00::/56"
    vpc = ec2.describe_vpcs(VpcIds=[vpc_id])["Vpcs"][0]
    assert [item["CidrBlock"] for item in vpc["CidrBlockAssociationSet"]] == ["10.0.0.0/16", "10.1.0.0/16"]
    assert vpc["Ipv6CidrBlockAssociationSet"][0]["Ipv6CidrBlockState"] == {"State": "associated"}
    code, _, _ = refused(ec2.associate_vpc_cidr_block, VpcId=vpc_id, CidrBlock="10.1.128.0/17")
    assert code == "InvalidVpc.Range"


def test_a_vpc_has_five_blocks_of_a_family(ec2: Any) -> None:
    vpc_id = vpc_of(ec2)
    for number in range(1, 5):
        ec2.associate_vpc_cidr_block(VpcId=vpc_id, CidrBlock=f"10.{number}.0.0/16")
    assert refused(ec2.associate_vpc_cidr_block, VpcId=vpc_id, CidrBlock="10.5.0.0/16")[0] == "CidrLimitExceeded"


def test_parameters_that_are_not_honoured_are_refused(ec2: Any) -> None:
    code, text, _ = refused(ec2.create_vpc, CidrBlock="10.0.0.0/16", Ipv4IpamPoolId="ipam-pool-1")
    assert (code, text) == ("UnsupportedOperation", "The parameter Ipv4IpamPoolId is not supported by vnotch.")
    assert ec2.describe_vpcs()["Vpcs"] == []


@pytest.mark.parametrize(
    ("operation", "params", "code", "text"),
    [
        ("describe_vpcs", {"VpcIds": ["vpc-1"]}, "InvalidVpcID.NotFound", "The vpc ID 'vpc-1' does not exist"),
        ("delete_vpc", {"VpcId": "vpc-1"}, "InvalidVpcID.NotFound", "The vpc ID 'vpc-1' does not exist"),
        (
            "create_subnet",
            {"VpcId": "vpc-1", "CidrBlock": "10.0.0.0/24"},
            "InvalidVpcID.NotFound",
            "The vpc ID 'vpc-1' does not exist",
        ),
        (
            "describe_subnets",
            {"SubnetIds": ["subnet-1"]},
            "InvalidSubnetID.NotFound",
            "The subnet ID 'subnet-1' does not exist",
        ),
        (
            "delete_subnet",
            {"SubnetId": "subnet-1"},
            "InvalidSubnetID.NotFound",
            "The subnet ID 'subnet-1' does not exist",
        ),
        (
            "create_network_interface",
            {"SubnetId": "subnet-1"},
            "InvalidSubnetID.NotFound",
            "The subnet ID 'subnet-1' does not exist",
        ),
        (
            "describe_network_interfaces",
            {"NetworkInterfaceIds": ["eni-1"]},
            "InvalidNetworkInterfaceID.NotFound",
            "The networkInterface ID 'eni-1' does not exist",
        ),
        (
            "delete_network_interface",
            {"NetworkInterfaceId": "eni-1"},
            "InvalidNetworkInterfaceID.NotFound",
            "The networkInterface ID 'eni-1' does not exist",
        ),
        (
            "create_tags",
            {"Resources": ["vpc-1"], "Tags": [{"Key": "a", "Value": "b"}]},
            "InvalidVpcID.NotFound",
            "The vpc ID 'vpc-1' does not exist",
        ),
    ],
)
def test_unknown_ids(ec2: Any, operation: str, params: dict[str, Any], code: str, text: str) -> None:
    assert refused(getattr(ec2, operation), **params) == (code, text, 400)


# --- subnets ---


def test_a_subnet_is_described(ec2: Any) -> None:
    vpc_id = vpc_of(ec2, Ipv6CidrBlock="fd12:3456:789a:bc00::/56")
    created = ec2.create_subnet(
        VpcId=vpc_id,
        CidrBlock="10.0.1.0/24",
        Ipv6CidrBlock="fd12:3456:789a:bc01::/64",
        AvailabilityZone="us-east-1b",
    )["Subnet"]
    subnet = ec2.describe_subnets()["Subnets"][0]
    assert subnet == created
    association = subnet.pop("Ipv6CidrBlockAssociationSet")
    assert [item["Ipv6CidrBlock"] for item in association] == ["fd12:3456:789a:bc01::/64"]
    assert association[0]["Ipv6CidrBlockState"] == {"State": "associated"}
    subnet_id = subnet.pop("SubnetId")
    assert subnet == {
        "SubnetArn": f"arn:aws:ec2:us-east-1:123456789012:subnet/{subnet_id}",
        "VpcId": vpc_id,
        "OwnerId": "123456789012",
        "State": "available",
        "CidrBlock": "10.0.1.0/24",
        "AvailableIpAddressCount": 251,  # five of 256 are reserved
        "AvailabilityZone": "us-east-1b",
        "AvailabilityZoneId": "use1-az2",
        "DefaultForAz": False,
        "MapPublicIpOnLaunch": False,
        "MapCustomerOwnedIpOnLaunch": False,
        "AssignIpv6AddressOnCreation": False,
        "EnableDns64": False,
        "Ipv6Native": False,
        "PrivateDnsNameOptionsOnLaunch": {
            "HostnameType": "ip-name",
            "EnableResourceNameDnsARecord": False,
            "EnableResourceNameDnsAAAARecord": False,
        },
        "Tags": [],
    }


@pytest.mark.parametrize(
    ("cidr", "code", "text"),
    [
        ("10.1.0.0/24", "InvalidSubnet.Range", "The CIDR '10.1.0.0/24' is invalid."),
        ("10.0.0.0/15", "InvalidSubnet.Range", "The CIDR '10.0.0.0/15' is invalid."),
        ("10.0.0.0/29", "InvalidSubnet.Range", "The CIDR '10.0.0.0/29' is invalid."),
        ("10.0.0.0/25", "InvalidSubnet.Conflict", "The CIDR '10.0.0.0/25' conflicts with another subnet"),
        ("10.0.0.0/23", "InvalidSubnet.Conflict", "The CIDR '10.0.0.0/23' conflicts with another subnet"),
    ],
)
def test_where_a_subnet_may_not_be(ec2: Any, cidr: str, code: str, text: str) -> None:
    vpc_id = vpc_of(ec2)
    subnet_of(ec2, vpc_id, "10.0.0.0/24")
    assert refused(ec2.create_subnet, VpcId=vpc_id, CidrBlock=cidr) == (code, text, 400)


def test_an_ipv6_subnet_is_a_64_of_its_vpc(ec2: Any) -> None:
    vpc_id = vpc_of(ec2, Ipv6CidrBlock="fd12:3456:789a:bc00::/56")
    for cidr in ("fd12:3456:789a:bc00::/63", "fd12:3456:789a:bd00::/64"):
        code, text, _ = refused(ec2.create_subnet, VpcId=vpc_id, CidrBlock="10.0.0.0/24", Ipv6CidrBlock=cidr)
        assert (code, text) == ("InvalidSubnet.Range", f"The CIDR '{cidr}' is invalid.")


def test_a_zone_that_is_not_there(ec2: Any) -> None:
    code, text, _ = refused(
        ec2.create_subnet, VpcId=vpc_of(ec2), CidrBlock="10.0.0.0/24", AvailabilityZone="us-east-1z"
    )
    assert code == "InvalidParameterValue"
    assert text == (
        "Value (us-east-1z) for parameter availabilityZone is invalid. Subnets can currently only be created in the "
        "following availability zones: us-east-1a, us-east-1b, us-east-1c."
    )


def test_two_clients_that_make_the_same_subnet_at_once(api: Any, ec2: Any) -> None:
    vpc_id = vpc_of(ec2)
    clients = [api.client("ec2") for _ in range(4)]
    start, outcomes = threading.Barrier(4), []

    def make(client: Any) -> None:
        start.wait()
        try:
            client.create_subnet(VpcId=vpc_id, CidrBlock="10.0.0.0/24")
            outcomes.append("made")
        except ClientError as error:
            outcomes.append(error.response["Error"]["Code"])

    threads = [threading.Thread(target=make, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["InvalidSubnet.Conflict"] * 3 + ["made"]
    assert len(ec2.describe_subnets()["Subnets"]) == 1


def test_what_is_in_use_is_not_deleted(ec2: Any) -> None:
    vpc_id = vpc_of(ec2)
    subnet_id = subnet_of(ec2, vpc_id)
    interface_id = interface_of(ec2, subnet_id)["NetworkInterfaceId"]
    assert refused(ec2.delete_vpc, VpcId=vpc_id) == (
        "DependencyViolation",
        f"The vpc '{vpc_id}' has dependencies and cannot be deleted.",
        400,
    )
    assert refused(ec2.delete_subnet, SubnetId=subnet_id) == (
        "DependencyViolation",
        f"The subnet '{subnet_id}' has dependencies and cannot be deleted.",
        400,
    )
    ec2.delete_network_interface(NetworkInterfaceId=interface_id)
    ec2.delete_subnet(SubnetId=subnet_id)
    ec2.delete_vpc(VpcId=vpc_id)
    assert ec2.describe_vpcs()["Vpcs"] == ec2.describe_subnets()["Subnets"] == []


# --- network interfaces ---


def test_an_interface_is_described(ec2: Any) -> None:
    vpc_id = vpc_of(ec2, Ipv6CidrBlock="fd12:3456:789a:bc00::/56")
    subnet_id = subnet_of(ec2, vpc_id, Ipv6CidrBlock="fd12:3456:789a:bc00::/64")
    answer = ec2.create_network_interface(
        SubnetId=subnet_id,
        Description="web",
        PrivateIpAddress="10.0.0.10",
        Ipv6Addresses=[{"Ipv6Address": "fd12:3456:789a:bc00::10"}],
        ClientToken="once",
    )
    assert answer["ClientToken"] == "once"
    assert answer["NetworkInterface"]["Status"] == "pending"
    interface = ec2.describe_network_interfaces()["NetworkInterfaces"][0]
    default_group = ec2.describe_security_groups()["SecurityGroups"][0]["GroupId"]
    mac = interface.pop("MacAddress")
    assert int(mac[:2], 16) & 3 == 2  # unicast, locally administered
    assert interface == {
        "NetworkInterfaceId": answer["NetworkInterface"]["NetworkInterfaceId"],
        "VpcId": vpc_id,
        "SubnetId": subnet_id,
        "AvailabilityZone": "us-east-1a",
        "AvailabilityZoneId": "use1-az1",
        "OwnerId": "123456789012",
        "Description": "web",
        "InterfaceType": "interface",
        "PrivateIpAddress": "10.0.0.10",
        "PrivateIpAddresses": [{"PrivateIpAddress": "10.0.0.10", "Primary": True}],
        "Ipv6Addresses": [{"Ipv6Address": "fd12:3456:789a:bc00::10"}],
        "Groups": [{"GroupId": default_group, "GroupName": "default"}],
        "RequesterManaged": False,
        "SourceDestCheck": True,
        "Status": "available",
        "TagSet": [],
    }
    assert ec2.describe_subnets()["Subnets"][0]["AvailableIpAddressCount"] == 250


def test_the_next_free_address_skips_reserved_and_taken_ones(ec2: Any) -> None:
    subnet_id = subnet_of(ec2, vpc_of(ec2), "10.0.0.0/28")
    interface_of(ec2, subnet_id, PrivateIpAddress="10.0.0.5")
    # Of 16 addresses .0 to .3 and .15 are reserved (VPC user guide, subnet sizing) and .5 is taken.
    got = [interface_of(ec2, subnet_id)["PrivateIpAddress"] for _ in range(10)]
    assert got == [f"10.0.0.{last}" for last in (4, 6, 7, 8, 9, 10, 11, 12, 13, 14)]
    code, text, _ = refused(ec2.create_network_interface, SubnetId=subnet_id)
    assert (code, text) == (
        "InsufficientFreeAddressesInSubnet",
        "The specified subnet does not have enough free addresses to satisfy the request.",
    )
    assert ec2.describe_subnets()["Subnets"][0]["AvailableIpAddressCount"] == 0


@pytest.mark.parametrize("last", [0, 1, 2, 3, 255])
def test_reserved_addresses(ec2: Any, last: int) -> None:
    subnet_id = subnet_of(ec2, vpc_of(ec2))
    code, text, _ = refused(ec2.create_network_interface, SubnetId=subnet_id, PrivateIpAddress=f"10.0.0.{last}")
    assert (code, text) == ("InvalidParameterValue", f"Address 10.0.0.{last} is in subnet's reserved address range")


@pytest.mark.parametrize(
    ("address", "code", "text"),
    [
        ("10.0.1.4", "InvalidParameterValue", "Address 10.0.1.4 does not fall within the subnet's address range"),
        ("10.0.0.x", "InvalidParameterValue", "invalid value for parameter address: 10.0.0.x"),
        ("10.0.0.10", "InvalidIPAddress.InUse", "The specified address is already in use."),
    ],
)
def test_addresses_that_an_interface_cannot_have(ec2: Any, address: str, code: str, text: str) -> None:
    subnet_id = subnet_of(ec2, vpc_of(ec2))
    interface_of(ec2, subnet_id, PrivateIpAddress="10.0.0.10")
    assert refused(ec2.create_network_interface, SubnetId=subnet_id, PrivateIpAddress=address) == (code, text, 400)
    assert len(ec2.describe_network_interfaces()["NetworkInterfaces"]) == 1


def test_secondary_addresses(ec2: Any) -> None:
    subnet_id = subnet_of(ec2, vpc_of(ec2))
    listed = interface_of(
        ec2,
        subnet_id,
        PrivateIpAddresses=[
            {"PrivateIpAddress": "10.0.0.20", "Primary": False},
            {"PrivateIpAddress": "10.0.0.21", "Primary": True},
        ],
    )
    assert listed["PrivateIpAddress"] == "10.0.0.21"
    assert listed["PrivateIpAddresses"] == [
        {"PrivateIpAddress": "10.0.0.21", "Primary": True},
        {"PrivateIpAddress": "10.0.0.20", "Primary": False},
    ]
    counted = interface_of(ec2, subnet_id, PrivateIpAddress="10.0.0.30", SecondaryPrivateIpAddressCount=2)
    assert [item["PrivateIpAddress"] for item in counted["PrivateIpAddresses"]] == ["10.0.0.30", "10.0.0.4", "10.0.0.5"]
    # A named secondary address is never chosen as the primary one.
    chosen = interface_of(ec2, subnet_id, PrivateIpAddresses=[{"PrivateIpAddress": "10.0.0.6"}])
    assert [item["PrivateIpAddress"] for item in chosen["PrivateIpAddresses"]] == ["10.0.0.7", "10.0.0.6"]
    code, _, _ = refused(
        ec2.create_network_interface,
        SubnetId=subnet_id,
        PrivateIpAddress="10.0.0.40",
        PrivateIpAddresses=[{"PrivateIpAddress": "10.0.0.41", "Primary": True}],
    )
    assert code == "InvalidParameterCombination"


def test_further_addresses_are_assigned(ec2: Any) -> None:
    interface = interface_of(ec2, subnet_of(ec2, vpc_of(ec2)))
    interface_id = interface["NetworkInterfaceId"]
    named = ec2.assign_private_ip_addresses(NetworkInterfaceId=interface_id, PrivateIpAddresses=["10.0.0.99"])
    assert named["AssignedPrivateIpAddresses"] == [{"PrivateIpAddress": "10.0.0.99"}]
    counted = ec2.assign_private_ip_addresses(NetworkInterfaceId=interface_id, SecondaryPrivateIpAddressCount=2)
    assert [item["PrivateIpAddress"] for item in counted["AssignedPrivateIpAddresses"]] == ["10.0.0.5", "10.0.0.6"]
    found = ec2.describe_network_interfaces()["NetworkInterfaces"][0]["PrivateIpAddresses"]
    assert [item["PrivateIpAddress"] for item in found] == ["10.0.0.4", "10.0.0.99", "10.0.0.5", "10.0.0.6"]


def test_ipv6_addresses_are_counted_out(ec2: Any) -> None:
    vpc_id = vpc_of(ec2, Ipv6CidrBlock="fd12:3456:789a:bc00::/56")
    subnet_id = subnet_of(ec2, vpc_id, Ipv6CidrBlock="fd12:3456:789a:bc00::/64")
    found = interface_of(ec2, subnet_id, Ipv6AddressCount=3)["Ipv6Addresses"]
    addresses = {IPv6Address(item["Ipv6Address"]) for item in found}
    assert len(addresses) == 3
    assert all(address in IPv6Network("fd12:3456:789a:bc00::/64") for address in addresses)
    # The first four and the last address of an IPv6 subnet are reserved (VPC user guide).
    for last in ("", "3", "ffff:ffff:ffff:ffff"):
        address = str(IPv6Address(f"fd12:3456:789a:bc00::{last}" if len(last) < 9 else f"fd12:3456:789a:bc00:{last}"))
        code, _, _ = refused(ec2.create_network_interface, SubnetId=subnet_id, Ipv6Addresses=[{"Ipv6Address": address}])
        assert code == "InvalidParameterValue"
    no_ipv6 = subnet_of(ec2, vpc_id, "10.0.9.0/24")
    assert refused(ec2.create_network_interface, SubnetId=no_ipv6, Ipv6AddressCount=1)[0] == "InvalidParameterValue"


def test_a_client_token_makes_one_interface(ec2: Any) -> None:
    subnet_id = subnet_of(ec2, vpc_of(ec2))
    first = interface_of(ec2, subnet_id, Description="a", ClientToken="t")
    assert interface_of(ec2, subnet_id, Description="a", ClientToken="t") == first
    code, _, _ = refused(ec2.create_network_interface, SubnetId=subnet_id, Description="b", ClientToken="t")
    assert code == "IdempotentParameterMismatch"
    assert len(ec2.describe_network_interfaces()["NetworkInterfaces"]) == 1


# --- filters and pages ---


def test_filters_of_interfaces(ec2: Any) -> None:
    vpc_id = vpc_of(ec2)
    public, private = subnet_of(ec2, vpc_id), subnet_of(ec2, vpc_id, "10.0.1.0/24", AvailabilityZone="us-east-1c")
    web = interface_of(
        ec2,
        public,
        Description="web server",
        TagSpecifications=[{"ResourceType": "network-interface", "Tags": [{"Key": "Role", "Value": "web"}]}],
    )
    data = interface_of(ec2, private, Description="database")

    def found(*filters: tuple[str, list[str]]) -> list[str]:
        given = [{"Name": name, "Values": values} for name, values in filters]
        return [
            item["NetworkInterfaceId"] for item in ec2.describe_network_interfaces(Filters=given)["NetworkInterfaces"]
        ]

    both, first, second = (
        [web["NetworkInterfaceId"], data["NetworkInterfaceId"]],
        *([item["NetworkInterfaceId"]] for item in (web, data)),
    )
    assert found(("vpc-id", [vpc_id])) == both
    assert found(("subnet-id", [public])) == first
    assert found(("subnet-id", [public, private])) == both
    assert found(("availability-zone", ["us-east-1c"])) == second
    assert found(("availability-zone-id", ["use1-az?"])) == both
    assert found(("private-ip-address", [web["PrivateIpAddress"]])) == first
    assert found(("addresses.private-ip-address", ["10.0.1.*"])) == second
    assert found(("mac-address", [data["MacAddress"]])) == second
    assert found(("description", ["web*"])) == first
    assert found(("description", ["Web*"])) == []  # case-sensitive
    assert found(("tag:Role", ["web"])) == first
    assert found(("tag:Role", ["*"]), ("subnet-id", [private])) == []  # filters are AND-ed
    assert found(("tag-key", ["Role", "Owner"])) == first
    assert found(("status", ["available"])) == both
    assert found(("status", ["in-use"])) == []
    assert found(("requester-managed", ["false"])) == both
    assert found(("interface-type", ["nat_gateway"])) == []
    assert found(("owner-id", ["123456789012"])) == both


def test_filters_on_what_all_have_and_none_has(ec2: Any) -> None:
    """API DescribeVpcs and DescribeSubnets, Filters."""
    vpc_id = ec2.create_vpc(CidrBlock="10.77.0.0/16", AmazonProvidedIpv6CidrBlock=True)["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc_id, CidrBlock="10.77.0.0/24")["Subnet"]
    mine = {"Name": "vpc-id", "Values": [vpc_id]}
    for name, value, count in (
        ("ipv6-cidr-block-association.ipv6-pool", "Amazon", 1),
        ("ipv6-cidr-block-association.ipv6-pool", "mine", 0),
    ):
        assert len(ec2.describe_vpcs(Filters=[mine, {"Name": name, "Values": [value]}])["Vpcs"]) == count
    for name, value, count in (
        ("subnet-arn", subnet["SubnetArn"], 1),
        ("private-dns-name-options-on-launch.hostname-type", "ip-name", 1),
        ("private-dns-name-options-on-launch.hostname-type", "resource-name", 0),
        ("outpost-arn", "*", 0),
    ):
        assert len(ec2.describe_subnets(Filters=[mine, {"Name": name, "Values": [value]}])["Subnets"]) == count


def test_a_filter_that_is_not_known_is_an_error(ec2: Any) -> None:
    for call in (ec2.describe_vpcs, ec2.describe_subnets, ec2.describe_network_interfaces, ec2.describe_tags):
        assert refused(call, Filters=[{"Name": "colour", "Values": ["red"]}]) == (
            "InvalidParameterValue",
            "The filter 'colour' is invalid",
            400,
        )


def test_a_backslash_takes_a_star_as_it_is(ec2: Any) -> None:
    subnet_id = subnet_of(ec2, vpc_of(ec2))
    interface_of(ec2, subnet_id, Description="a*b")
    interface_of(ec2, subnet_id, Description="aXb")

    def found(pattern: str) -> list[str]:
        rows = ec2.describe_network_interfaces(Filters=[{"Name": "description", "Values": [pattern]}])
        return [row["Description"] for row in rows["NetworkInterfaces"]]

    assert found("a*b") == ["a*b", "aXb"]
    assert found("a\\*b") == ["a*b"]


def test_filter_values_are_bounded(ec2: Any) -> None:
    values = [str(number) for number in range(201)]
    assert refused(ec2.describe_vpcs, Filters=[{"Name": "vpc-id", "Values": values}])[0] == "FilterLimitExceeded"


def test_pages_cover_everything_once(ec2: Any) -> None:
    subnet_id = subnet_of(ec2, vpc_of(ec2))
    made = [interface_of(ec2, subnet_id, Description=str(n % 2))["NetworkInterfaceId"] for n in range(23)]
    pages = list(ec2.get_paginator("describe_network_interfaces").paginate(PaginationConfig={"PageSize": 5}))
    assert [len(page["NetworkInterfaces"]) for page in pages] == [5, 5, 5, 5, 3]
    assert [item["NetworkInterfaceId"] for page in pages for item in page["NetworkInterfaces"]] == made
    odd = ec2.get_paginator("describe_network_interfaces").paginate(
        Filters=[{"Name": "description", "Values": ["1*"]}], PaginationConfig={"PageSize": 5}
    )
    assert [len(page["NetworkInterfaces"]) for page in odd] == [5, 5, 1]


def test_pages_that_are_not_right(ec2: Any) -> None:
    vpc_id = vpc_of(ec2)
    interface_id = interface_of(ec2, subnet_of(ec2, vpc_id))["NetworkInterfaceId"]
    describe = ec2.describe_network_interfaces
    assert refused(describe, MaxResults=10, NetworkInterfaceIds=[interface_id])[0] == "InvalidParameterCombination"
    assert refused(describe, NextToken="nonsense")[0] == "InvalidNextToken"
    assert refused(describe, MaxResults=4)[0] == "InvalidParameterValue"
    assert refused(describe, MaxResults=1001)[0] == "InvalidParameterValue"


# --- tags ---


def test_tags_are_put_described_and_deleted(ec2: Any) -> None:
    vpc_id = vpc_of(ec2)
    subnet_id = subnet_of(ec2, vpc_id)
    ec2.create_tags(Resources=[vpc_id, subnet_id], Tags=[{"Key": "Name", "Value": "a"}, {"Key": "Env", "Value": "x"}])
    ec2.create_tags(Resources=[vpc_id], Tags=[{"Key": "Name", "Value": "b"}])
    tags = ec2.describe_tags(Filters=[{"Name": "resource-id", "Values": [vpc_id]}])["Tags"]
    assert sorted(tags, key=lambda tag: tag["Key"]) == [
        {"Key": "Env", "ResourceId": vpc_id, "ResourceType": "vpc", "Value": "x"},
        {"Key": "Name", "ResourceId": vpc_id, "ResourceType": "vpc", "Value": "b"},
    ]
    by_key = ec2.describe_tags(Filters=[{"Name": "tag:Name", "Values": ["a"]}])["Tags"]
    assert [tag["ResourceId"] for tag in by_key] == [subnet_id]
    # API DeleteTags: with a value only where it is the same, without one whatever it is.
    ec2.delete_tags(Resources=[vpc_id], Tags=[{"Key": "Name", "Value": "other"}, {"Key": "Env"}])
    assert ec2.describe_vpcs()["Vpcs"][0]["Tags"] == [{"Key": "Name", "Value": "b"}]
    ec2.delete_tags(Resources=[subnet_id])
    assert ec2.describe_subnets()["Subnets"][0]["Tags"] == []
    ec2.delete_subnet(SubnetId=subnet_id)
    ec2.delete_vpc(VpcId=vpc_id)
    assert ec2.describe_tags()["Tags"] == []


@pytest.mark.parametrize(
    ("tags", "code"),
    [
        ([{"Key": "aws:mine", "Value": "x"}], "InvalidParameterValue"),
        ([{"Key": "k" * 128, "Value": "x"}], "InvalidParameterValue"),
        ([{"Key": "k", "Value": "x" * 257}], "InvalidParameterValue"),
        ([{"Key": "k", "Value": "1"}, {"Key": "k", "Value": "2"}], "InvalidParameterValue"),
        ([{"Key": f"k{n}", "Value": "x"} for n in range(51)], "TagLimitExceeded"),
    ],
)
def test_tags_out_of_bounds(ec2: Any, tags: list[dict[str, str]], code: str) -> None:
    vpc_id = vpc_of(ec2)
    assert refused(ec2.create_tags, Resources=[vpc_id], Tags=tags)[0] == code
    assert ec2.describe_tags()["Tags"] == []


def test_a_tag_specification_of_another_type(ec2: Any) -> None:
    tags = [{"ResourceType": "subnet", "Tags": [{"Key": "a", "Value": "b"}]}]
    assert refused(ec2.create_vpc, CidrBlock="10.0.0.0/16", TagSpecifications=tags) == (
        "InvalidParameterValue",
        "'subnet' is not a valid taggable resource type for this operation.",
        400,
    )


def test_ids_of_no_kind_cannot_be_tagged(ec2: Any) -> None:
    assert refused(ec2.create_tags, Resources=["nonsense"], Tags=[{"Key": "a", "Value": "b"}])[0] == "InvalidID"


# --- regions and zones ---


def test_regions(ec2: Any) -> None:
    assert ec2.describe_regions()["Regions"] == [
        {
            "RegionName": "us-east-1",
            "Endpoint": "ec2.us-east-1.amazonaws.com",
            "OptInStatus": "opt-in-not-required",
        }
    ]
    assert refused(ec2.describe_regions, RegionNames=["mars-1"])[0] == "InvalidParameterValue"


def test_zones(ec2: Any) -> None:
    zones = ec2.describe_availability_zones()["AvailabilityZones"]
    assert [(zone["ZoneName"], zone["ZoneId"], zone["State"]) for zone in zones] == [
        ("us-east-1a", "use1-az1", "available"),
        ("us-east-1b", "use1-az2", "available"),
        ("us-east-1c", "use1-az3", "available"),
    ]
    named = ec2.describe_availability_zones(Filters=[{"Name": "zone-id", "Values": ["use1-az3"]}])
    assert [zone["ZoneName"] for zone in named["AvailabilityZones"]] == ["us-east-1c"]


@pytest.mark.parametrize(
    ("region", "expected"),
    [
        # Zone ids of the EC2 user guide and of AWS's published lists.
        ("us-east-1", "use1"),
        ("us-west-2", "usw2"),
        ("eu-west-1", "euw1"),
        ("eu-central-1", "euc1"),
        ("ap-southeast-2", "apse2"),
        ("ap-northeast-1", "apne1"),
        ("sa-east-1", "sae1"),
        ("us-gov-west-1", "usgw1"),
    ],
)
def test_abbreviations_of_regions(region: str, expected: str) -> None:
    assert abbreviation(region) == expected


def test_dry_run_changes_nothing(ec2: Any) -> None:
    assert refused(ec2.create_vpc, CidrBlock="10.0.0.0/16", DryRun=True) == (
        "DryRunOperation",
        "Request would have succeeded, but DryRun flag is set.",
        412,
    )
    assert ec2.describe_vpcs()["Vpcs"] == []


def test_what_a_user_may_not_do(api: Any, ec2: Any) -> None:
    with api.accounts.write() as session:
        user = api.accounts.make_user(session, "nobody")
        key = api.accounts.make_user_key(session, user)
        pair = (key.access_key_id, key.secret_access_key)
    client = api.client("ec2", key=pair)
    for call, asked in (
        (client.create_vpc, {"CidrBlock": "10.0.0.0/16"}),
        (client.describe_vpcs, {}),
        (client.create_vpc, {"CidrBlock": "10.0.0.0/16", "DryRun": True}),
    ):
        code, text, status = refused(call, **asked)
        assert (code, status) == ("UnauthorizedOperation", 403)
        assert text.startswith(
            "You are not authorized to perform this operation. Encoded authorization failure message: "
        )


def test_addresses_stay_inside_their_subnet_when_many_ask_at_once(api: Any, ec2: Any) -> None:
    subnet_id = subnet_of(ec2, vpc_of(ec2), "10.0.0.0/26")
    clients = [api.client("ec2") for _ in range(4)]
    got: list[str] = []

    def make(client: Any) -> None:
        for _ in range(5):
            got.append(interface_of(client, subnet_id)["PrivateIpAddress"])

    threads = [threading.Thread(target=make, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(IPv4Address, got)) == [IPv4Address("10.0.0.4") + n for n in range(20)]


@pytest.mark.parametrize(
    ("operation", "params", "code", "text"),
    [
        ("describe_instances", {"InstanceIds": ["i-web"]}, "InvalidInstanceID.Malformed", 'Invalid id: "i-web"'),
        (
            "terminate_instances",
            {"InstanceIds": ["web"]},
            "InvalidInstanceID.Malformed",
            'Invalid id: "web" (expecting "i-...")',
        ),
        (
            "describe_security_groups",
            {"GroupIds": ["default"]},
            "InvalidGroupId.Malformed",
            'Invalid id: "default" (expecting "sg-...")',
        ),
        (
            "describe_images",
            {"ImageIds": ["debian"]},
            "InvalidAMIID.Malformed",
            'Invalid id: "debian" (expecting "ami-...")',
        ),
        ("delete_security_group", {"GroupId": "sg-12"}, "InvalidGroupId.Malformed", 'Invalid id: "sg-12"'),
        (
            "delete_security_group",
            {"GroupId": "sg-1234abcd"},
            "InvalidGroup.NotFound",
            "The security group 'sg-1234abcd' does not exist",
        ),
    ],
)
def test_what_is_no_id(ec2: Any, operation: str, params: dict[str, Any], code: str, text: str) -> None:
    """EC2's error codes; texts as users have seen them. An id of before 2018 has eight digits."""
    assert refused(getattr(ec2, operation), **params) == (code, text, 400)


@pytest.mark.parametrize("block", ["0.0.0.0/16", "127.0.0.0/24", "224.0.0.0/16", "239.255.0.0/28"])
def test_addresses_that_no_host_has_are_no_vpcs(ec2: Any, block: str) -> None:
    """RFC 6890, RFC 5771."""
    said = ("InvalidVpc.Range", f"The CIDR '{block}' is invalid.", 400)
    assert refused(ec2.create_vpc, CidrBlock=block) == said
    assert refused(ec2.associate_vpc_cidr_block, VpcId=vpc_of(ec2), CidrBlock=block) == said

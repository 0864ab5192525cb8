"""What readers of a VPC ask for beside what there is: kinds that vnotch has not, the account, types of instances.

Codes and members are those of EC2's error list and API reference.
"""

from __future__ import annotations

from typing import Any

import pytest
from refusals import refused

from vnotch.api.ec2 import Ec2
from vnotch.api.ec2.absent_kinds import ABSENT_KINDS
from vnotch.api.quotas import Quotas


@pytest.fixture(scope="module")
def ec2(shared_api: Any) -> Any:
    shared_api.serve(Ec2(shared_api.state, shared_api.accounts, quotas=Quotas(elastic_addresses=7)))
    return shared_api.client("ec2", parameter_validation=False)


CALLS = [
    ("describe_carrier_gateways", "CarrierGateways", "CarrierGatewayIds", "vpc-id"),
    ("describe_customer_gateways", "CustomerGateways", "CustomerGatewayIds", "state"),
    ("describe_dhcp_options", "DhcpOptions", "DhcpOptionsIds", "key"),
    ("describe_egress_only_internet_gateways", "EgressOnlyInternetGateways", "EgressOnlyInternetGatewayIds", "tag-key"),
    ("describe_key_pairs", "KeyPairs", "KeyNames", "key-name"),
    ("describe_prefix_lists", "PrefixLists", "PrefixListIds", "prefix-list-name"),
    ("describe_transit_gateway_attachments", "TransitGatewayAttachments", "TransitGatewayAttachmentIds", "state"),
    (
        "describe_transit_gateway_vpc_attachments",
        "TransitGatewayVpcAttachments",
        "TransitGatewayAttachmentIds",
        "state",
    ),
    ("describe_transit_gateways", "TransitGateways", "TransitGatewayIds", "owner-id"),
    ("describe_volumes", "Volumes", "VolumeIds", "attachment.instance-id"),
    ("describe_vpc_endpoints", "VpcEndpoints", "VpcEndpointIds", "vpc-id"),
    (
        "describe_vpc_peering_connections",
        "VpcPeeringConnections",
        "VpcPeeringConnectionIds",
        "accepter-vpc-info.vpc-id",
    ),
    ("describe_vpn_connections", "VpnConnections", "VpnConnectionIds", "state"),
    ("describe_vpn_gateways", "VpnGateways", "VpnGatewayIds", "attachment.vpc-id"),
]


@pytest.mark.parametrize(("operation", "listed", "ids", "filter_name"), CALLS, ids=[row[0] for row in CALLS])
def test_of_these_there_are_none(ec2: Any, operation: str, listed: str, ids: str, filter_name: str) -> None:
    describe = getattr(ec2, operation)
    assert describe()[listed] == []
    for name in (filter_name, "tag:Name"):
        assert describe(Filters=[{"Name": name, "Values": ["x"]}])[listed] == []
    code, text = refused(describe, **{ids: ["thing-1"]})
    assert code.endswith(".NotFound")
    assert "thing-1" in text
    assert refused(describe, Filters=[{"Name": "no-such", "Values": ["x"]}]) == (
        "InvalidParameterValue",
        "The filter 'no-such' is invalid",
    )


def test_all_of_them_are_asked_for() -> None:
    assert [kind.listed for kind in ABSENT_KINDS] == [listed for _, listed, _, _ in CALLS]


def test_transit_gateways_are_no_resource_of_flow_logs(ec2: Any) -> None:
    """The same answer as of the operation that describes them."""
    for kind, resource, describe, ids in (
        ("TransitGateway", "tgw-0123456789abcdef0", ec2.describe_transit_gateways, "TransitGatewayIds"),
        (
            "TransitGatewayAttachment",
            "tgw-attach-0123456789abcdef0",
            ec2.describe_transit_gateway_attachments,
            "TransitGatewayAttachmentIds",
        ),
    ):
        given = {"ResourceType": kind, "ResourceIds": [resource], "MaxAggregationInterval": 60, "LogGroupName": "g"}
        role = "arn:aws:iam::123456789012:role/r"
        assert refused(ec2.create_flow_logs, **given, DeliverLogsPermissionArn=role) == refused(
            describe, **{ids: [resource]}
        )


def test_the_account_says_what_it_may_have(ec2: Any) -> None:
    def attributes(**asked: Any) -> dict[str, list[str]]:
        rows = ec2.describe_account_attributes(**asked)["AccountAttributes"]
        return {row["AttributeName"]: [item["AttributeValue"] for item in row["AttributeValues"]] for row in rows}

    assert attributes() == {
        "supported-platforms": ["VPC"],
        "default-vpc": ["none"],
        "max-instances": ["200"],
        "vpc-max-security-groups-per-interface": ["5"],
        "max-elastic-ips": ["7"],
        "vpc-max-elastic-ips": ["7"],
    }
    vpc_id = ec2.create_default_vpc()["Vpc"]["VpcId"]
    assert attributes(AttributeNames=["default-vpc"]) == {"default-vpc": [vpc_id]}
    for subnet in ec2.describe_subnets()["Subnets"]:
        ec2.delete_subnet(SubnetId=subnet["SubnetId"])
    for gateway in ec2.describe_internet_gateways()["InternetGateways"]:
        ec2.detach_internet_gateway(InternetGatewayId=gateway["InternetGatewayId"], VpcId=vpc_id)
    ec2.delete_vpc(VpcId=vpc_id)


def test_no_vpc_is_linked_to_ec2_classic(ec2: Any) -> None:
    vpc_id = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    assert ec2.describe_vpc_classic_link(VpcIds=[vpc_id])["Vpcs"] == [
        {"VpcId": vpc_id, "ClassicLinkEnabled": False, "Tags": []}
    ]
    linked = [{"Name": "is-classic-link-enabled", "Values": ["true"]}]
    assert ec2.describe_vpc_classic_link(Filters=linked)["Vpcs"] == []
    support = ec2.describe_vpc_classic_link_dns_support(VpcIds=[vpc_id])["Vpcs"]
    assert support == [{"VpcId": vpc_id, "ClassicLinkDnsSupported": False}]
    assert refused(ec2.describe_vpc_classic_link, VpcIds=["vpc-1"])[0] == "InvalidVpcID.NotFound"


def test_every_type_of_instance_has_the_same_network(ec2: Any) -> None:
    rows = ec2.describe_instance_types(InstanceTypes=["t3.micro", "m5.large"])["InstanceTypes"]
    assert [row["InstanceType"] for row in rows] == ["t3.micro", "m5.large"]
    # As many as AttachNetworkInterface and AssignPrivateIpAddresses take.
    assert (
        rows[0]["NetworkInfo"]
        == rows[1]["NetworkInfo"]
        == {
            "MaximumNetworkInterfaces": 15,
            "Ipv4AddressesPerInterface": 50,
            "Ipv6AddressesPerInterface": 50,
            "Ipv6Supported": True,
        }
    )
    [default] = ec2.describe_instance_types()["InstanceTypes"]
    assert default["InstanceType"] == "t3.nano"
    burstable = [{"Name": "burstable-performance-supported", "Values": ["true"]}]
    assert ec2.describe_instance_types(Filters=burstable)["InstanceTypes"] == []
    assert refused(ec2.describe_instance_types, InstanceTypes=["large"])[0] == "InvalidParameterValue"

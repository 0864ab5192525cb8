"""The condition keys that AWS supplies with calls of EC2 and CloudWatch Logs decide here too (service authorization
reference)."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from botocore.exceptions import ClientError
from lakes import new_lake
from policies import allow
from test_iam import session_key, user_key

from vnotch.api.ec2 import Ec2
from vnotch.api.logs import Logs

ACCOUNT = "123456789012"


@pytest.fixture(scope="module")
def world(shared_api: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    lake = new_lake(tmp_path_factory.mktemp("lake") / "lake")
    shared_api.serve(Ec2(shared_api.state, shared_api.accounts), Logs(shared_api.state, lake))
    yield shared_api
    shared_api.stop()
    lake.close()


@pytest.fixture(scope="module")
def vpcs(world: Any) -> tuple[str, str]:
    """One of team net, one of team ops."""
    ec2 = world.client("ec2")

    def made(cidr: str, team: str) -> str:
        tags = [{"ResourceType": "vpc", "Tags": [{"Key": "Team", "Value": team}]}]
        return str(ec2.create_vpc(CidrBlock=cidr, TagSpecifications=tags)["Vpc"]["VpcId"])

    return made("10.1.0.0/16", "net"), made("10.2.0.0/16", "ops")


def may(call: Any, **params: Any) -> bool:
    """Whether policies let a call through; what becomes of it then does not matter."""
    try:
        call(**params)
    except ClientError as error:
        return error.response["Error"]["Code"] not in ("UnauthorizedOperation", "AccessDenied", "AccessDeniedException")
    return True


def user(world: Any, name: str, *statements: dict[str, Any]) -> tuple[str, str]:
    return user_key(world, name, json.dumps({"Version": "2012-10-17", "Statement": list(statements)}))


def test_tags_of_the_resource(world: Any, vpcs: tuple[str, str]) -> None:
    for number, key in enumerate(("aws:ResourceTag/Team", "ec2:ResourceTag/team")):
        mine = user_key(world, f"tags{number}", allow("ec2:*", Condition={"StringEquals": {key: "net"}}))
        ec2 = world.client("ec2", mine)
        asked = {"DryRun": True}
        assert may(ec2.delete_vpc, VpcId=vpcs[0], **asked)
        assert not may(ec2.delete_vpc, VpcId=vpcs[1], **asked)
        assert not may(ec2.delete_vpc, VpcId="vpc-0123456789abcdef0", **asked)


def test_tags_of_the_request(world: Any) -> None:
    condition = {
        "StringEquals": {"aws:RequestTag/team": "net"},
        "ForAllValues:StringEquals": {"aws:TagKeys": ["team"]},
    }
    key = user(
        world,
        "tagger",
        {"Effect": "Allow", "Action": ["ec2:CreateVpc", "ec2:CreateTags"], "Resource": "*", "Condition": condition},
    )
    ec2 = world.client("ec2", key)

    def made_with(*tags: tuple[str, str]) -> bool:
        listed = [{"Key": key, "Value": value} for key, value in tags]
        specification = [{"ResourceType": "vpc", "Tags": listed}]
        return may(ec2.create_vpc, CidrBlock="10.9.0.0/16", TagSpecifications=specification, DryRun=True)

    assert made_with(("team", "net"))
    assert not made_with(("team", "ops"))
    assert not made_with(("team", "net"), ("other", "x"))
    assert not may(ec2.create_vpc, CidrBlock="10.9.0.0/16", DryRun=True)


def test_the_vpc_and_subnet_of_a_resource(world: Any, vpcs: tuple[str, str]) -> None:
    ec2 = world.client("ec2")
    subnets = [
        ec2.create_subnet(VpcId=vpc, CidrBlock=cidr, AvailabilityZone="us-east-1a")["Subnet"]["SubnetId"]
        for vpc, cidr in zip(vpcs, ("10.1.0.0/24", "10.2.0.0/24"), strict=True)
    ]
    interfaces = [
        ec2.create_network_interface(SubnetId=subnet)["NetworkInterface"]["NetworkInterfaceId"] for subnet in subnets
    ]
    in_first = {"ArnEquals": {"ec2:Vpc": f"arn:aws:ec2:us-east-1:{ACCOUNT}:vpc/{vpcs[0]}"}}
    mine = world.client("ec2", user_key(world, "inside", allow("ec2:*", Condition=in_first)))
    for number, allowed in ((0, True), (1, False)):
        assert may(mine.delete_subnet, SubnetId=subnets[number], DryRun=True) is allowed
        found = may(mine.delete_network_interface, NetworkInterfaceId=interfaces[number], DryRun=True)
        assert found is allowed
    for name, condition in (
        ("subnet", {"ArnEquals": {"ec2:Subnet": f"arn:aws:ec2:us-east-1:{ACCOUNT}:subnet/{subnets[0]}"}}),
        ("id", {"StringEquals": {"ec2:NetworkInterfaceID": interfaces[0]}}),
    ):
        other = world.client("ec2", user_key(world, f"by-{name}", allow("ec2:*", Condition=condition)))
        assert may(other.delete_network_interface, NetworkInterfaceId=interfaces[0], DryRun=True)
        assert not may(other.delete_network_interface, NetworkInterfaceId=interfaces[1], DryRun=True)
    zone = {"StringEquals": {"ec2:AvailabilityZone": "us-east-1b"}}
    other = world.client("ec2", user_key(world, "zone", allow("ec2:*", Condition=zone)))
    assert not may(other.delete_network_interface, NetworkInterfaceId=interfaces[0], DryRun=True)


def test_the_type_of_an_instance(world: Any, vpcs: tuple[str, str]) -> None:
    subnet = world.client("ec2").create_subnet(VpcId=vpcs[0], CidrBlock="10.1.7.0/24")["Subnet"]["SubnetId"]
    small = {"StringLikeIfExists": {"ec2:InstanceType": ["t3.nano", "t3.micro"]}}
    ec2 = world.client("ec2", user_key(world, "small", allow("ec2:RunInstances", Condition=small)))
    asked = {"ImageId": "ami-0123456789abcdef0", "MinCount": 1, "MaxCount": 1, "SubnetId": subnet, "DryRun": True}
    assert may(ec2.run_instances, InstanceType="t3.micro", **asked)
    assert not may(ec2.run_instances, InstanceType="t3.large", **asked)


def test_region_and_account(world: Any) -> None:
    for number, (key, value, allowed) in enumerate(
        (
            ("ec2:Region", "us-east-1", True),
            ("ec2:Region", "eu-west-1", False),
            ("aws:RequestedRegion", "us-east-1", True),
            ("aws:ResourceAccount", ACCOUNT, True),
            ("aws:ResourceAccount", "999999999999", False),
            ("aws:PrincipalAccount", ACCOUNT, True),
            ("aws:SourceIp", "127.0.0.0/8", True),
            ("aws:SecureTransport", "false", True),
        )
    ):
        operator = {"aws:SourceIp": "IpAddress", "aws:SecureTransport": "Bool"}.get(key, "StringEquals")
        mine = user_key(world, f"region{number}", allow("ec2:DescribeVpcs", Condition={operator: {key: value}}))
        assert may(world.client("ec2", mine).describe_vpcs) is allowed, key


def test_tags_of_a_log_group(world: Any) -> None:
    owner = world.client("logs")
    owner.create_log_group(logGroupName="/ours", tags={"team": "net"})
    owner.create_log_group(logGroupName="/theirs", tags={"team": "ops"})
    ours = {"StringEquals": {"aws:ResourceTag/team": "net"}}
    logs = world.client("logs", user_key(world, "logger", allow("logs:*", Condition=ours)))
    assert may(logs.put_retention_policy, logGroupName="/ours", retentionInDays=7)
    assert not may(logs.put_retention_policy, logGroupName="/theirs", retentionInDays=7)
    requested = {"StringEquals": {"aws:RequestTag/team": "net"}}
    makes = ["logs:CreateLogGroup", "logs:TagResource"]
    logs = world.client("logs", user_key(world, "maker", allow(makes, Condition=requested)))
    assert not may(logs.create_log_group, logGroupName="/untagged")
    assert may(logs.create_log_group, logGroupName="/tagged", tags={"team": "net"})


def test_the_line_of_a_call_names_its_further_permissions(world: Any, vpcs: tuple[str, str]) -> None:
    tags = [{"ResourceType": "subnet", "Tags": [{"Key": "Name", "Value": "x"}]}]
    world.client("ec2").create_subnet(VpcId=vpcs[0], CidrBlock="10.1.9.0/24", TagSpecifications=tags)
    entry = world.access_log.recent()[-1]
    assert (entry.action, entry.decision) == ("ec2:CreateSubnet", "allowed")
    assert [(item["action"], item["decision"]) for item in entry.further] == [("ec2:CreateTags", "allowed")]


USER_ARN = f"arn:aws:iam::{ACCOUNT}:user/staff/kim"
ROLE_ARN = f"arn:aws:iam::{ACCOUNT}:role/kims"
ABSENT, PRESENT = "true", "false"

# Source: IAM user guide, "AWS global condition context keys". Key, operator, its value for a user's own key, for the
# session of a role, and for the user's session (GetSessionToken).
CALLERS = [
    ("aws:username", "StringEquals", "kim", None, "kim"),
    ("aws:userid", "StringEquals", "{user_id}", "{role_id}:night", "{user_id}"),
    ("aws:PrincipalArn", "ArnEquals", USER_ARN, ROLE_ARN, USER_ARN),
    ("aws:PrincipalType", "StringEquals", "User", "AssumedRole", "User"),
    ("aws:PrincipalAccount", "StringEquals", ACCOUNT, ACCOUNT, ACCOUNT),
    ("aws:PrincipalTag/Team", "StringEquals", "net", "ops", "net"),
    ("aws:PrincipalIsAWSService", "Bool", "false", "false", "false"),
    ("aws:ViaAWSService", "Bool", "false", "false", "false"),
    ("aws:TokenIssueTime", "DateLessThanEquals", None, "{now}", "{now}"),
    ("aws:MultiFactorAuthPresent", "Bool", None, "false", "false"),
    ("aws:MultiFactorAuthAge", "NumericLessThan", None, None, None),
    ("aws:CurrentTime", "DateLessThanEquals", "{now}", "{now}", "{now}"),
    ("aws:EpochTime", "NumericGreaterThan", "1790000000", "1790000000", "1790000000"),
    ("aws:UserAgent", "StringLike", "Boto3/*", "Boto3/*", "Boto3/*"),
    ("aws:SourceIp", "IpAddress", "127.0.0.1", "127.0.0.1", "127.0.0.1"),
    ("aws:SecureTransport", "Bool", "false", "false", "false"),
    ("aws:RequestedRegion", "StringEquals", "us-east-1", "us-east-1", "us-east-1"),
    ("aws:SourceArn", "ArnLike", None, None, None),
    ("aws:SourceVpce", "StringLike", None, None, None),
    ("aws:PrincipalOrgID", "StringLike", None, None, None),
]


@pytest.fixture(scope="module")
def callers(world: Any) -> dict[str, tuple[Any, str, str]]:
    """Clients of EC2 of a user, of a session of a role and of the user's own session; each by who has its policy."""
    iam = world.client("iam")
    tag = [{"Key": "team", "Value": "net"}]
    user_id = iam.create_user(UserName="kim", Path="/staff/", Tags=tag)["User"]["UserId"]
    made = iam.create_access_key(UserName="kim")["AccessKey"]
    key = (made["AccessKeyId"], made["SecretAccessKey"])
    trust = {"Effect": "Allow", "Principal": {"AWS": ACCOUNT}, "Action": ["sts:AssumeRole", "sts:TagSession"]}
    document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    role_id = iam.create_role(RoleName="kims", AssumeRolePolicyDocument=document)["Role"]["RoleId"]
    asked = {"RoleArn": ROLE_ARN, "RoleSessionName": "night", "Tags": [{"Key": "Team", "Value": "ops"}]}
    session = session_key(world.client("sts").assume_role(**asked)["Credentials"])
    own = session_key(world.client("sts", key).get_session_token()["Credentials"])
    clients = {name: world.client("ec2", each) for name, each in (("user", key), ("role", session), ("token", own))}
    return {name: (client, user_id, role_id) for name, client in clients.items()}


@pytest.mark.parametrize(
    ("key", "operator", "of_user", "of_role", "of_token"), CALLERS, ids=[row[0] for row in CALLERS]
)
def test_a_key_of_the_caller(
    world: Any,
    callers: dict[str, tuple[Any, str, str]],
    key: str,
    operator: str,
    of_user: str | None,
    of_role: str | None,
    of_token: str | None,
) -> None:
    iam = world.client("iam")
    for name, expected in (("user", of_user), ("role", of_role), ("token", of_token)):
        client, user_id, role_id = callers[name]
        if expected is None:
            condition = {"Null": {key: ABSENT}}
        else:
            now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 60))
            value = expected.replace("{user_id}", user_id).replace("{role_id}", role_id).replace("{now}", now)
            condition = {operator: {key: value}, "Null": {key: PRESENT}}
        policy = allow("ec2:DescribeVpcs", Condition=condition)
        if name == "role":
            iam.put_role_policy(RoleName="kims", PolicyName="p", PolicyDocument=policy)
        else:
            iam.put_user_policy(UserName="kim", PolicyName="p", PolicyDocument=policy)
        assert may(client.describe_vpcs), name


def test_a_group_is_made_with_tags_by_either_permission_to_tag(world: Any) -> None:
    """API reference, CreateLogGroup, tags: "either the logs:TagResource or logs:TagLogGroup permission"."""
    for number, action in enumerate(("logs:TagResource", "logs:TagLogGroup")):
        logs = world.client("logs", user_key(world, f"either{number}", allow(["logs:CreateLogGroup", action])))
        logs.create_log_group(logGroupName=f"/either{number}", tags={"team": "net"})
        entry = world.access_log.recent()[-1]
        assert [(item["action"], item["decision"]) for item in entry.further] == [(action, "allowed")]


def test_tags_only_with_what_is_made(world: Any, vpcs: tuple[str, str]) -> None:
    """EC2 user guide, "Grant permission to tag Amazon EC2 resources during creation": ec2:CreateAction."""
    makes = {"Effect": "Allow", "Action": ["ec2:CreateVpc", "ec2:CreateSubnet"], "Resource": "*"}
    with_vpc = {"StringEquals": {"ec2:CreateAction": "CreateVpc"}}
    tags = {"Effect": "Allow", "Action": "ec2:CreateTags", "Resource": "*", "Condition": with_vpc}
    ec2 = world.client("ec2", user(world, "creator", makes, tags))

    def tagged(kind: str) -> list[dict[str, Any]]:
        return [{"ResourceType": kind, "Tags": [{"Key": "a", "Value": "b"}]}]

    assert may(ec2.create_vpc, CidrBlock="10.7.0.0/16", TagSpecifications=tagged("vpc"), DryRun=True)
    asked = {"VpcId": vpcs[0], "CidrBlock": "10.1.200.0/24", "DryRun": True}
    assert may(ec2.create_subnet, **asked)
    assert not may(ec2.create_subnet, TagSpecifications=tagged("subnet"), **asked)
    assert not may(ec2.create_tags, Resources=[vpcs[0]], Tags=[{"Key": "a", "Value": "b"}])


def test_the_policy_that_is_attached(world: Any) -> None:
    """IAM user guide, "Controlling access to IAM users for their policies": iam:PolicyARN."""
    reading = "arn:aws:iam::aws:policy/AmazonEC2ReadOnlyAccess"
    only = {"ArnEquals": {"iam:PolicyARN": reading}}
    iam = world.client("iam", user_key(world, "attacher", allow("iam:AttachUserPolicy", Condition=only)))
    assert may(iam.attach_user_policy, UserName="attacher", PolicyArn=reading)
    assert not may(iam.attach_user_policy, UserName="attacher", PolicyArn="arn:aws:iam::aws:policy/AdministratorAccess")


def test_the_name_of_a_session_is_the_users(world: Any) -> None:
    """IAM user guide, sts:RoleSessionName: a trust that wants the caller's own name."""
    trust = {
        "Effect": "Allow",
        "Principal": {"AWS": ACCOUNT},
        "Action": "sts:AssumeRole",
        "Condition": {"StringLike": {"sts:RoleSessionName": "${aws:username}"}},
    }
    document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    role = world.client("iam").create_role(RoleName="named", AssumeRolePolicyDocument=document)["Role"]["Arn"]
    sts = world.client("sts", user_key(world, "noor", allow("sts:AssumeRole")))
    assert may(sts.assume_role, RoleArn=role, RoleSessionName="noor")
    assert not may(sts.assume_role, RoleArn=role, RoleSessionName="another")

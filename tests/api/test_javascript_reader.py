"""The AWS SDK for JavaScript reads what boto3 reads: it builds a network, log groups and identities, describes them
page by page and by filters, and every member that it has parsed is boto3's. Neither shares code with the server.

`make setup` puts the SDK under tests/oracle/javascript where npm is installed (sudo apt install nodejs npm).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Set
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

import pytest
from botocore import xform_name
from botocore.exceptions import ClientError
from policies import allow, trust_of
from test_ec2_instances import heard
from test_javascript_sdk import call, javascript, node

from vnotch.api.ec2 import Ec2
from vnotch.api.ec2.images import IMAGE_ID
from vnotch.api.lab_hosts import LabHosts
from vnotch.api.logs import Logs
from vnotch.api.quotas import Quotas
from vnotch.store.lake import Lake

__all__ = ["node"]  # the fixture

ACCOUNT = "123456789012"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/flow-logs"
PAGE = 5
"""The least that EC2 takes for a page."""

NOT_YET = {
    "DescribeNetworkInterfaces": {"AvailabilityZoneId"},
    "DescribeInstances": {"AvailabilityZoneId"},
    "DescribeNatGateways": {"AvailabilityMode"},
}
"""Members of answers that botocore's models have and those of this release of the SDK have not."""


@pytest.fixture(scope="module")
def world(shared_api: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    lake = Lake.open(tmp_path_factory.mktemp("lake"))
    state, accounts = shared_api.state, shared_api.accounts
    quotas = Quotas(rules_per_security_group=100)
    shared_api.serve(Ec2(state, accounts, quotas=quotas), Logs(state, lake), routes=LabHosts(state, accounts).routes())
    heard(shared_api)
    yield shared_api
    shared_api.stop()
    lake.close()


def ec2(command: str, *, name: str = "", pages: int = 0, **members: Any) -> dict[str, Any]:
    return step("ec2", command, name, pages, members)


def step(service: str, command: str, name: str, pages: int, members: dict[str, Any]) -> dict[str, Any]:
    return call(service, command, **members) | ({"as": name} if name else {}) | ({"pages": pages} if pages else {})


def tags(kind: str, **pairs: str) -> list[dict[str, Any]]:
    return [{"ResourceType": kind, "Tags": [{"Key": key, "Value": value} for key, value in pairs.items()]}]


def tcp(port: int, **peers: Any) -> dict[str, Any]:
    return {"IpProtocol": "tcp", "FromPort": port, "ToPort": port, **peers}


ODD = "résumé & <b> \"quoted\" 'single' ]]> \u2603"

NETWORK = [
    ec2(
        "CreateVpc",
        name="vpc",
        CidrBlock="10.0.0.0/16",
        AmazonProvidedIpv6CidrBlock=True,
        TagSpecifications=tags("vpc", Name=ODD, Empty=""),
    ),
    ec2("AssociateVpcCidrBlock", VpcId="$vpc.Vpc.VpcId", CidrBlock="10.1.0.0/16"),
    ec2("ModifyVpcAttribute", VpcId="$vpc.Vpc.VpcId", EnableDnsHostnames={"Value": True}),
    *(ec2("CreateVpc", CidrBlock=f"10.{n}.0.0/16", TagSpecifications=tags("vpc", many="yes")) for n in range(2, 9)),
    *(ec2("CreateSubnet", name=f"subnet{n}", VpcId="$vpc.Vpc.VpcId", CidrBlock=f"10.0.{n}.0/24") for n in range(6)),
    ec2("CreateInternetGateway", name="igw", TagSpecifications=tags("internet-gateway", Name="out")),
    ec2("AttachInternetGateway", InternetGatewayId="$igw.InternetGateway.InternetGatewayId", VpcId="$vpc.Vpc.VpcId"),
    ec2("CreateSecurityGroup", name="web", GroupName="web", Description="Web", VpcId="$vpc.Vpc.VpcId"),
    ec2("CreateSecurityGroup", name="app", GroupName="app", Description="App", VpcId="$vpc.Vpc.VpcId"),
    ec2(
        "CreateManagedPrefixList",
        name="offices",
        PrefixListName="offices",
        AddressFamily="IPv4",
        MaxEntries=10,
        Entries=[{"Cidr": f"198.51.100.{n}/32", "Description": ODD} for n in range(7)],
    ),
    ec2(
        "AuthorizeSecurityGroupIngress",
        GroupId="$web.GroupId",
        IpPermissions=[
            tcp(443, IpRanges=[{"CidrIp": "0.0.0.0/0", "Description": "all"}], Ipv6Ranges=[{"CidrIpv6": "::/0"}]),
            tcp(22, PrefixListIds=[{"PrefixListId": "$offices.PrefixList.PrefixListId", "Description": "offices"}]),
            {"IpProtocol": "icmp", "FromPort": 8, "ToPort": -1, "IpRanges": [{"CidrIp": "10.0.0.0/8"}]},
        ],
        TagSpecifications=tags("security-group-rule", Team="net"),
    ),
    ec2(
        "AuthorizeSecurityGroupIngress",
        GroupId="$app.GroupId",
        IpPermissions=[tcp(8080, UserIdGroupPairs=[{"GroupId": "$web.GroupId"}])],
    ),
    ec2("CreateNetworkAcl", name="acl", VpcId="$vpc.Vpc.VpcId"),
    *(
        ec2(
            "CreateNetworkAclEntry",
            NetworkAclId="$acl.NetworkAcl.NetworkAclId",
            RuleNumber=100 + n,
            Egress=bool(n % 2),
            RuleAction="deny" if n == 3 else "allow",
            CidrBlock=f"10.{n}.0.0/16",
            **rule,
        )
        for n, rule in enumerate(
            (
                {"Protocol": "-1"},
                {"Protocol": "6", "PortRange": {"From": 1024, "To": 65535}},
                {"Protocol": "1", "IcmpTypeCode": {"Type": 8, "Code": -1}},
                {"Protocol": "17", "PortRange": {"From": 53, "To": 53}},
            )
        )
    ),
    *(
        ec2(
            "CreateNetworkInterface",
            name=f"eni{n}",
            SubnetId=f"$subnet{n % 3}.Subnet.SubnetId",
            Description=ODD if n == 0 else f"number {n}",
            Groups=["$web.GroupId", "$app.GroupId"],
            SecondaryPrivateIpAddressCount=n % 3,
            TagSpecifications=tags("network-interface", number=str(n)),
        )
        for n in range(12)
    ),
    ec2("AllocateAddress", name="eip", TagSpecifications=tags("elastic-ip", Name="one")),
    ec2("AllocateAddress", name="nat_eip"),
    ec2(
        "AssociateAddress",
        AllocationId="$eip.AllocationId",
        NetworkInterfaceId="$eni0.NetworkInterface.NetworkInterfaceId",
    ),
    ec2(
        "CreateNatGateway",
        name="nat",
        SubnetId="$subnet0.Subnet.SubnetId",
        AllocationId="$nat_eip.AllocationId",
        ClientToken="once",
    ),
    ec2("CreateRouteTable", name="rtb", VpcId="$vpc.Vpc.VpcId", TagSpecifications=tags("route-table", Name="r")),
    ec2(
        "CreateRoute",
        RouteTableId="$rtb.RouteTable.RouteTableId",
        DestinationCidrBlock="0.0.0.0/0",
        NatGatewayId="$nat.NatGateway.NatGatewayId",
    ),
    ec2(
        "CreateRoute",
        RouteTableId="$rtb.RouteTable.RouteTableId",
        DestinationIpv6CidrBlock="::/0",
        GatewayId="$igw.InternetGateway.InternetGatewayId",
    ),
    ec2(
        "AssociateRouteTable",
        RouteTableId="$rtb.RouteTable.RouteTableId",
        SubnetId="$subnet1.Subnet.SubnetId",
    ),
    ec2(
        "RunInstances",
        name="run",
        ImageId=IMAGE_ID,
        MinCount=2,
        MaxCount=2,
        SubnetId="$subnet1.Subnet.SubnetId",
        SecurityGroupIds=["$web.GroupId"],
        TagSpecifications=tags("instance", Name="web"),
    ),
    step("iam", "CreateRole", "", 0, {"RoleName": "flow-logs", "AssumeRolePolicyDocument": trust_of({"AWS": ACCOUNT})}),
    *(
        ec2(
            "CreateFlowLogs",
            ResourceType="Subnet",
            ResourceIds=[f"$subnet{n}.Subnet.SubnetId"],
            TrafficType=("ALL", "ACCEPT", "REJECT")[n % 3],
            LogGroupName="/flow",
            DeliverLogsPermissionArn=ROLE,
            LogFormat="${version} ${srcaddr} ${dstaddr}",
            MaxAggregationInterval=60,
            TagSpecifications=tags("vpc-flow-log", n=str(n)),
        )
        for n in range(6)
    ),
]

OF_VPC = [{"Name": "vpc-id", "Values": ["$vpc.Vpc.VpcId"]}]

DESCRIBED = [
    ec2("DescribeVpcs", pages=PAGE),
    ec2("DescribeVpcs", Filters=[{"Name": "tag:Name", "Values": ["résumé*"]}]),
    ec2("DescribeVpcAttribute", VpcId="$vpc.Vpc.VpcId", Attribute="enableDnsHostnames"),
    ec2("DescribeSubnets", pages=PAGE),
    ec2("DescribeSubnets", Filters=[*OF_VPC, {"Name": "cidr-block", "Values": ["10.0.1.0/24", "10.0.2.0/24"]}]),
    ec2("DescribeNetworkInterfaces", pages=PAGE),
    ec2("DescribeNetworkInterfaces", Filters=[{"Name": "tag:number", "Values": ["1?"]}]),
    ec2("DescribeNetworkInterfaces", Filters=[{"Name": "association.allocation-id", "Values": ["$eip.AllocationId"]}]),
    ec2("DescribeSecurityGroups", pages=PAGE),
    ec2("DescribeSecurityGroups", Filters=[{"Name": "ip-permission.group-id", "Values": ["$web.GroupId"]}]),
    ec2("DescribeSecurityGroupRules", pages=PAGE),
    ec2("DescribeSecurityGroupRules", Filters=[{"Name": "tag:Team", "Values": ["net"]}]),
    ec2("DescribeNetworkAcls", pages=PAGE),
    ec2("DescribeNetworkAcls", Filters=[*OF_VPC, {"Name": "entry.rule-action", "Values": ["deny"]}]),
    ec2("DescribeManagedPrefixLists"),
    ec2("GetManagedPrefixListEntries", pages=3, PrefixListId="$offices.PrefixList.PrefixListId"),
    ec2("DescribeRouteTables", pages=PAGE),
    ec2("DescribeRouteTables", Filters=[{"Name": "route.nat-gateway-id", "Values": ["$nat.NatGateway.NatGatewayId"]}]),
    ec2("DescribeInternetGateways"),
    ec2("DescribeNatGateways", Filter=OF_VPC),
    ec2("DescribeAddresses"),
    ec2("DescribeAddresses", Filters=[{"Name": "tag:Name", "Values": ["one"]}]),
    ec2("DescribeInstances"),
    ec2("DescribeInstanceStatus", IncludeAllInstances=True),
    ec2("DescribeFlowLogs", pages=PAGE),
    ec2("DescribeFlowLogs", Filter=[{"Name": "traffic-type", "Values": ["REJECT"]}]),
    ec2("DescribeTags", pages=PAGE),
    ec2("DescribeRegions"),
    ec2("DescribeAvailabilityZones"),
    ec2("DescribeImages"),
]

REFUSED = [
    ec2("DescribeVpcs", VpcIds=["vpc-00000000000000000"]),
    ec2("DescribeVpcs", DryRun=True),
    ec2("DescribeSubnets", Filters=[{"Name": "no-such", "Values": ["x"]}]),
    ec2("DeleteVpc", VpcId="$vpc.Vpc.VpcId"),
    ec2("CreateSubnet", VpcId="$vpc.Vpc.VpcId", CidrBlock="10.0.0.0/24"),
    ec2("CreateVpc", CidrBlock=ODD),
    ec2("CreateVpc", CidrBlock="10.0.0.0/16", Ipv4NetmaskLength=16),
    ec2("DescribeFleets"),
]


def test_what_it_builds_it_reads_as_boto3_does(world: Any, node: str) -> None:
    results = javascript(node, world, *NETWORK, *DESCRIBED, *REFUSED)
    built, described = results[: len(NETWORK)], results[len(NETWORK) : len(NETWORK) + len(DESCRIBED)]
    assert [result["error"] for result in built if "error" in result] == []
    known = answers_by_name(NETWORK, built)
    for asked, result in zip(DESCRIBED, described, strict=True):
        compare(world, asked, result, known)
    pages = {
        asked["command"]: len(result["pages"])
        for asked, result in zip(DESCRIBED, described, strict=True)
        if "pages" in result
    }
    assert min(pages.values()) > 1, pages
    for asked, result in zip(REFUSED, results[-len(REFUSED) :], strict=True):
        compare_errors(world, asked, result, known)


def test_items_that_fail_are_read_one_by_one(world: Any, node: str) -> None:
    """A destination that will not do is an item of Unsuccessful in an answer of 200 (API CreateFlowLogs)."""
    made = ec2("CreateVpc", name="vpc", CidrBlock="10.20.0.0/16")
    asked = ec2(
        "CreateFlowLogs",
        ResourceType="VPC",
        ResourceIds=["$vpc.Vpc.VpcId"],
        TrafficType="ALL",
        LogDestinationType="s3",
        LogDestination="arn:aws:s3:::nobody-has-it",
    )
    vpc, result = javascript(node, world, made, asked)
    members = filled(asked["input"], {"vpc": vpc["answer"]})
    answer = world.client("ec2").create_flow_logs(**members)
    assert result["answer"]["Unsuccessful"] == answer["Unsuccessful"] != []
    assert result["answer"]["FlowLogIds"] == answer["FlowLogIds"] == []


def logs(command: str, *, name: str = "", pages: int = 0, **members: Any) -> dict[str, Any]:
    return step("logs", command, name, pages, members)


def test_log_groups_and_events_are_read_as_boto3_does(world: Any, node: str) -> None:
    now_ms = int(datetime.now(UTC).timestamp() * 1000) - 60_000
    of_stream = {"logGroupName": "/reader/0", "logStreamName": "s"}
    events = [{"timestamp": now_ms + n, "message": f"{n} {ODD}"} for n in range(25)]
    built = [
        *(logs("CreateLogGroup", logGroupName=f"/reader/{n}", tags={"n": str(n), "odd": "é"}) for n in range(7)),
        logs("PutRetentionPolicy", logGroupName="/reader/0", retentionInDays=30),
        logs("CreateLogStream", **of_stream),
        logs("PutLogEvents", **of_stream, logEvents=events),
        logs(
            "PutMetricFilter",
            logGroupName="/reader/0",
            filterName="f",
            filterPattern="1",
            metricTransformations=[{"metricName": "m", "metricNamespace": "N", "metricValue": "1"}],
        ),
    ]
    described = [
        logs("DescribeLogGroups", pages=3, logGroupNamePrefix="/reader/"),
        logs("DescribeLogStreams", logGroupName="/reader/0"),
        logs("GetLogEvents", **of_stream, limit=10, startFromHead=True),
        logs("FilterLogEvents", pages=7, logGroupName="/reader/0"),
        logs("FilterLogEvents", logGroupName="/reader/0", filterPattern='"11"'),
        logs("DescribeMetricFilters", logGroupName="/reader/0"),
        logs("ListTagsForResource", resourceArn=f"arn:aws:logs:us-east-1:{ACCOUNT}:log-group:/reader/0"),
    ]
    refused = [
        logs("GetLogEvents", logGroupName="/reader/none", logStreamName="s"),
        logs("CreateLogGroup", logGroupName="/reader/0"),
        logs("CreateLogGroup", logGroupName="/reader/k", kmsKeyId="arn:aws:kms:us-east-1:1:key/1"),
        logs("FilterLogEvents", logGroupName="/reader/0", filterPattern="{ $.a = "),
    ]
    read(world, node, built, described, refused)


def iam(command: str, *, name: str = "", pages: int = 0, **members: Any) -> dict[str, Any]:
    return step("iam", command, name, pages, members)


def test_identities_are_read_as_boto3_does(world: Any, node: str) -> None:
    document = allow("ec2:Describe*", Sid="Odd", Condition={"StringEquals": {"aws:PrincipalTag/team": ODD}})
    built = [
        *(iam("CreateUser", UserName=f"reader{n}", Path="/readers/") for n in range(7)),
        iam("TagUser", UserName="reader0", Tags=[{"Key": "team", "Value": "net + ops"}]),
        iam("CreateGroup", GroupName="readers"),
        iam("AddUserToGroup", GroupName="readers", UserName="reader0"),
        iam("CreatePolicy", name="policy", PolicyName="read", PolicyDocument=document, Description="Reads"),
        iam("AttachGroupPolicy", GroupName="readers", PolicyArn="$policy.Policy.Arn"),
        iam("PutUserPolicy", UserName="reader0", PolicyName="own", PolicyDocument=document),
        iam(
            "CreateRole",
            RoleName="reader",
            AssumeRolePolicyDocument=trust_of({"Service": "ec2.amazonaws.com"}),
            MaxSessionDuration=7200,
            PermissionsBoundary="$policy.Policy.Arn",
        ),
        iam("CreateInstanceProfile", InstanceProfileName="reader"),
        iam("AddRoleToInstanceProfile", InstanceProfileName="reader", RoleName="reader"),
    ]
    described = [
        iam("ListUsers", pages=3, PathPrefix="/readers/"),
        iam("GetUser", UserName="reader0"),
        iam("ListGroupsForUser", UserName="reader0"),
        iam("GetGroup", GroupName="readers"),
        iam("ListAttachedGroupPolicies", GroupName="readers"),
        iam("GetUserPolicy", UserName="reader0", PolicyName="own"),
        iam("GetPolicy", PolicyArn="$policy.Policy.Arn"),
        iam("GetPolicyVersion", PolicyArn="$policy.Policy.Arn", VersionId="v1"),
        iam("GetRole", RoleName="reader"),
        iam("GetInstanceProfile", InstanceProfileName="reader"),
        iam("GetAccountSummary"),
        iam("GetAccountAuthorizationDetails", pages=3),
        iam(
            "SimulateCustomPolicy",
            PolicyInputList=[document],
            ActionNames=["ec2:DescribeVpcs", "ec2:CreateVpc"],
            ContextEntries=[
                {"ContextKeyName": "aws:PrincipalTag/team", "ContextKeyType": "string", "ContextKeyValues": [ODD]}
            ],
        ),
    ]
    refused = [
        iam("GetUser", UserName="nobody"),
        iam("CreateUser", UserName="reader0"),
        iam("DeleteGroup", GroupName="readers"),
        iam("CreatePolicy", PolicyName="bad", PolicyDocument="{"),
    ]
    read(world, node, built, described, refused)


# --- how answers are compared


def read(world: Any, node: str, built: list[Any], described: list[Any], refused: list[Any]) -> None:
    results = iter(javascript(node, world, *built, *described, *refused))
    made = [next(results) for _ in built]
    assert [result["error"] for result in made if "error" in result] == []
    known = answers_by_name(built, made)
    for asked in described:
        compare(world, asked, next(results), known)
    for asked in refused:
        compare_errors(world, asked, next(results), known)


def answers_by_name(asked: list[Any], results: list[Any]) -> dict[str, Any]:
    return {step["as"]: result["answer"] for step, result in zip(asked, results, strict=True) if "as" in step}


def filled(value: Any, known: dict[str, Any]) -> Any:
    """As the script does it, with the same answers."""
    if isinstance(value, list):
        return [filled(item, known) for item in value]
    if isinstance(value, dict):
        return {name: filled(member, known) for name, member in value.items()}
    if not isinstance(value, str) or not re.match(r"\$\w+\.", value):
        return value
    name, *path = value[1:].split(".")
    found = known[name]
    for part in path:
        found = found[part]
    return found


def compare(world: Any, asked: dict[str, Any], result: dict[str, Any], known: dict[str, Any]) -> None:
    assert "error" not in result, (asked, result)
    client, operation = world.client(asked["service"]), xform_name(asked["command"])
    members = filled(asked["input"], known)
    if "pages" in asked:
        config = {"PaginationConfig": {"PageSize": asked["pages"]}}
        pages, theirs = list(client.get_paginator(operation).paginate(**members, **config)), result["pages"]
    else:
        pages, theirs = [getattr(client, operation)(**members)], [result["answer"]]
    not_yet = NOT_YET.get(asked["command"], set())
    assert not not_yet & set(names_in(theirs)), asked
    assert not_yet <= set(names_in(pages)), asked
    assert [plain(page) for page in theirs] == [plain(page, not_yet) for page in pages], asked


def names_in(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from names_in(item)


def plain(value: Any, not_yet: Set[str] = frozenset(), name: str = "") -> Any:
    """An answer of either SDK as the same plain values; what one does not know yet is left out."""
    if isinstance(value, dict):
        left_out = {*not_yet, "ResponseMetadata"}
        return {key: plain(member, not_yet, key) for key, member in value.items() if key not in left_out}
    if isinstance(value, list):
        return [plain(item, not_yet, name) for item in value]
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if name.endswith("Document") and isinstance(value, str):
        return json.loads(unquote(value))  # boto3 decodes policies
    return value


def compare_errors(world: Any, asked: dict[str, Any], result: dict[str, Any], known: dict[str, Any]) -> None:
    client = world.client(asked["service"], parameter_validation=False)
    with pytest.raises(ClientError) as caught:
        getattr(client, xform_name(asked["command"]))(**filled(asked["input"], known))
    response = caught.value.response
    theirs = result["error"]
    # The SDK calls errors by the names of their shapes, IAM's NoSuchEntity by NoSuchEntityException.
    assert theirs["name"] in (response["Error"]["Code"], f"{response['Error']['Code']}Exception"), asked
    assert theirs["message"] == response["Error"]["Message"]
    assert theirs["status"] == response["ResponseMetadata"]["HTTPStatusCode"]
    lines = [json.loads(line) for line in (world.folder / "access.log").read_text().splitlines()]
    assert theirs["requestId"] in {line["request_id"] for line in lines}

"""Flow logs through the API: what CreateFlowLogs refuses and how, what DescribeFlowLogs answers, what counts twice.

Texts marked (recorded) were recorded from AWS or pasted from AWS by users in public issues, those marked (moto) are
moto's; where AWS publishes nothing the code says so and the test holds code and the naming of the parameter.
"""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.exceptions import ClientError

from vnotch.api.agents import Agents
from vnotch.api.ec2 import Ec2
from vnotch.api.ec2.flow_log_request import FlowLogRequest
from vnotch.api.service import ApiError, Call, Principal
from vnotch.store import network
from vnotch.store.agents import next_revision
from vnotch.store.principals import InlinePolicy

ACCOUNT = "123456789012"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/flow-logs"
BUCKET = "arn:aws:s3:::flow-logs-bucket"
STREAM = f"arn:aws:firehose:us-east-1:{ACCOUNT}:deliverystream/flow-logs"
GROUP_ARN = f"arn:aws:logs:us-east-1:{ACCOUNT}:log-group:/vpc/flow-logs"
DEFAULT_FORMAT = (
    "${version} ${account-id} ${interface-id} ${srcaddr} ${dstaddr} ${srcport} ${dstport} ${protocol} ${packets} "
    "${bytes} ${start} ${end} ${action} ${log-status}"
)
"""VPC user guide, default format."""

MINIMAL: dict[str, Any] = {
    "ResourceIds": ["vpc-0123456789abcdef0"],
    "ResourceType": "VPC",
    "TrafficType": "ALL",
    "LogGroupName": "/vpc/flow-logs",
    "DeliverLogsPermissionArn": ROLE,
}
LEFT_OUT: Any = None


def checked(any_interval: bool = False, **changes: Any) -> FlowLogRequest:
    params = {name: value for name, value in {**MINIMAL, **changes}.items() if value is not LEFT_OUT}
    principal = Principal("user", "admin", f"arn:aws:iam::{ACCOUNT}:user/admin", ACCOUNT, "AKIA")
    call = Call("ec2", "CreateFlowLogs", params, principal, ACCOUNT, "us-east-1", "request", 0)
    return FlowLogRequest.of(call, any_interval)


S3 = {"LogDestinationType": "s3", "LogDestination": BUCKET, "LogGroupName": LEFT_OUT}
S3_ALONE = {**S3, "DeliverLogsPermissionArn": LEFT_OUT}
TGW = {"ResourceIds": ["tgw-0123"], "ResourceType": "TransitGateway", "TrafficType": LEFT_OUT}


@pytest.mark.parametrize(
    ("changes", "code", "text"),
    [
        pytest.param(
            {"LogGroupName": LEFT_OUT},
            "InvalidParameter",
            "LogDestination can't be empty if LogGroupName is not provided.",
            id="no destination (recorded)",
        ),
        pytest.param(
            {"LogDestination": GROUP_ARN},
            "InvalidParameter",
            "Please only provide LogGroupName or only provide LogDestination.",
            id="group twice (recorded)",
        ),
        pytest.param(
            {"LogDestinationType": "s3"},
            "InvalidParameter",
            "LogDestination type must be cloud-watch-logs if LogGroupName is provided.",
            id="group with s3 (recorded)",
        ),
        pytest.param(
            {"DeliverLogsPermissionArn": LEFT_OUT},
            "InvalidParameter",
            "DeliverLogsPermissionArn can't be empty if LogDestinationType is cloud-watch-logs.",
            id="no role (moto)",
        ),
        pytest.param(
            {**S3, "DeliverLogsPermissionArn": ROLE},
            "InvalidParameter",
            "DeliverLogsPermissionArn is not applicable for s3 delivery",
            id="role with s3 (recorded)",
        ),
        pytest.param(
            {"DestinationOptions": {}},
            "InvalidParameter",
            "DestinationOptions is not supported when LogDestinationType is cloud-watch-logs",
            id="options with a group, even empty (recorded)",
        ),
        pytest.param(
            {"DestinationOptions": {"FileFormat": "plain-text", "HiveCompatiblePartitions": False}},
            "InvalidParameter",
            "DestinationOptions is not supported when LogDestinationType is cloud-watch-logs",
            id="options with a group, even default (recorded)",
        ),
        pytest.param(
            TGW,
            "InvalidParameter",
            "max-aggregation-interval other than 60 sec / 1 min is not supported when the resource-type is "
            "TransitGateway or TransitGatewayAttachment",
            id="transit gateway by default 600 (recorded)",
        ),
        pytest.param(
            {"MaxAggregationInterval": 61}, "InvalidParameter", "Invalid Flow Log Max Aggregation Interval", id="(moto)"
        ),
        pytest.param(
            {"MaxAggregationInterval": 0},
            "InvalidParameter",
            "Invalid Flow Log Max Aggregation Interval",
            id="0 (moto)",
        ),
        pytest.param(
            {**TGW, "ResourceType": "TransitGatewayAttachment", "MaxAggregationInterval": 60},
            "InvalidParameter",
            "Invalid Resource id tgw-0123 for resource-type TransitGatewayAttachment",
            id="id of another type (recorded)",
        ),
        pytest.param(
            {"TrafficType": LEFT_OUT},
            "InvalidParameter",
            "traffic-type is required when the resource-type is VPC, Subnet or NetworkInterface",
            id="no traffic type (text recorded)",
        ),
        pytest.param(
            {"LogFormat": "${version} ${bytes} "},
            "InvalidParameter",
            "1 validation error detected: Value '${version} ${bytes} ' at 'logFormat' has an invalid format",
            id="trailing space (text recorded)",
        ),
        pytest.param(
            {"LogFormat": "version bytes"},
            "InvalidParameter",
            "1 validation error detected: Value 'version bytes' at 'logFormat' has an invalid format",
            id="no fields (text recorded)",
        ),
        pytest.param(
            {"ResourceIds": []},
            "MissingParameter",
            "The request must include the ResourceIds parameter. Add the required parameter and retry the request.",
            id="no resources (recorded)",
        ),
    ],
)
def test_requests_that_aws_refuses(changes: dict[str, Any], code: str, text: str) -> None:
    with pytest.raises(ApiError) as caught:
        checked(**changes)
    assert (caught.value.code, caught.value.message, caught.value.status) == (code, text, 400)


@pytest.mark.parametrize(
    ("changes", "code", "named"),
    [
        ({"TrafficType": "all"}, "InvalidParameterValue", "TrafficType"),
        ({"ResourceType": "Vpc"}, "InvalidParameterValue", "ResourceType"),
        ({"LogDestinationType": "S3"}, "InvalidParameterValue", "LogDestinationType"),
        ({**TGW, "TrafficType": "ALL"}, "InvalidParameter", "traffic-type"),
        ({"ResourceIds": ["vpc-1"] * 1001}, "InvalidParameterValue", "ResourceId"),
        ({**TGW, "ResourceIds": ["tgw-1"] * 26}, "InvalidParameterValue", "ResourceId"),
        ({"ResourceIds": ["subnet-1"]}, "InvalidParameter", "subnet-1"),
        ({"DeliverLogsPermissionArn": "flow-logs"}, "InvalidParameterValue", "DeliverLogsPermissionArn"),
        ({"DeliverLogsPermissionArn": "arn:aws:iam::999999999999:role/r"}, "InvalidParameter", "pass role"),
        ({"DeliverCrossAccountRole": ROLE}, "InvalidParameter", "DeliverCrossAccountRole"),
        ({"LogGroupName": "a:b"}, "InvalidParameterValue", "LogGroupName"),
        ({"LogGroupName": LEFT_OUT, "LogDestination": BUCKET}, "InvalidParameterValue", "LogDestination"),
        ({**S3_ALONE, "LogDestination": GROUP_ARN}, "InvalidParameterValue", "LogDestination"),
        ({**S3_ALONE, "LogDestination": f"{BUCKET}/AWSLogs/"}, "InvalidParameterValue", "AWSLogs"),
        ({**S3_ALONE, "DestinationOptions": {"FileFormat": "orc"}}, "InvalidParameterValue", "FileFormat"),
        ({"LogFormat": "${version} ${colour}"}, "InvalidParameter", "colour"),
        ({"LogFormat": "${version} ${version}"}, "InvalidParameter", "version"),
        # Roles are for a stream of another account, of which there is none.
        (
            {"LogDestinationType": "kinesis-data-firehose", "LogDestination": STREAM, "LogGroupName": LEFT_OUT},
            "InvalidParameter",
            "DeliverLogsPermissionArn",
        ),
    ],
)
def test_requests_whose_refusal_aws_does_not_publish(changes: dict[str, Any], code: str, named: str) -> None:
    with pytest.raises(ApiError) as caught:
        checked(**changes)
    assert caught.value.code == code
    assert named in caught.value.message


def test_the_defaults_of_a_request() -> None:
    request = checked()
    assert (request.log_format, request.max_aggregation_interval) == (DEFAULT_FORMAT, 600)
    assert (request.log_destination_type, request.log_destination) == ("cloud-watch-logs", None)


def test_other_intervals_where_they_are_allowed() -> None:
    for interval in (1, 5, 59, 60, 600, 900):
        assert checked(any_interval=True, MaxAggregationInterval=interval).max_aggregation_interval == interval
    for interval in (0, -1, 901):
        with pytest.raises(ApiError, match="Invalid Flow Log Max Aggregation Interval"):
            checked(any_interval=True, MaxAggregationInterval=interval)


# --- through boto3 ---


class Network:
    """A VPC with two subnets and an interface in each, and the parameters of a flow log on it."""

    def __init__(self, api: Any, ec2: Any) -> None:
        self.api, self.ec2 = api, ec2
        self.vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        self.subnets = [
            ec2.create_subnet(VpcId=self.vpc, CidrBlock=f"10.0.{n}.0/24")["Subnet"]["SubnetId"] for n in range(2)
        ]
        self.interfaces = [
            ec2.create_network_interface(SubnetId=subnet)["NetworkInterface"]["NetworkInterfaceId"]
            for subnet in self.subnets
        ]

    def create(self, *ids: str, **changes: Any) -> dict[str, Any]:
        ids = ids or (self.vpc,)
        kinds = {"vpc": "VPC", "subnet": "Subnet", "eni": "NetworkInterface"}
        params = {**MINIMAL, "ResourceIds": list(ids), "ResourceType": kinds[ids[0].partition("-")[0]], **changes}
        answer: dict[str, Any] = self.ec2.create_flow_logs(
            **{name: value for name, value in params.items() if value is not LEFT_OUT}
        )
        return answer

    def described(self, **params: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ec2.describe_flow_logs(**params)["FlowLogs"]
        return found

    def refused(self, *ids: str, **changes: Any) -> tuple[str, str]:
        with pytest.raises(ClientError) as caught:
            self.create(*ids, **changes)
        error = caught.value.response["Error"]
        return error["Code"], error["Message"]


@pytest.fixture
def net(api: Any) -> Network:
    api.serve(Ec2(api.state, api.accounts), routes=Agents(api.state, api.accounts).routes())
    return Network(api, api.client("ec2", parameter_validation=False))


def test_a_minimal_flow_log_is_described_with_these_members_and_no_others(net: Network) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    answer = net.create()
    assert answer["Unsuccessful"] == []
    assert answer["ClientToken"]
    [flow_log_id] = answer["FlowLogIds"]
    assert len(flow_log_id) == len("fl-0667848f2d19786ca")
    [found] = net.described()
    created = found.pop("CreationTime")
    assert before <= created <= datetime.now(UTC)
    assert found == {
        "DeliverLogsPermissionArn": ROLE,
        "DeliverLogsStatus": "SUCCESS",
        "FlowLogId": flow_log_id,
        "FlowLogStatus": "ACTIVE",
        "LogDestinationType": "cloud-watch-logs",
        "LogFormat": DEFAULT_FORMAT,
        "LogGroupName": "/vpc/flow-logs",
        "MaxAggregationInterval": 600,
        "ResourceId": net.vpc,
        "Tags": [],
        "TrafficType": "ALL",
    }


def test_a_log_group_given_by_its_arn(net: Network) -> None:
    # Terraform's acceptance tests against AWS: an ARN comes back as given, with the group's name beside it.
    net.create(LogGroupName=LEFT_OUT, LogDestination=GROUP_ARN)
    [found] = net.described()
    assert (found["LogDestination"], found["LogGroupName"]) == (GROUP_ARN, "/vpc/flow-logs")


def test_what_is_given_comes_back(net: Network) -> None:
    net.create(
        TrafficType="REJECT",
        LogFormat="${version} ${vpc-id} ${subnet-id}",
        MaxAggregationInterval=60,
        TagSpecifications=[{"ResourceType": "vpc-flow-log", "Tags": [{"Key": "Name", "Value": "rejects"}]}],
    )
    [found] = net.described()
    assert (found["TrafficType"], found["MaxAggregationInterval"]) == ("REJECT", 60)
    assert found["LogFormat"] == "${version} ${vpc-id} ${subnet-id}"
    assert found["Tags"] == [{"Key": "Name", "Value": "rejects"}]


def test_one_flow_log_for_each_resource(net: Network) -> None:
    ids = net.create(*net.subnets)["FlowLogIds"]
    assert {item["ResourceId"]: item["FlowLogId"] for item in net.described()} == dict(
        zip(net.subnets, ids, strict=True)
    )


@pytest.mark.parametrize(
    ("ids", "code", "text"),
    [
        (["vpc-1"], "InvalidVpcID.NotFound", "The vpc ID 'vpc-1' does not exist"),
        (["subnet-1"], "InvalidSubnetID.NotFound", "The subnet ID 'subnet-1' does not exist"),
        (["eni-1"], "InvalidNetworkInterfaceID.NotFound", "The networkInterface ID 'eni-1' does not exist"),
    ],
)
def test_resources_that_are_not_there(net: Network, ids: list[str], code: str, text: str) -> None:
    assert net.refused(*ids) == (code, text)


@pytest.mark.parametrize(
    ("resource_type", "resource_id", "code"),
    [
        ("TransitGateway", "tgw-0123456789abcdef0", "InvalidTransitGatewayID.NotFound"),
        ("TransitGatewayAttachment", "tgw-attach-0123456789abcdef0", "InvalidTransitGatewayAttachmentID.NotFound"),
        ("RegionalNatGateway", "nat-0123456789abcdef0", "NatGatewayNotFound"),
    ],
)
def test_resources_of_which_there_are_none(net: Network, resource_type: str, resource_id: str, code: str) -> None:
    params = {**MINIMAL, "ResourceIds": [resource_id], "ResourceType": resource_type, "MaxAggregationInterval": 60}
    if resource_type != "RegionalNatGateway":
        del params["TrafficType"]
    with pytest.raises(ClientError) as caught:
        net.ec2.create_flow_logs(**params)
    assert caught.value.response["Error"]["Code"] == code
    assert resource_id in caught.value.response["Error"]["Message"]


def test_a_refusal_makes_nothing_of_the_whole_call(net: Network) -> None:
    assert net.refused(net.vpc, "vpc-1")[0] == "InvalidVpcID.NotFound"
    assert net.described() == []


@pytest.mark.parametrize(
    "destination",
    [
        f"{GROUP_ARN}:*",
        GROUP_ARN.replace("us-east-1", "eu-west-1"),
        GROUP_ARN.replace(ACCOUNT, "999999999999"),
    ],
)
def test_a_destination_that_cannot_be_written_is_unsuccessful_inside_a_200(net: Network, destination: str) -> None:
    answer = net.create(*net.subnets, LogGroupName=LEFT_OUT, LogDestination=destination, ClientToken="t")
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert answer["FlowLogIds"] == []
    assert answer["ClientToken"] == "t"
    group = "/vpc/flow-logs" + (":*" if destination.endswith(":*") else "")
    text = f"Access Denied for LogDestination: {group}. Please check LogDestination permission"
    assert answer["Unsuccessful"] == [
        {"ResourceId": subnet, "Error": {"Code": "400", "Message": text}} for subnet in net.subnets
    ]
    assert net.described() == []


def test_duplicates(net: Network) -> None:
    twice = (
        "FlowLogAlreadyExists",
        "Error. There is an existing Flow Log with the same configuration and log destination.",
    )
    net.create()
    assert net.refused() == twice
    assert net.refused(LogGroupName=LEFT_OUT, LogDestination=GROUP_ARN) == twice  # the same group by another name
    net.create(LogGroupName="/vpc/other")
    net.create(net.subnets[0])
    assert len(net.described()) == 3


def test_250_flow_logs_on_a_resource(net: Network) -> None:
    with net.api.state.write() as session:
        session.add_all(
            network.FlowLog(
                flow_log_id=f"fl-{number}",
                resource_id=net.vpc,
                resource_type="VPC",
                traffic_type="ALL",
                log_destination_type="cloud-watch-logs",
                log_group_name=f"group-{number}",
                deliver_logs_permission_arn=ROLE,
                log_format=DEFAULT_FORMAT,
                max_aggregation_interval=600,
                created_ms=0,
            )
            for number in range(249)
        )
    net.create()
    assert net.refused(LogGroupName="/vpc/other")[0] == "FlowLogsLimitExceeded"
    net.create(net.subnets[0])


def test_a_client_token_makes_one_flow_log(net: Network) -> None:
    first = net.create(ClientToken="token")
    again = net.create(ClientToken="token")
    assert again["FlowLogIds"] == first["FlowLogIds"]
    assert again["ClientToken"] == first["ClientToken"] == "token"
    assert net.refused(ClientToken="token", TrafficType="REJECT")[0] == "IdempotentParameterMismatch"
    assert net.refused(ClientToken="Token")[0] == "FlowLogAlreadyExists"  # tokens are case-sensitive
    assert net.refused(ClientToken="t" * 65)[0] == "InvalidParameterValue"
    assert len(net.described()) == 1


def test_a_client_token_at_once_from_many(net: Network) -> None:
    made: list[str] = []
    threads = [
        threading.Thread(target=lambda: made.extend(net.create(ClientToken="token")["FlowLogIds"])) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 4
    assert len(set(made)) == len(net.described()) == 1


def test_dry_run(net: Network) -> None:
    assert net.refused(DryRun=True) == (
        "DryRunOperation",
        "Request would have succeeded, but DryRun flag is set.",
    )
    assert net.described() == []


def test_passing_the_role_needs_a_permission(net: Network) -> None:
    def user(name: str, passed_to: str | None) -> Any:
        statements: list[dict[str, Any]] = [{"Effect": "Allow", "Action": "ec2:*", "Resource": "*"}]
        if passed_to:
            condition = {"StringEquals": {"iam:PassedToService": passed_to}}
            statements.append({"Effect": "Allow", "Action": "iam:PassRole", "Resource": ROLE, "Condition": condition})
        document = json.dumps({"Version": "2012-10-17", "Statement": statements})
        with net.api.accounts.write() as session:
            made = net.api.accounts.make_user(session, name)
            session.add(InlinePolicy(owner_id=made.user_id, name="p", document=document))
            key = net.api.accounts.make_user_key(session, made)
            pair = (key.access_key_id, key.secret_access_key)
        return net.api.client("ec2", key=pair, parameter_validation=False)

    def denied(**changes: Any) -> bool:
        code, text = net.refused(**changes)
        return code == "UnauthorizedOperation" and text.startswith("You are not authorized to perform this operation.")

    owner = net.ec2
    net.ec2 = user("without", None)
    assert denied()
    assert denied(DryRun=True)
    net.ec2 = user("other", "ec2.amazonaws.com")
    assert denied()
    net.ec2 = user("with", "vpc-flow-logs.amazonaws.com")
    assert net.refused(DryRun=True)[0] == "DryRunOperation"
    net.create()
    net.ec2 = owner
    assert len(net.described()) == 1


# --- describe and delete ---


def test_filters(net: Network) -> None:
    [whole] = net.create(TagSpecifications=[{"ResourceType": "vpc-flow-log", "Tags": [{"Key": "a", "Value": "1"}]}])[
        "FlowLogIds"
    ]
    [part] = net.create(net.interfaces[0], TrafficType="REJECT", LogGroupName="rejects")["FlowLogIds"]

    def found(name: str, *values: str) -> list[str]:
        return [item["FlowLogId"] for item in net.described(Filter=[{"Name": name, "Values": list(values)}])]

    assert found("flow-log-id", whole) == [whole]
    assert found("resource-id", net.vpc, net.interfaces[0]) == [whole, part]
    assert found("traffic-type", "REJECT") == [part]
    assert found("traffic-type", "reject") == []
    assert found("log-group-name", "rejects") == [part]
    assert found("log-destination-type", "cloud-watch-logs") == [whole, part]
    assert found("log-destination-type", "s3") == []
    assert found("deliver-log-status", "SUCCESS") == [whole, part]
    assert found("deliver-log-status", "FAILED") == []
    assert found("tag:a", "1") == [whole]
    assert found("tag-key", "a") == [whole]
    for name in ("deliver-logs-status", "colour"):
        with pytest.raises(ClientError) as caught:
            found(name, "x")
        assert caught.value.response["Error"]["Code"] == "InvalidFilter"


def test_pages(net: Network) -> None:
    made = [net.create(LogGroupName=f"group-{number}")["FlowLogIds"][0] for number in range(12)]
    pages = list(net.ec2.get_paginator("describe_flow_logs").paginate(PaginationConfig={"PageSize": 5}))
    assert [len(page["FlowLogs"]) for page in pages] == [5, 5, 2]
    assert [item["FlowLogId"] for page in pages for item in page["FlowLogs"]] == made
    # A page that is asked to be too large is as large as it can be (API DescribeFlowLogs).
    assert len(net.described(MaxResults=5000)) == 12
    assert [item["FlowLogId"] for item in net.described(FlowLogIds=made[:2])] == made[:2]


def test_unknown_ids_are_described_as_nothing(net: Network) -> None:
    assert net.described(FlowLogIds=["fl-0123456789abcdef0"]) == []


def test_delete(net: Network) -> None:
    ids = net.create(*net.subnets)["FlowLogIds"]
    answer = net.ec2.delete_flow_logs(FlowLogIds=ids[:1])
    assert answer["Unsuccessful"] == []
    assert [item["FlowLogId"] for item in net.described()] == ids[1:]
    with pytest.raises(ClientError) as caught:
        net.ec2.delete_flow_logs(FlowLogIds=[ids[1], "fl-a", "fl-b"])
    assert caught.value.response["Error"] == {
        "Code": "InvalidFlowLogId.NotFound",
        "Message": "These flow log ids in the input list are not found: [TotalCount: 2] fl-a fl-b",
    }
    assert len(net.described()) == 1  # all or none


def test_a_flow_log_outlives_its_interface(net: Network) -> None:
    [flow_log_id] = net.create(net.interfaces[0])["FlowLogIds"]
    net.ec2.delete_network_interface(NetworkInterfaceId=net.interfaces[0])
    assert [item["FlowLogId"] for item in net.described()] == [flow_log_id]


def test_tags_of_a_flow_log_change(net: Network) -> None:
    [flow_log_id] = net.create()["FlowLogIds"]
    net.ec2.create_tags(Resources=[flow_log_id], Tags=[{"Key": "Name", "Value": "new"}])
    assert net.described()[0]["Tags"] == [{"Key": "Name", "Value": "new"}]
    tags = net.ec2.describe_tags(Filters=[{"Name": "resource-type", "Values": ["vpc-flow-log"]}])["Tags"]
    assert [tag["ResourceId"] for tag in tags] == [flow_log_id]
    net.ec2.delete_flow_logs(FlowLogIds=[flow_log_id])
    assert net.ec2.describe_tags()["Tags"] == []


def test_the_worst_delivery_is_shown(net: Network) -> None:
    [flow_log_id] = net.create()["FlowLogIds"]
    reports = {"one": ("SUCCESS", None), "two": ("FAILED", "Rate limited"), "three": ("FAILED", "Access error")}
    with net.api.state.write() as session:
        for name, (status, message) in reports.items():
            session.add(network.Agent(name=name, revision=next_revision(session), created_ms=0))
            session.flush()
            session.add(network.FlowLogDelivery(flow_log_id=flow_log_id, agent=name, status=status, message=message))
    [found] = net.described()
    assert (found["DeliverLogsStatus"], found["DeliverLogsErrorMessage"]) == ("FAILED", "Access error")
    assert found["FlowLogStatus"] == "ACTIVE"
    assert len(net.described(Filter=[{"Name": "deliver-log-status", "Values": ["FAILED"]}])) == 1
    net.ec2.delete_flow_logs(FlowLogIds=[flow_log_id])
    assert net.described() == []

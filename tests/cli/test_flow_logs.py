"""`vnotch flow-logs` against a real server; boto3 says what came of it."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console

from tests.cli.running import RunningServer, run
from vnotch.cli.destination import destination_words
from vnotch.cli.flow_logs import delivery_words, flow_logs_table, format_of, format_words, kind_of, what_stays
from vnotch.errors import InputError
from vnotch.fields import DEFAULT_FORMAT


@pytest.fixture(scope="module")
def vpc(server: RunningServer) -> str:
    tags = [{"ResourceType": "vpc", "Tags": [{"Key": "Name", "Value": "shop"}]}]
    made = server.endpoint.client("ec2").create_vpc(CidrBlock="10.9.0.0/16", TagSpecifications=tags)
    return str(made["Vpc"]["VpcId"])


def flow_logs(server: RunningServer, *arguments: str) -> Any:
    return run("flow-logs", *arguments, "--data-dir", server.data_dir)


def described(server: RunningServer) -> dict[str, dict[str, Any]]:
    return {row["FlowLogId"]: row for row in server.endpoint.client("ec2").describe_flow_logs()["FlowLogs"]}


def test_from_create_to_delete(server: RunningServer, vpc: str) -> None:
    done = flow_logs(server, "create", "shop", "--log-group", "/shop/all", "--traffic-type", "reject", "--json")
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    flow_log_id = made["flow_logs"][0]["flow_log_id"]
    row = described(server)[flow_log_id]
    assert (row["ResourceId"], row["LogGroupName"], row["TrafficType"]) == (vpc, "/shop/all", "REJECT")
    assert (row["MaxAggregationInterval"], row["LogFormat"]) == (60, DEFAULT_FORMAT)

    # The role is the narrowest: it names the group, and nobody else's flow logs.
    role = row["DeliverLogsPermissionArn"].rpartition("/")[2]
    iam = server.endpoint.client("iam")
    policy = iam.get_role_policy(RoleName=role, PolicyName="deliver")["PolicyDocument"]["Statement"][0]
    arn = "arn:aws:logs:us-east-1:123456789012:log-group:/shop/all"
    assert policy["Resource"] == [arn, f"{arn}:*"]
    assert set(policy["Action"]) == {"logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents"}

    listed = flow_logs(server, "list").stdout
    assert flow_log_id in listed
    assert "/shop/all" in listed
    assert json.loads(flow_logs(server, "list", "--json").stdout)[0]["FlowLogId"] == flow_log_id

    done = flow_logs(server, "delete", flow_log_id)
    assert done.returncode == 0, done.stderr
    assert f"{flow_log_id} is deleted" in done.stdout
    assert "the log group /shop/all stays" in done.stdout
    assert f"the role {row['DeliverLogsPermissionArn']} stays" in done.stdout
    assert described(server) == {}
    assert "no flow log yet" in flow_logs(server, "list").stderr


def test_a_role_and_a_format_of_ones_own(server: RunningServer, vpc: str) -> None:
    role = "arn:aws:iam::123456789012:role/mine"
    done = flow_logs(server, "create", vpc, "--role", role, "--format", "srcaddr dstaddr action", "--interval", "5")
    assert done.returncode == 0, done.stderr
    (row,) = described(server).values()
    assert (row["DeliverLogsPermissionArn"], row["MaxAggregationInterval"]) == (role, 5)
    assert (row["LogGroupName"], row["LogFormat"]) == (f"/vnotch/{vpc}", "${srcaddr} ${dstaddr} ${action}")
    flow_logs(server, "delete", row["FlowLogId"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("create", "nobody"), "there is no VPC, subnet or network interface nobody"),
        (("create", "vpc-1", "subnet-1"), "several kinds"),
        (("create", "i-1"), "i-1"),
        (("create", "vpc-0123456789abcdef0"), "InvalidVpcId.NotFound"),
        (("create", "shop", "--format", "srcaddr colour"), "colour"),
        (("create", "shop", "--traffic-type", "some"), "some"),
        (("create", "shop", "--interval", "7200"), "interval"),
        (("create", "shop", "--log-group", "no group?"), "log group"),
        (("create", "subnet-0123456789abcdef0"), "InvalidSubnetID.NotFound"),
        (("create", "eni-0123456789abcdef0"), "InvalidNetworkInterfaceID.NotFound"),
        (("delete", "fl-0123456789abcdef0"), "InvalidFlowLogId.NotFound"),
    ],
)
def test_what_is_wrong_is_one_line(server: RunningServer, vpc: str, arguments: tuple[str, ...], said: str) -> None:
    iam = server.endpoint.client("iam")
    before = iam.list_roles()["Roles"]
    done = flow_logs(server, *arguments)
    assert done.returncode == 2
    assert iam.list_roles()["Roles"] == before, "nothing is made for what is refused"
    assert said.lower() in done.stderr.lower()
    assert "Traceback" not in done.stderr
    assert described(server) == {}


def test_kinds_of_resources() -> None:
    assert [kind_of([name]) for name in ("vpc-1", "subnet-1", "eni-1")] == ["VPC", "Subnet", "NetworkInterface"]
    with pytest.raises(InputError, match="no resource of a flow log"):
        kind_of(["sg-1"])


def test_a_format_may_be_written_by_names_alone() -> None:
    assert format_of("srcaddr, action") == "${srcaddr} ${action}"
    assert format_of("${srcaddr} ${action}") == "${srcaddr} ${action}"


def test_short_forms() -> None:
    assert format_words(DEFAULT_FORMAT) == "default"
    assert format_words("${srcaddr} ${action}") == "srcaddr action"
    assert format_words("${srcaddr} ${dstaddr} ${action} ${bytes}") == "srcaddr dstaddr action ... (4 fields)"
    failed = {"DeliverLogsStatus": "FAILED", "DeliverLogsErrorMessage": "Access error"}
    assert delivery_words(failed) == "FAILED: Access error"
    assert delivery_words({"DeliverLogsStatus": "SUCCESS"}) == "SUCCESS"


def test_ids_are_whole_in_the_list() -> None:
    row = {
        "FlowLogId": "fl-0123456789abcdef0",
        "ResourceId": "subnet-0123456789abcdef0",
        "DeliverLogsStatus": "SUCCESS",
        "TrafficType": "REJECT",
        "MaxAggregationInterval": 60,
        "LogDestinationType": "s3",
        "LogDestination": "arn:aws:s3:::a-bucket-of-a-long-name/and/a/long/[prefix]",
        "LogFormat": "${interface-id} ${srcaddr} ${dstaddr} ${action}",
    }
    for width in (100, 120, 200):
        console = Console(width=width, record=True, file=io.StringIO())
        console.print(flow_logs_table([row]))
        text = console.export_text()
        assert "fl-0123456789abcdef0" in text
        assert "subnet-0123456789abcdef0" in text
        assert "SUCCESS" in text
    assert "[prefix]" in text


def test_what_others_still_use_is_not_called_left_over() -> None:
    one = {"FlowLogId": "fl-1", "LogGroupName": "g", "DeliverLogsPermissionArn": "arn:role/r"}
    two = {**one, "FlowLogId": "fl-2"}
    (sentence,) = what_stays([one], [two])
    assert "1 other flow log delivers to" in sentence
    assert "delete-log-group" not in sentence


# --- buckets ---


def test_a_bucket_by_its_url(server: RunningServer, vpc: str) -> None:
    """Without --s3-endpoint buckets are folders in the server's data folder."""
    missing = flow_logs(server, "create", "shop", "--to", "s3://shop-logs/net")
    assert missing.returncode == 1
    assert "LogDestination: shop-logs does not exist" in missing.stderr
    assert "mkdir -p" in missing.stderr
    assert described(server) == {}

    (server.folders.buckets / "shop-logs").mkdir(parents=True)
    options = ("--file-format", "parquet", "--hive", "--per-hour")
    done = flow_logs(server, "create", "shop", "--to", "s3://shop-logs/net", *options, "--json")
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert (made["bucket_url"], made["log_group"], made["role_arn"]) == ("s3://shop-logs/net", None, None)
    flow_log_id = made["flow_logs"][0]["flow_log_id"]
    row = described(server)[flow_log_id]
    assert row["LogDestination"] == "arn:aws:s3:::shop-logs/net"
    assert row["DestinationOptions"] == {
        "FileFormat": "parquet", "HiveCompatiblePartitions": True, "PerHourPartition": True,
    }  # fmt: skip
    assert "s3://shop-logs/net (parquet," in flow_logs(server, "list").stdout
    done = flow_logs(server, "delete", flow_log_id)
    assert "the files in s3://shop-logs/net (parquet, hive, hourly) stay" in " ".join(done.stdout.split())
    assert described(server) == {}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--to", "shop-logs"), "s3://BUCKET"),
        (("--to", "s3://"), "s3://BUCKET"),
        (("--to", "s3://Shop"), "s3://BUCKET"),
        (("--to", "s3://shop-logs", "--log-group", "g"), "--log-group is for a log group"),
        (("--to", "s3://shop-logs", "--role", "r"), "--role is for a log group"),
        (("--hive",), "--hive is for the files of a bucket"),
        (("--file-format", "parquet"), "--file-format is for the files of a bucket"),
        (("--to", "s3://shop-logs/AWSLogs/"), "AWSLogs is reserved"),
        (("--to", "s3://shop-logs", "--file-format", "orc"), "plain-text or parquet"),
    ],
)
def test_what_is_no_destination_is_refused_in_one_line(
    server: RunningServer, vpc: str, arguments: tuple[str, ...], said: str
) -> None:
    done = flow_logs(server, "create", "shop", *arguments)
    assert done.returncode != 0
    assert said in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_where_a_flow_log_delivers_to_in_words() -> None:
    assert destination_words({"LogDestinationType": "cloud-watch-logs", "LogGroupName": "/g"}) == "/g"
    row = {"LogDestinationType": "s3", "LogDestination": "arn:aws:s3:::bkt/f/", "DestinationOptions": {}}
    assert destination_words(row) == "s3://bkt/f"
    assert destination_words({**row, "LogDestination": "arn:aws:s3:::bkt"}) == "s3://bkt"
    assert destination_words({**row, "DestinationOptions": {"FileFormat": "parquet"}}) == "s3://bkt/f (parquet)"

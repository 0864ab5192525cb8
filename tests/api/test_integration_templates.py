"""GetFlowLogsIntegrationTemplate over boto3: the template lands in the bucket, and wrong requests are refused."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from botocore.exceptions import ClientError
from test_uploads import BUCKET, Site

ANSWERS = "arn:aws:s3:::flow-logs-bucket/answers/"
DAILY = {"IntegrationResultS3DestinationArn": ANSWERS, "PartitionLoadFrequency": "daily"}
PAST = datetime(2026, 1, 30, tzinfo=UTC)
NONE = {
    **DAILY, "PartitionLoadFrequency": "none", "PartitionStartDate": PAST, "PartitionEndDate": PAST + timedelta(days=1),
}  # fmt: skip


@pytest.fixture
def site(api: Any) -> Site:
    return Site(api)


def flow_log(site: Site, **options: Any) -> str:
    made = site.ec2.create_flow_logs(
        ResourceIds=[site.vpc], ResourceType="VPC", TrafficType="ALL", LogDestinationType="s3", LogDestination=BUCKET,
        DestinationOptions=options,
    )  # fmt: skip
    return str(made["FlowLogIds"][0])


def ask(site: Site, flow_log_id: str, *integrations: dict[str, Any], where: str = BUCKET + "/t/", **more: Any) -> Any:
    return site.ec2.get_flow_logs_integration_template(
        FlowLogId=flow_log_id, ConfigDeliveryS3DestinationArn=where,
        IntegrateServices={"AthenaIntegrations": list(integrations)}, **more,
    )["Result"]  # fmt: skip


def test_the_template_is_stored_and_describes_the_flow_logs_files(site: Site):
    flow_log_id = flow_log(site, FileFormat="parquet", HiveCompatiblePartitions=True, PerHourPartition=True)
    url = ask(site, flow_log_id, DAILY, NONE)
    path = Path(unquote(urlsplit(url).path))
    assert path.parent == site.root / "flow-logs-bucket" / "t"
    assert path.name.startswith(f"VPCFlowLogsIntegrationTemplate_{flow_log_id}_")
    found = json.loads(path.read_text())["Resources"]
    plain = flow_log_id.replace("-", "")
    assert found["Database"]["Properties"]["DatabaseInput"]["Name"] == f"vpcflowlogsathenadatabase{plain}"
    tables = [item["Properties"]["TableInput"] for item in found.values() if item["Type"] == "AWS::Glue::Table"]
    assert [table["Name"] for table in tables] == [f"{plain}daily", f"{plain}none202601300000202601310000"]
    assert tables[0]["StorageDescriptor"]["Location"] == (
        "s3://flow-logs-bucket/AWSLogs/aws-account-id=123456789012/aws-service=vpcflowlogs/aws-region=us-east-1/"
    )
    assert [key["Name"] for key in tables[0]["PartitionKeys"]] == ["year", "month", "day", "hour"]
    assert tables[0]["Parameters"]["classification"] == "parquet"


@pytest.mark.parametrize(
    ("integrations", "code"),
    [
        ([], "MissingParameter"),
        ([{**DAILY, "PartitionLoadFrequency": "hourly"}], "InvalidParameterValue"),
        ([{**DAILY, "PartitionLoadFrequency": "none"}], "InvalidParameterValue"),
        ([{**NONE, "PartitionEndDate": PAST - timedelta(days=1)}], "InvalidParameterValue"),
        ([{**NONE, "PartitionEndDate": datetime.now(UTC) + timedelta(days=1)}], "InvalidParameterValue"),
        ([{**DAILY, "PartitionStartDate": PAST}], "InvalidParameterValue"),
        ([{**DAILY, "IntegrationResultS3DestinationArn": "s3://x"}], "InvalidParameterValue"),
        ([{"PartitionLoadFrequency": "daily"}], "MissingParameter"),
        ([DAILY, DAILY], "InvalidParameterValue"),
        ([NONE] * 11, "InvalidParameterValue"),
    ],
)
def test_integrations_that_are_not_right_are_refused(site: Site, integrations: list[dict[str, Any]], code: str):
    with pytest.raises(ClientError) as refused:
        ask(site, flow_log(site), *integrations)
    assert refused.value.response["Error"]["Code"] == code


def test_only_flow_logs_into_buckets_have_one(site: Site):
    with pytest.raises(ClientError, match=r"InvalidFlowLogId\.NotFound"):
        ask(site, "fl-0123456789abcdef0", DAILY)
    role = "arn:aws:iam::123456789012:role/r"
    made = site.ec2.create_flow_logs(
        ResourceIds=[site.vpc], ResourceType="VPC", TrafficType="ALL", LogGroupName="g", DeliverLogsPermissionArn=role
    )
    with pytest.raises(ClientError, match="InvalidParameter"):
        ask(site, made["FlowLogIds"][0], DAILY)


def test_a_bucket_that_is_not_there_and_folders_that_lead_out_are_refused(site: Site):
    flow_log_id = flow_log(site)
    for where in ("arn:aws:s3:::missing-bucket", BUCKET + "/../../x/"):
        with pytest.raises(ClientError, match="InvalidParameter"):
            ask(site, flow_log_id, DAILY, where=where)
    assert not list(site.root.rglob("*.yml"))


def test_who_may_not_write_to_the_bucket_gets_none(site: Site):
    flow_log_id = flow_log(site)
    iam = site.api.client("iam")
    iam.create_user(UserName="analyst")
    allowed = {"Effect": "Allow", "Action": "ec2:*", "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
    iam.put_user_policy(UserName="analyst", PolicyName="p", PolicyDocument=document)
    key = iam.create_access_key(UserName="analyst")["AccessKey"]
    ec2 = site.api.client("ec2", (key["AccessKeyId"], key["SecretAccessKey"]))
    with pytest.raises(ClientError, match="UnauthorizedOperation"):
        ec2.get_flow_logs_integration_template(
            FlowLogId=flow_log_id, ConfigDeliveryS3DestinationArn=BUCKET,
            IntegrateServices={"AthenaIntegrations": [DAILY]},
        )  # fmt: skip


def test_a_dry_run_writes_nothing(site: Site):
    with pytest.raises(ClientError, match="DryRunOperation"):
        ask(site, flow_log(site), DAILY, DryRun=True)
    assert not list(site.root.rglob("*.yml"))

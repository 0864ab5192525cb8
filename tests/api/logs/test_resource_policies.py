"""Resource policies through boto3, against the API reference and the service model of CloudWatch Logs."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from botocore.exceptions import ClientError

from vnotch.api.quotas import Quotas

ARN = "arn:aws:logs:us-east-1:123456789012:log-group:flow"
DOCUMENT = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "Route53LogsToCloudWatchLogs",
                "Effect": "Allow",
                "Principal": {"Service": ["route53.amazonaws.com"]},
                "Action": "logs:PutLogEvents",
                "Resource": f"{ARN}:*",
            }
        ],
    }
)


def refused(code: str, text: str = "") -> Any:
    return pytest.raises(ClientError, match=f"{code}.*{text}")


def test_a_policy_of_the_account_is_put_changed_described_and_deleted(logs: Any) -> None:
    before = int(time.time() * 1000)
    policy = logs.put_resource_policy(policyName="dns", policyDocument=DOCUMENT)["resourcePolicy"]
    assert before <= policy["lastUpdatedTime"] <= int(time.time() * 1000)
    assert (policy["policyName"], policy["policyDocument"], policy["policyScope"]) == ("dns", DOCUMENT, "ACCOUNT")
    other = DOCUMENT.replace("PutLogEvents", "CreateLogStream")
    logs.put_resource_policy(policyName="dns", policyDocument=other)
    assert [found["policyDocument"] for found in logs.describe_resource_policies()["resourcePolicies"]] == [other]
    logs.delete_resource_policy(policyName="dns")
    assert logs.describe_resource_policies()["resourcePolicies"] == []
    with refused("ResourceNotFoundException", r"Policy with name \[dns\] does not exist"):
        logs.delete_resource_policy(policyName="dns")


@pytest.mark.parametrize(
    "document",
    ["{", "[]", '{"Statement": []}', DOCUMENT.replace('"Principal"', '"Principle"'), DOCUMENT.replace("Allow", "May")],
)
def test_a_document_that_is_no_policy_is_refused(logs: Any, document: str) -> None:
    with refused("InvalidParameterException", "policy document"):
        logs.put_resource_policy(policyName="dns", policyDocument=document)
    assert logs.describe_resource_policies()["resourcePolicies"] == []


class TestQuota:
    @pytest.fixture
    def quotas(self) -> Quotas:
        return Quotas.of(["log-resource-policies=2"])

    def test_the_account_has_so_many_policies(self, logs: Any) -> None:
        for name in ("a", "b"):
            logs.put_resource_policy(policyName=name, policyDocument=DOCUMENT)
        with refused("LimitExceededException"):
            logs.put_resource_policy(policyName="c", policyDocument=DOCUMENT)
        logs.put_resource_policy(policyName="a", policyDocument=DOCUMENT)
        first = logs.describe_resource_policies(limit=1)
        second = logs.describe_resource_policies(limit=1, nextToken=first["nextToken"])
        names = [page["resourcePolicies"][0]["policyName"] for page in (first, second)]
        assert names == ["a", "b"]
        assert "nextToken" not in second

    def test_those_of_groups_do_not_count(self, logs: Any) -> None:
        for name in ("a", "b"):
            logs.put_resource_policy(policyName=name, policyDocument=DOCUMENT)
        logs.create_log_group(logGroupName="flow")
        logs.put_resource_policy(resourceArn=ARN, policyDocument=DOCUMENT)


def test_a_policy_of_a_group_is_changed_by_who_knows_its_revision(logs: Any) -> None:
    with refused("ResourceNotFoundException"):
        logs.put_resource_policy(resourceArn=ARN, policyDocument=DOCUMENT)
    logs.create_log_group(logGroupName="flow")
    revision = logs.put_resource_policy(resourceArn=ARN, policyDocument=DOCUMENT)["revisionId"]
    for stale in ({}, {"expectedRevisionId": "other"}):
        with refused("OperationAbortedException"):
            logs.put_resource_policy(resourceArn=ARN, policyDocument=DOCUMENT, **stale)
        with refused("OperationAbortedException"):
            logs.delete_resource_policy(resourceArn=ARN, **stale)
    second = logs.put_resource_policy(resourceArn=ARN, policyDocument=DOCUMENT, expectedRevisionId=revision)
    assert second["revisionId"] != revision
    (found,) = logs.describe_resource_policies(resourceArn=ARN, policyScope="RESOURCE")["resourcePolicies"]
    assert (found["resourceArn"], found["revisionId"], found["policyScope"]) == (ARN, second["revisionId"], "RESOURCE")
    assert logs.describe_resource_policies()["resourcePolicies"] == []
    logs.delete_resource_policy(resourceArn=ARN, expectedRevisionId=second["revisionId"])
    assert logs.describe_resource_policies(resourceArn=ARN)["resourcePolicies"] == []


def test_it_decides_nothing_for_users_neither_allowing_nor_denying(api: Any, logs: Any) -> None:
    """API reference, PutResourcePolicy: it "only applies when operations are invoked by AWS service principals", and
    is "not enforced" for users, roles and other accounts."""
    logs.create_log_group(logGroupName="flow")
    iam = api.client("iam")
    keys = {}
    for name, statements in (("none", []), ("may", [{"Effect": "Allow", "Action": "logs:*", "Resource": "*"}])):
        iam.create_user(UserName=name)
        if statements:
            document = json.dumps({"Version": "2012-10-17", "Statement": statements})
            iam.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=document)
        key = iam.create_access_key(UserName=name)["AccessKey"]
        keys[name] = api.client("logs", (key["AccessKeyId"], key["SecretAccessKey"]))

    def statement(effect: str, name: str) -> dict[str, Any]:
        principal = {"AWS": f"arn:aws:iam::123456789012:user/{name}"}
        return {"Effect": effect, "Principal": principal, "Action": "logs:CreateLogStream", "Resource": f"{ARN}:*"}

    document = {"Version": "2012-10-17", "Statement": [statement("Allow", "none"), statement("Deny", "may")]}
    logs.put_resource_policy(policyName="account", policyDocument=json.dumps(document))
    logs.put_resource_policy(resourceArn=ARN, policyDocument=json.dumps(document))
    with refused("AccessDeniedException"):
        keys["none"].create_log_stream(logGroupName="flow", logStreamName="a")
    keys["may"].create_log_stream(logGroupName="flow", logStreamName="b")

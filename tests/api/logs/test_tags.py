"""Tags of log groups through boto3, against the API reference and the service model of CloudWatch Logs."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError

ARN = "arn:aws:logs:us-east-1:123456789012:log-group:flow"


def refused(code: str, text: str = "") -> Any:
    return pytest.raises(ClientError, match=f"{code}.*{text}")


def test_both_families_see_the_same_tags(logs: Any) -> None:
    logs.create_log_group(logGroupName="flow", tags={"team": "net", "stage": "test"})
    logs.tag_resource(resourceArn=ARN, tags={"team": "sec", "cost": ""})
    assert logs.list_tags_log_group(logGroupName="flow")["tags"] == {"cost": "", "stage": "test", "team": "sec"}
    logs.untag_log_group(logGroupName="flow", tags=["stage", "none of that name"])
    logs.tag_log_group(logGroupName="flow", tags={"a b": "ü"})
    assert logs.list_tags_for_resource(resourceArn=ARN)["tags"] == {"a b": "ü", "cost": "", "team": "sec"}
    logs.untag_resource(resourceArn=ARN, tagKeys=["cost"])
    assert logs.list_tags_for_resource(resourceArn=ARN)["tags"] == {"a b": "ü", "team": "sec"}


def test_a_group_has_at_most_fifty_tags(logs: Any) -> None:
    logs.create_log_group(logGroupName="flow", tags={f"k{number}": "" for number in range(49)})
    with pytest.raises(logs.exceptions.TooManyTagsException) as raised:
        logs.tag_resource(resourceArn=ARN, tags={"x": "", "y": ""})
    assert raised.value.response["resourceName"] == ARN
    logs.tag_resource(resourceArn=ARN, tags={"x": "", "k1": "again"})
    assert len(logs.list_tags_for_resource(resourceArn=ARN)["tags"]) == 50


@pytest.mark.parametrize("tags", [{"aws:x": "1"}, {"a!": "1"}, {"a": "x" * 257}, {"k" * 129: ""}, {"a": "<"}], ids=str)
def test_tags_that_aws_refuses(logs: Any, tags: dict[str, str]) -> None:
    logs.create_log_group(logGroupName="flow")
    with refused("InvalidParameterException"):
        logs.tag_resource(resourceArn=ARN, tags=tags)
    assert logs.list_tags_for_resource(resourceArn=ARN)["tags"] == {}


@pytest.mark.parametrize(
    "arn",
    [
        "arn:aws:logs:us-east-1:123456789012:log-group:other",
        "arn:aws:logs:eu-west-1:123456789012:log-group:flow",
        "arn:aws:logs:us-east-1:210987654321:log-group:flow",
        "arn:aws:logs:us-east-1:123456789012:destination:d",
    ],
)
def test_what_is_not_there_has_no_tags(logs: Any, arn: str) -> None:
    logs.create_log_group(logGroupName="flow")
    for call in (
        lambda: logs.list_tags_for_resource(resourceArn=arn),
        lambda: logs.tag_resource(resourceArn=arn, tags={"a": "b"}),
        lambda: logs.untag_resource(resourceArn=arn, tagKeys=["a"]),
    ):
        with refused("ResourceNotFoundException"):
            call()


def test_tags_go_with_their_group(logs: Any) -> None:
    logs.create_log_group(logGroupName="flow", tags={"a": "b"})
    logs.delete_log_group(logGroupName="flow")
    logs.create_log_group(logGroupName="flow")
    assert logs.list_tags_log_group(logGroupName="flow")["tags"] == {}


def test_groups_are_listed_by_pattern_class_and_tags(logs: Any) -> None:
    for name, tags in (
        ("/vpc/one", {"stage": "prod-a", "team": "net"}),
        ("/vpc/two", {"stage": "test"}),
        ("/aws/lambda/discovery", {"stage": "PROD-B"}),
        ("plain", {}),
    ):
        logs.create_log_group(logGroupName=name)
        if tags:
            logs.tag_log_group(logGroupName=name, tags=tags)

    def listed(**asked: Any) -> list[str]:
        return [group["logGroupName"] for group in logs.list_log_groups(**asked)["logGroups"]]

    assert listed() == ["/aws/lambda/discovery", "/vpc/one", "/vpc/two", "plain"]
    # The model: ^ matches a prefix, a text is a substring, | separates up to five of them.
    assert listed(logGroupNamePattern="^/vpc") == ["/vpc/one", "/vpc/two"]
    assert listed(logGroupNamePattern="/two|discovery|^lain") == ["/aws/lambda/discovery", "/vpc/two"]
    assert listed(logGroupNamePattern="Discovery") == []
    assert listed(logGroupClass="INFREQUENT_ACCESS") == []
    # TagFilter: wildcards take no notice of case, exact values and negation do; several filters must all hold.
    assert listed(logGroupTags=[{"key": "stage"}]) == ["/aws/lambda/discovery", "/vpc/one", "/vpc/two"]
    assert listed(logGroupTags=[{"key": "stage", "values": ["prod*"]}]) == ["/aws/lambda/discovery", "/vpc/one"]
    assert listed(logGroupTags=[{"key": "stage", "values": ["prod-b", "test"]}]) == ["/vpc/two"]
    assert listed(logGroupTags=[{"key": "stage", "values": ["!test"]}]) == ["/aws/lambda/discovery", "/vpc/one"]
    assert listed(logGroupTags=[{"key": "stage", "values": ["prod*"]}, {"key": "team", "values": ["net"]}]) == [
        "/vpc/one"
    ]
    (first,) = logs.list_log_groups(limit=1)["logGroups"]
    assert first == {
        "logGroupName": "/aws/lambda/discovery",
        "logGroupArn": "arn:aws:logs:us-east-1:123456789012:log-group:/aws/lambda/discovery",
        "logGroupClass": "STANDARD",
    }
    page = logs.list_log_groups(limit=3)
    assert len(page["logGroups"]) == 3
    assert listed(limit=3, nextToken=page["nextToken"]) == ["plain"]
    with refused("InvalidParameterException", "nextToken"):
        listed(nextToken=page["nextToken"], logGroupNamePattern="^/vpc")
    for asked in (
        {"logGroupNamePattern": "abc*"},
        {"includeLinkedAccounts": True},
        {"fieldIndexNames": ["a"]},
    ):
        with refused("InvalidParameterException"):
            listed(**asked)

"""Answers and requests against the samples that AWS prints in its API references, so that botocore's models are not the
only judge of what botocore's models made. Each sample names its page."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from xml.etree import ElementTree

import orjson
import pytest

from vnotch.api.service import ApiError
from vnotch.api.wire.protocol import WireRequest, protocol_of

Tree = tuple[str, str, list[Any]]


def tree(element: ElementTree.Element) -> Tree:
    """Tag with namespace, text, children; the order of siblings of different names does not matter."""
    return (
        element.tag,
        (element.text or "").strip(),
        sorted((tree(child) for child in element), key=lambda child: child[0]),
    )


SAMPLES: list[tuple[str, str, str, dict[str, Any], str]] = [
    (
        "Amazon VPC user guide and EC2 API Reference, CreateFlowLogs",
        "ec2",
        "CreateFlowLogs",
        {
            "ClientToken": "F7xmLqTHgt9krTcFMBHrwHmAZHByyDXmA1J94PsxWiU=",
            "FlowLogIds": ["fl-0667848f2d19786ca"],
            "Unsuccessful": [],
        },
        """<CreateFlowLogsResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">
          <requestId>REQUEST</requestId>
          <clientToken>F7xmLqTHgt9krTcFMBHrwHmAZHByyDXmA1J94PsxWiU=</clientToken>
          <flowLogIdSet><item>fl-0667848f2d19786ca</item></flowLogIdSet>
          <unsuccessful/>
        </CreateFlowLogsResponse>""",
    ),
    (
        "EC2 API Reference, DeleteVpc",
        "ec2",
        "DeleteVpc",
        {},
        """<DeleteVpcResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">
          <requestId>REQUEST</requestId><return>true</return>
        </DeleteVpcResponse>""",
    ),
    (
        "EC2 API Reference, DescribeVpcs",
        "ec2",
        "DescribeVpcs",
        {
            "Vpcs": [
                {
                    "VpcId": "vpc-081ec835f303f720e",
                    "State": "available",
                    "CidrBlock": "10.0.0.0/16",
                    "IsDefault": False,
                    "Tags": [{"Key": "Name", "Value": "x & y"}],
                }
            ]
        },
        """<DescribeVpcsResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">
          <requestId>REQUEST</requestId>
          <vpcSet><item>
            <vpcId>vpc-081ec835f303f720e</vpcId><state>available</state><cidrBlock>10.0.0.0/16</cidrBlock>
            <isDefault>false</isDefault>
            <tagSet><item><key>Name</key><value>x &amp; y</value></item></tagSet>
          </item></vpcSet>
        </DescribeVpcsResponse>""",
    ),
    (
        "STS API Reference, GetCallerIdentity",
        "sts",
        "GetCallerIdentity",
        {
            "Arn": "arn:aws:iam::123456789012:user/Alice",
            "UserId": "AIDACKCEVSQ6C2EXAMPLE",
            "Account": "123456789012",
        },
        """<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
          <GetCallerIdentityResult>
            <Arn>arn:aws:iam::123456789012:user/Alice</Arn>
            <UserId>AIDACKCEVSQ6C2EXAMPLE</UserId>
            <Account>123456789012</Account>
          </GetCallerIdentityResult>
          <ResponseMetadata><RequestId>REQUEST</RequestId></ResponseMetadata>
        </GetCallerIdentityResponse>""",
    ),
    (
        "IAM API Reference, ListRolePolicies",
        "iam",
        "ListRolePolicies",
        {"PolicyNames": ["CloudwatchPutMetricPolicy", "S3AccessPolicy"], "IsTruncated": False},
        """<ListRolePoliciesResponse xmlns="https://iam.amazonaws.com/doc/2010-05-08/">
          <ListRolePoliciesResult>
            <PolicyNames>
              <member>CloudwatchPutMetricPolicy</member>
              <member>S3AccessPolicy</member>
            </PolicyNames>
            <IsTruncated>false</IsTruncated>
          </ListRolePoliciesResult>
          <ResponseMetadata><RequestId>REQUEST</RequestId></ResponseMetadata>
        </ListRolePoliciesResponse>""",
    ),
    (
        "IAM API Reference, PutRolePolicy",
        "iam",
        "PutRolePolicy",
        {},
        """<PutRolePolicyResponse xmlns="https://iam.amazonaws.com/doc/2010-05-08/">
          <ResponseMetadata><RequestId>REQUEST</RequestId></ResponseMetadata>
        </PutRolePolicyResponse>""",
    ),
]


@pytest.mark.parametrize(("page", "service", "name", "result", "expected"), SAMPLES, ids=[row[0] for row in SAMPLES])
def test_answer(page: str, service: str, name: str, result: dict[str, Any], expected: str) -> None:
    protocol = protocol_of(service)
    answer = protocol.answer(protocol.model.operation_model(name), result, "REQUEST")
    assert tree(ElementTree.fromstring(answer.body)) == tree(ElementTree.fromstring(expected))
    assert answer.headers["content-type"].startswith("text/xml")


def test_error_of_ec2() -> None:
    """EC2 API Reference, "Error codes: Example error response"."""
    answer = protocol_of("ec2").error(
        ApiError("InvalidInstanceID.NotFound", "The instance ID 'i-1a2b3c4d' does not exist"), "ea966190-f9aa-478e-9ede"
    )
    assert answer.body.decode() == (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        "<Response><Errors><Error><Code>InvalidInstanceID.NotFound</Code>"
        "<Message>The instance ID 'i-1a2b3c4d' does not exist</Message></Error></Errors>"
        "<RequestID>ea966190-f9aa-478e-9ede</RequestID></Response>"
    )


def test_error_of_iam_takes_its_status_from_the_model() -> None:
    """IAM API Reference, "Errors" of GetRole: NoSuchEntity has HTTP status 404."""
    answer = protocol_of("iam").error(ApiError("NoSuchEntity", "The role with name x cannot be found."), "r")
    assert answer.status == 404
    root = ElementTree.fromstring(answer.body)
    space = "{https://iam.amazonaws.com/doc/2010-05-08/}"
    assert root.tag == space + "ErrorResponse"
    assert root.findtext(f"{space}Error/{space}Type") == "Sender"
    assert root.findtext(f"{space}Error/{space}Code") == "NoSuchEntity"


def test_times() -> None:
    """EC2 writes milliseconds (DescribeFlowLogs, creationTime), IAM and STS seconds."""
    moment = datetime(2018, 5, 21, 12, 1, 47, 393_000, UTC)
    ec2 = protocol_of("ec2")
    flow_logs = {"FlowLogs": [{"CreationTime": moment}]}
    body = ec2.answer(ec2.model.operation_model("DescribeFlowLogs"), flow_logs, "r").body
    assert b"<creationTime>2018-05-21T12:01:47.393Z</creationTime>" in body
    iam = protocol_of("iam")
    body = iam.answer(iam.model.operation_model("GetUser"), {"User": {"CreateDate": moment}}, "r").body
    assert b"<CreateDate>2018-05-21T12:01:47Z</CreateDate>" in body


def test_logs() -> None:
    """CloudWatch Logs API Reference, DescribeLogStreams: sample request, response and error."""
    logs = protocol_of("logs")
    request = WireRequest(
        "POST",
        b"",
        {"x-amz-target": "Logs_20140328.DescribeLogStreams", "content-type": "application/x-amz-json-1.1"},
        b'{"logGroupName": "my-log-group-name"}',
    )
    operation = logs.operation(request)
    assert logs.parameters(operation, request) == {"logGroupName": "my-log-group-name"}
    stream = {"creationTime": 1393545600000, "logStreamName": "my-log-stream-1", "storedBytes": 0}
    answer = logs.answer(operation, {"logStreams": [stream], "nextToken": None}, "r")
    assert orjson.loads(answer.body) == {"logStreams": [stream]}
    assert answer.headers["content-type"] == "application/x-amz-json-1.1"
    error = logs.error(ApiError("ResourceNotFoundException", "The specified log group does not exist."), "r")
    assert error.status == 400
    assert orjson.loads(error.body) == {
        "__type": "ResourceNotFoundException",
        "message": "The specified log group does not exist.",
    }


def test_what_xml_cannot_hold_is_replaced_and_what_it_can_comes_through() -> None:
    ec2 = protocol_of("ec2")
    operation = ec2.model.operation_model("DescribeVpcs")
    for text, expected in (
        ("a\x00b", "a\ufffdb"),
        ("a\rb", "a\rb"),
        ("\ud800", "\ufffd"),
        ("<&>\"'", "<&>\"'"),
        ("☃𝄞", "☃𝄞"),
    ):
        body = ec2.answer(operation, {"NextToken": text}, "r").body
        root = ElementTree.fromstring(body)
        assert root.findtext("{http://ec2.amazonaws.com/doc/2016-11-15/}nextToken") == expected

"""What the protocols refuse, and in which words.

Expected texts are AWS's: EC2's error code page, the messages of IAM and CloudWatch Logs as their clients print them,
and the answers collected for CreateFlowLogs.
"""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vnotch.api.service import ApiError
from vnotch.api.wire.constraints import java_pattern
from vnotch.api.wire.protocol import WireRequest, protocol_of

FORM = {"content-type": "application/x-www-form-urlencoded"}
EC2 = "Version=2016-11-15"
IAM = "Version=2010-05-08"


def form(body: str | bytes, **more: Any) -> WireRequest:
    data = body.encode() if isinstance(body, str) else body
    return WireRequest("POST", b"", {**FORM, **more}, data)


def target(operation: str, body: bytes) -> WireRequest:
    return WireRequest("POST", b"", {"x-amz-target": f"Logs_20140328.{operation}"}, body)


def ask(service: str, request: WireRequest) -> dict[str, Any]:
    protocol = protocol_of(service)
    return protocol.parameters(protocol.operation(request), request)


def read_or_refused(service: str, request: WireRequest) -> dict[str, Any] | ApiError:
    try:
        return ask(service, request)
    except ApiError as error:
        return error


def refusal(service: str, request: WireRequest) -> tuple[str, str]:
    with pytest.raises(ApiError) as caught:
        ask(service, request)
    assert 400 <= protocol_of(service).status_of(caught.value) < 500
    return caught.value.code, caught.value.message


# service, body, code, text (whole, or a part where it begins and ends with ...)
FORMS = [
    (
        "ec2",
        f"Action=CreateFlowLog&{EC2}",
        "InvalidAction",
        "The action CreateFlowLog is not valid for this web service.",
    ),
    ("ec2", "Action=CreateFlowLogs&Version=2000-01-01", "InvalidAction", "..."),
    ("ec2", EC2, "MissingAction", "..."),
    (
        "ec2",
        f"Action=CreateFlowLogs&{EC2}&ResourceType=VPC",
        "MissingParameter",
        "The request must include the ResourceIds parameter. Add the required parameter and retry the request.",
    ),
    (
        "ec2",
        f"Action=CreateSubnet&{EC2}",
        "MissingParameter",
        "The request must contain the parameter VpcId",
    ),
    (
        "ec2",
        f"Action=DescribeVpcs&{EC2}&Bogus=1",
        "UnknownParameter",
        "The parameter Bogus is not recognized",
    ),
    (
        "ec2",
        f"Action=DescribeVpcs&{EC2}&Filter.1.Name=a&Filter.1.Values.1=b",
        "UnknownParameter",
        "The parameter Filter.1.Values.1 is not recognized",
    ),
    (
        "ec2",
        f"Action=DescribeVpcs&{EC2}&VpcIds.1=vpc-1",
        "UnknownParameter",
        "The parameter VpcIds.1 is not recognized",
    ),
    ("ec2", f"Action=DescribeVpcs&{EC2}&VpcId.one=v", "UnknownParameter", "The parameter VpcId.one is not recognized"),
    ("ec2", f"Action=DescribeVpcs&{EC2}&VpcId.0=v", "UnknownParameter", "The parameter VpcId.0 is not recognized"),
    ("ec2", f"Action=DescribeVpcs&{EC2}&VpcId=v", "InvalidParameterValue", "..."),
    ("ec2", f"Action=DescribeVpcs&{EC2}&VpcId.1.x=v", "UnknownParameter", "The parameter VpcId.1.x is not recognized"),
    (
        "ec2",
        f"Action=DescribeVpcs&{EC2}&MaxResults=3",
        "InvalidParameterValue",
        "Value ( 3 ) for parameter maxResults is invalid. Expecting a value greater than or equal to 5.",
    ),
    (
        "ec2",
        f"Action=DescribeVpcs&{EC2}&MaxResults=1001",
        "InvalidParameterValue",
        "Value ( 1001 ) for parameter maxResults is invalid. Expecting a value less than or equal to 1000.",
    ),
    ("ec2", f"Action=DescribeVpcs&{EC2}&MaxResults=many", "InvalidParameterValue", "...MaxResults..."),
    ("ec2", f"Action=DescribeVpcs&{EC2}&MaxResults=99999999999", "InvalidParameterValue", "...MaxResults..."),
    ("ec2", f"Action=DescribeVpcs&{EC2}&MaxResults=१०", "InvalidParameterValue", "...MaxResults..."),
    ("ec2", f"Action=DescribeVpcs&{EC2}&DryRun=maybe", "InvalidParameterValue", "...DryRun..."),
    (
        "ec2",
        f"Action=CreateFlowLogs&{EC2}&ResourceId.1=vpc-1&ResourceType=Vpc",
        "InvalidParameterValue",
        "...ResourceType...",
    ),
    ("ec2", f"Action=DescribeVpcs&{EC2}&DryRun=true&DryRun=false", "MalformedQueryString", "...DryRun..."),
    ("ec2", f"Action=DescribeVpcs&{EC2}&Filter.1=a&Filter.1.Name=b", "MalformedQueryString", "...Filter..."),
    ("ec2", f"Action=DescribeVpcs&{EC2}&Filter.1.Name=b&Filter.1=a", "MalformedQueryString", "...Filter..."),
    ("ec2", f"Action=DescribeVpcs&{EC2}&VpcId.1=a&VpcId.01=b", "MalformedQueryString", "...VpcId..."),
    ("ec2", f"Action=DescribeVpcs&{EC2}&" + "A." * 40 + "B=1", "UnknownParameter", "..."),
    ("ec2", f"Action=DescribeVpcs&{EC2}&X=%zz", "MalformedQueryString", "..."),
    ("ec2", f"Action=DescribeVpcs&{EC2}&X=%ff", "MalformedQueryString", "..."),
    (
        "ec2",
        f"Action=DescribeVpcs&{EC2}" + "".join(f"&VpcId.{n}=v" for n in range(1, 20_005)),
        "MalformedQueryString",
        "...",
    ),
    (
        "iam",
        f"Action=CreateRole&{IAM}&RoleName={'a' * 65}&AssumeRolePolicyDocument=x",
        "ValidationError",
        f"1 validation error detected: Value '{'a' * 65}' at 'roleName' failed to satisfy constraint: "
        "Member must have length less than or equal to 64",
    ),
    (
        "iam",
        f"Action=CreateRole&{IAM}",
        "ValidationError",
        "2 validation errors detected: Value null at 'roleName' failed to satisfy constraint: Member must not be null; "
        "Value null at 'assumeRolePolicyDocument' failed to satisfy constraint: Member must not be null",
    ),
    (
        "iam",
        f"Action=UpdateAccessKey&{IAM}&AccessKeyId=AKIAAAAAAAAAAAAAAAAA&Status=Off",
        "ValidationError",
        "...Member must satisfy enum value set: [Active, Inactive...",
    ),
    ("iam", f"Action=ListRoles&{IAM}&Bogus=1", "ValidationError", "The parameter Bogus is not recognized"),
    ("iam", f"Action=CreateRole&{IAM}&Tags.1.Key=a", "ValidationError", "...Tags.1..."),
    ("iam", f"Action=CreateRole&{IAM}&MaxSessionDuration=long", "MalformedInput", "..."),
    ("iam", f"Action=Nope&{IAM}", "InvalidAction", "Could not find operation Nope for version 2010-05-08"),
    (
        "iam",
        "Action=ListRoles&Version=2016-11-15",
        "InvalidAction",
        "Could not find operation ListRoles for version 2016-11-15",
    ),
]


def assert_text(text: str, expected: str) -> None:
    if expected.endswith("..."):
        assert expected.strip(".") in text
    else:
        assert text == expected


@pytest.mark.parametrize(("service", "body", "code", "expected"), FORMS, ids=[f"{r[0]}-{r[1][:60]}" for r in FORMS])
def test_form(service: str, body: str, code: str, expected: str) -> None:
    got, text = refusal(service, form(body))
    assert got == code
    assert_text(text, expected)


LOGS = [
    ("PutLogEvents", b"{", "SerializationException", "..."),
    ("PutLogEvents", b"[]", "SerializationException", "..."),
    ("PutLogEvents", b'"x"', "SerializationException", "..."),
    ("PutLogEvents", b'{"logGroupName": "\xff"}', "SerializationException", "..."),
    ("PutLogEvents", b'{"logGroupName": "\\ud800"}', "SerializationException", "..."),
    ("PutLogEvents", "{}".encode("utf-16"), "SerializationException", "..."),
    ("PutLogEvents", b"[" * 100_000, "SerializationException", "..."),
    ("PutLogEvents", b'{"a":' * 5_000 + b"1" + b"}" * 5_000, "SerializationException", "..."),
    ("PutLogEvents", b'{"logGroupName": NaN}', "SerializationException", "..."),
    ("PutLogEvents", b'{"logGroupName": 5}', "SerializationException", "...logGroupName..."),
    ("PutLogEvents", b'{"logEvents": {}}', "SerializationException", "...logEvents..."),
    (
        "PutLogEvents",
        b'{"logGroupName":"g","logStreamName":"s","logEvents":[{"timestamp":"1","message":"m"}]}',
        "SerializationException",
        "...logEvents.1.member.timestamp...",
    ),
    (
        "PutLogEvents",
        b'{"logGroupName":"g","logStreamName":"s","logEvents":[{"timestamp":true,"message":"m"}]}',
        "SerializationException",
        "...logEvents.1.member.timestamp...",
    ),
    (
        "PutLogEvents",
        b'{"logGroupName":"g","logStreamName":"s","logEvents":[{"timestamp":18446744073709551615,"message":"m"}]}',
        "SerializationException",
        "...logEvents.1.member.timestamp...",
    ),
    (
        "PutLogEvents",
        b'{"logGroupName":"g","logStreamName":"s","logEvents":[{"timestamp":1,"message":"m"},{"timestamp":1,"message":""}]}',
        "InvalidParameterException",
        "1 validation error detected: Value '' at 'logEvents.2.member.message' failed to satisfy constraint: "
        "Member must have length greater than or equal to 1",
    ),
    (
        "PutLogEvents",
        b'{"logGroupName":"g","logStreamName":"s","logEvents":[{"message":"m"}]}',
        "InvalidParameterException",
        "1 validation error detected: Value null at 'logEvents.1.member.timestamp' failed to satisfy constraint: "
        "Member must not be null",
    ),
    (
        "PutLogEvents",
        b'{"logGroupName":"g","logStreamName":"s","logEvents":[{"timestamp":1,"message":null}]}',
        "InvalidParameterException",
        "1 validation error detected: Value null at 'logEvents.1.member.message' failed to satisfy constraint: "
        "Member must not be null",
    ),
    (
        "PutLogEvents",
        b'{"logGroupName":"g","logStreamName":"s","logEvents":[{"timestamp":1,"message":"m","level":"x"}]}',
        "InvalidParameterException",
        "The parameter logEvents.1.level is not recognized",
    ),
    (
        "CreateLogGroup",
        b'{"logGroupName":"a b"}',
        "InvalidParameterException",
        "1 validation error detected: Value 'a b' at 'logGroupName' failed to satisfy constraint: "
        "Member must satisfy regular expression pattern: [\\.\\-_/#A-Za-z0-9]+",
    ),
    (
        "DescribeLogGroups",
        b'{"limit":51}',
        "InvalidParameterException",
        "1 validation error detected: Value '51' at 'limit' failed to satisfy constraint: "
        "Member must have value less than or equal to 50",
    ),
    (
        "DescribeLogStreams",
        b'{"orderBy":"Size"}',
        "InvalidParameterException",
        "1 validation error detected: Value 'Size' at 'orderBy' failed to satisfy constraint: "
        "Member must satisfy enum value set: [LogStreamName, LastEventTime]",
    ),
    ("DescribeLogGroups", b'{"Limit":5}', "InvalidParameterException", "The parameter Limit is not recognized"),
    ("Nonsense", b"{}", "UnknownOperationException", "..."),
]


@pytest.mark.parametrize(("operation", "body", "code", "expected"), LOGS, ids=[f"{r[0]}-{r[1][:50]!r}" for r in LOGS])
def test_json(operation: str, body: bytes, code: str, expected: str) -> None:
    got, text = refusal("logs", target(operation, body))
    assert got == code
    assert_text(text, expected)


def test_requests_that_are_not_of_the_protocol() -> None:
    cases = [
        (
            "logs",
            WireRequest("GET", b"", {"x-amz-target": "Logs_20140328.DescribeLogGroups"}, b""),
            "UnknownOperationException",
        ),
        (
            "logs",
            WireRequest("POST", b"", {"x-amz-target": "Logs_19990101.DescribeLogGroups"}, b"{}"),
            "UnknownOperationException",
        ),
        ("logs", WireRequest("POST", b"", {}, b"{}"), "UnknownOperationException"),
        ("ec2", WireRequest("PUT", b"", FORM, b"Action=DescribeVpcs&" + EC2.encode()), "MalformedQueryString"),
        ("ec2", WireRequest("GET", b"Action=DescribeVpcs&" + EC2.encode(), {}, b"x=1"), "MalformedQueryString"),
        ("ec2", form(f"Action=DescribeVpcs&{EC2}", **{"content-type": "application/json"}), "MalformedQueryString"),
        ("ec2", WireRequest("POST", b"Action=DescribeVpcs", FORM, f"Action=X&{EC2}".encode()), "MalformedQueryString"),
    ]
    for service, request, code in cases:
        assert refusal(service, request)[0] == code


def test_forms_that_are_right() -> None:
    get = WireRequest("GET", f"Action=DescribeVpcs&{EC2}&VpcId.2=b&VpcId.10=c&VpcId.1=a&X-Amz-Date=1".encode(), {}, b"")
    assert ask("ec2", get) == {"VpcIds": ["a", "b", "c"]}
    assert ask("ec2", form(f"Action=DescribeVpcs&{EC2}&DryRun=True&NextToken=a%2Bb+c")) == {
        "DryRun": True,
        "NextToken": "a+b c",
    }
    tag = "&TagSpecification.1.Tag.1.Key=Name&TagSpecification.1.Tag.1.Value="
    body = f"Action=CreateFlowLogs&{EC2}&ResourceId.1=vpc-1&ResourceType=VPC"
    params = ask("ec2", form(f"{body}&TagSpecification.1.ResourceType=vpc-flow-log{tag}"))
    assert params["TagSpecifications"] == [{"ResourceType": "vpc-flow-log", "Tags": [{"Key": "Name", "Value": ""}]}]
    role = f"Action=CreateRole&{IAM}&RoleName=r&AssumeRolePolicyDocument=x&Tags.member.1.Key=a&Tags.member.1.Value=b"
    assert ask("iam", form(role))["Tags"] == [{"Key": "a", "Value": "b"}]
    assert ask("iam", form(f"Action=CreateRole&{IAM}&RoleName=r&AssumeRolePolicyDocument=x&Tags="))["Tags"] == []


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_garbage_forms_are_refused_or_read(body: bytes) -> None:
    for prefix in (b"", b"Action=CreateFlowLogs&Version=2016-11-15&ResourceId.1=a&ResourceType=VPC&"):
        got = read_or_refused("ec2", form(prefix + body))
        assert got["ResourceIds"] if isinstance(got, dict) else got.status < 500


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["logGroupName", "logStreamName", "logEvents", "timestamp", "message", "entity", "x"]),
            inner,
        )
    ),
    max_leaves=10,
)


@settings(max_examples=300, deadline=None)
@given(json_values)
def test_garbage_documents_are_refused_or_read(content: Any) -> None:
    try:
        body = orjson.dumps(content)
    except TypeError:
        body = json.dumps(content).encode()
    got = read_or_refused("logs", target("PutLogEvents", body))
    assert isinstance(got["logEvents"], list) if isinstance(got, dict) else got.status < 500


def test_javas_patterns_mean_what_they_mean_in_java() -> None:
    tag = java_pattern(r"^([\p{L}\p{Z}\p{N}_.:/=+\-@]+)$")
    for text in ("Name", "größe", "名前", "a b", "½", "a/b:c=d+e-f@g"):
        assert tag.fullmatch(text), text
    for text in ("", "a;b", "tab\t", "emoji😀", "{"):
        assert not tag.fullmatch(text), text
    word = java_pattern(r"[\w+=,.@-]+")
    assert word.fullmatch("a_B-1@x")
    assert not word.fullmatch("é")  # \w of Java is ASCII
    hyphen = java_pattern(r"[\w-_]*")
    assert hyphen.fullmatch("a-b_c")
    assert not hyphen.fullmatch("a.b")


def test_long_names_and_values_are_not_repeated_whole() -> None:
    long = "x" * 1_000_000
    for service, request in (
        ("ec2", form(f"Action=DescribeVpcs&{EC2}&{long}=1")),
        ("ec2", form(f"Action=DescribeVpcs&{EC2}&A.{long}=1")),
        ("ec2", form(f"Action=DescribeVpcs&{EC2}&MaxResults={long}")),
        ("ec2", form(f"Action={long}&{EC2}")),
        ("iam", form(f"Action={long}&{IAM}")),
        ("iam", form(f"Action=ListRoles&Version={long}")),
        ("iam", form(f"Action=GetRole&{IAM}&RoleName={long}")),
        ("logs", target("DescribeLogGroups", f'{{"{long}": 1}}'.encode())),
        ("logs", target("CreateLogGroup", f'{{"logGroupName": "{long}"}}'.encode())),
    ):
        assert len(refusal(service, request)[1]) < 2_000


def test_a_list_of_bad_items_is_reported_shortly() -> None:
    events = [{"timestamp": 1, "message": ""}] * 10_000
    body = orjson.dumps({"logGroupName": "g", "logStreamName": "s", "logEvents": events})
    _, text = refusal("logs", target("PutLogEvents", body))
    assert len(text) < 5_000

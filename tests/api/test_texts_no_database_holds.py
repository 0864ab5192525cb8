"""What PostgreSQL refuses and SQLite takes, texts and numbers: refused before either sees it, in the protocol's words.

PostgreSQL's manual, "Character Types": a text may not contain the character with code zero; "Numeric Types": bigint has
64 bits. `make soak` runs this on PostgreSQL too.
"""

from __future__ import annotations

import json
import time
from typing import Any

import cbor2
import orjson
import pytest
from refusals import refused

from vnotch.api.agents import Agents
from vnotch.api.cloudwatch import CloudWatch
from vnotch.api.cloudwatch.webhooks import Webhooks
from vnotch.api.ec2 import Ec2
from vnotch.api.lab_hosts import LabHosts
from vnotch.api.logs import Logs
from vnotch.store.lake import Lake

NUL = "a\0b"
FLOW_LOG = {"ResourceIds": ["vpc-1"], "ResourceType": "VPC"}
ROLE = "arn:aws:iam::123456789012:role/"
POLICY = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}'


@pytest.fixture(scope="module")
def served(shared_api: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    lake = Lake.open(tmp_path_factory.mktemp("lake"))
    logs = Logs(shared_api.state, lake)
    agents = Agents(shared_api.state, shared_api.accounts)
    hosts = LabHosts(shared_api.state, shared_api.accounts)
    shared_api.serve(
        Ec2(shared_api.state, shared_api.accounts),
        logs,
        CloudWatch(shared_api.state, Webhooks()),
        routes=[*agents.routes(), *hosts.routes()],
    )
    shared_api.client("ec2")
    yield shared_api
    logs.close()
    lake.close()


# service, operation, parameters, code; EC2's is of its page "Error codes": "A specified character is invalid."
CALLS: list[tuple[str, str, dict[str, Any], str]] = [
    ("ec2", "terminate_instances", {"InstanceIds": [NUL]}, "InvalidCharacter"),
    ("ec2", "describe_vpcs", {"VpcIds": [NUL]}, "InvalidCharacter"),
    ("ec2", "describe_vpcs", {"Filters": [{"Name": "tag:Name", "Values": ["x", NUL]}]}, "InvalidCharacter"),
    ("ec2", "describe_flow_logs", {"NextToken": NUL}, "InvalidCharacter"),
    ("ec2", "create_tags", {"Resources": ["vpc-1"], "Tags": [{"Key": "k", "Value": NUL}]}, "InvalidCharacter"),
    ("ec2", "create_security_group", {"GroupName": "g", "Description": NUL}, "InvalidCharacter"),
    ("ec2", "create_flow_logs", {**FLOW_LOG, "LogDestination": "arn:aws:s3:::b/" + NUL}, "InvalidCharacter"),
    ("iam", "get_user", {"UserName": NUL}, "ValidationError"),
    ("iam", "tag_user", {"UserName": "administrator", "Tags": [{"Key": "k", "Value": NUL}]}, "ValidationError"),
    ("iam", "get_policy", {"PolicyArn": "arn:aws:iam::123456789012:policy/" + NUL}, "ValidationError"),
    ("iam", "create_role", {"RoleName": "r", "AssumeRolePolicyDocument": POLICY + "\0"}, "ValidationError"),
    ("sts", "assume_role", {"RoleArn": ROLE + NUL, "RoleSessionName": "session"}, "ValidationError"),
    ("logs", "describe_log_groups", {"logGroupNamePattern": NUL}, "InvalidParameterException"),
    ("logs", "create_log_stream", {"logGroupName": "g", "logStreamName": NUL}, "InvalidParameterException"),
    ("logs", "create_log_group", {"logGroupName": "g", "tags": {"k": NUL}}, "InvalidParameterException"),
    ("logs", "create_log_group", {"logGroupName": "g", "tags": {NUL: "v"}}, "InvalidParameterException"),
    ("logs", "put_query_definition", {"name": "q", "queryString": "limit 1 # " + NUL}, "InvalidParameterException"),
    ("logs", "filter_log_events", {"logGroupName": "g", "filterPattern": NUL}, "InvalidParameterException"),
    ("cloudwatch", "describe_alarms", {"AlarmNames": [NUL]}, "ValidationError"),
    ("cloudwatch", "list_metrics", {"Dimensions": [{"Name": "n", "Value": NUL}]}, "ValidationError"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("service", "operation", "params", "code"),
    CALLS,
    ids=[f"{n}-{service}-{operation}" for n, (service, operation, *_) in enumerate(CALLS)],
)
def test_a_text_with_nul_is_refused(
    served: Any, service: str, operation: str, params: dict[str, Any], code: str
) -> None:
    got, text = refused(getattr(served.client(service), operation), **params)
    assert got == code
    assert "\0" not in text


@pytest.mark.parametrize("spoken", ["query", "json", "cbor"])
def test_nul_is_refused_in_each_protocol_of_cloudwatch(served: Any, spoken: str) -> None:
    target = "GraniteServiceVersion20100801"
    params = {"AlarmNames": [NUL]}
    body, headers, path = {
        "query": (b"Action=DescribeAlarms&Version=2010-08-01&AlarmNames.member.1=a%00b", {}, "/"),
        "json": (
            json.dumps(params).encode(),
            {"content-type": "application/x-amz-json-1.0", "x-amz-target": f"{target}.DescribeAlarms"},
            "/",
        ),
        "cbor": (
            cbor2.dumps(params),
            {"content-type": "application/cbor", "smithy-protocol": "rpc-v2-cbor"},
            f"/service/{target}/operation/DescribeAlarms",
        ),
    }[spoken]
    answer = served.send("monitoring", body, path=path, headers=headers)
    assert answer.status_code == 400
    assert b"must not contain the character U+0000" in answer.content
    code = (
        b"ValidationError" if spoken == "query" else b"ValidationException"
    )  # the code of the query protocol, the shape
    assert code in answer.content


def test_the_message_of_an_event_is_kept_as_it_came(served: Any) -> None:
    logs = served.client("logs")
    logs.create_log_group(logGroupName="kept")
    logs.create_log_stream(logGroupName="kept", logStreamName="s")
    now_ms = int(time.time() * 1000)
    logs.put_log_events(
        logGroupName="kept", logStreamName="s", logEvents=[{"timestamp": now_ms, "message": "dport\0443"}]
    )
    [event] = logs.filter_log_events(logGroupName="kept")["events"]
    assert event["message"] == "dport\0443"


def test_an_escaped_backslash_is_no_nul(served: Any) -> None:
    r"""`\\u0000` in JSON is a backslash and five characters."""
    logs = served.client("logs")
    made = logs.put_query_definition(name="q", queryString=r"filter @message like '\u0000'")
    [found] = logs.describe_query_definitions(queryDefinitionNamePrefix="q")["queryDefinitions"]
    assert found["queryString"] == r"filter @message like '\u0000'"
    logs.delete_query_definition(queryDefinitionId=made["queryDefinitionId"])


# method, path, query, body
OWN: list[tuple[str, str, str, Any]] = [
    ("GET", "/agents/a%00b/configuration", "", None),
    ("GET", "/agents/a%00b/status", "", None),
    ("POST", "/agents/a/status", "", {"interfaces": [{"device": NUL}]}),
    ("POST", "/agents/a/status", "", {NUL: 1}),
    ("PUT", "/agents/a/candidates", "", {"candidates": [{"id": NUL}]}),
    ("GET", "/network-interfaces/eni-1%00/binding", "", None),
    ("PUT", "/network-interfaces/eni-1/binding", "", {"agent": NUL, "device": "eth0"}),
    ("GET", "/agents/a/configuration", "revision=1%00", None),
    ("PUT", "/lab-hosts/a%00", "", {}),
    ("PUT", "/lab-hosts/a", "", {"reports": [{"instance_id": NUL, "state": "running"}]}),
]


@pytest.mark.parametrize(("method", "path", "query", "body"), OWN)
def test_own_routes_refuse_nul_too(served: Any, method: str, path: str, query: str, body: Any) -> None:
    data = b"" if body is None else orjson.dumps(body)
    answer = served.send("vnotch", data, method=method, path=f"/vnotch/v1{path}", query=query)
    assert answer.status_code == 400, answer.content
    assert answer.json()["__type"] == "InvalidParameterException", answer.content


DEEP = b'{"a":' * 1000 + b"1" + b"}" * 1000
BINDING = "/network-interfaces/eni-1/binding"
OTHER_BODIES = [
    ("a lone surrogate", "PUT", "/lab-hosts/a", rb'{"vpc_id": "\ud800"}'),
    ("a lone surrogate below", "PUT", "/lab-hosts/a", rb'{"reports": [{"instance_id": "\udfff", "state": "running"}]}'),
    ("a number of 65 bits", "PUT", BINDING, b'{"agent": "a", "device": "x", "netns": 18446744073709551616}'),
    ("a device of 100,000 letters", "PUT", BINDING, b'{"agent": "a", "device": "%s"}' % (b"x" * 100_000)),
    ("a thousand levels", "PUT", "/lab-hosts/a", DEEP),
    ("a thousand levels, and nul", "PUT", "/lab-hosts/a", DEEP.replace(b"1", rb'"\u0000"')),
]  # fmt: skip


@pytest.mark.parametrize(("_what", "method", "path", "body"), OTHER_BODIES, ids=[row[0] for row in OTHER_BODIES])
def test_own_routes_refuse_what_else_no_database_holds(
    served: Any, _what: str, method: str, path: str, body: bytes
) -> None:
    answer = served.send("vnotch", body, method=method, path=f"/vnotch/v1{path}")
    assert 400 <= answer.status_code < 500, answer.content


NUMBERS = ["2147483648", "9223372036854775807", "9223372036854775808", "99999999999999999999", "-9223372036854775809"]
FILTERS = [
    ("DescribeSecurityGroups", "ip-permission.from-port"),
    ("DescribeSecurityGroups", "egress.ip-permission.to-port"),
    ("DescribeNetworkAcls", "entry.rule-number"),
    ("DescribeNetworkAcls", "entry.port-range.from"),
    ("DescribeNetworkAcls", "entry.icmp.code"),
    ("DescribeSubnets", "available-ip-address-count"),
    ("DescribeNetworkInterfaces", "attachment.device-index"),
]


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize(("operation", "name"), FILTERS)
def test_a_number_of_more_bits_than_the_database_has_is_found_nowhere(
    served: Any, operation: str, name: str, number: str
) -> None:
    body = f"Action={operation}&Version=2016-11-15&Filter.1.Name={name}&Filter.1.Value.1={number}"
    answer = served.send("ec2", body.encode())
    assert answer.status_code in (200, 400), answer.content
    assert number.encode() not in answer.content or answer.status_code == 400

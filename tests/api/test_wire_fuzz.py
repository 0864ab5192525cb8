"""No request, however broken, is answered with a 5xx or not at all: every one gets AWS's form, a request id and a line
in the log, and the server answers the next one."""

from __future__ import annotations

import http.client
import random
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

import cbor2
import orjson
import pytest
from hostile import Hostile, WireAttack
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vnotch.api.cloudwatch import CloudWatch
from vnotch.api.cloudwatch.webhooks import Webhooks
from vnotch.api.ec2 import Ec2
from vnotch.api.logs import Logs
from vnotch.store.lake import Lake

WHO = WireAttack(
    "sts", "GetCallerIdentity", "POST", "/", "", {"content-type": "application/x-www-form-urlencoded"},
    b"Action=GetCallerIdentity&Version=2011-06-15",
)  # fmt: skip


POLICY = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}'


class Attacked:
    def __init__(self, api: Any, hostile: Hostile) -> None:
        self.api = api
        self.hostile = hostile
        self.connection = http.client.HTTPConnection("127.0.0.1", int(api.endpoint.rpartition(":")[2]), timeout=30)

    def check(self, attack: WireAttack) -> int:
        try:
            status, headers, body = self.hostile.send(self.connection, attack)
        except (BrokenPipeError, ConnectionResetError):
            # Refused while most of the body was still to come; this client then reads no answer.
            assert len(attack.body) > 100_000, attack
            self.connection.close()
            return 400
        assert status < 500, f"{status} {body[:300]!r} for {attack}"
        request_id = headers["x-amzn-requestid"]
        (entry,) = self.api.access_log.recent(request_id)
        assert entry.status == status
        if status >= 400 and attack.method != "HEAD":
            code = code_of(headers["content-type"], body)
            assert code, f"{body[:300]!r} for {attack}"
            assert len(body) < 10_000
        return status


def code_of(content_type: str, body: bytes) -> str:
    """The error's code, by the answer's own form."""
    if "json" in content_type:
        return str(orjson.loads(body)["__type"])
    if "cbor" in content_type:
        return str(cbor2.loads(body)["__type"])
    found = next((each for each in ElementTree.fromstring(body).iter() if each.tag.rpartition("}")[2] == "Code"), None)
    return "" if found is None else found.text or ""


@pytest.fixture(scope="module")
def attacked(shared_api: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    lake = Lake.open(tmp_path_factory.mktemp("lake"))
    logs = Logs(shared_api.state, lake)
    served = [Ec2(shared_api.state, shared_api.accounts), logs, CloudWatch(shared_api.state, Webhooks())]
    shared_api.serve(*served)
    ec2 = shared_api.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.0.0/24")["Subnet"]["SubnetId"]
    interface = ec2.create_network_interface(SubnetId=subnet)["NetworkInterface"]
    group = ec2.create_security_group(GroupName="g", Description="g", VpcId=vpc)["GroupId"]
    shared_api.client("logs").create_log_group(logGroupName="g")
    known = {
        "loggroupname": "g",
        "logstreamname": "g",
        "vpc": vpc,
        "subnet": subnet,
        "networkinterface": interface["NetworkInterfaceId"],
        "group": group,
        "user": "administrator",
        "policydocument": POLICY,
        "name": "g",
        "cidr": "10.0.0.0/24",
        "arn": "arn:aws:iam::123456789012:role/g",
        "protocol": "tcp",
        "querystring": "stats count(*) by bin(5m)",
        "filterpattern": "[a, b=1, c]",
        "path": "/",
    }
    yield Attacked(shared_api, Hostile(shared_api, shared_api.services, known))
    logs.close()
    lake.close()


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_a_spoilt_request_is_refused_or_done(attacked: Attacked, seed: int) -> None:
    attacked.check(attacked.hostile.request(random.Random(seed)))


@pytest.mark.soak
def test_many_spoilt_requests_are_refused_or_done(attacked: Attacked) -> None:
    chance = random.Random()
    statuses = [attacked.check(attacked.hostile.request(chance)) for _ in range(20_000)]
    assert {200, 400} <= set(statuses)
    assert attacked.check(WHO) == 200


def test_the_server_answers_after_all_that(attacked: Attacked) -> None:
    for seed in range(20):
        attacked.check(attacked.hostile.request(random.Random(seed)))
    assert attacked.check(WHO) == 200

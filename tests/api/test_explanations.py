"""GET /vnotch/v1/explanation: which layer and entry would decide, told from the server's own state."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

import pytest

from vnotch.api.agents import Agents
from vnotch.api.ec2 import Ec2
from vnotch.api.explanations import Explanations


@pytest.fixture
def network(api: Any) -> dict[str, str]:
    """One interface that lets TCP 443 in from anywhere, bound to an agent."""
    agents = Agents(api.state, api.accounts)
    routes = [*agents.routes(), *Explanations(api.state, api.accounts).routes()]
    api.serve(Ec2(api.state, api.accounts), routes=routes)
    ec2 = api.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.0.0/24")["Subnet"]["SubnetId"]
    group = ec2.create_security_group(GroupName="web", Description="web", VpcId=vpc)["GroupId"]
    https = {"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
    rule = ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[https])["SecurityGroupRules"][0]
    interface = ec2.create_network_interface(SubnetId=subnet, PrivateIpAddress="10.0.0.10", Groups=[group])
    interface_id = interface["NetworkInterface"]["NetworkInterfaceId"]
    send(api, "PUT", "/vnotch/v1/agents/a")
    body = {"agent": "a", "device": "vn-web", "instance_id": None, "interface_type": None, "enforce": True}
    send(api, "PUT", f"/vnotch/v1/network-interfaces/{interface_id}/binding", body)
    return {"interface": interface_id, "group": group, "rule": rule["SecurityGroupRuleId"]}


def send(api: Any, method: str, path: str, body: Any = None) -> tuple[int, dict[str, Any]]:
    path, _, query = path.partition("?")
    data = b"" if body is None else json.dumps(body).encode()
    answer = api.send("vnotch", data, method=method, path=path, query=query)
    return answer.status_code, answer.json()


def asked(api: Any, **parameters: Any) -> tuple[int, dict[str, Any]]:
    return send(api, "GET", "/vnotch/v1/explanation?" + urlencode(parameters))


def test_an_accept_names_the_rule(api: Any, network: dict[str, str]) -> None:
    status, found = asked(api, source="203.0.113.9", destination="10.0.0.10", port=443)
    assert (status, found["outcome"]) == (200, "ACCEPT")
    assert network["rule"] in found["text"]


def test_a_reject_names_the_group_that_had_no_match(api: Any, network: dict[str, str]) -> None:
    status, found = asked(api, source="203.0.113.9", destination=network["interface"], port=22)
    assert (status, found["outcome"]) == (200, "REJECT")
    assert f"REJECT by security-group {network['group']}" in found["text"]


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"source": "203.0.113.9"}, "the parameters are source, destination"),
        ({"source": "203.0.113.9", "destination": "10.0.0.10", "colour": "red"}, "the parameters are"),
        ({"source": "203.0.113.9", "destination": "10.0.0.10", "port": "x"}, "not a number"),
        ({"source": "203.0.113.9", "destination": "10.0.0.10", "port": 70000}, "from 0 to 65535"),
        ({"source": "203.0.113.9", "destination": "10.0.0.10"}, "needs the destination's port"),
        ({"source": "nobody", "destination": "10.0.0.10", "port": 1}, "nobody"),
    ],
)
def test_a_question_that_is_not_clear_is_refused(
    api: Any, network: dict[str, str], parameters: dict[str, Any], words: str
) -> None:
    status, found = asked(api, **parameters)
    assert status == 400
    assert words in found["message"]

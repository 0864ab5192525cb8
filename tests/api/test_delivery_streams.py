"""Delivery streams through the API: what CreateFlowLogs takes, and who is told the endpoint and its key."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError
from test_agents import Client

from vnotch.api.agents import Agents
from vnotch.api.delivery_streams import StreamTargets
from vnotch.api.ec2 import Ec2
from vnotch.delivery_streams import DeliveryStream

ARN = "arn:aws:firehose:us-east-1:123456789012:deliverystream/flow-logs"
STREAM = DeliveryStream("https://intake.example.org/v1", "k3y", True, {"team": "net"})


class Site:
    """A VPC whose only interface agent `a` has; agent `b` has none."""

    def __init__(self, api: Any) -> None:
        agents, streams = Agents(api.state, api.accounts), {"flow-logs": STREAM}
        api.serve(
            Ec2(api.state, api.accounts, streams=streams),
            routes=[*agents.routes(), *StreamTargets(api.state, api.accounts, streams).routes()],
        )
        self.api, self.admin, self.ec2 = api, Client(api), api.client("ec2")
        self.vpc = self.ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        subnet = self.ec2.create_subnet(VpcId=self.vpc, CidrBlock="10.0.0.0/24")["Subnet"]["SubnetId"]
        interface = self.ec2.create_network_interface(SubnetId=subnet)["NetworkInterface"]["NetworkInterfaceId"]
        self.a, self.b = self.agent("a"), self.agent("b")
        self.admin.ok("PUT", f"/network-interfaces/{interface}/binding", {"agent": "a", "device": "veth0"})

    def agent(self, name: str) -> Client:
        made = self.admin.ok("PUT", f"/agents/{name}")
        return Client(self.api, (made["access_key_id"], made["secret_access_key"]))

    def create(self, destination: str = ARN, kind: str = "kinesis-data-firehose", **more: Any) -> dict[str, Any]:
        made: dict[str, Any] = self.ec2.create_flow_logs(
            ResourceIds=[self.vpc], ResourceType="VPC", TrafficType="ALL", LogDestinationType=kind,
            LogDestination=destination, **more,
        )  # fmt: skip
        return made


@pytest.fixture
def site(api: Any) -> Site:
    return Site(api)


def test_the_agent_that_delivers_is_told_where(site: Site):
    flow_log = site.create()["FlowLogIds"][0]
    answer = site.a.ok("POST", "/agents/a/delivery-streams", {"flow_log_id": flow_log})
    assert answer == {
        "arn": ARN, "url": STREAM.url, "access_key": "k3y", "compress": True, "attributes": {"team": "net"},
    }  # fmt: skip


def test_no_other_agent_is(site: Site):
    flow_log = site.create()["FlowLogIds"][0]
    body = {"flow_log_id": flow_log}
    for client, agent, status in ((site.b, "b", 404), (site.b, "a", 403), (site.a, "a", 404)):
        asked = body if client is site.b else {"flow_log_id": "fl-0123456789abcdef0"}
        assert client.send("POST", f"/agents/{agent}/delivery-streams", asked)[0] == status
    assert site.a.send("POST", "/agents/a/delivery-streams", {"x": 1})[0] == 400


def test_a_stream_without_an_endpoint_is_unsuccessful(site: Site):
    made = site.create(ARN + "-other")
    assert made["FlowLogIds"] == []
    assert made["Unsuccessful"][0]["Error"] == {
        "Code": "400", "Message": "LogDestination: flow-logs-other does not exist",
    }  # fmt: skip


def test_the_same_stream_twice_is_a_duplicate(site: Site):
    site.create()
    with pytest.raises(ClientError, match="FlowLogAlreadyExists"):
        site.create()


def test_options_and_roles_are_not_for_streams(site: Site):
    role = "arn:aws:iam::123456789012:role/r"
    for more in (
        {"DestinationOptions": {"FileFormat": "parquet"}},
        {"DeliverLogsPermissionArn": role},
        {"DeliverCrossAccountRole": role},
    ):
        with pytest.raises(ClientError, match="InvalidParameter"):
            site.create(**more)

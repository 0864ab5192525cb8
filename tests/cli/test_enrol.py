"""Enrolment as a person sees it: a subnet is marked, Podman starts and stops containers, and their ENIs come and go."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from policies import FLOW_LOGS_TRUST, allow

from tests.cli.containers import SUBNET, Podman, missing_tools
from tests.cli.ground import RunningAgent, vnotch
from tests.cli.running import RunningServer, run, until

GROUP = "containers"
FORMAT = "${interface-id} ${interface-tag} ${srcaddr} ${dstaddr} ${dstport} ${packets} ${log-status} ${x-process}"


@pytest.fixture(scope="module")
def subnet(server: RunningServer) -> str:
    ec2 = server.endpoint.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.123.0.0/16")["Vpc"]["VpcId"]
    tags = [{"ResourceType": "subnet", "Tags": [{"Key": "Name", "Value": "pods"}]}]
    return str(ec2.create_subnet(VpcId=vpc, CidrBlock=SUBNET, TagSpecifications=tags)["Subnet"]["SubnetId"])


def marks(server: RunningServer) -> list[dict[str, Any]]:
    return list(json.loads(vnotch(server, "enrol", "--json").stdout))


def test_a_subnet_is_marked_by_id_or_name_and_unmarked(server: RunningServer, subnet: str) -> None:
    assert marks(server) == []
    done = vnotch(server, "enrol", "pods", "--agent", "here")
    assert done.returncode == 0, done.stderr
    row = {"subnet_id": subnet, "cidr": SUBNET, "name": "pods", "enrols": True, "agent": "here", "security_groups": []}
    assert marks(server) == [row]
    [described] = server.endpoint.client("ec2").describe_subnets(SubnetIds=[subnet])["Subnets"]
    assert {"Key": "vnotch:enrol", "Value": "here"} in described["Tags"]
    assert "pods" in vnotch(server, "enrol").stdout
    [group] = server.endpoint.client("ec2").describe_security_groups()["SecurityGroups"]
    assert vnotch(server, "enrol", subnet, "--security-group", group["GroupId"]).returncode == 0
    assert marks(server) == [row | {"agent": None, "security_groups": [group["GroupId"]]}]
    assert vnotch(server, "enrol", subnet, "--off").returncode == 0
    assert marks(server) == []


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["subnet-00000000000000000"], "there is no subnet subnet-00000000000000000"),
        (["nowhere"], "there is no subnet nowhere"),
        (["pods", "--security-group", "sg-00000000000000000"], "has no security group sg-00000000000000000"),
        (["pods", "--off", "--agent", "a"], "--off takes the mark away"),
        (["--off"], "no subnet is named"),
    ],
)
def test_what_cannot_be_marked_is_one_line(server: RunningServer, subnet: str, arguments: list[str], what: str) -> None:
    done = vnotch(server, "enrol", *arguments)
    assert done.returncode == 2
    assert what in done.stderr
    assert "Traceback" not in done.stderr
    assert marks(server) == []


def test_help_says_what_becomes_of_what_was_enrolled() -> None:
    assert "stays" in run("enrol", "--help", COLUMNS="200").stdout


# Podman


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    if missing := missing_tools():
        pytest.skip(f"not installed: {', '.join(missing)}")
    made = Podman(tmp_path_factory.mktemp("podman"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def agent(server: RunningServer, podman: Podman, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAgent]:
    running = RunningAgent(server, podman, tmp_path_factory.mktemp("agent"))  # type: ignore[arg-type]
    yield running
    running.stop()
    assert "Traceback" not in running.log.read_text()
    assert not (Path("/run/vnotch/bpf") / running.name).exists()


def flow_log(server: RunningServer, subnet: str) -> None:
    iam = server.endpoint.client("iam")
    role = iam.create_role(RoleName="deliver", AssumeRolePolicyDocument=FLOW_LOGS_TRUST)["Role"]["Arn"]
    iam.put_role_policy(RoleName="deliver", PolicyName="deliver", PolicyDocument=allow("logs:*"))
    answer = server.endpoint.client("ec2").create_flow_logs(
        ResourceType="Subnet",
        ResourceIds=[subnet],
        TrafficType="ALL",
        LogGroupName=GROUP,
        DeliverLogsPermissionArn=role,
        MaxAggregationInterval=5,
        LogFormat=FORMAT,
        TagFieldSpecifications=[{"ResourceType": "network-interface", "TagKeys": ["Name"]}],
    )
    assert answer["FlowLogIds"], answer


def interfaces(server: RunningServer) -> dict[str, dict[str, Any]]:
    """By their Name tags, those that are attached."""
    rows = server.endpoint.client("ec2").describe_network_interfaces()["NetworkInterfaces"]
    return {tags_of(row)["Name"]: row for row in rows}


def tags_of(interface: dict[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in interface["TagSet"]}


def records(server: RunningServer, name: str) -> list[list[str]]:
    logs = server.endpoint.client("logs")
    try:
        events = logs.get_paginator("filter_log_events").paginate(logGroupName=GROUP)
        lines = [event["message"].split(" ") for page in events for event in page["events"]]
    except logs.exceptions.ResourceNotFoundException:
        return []
    return [line for line in lines if line[1] == name and line[6] == "OK"]


@pytest.mark.root
@pytest.mark.timeout(300)
def test_a_container_is_an_eni_under_its_name_from_start_to_stop(
    server: RunningServer, subnet: str, podman: Podman, agent: RunningAgent
) -> None:
    assert vnotch(server, "enrol", subnet, "--agent", agent.name).returncode == 0
    flow_log(server, subnet)
    podman.run_web("web1")
    podman.run_web("web2")
    until("both are enrolled", lambda: {"web1", "web2"} <= set(interfaces(server)))
    found = interfaces(server)
    for name in ("web1", "web2"):
        tags = tags_of(found[name])
        assert found[name]["PrivateIpAddress"] == podman.address(name)
        assert tags["vnotch:container"] == name
        assert podman("inspect", name, "--format", "{{.Id}}").startswith(tags["vnotch:container-id"])
    assert set(found) == {"web1", "web2"}, "and nothing else: the bridge is the containers' router"
    ids = {name: str(row["NetworkInterfaceId"]) for name, row in found.items()}
    until("they are captured", lambda: all(agent.state(eni).get("state") == "attached" for eni in ids.values()))

    assert podman.fetch("web2", podman.address("web1")) == "hello\n"
    until("its records are there", lambda: len(records(server, "web1")) >= 2, 60)
    lines = records(server, "web1")
    assert {line[0] for line in lines} == {ids["web1"]}
    request = next(line for line in lines if line[4] == "80")
    assert request[2:4] == [podman.address("web2"), podman.address("web1")]
    assert request[7] == f"httpd/{podman.process('web1')}", "who is behind it, though the connection is over"
    until("the other side's are there", lambda: len(records(server, "web2")) >= 2, 60)
    assert {line[0] for line in records(server, "web2")} == {ids["web2"]}

    status = agent.status()["enrolment"]
    assert (status["candidates"], status["refused"], status["error"]) == (2, [], None)
    podman("stop", "--time", "0", "web1")
    until("it leaves", lambda: [item["interface_id"] for item in leaving(agent)] == [ids["web1"]])
    assert "web1" in interfaces(server), "for a while it may come back"
    until("it has left", lambda: set(interfaces(server)) == {"web2"}, 60)
    until("its agent has let it go", lambda: agent.state(ids["web1"]) == {})
    assert {tuple(line) for line in lines} <= {tuple(line) for line in records(server, "web1")}, "its records stay"
    vnotch(server, "enrol", subnet, "--off")


def leaving(agent: RunningAgent) -> list[dict[str, Any]]:
    return list((agent.status().get("enrolment") or {}).get("leaving", []))

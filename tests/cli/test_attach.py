"""Attaching interfaces that are there, as a person does it: real links in namespaces, a server, an agent, records."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.cli.ground import PORT, Ground, Records, RunningAgent, vnotch
from tests.cli.running import RunningServer, until

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    made = Ground()
    yield made
    made.close()


@pytest.fixture(scope="module")
def agent(server: RunningServer, ground: Ground, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAgent]:
    running = RunningAgent(server, ground, tmp_path_factory.mktemp("agent"))
    yield running
    running.stop()
    assert "Traceback" not in running.log.read_text()
    assert not (Path("/run/vnotch/bpf") / running.name).exists()


@pytest.fixture(autouse=True)
def clean(request: pytest.FixtureRequest, server: RunningServer) -> Iterator[None]:
    """Whatever a test attaches it detaches; then nothing is left at the server but records."""
    yield
    if "agent" in request.fixturenames:
        agent: RunningAgent = request.getfixturevalue("agent")
        if any(objects(server).values()):
            vnotch(server, "detach", "--all", "--agent", agent.name)
        assert set(objects(server).values()) == {0}


def objects(server: RunningServer) -> dict[str, int]:
    ec2, iam = server.endpoint.client("ec2"), server.endpoint.client("iam")
    return {
        "vpcs": len(ec2.describe_vpcs()["Vpcs"]),
        "subnets": len(ec2.describe_subnets()["Subnets"]),
        "interfaces": len(ec2.describe_network_interfaces()["NetworkInterfaces"]),
        "flow logs": len(ec2.describe_flow_logs()["FlowLogs"]),
        "roles": len(iam.list_roles()["Roles"]),
    }


def attach(server: RunningServer, agent: RunningAgent, *arguments: str) -> dict[str, Any]:
    done = vnotch(server, "attach", "--agent", agent.name, "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def refused(done: Any, what: str, remedy: str = "") -> None:
    assert done.returncode == 2, done.stderr + done.stdout
    line = done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert what in line
    assert remedy in line.partition(" — ")[2], line


# The whole way --------------------------------------------------------------------------------------------------------


def test_a_vms_link_from_attach_to_detach(server: RunningServer, ground: Ground, agent: RunningAgent) -> None:
    ground.send("vm0", 1)  # the bridge learns who is there, as it does from a VM's first packet
    before = objects(server)
    made = attach(server, agent, "vm0", "--interval", "600")
    assert (made["sense"], made["state"], made["enforce"]) == ("outside", "attached", False)
    assert made["addresses"] == ["172.19.0.2"]
    told = server.endpoint.request("GET", f"/vnotch/v1/network-interfaces/{made['interface_id']}/binding")
    assert told["guest_mac"] == ground.mac("vm0"), "what the bridge floods is told from what is its own"
    assert objects(server) == {name: count + 1 for name, count in before.items()}
    again = attach(server, agent, "vm0")
    assert again == made | {"made": [], "changed": False}
    records = Records(server, made["log_group_name"], made["interface_id"])
    ground.send("vm0", 50)
    records.wait_for(50, 60)  # of a flow log of 600 s: its first window ends early
    assert records.packets("REJECT") == 0, "no group was named: none rejects"
    ground.send("vm0", 7)
    done = vnotch(server, "detach", "vm0", "--agent", agent.name)
    assert done.returncode == 0, done.stderr
    assert "Records stay in" in done.stdout
    assert records.packets() == 57, "the last ones too, though their window had not ended"
    assert objects(server) == before
    assert agent.pins() == []
    assert "clsact" not in ground.hooks("vm0")
    ground.send("vm0", 3)
    assert records.packets() == 57


def test_records_go_into_a_bucket_and_the_last_ones_before_the_end(
    server: RunningServer, ground: Ground, agent: RunningAgent
) -> None:
    bucket = server.folders.buckets / "attach-logs"
    bucket.mkdir(parents=True, exist_ok=True)
    ground.send("vm0", 1)
    roles = objects(server)["roles"]
    made = attach(server, agent, "vm0", "--to", "s3://attach-logs/hosts")
    assert (made["log_group_name"], made["log_destination"]) == (None, "arn:aws:s3:::attach-logs/hosts")
    assert objects(server)["roles"] == roles, "a bucket needs none"

    def packets() -> int:
        lines = [line for path in bucket.rglob("*.log.gz") for line in gzip.decompress(path.read_bytes()).splitlines()]
        fields = [line.decode().split(" ") for line in lines if made["interface_id"].encode() in line]
        return sum(int(words[8]) for words in fields if words[13] == "OK" and words[6] == str(PORT))

    ground.send("vm0", 50)
    until("the first file is there", lambda: packets() == 50, 90)
    ground.send("vm0", 7)
    done = vnotch(server, "detach", "vm0", "--agent", agent.name)
    assert done.returncode == 0, done.stderr
    assert "Records stay in s3://attach-logs/hosts" in done.stdout
    assert packets() == 57, "the last ones too, though their slot had not ended"


def test_an_address_is_found_by_a_route_to_one_host(server: RunningServer, agent: RunningAgent) -> None:
    made = attach(server, agent, "pod0")
    assert (made["addresses"], made["sense"]) == (["10.78.0.2"], "outside")


def test_the_way_out_is_seen_from_inside(server: RunningServer, ground: Ground, agent: RunningAgent) -> None:
    made = attach(server, agent, "up0", "--name", "uplink")
    assert (made["addresses"], made["sense"], made["name"]) == (["10.79.0.2"], "inside", "uplink")
    ground.send("up0", 20)
    until("what comes in is ingress", lambda: directions(agent, made["interface_id"])["ingress"] >= 20)
    assert directions(agent, made["interface_id"])["egress"] < 20, "but for answers that nobody listens there"
    assert vnotch(server, "detach", "uplink", "--agent", agent.name).returncode == 0


def directions(agent: RunningAgent, interface_id: str) -> dict[str, int]:
    seen = [row for row in agent.status()["ledger"]["seen"] if row["interface_id"] == interface_id]
    return {row["direction"]: row["packets"] for row in seen}


def test_what_exists_is_joined_and_left(server: RunningServer, agent: RunningAgent) -> None:
    ec2 = server.endpoint.client("ec2")
    vpc_id = ec2.create_vpc(CidrBlock="172.19.0.0/16")["Vpc"]["VpcId"]
    subnet_id = ec2.create_subnet(VpcId=vpc_id, CidrBlock="172.19.0.0/24")["Subnet"]["SubnetId"]
    group_id = ec2.create_security_group(GroupName="mine", Description="x", VpcId=vpc_id)["GroupId"]
    try:
        overlapping = vnotch(server, "attach", "vm0", "--agent", agent.name, "--address", "172.19.0.20/16")
        refused(overlapping, f"overlaps 172.19.0.0/24 of {subnet_id}", f"--subnet {subnet_id}")
        made = attach(
            *(server, agent, "vm0", "--address", "172.19.0.20/16", "--subnet", subnet_id),
            *("--security-group", group_id, "--traffic-type", "REJECT", "--interval", "600", "--log-group", "mine"),
        )
        assert (made["vpc_id"], made["subnet_id"], made["security_group_ids"]) == (vpc_id, subnet_id, [group_id])
        [flow_log] = ec2.describe_flow_logs()["FlowLogs"]
        assert (flow_log["TrafficType"], flow_log["MaxAggregationInterval"]) == ("REJECT", 600)
        assert flow_log["LogGroupName"] == "mine"
        outside = vnotch(server, "attach", "up0", "--agent", agent.name, "--subnet", subnet_id)
        refused(outside, f"10.79.0.2 is not in 172.19.0.0/24 of {subnet_id}")
        assert vnotch(server, "detach", made["interface_id"], "--agent", agent.name).returncode == 0
        assert [row["SubnetId"] for row in ec2.describe_subnets()["Subnets"]] == [subnet_id]
    finally:
        ec2.delete_security_group(GroupId=group_id)
        ec2.delete_subnet(SubnetId=subnet_id)
        ec2.delete_vpc(VpcId=vpc_id)


def test_links_of_one_network_share_a_subnet_until_the_last_goes(
    server: RunningServer, ground: Ground, agent: RunningAgent
) -> None:
    ground.send("vm0", 1)
    bridge, port = attach(server, agent, "br0"), attach(server, agent, "vm0", "--no-flow-log")
    assert bridge["subnet_id"] == port["subnet_id"]
    assert bridge["addresses"] == ["172.19.0.1"], "no address of a network that exists is reserved"
    assert port["flow_log_ids"] == []
    vnotch(server, "detach", "br0", "--agent", agent.name)
    assert objects(server) == {"vpcs": 1, "subnets": 1, "interfaces": 1, "flow logs": 0, "roles": 0}


def test_without_a_name_it_shows_what_there_is(server: RunningServer, agent: RunningAgent) -> None:
    made = attach(server, agent, "pod0")
    done = vnotch(server, "attach", "--agent", agent.name)
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line.strip()}
    assert rows["pod0"] == ["veth", "up", "10.78.0.2/24", "outside", made["interface_id"]]
    assert rows["up0"] == ["veth", "up", "10.79.0.2/24", "inside"]
    assert rows["br0"] == ["bridge", "up", "172.19.0.1/16", "inside"]
    assert "lo" not in rows
    assert objects(server)["interfaces"] == 1


def test_what_a_killed_attach_has_left_goes_with_all(server: RunningServer, agent: RunningAgent) -> None:
    made = attach(server, agent, "pod0")
    server.endpoint.request("DELETE", f"/vnotch/v1/network-interfaces/{made['interface_id']}/binding")
    done = vnotch(server, "detach", "--all", "--agent", agent.name)
    assert done.returncode == 0, done.stderr
    assert f"network interface {made['interface_id']}" in done.stdout
    assert set(objects(server).values()) == {0}


def test_without_its_agent_the_objects_go_at_once_and_the_programs_when_it_starts_again(
    server: RunningServer, agent: RunningAgent
) -> None:
    attach(server, agent, "pod0")
    assert len(agent.pins()) > 0 or agent.status()["interfaces"][0]["mode"] == "clsact"
    agent.kill()
    done = vnotch(server, "attach", "vm0", "--agent", agent.name)
    refused(done, f"agent {agent.name} does not run", f"sudo vnotch agent --name {agent.name}")
    done = vnotch(server, "detach", "pod0", "--agent", agent.name)
    assert done.returncode == 0, done.stderr
    assert "does not run" in done.stderr
    assert set(objects(server).values()) == {0}
    agent.start()
    until("its programs are gone", lambda: agent.pins() == [])


# Enforcement ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def closed(server: RunningServer, agent: RunningAgent) -> Iterator[tuple[str, str]]:
    """(subnet, security group that lets nothing in) round the uplink."""
    ec2 = server.endpoint.client("ec2")
    vpc_id = ec2.create_vpc(CidrBlock="10.79.0.0/24")["Vpc"]["VpcId"]
    subnet_id = ec2.create_subnet(
        VpcId=vpc_id,
        CidrBlock="10.79.0.0/24",
        TagSpecifications=[{"ResourceType": "subnet", "Tags": [{"Key": "vnotch:reserved-addresses", "Value": "none"}]}],
    )["Subnet"]["SubnetId"]
    group_id = ec2.create_security_group(GroupName="closed", Description="x", VpcId=vpc_id)["GroupId"]
    yield subnet_id, group_id
    vnotch(server, "detach", "--all", "--agent", agent.name)
    ec2.delete_security_group(GroupId=group_id)
    ec2.delete_subnet(SubnetId=subnet_id)
    ec2.delete_vpc(VpcId=vpc_id)


@pytest.fixture
def uplink(server: RunningServer, agent: RunningAgent, closed: tuple[str, str]) -> dict[str, Any]:
    """The host's way out, attached; what comes in there is rejected and, observed only, passes."""
    where = ("--subnet", closed[0], "--security-group", closed[1])
    return attach(server, agent, "up0", *where, "--sense", "outside", "--address", "10.79.0.1/24")


def passes(ground: Ground, source_port: int) -> bool:
    """Whether a new flow from the host reaches the instance behind the uplink (the ENI, seen from outside)."""
    return ground.received(ground.instances["up0"], 5, lambda: ground.send_from_host("10.79.0.1", 5, source_port)) == 5


def test_enforcement_where_it_may_cut_off_needs_yes(
    server: RunningServer, ground: Ground, agent: RunningAgent, uplink: dict[str, Any]
) -> None:
    assert passes(ground, 41000)
    done = vnotch(server, "attach", "up0", "--agent", agent.name, "--enforce")
    refused(done, "up0 carries the default route", "--yes")
    assert passes(ground, 41001)
    changed = attach(server, agent, "up0", "--enforce", "--yes")
    assert changed["enforce"]
    assert 0 < changed["enforce_until_ms"] - time.time() * 1000 <= 60_000
    assert not passes(ground, 41002)
    kept = attach(server, agent, "up0", "--confirm")
    assert (kept["enforce"], kept["enforce_until_ms"]) == (True, None)
    assert not passes(ground, 41003)
    ended = attach(server, agent, "up0", "--observe")
    assert not ended["enforce"]
    assert passes(ground, 41004)
    done = vnotch(server, "attach", "up0", "--agent", agent.name, "--confirm")
    refused(done, "up0 only observes", "--enforce --yes")


@pytest.mark.parametrize("killed", [False, True])
def test_a_trial_that_nobody_confirms_ends_though_the_agent_was_killed(
    server: RunningServer, ground: Ground, agent: RunningAgent, uplink: dict[str, Any], killed: bool
) -> None:
    path = f"/vnotch/v1/network-interfaces/{uplink['interface_id']}/binding"
    members = {"agent": agent.name, "device": "up0", "sense": "outside", "enforce": True, "enforce_seconds": 4}
    server.endpoint.request("PUT", path, members)
    until("it enforces", lambda: agent.state(uplink["interface_id"])["state"] == "attached")
    until("it drops", lambda: not passes(ground, 42000))
    if killed:
        agent.kill()
        time.sleep(4)
        agent.start()
    until("it lets through again", lambda: passes(ground, 42001), 20)
    shown = attach(server, agent, "up0")
    assert not shown["enforce"]


# Devices that change --------------------------------------------------------------------------------------------------


def ledger(agent: RunningAgent, interface_id: str) -> tuple[int, int]:
    """(packets that the ledger has booked, packets that the kernel has seen) of an interface"""
    found = agent.status()["ledger"]
    booked = sum(row["packets"] for row in found["interfaces"] if row["interface_id"] == interface_id)
    return booked, sum(row["packets"] for row in found["seen"] if row["interface_id"] == interface_id)


def test_a_device_that_is_renamed_goes_on_under_its_interface(
    server: RunningServer, ground: Ground, agent: RunningAgent
) -> None:
    made = attach(server, agent, "pod0", "--interval", "5")
    records = Records(server, made["log_group_name"], made["interface_id"])
    ground.send("pod0", 20)
    ground.at(ground.host, "link", "set", "pod0", "name", "pod9")
    try:
        until("it is told", lambda: agent.state(made["interface_id"])["message"] == "pod0 is named pod9 now")
        ground.send("pod0", 30)
        records.wait_for(50)
        until("the ledger is even", lambda: len(set(ledger(agent, made["interface_id"]))) == 1)
        assert records.packets() == 50
        shown = attach(server, agent, "pod9")
        assert (shown["interface_id"], shown["message"]) == (made["interface_id"], "pod0 is named pod9 now")
    finally:
        ground.at(ground.host, "link", "set", "pod9", "name", "pod0")
    until("it has its name again", lambda: agent.state(made["interface_id"])["message"] is None)


@pytest.mark.parametrize("how", ["gone", "moved"])
def test_a_device_that_goes_in_mid_window_is_counted_to_its_last_packet_and_again_when_it_comes_back(
    server: RunningServer, ground: Ground, agent: RunningAgent, how: str
) -> None:
    made = attach(server, agent, "pod0", "--interval", "5")
    records = Records(server, made["log_group_name"], made["interface_id"])
    ground.send("pod0", 20)
    elsewhere = ground.instances["up0"]
    if how == "gone":
        ground.at(ground.host, "link", "del", "pod0")
    else:
        ground.at(ground.host, "link", "set", "pod0", "netns", elsewhere)
    until("it is told", lambda: agent.state(made["interface_id"])["state"] == "absent")
    if how == "moved":
        ground.at(elsewhere, "link", "set", "pod0", "up")
        ground.send("pod0", 5)
        assert "clsact" not in ground.hooks("pod0", elsewhere)
        ground.at(elsewhere, "link", "del", "pod0")
    ground.add_link("pod0")
    until("it is captured again", lambda: agent.state(made["interface_id"])["state"] == "attached")
    ground.send("pod0", 30)
    records.wait_for(50)
    until("the ledger is even", lambda: len(set(ledger(agent, made["interface_id"]))) == 1)
    assert records.packets() == 50


# What people get wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "what", "remedy"),
    [
        (["nothing0"], "there is no interface nothing0 here", "there is"),
        (["lo"], "lo is the loopback interface", ""),
        (["vm0", "--sense", "inside"], "vm0 has no address of its own: it is a port of br0", "attach br0"),
        (["vm0", "--sense", "sideways"], "--sense sideways", "inside or outside"),
        (["vm0", "--address", "172.19.0.2"], "has no prefix length", "172.19.0.2/24"),
        (["vm0", "--address", "web"], "--address web", "192.0.2.10/24"),
        (["vm0", "--confirm"], "vm0 is not attached", "--enforce --yes"),
        (["pod0", "--subnet", "subnet-0123456789abcdef0"], "InvalidSubnetID.NotFound", ""),
        (["pod0", "--traffic-type", "SOME"], "TrafficType", ""),
        (["pod0", "--interval", "901"], "", ""),
    ],
)
def test_what_is_not_right_is_refused_and_leaves_nothing(
    server: RunningServer, agent: RunningAgent, arguments: list[str], what: str, remedy: str
) -> None:
    refused(vnotch(server, "attach", "--agent", agent.name, *arguments), what, remedy)
    assert set(objects(server).values()) == {0}


def test_what_is_attached_already_names_its_interface(server: RunningServer, agent: RunningAgent) -> None:
    made = attach(server, agent, "pod0")
    done = vnotch(server, "attach", "pod0", "--agent", agent.name, "--name", "other")
    refused(done, f"pod0 is attached already, as {made['interface_id']}: --name", "vnotch detach pod0")
    done = vnotch(server, "detach", "up0", "--agent", agent.name)
    refused(done, "up0 is not attached", "attached here: pod0")
    refused(vnotch(server, "detach", "--agent", agent.name), "give --all", "attached here: pod0")


def test_an_agent_that_is_not_there_is_named_with_the_command_that_starts_it(server: RunningServer) -> None:
    refused(vnotch(server, "attach", "x", "--agent", "nobody"), "agent nobody", "sudo vnotch agent --name nobody")


def test_another_hosts_agent_is_not_ours(server: RunningServer) -> None:
    key = server.endpoint.request("PUT", "/vnotch/v1/agents/far")
    far = replace(server.endpoint, access_key_id=key["access_key_id"], secret_access_key=key["secret_access_key"])
    about = {"name": "far", "process": 1, "time_ns": 0, "boot_id": "another", "netns": None, "netns_inode": 1}
    far.request("POST", "/vnotch/v1/agents/far/status", {"interfaces": [], "flow_logs": [], "agent": about})
    refused(vnotch(server, "attach", "x", "--agent", "far"), "agent far runs on another host", "run this there")

"""The lab's side of the API, against the server itself; an agent is played by a thread that reports what it is told."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import host
import pytest

from vnotch.errors import HostError, InputError
from vnotch.lab import namespaces
from vnotch.lab.control import GROUP_ALL, GROUP_DETAIL, GROUP_REJECT, ROLE, ControlPlane
from vnotch.lab.lab import Event, Lab
from vnotch.lab.topology import Topology
from vnotch.lab.topology_file import default_topology_path, load_topology, parse_topology

SOURCE = Path(__file__).parents[2] / "src"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A server of its own: its url, the administrator's key and the region."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "vnotch",
        "server",
        "--data-dir",
        str(folder),
        "--port",
        str(port),
        "--any-interval",
    ]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(SOURCE)}, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not (folder / "endpoint").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield {"url": f"http://127.0.0.1:{port}", **json.loads((folder / "credentials.json").read_text())}
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


@pytest.fixture
def topology() -> Topology:
    return load_topology(default_topology_path())


@pytest.fixture
def control(server: dict[str, str]) -> Iterator[ControlPlane]:
    control = ControlPlane(
        server["url"], server["access_key_id"], server["secret_access_key"], server["region"], agent="tester"
    )
    control.require_up()
    yield control
    assert ec2(server).describe_vpcs()["Vpcs"] == [], "each test removes what it made"


def ec2(server: dict[str, str]) -> Any:
    return client(server, "ec2")


def client(server: dict[str, str], service: str) -> Any:
    return boto3.client(
        service,
        endpoint_url=server["url"],
        region_name=server["region"],
        aws_access_key_id=server["access_key_id"],
        aws_secret_access_key=server["secret_access_key"],
    )


class Agent:
    """Reports for every interface that the server tells it of what `says` returns for its device."""

    def __init__(self, server: dict[str, str], says: Any = lambda device: ("attached", None)) -> None:
        administrator = ControlPlane(
            server["url"], server["access_key_id"], server["secret_access_key"], server["region"]
        )
        key = administrator._request("PUT", "/vnotch/v1/agents/tester")
        self.plane = ControlPlane(server["url"], key["access_key_id"], key["secret_access_key"], server["region"])
        self.says = says
        self.devices: list[str] = []
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        while not self.stopped.is_set():
            told = self.plane._request("GET", "/vnotch/v1/agents/tester/configuration")
            self.devices = [interface["device"] for interface in told["interfaces"]]
            reports = []
            for interface in told["interfaces"]:
                state, message = self.says(interface["device"])
                report = {"interface_id": interface["interface_id"], "state": state, "message": message, "mode": "tcx"}
                reports.append(report)
            status = {"interfaces": reports, "flow_logs": [], "ledger": {}}
            self.plane._request("POST", "/vnotch/v1/agents/tester/status", status)
            self.stopped.wait(0.1)

    def __enter__(self) -> Agent:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self.thread.join()


def test_the_topology_becomes_resources_of_the_api(
    server: dict[str, str], control: ControlPlane, topology: Topology
) -> None:
    made = control.create_vpc(topology, "token-1")
    control.create_flow_logs(topology, made, "token-1", 5)
    try:
        vpc = ec2(server).describe_vpcs(VpcIds=[made.vpc_id])["Vpcs"][0]
        assert vpc["CidrBlock"] == "10.0.0.0/16"
        subnets = ec2(server).describe_subnets()["Subnets"]
        assert {subnet["CidrBlock"] for subnet in subnets} == {"10.0.0.0/24", "10.0.1.0/24"}
        assert {subnet["AvailabilityZone"] for subnet in subnets} == {f"{server['region']}a"}
        rows = {row["PrivateIpAddress"]: row for row in ec2(server).describe_network_interfaces()["NetworkInterfaces"]}
        assert set(rows) == {"10.0.0.10", "10.0.0.20", "10.0.1.10", "10.0.1.50", "10.0.0.220"}
        assert rows["10.0.1.50"]["Description"] == "RDSNetworkInterface"
        assert rows["10.0.0.10"]["Ipv6Addresses"][0]["Ipv6Address"] == "fd76:6e6f:7463::10"
        assert {
            name: rows[address]["MacAddress"] for name, address in (("web", "10.0.0.10"), ("nat", "10.0.0.220"))
        } == {name: made.macs[name] for name in ("web", "nat")}
        logs = {row["LogGroupName"]: row for row in ec2(server).describe_flow_logs()["FlowLogs"]}
        assert {group: (row["ResourceId"], row["TrafficType"]) for group, row in logs.items()} == {
            GROUP_ALL: (made.vpc_id, "ALL"),
            GROUP_REJECT: (made.subnets["public"], "REJECT"),
            GROUP_DETAIL: (made.interfaces["web"], "ALL"),
        }
        assert {row["MaxAggregationInterval"] for row in logs.values()} == {5}
        assert "tcp-flags" in logs[GROUP_DETAIL]["LogFormat"]
        trust = client(server, "iam").get_role(RoleName=ROLE)["Role"]["AssumeRolePolicyDocument"]
        assert trust["Statement"][0]["Principal"] == {"Service": "vpc-flow-logs.amazonaws.com"}
    finally:
        assert control.remove("token-1") == []
    assert ec2(server).describe_flow_logs()["FlowLogs"] == []
    assert ec2(server).describe_network_interfaces()["NetworkInterfaces"] == []
    assert control.remove("token-1") == [], "removing twice is no error"
    with pytest.raises(client(server, "iam").exceptions.NoSuchEntityException):
        client(server, "iam").get_role(RoleName=ROLE)


def test_the_firewall_of_the_topology_becomes_resources_of_the_api(
    server: dict[str, str], control: ControlPlane, topology: Topology
) -> None:
    api = ec2(server)
    made = control.create_vpc(topology, "token-1")
    try:
        mine = [{"Name": "vpc-id", "Values": [made.vpc_id]}]
        groups = {row["GroupName"]: row for row in api.describe_security_groups(Filters=mine)["SecurityGroups"]}
        assert set(groups) == {"default", "web", "bastion", "app", "database"}
        assert {name: groups[name]["GroupId"] for name in made.groups} == made.groups
        assert groups["web"]["Description"] == "Web servers, open to everybody"
        lists = {row["PrefixListName"]: row for row in api.describe_managed_prefix_lists()["PrefixLists"]}
        assert {name: row["AddressFamily"] for name, row in lists.items()} == {
            "visitors": "IPv4",
            "visitors-ipv6": "IPv6",
        }
        visitors = lists["visitors"]["PrefixListId"]
        entries = api.get_managed_prefix_list_entries(PrefixListId=visitors)["Entries"]
        assert [entry["Cidr"] for entry in entries] == ["198.51.100.21/32", "198.51.100.22/32"]
        ssh = [item for item in groups["bastion"]["IpPermissions"] if item.get("FromPort") == 22]
        assert [each["PrefixListId"] for each in ssh[0]["PrefixListIds"]] == [
            visitors,
            lists["visitors-ipv6"]["PrefixListId"],
        ]
        [sql] = groups["database"]["IpPermissions"]
        assert (sql["FromPort"], sql["UserIdGroupPairs"][0]["GroupId"]) == (3306, made.groups["app"])
        [outbound] = groups["web"]["IpPermissionsEgress"]
        assert (outbound["IpProtocol"], outbound["IpRanges"]) == ("-1", [{"CidrIp": "0.0.0.0/0"}])

        rows = {
            row["PrivateIpAddress"]: [group["GroupName"] for group in row["Groups"]]
            for row in api.describe_network_interfaces(Filters=mine)["NetworkInterfaces"]
        }
        del rows["10.0.0.220"]  # the NAT gateway's, which is bound as such by and by
        assert rows == {
            "10.0.0.10": ["web"],
            "10.0.0.20": ["bastion"],
            "10.0.1.10": ["app"],
            "10.0.1.50": ["database"],
        }
        acls = api.describe_network_acls(Filters=mine)["NetworkAcls"]
        having = {each["SubnetId"]: acl for acl in acls for each in acl["Associations"]}
        assert having[made.subnets["private"]]["IsDefault"]
        public = having[made.subnets["public"]]
        assert not public["IsDefault"]
        denied = [entry for entry in public["Entries"] if entry["RuleNumber"] == 90]
        assert denied == [
            {
                "CidrBlock": "198.51.100.22/32",
                "Egress": True,
                "IcmpTypeCode": {"Code": -1, "Type": 0},
                "Protocol": "1",
                "RuleAction": "deny",
                "RuleNumber": 90,
            }
        ]
    finally:
        assert control.remove("token-1") == []
    assert api.describe_managed_prefix_lists()["PrefixLists"] == []
    assert api.describe_security_groups()["SecurityGroups"] == []
    assert api.describe_network_acls()["NetworkAcls"] == []


def test_what_groups_let_out_is_what_the_file_says(server: dict[str, str], control: ControlPlane) -> None:
    text = default_topology_path().read_text()
    assert text.count('ingress = ["tcp/3306 from group app"]') == 1
    # Groups that refer to each other in a circle are removed all the same.
    shut = 'ingress = ["tcp/3306 from group app"]\negress = ["tcp/8080 to group app"]'
    circle = '"tcp/22 from group bastion",\n    "tcp/1 from group database",'
    text = text.replace('ingress = ["tcp/3306 from group app"]', shut).replace('"tcp/22 from group bastion",', circle)
    made = control.create_vpc(parse_topology(text), "token-1")
    try:
        [group] = ec2(server).describe_security_groups(GroupIds=[made.groups["database"]])["SecurityGroups"]
        [outbound] = group["IpPermissionsEgress"]
        assert (outbound["FromPort"], outbound["IpRanges"]) == (8080, [])
        assert outbound["UserIdGroupPairs"][0]["GroupId"] == made.groups["app"]
    finally:
        assert control.remove("token-1") == []


def test_the_topologys_ways_out_become_gateways_and_route_tables(
    server: dict[str, str], control: ControlPlane, topology: Topology
) -> None:
    made = control.create_vpc(topology, "token-1")
    api = ec2(server)
    try:
        [gateway] = api.describe_internet_gateways()["InternetGateways"]
        assert gateway["Attachments"] == [{"State": "available", "VpcId": made.vpc_id}]
        [nat] = api.describe_nat_gateways()["NatGateways"]
        assert (nat["SubnetId"], nat["ConnectivityType"]) == (made.subnets["public"], "public")
        assert nat["NatGatewayAddresses"][0]["PrivateIp"] == "10.0.0.220"
        assert nat["NatGatewayAddresses"][0]["NetworkInterfaceId"] == made.interfaces["nat"]
        assert nat["NatGatewayAddresses"][0]["PublicIp"] == str(topology.eni("nat").public_address)
        routes = {}
        for table in api.describe_route_tables()["RouteTables"]:
            [association] = table["Associations"]
            routes[association.get("SubnetId", "main")] = {
                route.get("DestinationCidrBlock") or route["DestinationIpv6CidrBlock"]: route.get("GatewayId")
                or route["NatGatewayId"]
                for route in table["Routes"]
                if route.get("GatewayId") != "local"
            }
        igw = gateway["InternetGatewayId"]
        assert routes == {
            "main": {},
            made.subnets["public"]: {"0.0.0.0/0": igw, "::/0": igw},
            made.subnets["private"]: {"0.0.0.0/0": nat["NatGatewayId"]},
        }
    finally:
        assert control.remove("token-1") == []
    assert api.describe_internet_gateways()["InternetGateways"] == []
    assert api.describe_nat_gateways()["NatGateways"] == []
    assert api.describe_addresses()["Addresses"] == []
    assert api.describe_route_tables()["RouteTables"] == []


def test_only_what_carries_the_token_is_removed(
    server: dict[str, str], control: ControlPlane, topology: Topology
) -> None:
    mine, others = control.create_vpc(topology, "token-1"), control.create_vpc(topology, "token-2")
    control.create_flow_logs(topology, others, "token-2", 60)
    # Both have the same public address, each in a world of its own; the server gives one to one.
    assert len({row["PublicIp"] for row in ec2(server).describe_addresses()["Addresses"]}) == 2
    control.remove("token-1")
    assert len(ec2(server).describe_addresses()["Addresses"]) == 1
    assert [vpc["VpcId"] for vpc in ec2(server).describe_vpcs()["Vpcs"]] == [others.vpc_id]
    assert mine.vpc_id != others.vpc_id
    assert client(server, "iam").get_role(RoleName=ROLE), "the other's flow logs name it"
    control.remove("token-2")


def test_a_wrong_key_and_a_silent_server_are_one_line(server: dict[str, str]) -> None:
    with pytest.raises(InputError, match="refuses"):
        ControlPlane(server["url"], server["access_key_id"], "x" * 40, server["region"]).require_up()
    with pytest.raises(HostError, match=r"127\.0\.0\.1:9") as caught:
        ControlPlane("http://127.0.0.1:9", "a", "b", "us-east-1").require_up()
    assert "vnotch server" in str(caught.value.remedy)


@pytest.mark.root
class TestLab:
    @pytest.fixture
    def lab(self, tmp_path: Path, control: ControlPlane) -> Iterator[Lab]:
        self.events: list[Event] = []
        lab = Lab(tmp_path / "lab", prefix=f"{host.PREFIX}c{os.getpid()}", control=control, events=self.events.append)
        try:
            yield lab
        finally:
            lab.down()
            assert namespaces.existing(lab.prefix) == []

    def test_links_go_up_when_the_agent_has_attached(self, server: dict[str, str], lab: Lab) -> None:
        ready = threading.Event()
        down_when_asked: dict[str, bool] = {}

        def says(device: str) -> tuple[str, None]:
            if not ready.is_set():
                return "absent", None
            if device not in down_when_asked:
                down_when_asked[device] = not lab.status().devices[device]
            return "attached", None

        with Agent(server, says) as agent:
            status = lab.up(interval_seconds=5, network_ready=ready.set)
            assert down_when_asked == dict.fromkeys(("vn-web", "vn-bastion", "vn-app", "vn-database", "vn-nat"), True)
            assert all(status.devices.values())
            rows = ec2(server).describe_network_interfaces()["NetworkInterfaces"]
            by_address = {row["PrivateIpAddress"]: row for row in rows}
            assert by_address["10.0.0.220"]["InterfaceType"] == "nat_gateway"
            assert by_address["10.0.1.50"]["RequesterManaged"] is True
            assert by_address["10.0.1.50"]["RequesterId"] == "amazon-rds"
            assert "InstanceId" not in by_address["10.0.1.50"].get("Attachment", {})
            assert by_address["10.0.0.10"]["Attachment"]["InstanceId"].startswith("i-0")
            assert mac_inside(lab, "web") == by_address["10.0.0.10"]["MacAddress"]

            added = lab.add("extra", "public")
            assert added.report.count("http").ok == 1
            assert down_when_asked["vn-extra"] is True
            rows = ec2(server).describe_network_interfaces(NetworkInterfaceIds=[added.interface_id])
            assert rows["NetworkInterfaces"][0]["PrivateIpAddress"] == str(added.eni.address)
            assert [group["GroupName"] for group in rows["NetworkInterfaces"][0]["Groups"]] == ["web"]
            assert by_address["10.0.0.220"]["Groups"] == []
            assert "vn-extra" in agent.devices
            lab.down()
        assert ec2(server).describe_network_interfaces()["NetworkInterfaces"] == []
        assert lab.status().phase == "absent"

    def test_an_agent_that_cannot_attach_says_why_and_nothing_is_left(self, server: dict[str, str], lab: Lab) -> None:
        def says(device: str) -> tuple[str, str | None]:
            return ("failed", "no room in the map") if device == "vn-app" else ("attached", None)

        with Agent(server, says), pytest.raises(HostError, match="cannot capture app: no room in the map"):
            lab.up()
        assert lab.status().phase == "absent"
        assert ec2(server).describe_vpcs()["Vpcs"] == []

    def test_no_agent_is_a_clear_error(self, server: dict[str, str], lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        Agent(server)  # registered, not running
        monkeypatch.setattr("vnotch.lab.control.ATTACH_SECONDS", 0.5)
        with pytest.raises(HostError, match="agent 'tester' has not attached") as caught:
            lab.up()
        assert "--netns" in str(caught.value.remedy)
        assert namespaces.existing(lab.prefix) == []

    def test_down_without_the_server_can_be_repeated(self, server: dict[str, str], lab: Lab) -> None:
        with Agent(server):
            lab.up()
        silent = ControlPlane("http://127.0.0.1:9", "a", "b", server["region"], agent="tester")
        for control in (silent, None):
            with pytest.raises(HostError, match="resources"):
                Lab(lab.folder, prefix=lab.prefix, control=control).down()
            assert namespaces.existing(lab.prefix) == [], "the network is gone all the same"
            assert lab.status().phase == "removing"
        lab.down()
        assert lab.status().phase == "absent"


def mac_inside(lab: Lab, name: str) -> str:
    command = ["ip", "-n", f"{lab.prefix}-{name}", "-json", "link", "show", "eth0"]
    return str(json.loads(subprocess.run(command, capture_output=True, check=True).stdout)[0]["address"])

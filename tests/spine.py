"""What tests of the whole path stand on: two instances, the namespace of their host sides, a server and an agent.

    instance a (10.77.1.10) -- vn-a [ host namespace, captured ] vn-b -- instance b (10.77.2.10)

The instances send numbered UDP datagrams; what was sent, counted by the sender, is what the records must add up to.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from tests.cli.running import environment
from vnotch.cli.endpoint import Endpoint
from vnotch.config import Folders

GROUP = "spine"
AGENT = f"spine-{os.getpid()}"
"""Agents of one name share pinned maps, and tests run side by side."""
INTERVAL_SECONDS = 5
ADDRESSES = {"a": "10.77.1.10", "b": "10.77.2.10"}
PORT = 9999
PAYLOAD = 100

TRUST = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Principal": {"Service": "vpc-flow-logs.amazonaws.com"},
            "Action": "sts:AssumeRole",
            "Condition": {"StringEquals": {"aws:SourceAccount": "123456789012"}},
        }
    ],
}


def policy(*actions: str) -> str:
    statement = {"Effect": "Allow", "Action": [f"logs:{action}" for action in actions], "Resource": "*"}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


FULL = policy("CreateLogGroup", "CreateLogStream", "PutLogEvents", "DescribeLogGroups", "DescribeLogStreams")
WITHOUT_PUT = policy("CreateLogGroup", "CreateLogStream", "DescribeLogGroups", "DescribeLogStreams")


def until(what: str, check: Callable[[], Any], seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(ConnectionError, OSError):
            if found := check():
                return found
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.25)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


class Network:
    """Two instances and the namespace of their host sides."""

    def __init__(self) -> None:
        self.names = {place: f"vnspine-{place}-{os.getpid()}" for place in ("host", "a", "b")}

    @property
    def host(self) -> str:
        return self.names["host"]

    def up(self) -> None:
        for name in self.names.values():
            ip("netns", "add", name)
        self._in("host", "sysctl", "-qw", "net.ipv4.ip_forward=1")
        for number, place in enumerate(("a", "b"), 1):
            # The instance's side stays down until its interface is attached.
            ip(
                "-n",
                self.host,
                "link",
                "add",
                f"vn-{place}",
                "type",
                "veth",
                "peer",
                "eth0",
                "netns",
                self.names[place],
            )
            ip("-n", self.host, "addr", "add", f"10.77.{number}.1/24", "dev", f"vn-{place}")

    def link_up(self) -> None:
        for number, place in enumerate(("a", "b"), 1):
            ip("-n", self.host, "link", "set", f"vn-{place}", "up")
            ip("-n", self.names[place], "addr", "add", f"{ADDRESSES[place]}/24", "dev", "eth0")
            ip("-n", self.names[place], "link", "set", "eth0", "up")
            ip("-n", self.names[place], "route", "add", "default", "via", f"10.77.{number}.1")

    def _in(self, place: str, *command: str) -> None:
        subprocess.run(["ip", "netns", "exec", self.names[place], *command], check=True, capture_output=True)

    def sink(self) -> subprocess.Popen[bytes]:
        """Someone listens at b, so that no ICMP comes back."""
        code = (
            "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); "
            f"s.bind(('', {PORT})); print(flush=True)\nwhile s.recv(4096): pass"
        )
        command = ["ip", "netns", "exec", self.names["b"], sys.executable, "-c", code]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        return process

    def send(self, count: int) -> None:
        """`count` datagrams from a to b, spread over a second so that no queue drops any."""
        code = (
            "import socket, time; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); "
            f"s.bind(('', 40000)); s.connect(('{ADDRESSES['b']}', {PORT}))\n"
            f"for i in range({count}):\n    s.send(bytes({PAYLOAD}))\n    if i % 20 == 0: time.sleep(0.02)"
        )
        self._in("a", sys.executable, "-c", code)

    def down(self) -> None:
        for name in self.names.values():
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


class Spine:
    """Server and agent as processes, and the account's resources."""

    def __init__(self, folder: Path, network: Network) -> None:
        self.folders = Folders(folder)
        self.network = network
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.sent = 0
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *arguments: str) -> None:
        more, variables = self.settings_of(name)
        command = [sys.executable, "-m", "vnotch", *arguments, *more, "--data-dir", str(self.folders.root)]
        with (self.folders.root / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(command, stdout=log, stderr=log, env=environment(**variables))

    def settings_of(self, name: str) -> tuple[list[str], dict[str, str]]:
        """Further arguments and variables of the server or the agent."""
        return [], {}

    def start_server(self) -> None:
        """Always at the same place, so that an agent that starts while there is no server knows where it will be."""
        self.start("server", "server", "--port", str(self.port), "--any-interval")
        written = self.folders.root / "endpoint"
        until("the server answers", lambda: written.exists() and Endpoint.find(self.folders).is_up())
        self.endpoint = Endpoint.find(self.folders)

    def start_agent(self) -> None:
        self.start("agent", "agent", "--name", AGENT, "--netns", self.network.host, "--flush")

    def kill(self, name: str) -> None:
        self.processes[name].kill()
        self.processes[name].wait()

    def make_resources(self) -> None:
        ec2, iam = self.endpoint.client("ec2"), self.endpoint.client("iam")
        iam.create_role(RoleName="spine", AssumeRolePolicyDocument=json.dumps(TRUST))
        self.allow(FULL)
        until("the agent has registered itself", (self.folders.agent(AGENT) / "key.json").exists)
        vpc = ec2.create_vpc(CidrBlock="10.77.0.0/16")["Vpc"]["VpcId"]
        self.enis = {}
        for number, place in enumerate(("a", "b"), 1):
            subnet = ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.77.{number}.0/24")["Subnet"]["SubnetId"]
            made = ec2.create_network_interface(SubnetId=subnet, PrivateIpAddress=ADDRESSES[place])
            self.enis[place] = made["NetworkInterface"]["NetworkInterfaceId"]
            self.endpoint.request(
                "PUT",
                f"/vnotch/v1/network-interfaces/{self.enis[place]}/binding",
                {
                    "agent": AGENT,
                    "device": f"vn-{place}",
                    "instance_id": None,
                    "interface_type": None,
                    "enforce": False,
                },
            )
        made = ec2.create_flow_logs(
            ResourceIds=[vpc],
            ResourceType="VPC",
            TrafficType="ALL",
            LogGroupName=GROUP,
            DeliverLogsPermissionArn="arn:aws:iam::123456789012:role/spine",
            MaxAggregationInterval=INTERVAL_SECONDS,
        )
        assert made["Unsuccessful"] == []
        self.flow_log = made["FlowLogIds"][0]

    def allow(self, document: str) -> None:
        self.endpoint.client("iam").put_role_policy(RoleName="spine", PolicyName="deliver", PolicyDocument=document)

    def binding_states(self) -> set[str]:
        paths = [f"/vnotch/v1/network-interfaces/{eni}/binding" for eni in self.enis.values()]
        return {self.endpoint.request("GET", path)["state"] for path in paths}

    def in_records(self) -> dict[str, int]:
        """Packets of each interface that are in records, by the agent's ledger."""
        status = self.endpoint.agent_status(AGENT)
        assert status is not None
        found: Counter[str] = Counter()
        for row in status["ledger"]["interfaces"]:
            found[row["interface_id"]] += row["accept"]["packets"] + row["reject"]["packets"]
        return dict(found)

    def delivery(self) -> tuple[str, str | None]:
        found = self.endpoint.client("ec2").describe_flow_logs(FlowLogIds=[self.flow_log])["FlowLogs"][0]
        return found["DeliverLogsStatus"], found.get("DeliverLogsErrorMessage")

    def records(self) -> list[list[str]]:
        logs = self.endpoint.client("logs")
        if not logs.describe_log_groups(logGroupNamePrefix=GROUP)["logGroups"]:
            return []
        pages = logs.get_paginator("filter_log_events").paginate(logGroupName=GROUP)
        return [event["message"].split(" ") for page in pages for event in page["events"]]

    def counted(self) -> dict[str, tuple[int, int]]:
        """Interface -> packets and bytes of our datagrams over all its records."""
        packets: Counter[str] = Counter()
        size: Counter[str] = Counter()
        for fields in self.records():
            if fields[3:8] == [ADDRESSES["a"], ADDRESSES["b"], "40000", str(PORT), "17"]:
                packets[fields[2]] += int(fields[8])
                size[fields[2]] += int(fields[9])
        return {eni: (packets[eni], size[eni]) for eni in packets}

    def send(self, count: int) -> None:
        self.network.send(count)
        self.sent += count

    @property
    def wanted(self) -> dict[str, tuple[int, int]]:
        # Each datagram is seen by both interfaces; its length is 20 bytes of IP, 8 of UDP, and the payload.
        return dict.fromkeys(self.enis.values(), (self.sent, self.sent * (28 + PAYLOAD)))

    def arrives(self) -> None:
        until(f"{self.sent} datagrams are in the records", lambda: self.counted() == self.wanted)

    def stop(self) -> None:
        for name in ("agent", "server"):
            if (process := self.processes.get(name)) and process.poll() is None:
                process.send_signal(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(30)
                process.kill()


SomeSpine = TypeVar("SomeSpine", bound=Spine)


@contextlib.contextmanager
def running(spine: SomeSpine) -> Iterator[SomeSpine]:
    """Network, server and agent until the end, and what the account needs; the links come up by `link_up`."""
    sink = None
    try:
        spine.network.up()
        sink = spine.network.sink()
        spine.start_server()
        spine.start_agent()
        spine.make_resources()
        yield spine
    finally:
        spine.stop()
        if sink is not None:
            sink.kill()
        spine.network.down()
        for log in sorted(spine.folders.root.glob("*.log")):
            print(f"---- {log.name}\n{log.read_text()[-4000:]}")

"""The lab in which the documented examples are played, and the packets that its instances saw, by packet sockets.

    outside hosts -- internet gateway -- [ router namespace, captured ] -- instances, NAT gateway

The packet sockets are the judge: they sit in the instances' and outside hosts' own namespaces, beyond the capture, and
share no code with it. From their packets each test knows what a record must count.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar

from packets import checksum

from vnotch.cli.endpoint import Endpoint
from vnotch.config import Folders
from vnotch.iam.delivery_role import ensure_delivery_role
from vnotch.lab import namespaces
from vnotch.lab.control import ControlPlane, Made
from vnotch.lab.lab import Lab
from vnotch.lab.topology import Topology
from vnotch.lab.topology_file import load_topology

T = TypeVar("T")

INTERVAL_SECONDS = 4
MARGIN_SECONDS = 0.4
"""How far from a boundary traffic begins: a drain takes what lies some milliseconds beside it."""
AGENT = "documented"
SOURCE = Path(__file__).parents[2] / "src"
OUTGOING = 4  # PACKET_OUTGOING of linux/if_packet.h
SO_TIMESTAMPNS = 35
SO_RCVBUFFORCE = 33
TCP, UDP, ICMP = 6, 17, 1
FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10

DEFAULT = (
    "version account-id interface-id srcaddr dstaddr srcport dstport protocol packets bytes start end action log-status"
)
TCP_FLAGS = (
    "version vpc-id subnet-id instance-id interface-id account-id type srcaddr dstaddr srcport dstport pkt-srcaddr "
    "pkt-dstaddr protocol bytes packets start end action tcp-flags log-status"
)
NAT = "instance-id interface-id srcaddr dstaddr pkt-srcaddr pkt-dstaddr"
SERVICE = (
    "version srcaddr dstaddr srcport dstport protocol start end type packets bytes account-id vpc-id subnet-id "
    "instance-id interface-id region az-id sublocation-type sublocation-id action tcp-flags pkt-srcaddr pkt-dstaddr "
    "pkt-src-aws-service pkt-dst-aws-service traffic-path flow-direction log-status"
)
HOPS = (
    "interface-id pkt-srcaddr pkt-dstaddr srcport dstport flow-direction interface-type next-hop-interface-id "
    "next-hop-subnet-id next-hop-az-id next-hop-vpc-id next-hop-interface-type instance-tag instance-tag-2 "
    "interface-tag log-status version"
)
ENCRYPTION = "interface-id flow-direction traffic-path srcaddr dstaddr srcport dstport encryption-status"
FORMATS = {
    "default": DEFAULT,
    "tcp-flags": TCP_FLAGS,
    "nat": NAT,
    "service": SERVICE,
    "hops": HOPS,
    "encryption": ENCRYPTION,
}
TAG_KEYS = [
    {"ResourceType": "instance", "TagKeys": ["Owner", "Cost center"]},
    {"ResourceType": "network-interface", "TagKeys": ["Purpose"]},
]


@dataclass(frozen=True)
class Packet:
    """As an instance saw it. `bytes` is the length of the IP packet."""

    at: float  # Unix seconds
    is_egress: bool
    source: str
    destination: str
    source_port: int
    destination_port: int
    protocol: int
    bytes: int
    flags: int

    @property
    def window_s(self) -> int:
        return int(self.at) // INTERVAL_SECONDS * INTERVAL_SECONDS


def read_packet(data: bytes, at: float, is_egress: bool) -> Packet | None:
    """None for what is no IP packet, and for ICMPv6 (neighbour discovery). No fragments, no extension headers."""
    if data[0] >> 4 == 4:
        length, protocol = struct.unpack_from("!H", data, 2)[0], data[9]
        source, destination, payload = data[12:16], data[16:20], data[(data[0] & 15) * 4 :]
    elif data[0] >> 4 == 6 and data[6] != socket.IPPROTO_ICMPV6:
        length, protocol = struct.unpack_from("!H", data, 4)[0] + 40, data[6]
        source, destination, payload = data[8:24], data[24:40], data[40:]
    else:
        return None
    ports = struct.unpack_from("!HH", payload) if protocol in (TCP, UDP) else (0, 0)
    flags = payload[13] if protocol == TCP else 0
    names = str(ip_address(source)), str(ip_address(destination))
    return Packet(at, is_egress, *names, *ports, protocol, length, flags)


class Tap:
    """A packet socket at `eth0` of a namespace. It holds what comes until it is read."""

    def __init__(self, namespace: str) -> None:
        def make() -> socket.socket:
            made = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
            made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
            made.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            made.bind(("eth0", 3))  # ETH_P_ALL
            made.setblocking(False)
            return made

        self._socket = namespaces.inside(namespace, make)
        self._packets: list[Packet] = []

    @property
    def packets(self) -> list[Packet]:
        with contextlib.suppress(BlockingIOError):
            while True:
                data, ancillary, _, address = self._socket.recvmsg(65536, 64)
                [(_, _, stamp)] = ancillary
                seconds, nanoseconds = struct.unpack("=qq", stamp[:16])
                packet = read_packet(data, seconds + nanoseconds / 1e9, address[2] == OUTGOING)
                if packet is not None:
                    self._packets.append(packet)
        return self._packets

    def close(self) -> None:
        self._socket.close()


class Subscriptions(ControlPlane):
    """The lab's control plane with the flow logs of the examples in the place of its own."""

    def create_flow_logs(self, topology: Topology, made: Made, token: str, interval_seconds: int) -> None:
        account = self._sts.get_caller_identity()["Account"]
        role = ensure_delivery_role(self._iam, FORMATS, account=account, region=self.region, name="documented")
        for group, names in FORMATS.items():
            log_format = " ".join(f"${{{name}}}" for name in names.split(" "))
            tags = {"TagFieldSpecifications": TAG_KEYS} if "-tag" in names else {}
            answer = self._ec2.create_flow_logs(
                ResourceType="VPC",
                ResourceIds=[made.vpc_id],
                TrafficType="ALL",
                LogGroupName=group,
                DeliverLogsPermissionArn=role,
                MaxAggregationInterval=interval_seconds,
                LogFormat=log_format,
                TagSpecifications=[
                    {"ResourceType": "vpc-flow-log", "Tags": [{"Key": "vnotch:lab", "Value": token}]},
                ],
                **tags,
            )
            assert answer["Unsuccessful"] == []
            made.flow_logs[group] = answer["FlowLogIds"][0]


class World:
    """Server, agent and lab. `ids` are the API's, by the topology's names."""

    def __init__(self, folder: Path, ip_ranges: Path) -> None:
        self.folders = Folders(folder / "data")
        self.folder = folder
        self.ip_ranges = ip_ranges
        self.topology = load_topology(Path(__file__).with_name("documented.toml"))
        self.prefix = f"vnld{os.getpid()}"
        self.taps: dict[str, Tap] = {}
        self.sockets: list[socket.socket] = []
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.lab: Lab | None = None

    # Making and removing

    def up(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._start("server", "server", "--port", str(port), "--any-interval")
        self._until("the server answers", (self.folders.root / "endpoint").exists)
        self.endpoint = Endpoint.find(self.folders)
        key = self.endpoint.access_key_id, self.endpoint.secret_access_key
        control = Subscriptions(self.endpoint.url, *key, self.endpoint.region, agent=AGENT)
        self.lab = Lab(self.folder / "lab", self.topology, prefix=self.prefix, control=control)
        status = self.lab.up(interval_seconds=INTERVAL_SECONDS, network_ready=self.start_agent)
        self.ids = status.api["interfaces"]
        self.subnets, self.vpc = status.api["subnets"], status.api["vpc"]
        for host in (*self.topology.enis, *self.topology.outside):
            self.taps[host.name] = Tap(self.namespace(host.name))
        rows = self.endpoint.client("ec2").describe_network_interfaces()["NetworkInterfaces"]
        self.instances = {row["NetworkInterfaceId"]: row.get("Attachment", {}).get("InstanceId", "-") for row in rows}

    def start_agent(self, *arguments: str) -> None:
        ready = self.folder / "agent.ready"
        ready.unlink(missing_ok=True)
        given = ["--name", AGENT, "--netns", f"{self.prefix}-router", "--ready-file", str(ready), "--flush"]
        self._start("agent", "agent", *given, "--ip-ranges", str(self.ip_ranges), *arguments)
        self._until("the agent is ready", ready.exists)

    def stop_agent(self) -> None:
        self._stop("agent")

    def down(self) -> None:
        for item in (*self.taps.values(), *self.sockets):
            item.close()
        try:
            if self.lab is not None:
                self._stop("agent")
                self.lab.down()
        finally:
            self._stop("server")
            for name in self.processes:
                print(f"---- {name}\n{(self.folder / f'{name}.log').read_text()[-4000:]}")

    def _start(self, name: str, *arguments: str) -> None:
        command = [sys.executable, "-m", "vnotch", *arguments, "--data-dir", str(self.folders.root)]
        with (self.folder / f"{name}.log").open("ab") as log:
            environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
            self.processes[name] = subprocess.Popen(command, stdout=log, stderr=log, env=environment)

    def _stop(self, name: str) -> None:
        if (process := self.processes.get(name)) and process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    @staticmethod
    def _until(what: str, check: Callable[[], Any], seconds: float = 60.0) -> Any:
        deadline = time.monotonic() + seconds
        while not (found := check()):
            assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
            time.sleep(0.25)
        return found

    # Sockets in the lab

    def namespace(self, name: str) -> str:
        return f"{self.prefix}-{name}"

    def inside(self, name: str, function: Callable[[], T]) -> T:
        return namespaces.inside(self.namespace(name), function)

    def address(self, name: str) -> str:
        return str(self.topology.eni(name).address)

    def public(self, name: str) -> str:
        return str(self.topology.eni(name).public_address)

    def connect(self, name: str, address: str, port: int) -> socket.socket:
        return self.inside(name, lambda: socket.create_connection((address, port), 5))

    def listen(self, name: str, port: int) -> socket.socket:
        made = self.inside(name, lambda: socket.create_server((self.address(name), port)))
        made.settimeout(5)
        self.sockets.append(made)
        return made

    def ip(self, name: str, *arguments: str) -> None:
        subprocess.run(["ip", "-n", self.namespace(name), *arguments], check=True, capture_output=True)

    def ping(self, name: str, address: str, count: int = 4) -> None:
        """As `ping -c 4`: 56 bytes of data, so 84 bytes of IP. Waits for no reply."""
        made = self.inside(name, lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
        with made:
            for sequence in range(count):
                body = struct.pack("!HH", os.getpid() & 0xFFFF, sequence) + bytes(56)
                summed = checksum(b"\x08\0\0\0" + body)
                made.sendto(b"\x08\0" + struct.pack("!H", summed) + body, (address, 0))

    def echo(self, name: str, address: str, port: int) -> None:
        """Answers datagrams to one address of an instance."""
        made = self.inside(name, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        made.bind((address, port))
        self.sockets.append(made)

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    data, peer = made.recvfrom(2048)
                    made.sendto(data, peer)

        threading.Thread(target=answer, daemon=True).start()

    def ask(self, name: str, address: str, port: int) -> int:
        """One datagram and its answer; -> the source port."""
        made = self.inside(name, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        with made:
            made.settimeout(5)
            made.connect((address, port))
            made.send(b"documented")
            made.recv(100)
            return int(made.getsockname()[1])

    # Windows

    def next_window(self) -> int:
        """Waits until a new window has begun, and some time more; -> its start."""
        start_s = (int(time.time()) // INTERVAL_SECONDS + 1) * INTERVAL_SECONDS
        time.sleep(start_s + MARGIN_SECONDS - time.time())
        return start_s

    # Records

    def records(self, group: str) -> list[dict[str, str]]:
        """All records of a group as field -> text."""
        names = FORMATS[group].split(" ")
        logs = self.endpoint.client("logs")
        if not logs.describe_log_groups(logGroupNamePrefix=group)["logGroups"]:
            return []
        pages = logs.get_paginator("filter_log_events").paginate(logGroupName=group)
        lines = [event["message"] for page in pages for event in page["events"]]
        assert all(line.count(" ") == len(names) - 1 for line in lines)
        return [dict(zip(names, line.split(" "), strict=True)) for line in lines]

    def wait_for_records(self, start_s: int) -> None:
        """Until each interface has a record of this window (or a later one) in every group."""

        logs = self.endpoint.client("logs")

        def are_there() -> bool:
            for group in FORMATS:
                try:
                    found = logs.describe_log_streams(logGroupName=group)["logStreams"]
                except logs.exceptions.ResourceNotFoundException:  # made with the first records
                    return False
                written = {stream["logStreamName"]: stream.get("lastEventTimestamp", 0) for stream in found}
                if any(written.get(f"{eni}-all", 0) < start_s * 1000 for eni in self.ids.values()):
                    return False
            return True

        self._until(f"records of the window {start_s}", are_there)


@contextlib.contextmanager
def standing(folder: Path) -> Iterator[World]:
    ranges = folder / "ip-ranges.json"
    # Of AWS's form; the site outside stands for S3, as 52.95.128.179 in the documented example.
    prefixes = [
        {"ip_prefix": cidr, "region": "us-east-1", "service": service, "network_border_group": "us-east-1"}
        for cidr, service in (("198.51.100.0/24", "AMAZON"), ("198.51.100.64/26", "S3"))
    ]
    ranges.write_text(json.dumps({"syncToken": "0", "prefixes": prefixes, "ipv6_prefixes": []}))
    world = World(folder, ranges)
    try:
        world.up()
        yield world
    finally:
        world.down()

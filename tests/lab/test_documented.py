"""The examples of the VPC user guide ("Flow log record examples"), played with real packets, record by record.

Each expected line is the documented one with our ids, addresses, ports, counts and times in the place of the
example's; counts and times are those of packet sockets in the instances' own namespaces. What the guide leaves open
(which sockets write how much) is not compared with the example's numbers.

Not to be had on the lab, because vnotch has no such thing: transit gateway ENIs, regional NAT gateways, and Nitro's
encryption (`encryption-status` is `-` here, as with encryption controls off). Their lines are held at the level of
records by tests/test_record.py with tests/data/aws_samples.toml.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import pytest
from documented import (
    ACK,
    FIN,
    ICMP,
    INTERVAL_SECONDS,
    MARGIN_SECONDS,
    RST,
    SYN,
    TCP,
    UDP,
    Packet,
    World,
    standing,
)

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

ACCOUNT = "123456789012"
CLIENT, CLIENT_IPV6, SITE = "198.51.100.21", "2001:db8:100::21", "198.51.100.80"
SERVER_IPV6 = "fd76:6e6f:7463::62"
SECONDARY, FOREIGN = "10.0.0.41", "10.0.9.9"
DNS_PORT = 5353
PINGED = ("open-allow", "open-noreply", "shut-allow", "shut-noreply", "shut-noreq", "shut-neither")


@dataclass
class Played:
    """What was done, in three windows one after the other: their starts, and the ports that were used."""

    world: World
    windows: list[int] = field(default_factory=list)
    ports: dict[str, int] = field(default_factory=dict)

    def packets(self, where: str, *flow: object, window: int = 0) -> list[Packet]:
        """Packets of one direction of a flow as `where` saw them: source, destination, ports, protocol."""
        return [
            packet
            for packet in self.world.taps[where].packets
            if (packet.source, packet.destination, packet.source_port, packet.destination_port, packet.protocol) == flow
            and packet.window_s == self.windows[window]
        ]

    def found(self, group: str, window: int = 0, **fields: object) -> list[dict[str, str]]:
        """Records with these fields (`_` stands for `-` in names), of a window where the format has times."""
        wanted = {name.replace("_", "-"): str(value) for name, value in fields.items()}
        start_s = self.windows[window]
        return [
            record
            for record in self.world.records(group)
            if wanted.items() <= record.items()
            and ("start" not in record or start_s <= int(record["start"]) < start_s + INTERVAL_SECONDS)
        ]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with standing(tmp_path_factory.mktemp("documented")) as world:
        yield world


@pytest.fixture(scope="module")
def played(world: World) -> Played:
    """All the traffic, once."""
    played = Played(world)
    prepare(world)
    listener = world.listen("server", 5001)
    played.windows.append(world.next_window())
    for number, name in enumerate(PINGED):
        world.ping("client", world.public(name), 4)
        played.ports[name] = number
    played.ports["ssh"] = ssh(world, world.public("server"))
    played.ports["ssh6"] = ssh(world, SERVER_IPV6)
    played.ports["rdp"] = refused(world, world.public("server"), 3389)
    played.ports["short"] = short_connection(world, listener)
    played.ports["s3"] = fetch(world, "server", SITE, 80)
    played.ports["nat"] = fetch(world, "worker", SITE, 80)
    played.ports["inside"] = fetch(world, "server", world.address("worker"), 8080)
    played.ports["secondary"] = world.ask("server", SECONDARY, DNS_PORT)
    played.ports["foreign"] = world.ask("server", FOREIGN, DNS_PORT)
    world.ping("client", world.public("quiet"), 1)  # a log stream begins with the first traffic
    with contextlib.closing(world.connect("client", world.public("server"), 5001)) as near:
        played.ports["long"] = near.getsockname()[1]
        far, _ = listener.accept()
        time.sleep(MARGIN_SECONDS)
        played.windows.append(world.next_window())
        for _ in range(3):
            near.sendall(b"x" * 1000)
            far.recv(1000)
            far.sendall(b"y" * 200)
            near.recv(1000)
        time.sleep(MARGIN_SECONDS)  # delayed acknowledgements belong to this window
        played.windows.append(world.next_window())
        far.close()
        near.recv(1)
    world.wait_for_records(played.windows[-1])
    return played


def prepare(world: World) -> None:
    """Addresses beyond the first, at the API and in the lab; tags."""
    ec2 = world.endpoint.client("ec2")
    several, server = world.ids["several"], world.ids["server"]
    ec2.assign_private_ip_addresses(NetworkInterfaceId=several, PrivateIpAddresses=[SECONDARY])
    tags = [{"Key": "Owner", "Value": "Zoë & co"}, {"Key": "Cost center", "Value": "42"}]
    ec2.create_tags(Resources=[world.instances[server]], Tags=tags)
    ec2.create_tags(Resources=[server], Tags=[{"Key": "Purpose", "Value": "50% web"}])
    for name, address in (("several", SECONDARY), ("appliance", FOREIGN)):
        world.ip(name, "addr", "add", f"{address}/32", "dev", "eth0")
        world.ip("router", "route", "add", f"{address}/32", "dev", f"vn-{name}")
        world.echo(name, address, DNS_PORT)
    time.sleep(1)  # the agent's long poll brings it the addresses and tags


def ssh(world: World, address: str) -> int:
    with world.connect("client", address, 22) as made:
        made.recv(100)
        made.sendall(b"SSH-2.0-documented\r\n")
        return int(made.getsockname()[1])


def refused(world: World, address: str, port: int) -> int:
    """A SYN that nobody answers."""
    made = world.inside("client", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    with made:
        made.settimeout(0.3)
        with pytest.raises(TimeoutError):
            made.connect((address, port))
        return int(made.getsockname()[1])


def short_connection(world: World, listener: socket.socket) -> int:
    """Opened, used and closed by both sides, the client first."""
    with world.connect("client", world.public("server"), 5001) as near:
        far, _ = listener.accept()
        with far:
            near.sendall(b"request")
            far.recv(100)
            far.sendall(b"response")
            near.recv(100)
            near.shutdown(socket.SHUT_WR)
            far.recv(100)
        near.recv(100)
        return int(near.getsockname()[1])


def fetch(world: World, name: str, address: str, port: int) -> int:
    """A short page: a long one comes in segments that the packet socket sees as one packet."""
    with world.connect(name, address, port) as made:
        made.sendall(f"GET /whoami HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
        while made.recv(65536):
            pass
        return int(made.getsockname()[1])


def tcp_flags(packets: Iterable[Packet]) -> int:
    """VPC user guide, tcp-flags: FIN 1, SYN 2, RST 4, SYN-ACK 18, or'ed; ACK and PSH alone are 0."""
    value = 0
    for packet in packets:
        value |= packet.flags & (FIN | SYN | RST)
        if packet.flags & (SYN | ACK) == SYN | ACK:
            value |= SYN | ACK
    return value


def is_line(record: dict[str, str], documented: str, packets: list[Packet], **names: object) -> None:
    """Asserts that a record is the documented line: `{}` places are names, counts, times and flags of the packets.

    Start and end are the first and the last packet's second by another clock reading than the capture's: one more or
    less is the same.
    """
    assert packets
    for name, packet in (("start", packets[0]), ("end", packets[-1])):
        if name in record:
            assert abs(int(record[name]) - int(packet.at)) <= 1, name
    known = {name.replace("-", "_"): record[name] for name in ("start", "end") if name in record}
    counts = {"packets": len(packets), "bytes": sum(packet.bytes for packet in packets)}
    line = documented.format(account=ACCOUNT, tcp_flags=tcp_flags(packets), **counts, **known, **names)
    assert " ".join(record.values()) == line


def one(records: list[dict[str, str]]) -> dict[str, str]:
    assert len(records) == 1, records
    return records[0]


# Accepted and rejected traffic


def test_ssh_is_accepted(played: Played) -> None:
    eni, here, port = played.world.ids["server"], played.world.address("server"), played.ports["ssh"]
    for documented, flow in (
        ("2 {account} {eni} {client} {here} {port} 22 6 {packets} {bytes} {start} {end} ACCEPT OK", (CLIENT, here)),
        ("2 {account} {eni} {here} {client} 22 {port} 6 {packets} {bytes} {start} {end} ACCEPT OK", (here, CLIENT)),
    ):
        ports = (port, 22) if flow[0] == CLIENT else (22, port)
        packets = played.packets("server", *flow, *ports, TCP)
        record = one(played.found("default", interface_id=eni, srcaddr=flow[0], srcport=ports[0], dstport=ports[1]))
        is_line(record, documented, packets, eni=eni, client=CLIENT, here=here, port=port)


def test_rdp_is_rejected(played: Played) -> None:
    world, port = played.world, played.ports["rdp"]
    eni, here = world.ids["server"], world.address("server")
    sent = played.packets("client", CLIENT, world.public("server"), port, 3389, TCP)
    record = one(played.found("default", interface_id=eni, dstport=3389))
    documented = "2 {account} {eni} {client} {here} {port} 3389 6 {packets} {bytes} {start} {end} REJECT OK"
    is_line(record, documented, sent, eni=eni, client=CLIENT, here=here, port=port)
    assert not [packet for packet in world.taps["server"].packets if packet.destination_port == 3389]


def test_ssh_over_ipv6(played: Played) -> None:
    eni, port = played.world.ids["server"], played.ports["ssh6"]
    packets = played.packets("server", CLIENT_IPV6, SERVER_IPV6, port, 22, TCP)
    record = one(played.found("default", interface_id=eni, srcaddr=CLIENT_IPV6, srcport=port))
    documented = "2 {account} {eni} {client} {here} {port} 22 6 {packets} {bytes} {start} {end} ACCEPT OK"
    is_line(record, documented, packets, eni=eni, client=CLIENT_IPV6, here=SERVER_IPV6, port=port)


def test_no_data(played: Played) -> None:
    eni = played.world.ids["quiet"]
    for window in (1, 2):
        start_s = played.windows[window]
        record = one(played.found("default", window, interface_id=eni))
        start, end = int(record["start"]), int(record["end"])
        line = f"2 {ACCOUNT} {eni} - - - - - - - {start} {end} - NODATA"
        assert " ".join(record.values()) == line
        assert start_s <= start < end <= start_s + INTERVAL_SECONDS


# The ping table: (security group inbound, ACL inbound, ACL outbound) -> records

ACCEPTED = "2 {account} {eni} {client} {here} 0 0 1 4 336 {start} {end} ACCEPT OK"
REJECTED = "2 {account} {eni} {client} {here} 0 0 1 4 336 {start} {end} REJECT OK"
REPLY_ACCEPTED = "2 {account} {eni} {here} {client} 0 0 1 4 336 {start} {end} ACCEPT OK"
REPLY_REJECTED = "2 {account} {eni} {here} {client} 0 0 1 4 336 {start} {end} REJECT OK"


@pytest.mark.parametrize(
    ("name", "request_line", "reply_line"),
    [
        pytest.param("open-noreply", ACCEPTED, REPLY_REJECTED, id="allow-allow-deny"),
        pytest.param("open-allow", ACCEPTED, REPLY_ACCEPTED, id="allow-allow-allow"),
        pytest.param("shut-allow", REJECTED, None, id="deny-allow-allow"),
        pytest.param("shut-noreply", REJECTED, None, id="deny-allow-deny"),
        pytest.param("shut-noreq", REJECTED, None, id="deny-deny-allow"),
        pytest.param("shut-neither", REJECTED, None, id="deny-deny-deny"),
    ],
)
def test_a_ping(played: Played, name: str, request_line: str, reply_line: str | None) -> None:
    world = played.world
    eni, here = world.ids[name], world.address(name)
    names = {"eni": eni, "client": CLIENT, "here": here}
    records = [record for record in played.found("default", interface_id=eni) if record["log-status"] == "OK"]
    assert len(records) == (2 if reply_line else 1)
    sent = played.packets("client", CLIENT, world.public(name), 0, 0, ICMP)
    request = one([record for record in records if record["srcaddr"] == CLIENT])
    is_line(request, request_line, sent, **names)
    replies = played.packets(name, here, CLIENT, 0, 0, ICMP)
    if reply_line is None:
        assert replies == []
        assert played.packets(name, CLIENT, here, 0, 0, ICMP) == [], "what is rejected does not arrive"
        return
    reply = one([record for record in records if record["srcaddr"] == here])
    is_line(reply, reply_line, replies, **names)
    arrived = played.packets("client", world.public(name), CLIENT, 0, 0, ICMP)
    assert len(arrived) == (4 if "ACCEPT" in reply_line else 0)


# 6.1: TCP flags

FLAGS = (
    "3 {vpc} {subnet} {instance} {eni} {account} IPv4 {source} {destination} {srcport} {dstport} "
    "{source} {destination} 6 {bytes} {packets} {start} {end} ACCEPT {tcp_flags} OK"
)


def flags_of(played: Played, kind: str, window: int) -> tuple[int, int]:
    """The client's and the server's value in a window, after the whole lines are compared."""
    world = played.world
    eni, here, port = world.ids["server"], world.address("server"), played.ports[kind]
    names = {"vpc": world.vpc, "subnet": world.subnets["public"], "instance": world.instances[eni], "eni": eni}
    values = []
    for flow in ((CLIENT, here, port, 5001), (here, CLIENT, 5001, port)):
        packets = played.packets("server", *flow, TCP, window=window)
        wanted = {"srcaddr": flow[0], "srcport": flow[2], "dstport": flow[3]}
        record = one(played.found("tcp-flags", window, interface_id=eni, **wanted))
        given = dict(zip(("source", "destination", "srcport", "dstport"), flow, strict=True))
        is_line(record, FLAGS, packets, **names, **given)
        values.append(int(record["tcp-flags"]))
    return values[0], values[1]


def test_flags_of_a_connection_over_three_intervals(played: Played) -> None:
    assert flags_of(played, "long", 0) == (2, 18)
    assert flags_of(played, "long", 1) == (0, 0)
    assert flags_of(played, "long", 2) == (1, 1)


def test_flags_of_a_short_connection(played: Played) -> None:
    assert flags_of(played, "short", 0) == (3, 19)


# 6.2: NAT gateway


def legs(played: Played, name: str) -> set[str]:
    records = played.world.records("nat")
    eni = played.world.ids[name]
    return {" ".join(r.values()) for r in records if r["interface-id"] == eni and r["srcaddr"] != "-"}


def test_the_legs_of_a_nat_gateway(played: Played) -> None:
    """Of the connection to the site outside: the worker's other peer is in the VPC."""
    nat, worker = played.world.ids["nat"], played.world.ids["worker"]
    assert legs(played, "nat") == {
        f"- {nat} 10.0.1.5 10.0.0.220 10.0.1.5 {SITE}",
        f"- {nat} 10.0.0.220 {SITE} 10.0.0.220 {SITE}",
        f"- {nat} {SITE} 10.0.0.220 {SITE} 10.0.0.220",
        f"- {nat} 10.0.0.220 10.0.1.5 {SITE} 10.0.1.5",
    }
    instance = played.world.instances[worker]
    assert {line for line in legs(played, "worker") if SITE in line} == {
        f"{instance} {worker} 10.0.1.5 {SITE} 10.0.1.5 {SITE}",
        f"{instance} {worker} {SITE} 10.0.1.5 {SITE} 10.0.1.5",
    }


# 6.4: service name, path, direction

TOWARDS = (
    "5 {here} {far} {port} {service_port} 6 {start} {end} IPv4 {packets} {bytes} {account} {vpc} {subnet} {instance} "
    "{eni} us-east-1 use1-az1 - - ACCEPT {tcp_flags} {here} {far} - {service} {path} egress OK"
)
BACK = (
    "5 {far} {here} {service_port} {port} 6 {start} {end} IPv4 {packets} {bytes} {account} {vpc} {subnet} {instance} "
    "{eni} us-east-1 use1-az1 - - ACCEPT {tcp_flags} {far} {here} {service} - - ingress OK"
)


@pytest.mark.parametrize(
    ("kind", "far", "service_port", "service", "path"),
    [
        pytest.param("s3", SITE, 80, "S3", 8, id="s3-over-the-internet-gateway"),
        pytest.param("inside", "10.0.1.5", 8080, "-", 1, id="within-the-vpc"),
    ],
)
def test_service_path_and_direction(
    played: Played, kind: str, far: str, service_port: int, service: str, path: int
) -> None:
    world = played.world
    eni, here, port = world.ids["server"], world.address("server"), played.ports[kind]
    names = {"vpc": world.vpc, "subnet": world.subnets["public"], "instance": world.instances[eni], "eni": eni}
    names |= {"here": here, "far": far, "service": service}
    numbers = {"port": port, "service_port": service_port, "path": path}
    for line, flow in ((TOWARDS, (here, far, port, service_port)), (BACK, (far, here, service_port, port))):
        packets = played.packets("server", *flow, TCP)
        wanted = {"srcaddr": flow[0], "srcport": flow[2], "dstport": flow[3]}
        is_line(one(played.found("service", interface_id=eni, **wanted)), line, packets, **names, **numbers)


# Version 11: next hops, interface type, tags


def hop(played: Played, name: str, source: str, destination: str, ports: tuple[int, int]) -> list[str]:
    """direction, interface-type, the next hop's five fields."""
    wanted = {"pkt_srcaddr": source, "pkt_dstaddr": destination, "srcport": ports[0], "dstport": ports[1]}
    record = one(played.found("hops", interface_id=played.world.ids[name], **wanted))
    assert record["version"] == "11"
    return list(record.values())[5:12]


def test_next_hops(played: Played) -> None:
    world = played.world
    here, worker = world.address("server"), world.address("worker")
    server_hop = [world.ids["server"], world.subnets["public"], "use1-az1", world.vpc, "-"]
    worker_hop = [world.ids["worker"], world.subnets["private"], "use1-az1", world.vpc, "-"]
    nat_hop = [world.ids["nat"], world.subnets["public"], "use1-az1", world.vpc, "nat_gateway"]
    inside, out = (played.ports["inside"], 8080), (played.ports["nat"], 80)
    # Within the VPC: egress names who receives, ingress who sends.
    assert hop(played, "server", here, worker, inside) == ["egress", "-", *worker_hop]
    assert hop(played, "server", worker, here, inside[::-1]) == ["ingress", "-", *worker_hop]
    assert hop(played, "worker", here, worker, inside) == ["ingress", "-", *server_hop]
    assert hop(played, "worker", worker, here, inside[::-1]) == ["egress", "-", *server_hop]
    # Through the NAT gateway, and at it: the instance on one side, no ENI at the internet gateway.
    assert hop(played, "worker", worker, SITE, out) == ["egress", "-", *nat_hop]
    assert hop(played, "worker", SITE, worker, out[::-1]) == ["ingress", "-", *nat_hop]
    assert hop(played, "nat", worker, SITE, out) == ["ingress", "nat_gateway", *worker_hop]
    nothing = ["-"] * 5
    translated = {r["srcport"] for r in world.records("hops") if r["pkt-srcaddr"] == "10.0.0.220"}
    [port] = map(int, translated)
    assert hop(played, "nat", "10.0.0.220", SITE, (port, 80)) == ["egress", "nat_gateway", *nothing]
    # Over the internet gateway, which has no ENI.
    direct = (played.ports["s3"], 80)
    assert hop(played, "server", here, SITE, direct) == ["egress", "-", *nothing]
    assert hop(played, "server", SITE, here, direct[::-1]) == ["ingress", "-", *nothing]


def test_tags_are_percent_encoded(played: Played) -> None:
    """RFC 3986: UTF-8, then %XX for all but the unreserved characters."""
    records = played.found("hops", interface_id=played.world.ids["server"], srcport=played.ports["s3"])
    record = one(records)
    shown = [record[name] for name in ("instance-tag", "instance-tag-2", "interface-tag")]
    assert shown == ["Zo%C3%AB%20%26%20co", "42", "50%25%20web"]
    other = one(played.found("hops", interface_id=played.world.ids["worker"], srcport=played.ports["nat"]))
    assert [other[name] for name in ("instance-tag", "instance-tag-2", "interface-tag")] == ["-", "-", "-"]


# Addresses that are not the primary one


def addresses(played: Played, name: str, **wanted: object) -> list[str]:
    record = one(played.found("tcp-flags", interface_id=played.world.ids[name], protocol=UDP, **wanted))
    return [record[name] for name in ("srcaddr", "dstaddr", "pkt-srcaddr", "pkt-dstaddr", "action")]


def test_a_secondary_address_is_shown_as_the_primary_one(played: Played) -> None:
    here, port = played.world.address("server"), played.ports["secondary"]
    assert addresses(played, "several", srcport=port) == [here, "10.0.0.40", here, SECONDARY, "ACCEPT"]


def test_an_address_that_the_interface_does_not_own_is_shown_as_the_primary_one(played: Played) -> None:
    here, port = played.world.address("server"), played.ports["foreign"]
    assert addresses(played, "appliance", srcport=port) == [here, "10.0.0.50", here, FOREIGN, "ACCEPT"]
    assert addresses(played, "appliance", dstport=port) == ["10.0.0.50", here, FOREIGN, here, "ACCEPT"]
    # At the other end it is what it is.
    assert addresses(played, "server", srcport=port) == [here, FOREIGN, here, FOREIGN, "ACCEPT"]


def test_encryption_status_is_not_known(played: Played) -> None:
    """`-`: encryption controls are off, or the status cannot be obtained."""
    eni, here, port = played.world.ids["server"], played.world.address("server"), played.ports["s3"]
    lines = {" ".join(r.values()) for r in played.found("encryption", interface_id=eni) if str(port) in r.values()}
    assert lines == {f"{eni} egress 8 {here} {SITE} {port} 80 -", f"{eni} ingress - {SITE} {here} 80 {port} -"}


# Skipped data: last, because the agent starts again with maps that are too small


def test_skipped_data(played: Played) -> None:
    """More new flows in one interval than the maps and the ring behind them hold."""
    world = played.world
    eni = world.ids["open-allow"]
    world.stop_agent()
    world.start_agent("--flows-per-map", "1")
    world._until(
        "the agent captures again",
        lambda: world.endpoint.request("GET", f"/vnotch/v1/network-interfaces/{eni}/binding")["state"] == "attached",
    )
    played.windows.append(world.next_window())
    flood(world, "open-allow", 40_000)
    world.wait_for_records(played.windows[-1])
    skipped = [r for r in world.records("default") if r["log-status"] == "SKIPDATA" and r["interface-id"] == eni]
    start_s = played.windows[-1]
    [record] = [r for r in skipped if start_s <= int(r["start"]) < start_s + 2 * INTERVAL_SECONDS]
    line = f"2 {ACCOUNT} {eni} - - - - - - - {record['start']} {record['end']} - SKIPDATA"
    assert " ".join(record.values()) == line


def flood(world: World, name: str, count: int) -> None:
    """Datagrams to as many ports, which the instance's own security group rejects: one flow each."""
    made = world.inside(name, lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP))
    with made:
        for port in range(1, count + 1):
            made.sendto(struct.pack("!HHHH", 40000, port, 8, 0), (SITE, 0))

"""A pair whose host routes to a third namespace, with rules of nftables on the host, and packets of each protocol."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from typing import Any

import packets as pk
from drains import Sum
from links import Pair, run, send_frames

from vnotch.capture.interfaces import Namespace

PROTOCOLS = {"udp": 17, "tcp": 6, "icmp": 1}
HEADERS = {"udp": 8, "tcp": 20, "icmp": 8}

MATCH = {
    ("udp", 4): "ip protocol udp udp dport 4000",
    ("udp", 6): "ip6 nexthdr udp udp dport 4000",
    ("tcp", 4): "ip protocol tcp tcp dport 4000",
    ("tcp", 6): "ip6 nexthdr tcp tcp dport 4000",
    ("icmp", 4): "icmp type echo-request",
    ("icmp", 6): "icmpv6 type echo-request",
}

PAYLOAD = 100


class Routed(Pair):
    """As `Pair`; behind the host lies `far`, with 10.78.0.2 and fd78::2 on its `eth0` and the host's `vn-far` at its
    other end. The host forwards both families."""

    far_device = "vn-far"
    far_v4, far_v6 = "10.78.0.2", "fd78::2"
    host_far_v4, host_far_v6 = "10.78.0.1", "fd78::1"

    def __init__(self) -> None:
        super().__init__()
        self.far = self.host.replace("-h-", "-f-")
        run("ip", "netns", "add", self.far)
        self._namespaces[self.far] = Namespace(self.far)
        run(*f"ip -n {self.host} link add {self.far_device} type veth peer name eth0 netns {self.far}".split())
        self.enable_ipv6()
        sides = [
            (self.host, self.far_device, self.host_far_v4, self.host_far_v6, ()),
            (self.far, "eth0", self.far_v4, self.far_v6, (self.host_far_v4, self.host_far_v6)),
            (self.instance, self.instance_device, None, None, (self.host_v4, self.host_v6)),
        ]
        for namespace, device, v4, v6, gateways in sides:
            ip = ("ip", "-n", namespace)
            run(*ip, "link", "set", "lo", "up")
            run(*ip, "link", "set", device, "up")
            if v4 and v6:
                run(*ip, "addr", "add", f"{v4}/24", "dev", device)
                run(*ip, "addr", "add", f"{v6}/64", "dev", device, "nodad")
            for gateway in gateways:
                run(*ip, "route", "add", "default", "via", gateway)
        self.in_host(run, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        for each in (self.in_host, self.in_instance, self.in_far):  # ICMP errors for every packet
            each(run, "sysctl", "-qw", "net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0")
        for sender in (self.in_host, self.in_instance):  # neighbours are found before anything is counted
            for address in (self.far_v4, self.far_v6):
                sender(knock, address)
        self.settle()

    def close(self) -> None:
        super().close()
        subprocess.run(["ip", "netns", "del", self.far], check=False, capture_output=True)

    def in_far(self, function: Any, *arguments: Any) -> Any:
        return self._namespaces[self.far].run(function, *arguments)

    def nft(self, rules: str, namespace: str | None = None) -> None:
        """Rules of a namespace, the host's by default, by the program that an administrator uses."""
        self._namespaces[namespace or self.host].run(_nft, rules)

    def inject(self, namespace: str, device: str, frames: Sequence[bytes]) -> None:
        self._namespaces[namespace].run(send_frames, device, frames)

    def dropped(self, namespace: str | None = None) -> Sum:
        """What nftables' own counters say, of all rules with one. They count IP packets by their length."""
        listed = json.loads(self._namespaces[namespace or self.host].run(run, "nft", "-j", "list", "ruleset"))
        packets = bytes_ = 0
        for item in listed["nftables"]:
            for part in item.get("rule", {}).get("expr", []):
                if "counter" in part:
                    packets += part["counter"]["packets"]
                    bytes_ += part["counter"]["bytes"]
        return Sum(packets, bytes_)

    def address(self, side: str, family: int) -> str:
        return str(getattr(self, f"{side}_v{family}"))

    def send_from_instance(self, protocol: str, family: int, destination: str, count: int) -> None:
        """Frames as they are, so that no socket repeats or answers anything."""
        source = self.address("instance", family)
        packet = {4: pk.ipv4, 6: pk.ipv6}[family](source, destination, transport(protocol, family))
        macs = {"source": mac_bytes(self.instance_mac), "destination": mac_bytes(self.host_mac)}
        self.inject_from_instance([pk.ethernet(packet, **macs)] * count)

    def send_from_host(self, protocol: str, family: int, destination: str, count: int) -> None:
        """By a raw socket, which goes through the hooks output and postrouting."""
        self.in_host(_send_raw, protocol, family, destination, count)


def transport(protocol: str, family: int) -> pk.Transport:
    if protocol == "udp":
        return pk.udp(5000, 4000, b"x" * PAYLOAD)
    if protocol == "tcp":
        return pk.tcp(5000, 4000, pk.SYN, b"x" * PAYLOAD)
    return (
        pk.icmp(payload=b"\0\1\0\1" + b"x" * PAYLOAD)
        if family == 4
        else pk.icmpv6(payload=b"\0\1\0\1" + b"x" * PAYLOAD)
    )


def packet_bytes(protocol: str, family: int) -> int:
    """RFC 791, RFC 8200: the IP header has 20 or 40 bytes."""
    return (20 if family == 4 else 40) + HEADERS[protocol] + PAYLOAD


def protocol_number(protocol: str, family: int) -> int:
    return 58 if (protocol, family) == ("icmp", 6) else PROTOCOLS[protocol]


def _send_raw(protocol: str, family: int, destination: str, count: int) -> None:
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    with socket.socket(kind, socket.SOCK_RAW, protocol_number(protocol, family)) as raw:
        raw.connect((destination, 0))
        source = ip_address(raw.getsockname()[0]).packed
        data = transport(protocol, family).bytes_between(source, ip_address(destination).packed)
        for _ in range(count):
            try:
                raw.send(data)
            except (PermissionError, ConnectionRefusedError, OSError):  # what a drop or a reject at output says
                continue


def send_udp(destination: str, count: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sender.bind(("", 5000))
        for _ in range(count):
            sender.sendto(b"x" * PAYLOAD, (destination, 4000))


def mac_bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def knock(address: str) -> None:
    kind = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(kind, socket.SOCK_DGRAM) as sender:
        for _ in range(3):
            sender.sendto(b"", (address, 9))


def _nft(rules: str) -> None:
    done = subprocess.run(["nft", "-f", "-"], input=rules, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def chain(hook: str, rules: Iterable[str], *, device: str = "", kind: str = "filter", priority: int = 0) -> str:
    """A table of this kind, with one base chain."""
    family = "netdev" if device else "inet"
    where = f'device "{device}" ' if device else ""
    lines = "\n".join(rules)
    return f"table {family} {kind} {{ chain c {{ type {kind} hook {hook} {where}priority {priority}; {lines}\n}}\n}}\n"

"""A host namespace and an instance namespace joined by a veth pair."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import itertools
import os
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from vnotch.capture.interfaces import Namespace

T = TypeVar("T")

_number = itertools.count()

# include/uapi/linux/ethtool.h, sockios.h
SIOCETHTOOL = 0x8946
ETHTOOL_STSO, ETHTOOL_SGSO, ETHTOOL_SGRO = 0x1F, 0x24, 0x2C


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout


@dataclass(frozen=True)
class DeviceCounters:
    """The kernel's own counters of a device; bytes with the Ethernet header."""

    rx_packets: int
    rx_bytes: int
    tx_packets: int
    tx_bytes: int


class Pair:
    """`host`/`host_device` is the side that is captured, `instance`/`instance_device` the ENI's.

    Addresses: 10.77.0.1 on the host, 10.77.0.2 in the instance; `enable_ipv6` adds fd77::1 and fd77::2. Neighbours are
    static and there is no IPv6 before that, so the link is silent until a test sends something.
    """

    host_device = "vn-eni"
    instance_device = "eth0"
    host_v4, instance_v4 = "10.77.0.1", "10.77.0.2"
    host_v6, instance_v6 = "fd77::1", "fd77::2"
    host_mac, instance_mac = "02:00:00:00:77:01", "02:00:00:00:77:02"

    def __init__(self) -> None:
        unique = f"{os.getpid()}-{next(_number)}"
        self.host, self.instance = f"vntest-h-{unique}", f"vntest-i-{unique}"
        self._namespaces: dict[str, Namespace] = {}
        run("ip", "netns", "add", self.host)
        run("ip", "netns", "add", self.instance)
        for name in (self.host, self.instance):
            self._namespaces[name] = Namespace(name)
            self._namespaces[name].run(_set_ipv6, False)
        self.add_link()

    def add_link(self, index: int | None = None) -> None:
        """`index`: the host side's interface index, the kernel's choice by default."""
        number = "" if index is None else f"index {index}"
        run(
            *f"ip -n {self.host} link add {self.host_device} {number} address {self.host_mac} type veth".split(),
            *f"peer name {self.instance_device} address {self.instance_mac} netns {self.instance}".split(),
        )
        for namespace, device, address, mac, other in self._sides(self.host_v4, self.instance_v4):
            ip = ("ip", "-n", namespace)
            run(*ip, "link", "set", "lo", "up")
            run(*ip, "addr", "add", f"{address}/24", "dev", device)
            run(*ip, "link", "set", device, "up")
            run(*ip, "neigh", "replace", other, "lladdr", mac, "dev", device)

    def enable_ipv6(self) -> None:
        """The multicast listener reports that come with it are over when this returns."""
        for namespace in self._namespaces.values():
            namespace.run(_set_ipv6, True)
        for namespace, device, address, mac, other in self._sides(self.host_v6, self.instance_v6):
            ip = ("ip", "-n", namespace)
            run(*ip, "addr", "add", f"{address}/64", "dev", device, "nodad")
            run(*ip, "neigh", "replace", other, "lladdr", mac, "dev", device)
        time.sleep(0.5)
        self.settle()

    def _sides(self, host: str, instance: str) -> list[tuple[str, str, str, str, str]]:
        """(namespace, device, its address, the other side's MAC and address)"""
        return [
            (self.host, self.host_device, host, self.instance_mac, instance),
            (self.instance, self.instance_device, instance, self.host_mac, host),
        ]

    def remove_link(self) -> None:
        run("ip", "-n", self.host, "link", "del", self.host_device)

    def in_host(self, function: Callable[..., T], *arguments: Any) -> T:
        """Runs a function on a thread inside the host's namespace. Sockets made there belong to it for good."""
        return self._namespaces[self.host].run(function, *arguments)

    def in_instance(self, function: Callable[..., T], *arguments: Any) -> T:
        return self._namespaces[self.instance].run(function, *arguments)

    def inject_from_instance(self, frames: Sequence[bytes]) -> None:
        """Sends frames as they are: they come in at the host's side."""
        self.in_instance(send_frames, self.instance_device, frames)

    def inject_from_host(self, frames: Sequence[bytes]) -> None:
        self.in_host(send_frames, self.host_device, frames)

    def offloads_off(self) -> None:
        """Every packet on the wire is a frame of its own, which device counters then count."""
        self.in_host(_offloads_off, self.host_device)
        self.in_instance(_offloads_off, self.instance_device)

    def allow_big_tcp(self) -> None:
        """Frames of up to 192 kB, whose lengths the IP headers cannot say."""
        self.in_host(_allow_big_tcp, self.host_device)
        self.in_instance(_allow_big_tcp, self.instance_device)

    def host_counters(self) -> DeviceCounters:
        return self.in_host(_counters, self.host_device)

    def instance_counters(self) -> DeviceCounters:
        return self.in_instance(_counters, self.instance_device)

    def settle(self) -> None:
        """Waits until nothing moves on the link any more."""
        self._settle(lambda: (self.host_counters(), self.instance_counters()))

    def settle_instance(self) -> None:
        """The same where the host's side has gone elsewhere."""
        self._settle(self.instance_counters)

    def _settle(self, counters: Callable[[], object]) -> None:
        before, still = None, 0
        for _ in range(1000):
            now = counters()
            still = still + 1 if now == before else 0
            if still == 3:
                return
            before = now
            time.sleep(0.01)
        raise AssertionError("the link does not come to rest")

    def close(self) -> None:
        for namespace in self._namespaces.values():
            namespace.close()
        for name in (self.host, self.instance):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def _set_ipv6(on: bool) -> None:
    """A child inherits the namespace of the thread that starts it."""
    for path in Path("/proc/sys/net/ipv6/conf").iterdir():
        # Reports are sent once and repeated within this time, in ms.
        run("sysctl", "-qw", f"net.ipv6.conf.{path.name}.mldv2_unsolicited_report_interval=3600000")
    for name in ("all", "default"):
        run("sysctl", "-qw", f"net.ipv6.conf.{name}.disable_ipv6={int(not on)}")


def send_frames(device: str, frames: Sequence[bytes]) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((device, 0))
        for frame in frames:
            try:
                raw.send(frame)
            except OSError as error:  # dropped at the device's own egress hook
                if error.errno != errno.ENOBUFS:
                    raise


def _offloads_off(device: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for command in (ETHTOOL_STSO, ETHTOOL_SGSO, ETHTOOL_SGRO):
            value = ctypes.create_string_buffer(struct.pack("=II", command, 0))
            request = struct.pack("16sP", device.encode(), ctypes.addressof(value)).ljust(40, b"\0")
            fcntl.ioctl(any_socket, SIOCETHTOOL, request)


def _allow_big_tcp(device: str) -> None:
    """RTM_NEWLINK by hand: the ip program of Debian 12 does not know the IPv4 attributes."""
    # IFLA_GSO_MAX_SIZE, IFLA_GRO_MAX_SIZE, IFLA_GSO_IPV4_MAX_SIZE, IFLA_GRO_IPV4_MAX_SIZE of if_link.h.
    attributes = b"".join(struct.pack("=HHI", 8, kind, 196608) for kind in (41, 58, 63, 64))
    body = struct.pack("=BBHiII", 0, 0, 0, socket.if_nametoindex(device), 0, 0) + attributes
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.send(struct.pack("=IHHII", 16 + len(body), 16, 1 | 4, 1, 0) + body)
        (answer,) = struct.unpack_from("=i", netlink.recv(4096), 16)
    assert answer == 0, os.strerror(-answer)


def _counters(device: str) -> DeviceCounters:
    for line in Path("/proc/thread-self/net/dev").read_text().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == device:
            fields = [int(number) for number in numbers.split()]
            return DeviceCounters(fields[1], fields[0], fields[9], fields[8])
    raise AssertionError(f"no device {device}")


SLOT = 5
"""The slot under which the fixture `datapath` captures the host's side."""

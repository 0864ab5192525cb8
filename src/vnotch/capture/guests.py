"""The network namespace behind a veth of the host: that of the container or instance whose end it is.

The kernel numbers the namespaces that a namespace has links to (IFLA_LINK_NETNSID); which namespace a number is, is
found by asking it the number of each namespace that has a process or a name (RTM_GETNSID). A namespace without either
is not found. Nothing here keeps a namespace alive: files are open only while they are asked about.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vnotch.capture.interfaces import NAMED_NAMESPACES, Namespace
from vnotch.capture.netlink import ask, attributes, open_netlink
from vnotch.errors import KernelError

RTM_GETLINK, RTM_GETNSID = 18, 90
IFLA_LINK, IFLA_LINKINFO, IFLA_LINK_NETNSID = 5, 18, 37
IFLA_IFNAME, IFLA_EXT_MASK, IFLA_INFO_KIND = 3, 29, 1
RTEXT_FILTER_SKIP_STATS = 1 << 3
NETNSA_NSID, NETNSA_FD = 1, 3
_PEERED = (b"veth", b"netkit")


@dataclass(frozen=True)
class Guest:
    """A namespace that was found: `path` names it as long as the file has this inode."""

    path: str
    inode: int

    @property
    def is_there(self) -> bool:
        return _inode(self.path) == self.inode


@dataclass(frozen=True)
class Peer:
    """The other end of a veth: `guest` is its namespace, None for the one that was asked; `index` the device there."""

    guest: Guest | None
    index: int


class Guests:
    """Finds the namespaces behind the veths of one namespace."""

    def __init__(self, namespace: Namespace, proc: Path = Path("/proc"), named: Path = NAMED_NAMESPACES) -> None:
        self._namespace = namespace
        self._proc = proc
        self._named = named

    def behind(self, devices: list[str]) -> dict[str, Peer]:
        """Device -> its other end. A device that is no veth, is gone or whose other end is not found has no entry.
        Raises KernelError."""
        route = self._namespace.run(open_netlink, socket.NETLINK_ROUTE)
        with route:
            ends = {device: end for device in devices if (end := _other_end(route, device)) is not None}
            wanted = {number for number, _ in ends.values() if number >= 0}
            by_number = self._by_number(route, wanted) if wanted else {}
        return {
            device: Peer(by_number.get(number), index)
            for device, (number, index) in ends.items()
            if number < 0 or number in by_number
        }

    def _by_number(self, route: socket.socket, wanted: set[int]) -> dict[int, Guest]:
        found: dict[int, Guest] = {}
        for path, inode in self._namespaces():
            number = _number_of(route, path)
            if number in wanted:
                found[number] = Guest(path, inode)
                if len(found) == len(wanted):
                    break
        return found

    def _namespaces(self) -> Iterator[tuple[str, int]]:
        """(path, inode) of all namespaces that have a name or a process, each once."""
        seen: set[int] = set()
        names = [str(path) for path in sorted(self._named.glob("*"))] if self._named.is_dir() else []
        pids = [f"{self._proc}/{pid}/ns/net" for pid in os.listdir(self._proc) if pid.isdigit()]
        for path in (*names, *pids):
            inode = _inode(path)
            if inode is not None and inode not in seen:
                seen.add(inode)
                yield path, inode


def _inode(path: str) -> int | None:
    try:
        return os.stat(path).st_ino
    except OSError:
        return None  # it went, or may not be looked at


def _other_end(route: socket.socket, device: str) -> tuple[int, int] | None:
    """(the number of the namespace that a veth's other end is in, -1 for this one; its index there); None where it is
    no veth or gone."""
    name = device.encode() + b"\0"
    body = (
        bytes(16)
        + _attribute(IFLA_IFNAME, name)
        + _attribute(IFLA_EXT_MASK, struct.pack("=I", RTEXT_FILTER_SKIP_STATS))
    )
    try:
        for message in ask(route, RTM_GETLINK, body):
            values = dict(attributes(message, 16))
            information = dict(attributes(values.get(IFLA_LINKINFO, memoryview(b"")), 0))
            if bytes(information.get(IFLA_INFO_KIND, b"")).rstrip(b"\0") not in _PEERED:
                return None
            number = values.get(IFLA_LINK_NETNSID)
            (index,) = struct.unpack("=i", values.get(IFLA_LINK, bytes(4)))
            return -1 if number is None else struct.unpack("=i", number)[0], index
    except KernelError:
        return None
    return None


def _number_of(route: socket.socket, path: str) -> int:
    """The number that the socket's namespace has given to the one at `path`; -1 for none."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1
    try:
        body = bytes(4) + _attribute(NETNSA_FD, struct.pack("=I", file))
        for message in ask(route, RTM_GETNSID, body):
            value = dict(attributes(message, 4)).get(NETNSA_NSID)
            return -1 if value is None else int(struct.unpack("=i", value)[0])
        return -1
    except KernelError:
        return -1
    finally:
        os.close(file)


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)

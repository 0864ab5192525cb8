"""Sockets of a network namespace, by sock_diag(7): addresses, ports, inode and cgroup of each.

A socket that is in no file any more (TIME_WAIT, a connection that nobody has accepted yet) has no owner to tell of and
is left out. TCP and UDP, IPv4 and IPv6; an IPv4-mapped address is its IPv4 address.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from vnotch.capture.interfaces import Namespace
from vnotch.capture.netlink import NETLINK_SOCK_DIAG, attributes, dump, open_netlink
from vnotch.errors import KernelError

SOCK_DIAG_BY_FAMILY = 20
RTM_GETADDR = 22
IFA_ADDRESS, IFA_LOCAL = 1, 2
INET_DIAG_SKV6ONLY, INET_DIAG_CGROUP_ID = 11, 21
STATES = 0xFFF & ~(1 << 3 | 1 << 6)
"""All TCP states but SYN_RECV and TIME_WAIT (include/net/tcp_states.h); 7, CLOSE, is also a UDP socket without peer."""

_MESSAGE = struct.Struct("=BBBB2s2s16s16sIIIIIIII")
"""struct inet_diag_msg (linux/inet_diag.h)."""
_MAPPED = bytes(10) + b"\xff\xff"
_NO_CGROUP = 0


@dataclass(frozen=True)
class OpenSocket:
    """Addresses are 16 bytes, IPv4 in the first 4, as in FLOW_SCHEMA. `far` and port 0 where it has no peer;
    `families` are those of the packets that it takes."""

    protocol: int
    families: tuple[int, ...]
    own: bytes
    own_port: int
    far: bytes
    far_port: int
    inode: int
    cgroup: int  # 0: the kernel does not tell (before 5.9)


@dataclass(frozen=True)
class NamespaceSockets:
    """`addresses` are the namespace's own, with their family: (4 or 6, 16 bytes). `omitted`: sockets beyond the
    bound."""

    sockets: list[OpenSocket]
    addresses: frozenset[tuple[int, bytes]]
    omitted: int = 0


def namespace_sockets(namespace: Namespace, sockets_max: int) -> NamespaceSockets:
    """All sockets of a namespace now, at most `sockets_max`. Raises KernelError, HostError."""
    sockets: list[OpenSocket] = []
    omitted = 0
    diag = namespace.run(open_netlink, NETLINK_SOCK_DIAG)
    with diag:
        for protocol in (socket.IPPROTO_TCP, socket.IPPROTO_UDP):
            for family in (socket.AF_INET, socket.AF_INET6):
                for found in _sockets(diag, family, protocol):
                    if len(sockets) < sockets_max:
                        sockets.append(found)
                    else:
                        omitted += 1
    return NamespaceSockets(sockets, own_addresses(namespace), omitted)


def own_addresses(namespace: Namespace) -> frozenset[tuple[int, bytes]]:
    route = namespace.run(open_netlink, socket.NETLINK_ROUTE)
    with route:
        found = set()
        for message in dump(route, RTM_GETADDR, struct.pack("=BBBBI", socket.AF_UNSPEC, 0, 0, 0, 0)):
            values = dict(attributes(message, 8))
            value = values.get(IFA_LOCAL, values.get(IFA_ADDRESS))
            if value is not None:
                found.add((4 if message[0] == socket.AF_INET else 6, bytes(value).ljust(16, b"\0")))
        return frozenset(found)


def _sockets(diag: socket.socket, family: int, protocol: int) -> Iterator[OpenSocket]:
    request = struct.pack("=BBBBI", family, protocol, 0, 0, STATES) + bytes(48)
    try:
        for message in dump(diag, SOCK_DIAG_BY_FAMILY, request):
            found = _open_socket(message, protocol)
            if found is not None:
                yield found
    except KernelError as error:
        # The kernel was built without IPv6, or this protocol's part of sock_diag: there is nothing to tell.
        if error.errno not in (errno.ENOENT, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT):
            raise


def _open_socket(message: memoryview, protocol: int) -> OpenSocket | None:
    head = _MESSAGE.unpack_from(message)
    family, own_port, far_port, own, far, inode = head[0], head[4], head[5], head[6], head[7], head[15]
    if inode == 0:
        return None
    cgroup, only_v6 = _NO_CGROUP, False
    for kind, value in attributes(message, _MESSAGE.size):
        if kind == INET_DIAG_CGROUP_ID:
            cgroup = int.from_bytes(value, "little")
        elif kind == INET_DIAG_SKV6ONLY:
            only_v6 = value[0] != 0
    families: tuple[int, ...] = (4,)
    if family == socket.AF_INET6:
        if own.startswith(_MAPPED):
            own, far = own[12:] + bytes(12), far[12:] + bytes(12) if far.startswith(_MAPPED) else bytes(16)
        else:
            families = (6,) if only_v6 or any(own) else (4, 6)
    ports = int.from_bytes(own_port, "big"), int.from_bytes(far_port, "big")
    return OpenSocket(protocol, families, own, ports[0], far, ports[1], inode, cgroup)

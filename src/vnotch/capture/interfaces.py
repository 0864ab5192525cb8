"""Linux interfaces of one network namespace: finding them, watching them, and hooking programs to them by clsact.

Another namespace is entered by threads of this module alone, which live and die with it; sockets and everything else of
the caller stay in the caller's own. `ip netns exec` would hide the pins of bpffs, setns does not.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
import socket
import struct
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from vnotch.errors import HostError, InputError, KernelError

T = TypeVar("T")

NAMED_NAMESPACES = Path("/run/netns")
CLONE_NEWNET = 0x40000000

SIOCGIFHWADDR = 0x8927
ARPHRD_ETHER, ARPHRD_LOOPBACK = 1, 772
ARPHRD_IP = {
    65534: "none",  # WireGuard, tun
    519: "raw IP",
    512: "ppp",
    768: "ipip",
    769: "ip6tnl",
    776: "sit",
}
"""Kinds of interfaces where a packet begins with its IP header at both hooks (include/uapi/linux/if_arp.h)."""

CLSACT_INGRESS = 0xFFFFFFF2
CLSACT_EGRESS = 0xFFFFFFF3
CLSACT_PRIORITY = 1
"""Before all others: a filter ahead of ours could end the chain uncounted."""
CLSACT_HANDLE = 0x766E
"""Says which filter is ours, so that another process can take it over or remove it ("vn")."""

RTM_DELLINK = 17
RTMGRP_LINK = 1


class Namespace:
    """A network namespace and a thread inside it, on which `run` calls functions.

    `name` is that of `ip netns`, or a path with a slash in it; None is the caller's own namespace.
    """

    def __init__(self, name: str | None) -> None:
        self.name = name
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"netns-{name or 'own'}")
        if name is not None:
            try:
                self.run(_enter, namespace_path(name))
            except BaseException:
                self._thread.shutdown()
                raise

    def run(self, function: Callable[..., T], *arguments: Any) -> T:
        return self._thread.submit(function, *arguments).result()

    def links(self) -> dict[int, str]:
        """ifindex -> name of all interfaces."""
        return dict(self.run(socket.if_nameindex))

    def index(self, device: str) -> int:
        """The ifindex of an interface that can be captured; raises as `link`."""
        return self.link(device)[0]

    def link(self, device: str) -> tuple[int, bool]:
        """-> the ifindex, and whether packets have an Ethernet header there (or begin with their IP header). Raises
        KernelError (ENODEV) where there is no interface of this name and InputError where its packets are neither."""
        try:
            index = self.run(socket.if_nametoindex, device)
            kind = self.run(_link_type, device)
        except OSError as error:
            raise KernelError(f"{self} has no interface {device}", errno.ENODEV, "check its name: ip link") from error
        if kind == ARPHRD_LOOPBACK:
            raise InputError(
                f"{device} is the loopback interface, where each packet passes twice",
                "name a veth, a tap, a tunnel or a NIC",
            )
        if kind != ARPHRD_ETHER and kind not in ARPHRD_IP:
            raise InputError(
                f"{device} carries neither Ethernet frames nor bare IP packets (ARPHRD {kind})",
                "name a veth, a tap, a tunnel or a NIC",
            )
        return index, kind == ARPHRD_ETHER

    def name_of(self, index: int) -> str | None:
        """The name that an interface has now; None where there is none of this index."""
        try:
            return self.run(socket.if_indextoname, index)
        except OSError:
            return None

    @property
    def inode(self) -> int:
        """Tells this namespace from all others that are there now."""
        return self.run(os.stat, namespace_path(None)).st_ino

    def close(self) -> None:
        self._thread.shutdown()

    def __str__(self) -> str:
        return f"the network namespace {self.name}" if self.name else "this network namespace"


def namespace_path(name: str | None) -> Path:
    """The file that stands for a network namespace, by what names it (see `Namespace`)."""
    if name is None:
        return Path("/proc/thread-self/ns/net")
    return Path(name) if "/" in name else NAMED_NAMESPACES / name


def _enter(path: Path) -> None:
    """Moves the calling thread; the others of the process stay where they are."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(f"there is no network namespace {path}: {error.strerror}", "list them: ip netns") from error
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(fd, CLONE_NEWNET):
            number = ctypes.get_errno()
            remedy = "run as root" if number == errno.EPERM else None
            raise KernelError(f"entering the network namespace {path}", number, remedy)
    finally:
        os.close(fd)


def _link_type(device: str) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        answer = fcntl.ioctl(any_socket, SIOCGIFHWADDR, struct.pack("256s", device.encode()[:15]))
    return int.from_bytes(answer[16:18], "little")


# ---- clsact ----------------------------------------------------------------------------------------------------------


def attach_clsact(index: int, ingress_fd: int, egress_fd: int) -> bool:
    """Hooks a program to each direction; replaces ours without a gap where they are there already.

    To be run inside the namespace. Returns whether the clsact qdisc was made by this call.
    """
    from pyroute2 import IPRoute

    with IPRoute() as netlink:
        made = True
        try:
            _tc(netlink, "add", "clsact", index)
        except KernelError as error:
            if error.errno != errno.EEXIST:
                raise
            made = False
        for parent, fd in ((CLSACT_INGRESS, ingress_fd), (CLSACT_EGRESS, egress_fd)):
            _tc(
                netlink,
                "replace-filter",
                "bpf",
                index,
                CLSACT_HANDLE,
                parent=parent,
                prio=CLSACT_PRIORITY,
                fd=fd,
                name="vnotch",
                direct_action=True,
            )
    return made


def detach_clsact(index: int, remove_qdisc: bool) -> None:
    """Takes our filters away, and an empty qdisc where `remove_qdisc` says that it was ours. To be run inside the
    namespace. What is gone already is no error."""
    from pyroute2 import IPRoute

    with IPRoute() as netlink:
        for parent in (CLSACT_INGRESS, CLSACT_EGRESS):
            try:
                _tc(netlink, "del-filter", "bpf", index, CLSACT_HANDLE, parent=parent, prio=CLSACT_PRIORITY)
            except KernelError as error:
                if error.errno not in (errno.ENOENT, errno.ENODEV, errno.EINVAL):
                    raise
        if remove_qdisc and not clsact_filters(netlink, index):
            try:
                _tc(netlink, "del", "clsact", index)
            except KernelError as error:
                if error.errno not in (errno.ENOENT, errno.ENODEV, errno.EINVAL):
                    raise


def has_our_filter(index: int) -> bool:
    """Whether a filter of ours is on both hooks. To be run inside the namespace."""
    from pyroute2 import IPRoute

    with IPRoute() as netlink:
        return clsact_filters(netlink, index).count(CLSACT_HANDLE) == 2


def clsact_filters(netlink: Any, index: int) -> list[int]:
    """Handles of all filters on both hooks of an interface; none where it is gone."""
    from pyroute2.netlink.exceptions import NetlinkError

    handles = []
    for parent in (CLSACT_INGRESS, CLSACT_EGRESS):
        try:
            handles += [m["handle"] for m in netlink.get_filters(index=index, parent=parent) if m["handle"]]
        except NetlinkError as error:
            if error.code not in (errno.ENOENT, errno.ENODEV, errno.EINVAL):
                raise KernelError("listing the filters of an interface", error.code) from error
    return handles


def _tc(netlink: Any, command: str, kind: str, index: int, handle: int = 0, **options: Any) -> None:
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        netlink.tc(command, kind, index, handle, **options)
    except NetlinkError as error:
        raise KernelError(f"tc {command} {kind} on interface {index}", error.code) from error


# ---- Watching --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LinkChange:
    """An interface that came, went, or has another name."""

    kind: Literal["appeared", "vanished", "renamed"]
    index: int
    name: str
    old_name: str | None = None


class LinkWatcher:
    """Tells what became of the interfaces of a namespace since the last time it was asked.

    The kernel's messages only say that it is time to look; names are read afresh, so that messages that were lost under
    load (ENOBUFS) do no harm. One thread may wait while another closes.
    """

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._socket = namespace.run(link_socket)
        self._wake_read, self._wake_write = os.pipe()
        self._closed = threading.Event()
        self._waiting = threading.Lock()
        self.links = namespace.links()
        """ifindex -> name as last told."""

    def changes(self, timeout_seconds: float) -> list[LinkChange]:
        """Waits for a change, for at most `timeout_seconds`; empty after that, and for changes that concern no name."""
        with self._waiting:
            if self._closed.is_set():
                return []
            ready, _, _ = select.select([self._socket.fileno(), self._wake_read], [], [], timeout_seconds)
            if self._closed.is_set() or not ready:
                return []
            deleted = self._read_deleted()
        now = self._namespace.links()
        changes = []
        for index, name in self.links.items():
            if index not in now or index in deleted:
                changes.append(LinkChange("vanished", index, name))
        for index, name in now.items():
            old = self.links.get(index)
            if old is None or index in deleted:
                changes.append(LinkChange("appeared", index, name))
            elif old != name:
                changes.append(LinkChange("renamed", index, name, old))
        self.links = now
        return changes

    def _read_deleted(self) -> set[int]:
        """Empties the socket; the indexes of interfaces that were deleted, since an index may be in use again."""
        deleted: set[int] = set()
        while True:
            try:
                data = self._socket.recv(1 << 16)
            except BlockingIOError:
                return deleted
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    continue
                raise KernelError("reading link messages", error.errno or 0) from error
            while len(data) >= 32:
                length, kind = struct.unpack_from("=IH", data)
                if length < 32:
                    break
                (index,) = struct.unpack_from("=i", data, 20)
                # A bridge tells of ports that leave it in the same message, with its own family.
                if kind == RTM_DELLINK and data[16] == socket.AF_UNSPEC:
                    deleted.add(index)
                data = data[(length + 3) & ~3 :]

    def close(self) -> None:
        if self._closed.is_set():
            return
        self._closed.set()
        os.write(self._wake_write, b"x")
        with self._waiting:  # nobody waits on what is closed now
            self._socket.close()
            os.close(self._wake_read)
            os.close(self._wake_write)


def link_socket() -> socket.socket:
    """A netlink socket belongs to the namespace in which it was made."""
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    made.setblocking(False)
    made.bind((0, RTMGRP_LINK))
    return made

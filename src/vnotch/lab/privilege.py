"""Whether this host lets a lab be built: tried in a namespace that vanishes, before anything is created."""

from __future__ import annotations

import sys
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path

from vnotch.errors import HostError, KernelError
from vnotch.lab import namespaces
from vnotch.lab.nat import translate_internet_gateway, translate_nat_gateway

_NET_ADMIN, _SYS_ADMIN, _NET_RAW = 12, 21, 13  # capabilities(7): include/uapi/linux/capability.h


def check_host() -> None:
    """Raises HostError, with the remedy, for the first thing that is missing. Leaves nothing behind."""
    if sys.platform != "linux":
        raise HostError("the lab is made of Linux network namespaces", "use a Linux host or virtual machine")
    missing = _missing_capabilities()
    if missing:
        raise HostError(f"the lab makes network namespaces: it needs root (missing {missing})", "run it with sudo")
    if not Path("/proc/sys/net/ipv6").is_dir():
        raise HostError("the kernel has no IPv6", "remove ipv6.disable=1 from the kernel's command line")
    namespaces.inside_new(_try_out)


def _missing_capabilities() -> str:
    status = Path("/proc/self/status").read_text()
    effective = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:"))
    wanted = {"CAP_NET_ADMIN": _NET_ADMIN, "CAP_SYS_ADMIN": _SYS_ADMIN, "CAP_NET_RAW": _NET_RAW}
    return ", ".join(name for name, bit in wanted.items() if not effective >> bit & 1)


def _try_out() -> None:
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    def pair() -> None:
        try:
            with IPRoute() as routes:
                routes.link("add", ifname="near", kind="veth", peer={"ifname": "far"})
        except NetlinkError as error:
            raise KernelError("make a veth pair", error.code) from error

    def rule() -> None:
        try:
            with IPRoute() as routes:
                routes.rule("add", priority=100, table=90, iifname="near")
        except NetlinkError as error:
            raise KernelError("add a routing rule", error.code) from error

    address = IPv4Address("192.0.2.1")
    forwarding = {"ipv4/ip_forward": 1, "ipv6/conf/all/forwarding": 1}
    trials: list[tuple[Callable[[], None], str]] = [
        (pair, "modprobe veth"),
        (rule, "use a kernel with CONFIG_IP_MULTIPLE_TABLES"),
        (lambda: namespaces.write_sysctls(forwarding), "run it where /proc/sys can be written: no plain container"),
        (lambda: translate_internet_gateway("near", [(address, address)]), ""),
        (lambda: translate_nat_gateway("near", address), ""),
    ]
    for trial, remedy in trials:
        try:
            trial()
        except HostError as error:
            raise HostError(error.message, error.remedy or remedy) from error

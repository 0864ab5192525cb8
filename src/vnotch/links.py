"""The links of one network namespace, as far as it matters for making one of them an ENI.

`Host.read` asks the kernel once, by netlink, and needs no privilege in its own namespace; all else here is a pure
question about what was read. Capture has no part in it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, ip_address
from pathlib import Path
from socket import AF_INET, AF_INET6
from typing import Any

from vnotch.capture.interfaces import Namespace
from vnotch.errors import InputError, KernelError

Address = IPv4Address | IPv6Address

INSIDE, OUTSIDE = "inside", "outside"

ARPHRD_ETHER, ARPHRD_LOOPBACK = 1, 772
IFF_UP = 1
SCOPE_UNIVERSE = 0
IFA_F_SECONDARY, IFA_F_TEMPORARY, IFA_F_DEPRECATED, IFA_F_TENTATIVE = 0x01, 0x01, 0x20, 0x40
TUN_TYPE_TAP = 2
RT_TABLE_MAIN, RTN_UNICAST = 254, 1
NUD_INCOMPLETE, NUD_FAILED, NUD_NOARP = 0x01, 0x20, 0x40
"""Of linux/if_arp.h, if.h, rtnetlink.h, if_addr.h, if_tun.h, neighbour.h."""

HOST_LENGTH_IN = 24
"""The prefix length taken where an address is known and its network is not (a route to one host): that of the block in
which such addresses are usually given out."""


@dataclass(frozen=True)
class Link:
    index: int
    name: str
    kind: str
    """`nic`, `veth`, `tap`, `tun`, `bridge`, `bond`, `vlan`, `wireguard`, `loopback`, ... as the kernel names it."""
    is_up: bool
    mac: str | None = None
    master: int | None = None
    lower: int | None = None  # a VLAN's device in this namespace
    addresses: tuple[IPv4Interface, ...] = ()
    ipv6: tuple[IPv6Interface, ...] = ()
    is_promiscuous: bool = False
    """It takes in frames to other addresses than its own, as a bridge's port does, or one with macvlans on it."""


@dataclass(frozen=True)
class Route:
    """An IPv4 route of the main table. `network` with the length 0 is the default route."""

    network: IPv4Network
    device: int


@dataclass(frozen=True)
class Neighbour:
    address: IPv4Address
    mac: str
    device: int


@dataclass(frozen=True)
class Sense:
    """From which side the device looks at the ENI, and why so."""

    sense: str
    reason: str


@dataclass(frozen=True)
class Addresses:
    """What an ENI has: the primary IPv4 address with its network first. `source` says where it is known from; `mac` is
    that of whoever is behind a bridge's port, to which the bridge floods what is for others too."""

    primary: IPv4Interface
    secondary: tuple[IPv4Address, ...] = ()
    ipv6: tuple[IPv6Interface, ...] = ()
    source: str = "its own addresses"
    mac: str | None = None


@dataclass(frozen=True)
class Host:
    """What was read. `learned` is a bridge port's index -> MAC addresses seen behind it; `forwards`: IPv4 is routed
    from one interface to another. `ipv6_ways` are the devices of IPv6 default routes."""

    links: tuple[Link, ...]
    routes: tuple[Route, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    learned: tuple[tuple[int, str], ...] = ()
    forwards: bool = False
    ipv6_ways: tuple[int, ...] = ()

    @classmethod
    def read(cls, namespace: Namespace) -> Host:
        """Raises HostError where the kernel does not answer."""
        try:
            return namespace.run(_read)
        except OSError as error:  # pyroute2's errors are such
            raise KernelError("reading the links of this host", error.errno or 0) from error

    # Finding

    def link(self, name: str) -> Link:
        """Raises InputError, naming what there is."""
        for link in self.links:
            if link.name == name:
                return link
        there = ", ".join(link.name for link in self.links if link.kind != "loopback")
        raise InputError(f"there is no interface {name} here", f"there is {there}" if there else None)

    def by_index(self, index: int | None) -> Link | None:
        return next((link for link in self.links if link.index == index), None)

    # Sense

    def sense_of(self, link: Link) -> Sense:
        """A NIC, bond, VLAN, bridge or tunnel is the host's own interface: it is the ENI itself. A veth or tap leads to
        somebody else, unless it is the way out of where we are, as in a container."""
        if link.kind not in ("veth", "tap"):
            return Sense(INSIDE, f"a {link.kind} is the host's own")
        if (master := self.by_index(link.master)) is not None:
            return Sense(OUTSIDE, f"a {link.kind} that is a port of {master.name} leads to somebody else")
        if not link.addresses and not link.ipv6:
            return Sense(OUTSIDE, f"a {link.kind} without an address of its own leads to somebody else")
        if self.has_default_route(link):
            return Sense(INSIDE, f"a {link.kind} with the default route is the way out of here")
        if all(address.network.prefixlen == 32 for address in link.addresses):
            return Sense(OUTSIDE, f"a {link.kind} without a network of its own leads to somebody else")
        if self.forwards or self._ways():
            return Sense(OUTSIDE, f"a {link.kind} on a host whose way out is another leads to somebody else")
        return Sense(INSIDE, f"a {link.kind} that carries {link.addresses[0]} and nothing else leads out of here")

    def has_default_route(self, link: Link) -> bool:
        return link.index in self._ways()

    def _ways(self) -> set[int]:
        """Indexes of the devices that default routes name."""
        return {route.device for route in self.routes if route.network.prefixlen == 0} | set(self.ipv6_ways)

    # Addresses

    def addresses_of(self, link: Link, sense: str) -> Addresses:
        """Raises InputError where they are not known, which says what to give."""
        if link.kind == "loopback":
            raise InputError(f"{link.name} is the loopback interface, which no network is behind", None)
        return self._own(link) if sense == INSIDE else self._of_peer(link)

    def _own(self, link: Link) -> Addresses:
        if not link.addresses:
            master = self.by_index(link.master)
            if master is not None:
                raise InputError(
                    f"{link.name} has no address of its own: it is a port of {master.name}",
                    f"attach {master.name}, or give the address with --address A/B",
                )
            had = "has IPv6 addresses only" if link.ipv6 else "has no IPv4 address"
            raise InputError(f"{link.name} {had}, and a subnet needs IPv4", "give one with --address A/B")
        primary = link.addresses[0]
        others = tuple(address.ip for address in link.addresses[1:])
        return Addresses(primary, others, link.ipv6)

    def _of_peer(self, link: Link) -> Addresses:
        """The address behind a veth or tap: by a route to that host alone, by who answered there, or by the bridge."""
        routed = [
            r.network.network_address for r in self.routes if r.device == link.index and r.network.prefixlen == 32
        ]
        near = [n for n in self.neighbours if n.device == link.index]
        if len(routed) == 1:
            return Addresses(self._placed(routed[0], link), source=f"the route to it by {link.name}")
        if routed:
            raise self._unknown(link, f"{len(routed)} routes to single hosts lead there")
        at, place = link, f"at {link.name}"
        if master := self.by_index(link.master):
            macs = {mac for port, mac in self.learned if port == link.index}
            near = [n for n in self.neighbours if n.device == master.index and n.mac in macs]
            at, place = master, f"at its port of {master.name}"
        if len(near) != 1:
            raise self._unknown(link, f"{len(near) or 'no'} addresses are seen {place}")
        [found] = near
        mac = found.mac if at is not link else None
        return Addresses(self._placed(found.address, at), source=f"who answers {place}", mac=mac)

    def _placed(self, address: IPv4Address, at: Link) -> IPv4Interface:
        """The address with the network that `at` has round it."""
        for own in at.addresses:
            if address in own.network and own.network.prefixlen < 32:
                return IPv4Interface((address, own.network.prefixlen))
        return IPv4Interface((address, HOST_LENGTH_IN))

    @staticmethod
    def _unknown(link: Link, seen: str) -> InputError:
        return InputError(f"the address behind {link.name} is not known: {seen}", "give it with --address A/B")

    # What must not be cut off

    def carriers(self, index: int) -> set[int]:
        """A link and those that carry what goes through it: a bridge's ports, a bond's members, a VLAN's device."""
        found, queue = set(), [index]
        while queue:
            number = queue.pop()
            if number in found:
                continue
            found.add(number)
            link = self.by_index(number)
            queue += [other.index for other in self.links if other.master == number]
            if link is not None and link.lower is not None:
                queue.append(link.lower)
        return found

    def carries_default_route(self, link: Link) -> bool:
        return any(link.index in self.carriers(way) for way in self._ways())


def route_to(namespace: Namespace, address: str) -> int | None:
    """The index of the link by which packets to `address` leave; None where there is no route."""
    return namespace.run(_route_to, address)


def callers_peers() -> list[str]:
    """The other ends of the SSH connections in which this command runs: its own environment's, or that of a process
    that started it, since sudo takes the variable away."""
    found = []
    for environment in _environments():
        if words := environment.get("SSH_CONNECTION", "").split():
            found.append(words[0])
    return list(dict.fromkeys(found))


def _environments() -> Iterator[dict[str, str]]:
    yield dict(os.environ)
    process = os.getppid()
    for _ in range(64):
        if process <= 1:
            return
        try:
            raw = Path(f"/proc/{process}/environ").read_bytes()
            status = Path(f"/proc/{process}/status").read_text()
        except OSError:
            return  # somebody else's: that far we may look and no further
        pairs = (item.partition("=") for item in raw.decode(errors="replace").split("\0"))
        yield {name: value for name, _, value in pairs}
        process = int(next(line for line in status.splitlines() if line.startswith("PPid:")).split()[1])


# ---- Reading ---------------------------------------------------------------------------------------------------------


def _read() -> Host:
    """To be run inside the namespace."""
    from pyroute2 import IPRoute

    with IPRoute() as netlink:
        four, six = _addresses(netlink, AF_INET), _addresses(netlink, AF_INET6)
        links = tuple(sorted((_link(item, four, six) for item in netlink.get_links()), key=lambda link: link.index))
        routes = tuple(route for item in netlink.get_routes(family=AF_INET) for route in _routes(item))
        six_ways = tuple(
            device for item in netlink.get_routes(family=AF_INET6) if not item["dst_len"] for device in _hops(item)
        )
        neighbours = tuple(found for item in netlink.get_neighbours(family=AF_INET) if (found := _neighbour(item)))
        bridges = {link.index for link in links if link.kind == "bridge"}
        learned = tuple(
            (item["ifindex"], str(item.get_attr("NDA_LLADDR")))
            for item in (netlink.fdb("dump") if bridges else ())
            if item.get_attr("NDA_MASTER") in bridges and not item["state"] & 0x80  # NUD_PERMANENT: the port's own
        )
    return Host(links, routes, neighbours, learned, _forwards(), six_ways)


def _forwards() -> bool:
    # Below /proc/sys/net each thread sees its own namespace.
    try:
        return Path("/proc/sys/net/ipv4/ip_forward").read_text().strip() == "1"
    except OSError:
        return False


def _link(item: Any, four: dict[int, list[Any]], six: dict[int, list[Any]]) -> Link:
    index = item["index"]
    info = item.get_attr("IFLA_LINKINFO")
    kind = info.get_attr("IFLA_INFO_KIND") if info else None
    if kind == "tun":
        data = info.get_attr("IFLA_INFO_DATA")
        is_tap = data is not None and data.get_attr("IFLA_TUN_TYPE") == TUN_TYPE_TAP
        kind = "tap" if is_tap or (data is None and item["ifi_type"] == ARPHRD_ETHER) else "tun"
    if item["ifi_type"] == ARPHRD_LOOPBACK:
        kind = "loopback"
    elsewhere = item.get_attr("IFLA_LINK_NETNSID") is not None
    return Link(
        index=index,
        name=item.get_attr("IFLA_IFNAME"),
        kind=kind or "nic",
        is_up=bool(item["flags"] & IFF_UP),
        mac=item.get_attr("IFLA_ADDRESS"),
        master=item.get_attr("IFLA_MASTER"),
        lower=item.get_attr("IFLA_LINK") if kind not in ("veth", None) and not elsewhere else None,
        addresses=tuple(four.get(index, ())),
        ipv6=tuple(six.get(index, ())),
        is_promiscuous=bool(item.get_attr("IFLA_PROMISCUITY")),
    )


def _addresses(netlink: Any, family: int) -> dict[int, list[Any]]:
    """ifindex -> global addresses, primary ones first; of IPv6 those that last."""
    found: dict[int, list[tuple[bool, Any]]] = {}
    for item in netlink.get_addr(family=family):
        flags = item.get_attr("IFA_FLAGS") or item["flags"]
        if item["scope"] != SCOPE_UNIVERSE:
            continue
        if family == AF_INET6 and flags & (IFA_F_TEMPORARY | IFA_F_DEPRECATED | IFA_F_TENTATIVE):
            continue
        text = item.get_attr("IFA_LOCAL") or item.get_attr("IFA_ADDRESS")
        kind: Any = IPv4Interface if family == AF_INET else IPv6Interface
        entry = (family == AF_INET and bool(flags & IFA_F_SECONDARY), kind(f"{text}/{item['prefixlen']}"))
        found.setdefault(item["index"], []).append(entry)
    return {
        index: [address for _, address in sorted(entries, key=lambda entry: entry[0])]
        for index, entries in found.items()
    }


def _routes(item: Any) -> Iterator[Route]:
    network = IPv4Network(f"{item.get_attr('RTA_DST') or '0.0.0.0'}/{item['dst_len']}")
    for device in _hops(item):
        yield Route(network, device)


def _hops(item: Any) -> Iterator[int]:
    """The devices of a unicast route of the main table."""
    if item.get_attr("RTA_TABLE") != RT_TABLE_MAIN or item["type"] != RTN_UNICAST:
        return
    for device in (item.get_attr("RTA_OIF"), *(hop["oif"] for hop in item.get_attr("RTA_MULTIPATH") or ())):
        if device is not None:
            yield device


def _neighbour(item: Any) -> Neighbour | None:
    address, mac = item.get_attr("NDA_DST"), item.get_attr("NDA_LLADDR")
    if not address or not mac or item["state"] & (NUD_INCOMPLETE | NUD_FAILED | NUD_NOARP):
        return None
    found = ip_address(address)
    return Neighbour(found, mac, item["ifindex"]) if isinstance(found, IPv4Address) else None


def _route_to(address: str) -> int | None:
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    family = AF_INET6 if ":" in address else AF_INET
    with IPRoute() as netlink:
        try:
            answer = list(netlink.route("get", dst=address.partition("%")[0], family=family))
        except NetlinkError:
            return None
    found: int | None = answer[0].get_attr("RTA_OIF") if answer else None
    return found

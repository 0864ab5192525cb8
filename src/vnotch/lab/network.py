"""A topology as network namespaces: one for the router, one for each ENI, one for the internet, one for each host.

    instance eth0 ======= vn-web router vn-igw ======= igw internet vn-alice ======= eth0 visitor
       (the ENI)         (host side)                          (host side)

The router namespace is the VPC router, the resolver, the metadata and time services and the internet gateway; it holds
the host sides of all ENIs, and there is no bridge: a route per address, and proxy ARP on each host side. Nothing
outside the namespaces is touched: no sysctl, nft table, route or address of the host.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from typing import Any, TypeVar

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from vnotch.errors import HostError, KernelError
from vnotch.lab import namespaces
from vnotch.lab.nat import translate_internet_gateway, translate_nat_gateway
from vnotch.lab.topology import ROUTER_OFFSET, TRANSIT, Eni, Outside, Subnet, Topology

PREFIX = "vnlab"
ENI_DEVICE = "eth0"
GATEWAY_DEVICE = "vn-igw"  # in the router
UPLINK_DEVICE = "igw"  # its other end, in the internet
SERVICE_ADDRESSES_IPV6 = ("fd00:ec2::253", "fd00:ec2::254", "fd00:ec2::123")
"""Resolver, metadata, time (EC2 user guide: addresses of the services on Nitro instances)."""

_ROUTER_IPV4, _INTERNET_IPV4 = str(TRANSIT[0][1]), str(TRANSIT[0][2])
_ROUTER_IPV6, _INTERNET_IPV6 = str(TRANSIT[1][1]), str(TRANSIT[1][2])
_MAIN_TABLE = 254
_FROM_INTERNET_TABLE = 90  # what comes in for no address of ours goes nowhere
_SUBNET_TABLE = 1000  # plus the subnet's number
_FURTHER_TABLE = 100  # plus the device index, in an instance's namespace
_FURTHER_RULE = 100
_LOCAL_RULE, _INTERNET_RULE, _ENI_RULE = 100, 200, 300  # priorities: what is in the VPC, then by where it came from
_INET, _INET6 = 2, 10

_NO_ROUTER_SURPRISES: dict[str, str | int] = {
    # IPv4 settings of a new namespace are copies of the host's, so each that matters is set. A device takes its own
    # from `default` when it is made.
    **{
        f"ipv4/conf/{scope}/{name}": value
        for scope in ("all", "default")
        for name, value in {
            "rp_filter": 0,
            "arp_ignore": 0,
            "arp_announce": 0,
            "arp_filter": 0,
            "accept_redirects": 0,
            "send_redirects": 0,
            "accept_local": 0,
            "log_martians": 0,
        }.items()
    },
    **{
        f"ipv6/conf/{scope}/{name}": value
        for scope in ("all", "default")
        for name, value in {"disable_ipv6": 0, "accept_ra": 0, "accept_dad": 0, "router_solicitations": 0}.items()
    },
    "ipv4/icmp_echo_ignore_all": 0,
}
_FORWARDING: dict[str, str | int] = {"ipv4/ip_forward": 1, "ipv6/conf/all/forwarding": 1}


@dataclass(frozen=True)
class _Wire:
    """One veth pair between a hub (the router or the internet) and a namespace, and the addresses of its far end."""

    hub: str
    device: str
    namespace: str
    address: IPv4Address
    on_link: IPv4Network
    gateway: IPv4Address
    ipv6: IPv6Address | None
    gateway_ipv6: IPv6Address | None
    mac: str | None
    own_device: str = ENI_DEVICE
    own_table: int | None = None  # of a further interface: what is sent from its address goes by it


class Network:
    """The namespaces of one lab. Each method is safe to call for what exists already only where it says so."""

    def __init__(self, topology: Topology, prefix: str = PREFIX) -> None:
        self.topology = topology
        self.prefix = prefix
        self.router = f"{prefix}-router"
        self.internet = f"{prefix}-internet"

    def namespace(self, name: str) -> str:
        """The namespace of an ENI or an outside host, by its name in the topology."""
        return f"{self.prefix}-{name}"

    def namespaces(self) -> list[str]:
        """All namespaces that the topology needs, hubs first."""
        names = [eni.name for eni in self.topology.enis if eni.of is None]
        names += [host.name for host in self.topology.outside]
        return [self.router, self.internet, *map(self.namespace, names)]

    # --- building

    def create_namespace(self, name: str) -> None:
        """A namespace with its loopback up, in which nothing forwards, redirects or answers on its own."""
        namespaces.create(name)

        def prepare() -> None:
            namespaces.write_sysctls(_NO_ROUTER_SURPRISES)
            with IPRoute() as routes:
                routes.link("set", index=_index(routes, "lo"), state="up")

        _work(name, f"prepare namespace {name}", prepare)

    def create_hubs(self) -> None:
        """Makes the router and the internet out of their empty namespaces, and joins them."""
        _work(self.router, "set up the router", self._router)
        _work(self.internet, "set up the internet", self._internet)

    def create_link(self, item: Eni | Outside, mac: str | None = None) -> None:
        """Joins an ENI's or host's namespace to its hub. The hub's side stays down; `mac` is the ENI's."""
        wire = self._wire(item, mac)
        _work(wire.hub, f"make the link {wire.device}", lambda: self._hub_side(wire))
        _work(wire.namespace, f"set up {wire.namespace}", lambda: self._far_side(wire))
        if isinstance(item, Eni) and item.kind == "nat_gateway":

            def translate() -> None:
                namespaces.write_sysctls({"ipv4/ip_forward": 1})
                translate_nat_gateway(ENI_DEVICE, item.address)

            _work(wire.namespace, "set up the NAT gateway", translate)

    def raise_link(self, item: Eni | Outside) -> None:
        """Takes the hub's side up: from here on packets flow. An ENI's capture is attached before."""
        wire = self._wire(item, None)
        table = self._subnet_table(self.topology.subnet(item.subnet)) if isinstance(item, Eni) else None

        def up() -> None:
            with IPRoute() as routes:
                index = _index(routes, wire.device)
                routes.link("set", index=index, state="up")
                routes.route("replace", dst=f"{wire.address}/32", oif=index, scope=253)
                if wire.gateway_ipv6:
                    routes.addr("replace", index=index, address=str(wire.gateway_ipv6), prefixlen=128, flags=_NODAD)
                if wire.ipv6:
                    routes.route("replace", family=_INET6, dst=f"{wire.ipv6}/128", oif=index)
                if table is not None:
                    for family in (_INET, _INET6):
                        _rule(routes, family, _ENI_RULE, table, wire.device)

        _work(wire.hub, f"take {wire.device} up", up)

    def translate(self) -> None:
        """(Re)programs the internet gateway's one-to-one translation for the topology's public addresses."""
        pairs = [(eni.address, eni.public_address) for eni in self.topology.enis if eni.public_address]
        _work(self.router, "set up the internet gateway", lambda: translate_internet_gateway(GATEWAY_DEVICE, pairs))

    def remove_link(self, eni: Eni) -> None:
        """Takes away an ENI's link, and with it its interface."""

        def remove() -> None:
            with IPRoute() as routes:
                for index in routes.link_lookup(ifname=eni.device):
                    routes.link("delete", index=index)

        _work(self.router, f"remove {eni.device}", remove)

    # --- looking

    def devices(self) -> dict[str, bool]:
        """Host sides in the router namespace, by name: whether each is up."""

        def read() -> dict[str, bool]:
            with IPRoute() as routes:
                links = [link for link in routes.get_links() if link.get_attr("IFLA_IFNAME") != "lo"]
                return {link.get_attr("IFLA_IFNAME"): link["state"] == "up" for link in links}

        return _work(self.router, "list the router's links", read)

    # --- pieces

    def _wire(self, item: Eni | Outside, mac: str | None) -> _Wire:
        namespace = self.namespace(item.host if isinstance(item, Eni) else item.name)
        if isinstance(item, Eni):
            subnet = self.topology.subnet(item.subnet)
            gateway_ipv6 = subnet.router_ipv6 if item.ipv6 else None
            mac = mac or item.mac
            address, ipv6, link = item.address, item.ipv6, subnet.cidr
            table = _FURTHER_TABLE + item.device_index if item.of else None
            own = item.own_device, table
            return _Wire(
                self.router, item.device, namespace, address, link, subnet.router, ipv6, gateway_ipv6, mac, *own
            )
        cidrs = self.topology.outside_cidrs
        home = next(cidr for cidr in cidrs if isinstance(cidr, IPv4Network) and item.address in cidr)
        home_ipv6 = next((cidr for cidr in cidrs if item.ipv6 and item.ipv6 in cidr), None)
        gateway_ipv6 = IPv6Address(int(home_ipv6.network_address) + ROUTER_OFFSET) if home_ipv6 else None
        return _Wire(
            self.internet,
            item.device,
            namespace,
            item.address,
            home,
            home[ROUTER_OFFSET],
            item.ipv6,
            gateway_ipv6,
            None,
        )

    def _hub_side(self, wire: _Wire) -> None:
        far = namespaces.open_namespace(wire.namespace)
        try:
            with IPRoute() as routes:
                peer: dict[str, Any] = {"ifname": wire.own_device, "net_ns_fd": far}
                if wire.mac:
                    peer["address"] = wire.mac
                routes.link("add", ifname=wire.device, kind="veth", peer=peer)
        finally:
            os.close(far)
        namespaces.write_sysctls({f"ipv4/conf/{wire.device}/proxy_arp": 1})

    def _far_side(self, wire: _Wire) -> None:
        with IPRoute() as routes:
            index = _index(routes, wire.own_device)
            if wire.own_table is not None:
                _further(routes, index, wire, wire.own_table)
                return
            routes.addr("add", index=index, address=str(wire.address), prefixlen=wire.on_link.prefixlen)
            if wire.ipv6:
                # An address of its own and nothing on the link, as DHCPv6 gives it to an EC2 instance: the way to
                # everybody, neighbours included, is the router.
                routes.addr("add", index=index, address=str(wire.ipv6), prefixlen=128, flags=_NODAD)
            routes.link("set", index=index, state="up")
            routes.route("add", dst="0.0.0.0/0", gateway=str(wire.gateway), oif=index)
            if wire.gateway_ipv6:
                routes.route("add", family=_INET6, dst=f"{wire.gateway_ipv6}/128", oif=index)
                routes.route("add", family=_INET6, dst="::/0", gateway=str(wire.gateway_ipv6), oif=index)

    def _router(self) -> None:
        vpc = self.topology.vpc
        namespaces.write_sysctls(_FORWARDING)
        with IPRoute() as routes:
            far = namespaces.open_namespace(self.internet)
            try:
                routes.link("add", ifname=GATEWAY_DEVICE, kind="veth", peer={"ifname": UPLINK_DEVICE, "net_ns_fd": far})
            finally:
                os.close(far)
            loopback = _index(routes, "lo")
            for address in dict.fromkeys([str(vpc.resolver), str(vpc.metadata), str(vpc.time)]):
                routes.addr("add", index=loopback, address=address, prefixlen=32)
            self._router_addresses(routes)
            if vpc.ipv6_cidr:
                for address in SERVICE_ADDRESSES_IPV6:
                    routes.addr("add", index=loopback, address=address, prefixlen=128, flags=_NODAD)
            gateway = _index(routes, GATEWAY_DEVICE)
            routes.addr("add", index=gateway, address=_ROUTER_IPV4, prefixlen=TRANSIT[0].prefixlen)
            routes.addr("add", index=gateway, address=_ROUTER_IPV6, prefixlen=TRANSIT[1].prefixlen, flags=_NODAD)
            routes.link("set", index=gateway, state="up")
            for family in (_INET, _INET6):
                _rule(routes, family, _LOCAL_RULE, _MAIN_TABLE, None)
                _rule(routes, family, _INTERNET_RULE, _FROM_INTERNET_TABLE, GATEWAY_DEVICE)
                default = "0.0.0.0/0" if family == _INET else "::/0"
                routes.route("add", family=family, dst=default, type="blackhole", table=_FROM_INTERNET_TABLE)
            # An address of the VPC that nobody has: packets to it end here, and ARP for it gets no answer.
            routes.route("add", dst=str(vpc.cidr), type="blackhole")
            if vpc.ipv6_cidr:
                routes.route("add", family=_INET6, dst=str(vpc.ipv6_cidr), type="blackhole")

    def _router_addresses(self, routes: IPRoute) -> None:
        loopback = _index(routes, "lo")
        for subnet in self.topology.subnets:
            routes.addr("replace", index=loopback, address=str(subnet.router), prefixlen=32)

    def route_subnets(self) -> None:
        """The router's address in each subnet and the subnet's route table, also of subnets that came later. A NAT
        gateway's link is up before: a route needs a device that is."""

        def add() -> None:
            with IPRoute() as routes:
                self._router_addresses(routes)
                for subnet in self.topology.subnets:
                    table, route = self._subnet_table(subnet), subnet.default_route
                    if route == "internet":
                        index = _index(routes, GATEWAY_DEVICE)
                        routes.route("replace", dst="0.0.0.0/0", gateway=_INTERNET_IPV4, oif=index, table=table)
                        routes.route(
                            "replace", family=_INET6, dst="::/0", gateway=_INTERNET_IPV6, oif=index, table=table
                        )
                        continue
                    for family, default in ((_INET, "0.0.0.0/0"), (_INET6, "::/0")):
                        if route == "none" or family == _INET6:
                            routes.route("replace", family=family, dst=default, type="blackhole", table=table)
                        else:
                            nat = self.topology.eni(route)
                            index = _index(routes, nat.device)
                            routes.route("replace", dst=default, gateway=str(nat.address), oif=index, table=table)

        _work(self.router, "set up the route tables", add)

    def _internet(self) -> None:
        namespaces.write_sysctls(_FORWARDING)
        with IPRoute() as routes:
            loopback = _index(routes, "lo")
            for cidr in self.topology.outside_cidrs:
                if isinstance(cidr, IPv4Network):
                    routes.addr("add", index=loopback, address=str(cidr[ROUTER_OFFSET]), prefixlen=32)
            uplink = _index(routes, UPLINK_DEVICE)
            # Providers do not carry private sources: strict reverse path filtering ends them here.
            namespaces.write_sysctls({f"ipv4/conf/{UPLINK_DEVICE}/rp_filter": 1})
            routes.addr("add", index=uplink, address=_INTERNET_IPV4, prefixlen=TRANSIT[0].prefixlen)
            routes.addr("add", index=uplink, address=_INTERNET_IPV6, prefixlen=TRANSIT[1].prefixlen, flags=_NODAD)
            routes.link("set", index=uplink, state="up")
            routes.route("add", dst=str(self.topology.public_cidr), gateway=_ROUTER_IPV4, oif=uplink)
            if self.topology.vpc.ipv6_cidr:
                destination = str(self.topology.vpc.ipv6_cidr)
                routes.route("add", family=_INET6, dst=destination, gateway=_ROUTER_IPV6, oif=uplink)

    def _subnet_table(self, subnet: Subnet) -> int:
        return _SUBNET_TABLE + self.topology.subnets.index(subnet)


def _further(routes: IPRoute, index: int, wire: _Wire, table: int) -> None:
    """A further interface of an instance: what has its address as source goes by it, all else by the first (EC2 user
    guide, "Multiple network interfaces": policy-based routing)."""
    routes.addr("add", index=index, address=str(wire.address), prefixlen=32)
    routes.link("set", index=index, state="up")
    routes.route("add", dst=f"{wire.gateway}/32", oif=index, scope=253, table=table)
    routes.route("add", dst="0.0.0.0/0", gateway=str(wire.gateway), oif=index, table=table)
    routes.rule("add", family=_INET, priority=_FURTHER_RULE, table=table, src=str(wire.address), src_len=32)
    if wire.ipv6 and wire.gateway_ipv6:
        routes.addr("add", index=index, address=str(wire.ipv6), prefixlen=128, flags=_NODAD)
        routes.route("add", family=_INET6, dst=f"{wire.gateway_ipv6}/128", oif=index, table=table)
        routes.route("add", family=_INET6, dst="::/0", gateway=str(wire.gateway_ipv6), oif=index, table=table)
        routes.rule("add", family=_INET6, priority=_FURTHER_RULE, table=table, src=str(wire.ipv6), src_len=128)


T = TypeVar("T")
_NODAD = 0x02  # IFA_F_NODAD: nobody else can have the address, so it is usable at once


def remove_namespace(name: str) -> None:
    """Removes a namespace and the devices in it, also a half-made one."""
    if not (namespaces.RUN / name).exists():
        return

    def drop_links() -> None:
        # A namespace that somebody still sits in lives on without a name; its links to the others do not.
        with IPRoute() as routes:
            for link in routes.get_links():
                if link.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") == "veth":
                    routes.link("delete", index=link["index"])

    with suppress(KernelError):  # the file may be there without its mount: a build cut off between the two
        _work(name, f"remove the links of {name}", drop_links)
    namespaces.remove(name)


def _index(routes: IPRoute, name: str) -> int:
    found = routes.link_lookup(ifname=name)
    if not found:
        raise HostError(f"there is no interface {name} in the namespace", "vnotch lab down, then vnotch lab up")
    return int(found[0])


def _rule(routes: IPRoute, family: int, priority: int, table: int, device: str | None) -> None:
    """Adds a routing rule unless it is there."""
    arguments: dict[str, Any] = {"family": family, "priority": priority, "table": table}
    if device:
        arguments["iifname"] = device
    try:
        routes.rule("add", **arguments)
    except NetlinkError as error:
        if error.code != 17:  # EEXIST
            raise


def _work(namespace: str, what: str, function: Callable[[], T]) -> T:
    """Runs `function` inside a namespace; the kernel's refusals become KernelErrors that say what was tried."""
    try:
        return namespaces.inside(namespace, function)
    except NetlinkError as error:
        raise KernelError(f"{what} in {namespace}", error.code) from error
    except OSError as error:
        raise KernelError(f"{what} in {namespace}", error.errno or 0) from error

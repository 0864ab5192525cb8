"""What a lab consists of: the values that a topology file (topology_file.py) is read into. Nothing here does I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import overload

from vnotch.errors import InputError
from vnotch.lab.firewall import GroupRule, NetworkAcl, PrefixList, SecurityGroup

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

METADATA_ADDRESS = IPv4Address("169.254.169.254")
TIME_ADDRESS = IPv4Address("169.254.169.123")
RESOLVER_OFFSET = 2  # VPC user guide, "Amazon DNS server": the base of the VPC plus two
ROUTER_OFFSET = 1  # VPC user guide, "Subnet sizing": the base of the subnet plus one
TRANSIT = (IPv4Network("192.0.2.0/30"), IPv6Network("2001:db8:ffff:ffff::/64"))
"""The wire between the internet gateway and the outside world; TEST-NET-1 and documentation space."""

DEVICE_PREFIX = "vn-"
DEVICE_NAME_MAX = 15  # Linux: IFNAMSIZ is 16 with the closing zero
NAME_MAX = DEVICE_NAME_MAX - len(DEVICE_PREFIX)
RESERVED_NAMES = ("router", "internet", "igw")
INTERFACES_MAX = 200
DEVICE_INDEX_MAX = 14
ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
DNS_PORT = 53
SERVICES = {"http": 80, "app": 8080, "mysql": 3306, "ssh": 22, "dns": DNS_PORT}
ZONES = tuple("abcdef")
ROLES = ("visitor", "site", "scanner")

_NAME = re.compile(r"[a-z][a-z0-9-]*\Z")


@dataclass(frozen=True)
class Vpc:
    cidr: IPv4Network
    ipv6_cidr: IPv6Network | None
    resolver: IPv4Address
    metadata: IPv4Address = METADATA_ADDRESS
    time: IPv4Address = TIME_ADDRESS


@dataclass(frozen=True)
class Subnet:
    """`zone` is the letter; `default_route` is `internet`, the name of a NAT gateway, or `none`; `network_acl` the name
    of one, None for the VPC's default one."""

    name: str
    cidr: IPv4Network
    ipv6_cidr: IPv6Network | None
    zone: str
    default_route: str
    network_acl: str | None = None

    @property
    def router(self) -> IPv4Address:
        return self.cidr[ROUTER_OFFSET]

    @property
    def router_ipv6(self) -> IPv6Address | None:
        return self.ipv6_cidr[ROUTER_OFFSET] if self.ipv6_cidr else None


@dataclass(frozen=True)
class Eni:
    """An elastic network interface of the lab: of an instance, of a managed service or of a NAT gateway.

    `enforce` is that of `inventory.Interface`; `calls` names the ENI whose service this one's uses;
    `requester` the service that a managed one belongs to; `security_groups` are names, none stand for the VPC's default
    group, but for a NAT gateway, which has no group at all.
    """

    name: str
    kind: str  # instance, managed, nat_gateway
    subnet: str
    address: IPv4Address
    ipv6: IPv6Address | None = None
    public_address: IPv4Address | None = None
    services: tuple[str, ...] = ()
    calls: str | None = None
    enforce: bool = False
    description: str = ""
    requester: str | None = None
    security_groups: tuple[str, ...] = ()
    of: str | None = None  # a further interface of the instance of that name
    device_index: int = 0

    @property
    def device(self) -> str:
        """The host side's name in the router namespace."""
        return DEVICE_PREFIX + self.name

    @property
    def own_device(self) -> str:
        """The name of the ENI itself, in its instance's namespace."""
        return f"eth{self.device_index}"

    @property
    def host(self) -> str:
        """The name of the namespace that it is in, which is its own unless it is a further one."""
        return self.of or self.name

    @property
    def mac(self) -> str:
        """A locally administered address that is made from the IPv4 address, so that it is the same at each build."""
        return "02:76:" + ":".join(f"{byte:02x}" for byte in self.address.packed)


@dataclass(frozen=True)
class Outside:
    """A host of the outside world; `role` is what the traffic generator has it do."""

    name: str
    role: str
    address: IPv4Address
    ipv6: IPv6Address | None
    services: tuple[str, ...] = ()

    @property
    def device(self) -> str:
        return DEVICE_PREFIX + self.name


@dataclass(frozen=True)
class Topology:
    """A checked topology. Names are unique over ENIs and outside hosts; every reference resolves."""

    path: str
    vpc: Vpc
    subnets: tuple[Subnet, ...]
    enis: tuple[Eni, ...]
    public_cidr: IPv4Network
    outside_cidrs: tuple[Network, ...]
    outside: tuple[Outside, ...]
    security_groups: tuple[SecurityGroup, ...] = ()
    network_acls: tuple[NetworkAcl, ...] = ()
    prefix_lists: tuple[PrefixList, ...] = ()
    text: str = field(default="", repr=False, compare=False)

    def subnet(self, name: str) -> Subnet:
        return next(subnet for subnet in self.subnets if subnet.name == name)

    def eni(self, name: str) -> Eni:
        return next(eni for eni in self.enis if eni.name == name)

    def of_kind(self, kind: str) -> list[Eni]:
        return [eni for eni in self.enis if eni.kind == kind]

    def serving(self, service: str) -> list[Eni]:
        """The ENIs behind which `service` runs, in the file's order."""
        return [eni for eni in self.enis if service in eni.services]

    def with_role(self, role: str) -> list[Outside]:
        return [host for host in self.outside if host.role == role]

    def inbound_rules(self, eni: Eni) -> tuple[GroupRule, ...]:
        """The inbound rules of all groups that an ENI names."""
        groups = [group for group in self.security_groups if group.name in eni.security_groups]
        return tuple(rule for group in groups for rule in group.rules if not rule.egress)

    def lets_in(self, eni: Eni, address: Address, protocol: int) -> set[int]:
        """The ports, each range's first for ICMP's types, at which the ENI's groups let an address outside in."""
        lists = {prefix_list.name: prefix_list.cidrs for prefix_list in self.prefix_lists}
        found: set[int] = set()
        for rule in self.inbound_rules(eni):
            cidrs = (rule.cidr,) if rule.cidr else lists.get(rule.prefix_list or "", ())
            if rule.traffic.protocol == protocol and any(address in ip_network(cidr) for cidr in cidrs):
                found.update(range(rule.traffic.low, rule.traffic.high + 1))
        return found

    def with_instance(self, name: str, subnet_name: str) -> tuple[Topology, Eni]:
        """The topology with one more web server at the next free addresses of a subnet, and its ENI.

        Raises InputError where the name or the subnet is not right, or the subnet is full.
        """
        subnet = next((subnet for subnet in self.subnets if subnet.name == subnet_name), None)
        if subnet is None:
            known = ", ".join(subnet.name for subnet in self.subnets)
            raise InputError(f"there is no subnet {subnet_name!r} in the lab", f"its subnets: {known}")
        taken = {eni.name for eni in self.enis} | {host.name for host in self.outside}
        if problem := name_problem(name) or (f"the name {name!r} is taken" if name in taken else None):
            raise InputError(problem, NAME_RIGHT)
        if len(self.enis) >= INTERFACES_MAX:
            raise InputError(f"the lab has {len(self.enis)} interfaces already", f"the limit is {INTERFACES_MAX}")
        used = {eni.address for eni in self.enis}
        address = _next_free(subnet.cidr, used, f"subnet {subnet_name!r}")
        ipv6 = None
        if subnet.ipv6_cidr:
            # The same host number in both families, as the file has it, is easier on the reader of a record.
            ipv6 = subnet.ipv6_cidr[int(str(int(address) - int(subnet.cidr[0])), 16)]
            if ipv6 in {eni.ipv6 for eni in self.enis}:
                ipv6 = _next_free(subnet.ipv6_cidr, {eni.ipv6 for eni in self.enis if eni.ipv6}, subnet_name)
        public = None
        if subnet.default_route == "internet":
            public = _next_free(self.public_cidr, {eni.public_address for eni in self.enis}, "public_cidr")
        eni = Eni(name, "instance", subnet_name, address, ipv6, public, ("http",))
        like = next((other for other in self.of_kind("instance") if "http" in other.services), None)
        eni = replace(
            eni,
            enforce=True,
            security_groups=like.security_groups if like else (),
        )
        return replace(self, enis=(*self.enis, eni)), eni


def reserved_use(network: Network, address: Address) -> str | None:
    """What AWS keeps an address of a subnet for, or None (VPC user guide, "Subnet sizing for IPv4" and "for IPv6":
    the first four addresses and the last)."""
    offset = int(address) - int(network.network_address)
    uses = ("the network address", "the VPC router", "the Amazon DNS server", "future use by AWS")
    if 0 <= offset < len(uses):
        return uses[offset]
    if offset == network.num_addresses - 1:
        return "the broadcast address"
    return None


@overload
def _next_free(network: IPv4Network, used: Iterable[Address | None], where: str) -> IPv4Address: ...
@overload
def _next_free(network: IPv6Network, used: Iterable[Address | None], where: str) -> IPv6Address: ...
def _next_free(network: Network, used: Iterable[Address | None], where: str) -> Address:
    taken = set(used)
    for offset in range(10, min(network.num_addresses, 65536)):
        address = network[offset]
        if address not in taken and not reserved_use(network, address):
            return address
    raise InputError(f"{where} has no free address left", "choose a larger range in the topology")


NAME_RIGHT = f"a name has 1 to {NAME_MAX} characters of a-z, 0-9 and -, and begins with a letter"


def name_problem(name: str) -> str | None:
    """Why `name` cannot be an ENI's or a host's, or None. Device names are made from it, Linux bounds those."""
    if not _NAME.match(name):
        return f"{name!r} is no name"
    if len(name) > NAME_MAX:
        device = DEVICE_PREFIX + name
        return f"{name!r} makes the interface name {device!r}, {len(device)} characters; Linux has {DEVICE_NAME_MAX}"
    if name in RESERVED_NAMES:
        return f"the lab itself uses the name {name!r}"
    return None

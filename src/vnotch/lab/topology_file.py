"""The topology file: read and checked whole before anything is created.

Parsing is pure. Each refusal is an InputError that names file, line and what would be right.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import TypeVar, overload

from vnotch.lab.firewall_file import TABLES, Firewall, acl_name, group_names, read_firewall
from vnotch.lab.toml_source import Source, Table
from vnotch.lab.topology import (
    DEVICE_INDEX_MAX,
    INTERFACES_MAX,
    METADATA_ADDRESS,
    NAME_RIGHT,
    RESOLVER_OFFSET,
    ROLES,
    ROUTER_OFFSET,
    SERVICES,
    TIME_ADDRESS,
    TRANSIT,
    ZONES,
    Address,
    Eni,
    Network,
    Outside,
    Subnet,
    Topology,
    Vpc,
    name_problem,
    reserved_use,
)

_A = TypeVar("_A", IPv4Address, IPv6Address)

_TOP = ("vpc", "subnet", "instance", "managed", "nat_gateway", "internet", "outside", *TABLES)
_VPC = ("cidr", "ipv6_cidr", "resolver", "metadata", "time")
_SUBNET = ("name", "cidr", "ipv6_cidr", "zone", "default_route", "network_acl")
_ENI = (
    *("name", "subnet", "address", "ipv6", "public_address", "services", "calls", "security_groups"),
    *("enforce", "of", "device_index"),
)
_MANAGED = (*_ENI, "description", "requester")
_NAT = ("name", "subnet", "address", "public_address")
_INTERNET = ("public_cidr", "cidrs")
_OUTSIDE = ("name", "role", "address", "ipv6", "services")
_ROUTE_RIGHT = 'default_route is "internet", "none" or the name of a NAT gateway'
_DESCRIPTION_RIGHT = "a text, as DescribeNetworkInterfaces shows it"
_REQUESTER_RIGHT = 'the name of a service, such as "amazon-rds"'
_ZONE_RIGHT = "the letter of an availability zone, a to f"


def default_topology_path() -> Path:
    """Where the mock environment is: beside this module where vnotch is installed, else in the source tree."""
    installed = Path(__file__).with_name("mock-environment.toml")
    return installed if installed.exists() else Path(__file__).parents[3] / "examples" / "mock-environment.toml"


def load_topology(path: Path) -> Topology:
    """Reads and checks a topology file. Raises InputError; nothing else happens."""
    return _Reader(Source.read(path)).topology()


def parse_topology(text: str, name: str = "topology") -> Topology:
    """The same from a text; `name` stands for the file in messages."""
    return _Reader(Source.parse(text, name)).topology()


class _Reader:
    """Reads a document top to bottom, remembering what is taken so that the second use is the one refused."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.names: dict[str, int] = {}
        self.addresses: dict[Address, int] = {}
        self.firewall = Firewall()

    def topology(self) -> Topology:
        top = Table(self.source, (), self.source.document, _TOP)
        vpc = self.vpc(top.table("vpc", _VPC))
        self.firewall = read_firewall(top)
        public_cidr, outside_cidrs = self.internet(top.table("internet", _INTERNET), vpc)
        subnet_tables = top.tables("subnet", _SUBNET)
        if not subnet_tables:
            top.refuse(None, "there is no [[subnet]]", "a lab has at least one")
        subnets = self.subnets(subnet_tables, vpc)
        eni_tables = [(table, "instance") for table in top.tables("instance", _ENI)]
        eni_tables += [(table, "managed") for table in top.tables("managed", _MANAGED)]
        eni_tables += [(table, "nat_gateway") for table in top.tables("nat_gateway", _NAT)]
        eni_tables.sort(key=lambda item: self.source.line(item[0].place))  # duplicates are named at the later one
        self.addresses[vpc.resolver] = self.source.line(("vpc", "resolver"))
        enis = tuple(self.eni(table, kind, subnets, public_cidr) for table, kind in eni_tables)
        if len(enis) > INTERFACES_MAX:
            top.refuse(None, f"{len(enis)} interfaces", f"a lab has at most {INTERFACES_MAX}")
        outside = tuple(self.outside(table, outside_cidrs) for table in top.tables("outside", _OUTSIDE))
        self.references(subnet_tables, subnets, [table for table, _ in eni_tables], enis)
        return Topology(
            self.source.name,
            vpc,
            subnets,
            enis,
            public_cidr,
            outside_cidrs,
            outside,
            self.firewall.security_groups,
            self.firewall.network_acls,
            self.firewall.prefix_lists,
            self.source.text,
        )

    # --- tables

    def vpc(self, table: Table) -> Vpc:
        cidr = self.ipv4_network(table, "cidr", (16, 28))
        ipv6_cidr = None
        if "ipv6_cidr" in table.values:
            ipv6_cidr = self.ipv6_network(table, "ipv6_cidr", (44, 60))
        self.apart(table, "cidr", cidr, TRANSIT[0], "the lab's own wire to the internet")
        resolver = self.fixed(table, "resolver", cidr[RESOLVER_OFFSET], "the Amazon DNS server is the VPC's base + 2")
        metadata = self.fixed(table, "metadata", METADATA_ADDRESS, "instance metadata has this address on AWS")
        time = self.fixed(table, "time", TIME_ADDRESS, "Amazon Time Sync has this address on AWS")
        return Vpc(cidr, ipv6_cidr, resolver, metadata, time)

    def internet(self, table: Table, vpc: Vpc) -> tuple[IPv4Network, tuple[Network, ...]]:
        public = self.ipv4_network(table, "public_cidr", (8, 30))
        self.apart(table, "public_cidr", public, vpc.cidr, "the VPC")
        right = 'for instance cidrs = ["198.51.100.0/24", "2001:db8:100::/48"]'
        texts = table.texts("cidrs", right)
        if not texts:
            table.refuse("cidrs", "[internet] has no 'cidrs'", right)
        networks: list[Network] = []
        for text in texts:
            network = self.network(table, "cidrs", text)
            others: list[tuple[Network, str]] = [(public, "public_cidr"), (vpc.cidr, "the VPC"), *self.wire(network)]
            others += [(vpc.ipv6_cidr, "the VPC")] if vpc.ipv6_cidr else []
            for other, what in [*others, *((earlier, "an earlier one") for earlier in networks)]:
                self.apart(table, "cidrs", network, other, what)
            networks.append(network)
        return public, tuple(networks)

    @staticmethod
    def wire(network: Network) -> list[tuple[Network, str]]:
        return [(other, "the lab's own wire to the internet") for other in TRANSIT if other.version == network.version]

    def subnets(self, tables: list[Table], vpc: Vpc) -> tuple[Subnet, ...]:
        subnets: list[Subnet] = []
        for table in tables:
            name = self.name(table, {subnet.name: 0 for subnet in subnets})
            cidr = self.ipv4_network(table, "cidr", (16, 28))
            self.inside(table, "cidr", cidr, vpc.cidr)
            ipv6 = self.ipv6_network(table, "ipv6_cidr", (64, 64)) if "ipv6_cidr" in table.values else None
            if ipv6:
                if vpc.ipv6_cidr is None:
                    table.refuse("ipv6_cidr", "the VPC has no IPv6 range", "add ipv6_cidr to [vpc]")
                self.inside(table, "ipv6_cidr", ipv6, vpc.ipv6_cidr)
            for other in subnets:
                self.apart(table, "cidr", cidr, other.cidr, f"subnet {other.name!r}")
                if ipv6 and other.ipv6_cidr:
                    self.apart(table, "ipv6_cidr", ipv6, other.ipv6_cidr, f"subnet {other.name!r}")
            zone = table.optional_text("zone", _ZONE_RIGHT) or "a"
            if zone not in ZONES:
                table.refuse("zone", f"unknown zone {zone!r}", _ZONE_RIGHT)
            route = table.optional_text("default_route", _ROUTE_RIGHT) or "none"
            subnets.append(Subnet(name, cidr, ipv6, zone, route, acl_name(table, self.firewall)))
        return tuple(subnets)

    def eni(self, table: Table, kind: str, subnets: tuple[Subnet, ...], public_cidr: IPv4Network) -> Eni:
        name = self.name(table, self.names)
        known = ", ".join(subnet.name for subnet in subnets)
        wanted = table.text("subnet", f"one of {known}")
        subnet = next((subnet for subnet in subnets if subnet.name == wanted), None)
        if subnet is None:
            table.refuse("subnet", f"there is no subnet {wanted!r}", f"the file has: {known}")
        address = self.host(table, "address", subnet.cidr)
        ipv6 = None
        if "ipv6" in table.values:
            if subnet.ipv6_cidr is None:
                table.refuse("ipv6", f"subnet {wanted!r} has no IPv6 range", "add ipv6_cidr to it or leave ipv6 out")
            ipv6 = self.host(table, "ipv6", subnet.ipv6_cidr)
        public = None
        if "public_address" in table.values:
            if subnet.default_route != "internet":
                right = 'give the subnet default_route = "internet" or leave public_address out'
                table.refuse("public_address", f"subnet {wanted!r} has no route to the internet gateway", right)
            public = self.host(table, "public_address", public_cidr, reserved=False)
        if kind == "nat_gateway":
            if public is None:
                right = f"a NAT gateway sits in a subnet with an internet route and has an address of {public_cidr}"
                table.refuse(None, f"NAT gateway {name!r} has no 'public_address'", right)
            return Eni(name, kind, subnet.name, address, None, public, description=f"Interface for NAT Gateway {name}")
        return Eni(
            name,
            kind,
            subnet.name,
            address,
            ipv6,
            public,
            self.services(table),
            table.optional_text("calls", "the name of another instance"),
            table.boolean("enforce", False),
            table.optional_text("description", _DESCRIPTION_RIGHT) or "",
            table.optional_text("requester", _REQUESTER_RIGHT),
            group_names(table, self.firewall),
            *self.further(table),
        )

    def further(self, table: Table) -> tuple[str | None, int]:
        """Of which instance it is a further interface, and its device index."""
        of = table.optional_text("of", "the name of an instance")
        index = table.values.get("device_index", 1 if of else 0)
        if type(index) is not int or not (1 <= index <= DEVICE_INDEX_MAX if of else index == 0):
            table.refuse("device_index", f"device_index = {index!r}", f"1 to {DEVICE_INDEX_MAX}, with of; else 0")
        return of, index

    def outside(self, table: Table, cidrs: tuple[Network, ...]) -> Outside:
        name = self.name(table, self.names)
        role = table.text("role", f"one of {', '.join(ROLES)}")
        if role not in ROLES:
            table.refuse("role", f"unknown role {role!r}", f"one of {', '.join(ROLES)}")
        address = self.outside_address(table, "address", cidrs, IPv4Address)
        ipv6 = self.outside_address(table, "ipv6", cidrs, IPv6Address) if "ipv6" in table.values else None
        return Outside(name, role, address, ipv6, self.services(table))

    def references(
        self, subnet_tables: list[Table], subnets: tuple[Subnet, ...], eni_tables: list[Table], enis: tuple[Eni, ...]
    ) -> None:
        """What names something else: a subnet's NAT gateway, the instance that is called."""
        gateways = {eni.name: eni for eni in enis if eni.kind == "nat_gateway"}
        for table, subnet in zip(subnet_tables, subnets, strict=True):
            route = subnet.default_route
            if route in ("internet", "none"):
                continue
            if route not in gateways:
                table.refuse("default_route", f"there is no NAT gateway {route!r}", _ROUTE_RIGHT)
            if gateways[route].subnet == subnet.name:
                right = f"put {route!r} into a subnet whose default_route is internet"
                table.refuse("default_route", f"NAT gateway {route!r} is in this very subnet", right)
        alone = {eni.name for eni in enis if eni.kind == "instance" and eni.of is None}
        for table, eni in zip(eni_tables, enis, strict=True):
            if eni.of is not None and eni.of not in alone:
                table.refuse("of", f"there is no instance {eni.of!r}", f"those there are: {', '.join(sorted(alone))}")
        serving = [eni.name for eni in enis if eni.services]
        for table, eni in zip(eni_tables, enis, strict=True):
            if eni.calls is not None and (eni.calls not in serving or eni.calls == eni.name):
                others = ", ".join(name for name in serving if name != eni.name) or "none"
                table.refuse("calls", f"there is no service at {eni.calls!r}", f"those with services: {others}")

    # --- values

    def name(self, table: Table, taken: dict[str, int]) -> str:
        name = table.text("name", NAME_RIGHT)
        if problem := name_problem(name):
            table.refuse("name", problem, NAME_RIGHT)
        if name in taken:
            first = f", first on line {taken[name]}" if taken[name] else ""
            table.refuse("name", f"the name {name!r} is there twice{first}", "names are unique")
        if taken is self.names:
            taken[name] = self.source.line((*table.place, "name"))
        return name

    def services(self, table: Table) -> tuple[str, ...]:
        right = f"services are a list of {', '.join(SERVICES)}"
        services = table.texts("services", right) or ()
        for service in services:
            if service not in SERVICES:
                table.refuse("services", f"unknown service {service!r}", right)
        if len(set(services)) < len(services):
            table.refuse("services", "a service is there twice", right)
        return services

    def network(self, table: Table, key: str, text: str) -> Network:
        try:
            network = ip_network(text, strict=False)
        except ValueError:
            table.refuse(key, f"{text!r} is no CIDR block", "for instance 10.0.0.0/16 or fd76:6e6f:7463::/56")
        if ip_address(text.partition("/")[0]) != network.network_address:
            table.refuse(key, f"{text!r} has bits set behind its prefix", f"its network is {network}")
        return network

    def ipv4_network(self, table: Table, key: str, lengths: tuple[int, int]) -> IPv4Network:
        network = self.network(table, key, table.text(key, "an IPv4 CIDR block such as 10.0.0.0/16"))
        if not isinstance(network, IPv4Network) or not lengths[0] <= network.prefixlen <= lengths[1]:
            table.refuse(key, f"{network} does not fit", f"an IPv4 block of /{lengths[0]} to /{lengths[1]}")
        return network

    def ipv6_network(self, table: Table, key: str, lengths: tuple[int, int]) -> IPv6Network:
        network = self.network(table, key, table.text(key, "an IPv6 CIDR block"))
        if not isinstance(network, IPv6Network) or not lengths[0] <= network.prefixlen <= lengths[1]:
            table.refuse(key, f"{network} does not fit", f"an IPv6 block of /{lengths[0]} to /{lengths[1]}")
        return network

    def inside(self, table: Table, key: str, network: Network, outer: Network) -> None:
        if network.version != outer.version or not network.subnet_of(outer):  # type: ignore[arg-type]
            table.refuse(key, f"{network} is not inside the VPC", f"a block of {outer}")

    def apart(self, table: Table, key: str, network: Network, other: Network, what: str) -> None:
        if network.version == other.version and network.overlaps(other):
            table.refuse(key, f"{network} overlaps {other} of {what}", "choose blocks that do not overlap")

    def fixed(self, table: Table, key: str, expected: IPv4Address, why: str) -> IPv4Address:
        text = table.optional_text(key, f'{key} = "{expected}"')
        if text is not None and text != str(expected):
            table.refuse(key, f"{key} = {text!r} cannot be moved", f'{why}: {key} = "{expected}"')
        return expected

    def address(self, table: Table, key: str, kind: type[_A]) -> _A:
        text = table.text(key, "an address")
        try:
            address = ip_address(text)
        except ValueError:
            table.refuse(key, f"{text!r} is no address", "for instance 10.0.0.10")
        if not isinstance(address, kind):
            table.refuse(key, f"{address} is IPv{address.version}", f"an {kind.__name__} is wanted here")
        return address

    @overload
    def host(self, table: Table, key: str, network: IPv4Network, reserved: bool = ...) -> IPv4Address: ...
    @overload
    def host(self, table: Table, key: str, network: IPv6Network, reserved: bool = ...) -> IPv6Address: ...
    def host(self, table: Table, key: str, network: Network, reserved: bool = True) -> Address:
        """An address of `network` that nobody has yet and, inside a subnet, that AWS does not keep."""
        address: Address
        if isinstance(network, IPv4Network):
            address = self.address(table, key, IPv4Address)
        else:
            address = self.address(table, key, IPv6Address)
        if address not in network:
            table.refuse(key, f"{address} is not in {network}", f"an address of {network}")
        use = reserved_use(network, address)
        if reserved and use:
            right = "the first four addresses of a subnet and the last are reserved: take another"
            table.refuse(key, f"{address} is reserved in {network} for {use}", right)
        self.take(table, key, address)
        return address

    def outside_address(self, table: Table, key: str, cidrs: tuple[Network, ...], kind: type[_A]) -> _A:
        address = self.address(table, key, kind)
        home = next((network for network in cidrs if address in network), None)
        if home is None:
            listed = ", ".join(map(str, cidrs))
            table.refuse(key, f"{address} is in no range of the outside world", f"an address of {listed}")
        if address in (home[0], home[ROUTER_OFFSET], home[-1]):
            right = "the first two addresses and the last of a range are the network's own: take another"
            table.refuse(key, f"{address} is no host of {home}", right)
        self.take(table, key, address)
        return address

    def take(self, table: Table, key: str, address: Address) -> None:
        if address in self.addresses:
            what = f"{address} is taken already, on line {self.addresses[address]}"
            table.refuse(key, what, "every interface has an address of its own")
        self.addresses[address] = self.source.line((*table.place, key))

"""A VPC of the API as a topology: what DescribeSubnets, DescribeRouteTables, DescribeNatGateways and a lab host's list
of instances say, written as the topology file that says the same. Pure.

The outside world is the mock environment's. An instance's tags say what the API has no word for: `Name` (the name of
its namespace), `vnotch:services` (default `http`), `vnotch:calls` and `vnotch:public-address`. An Elastic IP address
of the world's public range is the public address of its instance or NAT gateway.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from vnotch.lab.topology import NAME_MAX, Topology, name_problem

SERVICES_TAG, CALLS_TAG, PUBLIC_TAG = "vnotch:services", "vnotch:calls", "vnotch:public-address"
DEFAULT_SERVICES = "http"


@dataclass(frozen=True)
class Answers:
    """What the API said of one VPC, as it said it; `instances` are those of the lab host's list that live."""

    vpc: Mapping[str, Any]
    subnets: Sequence[Mapping[str, Any]]
    route_tables: Sequence[Mapping[str, Any]]
    nat_gateways: Sequence[Mapping[str, Any]]
    instances: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Source:
    """The topology file, and the AWS ids of what it names."""

    text: str
    interfaces: dict[str, str] = field(default_factory=dict)  # name of an ENI -> its id
    instances: dict[str, str] = field(default_factory=dict)  # name of an ENI -> its instance's id
    macs: dict[str, str] = field(default_factory=dict)


def topology_source(answers: Answers, world: Topology) -> Source:
    """`world`: the topology whose [internet] and [[outside]] there are."""
    names = _Names({host.name for host in world.outside})
    nat_names = {row["NatGatewayId"]: names.give(row, row["NatGatewayId"], "n") for row in answers.nat_gateways}
    subnet_names = {row["SubnetId"]: _short("s", row["SubnetId"]) for row in answers.subnets}
    ways = {row["SubnetId"]: _way(row, answers.route_tables, nat_names) for row in answers.subnets}
    source = Source("")
    public = _PublicAddresses(world.public_cidr, answers)
    lines = list(_vpc(answers.vpc))
    for row in answers.subnets:
        lines += _subnet(row, subnet_names[row["SubnetId"]], ways[row["SubnetId"]])
    for instance in answers.instances:
        lines += _instance(instance, names, subnet_names, ways, public, source)
    for row in answers.nat_gateways:
        name, address = nat_names[row["NatGatewayId"]], row["NatGatewayAddresses"][0]
        source.interfaces[name] = address["NetworkInterfaceId"]
        given = {"name": name, "subnet": subnet_names[row["SubnetId"]], "address": address["PrivateIp"]}
        lines += _table("[nat_gateway]", {**given, "public_address": public.give(address.get("PublicIp"))})
    lines += _world(world)
    return Source("\n".join(lines) + "\n", source.interfaces, source.instances, source.macs)


def _vpc(row: Mapping[str, Any]) -> Iterable[str]:
    given = {"cidr": row["CidrBlock"]}
    blocks = [item["Ipv6CidrBlock"] for item in row.get("Ipv6CidrBlockAssociationSet", [])]
    return _table("vpc", {**given, "ipv6_cidr": blocks[0] if blocks else None})


def _subnet(row: Mapping[str, Any], name: str, way: str) -> Iterable[str]:
    blocks = [item["Ipv6CidrBlock"] for item in row.get("Ipv6CidrBlockAssociationSet", [])]
    return _table(
        "[subnet]",
        {
            "name": name,
            "cidr": row["CidrBlock"],
            "ipv6_cidr": blocks[0] if blocks else None,
            "zone": row["AvailabilityZone"][-1],
            "default_route": way,
        },
    )


def _way(subnet: Mapping[str, Any], tables: Sequence[Mapping[str, Any]], nat_names: Mapping[str, str]) -> str:
    """Where the subnet's default route leads: `internet`, a NAT gateway's name, or `none`."""
    own = [table for table in tables if any(a.get("SubnetId") == subnet["SubnetId"] for a in table["Associations"])]
    main = [table for table in tables if any(a.get("Main") for a in table["Associations"])]
    for table in (own or main)[:1]:
        for route in table["Routes"]:
            if route.get("DestinationCidrBlock") != "0.0.0.0/0" or route.get("State") != "active":
                continue
            if route.get("GatewayId", "").startswith("igw-"):
                return "internet"
            return nat_names.get(route.get("NatGatewayId", ""), "none")
    return "none"


def _instance(
    instance: Mapping[str, Any],
    names: _Names,
    subnet_names: Mapping[str, str],
    ways: Mapping[str, str],
    public: _PublicAddresses,
    source: Source,
) -> Iterable[str]:
    tags = instance["tags"]
    name = names.give({"Tags": [{"Key": "Name", "Value": tags.get("Name", "")}]}, instance["instance_id"], "i")
    for interface in instance["interfaces"]:
        index = interface["device_index"]
        own = name if index == 0 else names.give({}, interface["interface_id"], "e")
        source.interfaces[own] = interface["interface_id"]
        source.instances[own] = instance["instance_id"]
        source.macs[own] = interface["mac"]
        given: dict[str, Any] = {
            "name": own,
            "subnet": subnet_names[interface["subnet_id"]],
            "address": interface["ipv4"][0],
            "ipv6": interface["ipv6"][0] if interface["ipv6"] else None,
            "enforce": True,
        }
        if index == 0:
            given["services"] = [word for word in re.split(r"[,\s]+", tags.get(SERVICES_TAG, DEFAULT_SERVICES)) if word]
            given["calls"] = tags.get(CALLS_TAG)
            if ways[interface["subnet_id"]] == "internet":
                given["public_address"] = public.give(interface.get("public_ipv4"), tags.get(PUBLIC_TAG))
        else:
            given |= {"of": name, "device_index": index}
        yield from _table("[instance]", given)


def _world(world: Topology) -> Iterable[str]:
    cidrs = [str(cidr) for cidr in world.outside_cidrs]
    yield from _table("internet", {"public_cidr": str(world.public_cidr), "cidrs": cidrs})
    for host in world.outside:
        ipv6 = str(host.ipv6) if host.ipv6 else None
        given = {"name": host.name, "role": host.role, "address": str(host.address), "ipv6": ipv6}
        yield from _table("[outside]", {**given, "services": list(host.services)})


def _table(name: str, values: Mapping[str, Any]) -> Iterable[str]:
    """A TOML table; JSON writes strings, numbers, booleans and lists of strings as TOML does."""
    yield f"[{name}]"
    yield from (f"{key} = {json.dumps(value)}" for key, value in values.items() if value is not None)
    yield ""


def _short(prefix: str, resource_id: str) -> str:
    """A name that the kernel has room for: the end of the id, which is random."""
    return prefix + resource_id[-(NAME_MAX - 1) :]


class _Names:
    """Names of namespaces: the `Name` tag where it can be one and nobody has it, else the end of the id."""

    def __init__(self, taken: set[str]) -> None:
        self._taken = set(taken)

    def give(self, row: Mapping[str, Any], resource_id: str, prefix: str) -> str:
        wanted = next((tag["Value"] for tag in row.get("Tags", []) if tag["Key"] == "Name"), "").lower()
        free = wanted and wanted not in self._taken and name_problem(wanted) is None
        name = wanted if free else _short(prefix, resource_id)
        self._taken.add(name)
        return name


class _PublicAddresses:
    """Elastic IP addresses, those that a tag names, and for all else such as the lab gives itself, each once."""

    def __init__(self, cidr: IPv4Network, answers: Answers) -> None:
        self._cidr = cidr
        elastic = [
            *(interface.get("public_ipv4") for instance in answers.instances for interface in instance["interfaces"]),
            *(address.get("PublicIp") for row in answers.nat_gateways for address in row["NatGatewayAddresses"]),
        ]
        self._elastic = {text for text in elastic if text}
        self._named = {instance["tags"].get(PUBLIC_TAG) for instance in answers.instances}
        self._free = iter(cidr.hosts())
        for _ in range(9):  # the first few are a provider's
            next(self._free)

    def give(self, elastic: str | None, named: str | None = None) -> str | None:
        """The Elastic IP address where the lab's world has it; else the one that is named, where it is nobody's Elastic
        IP address; else the next."""
        if elastic and IPv4Address(elastic) in self._cidr:
            return elastic
        if named and named not in self._elastic:
            return named
        taken = self._named | self._elastic
        address: IPv4Address | None = next((each for each in self._free if str(each) not in taken), None)
        return str(address) if address else None

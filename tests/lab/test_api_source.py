"""A VPC of the API, as the topology that says the same."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Any

from vnotch.lab.api_source import Answers, Source, topology_source
from vnotch.lab.topology import Topology
from vnotch.lab.topology_file import default_topology_path, load_topology, parse_topology

WORLD = load_topology(default_topology_path())
PUBLIC, PRIVATE = "subnet-0aaaaaaaaaaaaaaa1", "subnet-0aaaaaaaaaaaaaaa2"


def interface(subnet: str, address: str, index: int = 0, interface_id: str = "eni-0cccccccccccccccc") -> dict[str, Any]:
    return {
        "interface_id": interface_id,
        "device_index": index,
        "subnet_id": subnet,
        "mac": f"02:00:00:00:00:{index:02x}",
        "ipv4": [address],
        "ipv6": [],
        "bound": False,
    }


def instance(name: str, *interfaces: dict[str, Any], **tags: str) -> dict[str, Any]:
    given = {"Name": name, **{f"vnotch:{key.replace('_', '-')}": value for key, value in tags.items()}}
    return {"instance_id": f"i-0{name:>016}", "state": "pending", "tags": given, "interfaces": list(interfaces)}


def route(**target: str) -> dict[str, Any]:
    return {"DestinationCidrBlock": "0.0.0.0/0", "State": "active", **target}


def answers(*instances: dict[str, Any]) -> Answers:
    return Answers(
        vpc={"CidrBlock": "10.0.0.0/16"},
        subnets=[
            {"SubnetId": PUBLIC, "CidrBlock": "10.0.0.0/24", "AvailabilityZone": "us-east-1a"},
            {"SubnetId": PRIVATE, "CidrBlock": "10.0.1.0/24", "AvailabilityZone": "us-east-1b"},
        ],
        route_tables=[
            {"Associations": [{"Main": True}], "Routes": []},
            {"Associations": [{"SubnetId": PUBLIC}], "Routes": [route(GatewayId="igw-1")]},
            {"Associations": [{"SubnetId": PRIVATE}], "Routes": [route(NatGatewayId="nat-1")]},
        ],
        nat_gateways=[
            {
                "NatGatewayId": "nat-1",
                "SubnetId": PUBLIC,
                "NatGatewayAddresses": [{"NetworkInterfaceId": "eni-0nat", "PrivateIp": "10.0.0.220"}],
                "Tags": [{"Key": "Name", "Value": "nat"}],
            }
        ],
        instances=list(instances),
    )


def read(given: Answers) -> tuple[Source, Topology]:
    source = topology_source(given, WORLD)
    return source, parse_topology(source.text)


def test_routes_instances_and_gateways_become_a_topology() -> None:
    source, topology = read(answers(instance("web", interface(PUBLIC, "10.0.0.10"))))
    assert [subnet.default_route for subnet in topology.subnets] == ["internet", "nat"]
    assert [subnet.zone for subnet in topology.subnets] == ["a", "b"]
    web, nat = topology.eni("web"), topology.eni("nat")
    assert (web.address, web.services, web.enforce) == (IPv4Address("10.0.0.10"), ("http",), True)
    assert (nat.kind, nat.address) == ("nat_gateway", IPv4Address("10.0.0.220"))
    assert web.public_address not in (None, nat.public_address)
    assert source.interfaces == {"web": "eni-0cccccccccccccccc", "nat": "eni-0nat"}
    assert source.instances["web"].startswith("i-0")
    assert topology.outside == WORLD.outside


def test_elastic_addresses_are_the_public_addresses_of_what_has_them() -> None:
    held = {**interface(PUBLIC, "10.0.0.10"), "public_ipv4": "203.0.113.254"}
    foreign = {**interface(PUBLIC, "10.0.0.11", interface_id="eni-0ddd"), "public_ipv4": "198.18.0.7"}
    named = interface(PUBLIC, "10.0.0.12", interface_id="eni-0eee")
    given = answers(
        instance("a", held, public_address="203.0.113.9"),
        instance("b", foreign),
        instance("c", named, public_address="203.0.113.254"),
    )
    given.nat_gateways[0]["NatGatewayAddresses"][0]["PublicIp"] = "203.0.113.253"
    _, topology = read(given)
    public = {name: str(topology.eni(name).public_address) for name in ("a", "b", "c", "nat")}
    assert (public["a"], public["nat"]) == ("203.0.113.254", "203.0.113.253")
    # One of another range has no effect in the lab, and a tag takes nobody's.
    assert len(set(public.values())) == 4


def test_what_the_api_has_no_word_for_is_in_tags() -> None:
    _, topology = read(
        answers(
            instance("app", interface(PRIVATE, "10.0.1.10"), services="app, ssh", calls="db"),
            instance("db", interface(PRIVATE, "10.0.1.11"), services="mysql"),
            instance("web", interface(PUBLIC, "10.0.0.10"), public_address="203.0.113.77"),
        )
    )
    assert topology.eni("app").services == ("app", "ssh")
    assert topology.eni("app").calls == "db"
    assert topology.eni("app").public_address is None
    assert topology.eni("web").public_address == IPv4Address("203.0.113.77")


def test_a_name_that_cannot_be_one_or_is_taken_is_the_end_of_the_id() -> None:
    source, topology = read(
        answers(
            instance("web", interface(PUBLIC, "10.0.0.10")),
            {**instance("web", interface(PUBLIC, "10.0.0.11")), "instance_id": "i-0123456789abcdef0"},
            {**instance("Web server 7!", interface(PUBLIC, "10.0.0.12")), "instance_id": "i-0fedcba9876543210"},
            {**instance("alice", interface(PUBLIC, "10.0.0.13")), "instance_id": "i-00000000000000abc"},
        )
    )
    names = [eni.name for eni in topology.of_kind("instance")]
    assert names == ["web", "i6789abcdef0"[:12], "ia9876543210", "i00000000abc"]
    assert len(set(source.instances.values())) == 4


def test_a_further_interface_is_in_its_instances_namespace() -> None:
    _, topology = read(
        answers(
            instance(
                "web",
                interface(PUBLIC, "10.0.0.10"),
                interface(PRIVATE, "10.0.1.30", 1, "eni-0ddddddddddddddd1"),
            )
        )
    )
    further = next(eni for eni in topology.enis if eni.of)
    assert (further.host, further.own_device, further.services) == ("web", "eth1", ())


def test_a_route_that_leads_nowhere_is_none() -> None:
    given = answers()
    given.route_tables[2]["Routes"][0]["State"] = "blackhole"  # type: ignore[index]
    _, topology = read(given)
    assert [subnet.default_route for subnet in topology.subnets] == ["internet", "none"]

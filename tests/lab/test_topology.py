"""The topology file: what is in it when it is right, and the line and the remedy when it is not."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from vnotch.errors import InputError
from vnotch.lab.toml_source import key_lines
from vnotch.lab.topology import NAME_MAX, reserved_use
from vnotch.lab.topology_file import default_topology_path, load_topology, parse_topology

RIGHT = """\
[vpc]
cidr = "10.0.0.0/16"
ipv6_cidr = "fd00:1:2:3000::/56"

[[subnet]]
name = "public"
cidr = "10.0.0.0/24"
ipv6_cidr = "fd00:1:2:3000::/64"
default_route = "internet"

[[subnet]]
name = "private"
cidr = "10.0.1.0/24"
default_route = "nat"

[[instance]]
name = "web"
subnet = "public"
address = "10.0.0.10"
ipv6 = "fd00:1:2:3000::10"
public_address = "203.0.113.10"
services = ["http"]
calls = "app"
enforce = true

[[instance]]
name = "app"
subnet = "private"
address = "10.0.1.10"
services = ["app"]

[[nat_gateway]]
name = "nat"
subnet = "public"
address = "10.0.0.220"
public_address = "203.0.113.220"

[internet]
public_cidr = "203.0.113.0/24"
cidrs = ["198.51.100.0/24", "2001:db8:100::/48"]

[[outside]]
name = "alice"
role = "visitor"
address = "198.51.100.21"
ipv6 = "2001:db8:100::21"
"""


def line_of(text: str, part: str) -> int:
    """The line, from 1, on which `part` is; it must be there once."""
    assert text.count(part) == 1, part
    return text[: text.index(part)].count("\n") + 1


def refusal(text: str) -> InputError:
    with pytest.raises(InputError) as caught:
        parse_topology(text, "lab.toml")
    assert caught.value.remedy, "a refusal says what would be right"
    return caught.value


def test_the_values_of_a_right_file() -> None:
    topology = parse_topology(RIGHT)
    web = topology.eni("web")
    assert (web.address, web.ipv6) == (IPv4Address("10.0.0.10"), IPv6Address("fd00:1:2:3000::10"))
    assert web.public_address == IPv4Address("203.0.113.10")
    assert web.enforce
    assert web.device == "vn-web"
    assert not topology.eni("app").enforce
    nat = topology.eni("nat")
    assert nat.kind == "nat_gateway"
    assert topology.vpc.resolver == IPv4Address("10.0.0.2")
    assert topology.subnet("private").router == IPv4Address("10.0.1.1")
    assert topology.subnet("public").router_ipv6 == IPv6Address("fd00:1:2:3000::1")


def test_the_mock_environment_is_what_its_readers_are_told() -> None:
    topology = load_topology(default_topology_path())
    assert str(topology.vpc.cidr) == "10.0.0.0/16"
    assert {eni.name: eni.kind for eni in topology.enis} == {
        "web": "instance",
        "bastion": "instance",
        "app": "instance",
        "database": "managed",
        "nat": "nat_gateway",
    }
    assert topology.eni("database").description == "RDSNetworkInterface"
    stranger, visitor = (topology.with_role(role)[0].address for role in ("scanner", "visitor"))
    open_to = {
        eni.name: (topology.lets_in(eni, stranger, 6), topology.lets_in(eni, visitor, 6)) for eni in topology.enis
    }
    assert open_to["web"] == ({80, 443}, {80, 443})
    assert open_to["bastion"] == (set(), {22})
    assert open_to["app"] == open_to["database"] == (set(), set())
    assert [host.role for host in topology.outside].count("visitor") == 2
    assert {"site", "scanner"} <= {host.role for host in topology.outside}


@pytest.mark.parametrize(
    ("before", "after", "what", "right"),
    [
        pytest.param(
            "enforce = true", "enforc = true", "unknown key 'enforc' in [instance]", "'enforce'", id="unknown-key"
        ),
        pytest.param(
            'role = "visitor"',
            'colour = "red"',
            "unknown key 'colour'",
            "known here: name, role",
            id="unknown-key-no-near",
        ),
        pytest.param(
            'cidr = "10.0.1.0/24"',
            'cidr = "10.0.0.128/25"',
            "10.0.0.128/25 overlaps 10.0.0.0/24 of subnet 'public'",
            "do not overlap",
            id="overlap",
        ),
        pytest.param(
            'cidr = "10.0.1.0/24"',
            'cidr = "10.1.1.0/24"',
            "10.1.1.0/24 is not inside the VPC",
            "10.0.0.0/16",
            id="subnet-outside-vpc",
        ),
        pytest.param(
            'cidr = "10.0.1.0/24"', 'cidr = "10.0.1.7/24"', "bits set behind its prefix", "10.0.1.0/24", id="host-bits"
        ),
        pytest.param(
            'cidr = "10.0.1.0/24"',
            'cidr = "10.0.1.0/30"',
            "10.0.1.0/30 does not fit",
            "/16 to /28",
            id="subnet-too-small",
        ),
        pytest.param('cidr = "10.0.1.0/24"', 'cidr = "ten"', "'ten' is no CIDR block", "10.0.0.0/16", id="no-cidr"),
        pytest.param(
            'cidr = "10.0.0.0/16"', 'cidr = "10.0.0.0/8"', "10.0.0.0/8 does not fit", "/16 to /28", id="vpc-too-large"
        ),
        pytest.param(
            'ipv6_cidr = "fd00:1:2:3000::/64"',
            'ipv6_cidr = "fd00:1:2:3000::/60"',
            "does not fit",
            "/64",
            id="ipv6-subnet-not-64",
        ),
        pytest.param(
            'public_cidr = "203.0.113.0/24"',
            'public_cidr = "10.0.9.0/24"',
            "overlaps 10.0.0.0/16 of the VPC",
            "do not overlap",
            id="public-overlaps-vpc",
        ),
        pytest.param(
            '"198.51.100.0/24", ',
            '"203.0.113.0/25", ',
            "overlaps 203.0.113.0/24 of public_cidr",
            "do not overlap",
            id="outside-overlaps-public",
        ),
        pytest.param(
            'address = "10.0.1.10"',
            'address = "10.0.2.10"',
            "10.0.2.10 is not in 10.0.1.0/24",
            "an address of 10.0.1.0/24",
            id="address-outside-subnet",
        ),
        pytest.param(
            'ipv6 = "fd00:1:2:3000::10"',
            'ipv6 = "fd00:1:2:3001::10"',
            "is not in fd00:1:2:3000::/64",
            "fd00:1:2:3000::/64",
            id="ipv6-outside-subnet",
        ),
        pytest.param(
            'address = "10.0.1.10"',
            'address = "10.0.1.0"',
            "10.0.1.0 is reserved in 10.0.1.0/24 for the network address",
            "reserved",
            id="reserved-0",
        ),
        pytest.param(
            'address = "10.0.1.10"', 'address = "10.0.1.1"', "for the VPC router", "reserved", id="reserved-1"
        ),
        pytest.param(
            'address = "10.0.1.10"', 'address = "10.0.1.2"', "for the Amazon DNS server", "reserved", id="reserved-2"
        ),
        pytest.param('address = "10.0.1.10"', 'address = "10.0.1.3"', "for future use", "reserved", id="reserved-3"),
        pytest.param(
            'address = "10.0.1.10"',
            'address = "10.0.1.255"',
            "for the broadcast address",
            "reserved",
            id="reserved-last",
        ),
        pytest.param(
            'ipv6 = "fd00:1:2:3000::10"', 'ipv6 = "fd00:1:2:3000::3"', "is reserved", "reserved", id="reserved-ipv6"
        ),
        pytest.param(
            'address = "10.0.0.220"',
            'address = "10.0.0.10"',
            "10.0.0.10 is taken already, on line 19",
            "address of its own",
            id="duplicate-address",
        ),
        pytest.param(
            'public_address = "203.0.113.220"',
            'public_address = "203.0.113.10"',
            "taken already",
            "address of its own",
            id="duplicate-public",
        ),
        pytest.param(
            'name = "app"', 'name = "web"', "'web' is there twice, first on line 17", "unique", id="duplicate-name"
        ),
        pytest.param('name = "alice"', 'name = "web"', "'web' is there twice", "unique", id="duplicate-name-outside"),
        pytest.param('name = "private"', 'name = "public"', "'public' is there twice", "unique", id="duplicate-subnet"),
        pytest.param(
            'subnet = "private"',
            'subnet = "privat"',
            "there is no subnet 'privat'",
            "public, private",
            id="no-such-subnet",
        ),
        pytest.param('calls = "app"', 'calls = "apps"', "there is no service at 'apps'", "app", id="no-such-service"),
        pytest.param(
            'default_route = "nat"',
            'default_route = "gnat"',
            "there is no NAT gateway 'gnat'",
            "NAT gateway",
            id="no-such-nat",
        ),
        pytest.param(
            'services = ["http"]', 'services = ["gopher"]', "unknown service 'gopher'", "mysql", id="unknown-service"
        ),
        pytest.param('role = "visitor"', 'role = "guest"', "unknown role 'guest'", "visitor", id="unknown-role"),
        pytest.param(
            'name = "app"', 'name = "application-1"', "16 characters; Linux has 15", "12 characters", id="name-too-long"
        ),
        pytest.param('name = "app"', 'name = "App"', "'App' is no name", "a-z", id="name-characters"),
        pytest.param(
            'name = "app"', 'name = "router"', "the lab itself uses the name 'router'", "", id="name-of-the-lab"
        ),
        pytest.param(
            'address = "198.51.100.21"',
            'address = "198.18.0.21"',
            "in no range of the outside world",
            "198.51.100.0/24",
            id="outside-address",
        ),
        pytest.param(
            'address = "10.0.1.10"', 'address = "fd00::10"', "fd00::10 is IPv6", "IPv4Address", id="address-family"
        ),
        pytest.param('address = "10.0.1.10"', "address = 10", "is not a text", "address", id="address-type"),
        pytest.param("enforce = true", 'enforce = "yes"', "neither true nor false", "true", id="boolean-type"),
        pytest.param(
            'public_address = "203.0.113.220"\n',
            "",
            "NAT gateway 'nat' has no 'public_address'",
            "203.0.113.0/24",
            id="nat-without-public",
        ),
    ],
)
def test_a_refusal_names_the_line_and_what_would_be_right(before: str, after: str, what: str, right: str) -> None:
    line = line_of(RIGHT, before)
    if not after:
        line = line_of(RIGHT, "[[nat_gateway]]")
    error = refusal(RIGHT.replace(before, after))
    assert error.message.startswith(f"lab.toml:{line}: "), error.message
    assert what in error.message
    assert right in str(error.remedy)


def test_services_of_the_vpc_own_their_addresses_and_cannot_be_moved() -> None:
    right = RIGHT.replace("[vpc]\n", '[vpc]\nresolver = "10.0.0.2"\ntime = "169.254.169.123"\n')
    assert parse_topology(right).vpc.resolver == IPv4Address("10.0.0.2")
    error = refusal(RIGHT.replace("[vpc]\n", '[vpc]\nresolver = "10.0.0.3"\n'))
    assert error.message.startswith("lab.toml:2: ")
    assert "10.0.0.2" in str(error.remedy)


def test_a_public_address_needs_a_route_to_the_internet() -> None:
    text = RIGHT.replace('address = "10.0.1.10"\n', 'address = "10.0.1.10"\npublic_address = "203.0.113.11"\n')
    error = refusal(text)
    assert error.message.startswith(f"lab.toml:{line_of(text, '203.0.113.11')}: ")
    assert "no route to the internet gateway" in error.message


def test_a_missing_key_is_named_at_its_table() -> None:
    error = refusal(RIGHT.replace('address = "10.0.1.10"\n', ""))
    assert error.message == "lab.toml:26: [instance] has no 'address'"


def test_a_missing_table_is_named() -> None:
    error = refusal(
        RIGHT.replace("[internet]\n", "")
        .replace('public_cidr = "203.0.113.0/24"\n', "")
        .replace('cidrs = ["198.51.100.0/24", "2001:db8:100::/48"]\n', "")
    )
    assert "[internet] is missing" in error.message


APP = 'name = "app"'


def test_what_is_not_toml_is_refused_at_its_line() -> None:
    error = refusal(RIGHT.replace('name = "app"', "name = app"))
    assert error.message.startswith(f"lab.toml:{line_of(RIGHT, APP)}: not TOML")


def test_an_absent_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        load_topology(tmp_path / "nothing.toml")


@pytest.mark.parametrize(
    ("offset", "use"),
    [(0, True), (1, True), (2, True), (3, True), (4, False), (254, False), (255, True)],
)
def test_five_addresses_of_a_subnet_are_reserved(offset: int, use: bool) -> None:
    subnet = parse_topology(RIGHT).subnet("public").cidr
    assert (reserved_use(subnet, subnet[offset]) is not None) is use


def test_lines_of_keys_behind_strings_arrays_and_comments() -> None:
    text = (
        "# [x]\n"  # 1
        'a = "# [not] = a key"\n'  # 2
        "[t]  # [u]\n"  # 3
        "b = [\n  1, # ]\n  2,\n]\n"  # 4 to 7
        "c = '''\nd = 1\n[v]\n'''\n"  # 8 to 11
        'e.f = """x\\"""y"""\n'  # 12
        "[[t.list]]\n"  # 13
        "g = {h = 1}\n"  # 14
        "[[t.list]]\n"  # 15
        '"g" = 1\n'  # 16
        "[t.list.sub]\n"  # 17
        "i = 1\n"  # 18
        "j = [ # 'k',\n"  # 19
        "  'l, [m',\n"  # 20
        "\n"  # 21
        "  { n = [2,\n  3] }, [4], 5,\n"  # 22, 23
        "]\n"
    )
    lines = key_lines(text)
    assert lines["a",] == 2
    assert lines["t",] == 3
    assert lines["t", "b"] == 4
    assert lines["t", "c"] == 8
    assert lines["t", "e"] == lines["t", "e", "f"] == 12
    assert lines["t", "list"] == lines["t", "list", 0] == 13
    assert lines["t", "list", 0, "g"] == 14
    assert lines["t", "list", 1] == 15
    assert lines["t", "list", 1, "g"] == 16
    assert lines["t", "list", 1, "sub"] == 17
    assert lines["t", "list", 1, "sub", "i"] == 18
    assert [lines.get(("t", "b", number)) for number in range(3)] == [5, 6, None]
    assert [lines.get(("t", "list", 1, "sub", "j", number)) for number in range(5)] == [20, 22, 23, 23, None]
    assert ("e", "f", 0) not in lines
    assert ("t", "d") not in lines
    assert ("v",) not in lines


def test_an_instance_that_is_added_gets_the_next_free_addresses() -> None:
    topology, first = parse_topology(RIGHT).with_instance("extra", "public")
    assert first.address == IPv4Address("10.0.0.11")
    assert first.ipv6 == IPv6Address("fd00:1:2:3000::11")
    assert first.public_address == IPv4Address("203.0.113.11")
    assert first.services == ("http",)
    topology, second = topology.with_instance("more", "private")
    assert (second.address, second.ipv6, second.public_address) == (IPv4Address("10.0.1.11"), None, None)
    assert [eni.name for eni in topology.enis][-2:] == ["extra", "more"]


@pytest.mark.parametrize(
    ("name", "subnet", "what"),
    [
        ("extra", "nowhere", "there is no subnet 'nowhere'"),
        ("web", "public", "taken"),
        ("alice", "public", "taken"),
        ("n" * (NAME_MAX + 1), "public", "Linux has 15"),
        ("internet", "public", "the lab itself uses"),
        ("x/y", "public", "is no name"),
    ],
)
def test_an_instance_that_cannot_be_added(name: str, subnet: str, what: str) -> None:
    with pytest.raises(InputError, match=what) as caught:
        parse_topology(RIGHT).with_instance(name, subnet)
    assert caught.value.remedy


def test_a_full_subnet() -> None:
    text = RIGHT.replace('cidr = "10.0.1.0/24"', 'cidr = "10.0.1.0/28"')
    topology = parse_topology(text)
    for number in range(4):  # .11 to .14; .10 is the application's and .15 is reserved
        topology, _ = topology.with_instance(f"more{number}", "private")
    with pytest.raises(InputError, match="no free address"):
        topology.with_instance("another", "private")

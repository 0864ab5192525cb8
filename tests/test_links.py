"""Which side of an ENI a link is, whose address it has, and what runs over it: of written hosts and of a real one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Interface

import pytest

from vnotch.capture.interfaces import Namespace
from vnotch.errors import InputError
from vnotch.links import INSIDE, OUTSIDE, Addresses, Host, Link, Neighbour, Route, callers_peers, route_to

A = IPv4Interface("192.0.2.10/24")
GATEWAY = Route(IPv4Network("0.0.0.0/0"), 1)


def link(
    index: int, name: str, kind: str, *addresses: str, master: int | None = None, lower: int | None = None
) -> Link:
    return Link(index, name, kind, True, None, master, lower, tuple(IPv4Interface(text) for text in addresses))


# Sense ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["nic", "bond", "vlan", "wireguard", "tun", "bridge", "macvlan", "dummy"])
def test_the_hosts_own_interfaces_are_seen_from_inside(kind: str) -> None:
    found = link(1, "x", kind, "192.0.2.10/24")
    assert Host((found,)).sense_of(found).sense == INSIDE


@pytest.mark.parametrize("kind", ["veth", "tap"])
@pytest.mark.parametrize(
    ("addresses", "master", "routes", "forwards", "expected"),
    [
        ((), None, (), False, OUTSIDE),  # a container's or VM's end, without an address of its own
        ((), 9, (), False, OUTSIDE),  # a bridge's port
        (("192.0.2.10/24",), 9, (GATEWAY,), False, OUTSIDE),  # a port, whatever address was left on it
        (("192.0.2.10/24",), None, (GATEWAY,), False, INSIDE),  # in a container: the way out
        (("192.0.2.10/24",), None, (), False, INSIDE),  # in a container on a network without a router
        (("169.254.1.1/32",), None, (), False, OUTSIDE),  # a routed container's gateway
        (("192.0.2.1/24",), None, (), True, OUTSIDE),  # a router's leg
        (
            ("192.0.2.1/24",),
            None,
            (Route(IPv4Network("0.0.0.0/0"), 2),),
            False,
            OUTSIDE,
        ),  # the way out is another
    ],
)
def test_a_veth_or_tap_leads_elsewhere_unless_it_is_the_way_out(
    kind: str, addresses: tuple[str, ...], master: int | None, routes: tuple[Route, ...], forwards: bool, expected: str
) -> None:
    found = link(1, "x", kind, *addresses, master=master)
    host = Host((found, link(2, "eth0", "nic"), link(9, "br0", "bridge")), routes, forwards=forwards)
    assert host.sense_of(found).sense == expected


# Addresses ------------------------------------------------------------------------------------------------------------


def test_from_inside_it_has_its_own_addresses_the_first_one_first() -> None:
    six = (IPv6Interface("2001:db8::10/64"),)
    found = Link(1, "eth0", "nic", True, addresses=(A, IPv4Interface("192.0.2.11/24")), ipv6=six)
    assert Host((found,)).addresses_of(found, INSIDE) == Addresses(A, (IPv4Address("192.0.2.11"),), six)


def test_from_outside_a_route_to_one_host_names_it() -> None:
    veth = link(1, "cali1", "veth")
    routes = (Route(IPv4Network("192.0.2.10/32"), 1), Route(IPv4Network("192.0.2.0/24"), 2))
    neighbours = (Neighbour(IPv4Address("192.0.2.77"), "02:00:00:00:00:10", 1),)
    found = Host((veth,), routes, neighbours).addresses_of(veth, OUTSIDE)
    assert (found.primary, found.mac) == (A, None)


def test_behind_a_bridges_port_is_who_was_seen_there() -> None:
    bridge, port, other = (
        link(9, "br0", "bridge", "192.0.2.1/25"),
        link(1, "v1", "veth", master=9),
        link(2, "v2", "veth"),
    )
    neighbours = tuple(Neighbour(IPv4Address(f"192.0.2.{last}"), f"02:00:00:00:00:{last}", 9) for last in (10, 11))
    learned = ((1, "02:00:00:00:00:10"), (2, "02:00:00:00:00:11"))
    found = Host((bridge, port, other), (), neighbours, learned).addresses_of(port, OUTSIDE)
    assert (found.primary, found.mac) == (IPv4Interface("192.0.2.10/25"), "02:00:00:00:00:10")


def test_behind_a_link_of_its_own_is_who_answers_there() -> None:
    veth = link(1, "v1", "veth", "192.0.2.1/26")
    neighbours = (Neighbour(IPv4Address("192.0.2.10"), "02:00:00:00:00:10", 1),)
    assert Host((veth,), (), neighbours).addresses_of(veth, OUTSIDE).primary == IPv4Interface("192.0.2.10/26")


@pytest.mark.parametrize(
    ("found", "sense", "said"),
    [
        (link(1, "lo", "loopback", "127.0.0.1/8"), INSIDE, "lo is the loopback interface"),
        (link(1, "eth0", "nic"), INSIDE, "eth0 has no IPv4 address"),
        (link(1, "eth0", "nic", master=9), INSIDE, "eth0 has no address of its own: it is a port of br0.*attach br0"),
        (link(1, "v1", "veth"), OUTSIDE, "the address behind v1 is not known: no addresses are seen at v1.*--address"),
        (link(1, "v1", "veth", master=9), OUTSIDE, "no addresses are seen at its port of br0"),
        (Link(1, "e", "nic", True, ipv6=(IPv6Interface("2001:db8::1/64"),)), INSIDE, "e has IPv6 addresses only"),
    ],
)
def test_an_address_that_is_not_known_is_asked_for(found: Link, sense: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Host((found, link(9, "br0", "bridge"))).addresses_of(found, sense)


def test_two_addresses_behind_a_link_are_not_guessed_at() -> None:
    veth = link(1, "v1", "veth")
    routes = tuple(Route(IPv4Network(f"192.0.2.{last}/32"), 1) for last in (10, 11))
    with pytest.raises(InputError, match="2 routes to single hosts lead there"):
        Host((veth,), routes).addresses_of(veth, OUTSIDE)


# What runs over a link ------------------------------------------------------------------------------------------------


def test_the_default_route_is_carried_by_everything_below_it() -> None:
    links = (
        link(1, "br0.5", "vlan", "192.0.2.10/24", lower=2),
        link(2, "br0", "bridge"),
        link(3, "bond0", "bond", master=2),
        link(4, "eth0", "nic", master=3),
        link(5, "eth1", "nic"),
        link(6, "v1", "veth", master=2),
    )
    host = Host(links, (GATEWAY,))
    assert {found.name for found in links if host.carries_default_route(found)} == {
        "br0.5",
        "br0",
        "bond0",
        "eth0",
        "v1",
    }


def test_an_ssh_connection_is_found_though_sudo_has_dropped_the_variable() -> None:
    code = "import vnotch.links as l; print(l.callers_peers())"
    inner = f"env -u SSH_CONNECTION {sys.executable} -c '{code}'; true"
    environment = {**os.environ, "SSH_CONNECTION": "198.51.100.7 50000 192.0.2.10 22"}
    done = subprocess.run(["sh", "-c", inner], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['198.51.100.7']"


def test_without_ssh_there_is_no_such_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vnotch.links._environments", lambda: iter([{}, {"SSH_CONNECTION": ""}]))
    assert callers_peers() == []


# A real host ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    name = f"vnlinks-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        found = Namespace(name)
        yield found
        found.close()
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


@pytest.mark.root
def test_a_namespace_is_read_as_it_is(namespace: Namespace) -> None:
    for words in (
        "link set lo up",
        "link add v0 type veth peer name v1",
        "link add br0 type bridge",
        "link set v0 master br0 up",
        "link set v1 up",
        "link set br0 up",
        "addr add 192.0.2.1/24 dev br0",
        "addr add 192.0.2.2/24 dev br0",
        "addr add 2001:db8::1/64 dev br0 nodad",
        "addr add 192.0.2.10/24 dev v1",
        "neigh replace 192.0.2.10 lladdr 02:00:00:00:00:10 dev br0",
        "route add 198.51.100.0/24 via 192.0.2.10 dev br0",
        "route add 203.0.113.5/32 dev v1",
        "route add default via 192.0.2.10 dev br0",
        "tuntap add tap0 mode tap",
        "tuntap add tun0 mode tun",
    ):
        subprocess.run(["ip", "-n", str(namespace.name), *words.split()], check=True)
    subprocess.run(
        ["bridge", "-n", str(namespace.name), "fdb", "add", "02:00:00:00:00:10", "dev", "v0", "master", "dynamic"],
        check=True,
    )
    host = Host.read(namespace)
    kinds = {found.name: found.kind for found in host.links}
    wanted = {"lo": "loopback", "v0": "veth", "v1": "veth", "br0": "bridge", "tap0": "tap", "tun0": "tun"}
    assert {name: kinds[name] for name in wanted} == wanted
    bridge, port = host.link("br0"), host.link("v0")
    assert [str(address) for address in bridge.addresses] == ["192.0.2.1/24", "192.0.2.2/24"]
    assert [str(address) for address in bridge.ipv6] == ["2001:db8::1/64"]
    assert port.master == bridge.index
    assert not host.link("tap0").is_up
    found = host.addresses_of(port, OUTSIDE)
    assert (str(found.primary), found.mac) == ("192.0.2.10/24", "02:00:00:00:00:10")
    assert host.carries_default_route(port)
    assert not host.carries_default_route(host.link("v1"))
    assert route_to(namespace, "198.51.100.7") == bridge.index
    assert route_to(namespace, "203.0.113.5") == host.link("v1").index
    assert route_to(namespace, "2001:db8::99") == bridge.index
    assert route_to(namespace, "2001:db8:1::1") is None
    subprocess.run(["ip", "-n", str(namespace.name), *["-6", "route", "add", "default", "dev", "v1"]], check=True)
    assert Host.read(namespace).carries_default_route(host.link("v1"))
    with pytest.raises(InputError, match=r"there is no interface eth9 here .there is .*br0"):
        host.link("eth9")

"""Candidates for enrolment: real links in namespaces made here."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from vnotch.candidates import Candidate, Found, find_candidates, networks_of
from vnotch.capture.interfaces import Namespace
from vnotch.workloads import Workloads

pytestmark = pytest.mark.root


class Host:
    """A namespace with links that a test adds, and instances behind them."""

    def __init__(self, folder: Path) -> None:
        self.name = f"vncand-{os.getpid()}"
        self.instances: list[str] = []
        self.ip("netns", "add", self.name)
        self.namespace = Namespace(self.name)
        self.workloads = Workloads(sockets=(), domains=(folder,))

    @staticmethod
    def ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)

    def __call__(self, command: str) -> None:
        self.ip("-n", self.name, *command.split())

    def instance(self, device: str, *addresses: str) -> str:
        """A veth with its other end in a namespace of its own; -> that namespace."""
        name = f"{self.name}-{device}"
        self.ip("netns", "add", name)
        self.instances.append(name)
        self(f"link add {device} type veth peer name eth0 netns {name}")
        for address in addresses:
            self.ip("-n", name, "addr", "add", address, "dev", "eth0", *(["nodad"] if ":" in address else []))
        self.ip("-n", name, "link", "set", "eth0", "up")
        self(f"link set {device} up")
        return name

    def mac(self, instance: str) -> str:
        told = subprocess.check_output(["ip", "-n", instance, "-j", "link", "show", "eth0"])
        return str(json.loads(told)[0]["address"])

    def found(self, *cidrs: str) -> Found:
        return find_candidates(self.namespace, networks_of(cidrs), self.workloads)

    def close(self) -> None:
        self.namespace.close()
        for name in (self.name, *self.instances):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    yield made
    made.close()


def plain(device: str, sense: str, *addresses: str, mac: str | None = None) -> Candidate:
    return Candidate(device, sense, f"device/{device}", addresses, {"Name": device}, mac)


def test_a_guest_is_a_candidate_by_its_own_ends_addresses(host: Host) -> None:
    host.instance("v1", "10.5.0.9/24", "192.168.9.9/24", "fd05::9/64")
    host.instance("v2", "10.6.0.9/24")
    assert host.found("10.5.0.0/24", "fd05::/64") == Found((plain("v1", "outside", "10.5.0.9", "fd05::9"),))
    assert host.found("10.7.0.0/24") == Found(())
    assert host.found() == Found(())


def test_only_the_end_of_that_very_link_counts(host: Host) -> None:
    name = host.instance("v1", "10.5.0.9/24")
    host.ip("-n", name, "link", "add", "br1", "type", "bridge")
    host.ip("-n", name, "addr", "add", "10.6.0.9/24", "dev", "br1")
    assert host.found("10.6.0.0/24") == Found(())


def test_a_bridge_is_its_guests_router_and_its_ports_are_guests(host: Host) -> None:
    host("link add br0 type bridge")
    host("addr add 10.5.0.1/24 dev br0")
    guest = host.instance("v1", "10.5.0.9/24")
    host("link set v1 master br0")
    assert host.found("10.5.0.0/24") == Found((plain("v1", "outside", "10.5.0.9", mac=host.mac(guest)),))


def test_behind_a_port_with_several_addresses_none_is_the_guests(host: Host) -> None:
    """As where containers run in the guest, each with an address of its own on the same link."""
    host("link add br0 type bridge")
    guest = host.instance("v1", "10.5.0.9/24")
    host("link set v1 master br0")
    host.ip("-n", guest, "link", "add", "mv0", "link", "eth0", "type", "macvlan", "mode", "bridge")
    host.ip("-n", guest, "link", "set", "mv0", "up")
    assert host.found("10.5.0.0/24") == Found((plain("v1", "outside", "10.5.0.9"),))
    host.ip("-n", guest, "link", "del", "mv0")
    assert host.found("10.5.0.0/24") == Found((plain("v1", "outside", "10.5.0.9", mac=host.mac(guest)),))


def test_the_hosts_own_interface_is_one_from_inside(host: Host) -> None:
    host("link add up0 type bridge")
    host("addr add 10.5.0.7/24 dev up0")
    host("addr add 10.5.0.8/24 dev lo")
    assert host.found("10.5.0.0/24") == Found((plain("up0", "inside", "10.5.0.7"),))


def test_a_tap_is_known_by_the_route_to_its_guest_and_by_libvirt(host: Host, tmp_path: Path) -> None:
    host("tuntap add vnet0 mode tap")
    host("link set vnet0 up")
    host("route add 10.5.0.9/32 dev vnet0")
    assert host.found("10.5.0.0/24") == Found((plain("vnet0", "outside", "10.5.0.9"),))
    (tmp_path / "1.xml").write_text(
        "<domstatus><domain><name>db</name><uuid>u</uuid><devices><interface><target dev='vnet0'/></interface>"
        "</devices></domain></domstatus>"
    )
    [found] = host.found("10.5.0.0/24").candidates
    assert found.identity == "domain/u/vnet0"
    assert found.tags["Name"] == "db"
    assert found.tags["vnotch:interface"] == "vnet0"


def test_where_a_guest_cannot_be_entered_the_host_tells_of_it(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    from vnotch import candidates
    from vnotch.errors import KernelError

    host.instance("v1", "10.5.0.9/24")
    host("route add 10.5.0.9/32 dev v1")

    def refuse(path: str) -> Namespace:
        raise KernelError(f"entering {path}", 1)

    monkeypatch.setattr(candidates, "Namespace", refuse)
    assert host.found("10.5.0.0/24") == Found((plain("v1", "outside", "10.5.0.9"),), unreadable=1)

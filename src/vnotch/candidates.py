"""Interfaces that could become ENIs by themselves: those with an address in a subnet that is marked for it.

From outside: a veth or tap whose guest has such an address, by the guest's own end where its namespace can be entered,
else by a route to it, the neighbours or the bridge (`vnotch.links`). From inside: an interface that has such an address
itself. What is loopback is none, and neither is a bridge whose ports lead to others: it is their router, not an ENI.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Any

from vnotch.capture.guests import Guest, Guests, Peer
from vnotch.capture.interfaces import Namespace
from vnotch.errors import HostError, InputError
from vnotch.links import INSIDE, OUTSIDE, Host, Link
from vnotch.workloads import Workload, Workloads, interface

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

CANDIDATES_MAX = 1000
ADDRESSES_MAX = 16
"""As many as a report takes, and an interface in it."""


@dataclass(frozen=True)
class Candidate:
    device: str
    sense: str
    identity: str
    addresses: tuple[str, ...]
    tags: Mapping[str, str]
    mac: str | None = None
    """Of whoever is behind a bridge's port, where that is one alone: other unicast frames there are not its own."""

    @property
    def is_anonymous(self) -> bool:
        """Nobody is known to be behind it: it has the device's own name."""
        return self.identity == interface(self.device).identity

    def to_json(self) -> dict[str, Any]:
        return {
            "device": self.device,
            "sense": self.sense,
            "identity": self.identity,
            "addresses": list(self.addresses),
            "tags": dict(self.tags),
            "mac": self.mac,
        }


@dataclass(frozen=True)
class Found:
    """`omitted`: candidates beyond the bound; `unreadable`: guests whose namespace could not be entered."""

    candidates: tuple[Candidate, ...]
    omitted: int = 0
    unreadable: int = 0


def networks_of(cidrs: Iterable[str]) -> list[Network]:
    return [ip_network(cidr) for cidr in cidrs]


def find_candidates(namespace: Namespace, networks: list[Network], workloads: Workloads) -> Found:
    """The candidates of a namespace now, by device. Raises HostError where the kernel does not answer."""
    host = Host.read(namespace)
    senses = {link.name: host.sense_of(link).sense for link in host.links if link.kind != "loopback"}
    guests = [link for link in host.links if senses.get(link.name) == OUTSIDE]
    peers = Guests(namespace).behind([link.name for link in guests])
    routers = {link.master for link in guests if link.master is not None}
    bridges = {link.index for link in host.links if link.kind == "bridge"}
    found: list[Candidate] = []
    unreadable = 0
    for link in host.links:
        if link.name not in senses or link.index in routers:
            continue
        sense = senses[link.name]
        peer = peers.get(link.name) if sense == OUTSIDE else None
        end: _End | None = None
        if peer is not None and peer.guest is not None:
            end = _end_there(peer)
            unreadable += end is None
        if end is None:
            end = _end_seen(host, link, sense)
        addresses = [address for address in end.addresses if any(address in network for network in networks)]
        if addresses:
            workload = _workload(link, sense, peer, workloads)
            texts = tuple(map(str, addresses[:ADDRESSES_MAX]))
            mac = end.mac if link.master in bridges else None
            found.append(Candidate(link.name, sense, workload.identity, texts, workload.tags, mac))
    workloads.forget_others()
    found = _told_apart(found)
    return Found(tuple(found[:CANDIDATES_MAX]), max(0, len(found) - CANDIDATES_MAX), unreadable)


@dataclass(frozen=True)
class _End:
    """What is behind a link, or is the link. `mac`: the one address under which it sends and is sent to."""

    addresses: tuple[Address, ...] = ()
    mac: str | None = None


def _end_there(peer: Peer) -> _End | None:
    """What the guest's end has; None where it cannot be seen. An end without an address has none."""
    assert peer.guest is not None
    try:
        links = _links_of(peer.guest)
    except (HostError, InputError):
        return None
    for link in links:
        if link.index == peer.index:
            # Behind a bridge or on macvlans there are others, with MAC addresses of their own.
            is_shared = link.master is not None or link.is_promiscuous
            return _End(tuple(_ips(link)), None if is_shared else link.mac)
    return None


def _links_of(guest: Guest) -> tuple[Link, ...]:
    namespace = Namespace(guest.path)
    try:
        if namespace.inode != guest.inode:
            raise InputError(f"{guest.path} is another namespace by now")
        return Host.read(namespace).links
    finally:
        namespace.close()


def _end_seen(host: Host, link: Link, sense: str) -> _End:
    if sense == INSIDE:
        return _End(tuple(_ips(link)))
    try:
        known = host.addresses_of(link, sense)
    except InputError:
        return _End()
    return _End((known.primary.ip, *known.secondary, *(address.ip for address in known.ipv6)), known.mac)


def _ips(link: Link) -> Iterable[Address]:
    yield from (address.ip for address in link.addresses)
    yield from (address.ip for address in link.ipv6)


def _workload(link: Link, sense: str, peer: Peer | None, workloads: Workloads) -> Workload:
    found = None
    if sense == OUTSIDE and peer is not None and peer.guest is not None:
        found = workloads.of_namespace(peer.guest.inode)
    elif link.kind == "tap":
        found = workloads.of_tap(link.name)
    plain = interface(link.name)
    if found is None:
        return plain
    return Workload(found.identity, {**found.tags, "vnotch:interface": link.name})


def _told_apart(candidates: list[Candidate]) -> list[Candidate]:
    """A container with several interfaces has an ENI for each: the second and further are told by their networks'
    addresses, which stay the same when it comes back."""
    seen: set[str] = set()
    result = []
    for candidate in candidates:
        identity = candidate.identity
        if identity in seen:
            identity = f"{identity}/{candidate.addresses[0]}"
        seen.add(identity)
        result.append(replace(candidate, identity=identity))
    return result

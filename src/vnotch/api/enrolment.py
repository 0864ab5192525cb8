"""What an agent's report of candidates makes: interfaces and bindings in the subnets that are marked for it.

A report is the whole list of what the agent sees, so that the same report again changes nothing. An interface whose
device is in no report any more is unbound and deleted after a while, as AWS deletes the interface of an instance that
is terminated; its records stay. The agent's word counts for its own devices and in marked subnets, for nothing else:
addresses that are taken, groups, other interfaces and bindings are as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from vnotch.api import bindings
from vnotch.api.bindings import invalid
from vnotch.api.ec2.interfaces import delete_interface, enrolled_interface
from vnotch.api.ec2.part import INTERFACE
from vnotch.api.ec2.tags import checked, put_tags
from vnotch.api.service import ApiError
from vnotch.store import enrolment, network
from vnotch.store.enrolment import Enrolment

CANDIDATES_MAX = 1000
"""In one report, and interfaces that one agent may have enrolled."""
ADDRESSES_MAX = 16
TAGS_MAX = 16
IDENTITY_CHARACTERS = 128
GONE_SECONDS = 30
"""How long an interface stays after its device has gone: one that comes back meanwhile is the same one."""


@dataclass(frozen=True)
class Candidate:
    """`addresses` in the agent's order: the first IPv4 address in a marked subnet is the primary one. `mac`: see
    `network.Binding.guest_mac`; None where the agent cannot tell."""

    device: str
    sense: str
    identity: str
    addresses: tuple[IPv4Address | IPv6Address, ...]
    tags: tuple[tuple[str, str], ...]
    mac: str | None = None

    @classmethod
    def of(cls, item: Any) -> Candidate:
        """Raises ApiError, naming the member that is missing, unknown or wrong."""
        if not isinstance(item, Mapping) or set(item) - {"mac"} != {"device", "sense", "identity", "addresses", "tags"}:
            raise invalid("candidates: each has device, sense, identity, addresses and tags, and may have mac")
        identity, addresses, tags = item["identity"], item["addresses"], item["tags"]
        bindings.check_device(item["device"])
        if item["sense"] not in bindings.SENSES:
            raise invalid(f"sense is one of {', '.join(bindings.SENSES)}")
        if not isinstance(identity, str) or not re.fullmatch(rf"[!-~]{{1,{IDENTITY_CHARACTERS}}}", identity):
            raise invalid(f"identity has 1 to {IDENTITY_CHARACTERS} printable characters and no blank")
        if not isinstance(addresses, list) or len(addresses) > ADDRESSES_MAX:
            raise invalid(f"addresses is a list of at most {ADDRESSES_MAX}")
        if not isinstance(tags, Mapping) or len(tags) > TAGS_MAX or not all(isinstance(v, str) for v in tags.values()):
            raise invalid(f"tags is an object of at most {TAGS_MAX} strings")
        bindings.check_mac(item, "mac")
        pairs = checked({"Key": key, "Value": value} for key, value in tags.items())
        ips = tuple(map(_address, addresses))
        return cls(item["device"], item["sense"], identity, ips, tuple(pairs.items()), item.get("mac"))


def _address(text: Any) -> IPv4Address | IPv6Address:
    try:
        if isinstance(text, str):
            return ip_address(text)
    except ValueError:
        pass
    raise invalid(f"addresses: {text!r} is no address")


def candidates_of(body: Any) -> list[Candidate]:
    """Raises ApiError."""
    if not isinstance(body, Mapping) or set(body) != {"candidates"} or not isinstance(body["candidates"], list):
        raise invalid("the body is a JSON object with a list of candidates")
    if len(body["candidates"]) > CANDIDATES_MAX:
        raise invalid(f"there are at most {CANDIDATES_MAX} candidates")
    found = [Candidate.of(item) for item in body["candidates"]]
    for name in ("device", "identity"):
        if len({getattr(candidate, name) for candidate in found}) != len(found):
            raise invalid(f"candidates: no {name} occurs twice")
    return found


def enrol(session: Session, agent: str, candidates: Iterable[Candidate], now_ms: int) -> dict[str, Any]:
    """Brings the agent's enrolled interfaces to what it reports.

    -> what became of each candidate (its interface, or why there is none), and which interfaces leave, with the seconds
    until then. Raises ApiError where there is no such agent.
    """
    if session.get(network.Agent, agent) is None:
        raise bindings.not_found(f"there is no agent {agent}")
    return _Enrolling(session, agent, list(candidates), now_ms).run()


class _Enrolling:
    """One report."""

    def __init__(self, session: Session, agent: str, candidates: list[Candidate], now_ms: int) -> None:
        self._session = session
        self._agent = agent
        self._candidates = candidates
        self._now_ms = now_ms
        self._subnets = enrolment.marked_subnets(session, agent)
        self._known = {row.identity: row for row in enrolment.enrolments(session, agent)}

    def run(self) -> dict[str, Any]:
        interfaces, refused = [], []
        for candidate in self._candidates:
            try:
                with self._session.begin_nested():
                    interface_id = self._enrol(candidate)
                interfaces.append({"device": candidate.device, "interface_id": interface_id})
            except ApiError as error:
                self._known = {row.identity: row for row in enrolment.enrolments(self._session, self._agent)}
                refused.append({"device": candidate.device, "reason": error.message})
        return {"interfaces": interfaces, "refused": refused, "leaving": self._leave()}

    # Coming

    def _enrol(self, candidate: Candidate) -> str:
        subnet, primary, others = self._place(candidate)
        known = self._known.get(candidate.identity)
        if known is not None and self._is_same(known, subnet, primary):
            self._keep(known, candidate)
            return known.interface_id
        bound = self._binding_at(candidate.device)
        mine = {row.interface_id for row in self._known.values()}
        if bound is not None and bound.interface_id not in mine:
            raise ApiError("ConflictException", f"{candidate.device} is {bound.interface_id} already", 409)
        self._give_way(candidate, subnet, primary, known)
        return self._make(candidate, subnet, primary, others)

    def _place(self, candidate: Candidate) -> tuple[network.Subnet, IPv4Address, list[IPv4Address | IPv6Address]]:
        """-> (its subnet, its primary address, its other addresses in the subnet)"""
        found = [
            (subnet, address)
            for address in candidate.addresses
            for subnet in self._subnets
            if isinstance(address, IPv4Address) and address in IPv4Network(subnet.cidr)
        ]
        if not found:
            raise invalid("none of its IPv4 addresses is in a subnet that is marked for this agent")
        if len({subnet.subnet_id for subnet, _ in found}) > 1:
            raise invalid("its addresses are in several marked subnets")
        subnet, primary = found[0]
        others = [address for address in candidate.addresses if address != primary and _is_in(address, subnet)]
        return subnet, primary, others

    def _is_same(self, known: Enrolment, subnet: network.Subnet, primary: IPv4Address) -> bool:
        interface = self._interface(known)
        return interface.subnet_id == subnet.subnet_id and interface.addresses_of(4)[:1] == [str(primary)]

    def _keep(self, known: Enrolment, candidate: Candidate) -> None:
        """Nothing is changed that the report does not change: an administrator's tags and binding stay."""
        known.gone_ms = None
        binding = self._session.get(network.Binding, known.interface_id)
        if binding is None or known.device != candidate.device:
            self._free(candidate.device, known)
            known.device = candidate.device
            self._bind(known.interface_id, candidate)
        elif known.mac != candidate.mac:
            bindings.change_mac(self._session, binding, candidate.mac)
        known.mac = candidate.mac
        tags = dict(candidate.tags)
        if tags != known.tags:
            changed = {key: value for key, value in tags.items() if known.tags.get(key) != value}
            put_tags(self._session, INTERFACE, known.interface_id, changed)
            known.tags = tags

    def _give_way(
        self, candidate: Candidate, subnet: network.Subnet, primary: IPv4Address, known: Enrolment | None
    ) -> None:
        """What was here before leaves at once: the same identity with another address, and what had this device, or
        this address, and is not reported any more."""
        if known is not None:
            self._retire(known)
        self._free(candidate.device, None)
        reported = {other.identity for other in self._candidates}
        for row in list(self._known.values()):
            interface = self._interface(row)
            if (
                row.identity not in reported
                and interface.subnet_id == subnet.subnet_id
                and str(primary) in interface.addresses_of(4)
            ):
                self._retire(row)

    def _free(self, device: str, unless: Enrolment | None) -> None:
        for row in list(self._known.values()):
            if row is not unless and row.device == device:
                self._retire(row)

    def _make(
        self,
        candidate: Candidate,
        subnet: network.Subnet,
        primary: IPv4Address,
        others: list[IPv4Address | IPv6Address],
    ) -> str:
        if len(self._known) >= CANDIDATES_MAX:
            raise ApiError("LimitExceededException", f"an agent enrols at most {CANDIDATES_MAX} interfaces")
        interface = enrolled_interface(
            self._session,
            subnet,
            [str(primary), *map(str, others)],
            enrolment.groups_of(subnet),
            f"enrolled by {self._agent}",
            self._now_ms,
        )
        put_tags(self._session, INTERFACE, interface.interface_id, dict(candidate.tags))
        row = Enrolment(
            interface_id=interface.interface_id,
            agent=self._agent,
            device=candidate.device,
            identity=candidate.identity,
            tags=dict(candidate.tags),
            mac=candidate.mac,
        )
        self._session.add(row)
        self._bind(interface.interface_id, candidate)
        self._known[candidate.identity] = row
        return interface.interface_id

    def _bind(self, interface_id: str, candidate: Candidate) -> None:
        request = bindings.BindingRequest(self._agent, candidate.device, sense=candidate.sense, guest_mac=candidate.mac)
        bindings.bind(self._session, interface_id, request, self._now_ms)

    # Leaving

    def _leave(self) -> list[dict[str, Any]]:
        """An interface in a subnet that is marked no longer stays: it is the administrator's now."""
        reported = {candidate.identity for candidate in self._candidates}
        marked = {subnet.subnet_id for subnet in self._subnets}
        leaving = []
        for row in list(self._known.values()):
            if row.identity in reported or self._interface(row).subnet_id not in marked:
                continue
            if row.gone_ms is None:
                row.gone_ms = self._now_ms
            left_ms = row.gone_ms + GONE_SECONDS * 1000 - self._now_ms
            if left_ms <= 0:
                self._retire(row)
            else:
                seconds = -(-left_ms // 1000)
                leaving.append({"device": row.device, "interface_id": row.interface_id, "seconds": seconds})
        return leaving

    def _retire(self, row: Enrolment) -> None:
        del self._known[row.identity]
        interface = self._interface(row)
        if self._session.get(network.Binding, row.interface_id) is not None:
            bindings.unbind(self._session, row.interface_id)
        self._session.delete(row)
        self._session.flush()
        self._session.expire(interface)
        delete_interface(self._session, interface)

    # Reading

    def _interface(self, row: Enrolment) -> network.NetworkInterface:
        found: network.NetworkInterface = INTERFACE.find(self._session, row.interface_id)
        return found

    def _binding_at(self, device: str) -> network.Binding | None:
        row = network.Binding
        return self._session.scalar(select(row).where(row.agent == self._agent, row.device == device))


def _is_in(address: IPv4Address | IPv6Address, subnet: network.Subnet) -> bool:
    if isinstance(address, IPv4Address):
        return address in IPv4Network(subnet.cidr)
    return subnet.ipv6_cidr is not None and address in IPv6Network(subnet.ipv6_cidr)

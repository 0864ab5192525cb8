"""Why a packet would be accepted or rejected: each layer in order, in words.

The question is put to the same decision that judges packets (verdict.py), with no connection open: first the packet
that begins a connection, from its source's interface to its destination's, then, if it arrives, the answer to it.
Interfaces that are not in the configuration are outside: nothing is said of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any

from vnotch.connections import Connections
from vnotch.errors import InputError
from vnotch.explain.words import PROTOCOL_NAMES, Hop, hop_json, hop_of, lines, packet_text, protocol_text
from vnotch.flow import Direction, Outcome
from vnotch.inventory import AgentConfiguration, Interface
from vnotch.packet import ACK, ICMP_QUERIES, ICMPV6_QUERIES, SYN, Address, Packet
from vnotch.rules import (
    ALL_PROTOCOLS,
    ICMP,
    ICMP_PROTOCOLS,
    ICMPV6,
    LAST_PORT,
    PORT_PROTOCOLS,
    TCP,
    RuleBook,
)
from vnotch.verdict import ALWAYS_TRACKED_TYPES, Policy, Verdict, decide, policy

EPHEMERAL_PORT = 49_152
"""The client's port where none is given: the first dynamic port (RFC 6335), in the range of every client that AWS
lists."""


@dataclass(frozen=True)
class Explanation:
    """The way of a packet and of the answer to it. `reply` is empty where the packet does not arrive or has no answer.

    `outcome` is that of the packet, `reply_outcome` that of its answer (None: there is none).
    """

    question: str
    hops: tuple[Hop, ...]
    reply: tuple[Hop, ...]

    @property
    def outcome(self) -> Outcome:
        return self.hops[-1].verdict.outcome

    @property
    def reply_outcome(self) -> Outcome | None:
        return self.reply[-1].verdict.outcome if self.reply else None

    @property
    def text(self) -> str:
        """Lines for a terminal."""
        found = [self.question, *lines(self.hops)]
        if self.reply:
            found += ["The answer:", *lines(self.reply)]
        return "\n".join(found)

    def to_json(self) -> dict[str, Any]:
        reply = self.reply_outcome
        return {
            "question": self.question,
            "outcome": self.outcome.name,
            "reply_outcome": None if reply is None else reply.name,
            "hops": [hop_json(hop) for hop in self.hops],
            "reply": [hop_json(hop) for hop in self.reply],
        }


def explain(
    configuration: AgentConfiguration,
    source: str,
    destination: str,
    port: int | None = None,
    protocol: str | int = "tcp",
    *,
    source_port: int = EPHEMERAL_PORT,
    icmp_type: int | None = None,
    icmp_code: int = 0,
) -> Explanation:
    """Explains what becomes of a packet that opens a connection, and of its answer.

    `source` and `destination` are addresses, or ids of interfaces or instances of the configuration, which stand for
    their primary address. `port` is the destination's, for TCP and UDP. `protocol` is a name (tcp, udp, icmp, icmpv6)
    or an IANA number; ICMP is an echo request unless a type is given. Raises InputError where the question is not clear
    or neither end is an interface of the configuration.
    """
    ends = _addresses(configuration, source, destination)
    packet = _packet(*ends, _protocol_number(protocol, ends[0]), port, source_port, icmp_type, icmp_code)
    sender, receiver = _interfaces(configuration, *ends)
    policies = {
        interface.interface_id: interface_policy(interface, configuration.rules, slot=slot)
        for slot, interface in enumerate(dict.fromkeys(end for end in (sender, receiver) if end), start=1)
    }
    connections: Connections[Verdict] = Connections()
    hops = tuple(_way(packet, sender, receiver, policies, configuration.rules, connections))
    answer = _answer(packet)
    reply: tuple[Hop, ...] = ()
    if answer is not None and hops[-1].verdict.outcome is Outcome.ACCEPT:
        reply = tuple(_way(answer, receiver, sender, policies, configuration.rules, connections))
    return Explanation(packet_text(packet), hops, reply)


def interface_policy(interface: Interface, rules: RuleBook, *, slot: int = 0, adopt: bool = False) -> Policy:
    """The policy by which packets of the interface are judged. Raises InputError where the rule book lacks a part."""
    return policy(
        rules,
        slot=slot,
        group_ids=interface.group_ids,
        network_acl_id=interface.network_acl_id,
        vpc_cidrs=interface.vpc_cidrs,
        subnet_cidrs=interface.subnet_cidrs,
        reserved_addresses=interface.reserved_addresses,
        enforce=interface.enforce,
        adopt=adopt,
        always_tracked=interface.interface_type in ALWAYS_TRACKED_TYPES,
    )


# ---- The question ----------------------------------------------------------------------------------------------------


def _addresses(configuration: AgentConfiguration, source: str, destination: str) -> tuple[Address, Address]:
    sources = _candidates(configuration, source, "source")
    destinations = _candidates(configuration, destination, "destination")
    pairs = [(left, right) for left in sources for right in destinations if left.version == right.version]
    if not pairs:
        raise InputError(f"{source} and {destination} have no IP version in common")
    if pairs[0][0] == pairs[0][1]:
        raise InputError(f"{source} and {destination} are the same address: such a packet never leaves its host")
    return pairs[0]


def _candidates(configuration: AgentConfiguration, name: str, what: str) -> list[Address]:
    """The address itself, or the first of each family of the named interface, IPv4 first."""
    if name.startswith(("eni-", "i-")):
        named = [item for item in configuration.interfaces if name in (item.interface_id, item.instance_id)]
        if not named:
            raise InputError(f"{what}: no interface here is, or belongs to, {name}")
        return [ip_address(text) for text in (*named[0].private_ipv4[:1], *named[0].ipv6[:1])]
    try:
        return [ip_address(name)]
    except ValueError as error:
        raise InputError(f"{what}: {name!r} is not an IP address, nor the id of an interface or instance") from error


def _interfaces(
    configuration: AgentConfiguration, source: Address, destination: Address
) -> tuple[Interface | None, Interface | None]:
    """The interfaces that have the addresses; where VPCs have the same addresses, two of one VPC."""
    owners = [
        [item for item in configuration.interfaces if str(address) in (*item.private_ipv4, *item.ipv6)]
        for address in (source, destination)
    ]
    pairs: list[tuple[Interface | None, Interface | None]] = [
        (sender, receiver) for sender in owners[0] for receiver in owners[1] if sender.vpc_id == receiver.vpc_id
    ]
    if not pairs:
        pairs = [(sender, None) for sender in owners[0]] + [(None, receiver) for receiver in owners[1]]
        if owners[0] and owners[1]:
            pairs = [(owners[0][0], owners[1][0])]
    if not pairs:
        raise InputError(f"neither {source} nor {destination} is the address of an interface here")
    if len(pairs) > 1:
        ids = sorted({item.interface_id for pair in pairs for item in pair if item is not None})
        raise InputError(f"{source} to {destination} fits several interfaces: {', '.join(ids)}")
    return pairs[0]


def _protocol_number(protocol: str | int, address: Address) -> int:
    names = {name: number for number, name in PROTOCOL_NAMES.items() if number != ALL_PROTOCOLS}
    text = str(protocol).lower()
    if text == "icmp" and address.version == 6:
        return ICMPV6
    number = names.get(text, int(text) if text.isdecimal() else -1)
    if not 0 <= number <= 255:
        raise InputError(f"protocol: {protocol!r} is neither {', '.join(sorted(names))} nor a number from 0 to 255")
    if number in ICMP_PROTOCOLS and (number == ICMP) != (address.version == 4):
        raise InputError(f"protocol: {PROTOCOL_NAMES[number]} does not go with {address}")
    return number


def _packet(
    source: Address,
    destination: Address,
    protocol: int,
    port: int | None,
    source_port: int,
    icmp_type: int | None,
    icmp_code: int,
) -> Packet:
    packet = Packet(Direction.EGRESS, source, destination, protocol)
    if protocol in PORT_PROTOCOLS:
        if port is None:
            raise InputError(f"port: {PROTOCOL_NAMES[protocol]} needs the destination's port")
        for name, value in (("port", port), ("source port", source_port)):
            if not 0 <= value <= LAST_PORT:
                raise InputError(f"{name}: {value} is not from 0 to {LAST_PORT}")
        flags = SYN if protocol == TCP else 0
        return replace(packet, source_port=source_port, destination_port=port, tcp_flags=flags)
    if port is not None:
        raise InputError(f"port: {protocol_text(protocol)} has no ports")
    if protocol not in ICMP_PROTOCOLS:
        return packet
    kind = icmp_type if icmp_type is not None else (8 if protocol == ICMP else 128)
    for name, value in (("ICMP type", kind), ("ICMP code", icmp_code)):
        if not 0 <= value <= 255:
            raise InputError(f"{name}: {value} is not from 0 to 255")
    return replace(packet, icmp_type=kind, icmp_code=icmp_code, icmp_id=1)


def _answer(packet: Packet) -> Packet | None:
    """What the destination sends back; None where nothing answers."""
    back = replace(
        packet,
        source=packet.destination,
        destination=packet.source,
        source_port=packet.destination_port,
        destination_port=packet.source_port,
        tcp_flags=SYN | ACK if packet.protocol == TCP else 0,
    )
    if packet.protocol in ICMP_PROTOCOLS:
        reply = (ICMP_QUERIES if packet.protocol == ICMP else ICMPV6_QUERIES).get(packet.icmp_type)
        return None if reply is None else replace(back, icmp_type=reply, icmp_code=0)
    return back


def _way(
    packet: Packet,
    sender: Interface | None,
    receiver: Interface | None,
    policies: dict[str, Policy],
    rules: RuleBook,
    connections: Connections[Verdict],
) -> Iterator[Hop]:
    """The packet at its sender's interface, then, if it gets that far, at its receiver's."""
    for interface, direction in ((sender, Direction.EGRESS), (receiver, Direction.INGRESS)):
        if interface is None:
            continue
        there = replace(packet, direction=direction)
        verdict = decide(there, policies[interface.interface_id], connections, 0)
        yield hop_of(interface, there, verdict, rules)
        if verdict.outcome is Outcome.REJECT:
            return

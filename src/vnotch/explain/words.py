"""The words of an explanation: what each layer says of a packet at one interface."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vnotch.connections import connection_key
from vnotch.deciders import Layer
from vnotch.flow import Direction, Exclusion, Outcome
from vnotch.inventory import Interface
from vnotch.packet import Packet
from vnotch.rules import (
    ALL_PROTOCOLS,
    ANY,
    ICMP,
    ICMP_PROTOCOLS,
    ICMPV6,
    PORT_PROTOCOLS,
    TCP,
    UDP,
    AclEntry,
    RuleBook,
    SecurityGroupRule,
)
from vnotch.verdict import Finding, Reason, Verdict

PROTOCOL_NAMES = {ALL_PROTOCOLS: "all protocols", ICMP: "icmp", TCP: "tcp", UDP: "udp", ICMPV6: "icmpv6"}
EXCLUSION_TEXTS = {
    Exclusion.NEIGHBOUR_DISCOVERY: "IPv6 neighbour discovery",
    Exclusion.MULTICAST: "multicast or broadcast",
    Exclusion.DNS: "traffic of the Amazon DNS server",
    Exclusion.ACTIVATION: "Windows licence activation",
    Exclusion.METADATA: "instance metadata",
    Exclusion.TIME: "the Amazon Time Sync Service",
    Exclusion.DHCP: "DHCP",
    Exclusion.ROUTER: "traffic of the VPC's router",
}


@dataclass(frozen=True)
class Step:
    """What one layer says at one interface. `allows` None: it was not asked. `reached` False: an earlier layer had
    denied."""

    layer: Layer
    allows: bool | None
    rule_id: str | None
    reached: bool
    text: str


@dataclass(frozen=True)
class Hop:
    """The packet at one interface, in one direction."""

    interface_id: str
    direction: Direction
    packet: Packet
    verdict: Verdict
    steps: tuple[Step, ...]
    text: str


def hop_of(interface: Interface, packet: Packet, verdict: Verdict, rules: RuleBook) -> Hop:
    steps, denied = [], False
    for finding in verdict.findings:
        text = _finding_text(finding, interface, packet, rules)
        steps.append(Step(finding.layer, finding.allows, finding.rule_id, not denied, text))
        denied = denied or finding.allows is False
    return Hop(
        interface.interface_id, packet.direction, packet, verdict, tuple(steps), _verdict_text(interface, verdict)
    )


def _verdict_text(interface: Interface, verdict: Verdict) -> str:
    if verdict.exclusion is not None:
        what = EXCLUSION_TEXTS.get(verdict.exclusion, verdict.exclusion.name.lower())
        return f"EXCLUDED: {what} is never filtered and never recorded"
    assert verdict.decider is not None  # every judged packet has one
    name = f" {verdict.decider.rule_id}" if verdict.decider.rule_id else ""
    label = "; it is only labelled, the interface does not enforce" if not interface.enforce else ""
    text = f"{verdict.outcome.name} by {verdict.decider.layer}{name}"
    return text + label if verdict.outcome is Outcome.REJECT else text


def _finding_text(finding: Finding, interface: Interface, packet: Packet, rules: RuleBook) -> str:
    inbound = packet.direction is Direction.INGRESS
    way = "inbound" if inbound else "outbound"
    groups = ", ".join(sorted(interface.group_ids or ()))
    what = f"{_service_text(packet)} {'from' if inbound else 'to'} {packet.remote}"
    rule_id = finding.rule_id
    match finding.reason:
        case Reason.NO_GROUPS:
            return "security group: the interface has none, everything passes"
        case Reason.CONNECTION:
            return f"security group: the packet belongs to the connection that {rule_id} opened, no rule is asked"
        case Reason.QUOTED:
            return f"security group: the error is about the connection that {rule_id} opened, no rule is asked"
        case Reason.NO_RULE:
            return f"security group {groups}: no {way} rule allows {what}"
        case Reason.NO_CONNECTION:
            return f"security group {groups}: {rule_id} allows the service, but the packet belongs to no connection"
        case Reason.RULE:
            text = f"security group {_rule_text(rules, rule_id)}"
            if finding.untracked:
                return f"{text}; not tracked, the answer needs a rule of its own"
            return text if connection_key(0, packet, packet.direction) is None else f"{text}; tracked"
        case Reason.NO_ACL:
            return "network ACL: the subnet has none, everything passes"
        case Reason.INSIDE:
            return f"network ACL {interface.network_acl_id}: not asked, {packet.remote} is inside the subnet"
        case Reason.NO_ENTRY:
            return f"network ACL {interface.network_acl_id}: no {way} entry matches {what}, the final * denies it"
        case Reason.ENTRY:
            return f"network ACL {interface.network_acl_id}: {_entry_text(rules, interface.network_acl_id, rule_id)}"
        case Reason.TABLE_FULL:
            return "connection tracking: the table of connections is full"


def _rule_text(rules: RuleBook, rule_id: str | None) -> str:
    for group in rules.security_groups:
        for rule in group.rules:
            if rule.rule_id == rule_id:
                way = "outbound" if rule.egress else "inbound"
                return f"{group.group_id}: {way} rule {rule_id} allows {_scope(rule)}"
    raise AssertionError(rule_id)  # the verdict named a rule of this book


def _entry_text(rules: RuleBook, acl_id: str | None, name: str | None) -> str:
    assert acl_id is not None  # an entry of it decided
    assert name is not None
    _, way, number = name.split("/")
    for entry in rules.network_acl(acl_id).entries:
        if entry.rule_number == int(number) and entry.egress == (way == "egress"):
            side = "outbound" if entry.egress else "inbound"
            return f"{side} entry {number} {'allows' if entry.allow else 'denies'} {_scope(entry)}"
    raise AssertionError(name)


def _scope(item: SecurityGroupRule | AclEntry) -> str:
    """`tcp 22 from 203.0.113.0/24`"""
    if isinstance(item, AclEntry):
        peer, icmp = item.cidr, (item.icmp_type, item.icmp_code)
    else:
        peer = next(text for text in (item.cidr, item.group_id, item.prefix_list_id) if text is not None)
        icmp = (item.from_port, item.to_port)
    text = protocol_text(item.protocol)
    if item.protocol in PORT_PROTOCOLS:
        if item.covers_all_ports:
            text += ", all ports,"
        else:
            text += f" {item.from_port}" + (f"-{item.to_port}" if item.to_port != item.from_port else "")
    elif item.protocol in ICMP_PROTOCOLS and icmp[0] != ANY:
        text += f" type {icmp[0]}" + (f" code {icmp[1]}" if icmp[1] != ANY else "")
    return f"{text} {'to' if item.egress else 'from'} {peer}"


def protocol_text(protocol: int) -> str:
    return PROTOCOL_NAMES.get(protocol, f"protocol {protocol}")


def _service_text(packet: Packet) -> str:
    name = protocol_text(packet.protocol)
    if packet.protocol in PORT_PROTOCOLS:
        return f"{name} {packet.destination_port}"
    if packet.protocol in ICMP_PROTOCOLS:
        return f"{name} type {packet.icmp_type} code {packet.icmp_code}"
    return name


def packet_text(packet: Packet) -> str:
    if packet.protocol not in PORT_PROTOCOLS:
        return f"{_service_text(packet)}, {packet.source} to {packet.destination}"
    source, destination = (
        f"[{address}]" if address.version == 6 else str(address) for address in (packet.source, packet.destination)
    )
    ports = packet.source_port, packet.destination_port
    return f"{protocol_text(packet.protocol)}, {source}:{ports[0]} to {destination}:{ports[1]}"


def lines(hops: tuple[Hop, ...]) -> Iterator[str]:
    for hop in hops:
        yield f"  {hop.interface_id}, {hop.direction.name.lower()}"
        for number, step in enumerate(hop.steps, start=1):
            yield f"    {number}. {step.text}" + ("" if step.reached else " (not reached)")
        yield f"    {hop.text}"


def hop_json(hop: Hop) -> dict[str, Any]:
    decider = hop.verdict.decider
    return {
        "interface_id": hop.interface_id,
        "direction": hop.direction.name.lower(),
        "outcome": hop.verdict.outcome.name,
        "layer": None if decider is None else decider.layer.value,
        "rule_id": None if decider is None else decider.rule_id,
        "text": hop.text,
        "steps": [
            {
                "layer": step.layer.value,
                "allows": step.allows,
                "rule_id": step.rule_id,
                "reached": step.reached,
                "text": step.text,
            }
            for step in hop.steps
        ],
    }

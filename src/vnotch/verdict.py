"""ACCEPT or REJECT: what security groups and network ACLs make of one packet, and which of their entries decided.

This is the decision in its pure form, for captures, for `vnotch explain` and as the specification of what the datapath
does with maps; tests hold the two to each other packet by packet. AWS: VPC user guide, "Security group rules" and
"Control subnet traffic with network ACLs"; EC2 user guide, "Amazon EC2 security group connection tracking".

**Order of checks for a packet at an interface**

0. A later fragment whose first fragment is remembered (connections.py) gets that one's verdict; nothing else is done.
1. Excluded traffic (packet.exclusion) is not judged: EXCLUDED. It opens nothing and is never dropped, but malformed IP,
   which is dropped where rules are enforced.
2. Ingress: network ACL, then security group. Egress: security group, then network ACL. The first layer that denies
   decides.
3. A packet that both let pass and that opens a connection needs room in the table: if there is none, REJECT (`tracked`,
   no rule), counted.
4. An accepted packet makes, replaces or advances its entry. A rejected one changes nothing.
5. A first fragment's verdict is remembered for the later ones, whatever it is.

**Network ACL.** Not asked if the interface has none, or if the other end (the source of what comes in, the destination
of what goes out) is in one of the subnet's CIDRs or link-local. Else the first entry of the direction, by number, that
matches; none: the final `*` denies. An entry matches if its protocol is -1 or the packet's, its CIDR holds the other
end, and, for TCP and UDP, its ports hold the destination port; for ICMP and ICMPv6, its type is -1 or the packet's, and
its code likewise.

**Security group.** Not asked if the interface has none (`groups` is None). Else:
1. A live connection under the packet's key: a TCP packet with SYN and without ACK in a state from ESTABLISHED on is a
   new connection, go to 3. Any other packet: allowed by the connection; it will advance it.
2. An ICMP error that quotes a packet of a live connection (connections.quoted_key): allowed by the connection.
3. The rules of the direction, of all groups, that match: as an ACL entry does, with the peer's networks in place of the
   CIDR. None: denied, in the name of the group with the lowest id. Else the matching rule with the lowest id gives its
   name, and
   a. a later fragment without ports: allowed, opens nothing;
   b. untracked (below): allowed, opens nothing; a TCP SYN removes the old entry under its key, if there is one;
   c. TCP other than SYN without ACK: it belongs to no connection. Denied in the name of (`tracked`, that rule), unless
      the interface is taking connections over (`adopt`) and it has no RST: then it opens one;
   d. ICMP and ICMPv6 other than queries: allowed, opens nothing;
   e. else: allowed, opens a connection (in its first state, by this direction, with this rule's id; over an old entry).

A later fragment without ports, in both layers, matches only what covers all ports (or all ICMP types) of its protocol.

**Untracked** is TCP and UDP of an interface that is not `always_tracked`, if both of these hold (a rule is open if one
of its peer's networks is the whole family, 0.0.0.0/0 or ::/0, the packet's):
- (a) an open rule of the packet's direction matches it, and the other direction has an open rule for the protocol and
  all ports 0-65535; or (b) the same for the packet turned round, as a reply: an open rule of the other direction
  matches it with source and destination exchanged, and its own direction has an open rule for the protocol and all
  ports;
- a rule of its own direction allows it (step 3 was reached).
So no entry ever stands behind an untracked packet, and when a rule goes, it is cut; a tracked connection lives on.

**Names.** A REJECT names the first layer that denied and its entry. An ACCEPT names the security group rule that opened
the connection: layer `security-group` in the direction that opened it, `tracked` for replies and for ICMP errors;
without a security group the ACL's entry; without either layer `default` and no rule. Of several matching rules the
lowest id (compared as text). Excluded packets name nothing.

**Not modelled.** AWS always tracks some connections by their path (through a NAT gateway, an egress-only internet
gateway, Global Accelerator ...); here that is known only of the interface itself (`always_tracked`).

**adopt** is for an interface that had traffic before its capture began: without it, enforcing would cut every
connection whose replies need tracking. The agent sets it when it attaches an interface for which it holds no
connections, and clears it when the interface's rules first change, at the latest after ADOPTION_SECONDS.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, TypeAlias

from vnotch.connections import Connection, ConnectionKey, Connections, TcpState, connection_key, quoted_key
from vnotch.deciders import Decider, Layer
from vnotch.errors import InputError
from vnotch.flow import Direction, Exclusion, Outcome
from vnotch.packet import ICMP_QUERIES, ICMPV6_QUERIES, RST, Address, Fragment, Packet, Reserved, exclusion
from vnotch.rules import (
    ALL_PROTOCOLS,
    ANY,
    ICMP,
    ICMP_PROTOCOLS,
    PORT_PROTOCOLS,
    TCP,
    AclEntry,
    NetworkAcl,
    RuleBook,
    SecurityGroupRule,
    acl_entry_id,
)

ADOPTION_SECONDS = 600
ALWAYS_TRACKED_TYPES = frozenset({"network_load_balancer", "vpc_endpoint"})
"""Interface types whose connections AWS tracks automatically (of those that have security groups)."""

LINK_LOCAL = ("169.254.0.0/16", "fe80::/10")
"""No router passes these on (RFC 3927, RFC 4291): they are inside every subnet."""

Network: TypeAlias = IPv4Network | IPv6Network


class Reason(Enum):
    """Why a layer allowed, denied or was not asked."""

    RULE = "a rule of a security group allows it"
    CONNECTION = "it belongs to a connection that a rule let begin"
    QUOTED = "it is an ICMP error about a connection that a rule let begin"
    NO_RULE = "no rule of its security groups allows it"
    NO_CONNECTION = "a rule allows the service, but the packet belongs to no open connection"
    NO_GROUPS = "the interface has no security group"
    ENTRY = "an entry of the network ACL decides"
    NO_ENTRY = "no entry of the network ACL matches"
    NO_ACL = "the interface's subnet has no network ACL"
    INSIDE = "the other end is in the same subnet"
    TABLE_FULL = "the table of connections is full"


@dataclass(frozen=True)
class Finding:
    """What one layer says. `allows` is None where it was not asked; `untracked` where its rule leaves no connection."""

    layer: Layer
    allows: bool | None
    reason: Reason
    rule_id: str | None = None
    untracked: bool = False


@dataclass(frozen=True)
class Verdict:
    """What becomes of a packet. `findings` has every layer in the order of asking; those behind the first that denied
    say what they would have said. `exclusion` is set and `decider` None where the outcome is EXCLUDED."""

    outcome: Outcome
    decider: Decider | None
    drop: bool
    findings: tuple[Finding, ...] = ()
    exclusion: Exclusion | None = None


@dataclass(frozen=True)
class PreparedRule:
    """A rule with its peer's networks of now."""

    rule: SecurityGroupRule
    networks: tuple[Network, ...]

    def matches(self, packet: Packet) -> bool:
        rule = self.rule
        return (
            rule.protocol in (ALL_PROTOCOLS, packet.protocol)
            and _holds(self.networks, packet.remote)
            and _ports_match(packet, rule.protocol, rule.covers_all_ports, (rule.from_port, rule.to_port))
        )

    def is_open(self, version: int) -> bool:
        """Whether the peer is everywhere, in this IP version."""
        return any(network.version == version and network.prefixlen == 0 for network in self.networks)


@dataclass(frozen=True)
class Policy:
    """What one interface is judged by, prepared. Make it with `policy`."""

    slot: int
    group_ids: tuple[str, ...] | None
    rules: Mapping[Direction, tuple[PreparedRule, ...]]
    """By direction, the rules of all groups, lowest id first."""
    acl: NetworkAcl | None
    entries: Mapping[Direction, tuple[tuple[AclEntry, Network], ...]]
    """By direction, lowest number first."""
    inside: tuple[Network, ...]
    reserved: Reserved = field(default_factory=Reserved)
    enforce: bool = False
    adopt: bool = False
    always_tracked: bool = False


def policy(
    book: RuleBook,
    *,
    slot: int = 0,
    group_ids: Iterable[str] | None = None,
    network_acl_id: str | None = None,
    vpc_cidrs: tuple[str, ...] = (),
    subnet_cidrs: tuple[str, ...] = (),
    reserved_addresses: bool = True,
    enforce: bool = False,
    adopt: bool = False,
    always_tracked: bool = False,
) -> Policy:
    """The policy of an interface with these security groups and this ACL. Raises InputError where the book lacks
    one."""
    ids = None if group_ids is None else tuple(sorted(group_ids))
    if ids == ():
        raise InputError("group_ids: an interface has at least one security group, or None")
    rules = [PreparedRule(rule, _networks(book.peer_cidrs(rule))) for rule in _rules_of(book, ids or ())]
    rules.sort(key=lambda prepared: prepared.rule.rule_id)
    acl = None if network_acl_id is None else book.network_acl(network_acl_id)
    entries = sorted(acl.entries if acl else (), key=lambda entry: entry.rule_number)
    return Policy(
        slot=slot,
        group_ids=ids,
        rules={way: tuple(rule for rule in rules if rule.rule.egress == bool(way)) for way in Direction},
        acl=acl,
        entries={
            way: tuple((entry, ip_network(entry.cidr)) for entry in entries if entry.egress == bool(way))
            for way in Direction
        },
        inside=_networks((*subnet_cidrs, *LINK_LOCAL)),
        reserved=Reserved.of(vpc_cidrs, subnet_cidrs) if reserved_addresses else Reserved(),
        enforce=enforce,
        adopt=adopt,
        always_tracked=always_tracked,
    )


def decide(packet: Packet, policy: Policy, connections: Connections[Verdict], now_ns: int) -> Verdict:
    """The verdict on a packet; `connections` takes in what the packet does to it (see above)."""
    if packet.exclusion is None and packet.fragment is Fragment.LATER:
        known = connections.find_fragment(policy.slot, packet, now_ns)
        if known is not None:
            return known
    reason = exclusion(packet, policy.reserved)
    if reason is not None:
        drop = policy.enforce and reason is Exclusion.MALFORMED
        verdict = Verdict(Outcome.EXCLUDED, None, drop, exclusion=reason)
    else:
        verdict = _judge(packet, policy, connections, now_ns)
    if packet.exclusion is None and packet.fragment is Fragment.FIRST:
        connections.keep_fragment(policy.slot, packet, verdict, now_ns)
    return verdict


def _judge(packet: Packet, policy: Policy, connections: Connections[Verdict], now_ns: int) -> Verdict:
    key = connection_key(policy.slot, packet, packet.direction)
    group, decider, use = _ask_groups(packet, policy, connections, key, now_ns)
    acl = _ask_acl(packet, policy)
    findings = [acl, group] if packet.direction is Direction.INGRESS else [group, acl]
    for finding in findings:
        if finding.allows is False:
            denier = decider if finding is group and decider else Decider(finding.layer, finding.rule_id)
            return Verdict(Outcome.REJECT, denier, policy.enforce, tuple(findings))
    if isinstance(use, Connection):
        use.advance(packet, now_ns)
    elif use is _Use.OPEN and key is not None and decider is not None and decider.rule_id is not None:
        if not connections.open(key, packet, decider.rule_id, now_ns):
            findings.append(Finding(Layer.TRACKED, False, Reason.TABLE_FULL))
            return Verdict(Outcome.REJECT, Decider(Layer.TRACKED), policy.enforce, tuple(findings))
    elif use is _Use.REPLACE and key is not None:
        connections.remove(key)
    if decider is None:
        decider = Decider(Layer.NETWORK_ACL, acl.rule_id) if acl.allows else Decider(Layer.DEFAULT)
    return Verdict(Outcome.ACCEPT, decider, False, tuple(findings))


# ---- Security groups -------------------------------------------------------------------------------------------------


class _Use(Enum):
    """What an accepted packet does to the table, where it does not advance an entry."""

    NOTHING = 0
    OPEN = 1
    REPLACE = 2
    """An untracked SYN removes what stood under its key."""


_Groups: TypeAlias = tuple[Finding, Decider | None, "Connection | _Use"]


def _ask_groups(
    packet: Packet, policy: Policy, connections: Connections[Any], key: ConnectionKey | None, now_ns: int
) -> _Groups:
    layer = Layer.SECURITY_GROUP
    if policy.group_ids is None:
        return Finding(layer, None, Reason.NO_GROUPS), None, _Use.NOTHING
    entry = connections.find(key, now_ns)
    if entry is not None and not (packet.opens and entry.state >= TcpState.ESTABLISHED):
        side = layer if packet.direction is entry.opened_by else Layer.TRACKED
        return Finding(layer, True, Reason.CONNECTION, entry.rule_id), Decider(side, entry.rule_id), entry
    about = connections.find(quoted_key(policy.slot, packet), now_ns)
    if about is not None:
        found = Finding(layer, True, Reason.QUOTED, about.rule_id)
        return found, Decider(Layer.TRACKED, about.rule_id), _Use.NOTHING
    rule_id = next((rule.rule.rule_id for rule in policy.rules[packet.direction] if rule.matches(packet)), None)
    if rule_id is None:
        return Finding(layer, False, Reason.NO_RULE, policy.group_ids[0]), None, _Use.NOTHING
    untracked = _is_untracked(packet, policy)
    if untracked:
        use = _Use.REPLACE if packet.opens else _Use.NOTHING
    elif packet.lacks_ports or not _opens_connection(packet):
        use = _Use.NOTHING
    elif packet.protocol == TCP and not packet.opens and (not policy.adopt or packet.tcp_flags & RST):
        denied = Finding(layer, False, Reason.NO_CONNECTION, rule_id)
        return denied, Decider(Layer.TRACKED, rule_id), _Use.NOTHING
    else:
        use = _Use.OPEN
    return Finding(layer, True, Reason.RULE, rule_id, untracked), Decider(layer, rule_id), use


def _opens_connection(packet: Packet) -> bool:
    """Whether packets of its kind can have an answer: of ICMP, queries alone."""
    if packet.protocol not in ICMP_PROTOCOLS:
        return True
    return packet.icmp_type in (ICMP_QUERIES if packet.protocol == ICMP else ICMPV6_QUERIES)


def _is_untracked(packet: Packet, policy: Policy) -> bool:
    """See the top of this file. A packet without ports is neither: it opens nothing anyway."""
    if packet.protocol not in PORT_PROTOCOLS or packet.lacks_ports or policy.always_tracked:
        return False
    back = Packet(
        direction=Direction(1 - packet.direction),
        source=packet.destination,
        destination=packet.source,
        protocol=packet.protocol,
        source_port=packet.destination_port,
        destination_port=packet.source_port,
    )
    return _is_open_request(packet, policy) or _is_open_request(back, policy)


def _is_open_request(packet: Packet, policy: Policy) -> bool:
    version = packet.remote.version
    return any(rule.is_open(version) and rule.matches(packet) for rule in policy.rules[packet.direction]) and any(
        rule.is_open(version) and rule.rule.protocol in (ALL_PROTOCOLS, packet.protocol) and rule.rule.covers_all_ports
        for rule in policy.rules[Direction(1 - packet.direction)]
    )


def _rules_of(book: RuleBook, group_ids: Iterable[str]) -> Iterator[SecurityGroupRule]:
    for group_id in group_ids:
        yield from book.security_group(group_id).rules


# ---- Network ACLs ----------------------------------------------------------------------------------------------------


def _ask_acl(packet: Packet, policy: Policy) -> Finding:
    layer = Layer.NETWORK_ACL
    if policy.acl is None:
        return Finding(layer, None, Reason.NO_ACL)
    if _holds(policy.inside, packet.remote):
        return Finding(layer, None, Reason.INSIDE)
    egress = packet.direction is Direction.EGRESS
    for entry, network in policy.entries[packet.direction]:
        is_icmp = entry.protocol in ICMP_PROTOCOLS
        numbers = (entry.icmp_type, entry.icmp_code) if is_icmp else (entry.from_port, entry.to_port)
        if (
            entry.protocol in (ALL_PROTOCOLS, packet.protocol)
            and _holds((network,), packet.remote)
            and _ports_match(packet, entry.protocol, entry.covers_all_ports, numbers)
        ):
            name = acl_entry_id(policy.acl.acl_id, egress, entry.rule_number)
            return Finding(layer, entry.allow, Reason.ENTRY, name)
    return Finding(layer, False, Reason.NO_ENTRY, acl_entry_id(policy.acl.acl_id, egress, None))


# ---- What both layers match by ---------------------------------------------------------------------------------------


def _networks(cidrs: Iterable[str]) -> tuple[Network, ...]:
    return tuple(ip_network(cidr) for cidr in cidrs)


def _holds(networks: Iterable[Network], address: Address) -> bool:
    return any(address in network for network in networks)


def _ports_match(packet: Packet, protocol: int, covers_all: bool, numbers: tuple[int, int]) -> bool:
    """`numbers`: the port range, or the ICMP type and code, of a rule or entry for this protocol."""
    if covers_all:
        return True
    if packet.lacks_ports:
        return False
    if protocol in ICMP_PROTOCOLS:
        return numbers[0] == packet.icmp_type and numbers[1] in (ANY, packet.icmp_code)
    return numbers[0] <= packet.destination_port <= numbers[1]

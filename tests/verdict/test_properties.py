"""What must hold of any rules and any packets."""

from __future__ import annotations

import copy
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any, TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st
from verdict_worlds import (
    LISTS,
    MEMBERS,
    acls,
    book,
    group_rules,
    interface,
    packets,
    policy_with,
    unnamed_rules,
)

from vnotch.connections import Connections, Timeouts, connection_key
from vnotch.deciders import Layer
from vnotch.explain import explain, interface_policy
from vnotch.flow import Direction, Exclusion, Outcome
from vnotch.inventory import AgentConfiguration
from vnotch.packet import ACK, ICMP_QUERIES, SYN, Fragment, Packet, exclusion
from vnotch.rules import NetworkAcl, SecurityGroup, SecurityGroupRule
from vnotch.verdict import Policy, Reason, Verdict, decide

SECOND = 1_000_000_000
T = TypeVar("T")


def judged(packet: Packet, policy: Policy) -> Verdict:
    return decide(packet, policy, Connections(), 0)


# ---- Matching, done again in another way -----------------------------------------------------------------------------


def bits(address: IPv4Address | IPv6Address) -> str:
    return f"{int(address):0{address.max_prefixlen}b}"


def holds(cidr: str, address: IPv4Address | IPv6Address) -> bool:
    network = ip_network(cidr)
    prefix = bits(network.network_address)[: network.prefixlen]
    return network.version == address.version and bits(address).startswith(prefix)


def service_matches(packet: Packet, protocol: int, numbers: tuple[int, int]) -> bool:
    if protocol == -1:
        return True
    if protocol != packet.protocol:
        return False
    if protocol in (6, 17):
        if packet.fragment is Fragment.LATER:
            return numbers == (0, 65535)
        return packet.destination_port in range(numbers[0], numbers[1] + 1)
    if protocol in (1, 58):
        if packet.fragment is Fragment.LATER:
            return numbers == (-1, -1)
        return numbers[0] in (-1, packet.icmp_type) and numbers[1] in (-1, packet.icmp_code)
    return True


def acl_by_hand(packet: Packet, acl: NetworkAcl) -> tuple[bool, str] | None:
    other = packet.source if packet.direction is Direction.INGRESS else packet.destination
    if holds("10.0.1.0/24", other) or holds("2001:db8:1200:1::/64", other):
        return None
    way = "ingress" if packet.direction is Direction.INGRESS else "egress"
    found = []
    for entry in acl.entries:
        icmp = entry.protocol in (1, 58)
        numbers = (entry.icmp_type, entry.icmp_code) if icmp else (entry.from_port, entry.to_port)
        if (
            entry.egress == (way == "egress")
            and holds(entry.cidr, other)
            and service_matches(packet, entry.protocol, numbers)
        ):
            found.append((entry.rule_number, entry.allow))
    return (min(found)[1], f"acl-1/{way}/{min(found)[0]}") if found else (False, f"acl-1/{way}/*")


def matching_by_hand(packet: Packet, rules: tuple[SecurityGroupRule, ...]) -> list[str]:
    other = packet.source if packet.direction is Direction.INGRESS else packet.destination
    found = []
    for rule in rules:
        cidrs = [rule.cidr] if rule.cidr else []
        cidrs += [
            f"{address}/{'128' if ':' in address else '32'}" for address in dict(MEMBERS).get(rule.group_id or "", ())
        ]
        cidrs += [cidr for item in LISTS if item.prefix_list_id == rule.prefix_list_id for cidr in item.cidrs]
        if (
            rule.egress == (packet.direction is Direction.EGRESS)
            and any(holds(cidr, other) for cidr in cidrs)
            and service_matches(packet, rule.protocol, (rule.from_port, rule.to_port))
        ):
            found.append(rule.rule_id)
    return sorted(found)


@settings(max_examples=60, deadline=None)
@given(acls.filter(bool), st.lists(packets(), min_size=1, max_size=5))
def test_the_first_matching_entry_decides(acl: NetworkAcl, some: list[Packet]) -> None:
    policy = interface_policy(interface(None, acl), book((), acl), slot=1)
    for packet in some:
        verdict = judged(packet, policy)
        expected = acl_by_hand(packet, acl)
        assert verdict.decider is not None
        if expected is None:
            assert (verdict.outcome, verdict.decider.layer) == (Outcome.ACCEPT, Layer.DEFAULT)
        else:
            outcome = Outcome.ACCEPT if expected[0] else Outcome.REJECT
            assert (verdict.outcome, verdict.decider.rule_id) == (outcome, expected[1])


@settings(max_examples=120, deadline=None)
@given(group_rules(), packets())
def test_a_packet_that_belongs_to_nothing_is_judged_by_the_lowest_matching_rule(
    rules: tuple[SecurityGroupRule, ...], packet: Packet
) -> None:
    verdict = judged(packet, policy_with(rules))
    matching = matching_by_hand(packet, rules)
    assert verdict.decider is not None
    if not matching:
        assert (verdict.outcome, verdict.decider.rule_id) == (Outcome.REJECT, "sg-1")
    else:
        assert verdict.decider.rule_id == matching[0]
        if packet.protocol != 6 or packet.opens or packet.fragment is Fragment.LATER:
            assert verdict.outcome is Outcome.ACCEPT


# ---- More rules, other orders ----------------------------------------------------------------------------------------


@settings(max_examples=120, deadline=None)
@given(group_rules(), unnamed_rules(), acls, packets())
def test_one_more_rule_never_rejects_what_was_accepted(
    rules: tuple[SecurityGroupRule, ...], more: dict[str, Any], acl: NetworkAcl | None, packet: Packet
) -> None:
    before = judged(packet, policy_with(rules, acl))
    for name in ("sgr-!", "sgr-zz"):
        added = SecurityGroupRule(name.replace("!", "0"), **more)
        after = judged(packet, policy_with((*rules, added), acl))
        assert before.outcome is not Outcome.ACCEPT or after.outcome is Outcome.ACCEPT


@settings(max_examples=60, deadline=None)
@given(st.data(), group_rules(), acls, st.lists(packets(), max_size=12))
def test_the_order_of_groups_rules_and_entries_means_nothing(
    data: st.DataObject, rules: tuple[SecurityGroupRule, ...], acl: NetworkAcl | None, some: list[Packet]
) -> None:
    half = len(rules) // 2
    groups = (SecurityGroup("sg-1", "vpc-1", "", rules[:half]), SecurityGroup("sg-2", "vpc-1", "", rules[half:]))

    def shuffled(items: tuple[T, ...]) -> tuple[T, ...]:
        return tuple(data.draw(st.permutations(items)))

    others = shuffled(tuple(replace(group, rules=shuffled(group.rules)) for group in groups))
    other_acl = None if acl is None else replace(acl, entries=shuffled(acl.entries))
    one = interface_policy(interface(groups, acl), book(groups, acl), slot=1)
    two = interface_policy(interface(others, other_acl), book(others, other_acl), slot=1)
    tables: list[Connections[Verdict]] = [Connections(), Connections()]
    for at, packet in enumerate(some):
        assert decide(packet, one, tables[0], at * SECOND) == decide(packet, two, tables[1], at * SECOND)


@settings(max_examples=60, deadline=None)
@given(group_rules(), st.lists(packets(), max_size=12))
def test_how_rules_are_spread_over_groups_means_nothing(
    rules: tuple[SecurityGroupRule, ...], some: list[Packet]
) -> None:
    spread = tuple(SecurityGroup(f"sg-1{number:02d}", "vpc-1", "", (rule,)) for number, rule in enumerate(rules))
    groups = (SecurityGroup("sg-1", "vpc-1", ""), *spread)
    tables: list[Connections[Verdict]] = [Connections(), Connections()]
    one, two = policy_with(rules), interface_policy(interface(groups, None), book(groups, None), slot=1)
    for at, packet in enumerate(some):
        assert decide(packet, one, tables[0], at * SECOND) == decide(packet, two, tables[1], at * SECOND)


# ---- Connections -----------------------------------------------------------------------------------------------------


def answer(packet: Packet) -> Packet:
    back = replace(
        packet,
        direction=Direction(1 - packet.direction),
        source=packet.destination,
        destination=packet.source,
        source_port=packet.destination_port,
        destination_port=packet.source_port,
        tcp_flags=SYN | ACK if packet.protocol == 6 else 0,
    )
    if packet.protocol in (1, 58):
        return replace(back, icmp_type={**ICMP_QUERIES, 128: 129}[packet.icmp_type], icmp_code=0)
    return back


def can_be_answered(packet: Packet) -> bool:
    return packet.protocol not in (1, 58) or packet.icmp_type in (*ICMP_QUERIES, 128)


@settings(max_examples=120, deadline=None)
@given(group_rules(), packets(fresh=True).filter(can_be_answered), st.booleans())
def test_the_answer_to_what_was_accepted_is_accepted(
    rules: tuple[SecurityGroupRule, ...], packet: Packet, always: bool
) -> None:
    policy = replace(policy_with(rules), always_tracked=always)
    connections: Connections[Verdict] = Connections()
    first = decide(packet, policy, connections, 0)
    if first.outcome is not Outcome.ACCEPT:
        assert not connections.entries
        return
    reply = decide(answer(packet), policy, connections, SECOND)
    assert reply.outcome is Outcome.ACCEPT
    assert first.decider is not None
    assert reply.decider is not None
    tracked = bool(connections.entries)
    assert (reply.decider.layer is Layer.TRACKED) == tracked
    if tracked:
        assert reply.decider.rule_id == first.decider.rule_id
    else:
        assert packet.protocol in (6, 17)
        assert not always


@settings(max_examples=120, deadline=None)
@given(group_rules(), packets(fresh=True).filter(can_be_answered))
def test_when_all_rules_go_the_tracked_live_on_and_the_untracked_are_cut(
    rules: tuple[SecurityGroupRule, ...], packet: Packet
) -> None:
    connections: Connections[Verdict] = Connections()
    first = decide(packet, policy_with(rules), connections, 0)
    after = decide(answer(packet), policy_with(()), connections, SECOND)
    assert after.outcome is (Outcome.ACCEPT if connections.entries else Outcome.REJECT)
    assert first.outcome is Outcome.ACCEPT or not connections.entries


@settings(max_examples=120, deadline=None)
@given(
    group_rules(max_size=5),
    acls,
    st.lists(st.tuples(packets(), st.integers(0, 40)), max_size=25),
    st.integers(0, 4),
    st.booleans(),
)
def test_the_table_in_any_course_of_events(
    rules: tuple[SecurityGroupRule, ...],
    acl: NetworkAcl | None,
    events: list[tuple[Packet, int]],
    capacity: int,
    enforce: bool,
) -> None:
    policy = policy_with(rules, acl, enforce=enforce)
    connections: Connections[Verdict] = Connections(capacity)
    now = full = 0
    for packet, seconds in events:
        now += seconds * SECOND
        before = copy.deepcopy(connections.entries)
        shared = packet.fragment is Fragment.LATER and connections.find_fragment(1, packet, now) is not None
        verdict = decide(packet, policy, connections, now)
        assert len(connections.entries) <= capacity
        assert verdict.drop is (enforce and verdict.outcome is Outcome.REJECT)
        full += not shared and any(finding.reason is Reason.TABLE_FULL for finding in verdict.findings)
        assert connections.refused == full
        if verdict.outcome is not Outcome.ACCEPT or shared or packet.lacks_ports:
            assert connections.entries == before
        assert verdict.decider is not None
        if verdict.outcome is Outcome.REJECT and verdict.decider.layer is Layer.TRACKED and verdict.decider.rule_id:
            assert packet.protocol == 6
            assert not packet.opens


@settings(deadline=None)
@given(packets(fresh=True), st.integers(0, 2_000_000))
def test_an_entry_is_live_exactly_as_long_as_its_timeout(packet: Packet, milliseconds: int) -> None:
    connections: Connections[Verdict] = Connections()
    key = connection_key(1, packet, packet.direction)
    if key is None:
        return
    connections.open(key, packet, "sgr-1", 0)
    limit = Timeouts().seconds(packet.protocol, 0)
    live = connections.find(key, milliseconds * 1_000_000) is not None
    assert live == (milliseconds <= limit * 1000)
    assert connections.sweep(milliseconds * 1_000_000) == (0 if live else 1)


# ---- Excluded traffic, explanations ----------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    group_rules(),
    acls,
    st.booleans(),
    st.sampled_from([Exclusion.ARP, Exclusion.NON_IP, Exclusion.MALFORMED, Exclusion.NEIGHBOUR_DISCOVERY]),
)
def test_excluded_traffic_is_never_dropped_but_for_malformed(
    rules: tuple[SecurityGroupRule, ...], acl: NetworkAcl | None, enforce: bool, reason: Exclusion
) -> None:
    policy = policy_with(rules, acl, enforce=enforce)
    verdict = judged(Packet(Direction.INGRESS, exclusion=reason), policy)
    assert verdict.outcome is Outcome.EXCLUDED
    assert verdict.drop is (enforce and reason is Exclusion.MALFORMED)


@settings(max_examples=100, deadline=None)
@given(group_rules(), acls, packets(fresh=True))
def test_an_explanation_says_what_the_decision_does(
    rules: tuple[SecurityGroupRule, ...], acl: NetworkAcl | None, packet: Packet
) -> None:
    groups = (SecurityGroup("sg-1", "vpc-1", "", rules),)
    here = interface(groups, acl)
    policy = interface_policy(here, book(groups, acl), slot=1)
    connections: Connections[Verdict] = Connections()
    verdict = decide(packet, policy, connections, 0)
    ports = packet.protocol in (6, 17)
    explanation = explain(
        AgentConfiguration(1, (here,), (), book(groups, acl)),
        str(packet.source),
        str(packet.destination),
        packet.destination_port if ports else None,
        packet.protocol,
        **({"source_port": packet.source_port} if ports else {}),
        **({"icmp_type": packet.icmp_type, "icmp_code": packet.icmp_code} if packet.protocol in (1, 58) else {}),
    )
    (hop,) = explanation.hops
    assert hop.verdict == verdict
    assert explanation.outcome is verdict.outcome
    if verdict.decider is not None:
        assert hop.text.startswith(f"{verdict.outcome.name} by {verdict.decider.layer}")
        denying = [step for step in hop.steps if step.allows is False and step.reached]
        assert len(denying) == (verdict.outcome is Outcome.REJECT)
        assert all(step.text for step in hop.steps)
        if explanation.reply:
            assert explanation.reply[0].verdict == decide(answer(packet), policy, connections, 0)
        else:
            assert verdict.outcome is Outcome.REJECT or not can_be_answered(packet)
    else:
        assert exclusion(packet, policy.reserved) is not None

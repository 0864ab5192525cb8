"""Generated rules, network ACLs and packets, in a world so small that they meet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

from hypothesis import strategies as st

from vnotch.explain import interface_policy
from vnotch.flow import Direction
from vnotch.inventory import Interface
from vnotch.packet import ACK, SYN, Fragment, Packet
from vnotch.rules import AclEntry, NetworkAcl, PrefixList, RuleBook, SecurityGroup, SecurityGroupRule
from vnotch.verdict import Policy

CIDRS = ["0.0.0.0/0", "10.0.0.0/16", "10.0.2.0/24", "203.0.113.0/24", "203.0.113.9/32", "::/0", "2001:db8:ffff::/48"]
OUTSIDE = [ip_address(text) for text in ("203.0.113.9", "203.0.113.200", "10.0.2.20", "198.51.100.7", "10.0.1.77")]
OUTSIDE6 = [ip_address(text) for text in ("2001:db8:ffff::9", "2001:db8:aaaa::1", "2001:db8:1200:1::77")]
OWN, OWN6 = ip_address("10.0.1.10"), ip_address("2001:db8:1200:1::10")
PORTS = [0, 22, 53, 80, 443, 1024, 40000, 65535]
RANGES = [(0, 65535), (22, 22), (53, 53), (80, 443), (1024, 65535), (0, 1023), (65535, 65535), (0, 0)]
ICMP_PAIRS = [(-1, -1), (8, -1), (8, 0), (3, 4), (128, 0), (0, -1)]
PROTOCOLS = [-1, 1, 6, 17, 58, 47, 132]
MEMBERS = (("sg-m", ("10.0.2.20", "2001:db8:ffff::9")), ("sg-none", ()))
LISTS = (PrefixList("pl-1", ("203.0.113.0/24", "2001:db8:ffff::/48")), PrefixList("pl-all", ("0.0.0.0/0",)))

peers = st.one_of(
    st.sampled_from(CIDRS).map(lambda cidr: {"cidr": cidr}),
    st.sampled_from(["sg-m", "sg-none", "sg-gone"]).map(lambda group: {"group_id": group}),
    st.sampled_from(["pl-1", "pl-all"]).map(lambda name: {"prefix_list_id": name}),
)


@st.composite
def unnamed_rules(draw: Callable[[st.SearchStrategy[Any]], Any]) -> dict[str, Any]:
    protocol = draw(st.sampled_from(PROTOCOLS))
    numbers = draw(st.sampled_from(ICMP_PAIRS if protocol in (1, 58) else RANGES))
    return {
        "egress": draw(st.booleans()),
        "protocol": protocol,
        "from_port": numbers[0],
        "to_port": numbers[1],
        **draw(peers),
    }


@st.composite
def acl_entries(draw: Callable[[st.SearchStrategy[Any]], Any]) -> AclEntry:
    protocol = draw(st.sampled_from(PROTOCOLS))
    ports = draw(st.sampled_from(RANGES)) if protocol in (6, 17) else (-1, -1)
    icmp = draw(st.sampled_from(ICMP_PAIRS)) if protocol in (1, 58) else (-1, -1)
    number, egress, allow = draw(st.integers(1, 32766)), draw(st.booleans()), draw(st.booleans())
    return AclEntry(number, egress, protocol, allow, draw(st.sampled_from(CIDRS)), *ports, *icmp)


acls = st.one_of(
    st.none(),
    st.lists(acl_entries(), max_size=6, unique_by=lambda entry: (entry.egress, entry.rule_number)).map(
        lambda entries: NetworkAcl("acl-1", "vpc-1", tuple(entries))
    ),
)


@st.composite
def group_rules(draw: Callable[[st.SearchStrategy[Any]], Any], max_size: int = 8) -> tuple[SecurityGroupRule, ...]:
    drawn = draw(st.lists(unnamed_rules(), max_size=max_size))
    order = draw(st.permutations(range(len(drawn))))
    return tuple(SecurityGroupRule(f"sgr-{place:02d}", **rule) for place, rule in zip(order, drawn, strict=True))


def book(groups: tuple[SecurityGroup, ...], acl: NetworkAcl | None) -> RuleBook:
    made = RuleBook(groups, () if acl is None else (acl,), LISTS, MEMBERS)
    made.validate()
    return made


def interface(groups: tuple[SecurityGroup, ...] | None, acl: NetworkAcl | None, **more: Any) -> Interface:
    return Interface(
        "eni-a",
        "vn-a",
        "123456789012",
        "us-east-1",
        "vpc-1",
        "subnet-1",
        "use1-az1",
        private_ipv4=(str(OWN),),
        ipv6=(str(OWN6),),
        vpc_cidrs=("10.0.0.0/16", "2001:db8:1200::/56"),
        subnet_cidrs=("10.0.1.0/24", "2001:db8:1200:1::/64"),
        group_ids=None if groups is None else tuple(group.group_id for group in groups),
        network_acl_id=None if acl is None else acl.acl_id,
        **more,
    )


def policy_with(rules: tuple[SecurityGroupRule, ...], acl: NetworkAcl | None = None, **more: Any) -> Policy:
    groups = (SecurityGroup("sg-1", "vpc-1", "", rules),)
    return interface_policy(interface(groups, acl, **more), book(groups, acl), slot=1)


@st.composite
def packets(draw: Callable[[st.SearchStrategy[Any]], Any], fresh: bool = False) -> Packet:
    """A packet of the interface; `fresh`: one that may begin something (no TCP without SYN, no later fragment)."""
    six = draw(st.booleans())
    own, far = (OWN6, draw(st.sampled_from(OUTSIDE6))) if six else (OWN, draw(st.sampled_from(OUTSIDE)))
    direction = draw(st.sampled_from(Direction))
    source, destination = (far, own) if direction is Direction.INGRESS else (own, far)
    protocol = draw(st.sampled_from([6, 17, 58 if six else 1, 47]))
    packet = Packet(direction, source, destination, protocol)
    if not fresh:
        fragment = draw(st.sampled_from([Fragment.NONE] * 8 + [Fragment.FIRST, Fragment.LATER]))
        packet = replace(packet, fragment=fragment, fragment_id=draw(st.integers(1, 2)) if fragment else 0)
    if packet.fragment is Fragment.LATER:
        return packet
    if protocol in (1, 58):
        kinds = [128, 129, 3] if six else [8, 0, 3, 13, 14]
        return replace(
            packet, icmp_type=draw(st.sampled_from(kinds)), icmp_code=draw(st.sampled_from([0, 4])), icmp_id=1
        )
    if protocol in (6, 17):
        ends = draw(st.sampled_from(PORTS)), draw(st.sampled_from(PORTS))
        packet = replace(packet, source_port=ends[0], destination_port=ends[1])
    if protocol == 6:
        flags = [SYN] if fresh else [SYN, SYN | ACK, ACK, ACK, 0x11, 0x04, 0x14]
        packet = replace(packet, tcp_flags=draw(st.sampled_from(flags)))
    return packet

"""Worlds and sequences of packets, made from a random number generator so that connections come about and rules change
under them."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from random import Random

from case_files import VPC_CIDRS, CaseInterface, World

from vnotch.flow import Direction, Exclusion
from vnotch.packet import (
    ICMP_ERRORS,
    ICMP_QUERIES,
    ICMPV6_ERRORS,
    ICMPV6_QUERIES,
    Fragment,
    Packet,
    Quoted,
)
from vnotch.rules import AclEntry, SecurityGroupRule

LOCAL = {4: ("10.0.1.10", "10.0.1.11"), 6: ("2001:db8:1200:1::10",)}
REMOTE = {
    4: ("10.0.1.30", "10.0.2.20", "203.0.113.9", "203.0.113.200", "198.51.100.7", "169.254.7.7", "255.255.255.254"),
    6: ("2001:db8:1200:1::30", "2001:db8:1200:2::20", "2001:db8:ffff::1", "2001:db8:ff00::2", "fe80::9"),
}
RESERVED = {4: ("10.0.0.2", "10.0.1.1", "169.254.169.254", "224.0.0.5"), 6: ("fd00:ec2::253", "ff02::5")}
NETWORKS = {
    4: ("0.0.0.0/0", "0.0.0.0/0", "203.0.113.0/24", "203.0.113.9/32", "10.0.0.0/16", "128.0.0.0/1", "198.51.100.0/25"),
    6: ("::/0", "::/0", "2001:db8::/32", "2001:db8:ffff::1/128", "2001:db8:ff00::/40"),
}
PORTS = (0, 22, 80, 40000, 65535)
TCP_FLAGS = (0x02, 0x02, 0x12, 0x10, 0x10, 0x18, 0x11, 0x04, 0x14, 0x03, 0x06, 0x00)
STEPS_NS = tuple(
    round(s * 1e9) for s in (0, 0, 0, 0, 0.001, 0.1, 1, 5, 10, 10.001, 30, 30.001, 61, 121, 181, 601, 432001)
)


def world_of(random: Random) -> World:
    """Three interfaces: with groups and an ACL, with groups, with an ACL alone or with nothing."""
    world = World()
    subnet = ("10.0.1.0/24", "2001:db8:1200:1::/64")
    for name, groups, acl in (
        ("eni-a", ("sg-a", "sg-b"), "acl-1"),
        ("eni-b", ("sg-b",), None),
        ("eni-n", None, random.choice(["acl-1", None])),
    ):
        marks = [random.random() < chance for chance in (0.5, 0.1, 0.15)]
        world.interfaces[name] = CaseInterface(name, LOCAL[4] + LOCAL[6], subnet, groups, acl, *marks, VPC_CIDRS)
    world.lists = {"pl-1": tuple(random.sample(NETWORKS[4] + NETWORKS[6], 3))}
    world.members = {"sg-web": tuple(random.sample(REMOTE[4] + REMOTE[6], 3))}
    world.rules = {"sg-a": [], "sg-b": []}
    world.acls = {"acl-1": []}
    for _ in range(random.randrange(4, 30)):
        add_rule(world, random)
    for _ in range(random.randrange(1, 10)):
        add_entry(world, random)
    return world


def change(world: World, random: Random) -> None:
    """One change of the world."""
    what = random.randrange(6)
    rules = random.choice(list(world.rules.values()))
    if what == 0 and rules:
        rules.pop(random.randrange(len(rules)))
    elif what == 1 and world.acls["acl-1"]:
        world.acls["acl-1"].pop(random.randrange(len(world.acls["acl-1"])))
    elif what == 2:
        world.members["sg-web"] = tuple(random.sample(REMOTE[4] + REMOTE[6], random.randrange(4)))
    elif what == 3:
        add_entry(world, random)
    elif what == 4:
        name = random.choice(list(world.interfaces))
        world.interfaces[name] = replace(world.interfaces[name], adopt=random.random() < 0.2)
    else:
        add_rule(world, random)


def _service(random: Random) -> tuple[int, int, int]:
    protocol = random.choice((-1, -1, 6, 6, 6, 17, 17, 1, 1, 58, 47, 132))
    if protocol in (1, 58):
        kind = random.choice((-1, 0, 3, 8, 11, 128, 1))
        return protocol, kind, -1 if kind == -1 else random.choice((-1, 0, 4))
    if protocol in (6, 17):
        low, high = sorted(random.choices(PORTS, k=2))
        return protocol, *random.choice(((0, 65535), (low, high), (low, low)))
    return protocol, -1, -1


def add_rule(world: World, random: Random) -> None:
    protocol, low, high = _service(random)
    kind = random.choice(("cidr", "cidr", "cidr", "cidr", "group_id", "prefix_list_id"))
    peer = {"group_id": random.choice(("sg-web", "sg-gone")), "prefix_list_id": "pl-1"}.get(kind)
    peer = peer or random.choice(NETWORKS[random.choice((4, 4, 6))])
    rule_id = f"sgr-{random.randrange(10**9)}"
    rule = SecurityGroupRule(rule_id, random.random() < 0.5, protocol, low, high, **{kind: peer})
    world.rules[random.choice(("sg-a", "sg-b"))].append(rule)


def add_entry(world: World, random: Random) -> None:
    protocol, low, high = _service(random)
    icmp = protocol in (1, 58)
    entry = AclEntry(
        random.randrange(1, 32767),
        random.random() < 0.5,
        protocol,
        random.random() < 0.75,
        random.choice(NETWORKS[random.choice((4, 4, 6))]),
        *((-1, -1, low, high) if icmp else (low, high, -1, -1)),
    )
    entries = world.acls["acl-1"]
    if not any((e.rule_number, e.egress) == (entry.rule_number, entry.egress) for e in entries):
        entries.append(entry)


def fresh(random: Random) -> Packet:
    """A packet out of nothing."""
    if random.random() < 0.02:
        kinds = (Exclusion.ARP, Exclusion.NON_IP, Exclusion.MALFORMED, Exclusion.NEIGHBOUR_DISCOVERY)
        return Packet(random.choice(list(Direction)), exclusion=random.choice(kinds))
    version = random.choice((4, 4, 6))
    far = RESERVED[version] if random.random() < 0.04 else REMOTE[version]
    local, remote = ip_address(random.choice(LOCAL[version])), ip_address(random.choice(far))
    direction = random.choice(list(Direction))
    ends = (remote, local) if direction is Direction.INGRESS else (local, remote)
    icmp = 1 if version == 4 else 58
    protocol = random.choice((6, 6, 6, 17, 17, icmp, icmp, 47, 132, 59 - icmp))
    packet = Packet(direction, *ends, protocol, group_frame=random.random() < 0.01)
    return _filled(packet, random)


def _filled(packet: Packet, random: Random) -> Packet:
    """With ports, or type and code, or as a fragment."""
    fragment = random.choices((Fragment.NONE, Fragment.FIRST, Fragment.LATER), (0.9, 0.05, 0.05))[0]
    values: dict[str, object] = {}
    if fragment:
        values = {"fragment": fragment, "fragment_id": random.randrange(1, 4)}
    if fragment is Fragment.LATER:
        return replace(packet, **values)
    if packet.protocol in (6, 17):
        values |= {"source_port": random.choice(PORTS), "destination_port": random.choice(PORTS)}
        if packet.protocol == 6:
            values["tcp_flags"] = random.choice(TCP_FLAGS)
    elif packet.protocol in (1, 58):
        kinds = (0, 8, 8, 13, 14, 9, 3, 255) if packet.protocol == 1 else (128, 128, 129, 1, 2, 200, 0)
        values |= {
            "icmp_type": random.choice(kinds),
            "icmp_code": random.choice((0, 0, 4)),
            "icmp_id": random.randrange(3),
        }
    return replace(packet, **values)


def following(packet: Packet, random: Random) -> Packet:
    """A packet that has to do with an earlier one: again, an answer, a fragment, an error about it."""
    if packet.exclusion is not None:
        return fresh(random)
    what = random.random()
    turned = replace(
        packet,
        direction=Direction(1 - packet.direction),
        source=packet.destination,
        destination=packet.source,
        source_port=packet.destination_port,
        destination_port=packet.source_port,
        group_frame=False,
        quoted=None,
    )
    if what < 0.12 and packet.fragment is not Fragment.LATER:
        return _error(packet, turned, random)
    if what < 0.2 and packet.fragment is Fragment.FIRST:
        return replace(
            packet, fragment=Fragment.LATER, source_port=0, destination_port=0, tcp_flags=0, icmp_type=0, icmp_code=0,
            icmp_id=0, quoted=None,
        )  # fmt: skip
    then = turned if random.random() < 0.6 else packet
    if then.fragment is Fragment.LATER:
        return then
    if then.protocol == 6:
        return replace(then, tcp_flags=random.choice(TCP_FLAGS))
    if then.protocol in (1, 58) and then is turned:
        queries = ICMP_QUERIES if then.protocol == 1 else ICMPV6_QUERIES
        return replace(then, icmp_type=queries.get(then.icmp_type, then.icmp_type))
    return then


def _error(packet: Packet, turned: Packet, random: Random) -> Packet:
    quoted = Quoted(
        packet.source,
        packet.destination,
        packet.protocol,
        packet.source_port,
        packet.destination_port,
        packet.icmp_type,
        packet.icmp_id,
    )
    if random.random() < 0.1:
        quoted = replace(quoted, source_port=quoted.source_port ^ 1)
    # A quoted ICMP message that is no query or reply tells of no connection, and the frame cannot say more of it.
    version = packet.source.version
    remote = ip_address(random.choice(REMOTE[version])) if random.random() < 0.5 else turned.source
    destination = turned.destination if random.random() < 0.9 else ip_address(random.choice(LOCAL[version]))
    kind = random.choice(sorted(ICMP_ERRORS if version == 4 else ICMPV6_ERRORS))
    return Packet(
        turned.direction,
        remote,
        destination,
        1 if version == 4 else 58,
        icmp_type=kind,
        icmp_code=random.choice((0, 3, 4)),
        quoted=quoted,
    )


def sequence(random: Random, count: int, recent: list[Packet]) -> list[Packet]:
    """`count` packets; `recent` is what they may follow."""
    made = []
    for _ in range(count):
        packet = following(random.choice(recent), random) if recent and random.random() < 0.65 else fresh(random)
        recent.append(packet)
        del recent[:-12]
        made.append(packet)
    return made

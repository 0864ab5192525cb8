"""Reads the cases of cases/*.toml (their language is told in cases/README.md) into values that any implementation can
play.

Nothing here knows how a verdict is made: the runner of verdict.py and that of the datapath both read cases through it.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from vnotch.flow import Direction, Exclusion
from vnotch.packet import ACK, FIN, RST, SYN, Fragment, Packet, Quoted
from vnotch.rules import AclEntry, NetworkAcl, PrefixList, RuleBook, SecurityGroup, SecurityGroupRule

FOLDER = Path(__file__).parent / "cases"
VPC_CIDRS = ("10.0.0.0/16", "2001:db8:1200::/56")
SUBNET = "10.0.1.0/24,2001:db8:1200:1::/64"
DEFAULT_INTERFACE = "eni-a addresses=10.0.1.10,2001:db8:1200:1::10 groups=sg-a"
PROTOCOLS = {"tcp": 6, "udp": 17, "icmp": 1, "icmp6": 58, "all": -1}
FLAGS = {"F": FIN, "S": SYN, "R": RST, "P": 0x08, "A": ACK}
EXCLUSIONS = {
    "arp": Exclusion.ARP,
    "non-ip": Exclusion.NON_IP,
    "malformed": Exclusion.MALFORMED,
    "nd": Exclusion.NEIGHBOUR_DISCOVERY,
}


@dataclass(frozen=True)
class CaseInterface:
    interface_id: str
    addresses: tuple[str, ...]
    subnet_cidrs: tuple[str, ...]
    group_ids: tuple[str, ...] | None
    network_acl_id: str | None
    enforce: bool
    adopt: bool
    always_tracked: bool
    vpc_cidrs: tuple[str, ...] = VPC_CIDRS


@dataclass(frozen=True)
class Expectation:
    """`layer` and `rule_id` for ACCEPT and REJECT (None: no rule), `exclusion` for EXCLUDED, `dropped` where it is
    told."""

    outcome: str
    layer: str | None
    rule_id: str | None
    exclusion: str | None
    dropped: bool | None


@dataclass(frozen=True)
class Step:
    """One line of `packets`: a packet and what is expected of it, a sweep, or a world that has changed (neither)."""

    line: str
    at_ns: int
    interface_id: str | None = None
    packet: Packet | None = None
    expect: Expectation | None = None
    sweep: bool = False


@dataclass
class World:
    """Interfaces and rules, as they stand after the steps applied so far."""

    interfaces: dict[str, CaseInterface] = field(default_factory=dict)
    rules: dict[str, list[SecurityGroupRule]] = field(default_factory=dict)
    acls: dict[str, list[AclEntry]] = field(default_factory=dict)
    members: dict[str, tuple[str, ...]] = field(default_factory=dict)
    lists: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def book(self) -> RuleBook:
        groups = {group for interface in self.interfaces.values() for group in interface.group_ids or ()}
        book = RuleBook(
            tuple(
                SecurityGroup(group, "vpc-1", group, tuple(self.rules.get(group, ())))
                for group in sorted(groups | set(self.rules))
            ),
            tuple(NetworkAcl(acl, "vpc-1", tuple(entries)) for acl, entries in self.acls.items()),
            tuple(PrefixList(name, cidrs) for name, cidrs in self.lists.items()),
            tuple(self.members.items()),
        )
        book.validate()
        return book


@dataclass(frozen=True)
class Case:
    name: str
    file: str
    source: str
    document: dict[str, Any]
    connections: int | None
    refused: int | None

    def world(self) -> World:
        """The world before the first packet, a new one each time."""
        world = World()
        for line in self.document.get("interfaces", [DEFAULT_INTERFACE]):
            interface = _interface(line)
            world.interfaces[interface.interface_id] = interface
        for line in self.document.get("rules", []):
            _add_rule(world, line.split())
        for line in self.document.get("acl", []):
            _add_entry(world, line.split())
        for line in self.document.get("members", []):
            group, *addresses = line.split()
            world.members[group] = tuple(addresses)
        for line in self.document.get("lists", []):
            name, *cidrs = line.split()
            world.lists[name] = tuple(cidrs)
        return world

    @property
    def lines(self) -> list[str]:
        return list(self.document["packets"])


KEYS = {"name", "source", "interfaces", "rules", "acl", "members", "lists", "connections", "refused", "packets"}


def load_cases() -> list[Case]:
    cases = []
    for path in sorted(FOLDER.glob("*.toml")):
        for document in tomllib.loads(path.read_text())["case"]:
            assert set(document) <= KEYS, f"{path.name}: {set(document) - KEYS}"
            head = (document["name"], path.stem, document["source"], document)
            cases.append(Case(*head, document.get("connections"), document.get("refused")))
    return cases


def apply(world: World, line: str) -> Step:
    """Applies a line to the world; a packet's line changes nothing and gives the packet and what is expected."""
    seconds, verb, *words = line.split()
    at_ns = round(float(seconds) * 1e9)
    if verb == "sweep":
        return Step(line, at_ns, sweep=True)
    if verb == "add":
        _add_rule(world, words)
    elif verb == "remove":
        found = [rules for rules in world.rules.values() if any(rule.rule_id == words[0] for rule in rules)]
        found[0][:] = [rule for rule in found[0] if rule.rule_id != words[0]]
    elif verb == "members":
        world.members[words[0]] = tuple(words[1:])
    elif verb == "groups":
        world.interfaces[words[0]] = replace(world.interfaces[words[0]], group_ids=tuple(words[1].split(",")))
    elif verb == "adopt":
        world.interfaces[words[0]] = replace(world.interfaces[words[0]], adopt={"on": True, "off": False}[words[1]])
    elif verb == "acl-add":
        _add_entry(world, words)
    elif verb == "acl-remove":
        entries = world.acls[words[0]]
        gone = [entry for entry in entries if (entry.rule_number, entry.egress) == (int(words[1]), words[2] == "out")]
        entries.remove(gone[0])
    else:
        left, right = line.split(" = ")
        _, interface_id, *packet_words = left.split()
        assert interface_id in world.interfaces, line
        return Step(line, at_ns, interface_id, _packet(packet_words), _expectation(right.split()))
    return Step(line, at_ns)


def _interface(line: str) -> CaseInterface:
    name, *words = line.split()
    given = dict(word.split("=", 1) for word in words if "=" in word)
    marks = {word for word in words if "=" not in word}
    assert marks <= {"enforce", "adopt", "automatic"}, line
    assert set(given) <= {"addresses", "subnet", "groups", "acl"}, line
    groups = None if given["groups"] == "none" else tuple(given["groups"].split(","))
    return CaseInterface(
        name,
        tuple(given["addresses"].split(",")),
        tuple(given.get("subnet", SUBNET).split(",")),
        groups,
        given.get("acl"),
        "enforce" in marks,
        "adopt" in marks,
        "automatic" in marks,
    )


def _add_rule(world: World, words: list[str]) -> None:
    group, rule_id, way, protocol_name, *numbers, peer = words
    protocol = _protocol(protocol_name)
    low, high = _numbers(protocol, numbers)
    kind = "group_id" if peer.startswith("sg-") else "prefix_list_id" if peer.startswith("pl-") else "cidr"
    assert way in ("in", "out"), words
    rule = SecurityGroupRule(rule_id, way == "out", protocol, low, high, **{kind: peer})
    world.rules.setdefault(group, []).append(rule)


def _add_entry(world: World, words: list[str]) -> None:
    entries = world.acls.setdefault(words[0], [])
    if len(words) == 1:
        return
    _, number, way, action, protocol_name, *numbers, cidr = words
    assert way in ("in", "out"), words
    assert action in ("allow", "deny"), words
    protocol = _protocol(protocol_name)
    low, high = _numbers(protocol, numbers)
    kind = ("icmp_type", "icmp_code") if protocol in (1, 58) else ("from_port", "to_port")
    entries.append(
        AclEntry(
            int(number), way == "out", protocol, action == "allow", cidr, **dict(zip(kind, (low, high), strict=True))
        )
    )


def _protocol(name: str) -> int:
    return PROTOCOLS[name] if name in PROTOCOLS else int(name)


def _numbers(protocol: int, words: list[str]) -> tuple[int, int]:
    if not words:
        assert protocol not in (1, 6, 17, 58), "ports or type and code are missing"
        return -1, -1
    if protocol in (1, 58):
        kind, code = words[0].split("/")
        return int(kind), int(code)
    low, _, high = words[0].partition("-")
    return int(low), int(high or low)


def _packet(words: list[str]) -> Packet:
    way, kind, *rest = words
    direction = {"in": Direction.INGRESS, "out": Direction.EGRESS}[way]
    if kind in EXCLUSIONS:
        return Packet(direction, exclusion=EXCLUSIONS[kind])
    about = rest.index("about") if "about" in rest else len(rest)
    values = _ends(kind, rest[:3]) | _more(kind, rest[3:about])
    if about < len(rest):
        quoted = _ends(rest[about + 1], rest[about + 2 : about + 5]) | _more(rest[about + 1], rest[about + 5 :])
        values["quoted"] = Quoted(**{name: value for name, value in quoted.items() if name != "icmp_code"})
    return Packet(direction, **values)


def _ends(kind: str, words: list[str]) -> dict[str, Any]:
    source, arrow, destination = words
    assert arrow == ">", words
    values: dict[str, Any] = {"protocol": _protocol(kind)}
    for name, word in (("source", source), ("destination", destination)):
        match = re.fullmatch(r"(?:\[(?P<six>[^]]+)\]|(?P<four>[0-9.]+)):(?P<port>\d+)", word)
        values[name] = ip_address((match["six"] or match["four"]) if match else word)
        if match:
            values[f"{name}_port"] = int(match["port"])
    return values


def _more(kind: str, words: Iterable[str]) -> dict[str, Any]:
    values: dict[str, Any] = {"icmp_id": 1} if kind in ("icmp", "icmp6") else {}
    for word in words:
        if word.startswith("id="):
            values["icmp_id"] = int(word[3:])
        elif word.startswith(("first=", "later=")):
            values["fragment"] = Fragment.FIRST if word.startswith("first") else Fragment.LATER
            values["fragment_id"] = int(word[6:])
        elif word == "group":
            values["group_frame"] = True
        elif "/" in word:
            values["icmp_type"], values["icmp_code"] = (int(part) for part in word.split("/"))
        elif kind == "tcp":
            values["tcp_flags"] = sum(FLAGS[letter] for letter in word)
        else:
            raise ValueError(word)
    return values


def _expectation(words: list[str]) -> Expectation:
    dropped = {"passed": False, "dropped": True}.get(words[-1])
    if dropped is not None:
        words = words[:-1]
    if words[0] == "EXCLUDED":
        return Expectation("EXCLUDED", None, None, words[1], dropped)
    outcome, layer, rule_id = words
    assert outcome in ("ACCEPT", "REJECT"), words
    return Expectation(outcome, layer, None if rule_id == "-" else rule_id, None, dropped)

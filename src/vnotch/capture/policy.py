"""Security groups and network ACLs, compiled for the datapath: what bpf/verdict.h looks things up in.

    compiler = Rules(words, policies, wait)         # the datapath's arena, as numpy sees it
    compiler.apply(book, {7: JudgedBy(("sg-1",), "acl-1", ("10.0.1.0/24",))}, numbers)

A direction of a set of groups, and of an ACL, is a *table*: sorted intervals of addresses and of services, each with
the class of rules that cover it, a class being a bitmap in the order of precedence (rule id, entry number). Looking a
packet up is two binary searches and an AND, whatever the number of rules. A *policy* names the tables of one interface.

Tables are written once and never changed. An interface changes its policy by one store of 8 bytes, so every packet is
judged by the old rules or by the new ones, never by some of each. A block that no policy reaches any more is given out
again only when a grace period has passed (`collect`): no program reads it then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_network
from typing import Any

import numpy as np
import numpy.typing as npt

from vnotch.capture import layout
from vnotch.deciders import Decider, Layer, RuleNumbers
from vnotch.errors import LimitError
from vnotch.rules import (
    ALL_PROTOCOLS,
    ANY,
    ICMP_PROTOCOLS,
    LAST_PORT,
    TCP,
    UDP,
    AclEntry,
    RuleBook,
    SecurityGroupRule,
    acl_entry_id,
)

Words = npt.NDArray[np.uint64]

LINK_LOCAL = ("169.254.0.0/16", "fe80::/10")
"""Inside every subnet: no router passes these on (RFC 3927, RFC 4291)."""

RULES_MAX = layout.BITMAP_WORDS * 64
"""Rules of one direction of an interface's groups; AWS has at most 1000."""
CLASSES_MAX = 65535
HEADER_WORDS = 7
SERVICES_END = 2 * layout.SERVICE_PORTLESS


@dataclass(frozen=True)
class JudgedBy:
    """What decides about the packets of one interface (inventory.Interface has the words)."""

    group_ids: tuple[str, ...] | None = None
    network_acl_id: str | None = None
    subnet_cidrs: tuple[str, ...] = ()
    always_tracked: bool = False


@dataclass(frozen=True)
class _Line:
    """A rule or an entry, as a table wants it."""

    intervals: tuple[tuple[int, int, int], ...]  # IP version, first and last address
    services: tuple[tuple[int, int], ...]  # first and last
    number: int
    allow: bool
    covers_all_ports: bool
    protocol: int

    def is_open(self, version: int) -> bool:
        whole = (version, 0, (1 << (32 if version == 4 else 128)) - 1)
        return whole in self.intervals


@lru_cache(maxsize=1 << 16)
def _interval(cidr: str) -> tuple[int, int, int]:
    network = ip_network(cidr)
    return network.version, int(network.network_address), int(network.broadcast_address)


def _services(protocol: int, low: int, high: int, covers_all: bool) -> tuple[tuple[int, int], ...]:
    """Intervals of what verdict.h calls a service: protocol and port, or ICMP type and code; in a half of their own,
    later fragments, of which the protocol alone is known."""
    if protocol == ALL_PROTOCOLS:
        return ((0, SERVICES_END - 1),)
    first = protocol << 16
    if covers_all:
        portless = layout.SERVICE_PORTLESS | first
        return (first, first | LAST_PORT), (portless, portless | LAST_PORT)
    if protocol in ICMP_PROTOCOLS:
        return ((first | low << 8 | (0 if high == ANY else high), first | low << 8 | (255 if high == ANY else high)),)
    return ((first | low, first | high),)


def _rule_line(book: RuleBook, rule: SecurityGroupRule, numbers: RuleNumbers) -> _Line:
    return _Line(
        tuple(_interval(cidr) for cidr in book.peer_cidrs(rule)),
        _services(rule.protocol, rule.from_port, rule.to_port, rule.covers_all_ports),
        numbers.number(Decider(Layer.SECURITY_GROUP, rule.rule_id)),
        True,
        rule.covers_all_ports,
        rule.protocol,
    )


def _entry_line(acl_id: str, entry: AclEntry, numbers: RuleNumbers) -> _Line:
    icmp = entry.protocol in ICMP_PROTOCOLS
    low, high = (entry.icmp_type, entry.icmp_code) if icmp else (entry.from_port, entry.to_port)
    return _Line(
        (_interval(entry.cidr),),
        _services(entry.protocol, low, high, entry.covers_all_ports),
        numbers.number(Decider(Layer.NETWORK_ACL, acl_entry_id(acl_id, entry.egress, entry.rule_number))),
        entry.allow,
        entry.covers_all_ports,
        entry.protocol,
    )


# ---- Tables ----------------------------------------------------------------------------------------------------------


class _Classes:
    """Bitmaps that intervals share; the class 0 covers nothing."""

    def __init__(self) -> None:
        self.of: dict[int, int] = {0: 0}

    def number(self, bitmap: int) -> int:
        number = self.of.setdefault(bitmap, len(self.of))
        if number > CLASSES_MAX:
            raise LimitError(f"the rules of an interface make more than {CLASSES_MAX} classes")
        return number

    def words(self, width: int) -> Words:
        """One row for each class: its summary, then `width` words of its bitmap."""
        bits = b"".join(bitmap.to_bytes(width * 8, "little") for bitmap in self.of)
        bitmaps = np.frombuffer(bits, np.uint64).reshape(-1, width)
        summaries = (bitmaps != 0) @ (np.uint64(1) << np.arange(width, dtype=np.uint64))
        return np.column_stack([summaries, bitmaps]).ravel()


def _sweep(ranges: Iterable[tuple[int, Iterable[tuple[int, int]]]]) -> list[tuple[int, int]]:
    """(rule's bit, its ranges, which may overlap) -> (first, bitmap) of each stretch with the same rules, from 0 on."""
    flips: dict[int, int] = {0: 0}
    for bit, own in ranges:
        end = -1
        for first, last in sorted(own):
            if last <= end:
                continue
            if first <= end:  # goes on where the one before ended
                flips[end + 1] ^= 1 << bit
            else:
                flips[first] = flips.get(first, 0) ^ 1 << bit
            end = last
            flips[end + 1] = flips.get(end + 1, 0) ^ 1 << bit
    stretches: list[tuple[int, int]] = []
    bitmap = 0
    for first in sorted(flips):
        bitmap ^= flips[first]
        if not stretches or stretches[-1][1] != bitmap:
            stretches.append((first, bitmap))
    return stretches


def _table(lines: list[_Line], default_number: int) -> Words:
    """A table's words; its own places are relative to its beginning."""
    if len(lines) > RULES_MAX:
        raise LimitError(f"{len(lines)} rules in one direction of an interface, {RULES_MAX} are possible")
    width = max(1, (len(lines) + 63) // 64)
    addresses, services = _Classes(), _Classes()
    four, six = (
        _sweep((bit, [(a, b) for v, a, b in line.intervals if v == version]) for bit, line in enumerate(lines))
        for version in (4, 6)
    )
    four = [(first, bitmap) for first, bitmap in four if first < 1 << 32]
    six = [(first, bitmap) for first, bitmap in six if first < 1 << 128]
    offered = [
        (first, bitmap)
        for first, bitmap in _sweep((bit, line.services) for bit, line in enumerate(lines))
        if first < SERVICES_END
    ]
    open_lines = {
        version: sum(1 << bit for bit, line in enumerate(lines) if line.is_open(version)) for version in (4, 6)
    }
    flags = 0
    for version, tcp, udp in (
        (4, layout.TABLE_TCP_V4, layout.TABLE_UDP_V4),
        (6, layout.TABLE_TCP_V6, layout.TABLE_UDP_V6),
    ):
        for protocol, flag in ((TCP, tcp), (UDP, udp)):
            if any(
                line.is_open(version) and line.covers_all_ports and line.protocol in (ALL_PROTOCOLS, protocol)
                for line in lines
            ):
                flags |= flag

    def openness(bitmap: int) -> int:
        return (layout.SERVICE_OPEN_V4 if bitmap & open_lines[4] else 0) | (
            layout.SERVICE_OPEN_V6 if bitmap & open_lines[6] else 0
        )

    low = (1 << 64) - 1
    parts = [
        [first << 32 | addresses.number(bitmap) for first, bitmap in four],
        [word for first, bitmap in six for word in (first >> 64, first & low, addresses.number(bitmap))],
        [first << 32 | openness(bitmap) << 16 | services.number(bitmap) for first, bitmap in offered],
    ]
    arrays: list[Words] = [np.array(part, np.uint64) for part in parts]
    arrays += [addresses.words(width), services.words(width)]
    arrays.append(np.array([line.number | (layout.RULE_ALLOW if line.allow else 0) << 32 for line in lines], np.uint64))
    places = np.cumsum([HEADER_WORDS, *(len(array) for array in arrays)]).tolist()
    counts = (len(four), len(six), len(offered))
    header = [places[index] | count << 32 for index, count in enumerate(counts)]
    header += [width + 1, places[3] | places[4] << 32, places[5], default_number | flags << 32]
    return np.concatenate([np.array(header, np.uint64), *arrays])


class _Compiler:
    """The tables of one rule book, each made once."""

    def __init__(self, book: RuleBook, numbers: RuleNumbers) -> None:
        self._book, self._numbers = book, numbers
        self._made: dict[tuple[Any, ...], Words] = {}

    def groups(self, group_ids: tuple[str, ...], egress: bool) -> Words:
        def make() -> Words:
            ids = sorted(group_ids)
            rules = [
                rule for group_id in ids for rule in self._book.security_group(group_id).rules if rule.egress == egress
            ]
            rules.sort(key=lambda rule: rule.rule_id)
            denied = self._numbers.number(Decider(Layer.SECURITY_GROUP, ids[0]))
            return _table([_rule_line(self._book, rule, self._numbers) for rule in rules], denied)

        return self._once(("groups", group_ids, egress), make)

    def acl(self, acl_id: str, egress: bool) -> Words:
        def make() -> Words:
            entries = [entry for entry in self._book.network_acl(acl_id).entries if entry.egress == egress]
            entries.sort(key=lambda entry: entry.rule_number)
            denied = self._numbers.number(Decider(Layer.NETWORK_ACL, acl_entry_id(acl_id, egress, None)))
            return _table([_entry_line(acl_id, entry, self._numbers) for entry in entries], denied)

        return self._once(("acl", acl_id, egress), make)

    def inside(self, subnet_cidrs: tuple[str, ...]) -> Words:
        def make() -> Words:
            own = tuple(_interval(cidr) for cidr in (*subnet_cidrs, *LINK_LOCAL))
            return _table([_Line(own, ((0, SERVICES_END - 1),), 0, True, True, ALL_PROTOCOLS)], 0)

        return self._once(("inside", subnet_cidrs), make)

    def _once(self, key: tuple[Any, ...], make: Callable[[], Words]) -> Words:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


# ---- The arena -------------------------------------------------------------------------------------------------------


class Rules:
    """The arena of compiled rules and the policies that lie in it.

    `words` and `policies` are the datapath's own memory (ARENA_WORDS and MAX_SLOTS words of 64 bits). `wait` returns
    when no packet is being judged any more by what `policies` held before. Not safe for several threads.
    """

    def __init__(self, words: Words, policies: Words, wait: Callable[[], None]) -> None:
        self._words, self._policies, self._wait = words, policies, wait
        self._blocks: dict[bytes, int] = {}  # content -> place
        self._lengths: dict[int, int] = {}  # place -> words, of all blocks that are not free
        self._retired: list[int] = []
        self._generation = 0
        for policy in policies[policies != 0].tolist():  # a predecessor's
            self._generation = max(self._generation, policy >> 32)
            for place in self._reach(policy & 0xFFFFFFFF):
                self._lengths[place] = int(words[place - 1])
                self._blocks[words[place : place + self._lengths[place]].tobytes()] = place

    def apply(self, book: RuleBook, wanted: Mapping[int, JudgedBy], numbers: RuleNumbers) -> set[int]:
        """Puts the rules of all `wanted` slots in force; each slot changes at once, and only if its rules did:
        returns those that changed.

        Raises LimitError where there are too many rules or too little room, InputError where the book lacks what a
        slot names; nothing has changed then.
        """
        compiler = _Compiler(book, numbers)
        try:
            placed = {slot: self._place_policy(compiler, judged) for slot, judged in wanted.items()}
        except BaseException:
            self._retire()
            raise
        changed = {slot: at for slot, at in placed.items() if int(self._policies[slot]) & 0xFFFFFFFF != at}
        if changed:
            self._generation = self._generation % 0xFFFFFFFF + 1
        for slot, at in changed.items():
            self._policies[slot] = at | self._generation << 32
        self._retire()
        return set(changed)

    def clear(self, slot: int) -> None:
        """The slot has no rules any more: everything passes, unnamed."""
        self._policies[slot] = 0
        self._retire()

    def collect(self) -> None:
        """A grace period has passed since the last change: what was retired is free."""
        for place in self._retired:
            del self._lengths[place]
        self._retired.clear()

    def in_force(self) -> set[int]:
        """The numbers of all rules of the tables in force."""
        found: set[int] = set()
        for policy in self._policies[self._policies != 0].tolist():
            for table in self._tables(policy & 0xFFFFFFFF):
                words = self._words[table : table + self._lengths[table]]
                found.add(int(words[6]) & 0xFFFFFFFF)
                found.update((words[int(words[5]) :] & np.uint64(0xFFFFFFFF)).tolist())
        return found

    def _place_policy(self, compiler: _Compiler, judged: JudgedBy) -> int:
        flags = layout.POLICY_TRACK_ALWAYS if judged.always_tracked else 0
        pairs = [0, 0]
        inside = 0
        if judged.group_ids is not None:
            flags |= layout.POLICY_GROUPS
            ways = [self._place(compiler.groups(judged.group_ids, egress)) for egress in (False, True)]
            pairs[0] = ways[0] | ways[1] << 32
        if judged.network_acl_id is not None:
            flags |= layout.POLICY_ACL
            ways = [self._place(compiler.acl(judged.network_acl_id, egress)) for egress in (False, True)]
            pairs[1] = ways[0] | ways[1] << 32
            inside = self._place(compiler.inside(judged.subnet_cidrs))
        return self._place(np.array([flags, *pairs, inside], np.uint64))

    def _place(self, content: Words) -> int:
        """Where a block with this content lies; written there if it is new."""
        key = content.tobytes()
        place = self._blocks.get(key)
        if place is None:
            place = self._find_room(len(content))
            self._words[place - 1] = len(content)
            self._words[place : place + len(content)] = content
            self._lengths[place] = len(content)
            self._blocks[key] = place
        return place

    def _find_room(self, length: int) -> int:
        for attempt in range(2):
            end = 0
            for place in sorted(self._lengths):
                if place - 1 - end >= length + 1:
                    return end + 1
                end = place + self._lengths[place]
            if len(self._words) - end >= length + 1:
                return end + 1
            if attempt == 0:
                self._wait()
                self.collect()
        raise LimitError(f"compiled rules need more than {len(self._words) * 8 >> 20} MB")

    def _retire(self) -> None:
        reached = {
            place
            for policy in self._policies[self._policies != 0].tolist()
            for place in self._reach(policy & 0xFFFFFFFF)
        }
        gone = set(self._lengths) - reached - set(self._retired)
        if gone:
            self._retired.extend(gone)
            self._blocks = {content: place for content, place in self._blocks.items() if place not in gone}

    def _tables(self, policy: int) -> list[int]:
        _, groups, acls, inside = self._words[policy : policy + 4].tolist()
        return [place for pair in (groups, acls, inside) for place in (pair & 0xFFFFFFFF, pair >> 32) if place]

    def _reach(self, policy: int) -> list[int]:
        return [policy, *self._tables(policy)]


class OfflineRules:
    """Compiled rules for the native build: memory of its own in place of the kernel's."""

    def __init__(self) -> None:
        self.words: Words = np.zeros(layout.ARENA_WORDS, np.uint64)
        self.policies: Words = np.zeros(layout.MAX_SLOTS, np.uint64)
        self._rules = Rules(self.words, self.policies, lambda: None)

    def apply(self, book: RuleBook, judged: Mapping[int, JudgedBy], numbers: RuleNumbers) -> None:
        """See `Rules.apply`. Not while a capture is being read by these rules."""
        self._rules.apply(book, judged, numbers)
        self._rules.collect()

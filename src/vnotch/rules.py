"""Security groups, network ACLs and prefix lists as plain values: the rule book by which packets are judged.

The server makes these values from its state, agents receive them as JSON inside their configuration, and `verdict.py`
and the datapath's compiled maps decide by them. Nothing here does I/O or decides anything.

The numbers are AWS's (VPC user guide, "Security group rules" and "Control subnet traffic with network ACLs"): protocol
is the IANA number or -1 for all; ports are 0 to 65535 for TCP and UDP; a security group rule for ICMP (1) and ICMPv6
(58) has the type in `from_port` and the code in `to_port`, -1 for any; other protocols have no ports, and whatever
stands there is ignored. CIDRs are canonical: no bit is set behind the prefix.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from ipaddress import ip_address, ip_network
from typing import Any, TypeVar

from vnotch.errors import InputError

ALL_PROTOCOLS = -1
ANY = -1
"""Any ICMP type, any ICMP code."""
ICMP = 1
TCP = 6
UDP = 17
ICMPV6 = 58
PORT_PROTOCOLS = frozenset({TCP, UDP})
ICMP_PROTOCOLS = frozenset({ICMP, ICMPV6})

LAST_PORT = 65535
LAST_RULE_NUMBER = 32766
"""The highest number of an ACL entry; 32767 is what the API shows for the final `*`."""

_ID = {kind: re.compile(rf"{kind}-[0-9A-Za-z][0-9A-Za-z-]{{0,63}}") for kind in ("sgr", "sg", "acl", "pl", "vpc")}


@dataclass(frozen=True)
class SecurityGroupRule:
    """One allow rule of a security group. Exactly one of `cidr`, `group_id` and `prefix_list_id` names the peer.

    `egress` False: an inbound rule, its peer is the source; True: an outbound rule, its peer is the destination.
    """

    rule_id: str
    egress: bool
    protocol: int
    from_port: int
    to_port: int
    cidr: str | None = None
    group_id: str | None = None
    prefix_list_id: str | None = None

    def validate(self, place: str) -> None:
        """Raises InputError that names `place` and what is wrong there."""
        _check_id("sgr", self.rule_id, f"{place}.rule_id")
        _check_bool(self.egress, f"{place}.egress")
        _check_protocol(self.protocol, f"{place}.protocol")
        if self.protocol in ICMP_PROTOCOLS:
            _check_icmp(self.from_port, self.to_port, place, "from_port", "to_port")
        elif self.protocol in PORT_PROTOCOLS:
            _check_ports(self.from_port, self.to_port, place)
        else:
            _check_integer(self.from_port, ANY, LAST_PORT, f"{place}.from_port")
            _check_integer(self.to_port, ANY, LAST_PORT, f"{place}.to_port")
        peers = [peer for peer in (self.cidr, self.group_id, self.prefix_list_id) if peer is not None]
        if len(peers) != 1:
            raise InputError(
                f"{place}: exactly one of cidr, group_id and prefix_list_id must be given, not {len(peers)}"
            )
        if self.cidr is not None:
            _check_cidr(self.cidr, f"{place}.cidr")
        elif self.group_id is not None:
            _check_id("sg", self.group_id, f"{place}.group_id")
        else:
            _check_id("pl", self.prefix_list_id, f"{place}.prefix_list_id")

    @property
    def covers_all_ports(self) -> bool:
        """Whether the rule matches its protocol whatever the ports, or the ICMP type and code, are."""
        if self.protocol in ICMP_PROTOCOLS:
            return self.from_port == ANY
        return self.protocol not in PORT_PROTOCOLS or (self.from_port == 0 and self.to_port == LAST_PORT)


@dataclass(frozen=True)
class SecurityGroup:
    """A security group: what its rules allow is allowed, and replies to it; nothing else is."""

    group_id: str
    vpc_id: str
    name: str
    rules: tuple[SecurityGroupRule, ...] = ()

    def validate(self, place: str) -> None:
        _check_id("sg", self.group_id, f"{place}.group_id")
        _check_id("vpc", self.vpc_id, f"{place}.vpc_id")
        _check_text(self.name, f"{place}.name")
        for number, rule in enumerate(self.rules):
            rule.validate(f"{place}.rules[{number}]")


@dataclass(frozen=True)
class AclEntry:
    """A numbered entry of a network ACL. `cidr` is the source of an inbound entry, the destination of an outbound one.

    `from_port` and `to_port` count for TCP and UDP, `icmp_type` and `icmp_code` for ICMP and ICMPv6 (-1: any); else
    they are -1.
    """

    rule_number: int
    egress: bool
    protocol: int
    allow: bool
    cidr: str
    from_port: int = ANY
    to_port: int = ANY
    icmp_type: int = ANY
    icmp_code: int = ANY

    def validate(self, place: str) -> None:
        _check_integer(self.rule_number, 1, LAST_RULE_NUMBER, f"{place}.rule_number")
        _check_bool(self.egress, f"{place}.egress")
        _check_bool(self.allow, f"{place}.allow")
        _check_protocol(self.protocol, f"{place}.protocol")
        _check_cidr(self.cidr, f"{place}.cidr")
        if self.protocol in PORT_PROTOCOLS:
            _check_ports(self.from_port, self.to_port, place)
        else:
            _check_integer(self.from_port, ANY, LAST_PORT, f"{place}.from_port")
            _check_integer(self.to_port, ANY, LAST_PORT, f"{place}.to_port")
        if self.protocol in ICMP_PROTOCOLS:
            _check_icmp(self.icmp_type, self.icmp_code, place, "icmp_type", "icmp_code")
        else:
            _check_integer(self.icmp_type, ANY, 255, f"{place}.icmp_type")
            _check_integer(self.icmp_code, ANY, 255, f"{place}.icmp_code")

    @property
    def covers_all_ports(self) -> bool:
        """Whether the entry matches its protocol whatever the ports, or the ICMP type and code, are."""
        if self.protocol in ICMP_PROTOCOLS:
            return self.icmp_type == ANY
        return self.protocol not in PORT_PROTOCOLS or (self.from_port == 0 and self.to_port == LAST_PORT)


@dataclass(frozen=True)
class NetworkAcl:
    """A network ACL without its final `*`, which every ACL has in both directions and which denies the rest."""

    acl_id: str
    vpc_id: str
    entries: tuple[AclEntry, ...] = ()

    def validate(self, place: str) -> None:
        _check_id("acl", self.acl_id, f"{place}.acl_id")
        _check_id("vpc", self.vpc_id, f"{place}.vpc_id")
        for number, entry in enumerate(self.entries):
            entry.validate(f"{place}.entries[{number}]")
        numbers = [(entry.egress, entry.rule_number) for entry in self.entries]
        _check_unique([f"{'egress' if egress else 'ingress'}/{number}" for egress, number in numbers], place)


@dataclass(frozen=True)
class PrefixList:
    """A named set of CIDRs that security group rules refer to."""

    prefix_list_id: str
    cidrs: tuple[str, ...] = ()

    def validate(self, place: str) -> None:
        _check_id("pl", self.prefix_list_id, f"{place}.prefix_list_id")
        for number, cidr in enumerate(self.cidrs):
            _check_cidr(cidr, f"{place}.cidrs[{number}]")


@dataclass(frozen=True)
class RuleBook:
    """All that the interfaces of one agent are judged by, and no more.

    `group_members` gives, for each group that a rule refers to, the private addresses (both families, secondary ones
    included) of the interfaces that carry it. A rule that refers to a group without an entry there is stale: it never
    matches.
    """

    security_groups: tuple[SecurityGroup, ...] = ()
    network_acls: tuple[NetworkAcl, ...] = ()
    prefix_lists: tuple[PrefixList, ...] = ()
    group_members: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def validate(self, place: str = "rules") -> None:
        """Raises InputError where a value is out of range, an id comes twice or a prefix list is not there."""
        for number, group in enumerate(self.security_groups):
            group.validate(f"{place}.security_groups[{number}]")
        for number, acl in enumerate(self.network_acls):
            acl.validate(f"{place}.network_acls[{number}]")
        for number, prefix_list in enumerate(self.prefix_lists):
            prefix_list.validate(f"{place}.prefix_lists[{number}]")
        for number, (group_id, addresses) in enumerate(self.group_members):
            _check_id("sg", group_id, f"{place}.group_members[{number}]")
            for index, address in enumerate(addresses):
                _check_address(address, f"{place}.group_members[{number}][{index}]")
        _check_unique([group.group_id for group in self.security_groups], f"{place}.security_groups")
        _check_unique([acl.acl_id for acl in self.network_acls], f"{place}.network_acls")
        _check_unique([prefix_list.prefix_list_id for prefix_list in self.prefix_lists], f"{place}.prefix_lists")
        _check_unique([group_id for group_id, _ in self.group_members], f"{place}.group_members")
        rules = [rule for group in self.security_groups for rule in group.rules]
        _check_unique([rule.rule_id for rule in rules], f"{place}.security_groups")
        known = {prefix_list.prefix_list_id for prefix_list in self.prefix_lists}
        for rule in rules:
            if rule.prefix_list_id is not None and rule.prefix_list_id not in known:
                raise InputError(
                    f"{place}.security_groups: {rule.rule_id} refers to {rule.prefix_list_id}: not in prefix_lists"
                )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any], place: str = "rules") -> RuleBook:
        """The validated rule book; raises InputError that names the place of what is missing, unknown or wrong."""
        _check_members(cls, document, place)
        book = cls(
            security_groups=_values(_security_group, document.get("security_groups", ()), f"{place}.security_groups"),
            network_acls=_values(_network_acl, document.get("network_acls", ()), f"{place}.network_acls"),
            prefix_lists=_values(_prefix_list, document.get("prefix_lists", ()), f"{place}.prefix_lists"),
            group_members=_values(_members, document.get("group_members", ()), f"{place}.group_members"),
        )
        book.validate(place)
        return book

    def security_group(self, group_id: str) -> SecurityGroup:
        """Raises InputError if the book has no such group."""
        return _find(self.security_groups, "group_id", group_id, "security group")

    def network_acl(self, acl_id: str) -> NetworkAcl:
        """Raises InputError if the book has no such ACL."""
        return _find(self.network_acls, "acl_id", acl_id, "network ACL")

    def peer_cidrs(self, rule: SecurityGroupRule) -> tuple[str, ...]:
        """The networks that the rule's peer stands for now; a member of a group is a network of one address."""
        if rule.cidr is not None:
            return (rule.cidr,)
        if rule.prefix_list_id is not None:
            return _find(self.prefix_lists, "prefix_list_id", rule.prefix_list_id, "prefix list").cidrs
        addresses = next((members for group_id, members in self.group_members if group_id == rule.group_id), ())
        return tuple(str(ip_network(address)) for address in addresses)


def acl_entry_id(acl_id: str, egress: bool, rule_number: int | None) -> str:
    """The name of an entry in records: `acl-.../ingress/100`; `acl-.../egress/*` for the final deny (None)."""
    return f"{acl_id}/{'egress' if egress else 'ingress'}/{'*' if rule_number is None else rule_number}"


# ---- From JSON -------------------------------------------------------------------------------------------------------

Value = TypeVar("Value")


def _values(make: Callable[[Any, str], Value], items: Any, place: str) -> tuple[Value, ...]:
    if not isinstance(items, list | tuple):
        raise InputError(f"{place}: must be a list")
    return tuple(make(item, f"{place}[{number}]") for number, item in enumerate(items))


def _security_group(item: Any, place: str) -> SecurityGroup:
    item = _check_members(SecurityGroup, item, place)
    return SecurityGroup(**{**item, "rules": _values(_security_group_rule, item.get("rules", ()), f"{place}.rules")})


def _security_group_rule(item: Any, place: str) -> SecurityGroupRule:
    return SecurityGroupRule(**_check_members(SecurityGroupRule, item, place))


def _network_acl(item: Any, place: str) -> NetworkAcl:
    item = _check_members(NetworkAcl, item, place)
    return NetworkAcl(**{**item, "entries": _values(_acl_entry, item.get("entries", ()), f"{place}.entries")})


def _acl_entry(item: Any, place: str) -> AclEntry:
    return AclEntry(**_check_members(AclEntry, item, place))


def _prefix_list(item: Any, place: str) -> PrefixList:
    item = _check_members(PrefixList, item, place)
    return PrefixList(**{**item, "cidrs": _values(_text, item.get("cidrs", ()), f"{place}.cidrs")})


def _members(item: Any, place: str) -> tuple[str, tuple[str, ...]]:
    if not isinstance(item, list | tuple) or len(item) != 2:
        raise InputError(f"{place}: must be a pair of a group id and its addresses")
    return _text(item[0], place), _values(_text, item[1], place)


def _text(item: Any, place: str) -> str:
    _check_text(item, place)
    return str(item)


def _check_members(kind: type[Any], item: Any, place: str) -> Mapping[str, Any]:
    if not isinstance(item, Mapping):
        raise InputError(f"{place}: must be an object")
    names = {field.name for field in fields(kind)}
    unknown = sorted(set(item) - names)
    if unknown:
        raise InputError(f"{place}: unknown member {unknown[0]!r}; known are {', '.join(sorted(names))}")
    missing = sorted(field.name for field in fields(kind) if field.default is MISSING and field.name not in item)
    if missing:
        raise InputError(f"{place}: {missing[0]!r} is missing")
    return item


# ---- Checks of single values -----------------------------------------------------------------------------------------


def _check_id(kind: str, value: object, place: str) -> None:
    if not isinstance(value, str) or not _ID[kind].fullmatch(value):
        raise InputError(f"{place}: {value!r} is not an id of the form {kind}-...")


def _check_text(value: object, place: str) -> None:
    if not isinstance(value, str):
        raise InputError(f"{place}: {value!r} is not text")


def _check_bool(value: object, place: str) -> None:
    if not isinstance(value, bool):
        raise InputError(f"{place}: {value!r} is neither true nor false")


def _check_integer(value: object, low: int, high: int, place: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InputError(f"{place}: {value!r} is not an integer from {low} to {high}")


def _check_protocol(value: object, place: str) -> None:
    _check_integer(value, ALL_PROTOCOLS, 255, place)


def _check_ports(low: int, high: int, place: str) -> None:
    _check_integer(low, 0, LAST_PORT, f"{place}.from_port")
    _check_integer(high, 0, LAST_PORT, f"{place}.to_port")
    if low > high:
        raise InputError(f"{place}: from_port {low} is above to_port {high}")


def _check_icmp(kind: int, code: int, place: str, kind_name: str, code_name: str) -> None:
    _check_integer(kind, ANY, 255, f"{place}.{kind_name}")
    _check_integer(code, ANY, 255, f"{place}.{code_name}")
    if kind == ANY and code != ANY:
        raise InputError(f"{place}.{code_name}: with any ICMP type (-1) the code must be -1 too, not {code}")


def _check_cidr(value: object, place: str) -> None:
    try:
        network = ip_network(value)  # type: ignore[arg-type]
    except (ValueError, TypeError) as error:
        raise InputError(f"{place}: {error}") from error
    if not isinstance(value, str) or str(network) != value:
        raise InputError(f"{place}: {value!r} must be written {str(network)!r}")


def _check_address(value: object, place: str) -> None:
    try:
        address = ip_address(value)  # type: ignore[arg-type]
    except (ValueError, TypeError) as error:
        raise InputError(f"{place}: {error}") from error
    if not isinstance(value, str) or str(address) != value:
        raise InputError(f"{place}: {value!r} must be written {str(address)!r}")


def _check_unique(names: Sequence[str], place: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InputError(f"{place}: {name} comes twice")
        seen.add(name)


def _find(items: Sequence[Value], member: str, wanted: str, what: str) -> Value:
    found = next((item for item in items if getattr(item, member) == wanted), None)
    if found is None:
        raise InputError(f"the rule book has no {what} {wanted}")
    return found

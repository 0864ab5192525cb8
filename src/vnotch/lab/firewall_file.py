"""The tables [[security_group]], [[network_acl]] and [[prefix_list]] of a topology file, checked.

Each refusal names file, line and what would be right; a rule's line is its own, also inside a list.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_network
from typing import NoReturn, TypeVar

from vnotch.lab.firewall import (
    ENTRIES_MAX,
    ENTRY_RIGHT,
    GROUPS_MAX,
    RULE_RIGHT,
    RULES_MAX,
    GroupRule,
    NetworkAcl,
    PrefixList,
    SecurityGroup,
    parse_entry,
    parse_rule,
)
from vnotch.lab.toml_source import Table
from vnotch.rules import AclEntry

TABLES = ("security_group", "network_acl", "prefix_list")
_GROUP = ("name", "description", "ingress", "egress")
_ACL = ("name", "ingress", "egress")
_LIST = ("name", "cidrs")
_DIRECTIONS = {False: "ingress", True: "egress"}

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,99}")
_NAME_RIGHT = (
    "a name has 1 to 100 characters of a-z, A-Z, 0-9, _, . and -, begins with a letter or digit, and is unique"
)
_CIDRS_RIGHT = 'for instance cidrs = ["198.51.100.21/32", "198.51.100.22/32"], all IPv4 or all IPv6'

T = TypeVar("T", GroupRule, AclEntry)


@dataclass(frozen=True)
class Firewall:
    """What the file has of groups, ACLs and lists; every reference resolves."""

    security_groups: tuple[SecurityGroup, ...] = ()
    network_acls: tuple[NetworkAcl, ...] = ()
    prefix_lists: tuple[PrefixList, ...] = ()


def read_firewall(top: Table) -> Firewall:
    lists = tuple(_prefix_list(table) for table in _named(top.tables("prefix_list", _LIST)))
    acls = tuple(_network_acl(table) for table in _named(top.tables("network_acl", _ACL)))
    tables = _named(top.tables("security_group", _GROUP))
    groups = tuple(_security_group(table) for table in tables)
    known = {"group": [group.name for group in groups], "prefix list": [each.name for each in lists]}
    for table, group in zip(tables, groups, strict=True):
        _check_references(table, group, known)
    return Firewall(groups, acls, lists)


def group_names(table: Table, firewall: Firewall) -> tuple[str, ...]:
    """The groups of an ENI; none: it gets the VPC's default group, as on AWS."""
    known = [group.name for group in firewall.security_groups]
    right = f"groups of the file: {', '.join(known) or 'there are none'}"
    names = table.texts("security_groups", right) or ()
    for number, name in enumerate(names):
        if name not in known:
            _refuse(table, "security_groups", number, f"there is no security group {name!r}", right)
        if name in names[:number]:
            _refuse(table, "security_groups", number, f"the security group {name!r} is there twice", "once is enough")
    if len(names) > GROUPS_MAX:
        table.refuse("security_groups", f"{len(names)} security groups", f"an interface has at most {GROUPS_MAX}")
    return names


def acl_name(table: Table, firewall: Firewall) -> str | None:
    """The network ACL of a subnet; None: the VPC's default one, as on AWS."""
    known = ", ".join(acl.name for acl in firewall.network_acls) or "there are none"
    name = table.optional_text("network_acl", f"an ACL of the file: {known}")
    if name is not None and name not in {acl.name for acl in firewall.network_acls}:
        table.refuse("network_acl", f"there is no network ACL {name!r}", f"ACLs of the file: {known}")
    return name


def _named(tables: list[Table]) -> list[Table]:
    """Tables of one kind whose names are right and unique."""
    seen: dict[str, int] = {}
    for table in tables:
        name = table.text("name", _NAME_RIGHT)
        if not _NAME.fullmatch(name):
            table.refuse("name", f"{name!r} is no name", _NAME_RIGHT)
        if name.lower() == "default" or name.lower().startswith("sg-"):
            table.refuse("name", f"AWS reserves the name {name!r}", "choose another")
        if name.lower() in seen:
            table.refuse("name", f"the name {name!r} is there twice, first on line {seen[name.lower()]}", _NAME_RIGHT)
        seen[name.lower()] = table.source.line((*table.place, "name"))
    return tables


def _security_group(table: Table) -> SecurityGroup:
    rules: list[GroupRule] = []
    for egress in (False, True):
        mine = _parsed(table, egress, parse_rule, RULE_RIGHT[egress])
        for number, rule in enumerate(mine):
            if rule in mine[:number]:
                _refuse(table, _DIRECTIONS[egress], number, "the same rule is there twice", "once is enough")
        if len(mine) > RULES_MAX:
            table.refuse(_DIRECTIONS[egress], f"{len(mine)} rules", f"a group has at most {RULES_MAX} a direction")
        rules += mine
    name = table.text("name", _NAME_RIGHT)
    description = table.optional_text("description", "what the group is for") or name
    return SecurityGroup(name, description, tuple(rules), "egress" in table.values)


def _network_acl(table: Table) -> NetworkAcl:
    entries: list[AclEntry] = []
    for egress in (False, True):
        mine = _parsed(table, egress, parse_entry, ENTRY_RIGHT[egress])
        for number, entry in enumerate(mine):
            if any(earlier.rule_number == entry.rule_number for earlier in mine[:number]):
                what = f"the number {entry.rule_number} is there twice"
                _refuse(table, _DIRECTIONS[egress], number, what, "numbers are unique in a direction")
        if len(mine) > ENTRIES_MAX:
            table.refuse(_DIRECTIONS[egress], f"{len(mine)} entries", f"an ACL has at most {ENTRIES_MAX} a direction")
        entries += mine
    return NetworkAcl(table.text("name", _NAME_RIGHT), tuple(entries))


def _prefix_list(table: Table) -> PrefixList:
    texts = table.texts("cidrs", _CIDRS_RIGHT)
    if not texts:
        table.refuse("cidrs" if texts is not None else None, "[prefix_list] has no 'cidrs'", _CIDRS_RIGHT)
    cidrs: list[str] = []
    for number, text in enumerate(texts):
        try:
            network = ip_network(text)
        except ValueError:
            _refuse(table, "cidrs", number, f"{text!r} is no CIDR block", _CIDRS_RIGHT)
        if cidrs and ip_network(cidrs[0]).version != network.version:
            _refuse(table, "cidrs", number, f"{text} is of the other family than {cidrs[0]}", _CIDRS_RIGHT)
        if str(network) in cidrs:
            _refuse(table, "cidrs", number, f"{text} is there twice", "once is enough")
        cidrs.append(str(network))
    return PrefixList(table.text("name", _NAME_RIGHT), tuple(cidrs))


def _parsed(table: Table, egress: bool, parse: Callable[[str, bool], T], right: str) -> list[T]:
    key = _DIRECTIONS[egress]
    found: list[T] = []
    for number, text in enumerate(table.texts(key, right) or ()):
        try:
            found.append(parse(text, egress))
        except ValueError as error:
            _refuse(table, key, number, str(error), right)
    return found


def _check_references(table: Table, group: SecurityGroup, known: dict[str, list[str]]) -> None:
    counts = {False: 0, True: 0}
    for rule in group.rules:
        for kind, name in (("group", rule.group), ("prefix list", rule.prefix_list)):
            if name is not None and name not in known[kind]:
                right = f"the file has: {', '.join(known[kind]) or 'none'}"
                _refuse(table, _DIRECTIONS[rule.egress], counts[rule.egress], f"there is no {kind} {name!r}", right)
        counts[rule.egress] += 1


def _refuse(table: Table, key: str, number: int, what: str, right: str) -> NoReturn:
    table.source.refuse((*table.place, key, number), what, right)

"""What of security groups, network ACLs and prefix lists an agent is told, and which agents a change of them concerns.

An agent is told the groups that its interfaces carry, the network ACLs of their subnets, the prefix lists and the
members of the groups that those groups' rules refer to, and nothing else. The functions `agents_...` are the same
relations read backwards, so that whoever changes a row touches exactly the agents whose rule book has it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session, selectinload

from vnotch.rules import NetworkAcl, PrefixList, RuleBook, SecurityGroup
from vnotch.store import firewall, network


def rule_book(session: Session, interfaces: Collection[network.NetworkInterface], acl_ids: Iterable[str]) -> RuleBook:
    """The rule book of an agent with these interfaces, in subnets with these network ACLs."""
    group_ids = {group.group_id for interface in interfaces for group in interface.groups}
    groups = tuple(_security_group(row) for row in _groups(session, group_ids))
    rules = [rule for group in groups for rule in group.rules]
    return RuleBook(
        security_groups=groups,
        network_acls=_network_acls(session, set(acl_ids)),
        prefix_lists=_prefix_lists(session, {rule.prefix_list_id for rule in rules if rule.prefix_list_id}),
        group_members=_group_members(session, {rule.group_id for rule in rules if rule.group_id}),
    )


def acl_ids_of(session: Session, subnet_ids: Iterable[str]) -> dict[str, str]:
    """Subnet id -> the id of its network ACL."""
    row = firewall.NetworkAclAssociation
    rows = session.execute(select(row.subnet_id, row.acl_id).where(row.subnet_id.in_(set(subnet_ids))))
    return {subnet_id: acl_id for subnet_id, acl_id in rows}  # noqa: C416 - a Row is no pair to mypy


def _groups(session: Session, group_ids: set[str]) -> Iterable[firewall.SecurityGroup]:
    row = firewall.SecurityGroup
    loaded = selectinload(row.rules)
    return session.scalars(select(row).where(row.group_id.in_(group_ids)).order_by(row.number).options(loaded))


def _security_group(row: firewall.SecurityGroup) -> SecurityGroup:
    return SecurityGroup(row.group_id, row.vpc_id, row.name, tuple(rule.value() for rule in row.rules))


def _network_acls(session: Session, acl_ids: set[str]) -> tuple[NetworkAcl, ...]:
    row = firewall.NetworkAcl
    rows = session.scalars(select(row).where(row.acl_id.in_(acl_ids)).order_by(row.number))
    return tuple(NetworkAcl(acl.acl_id, acl.vpc_id, tuple(entry.value() for entry in acl.entries)) for acl in rows)


def _prefix_lists(session: Session, prefix_list_ids: set[str]) -> tuple[PrefixList, ...]:
    row = firewall.PrefixListEntry
    cidrs: dict[str, list[str]] = {prefix_list_id: [] for prefix_list_id in sorted(prefix_list_ids)}
    current = select(row).where(row.prefix_list_id.in_(prefix_list_ids), row.removed.is_(None)).order_by(row.number)
    for entry in session.scalars(current):
        cidrs[entry.prefix_list_id].append(entry.cidr)
    return tuple(PrefixList(prefix_list_id, tuple(values)) for prefix_list_id, values in cidrs.items())


def _group_members(session: Session, group_ids: set[str]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Every group is there, also one that no interface carries: only then does a rule that refers to it not look like
    one whose group is gone."""
    members: dict[str, list[str]] = {group_id: [] for group_id in sorted(group_ids)}
    held, address = firewall.interface_groups, network.Address
    rows = session.execute(
        select(held.c.group_id, address.address)
        .join(address, address.interface_id == held.c.interface_id)
        .where(held.c.group_id.in_(group_ids))
        .order_by(address.number)
    )
    for group_id, text in rows:
        members[group_id].append(text)
    return tuple((group_id, tuple(texts)) for group_id, texts in members.items())


# --- whom a change concerns


def agents_with_groups(session: Session, group_ids: Iterable[str]) -> set[str]:
    """The agents with a bound interface that carries one of the groups: their rules are what such an agent is told."""
    return set(session.scalars(_AGENTS_WITH_GROUPS, {"group_ids": list(group_ids)}))


_AGENTS_WITH_GROUPS = (
    select(network.Binding.agent)
    .join(firewall.interface_groups, firewall.interface_groups.c.interface_id == network.Binding.interface_id)
    .where(firewall.interface_groups.c.group_id.in_(bindparam("group_ids", expanding=True)))
    .distinct()
)


def agents_referring_to(session: Session, group_ids: Iterable[str]) -> set[str]:
    """The agents with a bound interface under a rule that refers to one of the groups: they are told its members."""
    held, rule = firewall.interface_groups, firewall.SecurityGroupRule
    return set(
        session.scalars(
            select(network.Binding.agent)
            .join(held, held.c.interface_id == network.Binding.interface_id)
            .join(rule, rule.group_id == held.c.group_id)
            .where(rule.referenced_group_id.in_(set(group_ids)))
            .distinct()
        )
    )


def agents_with_prefix_list(session: Session, prefix_list_id: str) -> set[str]:
    rule = firewall.SecurityGroupRule
    referring = select(rule.group_id).where(rule.prefix_list_id == prefix_list_id).distinct()
    return agents_with_groups(session, session.scalars(referring))


def agents_with_acl(session: Session, acl_id: str) -> set[str]:
    """The agents with a bound interface in a subnet that has the network ACL."""
    interface, association = network.NetworkInterface, firewall.NetworkAclAssociation
    return set(
        session.scalars(
            select(network.Binding.agent)
            .join(interface, interface.interface_id == network.Binding.interface_id)
            .join(association, association.subnet_id == interface.subnet_id)
            .where(association.acl_id == acl_id)
            .distinct()
        )
    )


def groups_of(session: Session, interface_id: str) -> set[str]:
    """The ids of the groups that an interface carries."""
    held = firewall.interface_groups
    return set(session.scalars(select(held.c.group_id).where(held.c.interface_id == interface_id)))

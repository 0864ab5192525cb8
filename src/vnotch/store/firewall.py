"""Security groups, network ACLs and prefix lists as rows, and what every VPC has of them by default.

Rules that the tables keep:
- Every VPC has one default security group and one default network ACL, made with it (`make_defaults`) or, for a state
  of a release that had none, when the state is next opened (`complete`).
- Every subnet has one network ACL association; every interface has a security group, except the kinds in `GROUPLESS`.
- A prefix list's entry belongs to the versions from `added` to before `removed`, so old versions stay readable.
- Protocols, ports, types and codes are numbers as in `vnotch.rules`; CIDRs are canonical.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    UniqueConstraint,
    exists,
    insert,
    select,
)
from sqlalchemy.orm import Mapped, Session, mapped_column, relationship

from vnotch import rules
from vnotch.store import network
from vnotch.store.network import Tag, tags_of
from vnotch.store.state import Base, new_id

DEFAULT_NAME = "default"
DEFAULT_DESCRIPTION = "default VPC security group"
EVERYWHERE = {4: "0.0.0.0/0", 6: "::/0"}
DEFAULT_RULE_NUMBERS = {4: 100, 6: 101}
"""The entries of a default network ACL (VPC user guide, "Default network ACL")."""

GROUPLESS = ("nat_gateway", "transit_gateway", "gateway_load_balancer", "gateway_load_balancer_endpoint")
"""Interface types without security groups (VPC user guide: "You cannot associate a security group with a NAT gateway";
transit gateway and Gateway Load Balancer guides)."""

PREFIX_LIST_VERSIONS_MAX = 1000
"""Versions that are kept of a prefix list (VPC user guide, quotas); older ones are forgotten."""


class SecurityGroup(Base):
    __tablename__ = "security_groups"
    __table_args__ = (UniqueConstraint("vpc_id", "name_key"),)

    number: Mapped[int] = mapped_column(primary_key=True)
    group_id: Mapped[str] = mapped_column(unique=True)
    vpc_id: Mapped[str] = mapped_column(ForeignKey("vpcs.vpc_id", ondelete="CASCADE"), index=True)
    name: Mapped[str]
    name_key: Mapped[str]  # in lower case: names are case-insensitive (API CreateSecurityGroup)
    description: Mapped[str]
    is_default: Mapped[bool] = mapped_column(default=False)
    created_ms: Mapped[int] = mapped_column(BigInteger)

    rules: Mapped[list[SecurityGroupRule]] = relationship(
        order_by="SecurityGroupRule.number",
        foreign_keys="SecurityGroupRule.group_id",
        cascade="all, delete-orphan",
        passive_deletes=True,
    )
    tags: Mapped[list[Tag]] = tags_of("SecurityGroup", "group_id", lazy="select")


class SecurityGroupRule(Base):
    """One rule; exactly one of `cidr`, `referenced_group_id` and `prefix_list_id` is its peer."""

    __tablename__ = "security_group_rules"

    number: Mapped[int] = mapped_column(primary_key=True)
    rule_id: Mapped[str] = mapped_column(unique=True)
    group_id: Mapped[str] = mapped_column(ForeignKey("security_groups.group_id", ondelete="CASCADE"), index=True)
    egress: Mapped[bool]
    protocol: Mapped[int]  # -1: all
    from_port: Mapped[int]  # ICMP: type, -1: any
    to_port: Mapped[int]  # ICMP: code, -1: any
    cidr: Mapped[str | None]
    referenced_group_id: Mapped[str | None] = mapped_column(
        # Of a VPC's deletion, which takes its groups in any order; DeleteSecurityGroup refuses first.
        ForeignKey("security_groups.group_id", ondelete="CASCADE"),
        index=True,
    )
    prefix_list_id: Mapped[str | None] = mapped_column(ForeignKey("prefix_lists.prefix_list_id"), index=True)
    description: Mapped[str | None]

    tags: Mapped[list[Tag]] = tags_of("SecurityGroupRule", "rule_id", lazy="select")

    def value(self) -> rules.SecurityGroupRule:
        return rules.SecurityGroupRule(
            rule_id=self.rule_id,
            egress=self.egress,
            protocol=self.protocol,
            from_port=self.from_port,
            to_port=self.to_port,
            cidr=self.cidr,
            group_id=self.referenced_group_id,
            prefix_list_id=self.prefix_list_id,
        )


interface_groups = Table(
    "interface_groups",
    Base.metadata,
    Column("interface_id", String, ForeignKey("network_interfaces.interface_id", ondelete="CASCADE"), primary_key=True),
    Column("group_id", String, ForeignKey("security_groups.group_id"), primary_key=True),
    Column("position", Integer, nullable=False),  # the order that the caller gave
)
Index("interface_groups_by_group", interface_groups.c.group_id)

network.NetworkInterface.groups = relationship(  # type: ignore[assignment]
    SecurityGroup,
    secondary=interface_groups,
    order_by=interface_groups.c.position,
    lazy="selectin",
    viewonly=True,
)


class NetworkAcl(Base):
    __tablename__ = "network_acls"

    number: Mapped[int] = mapped_column(primary_key=True)
    acl_id: Mapped[str] = mapped_column(unique=True)
    vpc_id: Mapped[str] = mapped_column(ForeignKey("vpcs.vpc_id", ondelete="CASCADE"), index=True)
    is_default: Mapped[bool] = mapped_column(default=False)
    created_ms: Mapped[int] = mapped_column(BigInteger)

    vpc: Mapped[network.Vpc] = relationship(lazy="select", viewonly=True)
    entries: Mapped[list[NetworkAclEntry]] = relationship(
        order_by="(NetworkAclEntry.egress.desc(), NetworkAclEntry.rule_number)",
        lazy="selectin",
        cascade="all, delete-orphan",
        passive_deletes=True,
    )
    associations: Mapped[list[NetworkAclAssociation]] = relationship(
        order_by="NetworkAclAssociation.number", lazy="selectin", viewonly=True
    )
    tags: Mapped[list[Tag]] = tags_of("NetworkAcl", "acl_id")

    def entry(self, egress: bool, rule_number: int) -> NetworkAclEntry | None:
        return next((row for row in self.entries if (row.egress, row.rule_number) == (egress, rule_number)), None)


class NetworkAclEntry(Base):
    __tablename__ = "network_acl_entries"
    __table_args__ = (UniqueConstraint("acl_id", "egress", "rule_number"),)

    number: Mapped[int] = mapped_column(primary_key=True)
    acl_id: Mapped[str] = mapped_column(ForeignKey("network_acls.acl_id", ondelete="CASCADE"))
    rule_number: Mapped[int]  # 1 to 32766
    egress: Mapped[bool]
    protocol: Mapped[int]  # -1: all
    allow: Mapped[bool]
    cidr: Mapped[str]
    from_port: Mapped[int]  # -1 but for TCP and UDP
    to_port: Mapped[int]
    icmp_type: Mapped[int]  # -1 but for ICMP and ICMPv6, and there: any
    icmp_code: Mapped[int]

    def value(self) -> rules.AclEntry:
        return rules.AclEntry(
            rule_number=self.rule_number,
            egress=self.egress,
            protocol=self.protocol,
            allow=self.allow,
            cidr=self.cidr,
            from_port=self.from_port,
            to_port=self.to_port,
            icmp_type=self.icmp_type,
            icmp_code=self.icmp_code,
        )


class NetworkAclAssociation(Base):
    """Which network ACL a subnet has. It ends with the subnet."""

    __tablename__ = "network_acl_associations"

    number: Mapped[int] = mapped_column(primary_key=True)
    association_id: Mapped[str] = mapped_column(unique=True)
    subnet_id: Mapped[str] = mapped_column(ForeignKey("subnets.subnet_id", ondelete="CASCADE"), unique=True)
    acl_id: Mapped[str] = mapped_column(ForeignKey("network_acls.acl_id"), index=True)


class PrefixList(Base):
    __tablename__ = "prefix_lists"

    number: Mapped[int] = mapped_column(primary_key=True)
    prefix_list_id: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    family: Mapped[int]  # 4 or 6
    max_entries: Mapped[int]
    version: Mapped[int] = mapped_column(BigInteger)  # counts from 1; each change of the entries makes the next
    state: Mapped[str]  # create-complete, modify-complete or restore-complete
    created_ms: Mapped[int] = mapped_column(BigInteger)

    tags: Mapped[list[Tag]] = tags_of("PrefixList", "prefix_list_id")


class PrefixListEntry(Base):
    """An entry in the versions from `added` to before `removed` (None: in the current one too)."""

    __tablename__ = "prefix_list_entries"

    number: Mapped[int] = mapped_column(primary_key=True)
    prefix_list_id: Mapped[str] = mapped_column(
        ForeignKey("prefix_lists.prefix_list_id", ondelete="CASCADE"), index=True
    )
    cidr: Mapped[str]
    description: Mapped[str | None]
    added: Mapped[int] = mapped_column(BigInteger)
    removed: Mapped[int | None] = mapped_column(BigInteger)


# --- what every VPC has


def make_defaults(session: Session, vpc: network.Vpc, now_ms: int) -> tuple[SecurityGroup, NetworkAcl]:
    """The default security group and network ACL of a new VPC (VPC user guide, "Default security groups" and "Default
    network ACL"): in from the group itself, out to everywhere; the ACL lets everything through. IPv6 where the VPC has
    it."""
    families = sorted({cidr.family for cidr in vpc.cidrs})
    group = SecurityGroup(
        group_id=new_id("sg"),
        vpc_id=vpc.vpc_id,
        name=DEFAULT_NAME,
        name_key=DEFAULT_NAME,
        description=DEFAULT_DESCRIPTION,
        is_default=True,
        created_ms=now_ms,
    )
    from_itself = all_traffic_rule(egress=False)
    from_itself.referenced_group_id = group.group_id
    group.rules = [from_itself, *outbound_rules(families)]
    acl = NetworkAcl(acl_id=new_id("acl"), vpc_id=vpc.vpc_id, is_default=True, created_ms=now_ms)
    acl.entries = [entry for family in families for entry in _open_entries(family)]
    session.add_all([group, acl])
    session.flush()
    return group, acl


def insert_group(
    session: Session, group_id: str, vpc_id: str, name: str, description: str, families: Iterable[int], now_ms: int
) -> None:
    """A new group with the rules that it begins with (`outbound_rules`)."""
    names = {"group_id": group_id, "vpc_id": vpc_id, "name": name, "name_key": name.lower()}
    session.connection().execute(_INSERT_GROUP, names | {"description": description, "created_ms": now_ms})
    insert_rules(session, group_id, outbound_rules(families))


def insert_rules(session: Session, group_id: str, rows: Iterable[SecurityGroupRule]) -> None:
    """New rules of a group; `rows` stay outside the session."""
    values = []
    for row in rows:
        row.group_id = group_id
        values.append({column: getattr(row, column) for column in _RULE_COLUMNS})
    session.connection().execute(_INSERT_RULE, values)


# Of the tables and not of the entities: the ORM takes eight times as long for a row that nobody reads again.
_INSERT_GROUP = insert(SecurityGroup.__table__)  # type: ignore[arg-type]
_INSERT_RULE = insert(SecurityGroupRule.__table__)  # type: ignore[arg-type]
_RULE_COLUMNS = [column.key for column in SecurityGroupRule.__table__.columns if column.key != "number"]


def all_traffic_rule(egress: bool, cidr: str | None = None) -> SecurityGroupRule:
    return SecurityGroupRule(
        rule_id=new_id("sgr"),
        egress=egress,
        protocol=rules.ALL_PROTOCOLS,
        from_port=rules.ANY,
        to_port=rules.ANY,
        cidr=cidr,
    )


def outbound_rules(families: Iterable[int]) -> list[SecurityGroupRule]:
    """What a new security group lets out: everything (VPC user guide, "Security group basics")."""
    return [all_traffic_rule(egress=True, cidr=EVERYWHERE[family]) for family in families]


def _open_entries(family: int) -> list[NetworkAclEntry]:
    number = DEFAULT_RULE_NUMBERS[family]
    return [
        NetworkAclEntry(
            rule_number=number,
            egress=egress,
            protocol=rules.ALL_PROTOCOLS,
            allow=True,
            cidr=EVERYWHERE[family],
            from_port=rules.ANY,
            to_port=rules.ANY,
            icmp_type=rules.ANY,
            icmp_code=rules.ANY,
        )
        for egress in (False, True)
    ]


def add_ipv6_defaults(session: Session, vpc_id: str) -> None:
    """When a VPC gets its first IPv6 block: groups whose outbound rules nobody has changed let IPv6 out too, and a
    default network ACL that nobody has changed lets it through (VPC user guide, "Default network ACL", and "Security
    group rules": added "if you associate an IPv6 CIDR block with your VPC")."""
    for group in session.scalars(select(SecurityGroup).where(SecurityGroup.vpc_id == vpc_id)):
        outbound = [(rule.protocol, rule.cidr) for rule in group.rules if rule.egress]
        if outbound == [(rules.ALL_PROTOCOLS, EVERYWHERE[4])]:
            group.rules += outbound_rules([6])
    acl = session.scalar(select(NetworkAcl).where(NetworkAcl.vpc_id == vpc_id, NetworkAcl.is_default))
    unchanged = {entry.value() for entry in _open_entries(4)}
    if acl is not None and {entry.value() for entry in acl.entries} == unchanged:
        acl.entries += _open_entries(6)
    session.flush()


def associate_default(session: Session, subnet: network.Subnet) -> None:
    """A new subnet has its VPC's default network ACL."""
    acl_id = session.scalar(select(NetworkAcl.acl_id).where(NetworkAcl.vpc_id == subnet.vpc_id, NetworkAcl.is_default))
    association = NetworkAclAssociation(association_id=new_id("aclassoc"), subnet_id=subnet.subnet_id, acl_id=acl_id)
    session.add(association)
    session.flush()


def default_group_id(session: Session, vpc_id: str) -> str:
    group = SecurityGroup
    found = session.scalar(select(group.group_id).where(group.vpc_id == vpc_id, group.is_default))
    assert found is not None  # made with the VPC
    return found


def default_ids(session: Session, vpc_id: str) -> list[str]:
    """The ids of what a VPC has by default and of what is below that, which go with it."""
    group, acl = SecurityGroup, NetworkAcl
    groups = list(session.scalars(select(group.group_id).where(group.vpc_id == vpc_id, group.is_default)))
    rule_ids = session.scalars(select(SecurityGroupRule.rule_id).where(SecurityGroupRule.group_id.in_(groups)))
    return [*groups, *rule_ids, *session.scalars(select(acl.acl_id).where(acl.vpc_id == vpc_id, acl.is_default))]


def set_groups(session: Session, interface_id: str, group_ids: Iterable[str]) -> None:
    """Replaces the groups of an interface; the callers say which groups are right and tell the agents."""
    session.execute(interface_groups.delete().where(interface_groups.c.interface_id == interface_id))
    rows = [
        {"interface_id": interface_id, "group_id": group_id, "position": position}
        for position, group_id in enumerate(group_ids)
    ]
    if rows:
        session.execute(insert(interface_groups), rows)


def fit_groups(session: Session, interface: network.NetworkInterface, interface_type: str) -> set[str]:
    """An interface of a kind without security groups loses them; one of another kind that has none gets the VPC's
    default. Returns the groups whose members that changed."""
    held = set(
        session.scalars(
            select(interface_groups.c.group_id).where(interface_groups.c.interface_id == interface.interface_id)
        )
    )
    if (interface_type in GROUPLESS) == (not held):
        return set()
    wanted = [] if held else [default_group_id(session, interface.vpc_id)]
    set_groups(session, interface.interface_id, wanted)
    return held or set(wanted)


def complete(session: Session) -> list[str]:
    """Gives VPCs, subnets and interfaces of a state that had no firewall what they would have been made with.
    Returns the ids of those VPCs."""
    now_ms = time.time_ns() // 1_000_000
    has_defaults = exists().where(SecurityGroup.vpc_id == network.Vpc.vpc_id, SecurityGroup.is_default)
    vpcs = session.scalars(select(network.Vpc).where(~has_defaults)).all()
    for vpc in vpcs:
        make_defaults(session, vpc, now_ms)
        for subnet in session.scalars(select(network.Subnet).where(network.Subnet.vpc_id == vpc.vpc_id)).all():
            associate_default(session, subnet)
        interfaces = select(network.NetworkInterface).where(network.NetworkInterface.vpc_id == vpc.vpc_id)
        for interface in session.scalars(interfaces).all():
            fit_groups(session, interface, interface.interface_type)
    return [vpc.vpc_id for vpc in vpcs]

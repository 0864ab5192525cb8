"""Internet gateways, NAT gateways and route tables as rows, and which routes the interfaces of a subnet follow.

Rules that the tables keep:
- Every VPC has one main route table: the one whose association has no subnet. It is made with the VPC (`make_main`) or,
  for a state of a release that had none, when the state is next opened (`complete`). A subnet without an association of
  its own follows it.
- The routes to a VPC's own CIDR blocks are not stored: they follow from the blocks.
- `Route.target` is the id that the caller named and no foreign key: on AWS a route outlives what it leads to, as a
  blackhole.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable

from sqlalchemy import BigInteger, ForeignKey, UniqueConstraint, exists, or_, select
from sqlalchemy.orm import Mapped, Session, mapped_column, relationship

from vnotch.store import network
from vnotch.store.network import Tag, tags_of
from vnotch.store.state import Base, new_id


class InternetGateway(Base):
    __tablename__ = "internet_gateways"

    number: Mapped[int] = mapped_column(primary_key=True)
    gateway_id: Mapped[str] = mapped_column(unique=True)
    vpc_id: Mapped[str | None] = mapped_column(ForeignKey("vpcs.vpc_id"), unique=True)  # None: not attached
    created_ms: Mapped[int] = mapped_column(BigInteger)

    tags: Mapped[list[Tag]] = tags_of("InternetGateway", "gateway_id")


class NatGateway(Base):
    """A NAT gateway and the interface that it has. Its public address is the business of the network round it."""

    __tablename__ = "nat_gateways"

    number: Mapped[int] = mapped_column(primary_key=True)
    nat_gateway_id: Mapped[str] = mapped_column(unique=True)
    subnet_id: Mapped[str] = mapped_column(ForeignKey("subnets.subnet_id"), index=True)
    vpc_id: Mapped[str] = mapped_column(ForeignKey("vpcs.vpc_id"), index=True)
    interface_id: Mapped[str] = mapped_column(ForeignKey("network_interfaces.interface_id"), unique=True)
    connectivity_type: Mapped[str]  # public or private
    created_ms: Mapped[int] = mapped_column(BigInteger)

    interface: Mapped[network.NetworkInterface] = relationship(lazy="selectin", viewonly=True)
    tags: Mapped[list[Tag]] = tags_of("NatGateway", "nat_gateway_id")


class RouteTable(Base):
    __tablename__ = "route_tables"

    number: Mapped[int] = mapped_column(primary_key=True)
    route_table_id: Mapped[str] = mapped_column(unique=True)
    vpc_id: Mapped[str] = mapped_column(ForeignKey("vpcs.vpc_id", ondelete="CASCADE"), index=True)
    created_ms: Mapped[int] = mapped_column(BigInteger)

    vpc: Mapped[network.Vpc] = relationship(lazy="selectin", viewonly=True)
    associations: Mapped[list[RouteTableAssociation]] = relationship(
        order_by="RouteTableAssociation.number", lazy="selectin", cascade="all, delete-orphan", passive_deletes=True
    )
    routes: Mapped[list[Route]] = relationship(
        order_by="Route.number", lazy="selectin", cascade="all, delete-orphan", passive_deletes=True
    )
    tags: Mapped[list[Tag]] = tags_of("RouteTable", "route_table_id")

    def route(self, destination: str) -> Route | None:
        return next((route for route in self.routes if route.destination == destination), None)

    @property
    def local(self) -> list[str]:
        """The VPC's own blocks."""
        return [cidr.cidr for cidr in self.vpc.cidrs]


class RouteTableAssociation(Base):
    """Which subnet follows a table; without a subnet it is the main one of its VPC."""

    __tablename__ = "route_table_associations"

    number: Mapped[int] = mapped_column(primary_key=True)
    association_id: Mapped[str] = mapped_column(unique=True)
    route_table_id: Mapped[str] = mapped_column(
        ForeignKey("route_tables.route_table_id", ondelete="CASCADE"), index=True
    )
    vpc_id: Mapped[str] = mapped_column(ForeignKey("vpcs.vpc_id", ondelete="CASCADE"), index=True)
    subnet_id: Mapped[str | None] = mapped_column(ForeignKey("subnets.subnet_id", ondelete="CASCADE"), unique=True)

    @property
    def main(self) -> bool:
        return self.subnet_id is None


class Route(Base):
    """A route beside the local ones. `target` is an internet gateway, a NAT gateway or a network interface."""

    __tablename__ = "routes"
    __table_args__ = (UniqueConstraint("route_table_id", "destination"),)

    number: Mapped[int] = mapped_column(primary_key=True)
    route_table_id: Mapped[str] = mapped_column(ForeignKey("route_tables.route_table_id", ondelete="CASCADE"))
    destination: Mapped[str]  # a canonical CIDR
    target: Mapped[str] = mapped_column(index=True)


def make_main(session: Session, vpc_id: str, now_ms: int) -> None:
    """The main route table of a VPC that has none."""
    table = RouteTable(route_table_id=new_id("rtb"), vpc_id=vpc_id, created_ms=now_ms)
    table.associations.append(RouteTableAssociation(association_id=new_id("rtbassoc"), vpc_id=vpc_id))
    session.add(table)
    session.flush()


def complete(session: Session) -> None:
    """Gives VPCs of a state without route tables their main one. It has local routes only, so no agent hears of it."""
    without = select(network.Vpc.vpc_id).where(~exists().where(RouteTable.vpc_id == network.Vpc.vpc_id))
    for vpc_id in list(session.scalars(without)):
        make_main(session, vpc_id, time.time_ns() // 1_000_000)


def table_ids(session: Session, vpc_id: str) -> list[str]:
    return list(session.scalars(select(RouteTable.route_table_id).where(RouteTable.vpc_id == vpc_id)))


def main_association(session: Session, vpc_id: str) -> RouteTableAssociation:
    row = RouteTableAssociation
    return session.scalars(select(row).where(row.vpc_id == vpc_id, row.subnet_id.is_(None))).one()


def followers(session: Session, table: RouteTable) -> list[str]:
    """The subnets whose interfaces follow the table."""
    row = RouteTableAssociation
    subnet_ids = [association.subnet_id for association in table.associations if association.subnet_id is not None]
    if any(association.main for association in table.associations):
        own = select(row.subnet_id).where(row.vpc_id == table.vpc_id, row.subnet_id.is_not(None))
        without = select(network.Subnet.subnet_id).where(
            network.Subnet.vpc_id == table.vpc_id, network.Subnet.subnet_id.not_in(own)
        )
        subnet_ids += session.scalars(without)
    return subnet_ids


def routes_of(
    session: Session, interfaces: Collection[network.NetworkInterface]
) -> dict[str, tuple[tuple[str, str], ...]]:
    """Subnet id -> its routes beside the local ones as in `inventory.Interface.routes`, for the interfaces' subnets."""
    vpc_of = {interface.subnet_id: interface.vpc_id for interface in interfaces}
    row = RouteTableAssociation
    associations = session.execute(
        select(row.vpc_id, row.subnet_id, row.route_table_id).where(
            or_(row.subnet_id.in_(vpc_of), row.subnet_id.is_(None) & row.vpc_id.in_(set(vpc_of.values())))
        )
    ).all()
    own = {subnet_id: table_id for _, subnet_id, table_id in associations if subnet_id is not None}
    main = {vpc_id: table_id for vpc_id, subnet_id, table_id in associations if subnet_id is None}
    table_of = {subnet_id: own.get(subnet_id) or main.get(vpc_id) for subnet_id, vpc_id in vpc_of.items()}
    routes: dict[str, list[tuple[str, str]]] = {}
    found = session.scalars(
        select(Route).where(Route.route_table_id.in_(set(table_of.values()))).order_by(Route.number)
    )
    rows = list(found)
    ends = ends_of(session, {route.target for route in rows})
    for route in rows:
        routes.setdefault(route.route_table_id, []).append((route.destination, ends.get(route.target, "")))
    return {subnet_id: tuple(routes.get(table_id or "", ())) for subnet_id, table_id in table_of.items()}


def ends_of(session: Session, targets: Iterable[str]) -> dict[str, str]:
    """Target -> where it leads: an attached internet gateway, or the network interface that takes the packets.

    What is not in the answer is a blackhole: gone, detached, or an interface that is not in use.
    """
    ids = set(targets)
    gateway, nat, binding = InternetGateway, NatGateway, network.Binding
    attached = session.scalars(
        select(gateway.gateway_id).where(gateway.gateway_id.in_(ids), gateway.vpc_id.is_not(None))
    )
    ends = {gateway_id: gateway_id for gateway_id in attached}
    nats = session.execute(select(nat.nat_gateway_id, nat.interface_id).where(nat.nat_gateway_id.in_(ids)))
    ends |= {row.nat_gateway_id: row.interface_id for row in nats}
    bound = session.scalars(select(binding.interface_id).where(binding.interface_id.in_(ids)))
    return ends | {interface_id: interface_id for interface_id in bound}


def is_target(session: Session, interface_id: str) -> bool:
    """Whether a route leads to this interface: then what becomes of it concerns all who follow the route."""
    return bool(session.scalar(select(exists().where(Route.target == interface_id))))

"""Elastic IP addresses as rows.

An address is the account's from its allocation to its release, and is associated with one private address of one
interface or with none. When that interface or private address goes, the public address stays, associated with nothing.
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import BigInteger, ForeignKey, select
from sqlalchemy.orm import Mapped, Session, mapped_column, relationship

from vnotch.store import network
from vnotch.store.network import Tag, tags_of
from vnotch.store.state import Base, new_id


class ElasticAddress(Base):
    __tablename__ = "elastic_addresses"

    number: Mapped[int] = mapped_column(primary_key=True)
    allocation_id: Mapped[str] = mapped_column(unique=True)
    public_ip: Mapped[str] = mapped_column(unique=True)
    association_id: Mapped[str | None] = mapped_column(unique=True)
    interface_id: Mapped[str | None] = mapped_column(ForeignKey("network_interfaces.interface_id"), index=True)
    private_ip: Mapped[str | None]
    created_ms: Mapped[int] = mapped_column(BigInteger)

    interface: Mapped[network.NetworkInterface | None] = relationship(lazy="select", viewonly=True)
    tags: Mapped[list[Tag]] = tags_of("ElasticAddress", "allocation_id")

    def associate(self, interface_id: str, private_ip: str) -> str:
        """Returns the id of the new association."""
        self.association_id = new_id("eipassoc")
        self.interface_id, self.private_ip = interface_id, private_ip
        return self.association_id

    def disassociate(self) -> None:
        self.association_id = self.interface_id = self.private_ip = None


def disassociate(session: Session, interface_id: str, private_ips: Collection[str] | None = None) -> None:
    """Leaves the Elastic IP addresses of an interface, or of these private addresses of it, associated with nothing."""
    for row in session.scalars(select(ElasticAddress).where(ElasticAddress.interface_id == interface_id)).all():
        if private_ips is None or row.private_ip in private_ips:
            row.disassociate()
    session.flush()


def taken(session: Session) -> set[str]:
    """All public addresses: Elastic IP addresses, and those that instances got at their launch."""
    launched = network.NetworkInterface.public_ip
    given = session.scalars(select(launched).where(launched.is_not(None)))
    return {*session.scalars(select(ElasticAddress.public_ip)), *(address for address in given if address)}


def is_mapped(session: Session, vpc_id: str) -> bool:
    """Whether an interface of the VPC has a public address."""
    interface = network.NetworkInterface
    launched = select(interface.number).where(interface.vpc_id == vpc_id, interface.public_ip.is_not(None))
    if session.scalar(launched.limit(1)) is not None:
        return True
    found = select(ElasticAddress.number).join(interface, interface.interface_id == ElasticAddress.interface_id)
    return session.scalar(found.where(interface.vpc_id == vpc_id).limit(1)) is not None


network.NetworkInterface.elastic_addresses = relationship(  # type: ignore[assignment]
    ElasticAddress, order_by=ElasticAddress.number, lazy="selectin", viewonly=True
)

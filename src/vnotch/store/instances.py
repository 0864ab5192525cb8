"""Instances and the attachments of interfaces to them, as rows.

An instance is in one of two ways:
- launched: RunInstances made it; a host in lab mode runs it in a network namespace and says what became of it;
- bound: somebody bound an interface to it (`vnotch attach --instance`, enrolment, a lab made from a file). It is there
  as long as a binding names it.

An interface is in use while it has a `Binding` or an `Attachment`. Whose instance it is, is read from the attachment
where there is one, else from the binding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import BigInteger, ForeignKey, delete, exists, false, select
from sqlalchemy.orm import Mapped, Session, foreign, mapped_column, relationship

from vnotch.store import network
from vnotch.store.network import Tag, tags_of
from vnotch.store.state import Base, new_id

LAUNCHED, BOUND = "launched", "bound"

CODES = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}
"""API InstanceState: name -> code."""

ALIVE = ("pending", "running", "shutting-down")
TERMINATED_SHOWN_MS = 3600 * 1000
"""EC2 user guide, "Terminate your instance": visible "for a short while", "usually" an hour."""

HOST_ALIVE_MS = 30_000
"""A host in lab mode that was not heard of for so long gets no new instances."""


class Instance(Base):
    __tablename__ = "instances"

    number: Mapped[int] = mapped_column(primary_key=True)
    instance_id: Mapped[str] = mapped_column(unique=True)
    origin: Mapped[str]  # launched or bound
    state: Mapped[str] = mapped_column(index=True)
    reason: Mapped[str | None]
    host: Mapped[str | None] = mapped_column(index=True)  # the lab host that runs it
    reservation_id: Mapped[str]
    launch_index: Mapped[int]
    image_id: Mapped[str | None]
    instance_type: Mapped[str | None]
    vpc_id: Mapped[str | None] = mapped_column(index=True)
    subnet_id: Mapped[str | None] = mapped_column(index=True)
    protected: Mapped[bool] = mapped_column(server_default=false())  # DisableApiTermination
    launched_ms: Mapped[int] = mapped_column(BigInteger)
    ended_ms: Mapped[int | None] = mapped_column(BigInteger)

    attachments: Mapped[list[Attachment]] = relationship(
        order_by="Attachment.device_index", lazy="selectin", cascade="all, delete-orphan", passive_deletes=True
    )
    tags: Mapped[list[Tag]] = tags_of("Instance", "instance_id")
    if TYPE_CHECKING:
        bound: list[network.NetworkInterface]  # mapped below: interfaces whose binding names the instance

    @property
    def interfaces(self) -> list[network.NetworkInterface]:
        """By device index; those that are only bound come after, in the order of their making."""
        attached = [attachment.interface for attachment in self.attachments]
        known = {interface.interface_id for interface in attached}
        return attached + [interface for interface in self.bound if interface.interface_id not in known]


class Attachment(Base):
    """What AttachNetworkInterface and RunInstances make."""

    __tablename__ = "attachments"

    number: Mapped[int] = mapped_column(primary_key=True)
    attachment_id: Mapped[str] = mapped_column(unique=True)
    interface_id: Mapped[str] = mapped_column(ForeignKey("network_interfaces.interface_id"), unique=True)
    instance_id: Mapped[str] = mapped_column(ForeignKey("instances.instance_id", ondelete="CASCADE"), index=True)
    device_index: Mapped[int]
    delete_on_termination: Mapped[bool]
    attached_ms: Mapped[int] = mapped_column(BigInteger)

    interface: Mapped[network.NetworkInterface] = relationship(lazy="selectin", viewonly=True)


class LabHost(Base):
    """A host in lab mode: it builds the instances of one VPC. Without a VPC it takes that of the first one."""

    __tablename__ = "lab_hosts"

    name: Mapped[str] = mapped_column(primary_key=True)
    vpc_id: Mapped[str | None]
    seen_ms: Mapped[int] = mapped_column(BigInteger)


def host_for(session: Session, vpc_id: str, now_ms: int) -> LabHost | None:
    """The host that runs instances of the VPC; the one heard of last, where several would."""
    row = LabHost
    return session.scalars(
        select(row)
        .where((row.vpc_id == vpc_id) | row.vpc_id.is_(None), row.seen_ms >= now_ms - HOST_ALIVE_MS)
        .order_by(row.vpc_id.is_(None), row.seen_ms.desc())
    ).first()


def bound_instance(session: Session, instance_id: str, interface: network.NetworkInterface, now_ms: int) -> None:
    """A binding names the instance: where there is none of that id, there is one now."""
    if session.scalar(select(exists().where(Instance.instance_id == instance_id))):
        return
    session.add(
        Instance(
            instance_id=instance_id,
            origin=BOUND,
            state="running",
            reservation_id=new_id("r"),
            launch_index=0,
            vpc_id=interface.vpc_id,
            subnet_id=interface.subnet_id,
            launched_ms=now_ms,
        )
    )
    session.flush()


def unbound_instance(session: Session, instance_id: str | None) -> None:
    """A binding names the instance no longer: one that is known by its bindings alone goes with the last, and its
    tags."""
    if instance_id is None:
        return
    binding = network.Binding
    if session.scalar(select(exists().where(binding.instance_id == instance_id))):
        return
    found = session.scalar(select(Instance).where(Instance.instance_id == instance_id))
    if found is not None and found.origin == BOUND:
        forget(session, found)


def forget(session: Session, instance: Instance) -> None:
    session.execute(delete(Tag).where(Tag.resource_id == instance.instance_id))
    session.execute(delete(Instance).where(Instance.instance_id == instance.instance_id))


def complete(session: Session, now_ms: int) -> None:
    """Instances that bindings of a release without instances name."""
    binding, interface = network.Binding, network.NetworkInterface
    rows = session.execute(
        select(binding.instance_id, interface)
        .join(interface, interface.interface_id == binding.interface_id)
        .where(binding.instance_id.is_not(None), ~exists().where(Instance.instance_id == binding.instance_id))
    )
    for instance_id, row in list(rows):
        bound_instance(session, str(instance_id), row, now_ms)


network.NetworkInterface.attachment = relationship(  # type: ignore[assignment]
    Attachment, uselist=False, lazy="selectin", viewonly=True
)
Instance.bound = relationship(  # type: ignore[assignment]
    network.NetworkInterface,
    secondary=network.Binding.__table__,
    primaryjoin=Instance.instance_id == foreign(network.Binding.instance_id),
    secondaryjoin=foreign(network.Binding.interface_id) == network.NetworkInterface.interface_id,
    order_by=network.NetworkInterface.number,
    lazy="selectin",
    viewonly=True,
)

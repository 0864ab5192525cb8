"""Enrolment: subnets whose interfaces become ENIs by themselves, and which ENIs were made so.

A subnet is marked by a tag, `vnotch:enrol`: its value is `true`, for every agent, or the name of the one agent that may
enrol into it. `vnotch:enrol-groups`, where it is there, names the security groups of what is enrolled, separated by
blanks; without it they get the VPC's default group, as every interface does.
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import JSON, BigInteger, ForeignKey, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from vnotch.inventory import EnrolledSubnet
from vnotch.store import network
from vnotch.store.state import Base

MARK = "vnotch:enrol"
EVERY_AGENT = "true"
GROUPS = "vnotch:enrol-groups"
_KEYS = {MARK, GROUPS}


class Enrolment(Base):
    """An interface that an agent's report made. `identity` is whose it is, as the agent says: the same container or
    domain on another device is the same interface. `tags` and `mac` are those reported last. `gone_ms`: since when
    its device is in no report; None while it is."""

    __tablename__ = "enrolments"

    interface_id: Mapped[str] = mapped_column(
        ForeignKey("network_interfaces.interface_id", ondelete="CASCADE"), primary_key=True
    )
    agent: Mapped[str] = mapped_column(ForeignKey("agents.name"), index=True)
    device: Mapped[str]
    identity: Mapped[str]
    tags: Mapped[dict[str, str]] = mapped_column(JSON)
    mac: Mapped[str | None]
    gone_ms: Mapped[int | None] = mapped_column(BigInteger)


def marked_subnets(session: Session, agent: str) -> list[network.Subnet]:
    """The subnets into which this agent may enrol."""
    tag = network.Tag
    marked = select(tag.resource_id).where(tag.key == MARK, tag.value.in_([EVERY_AGENT, agent]))
    subnet = network.Subnet
    return list(session.scalars(select(subnet).where(subnet.subnet_id.in_(marked)).order_by(subnet.number)))


def told(session: Session, agent: str) -> tuple[EnrolledSubnet, ...]:
    """The same as the agent is told."""
    return tuple(EnrolledSubnet(row.subnet_id, tuple(row.cidrs)) for row in marked_subnets(session, agent))


def groups_of(subnet: network.Subnet) -> list[str]:
    """The security groups that the subnet's tag names; none without it."""
    return next((tag.value.split() for tag in subnet.tags if tag.key == GROUPS), [])


def is_mark(resource_ids: Collection[str], keys: Collection[str] | None) -> bool:
    """Whether a change of these tags (None: of all tags) of these resources may mark a subnet or take its mark away."""
    return any(item.startswith("subnet-") for item in resource_ids) and (keys is None or not _KEYS.isdisjoint(keys))


def enrolments(session: Session, agent: str) -> list[Enrolment]:
    return list(session.scalars(select(Enrolment).where(Enrolment.agent == agent)))

"""The VPC's interfaces as an agent is told them for next-hop fields, and which agents are told."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from vnotch.inventory import Peer
from vnotch.store import network

PEERS_MAX = 10_000
"""Interfaces that one agent is told of; AWS's default quota of a Region is 5,000 (VPC user guide, quotas)."""

_ASKS = "${next-hop-"


def asks(flow_log: network.FlowLog) -> bool:
    return _ASKS in flow_log.log_format


def asking_resources(session: Session) -> list[str]:
    """The resources of the flow logs that have a next-hop field."""
    row = network.FlowLog
    return list(session.scalars(select(row.resource_id).where(row.log_format.contains(_ASKS, autoescape=True))))


def peers_of(session: Session, vpc_ids: Collection[str]) -> tuple[tuple[Peer, ...], int]:
    """-> (the interfaces of the VPCs in the order they were made, how many more there are than PEERS_MAX)."""
    if not vpc_ids:
        return (), 0
    interface, binding, address = network.NetworkInterface, network.Binding, network.Address
    rows = session.execute(
        select(
            interface.interface_id,
            interface.vpc_id,
            interface.subnet_id,
            network.Subnet.zone_id,
            func.coalesce(binding.interface_type, interface.created_type),
        )
        .join(network.Subnet, network.Subnet.subnet_id == interface.subnet_id)
        .outerjoin(binding, binding.interface_id == interface.interface_id)
        .where(interface.vpc_id.in_(vpc_ids))
        .order_by(interface.number)
        .limit(PEERS_MAX)
    ).all()
    owned: dict[str, list[str]] = defaultdict(list)
    addresses = session.execute(
        select(address.interface_id, address.address)
        .join(interface, interface.interface_id == address.interface_id)
        .where(interface.vpc_id.in_(vpc_ids))
        .order_by(address.primary.desc(), address.number)
    )
    for interface_id, text in addresses:
        owned[interface_id].append(text)
    peers = tuple(
        Peer(
            interface_id, vpc_id, subnet_id, zone_id, None if kind == "interface" else kind, tuple(owned[interface_id])
        )
        for interface_id, vpc_id, subnet_id, zone_id, kind in rows
    )
    count = len(peers)
    if count == PEERS_MAX:
        count = session.scalar(select(func.count()).select_from(interface).where(interface.vpc_id.in_(vpc_ids))) or 0
    return peers, count - len(peers)

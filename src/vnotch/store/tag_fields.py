"""The tags that flow logs show (TagFieldSpecifications): which keys an agent's interfaces need, and whom a change of
tags concerns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable

from sqlalchemy import select
from sqlalchemy.orm import Session

from vnotch.fields import TagKeys
from vnotch.store import network

INSTANCE, INTERFACE = "instance", "network-interface"


def keys_of(flow_log: network.FlowLog) -> TagKeys:
    """As the caller gave them."""
    keys: dict[str, list[str]] = {}
    for row in flow_log.tag_fields:
        keys.setdefault(row.resource_type, []).append(row.key)
    return tuple((resource_type, tuple(found)) for resource_type, found in keys.items())


class ShownTags:
    """The tags of an agent's interfaces and instances that its flow logs ask for, and no others."""

    def __init__(
        self,
        session: Session,
        flow_logs: Iterable[network.FlowLog],
        interfaces: Collection[network.NetworkInterface],
    ) -> None:
        asked: dict[str, set[str]] = defaultdict(set)
        for flow_log in flow_logs:
            for resource_type, keys in keys_of(flow_log):
                asked[resource_type].update(keys)
        self._keys = asked[INTERFACE]
        instance_ids = {row.binding.instance_id for row in interfaces if row.binding and row.binding.instance_id}
        tag = network.Tag
        self._instances: dict[str, list[tuple[str, str]]] = defaultdict(list)
        if asked[INSTANCE] and instance_ids:
            rows = session.scalars(
                select(tag).where(tag.resource_id.in_(instance_ids), tag.key.in_(asked[INSTANCE])).order_by(tag.key)
            )
            for row in rows:
                self._instances[row.resource_id].append((row.key, row.value))

    def of_interface(self, row: network.NetworkInterface) -> tuple[tuple[str, str], ...]:
        return tuple(sorted((tag.key, tag.value) for tag in row.tags if tag.key in self._keys))

    def of_instance(self, row: network.NetworkInterface) -> tuple[tuple[str, str], ...]:
        """Those of the instance that the interface is attached to."""
        return tuple(self._instances.get((row.binding and row.binding.instance_id) or "", ()))


def asking_resources(session: Session) -> list[str]:
    """The resources of the flow logs that show tags."""
    row = network.FlowLog
    return list(session.scalars(select(row.resource_id).where(row.tag_fields.any())))


def agents_with(session: Session, resource_ids: Collection[str]) -> set[str]:
    """The agents with one of these network interfaces, or with an interface of one of these instances."""
    binding = network.Binding
    return set(
        session.scalars(
            select(binding.agent).where(binding.interface_id.in_(resource_ids) | binding.instance_id.in_(resource_ids))
        )
    )

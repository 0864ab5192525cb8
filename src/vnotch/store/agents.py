"""What each agent is told, and when that changed: revisions, bindings, flow logs resolved to interfaces.

A revision belongs to one agent's configuration: `touch` gives the agents it names a new one, taken from a counter that
only grows. An agent that is not named keeps its revision, so its long poll stays asleep.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import replace

from sqlalchemy import delete, or_, select, update
from sqlalchemy.orm import Session

from vnotch.inventory import AgentConfiguration, FlowLog, Interface
from vnotch.store import enrolment, network, peers, routing, tag_fields
from vnotch.store.rule_book import acl_ids_of, agents_referring_to, rule_book

LAST_SECONDS = 86_400
"""How long an agent may deliver the last records of an interface that it has no more, or of a flow log that was
deleted: as long as it keeps what it has not delivered, unless it is told otherwise."""

Delivered = network.FlowLog | network.EndedFlowLog
"""What tells where records go, and as whom."""

_KEPT = (
    "flow_log_id", "log_destination_type", "log_destination", "deliver_logs_permission_arn", "file_format",
    "hive_compatible_partitions", "per_hour_partition",
)  # fmt: skip
"""Of a flow log that was deleted."""


def next_revision(session: Session) -> int:
    """Takes the next revision. Its row is locked till the transaction ends, so revisions commit in their order."""
    row = session.get(network.Revision, 1, with_for_update=True)
    if row is None:
        row = network.Revision(id=1, value=time.time_ns() // 1_000_000)
        session.add(row)
    row.value += 1
    session.flush()
    return row.value


def touch(session: Session, agents: Iterable[str]) -> int | None:
    """Marks that the configuration of these agents may have changed. Returns the revision, None for no agents."""
    names = set(agents)
    if not names:
        return None
    revision = next_revision(session)
    session.execute(update(network.Agent).where(network.Agent.name.in_(names)).values(revision=revision))
    return revision


def agents_on(session: Session, resource_ids: Iterable[str]) -> set[str]:
    """The agents with a bound interface in these VPCs, subnets or network interfaces."""
    ids = set(resource_ids)
    interface = network.NetworkInterface
    return set(
        session.scalars(
            select(network.Binding.agent)
            .join(interface, interface.interface_id == network.Binding.interface_id)
            .where(or_(interface.vpc_id.in_(ids), interface.subnet_id.in_(ids), interface.interface_id.in_(ids)))
            .distinct()
        )
    )


def touch_members(session: Session, group_ids: Iterable[str], interface_id: str | None = None) -> None:
    """To be called when the addresses behind security groups change: tells whoever has rules that refer to these
    groups and, where given, whoever has the interface itself."""
    concerned = agents_referring_to(session, group_ids)
    if interface_id is not None:
        concerned |= agents_on(session, [interface_id])
    touch(session, concerned)


def touch_neighbours(session: Session, interface: network.NetworkInterface) -> None:
    """To be called when an interface comes, goes or changes its addresses, type or binding: tells whoever shows it as a
    next hop, and where a route leads to it, whoever may follow the route."""
    concerned: set[str] = set()
    here = [interface.vpc_id]
    if asking := peers.asking_resources(session):
        concerned = agents_on(session, here) & agents_on(session, asking)
    if routing.is_target(session, interface.interface_id):
        concerned |= agents_on(session, here)
    touch(session, concerned)


def touch_tagged(session: Session, resource_ids: Collection[str], keys: Collection[str] | None = None) -> None:
    """To be called when tags of these resources change, those of `keys` or any: tells whoever shows tags of them, and
    every agent where a subnet's mark for enrolment may have changed."""
    if enrolment.is_mark(resource_ids, keys):
        touch(session, session.scalars(select(network.Agent.name)))
    if asking := tag_fields.asking_resources(session):
        touch(session, agents_on(session, asking) & tag_fields.agents_with(session, resource_ids))


def changed_since(session: Session, revision: int) -> dict[str, int]:
    """Agent -> revision, for the agents whose configuration changed after `revision`."""
    rows = session.execute(select(network.Agent.name, network.Agent.revision).where(network.Agent.revision > revision))
    return {row.name: row.revision for row in rows}


def revision_of(session: Session, agent: str) -> int | None:
    """None where there is no such agent."""
    return session.scalar(select(network.Agent.revision).where(network.Agent.name == agent))


def configuration(session: Session, agent: str, account: str, region: str) -> AgentConfiguration | None:
    """All that `agent` is told now; None where there is no such agent.

    The revision is read first: where a database shows later commits within a transaction (PostgreSQL, read committed),
    the agent gets newer contents under an older revision and simply asks again.
    """
    revision = revision_of(session, agent)
    if revision is None:
        return None
    rows = list(
        session.scalars(
            select(network.NetworkInterface)
            .join(network.Binding, network.Binding.interface_id == network.NetworkInterface.interface_id)
            .where(network.Binding.agent == agent)
            .order_by(network.NetworkInterface.number)
        )
    )
    vpc_cidrs = _vpc_cidrs(session, {row.vpc_id for row in rows})
    acl_ids = acl_ids_of(session, (row.subnet_id for row in rows))
    flow_logs = flow_logs_on(session, agent)
    routes, shown = routing.routes_of(session, rows), tag_fields.ShownTags(session, flow_logs, rows)
    interfaces = tuple(
        replace(
            _interface(row, vpc_cidrs[row.vpc_id], acl_ids.get(row.subnet_id), account, region),
            routes=routes[row.subnet_id],
            tags=shown.of_interface(row),
            instance_tags=shown.of_instance(row),
        )
        for row in rows
    )
    rules = rule_book(session, rows, acl_ids.values())
    told, omitted = peers.peers_of(session, _vpcs_asked_for(flow_logs, rows))
    enrolled = enrolment.told(session, agent)
    return AgentConfiguration(revision, interfaces, _flow_logs(flow_logs, rows), rules, told, omitted, enrolled)


def all_interfaces(session: Session, account: str, region: str) -> AgentConfiguration:
    """Every bound interface with the rules that judge it, on whatever agent: what a question about verdicts needs."""
    rows = list(
        session.scalars(
            select(network.NetworkInterface)
            .join(network.Binding, network.Binding.interface_id == network.NetworkInterface.interface_id)
            .order_by(network.NetworkInterface.number)
        )
    )
    vpc_cidrs = _vpc_cidrs(session, {row.vpc_id for row in rows})
    acl_ids = acl_ids_of(session, (row.subnet_id for row in rows))
    interfaces = tuple(
        _interface(row, vpc_cidrs[row.vpc_id], acl_ids.get(row.subnet_id), account, region) for row in rows
    )
    return AgentConfiguration(0, interfaces, (), rule_book(session, rows, acl_ids.values()))


def flow_log_for(session: Session, agent: str, role_arn: str, session_name: str) -> Delivered | None:
    """The flow log that lets `agent` assume `role_arn` under `session_name`, or None.

    An agent acts for vpc-flow-logs.amazonaws.com only for a flow log that is named by the session, names that role, and
    covers an interface that is bound to this agent; or was and did until shortly before (`departed`, `deleted`).
    """
    flow_log = _delivered(session, agent, session_name)
    return flow_log if flow_log is not None and flow_log.deliver_logs_permission_arn == role_arn else None


def bucket_flow_log(session: Session, agent: str, flow_log_id: str) -> Delivered | None:
    """The flow log into a bucket of which `agent` may upload files, or None."""
    return delivered_flow_log(session, agent, flow_log_id, network.S3)


def delivered_flow_log(session: Session, agent: str, flow_log_id: str, kind: str) -> Delivered | None:
    """The flow log with a LogDestinationType that `agent` delivers, or None; the rule is that of `flow_log_for`."""
    flow_log = _delivered(session, agent, flow_log_id)
    return flow_log if flow_log is not None and flow_log.log_destination_type == kind else None


def _delivered(session: Session, agent: str, flow_log_id: str) -> Delivered | None:
    flow_log = session.scalar(select(network.FlowLog).where(network.FlowLog.flow_log_id == flow_log_id))
    if flow_log is not None:
        return flow_log if agent in _delivering(session, flow_log.resource_id) else None
    row = network.EndedFlowLog
    ended = select(row).where(row.agent == agent, row.flow_log_id == flow_log_id, row.until_ms >= _now_ms()).limit(1)
    return session.scalar(ended)


def _delivering(session: Session, resource_id: str) -> set[str]:
    """The agents with an interface in a VPC or subnet, or with this interface, and those that had one."""
    row = network.Departure
    here = or_(row.interface_id == resource_id, row.subnet_id == resource_id, row.vpc_id == resource_id)
    left = select(row.agent).where(row.until_ms >= _now_ms(), here).distinct()
    return agents_on(session, [resource_id]) | set(session.scalars(left))


def deleted(session: Session, flow_log: network.FlowLog) -> None:
    """To be called when a flow log is deleted. What was collected before is still delivered, as on AWS."""
    now_ms, row = _now_ms(), network.EndedFlowLog
    session.execute(delete(row).where(row.until_ms < now_ms))
    what = {name: getattr(flow_log, name) for name in _KEPT}
    for agent in sorted(_delivering(session, flow_log.resource_id)):
        session.add(row(agent=agent, until_ms=now_ms + LAST_SECONDS * 1000, **what))


def departed(session: Session, agent: str, interface: network.NetworkInterface) -> None:
    """To be called when an interface leaves an agent, which has its last records still to deliver."""
    now_ms, row = _now_ms(), network.Departure
    session.execute(delete(row).where(row.until_ms < now_ms))
    session.add(
        row(
            agent=agent,
            interface_id=interface.interface_id,
            subnet_id=interface.subnet_id,
            vpc_id=interface.vpc_id,
            until_ms=now_ms + LAST_SECONDS * 1000,
        )
    )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def flow_logs_on(session: Session, agent: str) -> list[network.FlowLog]:
    """The flow logs that cover an interface bound to `agent`, in the order they were made."""
    bound = (
        select(network.NetworkInterface)
        .join(network.Binding, network.Binding.interface_id == network.NetworkInterface.interface_id)
        .where(network.Binding.agent == agent)
    )
    resource = network.FlowLog.resource_id
    return list(
        session.scalars(
            select(network.FlowLog)
            .where(
                or_(
                    resource.in_(bound.with_only_columns(network.NetworkInterface.interface_id)),
                    resource.in_(bound.with_only_columns(network.NetworkInterface.subnet_id)),
                    resource.in_(bound.with_only_columns(network.NetworkInterface.vpc_id)),
                )
            )
            .order_by(network.FlowLog.number)
        )
    )


def forget_deliveries(session: Session, agent: str) -> None:
    """Drops the agent's delivery states for flow logs that it has no interface of any more."""
    covered = [flow_log.flow_log_id for flow_log in flow_logs_on(session, agent)]
    delivery = network.FlowLogDelivery
    session.execute(delete(delivery).where(delivery.agent == agent, delivery.flow_log_id.not_in(covered)))


def _vpc_cidrs(session: Session, vpc_ids: set[str]) -> dict[str, tuple[str, ...]]:
    cidrs: dict[str, list[str]] = defaultdict(list)
    rows = session.execute(
        select(network.VpcCidr.vpc_id, network.VpcCidr.cidr)
        .where(network.VpcCidr.vpc_id.in_(vpc_ids))
        .order_by(network.VpcCidr.family, network.VpcCidr.number)
    )
    for vpc_id, cidr in rows:
        cidrs[vpc_id].append(cidr)
    return {vpc_id: tuple(values) for vpc_id, values in cidrs.items()}


def _interface(
    row: network.NetworkInterface, vpc_cidrs: tuple[str, ...], acl_id: str | None, account: str, region: str
) -> Interface:
    binding = row.binding
    assert binding is not None  # the query joins the binding
    return Interface(
        interface_id=row.interface_id,
        device=binding.device,
        account_id=account,
        region=region,
        vpc_id=row.vpc_id,
        subnet_id=row.subnet_id,
        az_id=row.subnet.zone_id,
        mac=row.mac,
        instance_id=None if row.requester_managed else binding.instance_id,
        interface_type=None if row.interface_type == "interface" else row.interface_type,
        private_ipv4=tuple(row.addresses_of(4)),
        ipv6=tuple(row.addresses_of(6)),
        vpc_cidrs=vpc_cidrs,
        subnet_cidrs=tuple(row.subnet.cidrs),
        enforce=(enforces := binding.enforces(time.time_ns() // 1_000_000)),
        enforce_seconds=binding.enforce_seconds if enforces else None,
        enforce_until_ms=binding.enforce_until_ms if enforces else None,
        sense=binding.sense,
        reserved_addresses=row.subnet.reserves_addresses,
        guest_mac=binding.guest_mac,
        group_ids=tuple(group.group_id for group in row.groups) or None,
        network_acl_id=acl_id,
    )


def _vpcs_asked_for(flow_logs: list[network.FlowLog], rows: list[network.NetworkInterface]) -> set[str]:
    """The VPCs of the interfaces that a flow log with a next-hop field covers."""
    asking = {flow_log.resource_id for flow_log in flow_logs if peers.asks(flow_log)}
    return {row.vpc_id for row in rows if asking & {row.interface_id, row.subnet_id, row.vpc_id}}


def _flow_logs(flow_logs: list[network.FlowLog], rows: list[network.NetworkInterface]) -> tuple[FlowLog, ...]:
    covered: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        for resource_id in (row.interface_id, row.subnet_id, row.vpc_id):
            covered[resource_id].append(row.interface_id)
    return tuple(
        FlowLog(
            flow_log_id=flow_log.flow_log_id,
            resource_id=flow_log.resource_id,
            traffic_type=flow_log.traffic_type,
            log_format=flow_log.log_format,
            max_aggregation_interval=flow_log.max_aggregation_interval,
            log_destination_type=flow_log.log_destination_type,
            log_group_name=flow_log.log_group_name,
            deliver_logs_permission_arn=flow_log.deliver_logs_permission_arn,
            interface_ids=tuple(covered[flow_log.resource_id]),
            tag_keys=tag_fields.keys_of(flow_log),
            file_format=flow_log.file_format,
        )
        for flow_log in flow_logs
    )

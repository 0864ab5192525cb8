"""What is known of the interfaces under capture and of the flow logs on them.

The server makes these values, the agent receives them as JSON (one document, one long poll) and the record step joins
them to flows by slot. They are plain values: nothing here does I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from vnotch.errors import InputError
from vnotch.rules import RuleBook

STREAM_SUFFIX = {"ALL": "all", "ACCEPT": "accept", "REJECT": "reject"}
"""Log stream suffix by traffic type. `-all` and `-accept` are seen on AWS, `-reject` is by analogy."""

RESERVED_TAG, RESERVED_NONE = "vnotch:reserved-addresses", "none"
"""A subnet with this tag stands for a network that was there before: none of its addresses is AWS's DNS server or
router, and an interface may have any of them."""


@dataclass(frozen=True)
class Interface:
    """An ENI and the Linux interface it is bound to.

    `device` is the host side's name in the agent's network namespace. `private_ipv4` has the primary address first.
    `enforce`: what is rejected is dropped, otherwise only recorded so.
    `guest_mac`: unicast frames to the ENI under another address are not its own but flooded by a switch; None: all are.
    `group_ids` are the security groups; None for an interface that has none (a NAT gateway's), which that layer lets
    everything through. `network_acl_id` is the subnet's network ACL; None: that layer lets everything through.
    Both name entries of the configuration's rule book.
    `routes` are those of the subnet's route table beside the local ones (`vpc_cidrs`): destination CIDR and target. A
    target is an internet gateway (`igw-`), a network interface (`eni-`; NAT gateways and instances stand here by
    theirs) or empty, where what the route named is gone.
    `tags` and `instance_tags` have only the keys that flow logs of the agent ask for.
    `sense` is `outside` where the device is the host's end of a link to the ENI, so that what comes in there has left
    the ENI, and `inside` where it is the ENI itself.
    `enforce` that is on trial ends after `enforce_seconds`; `enforce_until_ms`, the server's end of it, tells one trial
    from another. `reserved_addresses`: whether VPC and subnet have AWS's DNS server and router (not where they stand
    for a network that was there before).
    """

    interface_id: str
    device: str
    account_id: str
    region: str
    vpc_id: str
    subnet_id: str
    az_id: str
    mac: str = ""
    instance_id: str | None = None
    interface_type: str | None = None
    private_ipv4: tuple[str, ...] = ()
    ipv6: tuple[str, ...] = ()
    vpc_cidrs: tuple[str, ...] = ()
    subnet_cidrs: tuple[str, ...] = ()
    enforce: bool = False
    enforce_seconds: int | None = None
    enforce_until_ms: int | None = None
    sense: str = "outside"
    reserved_addresses: bool = True
    guest_mac: str | None = None
    group_ids: tuple[str, ...] | None = None
    network_acl_id: str | None = None
    routes: tuple[tuple[str, str], ...] = ()
    tags: tuple[tuple[str, str], ...] = ()
    instance_tags: tuple[tuple[str, str], ...] = ()

    @classmethod
    def from_json(cls, item: Mapping[str, Any]) -> Interface:
        """Raises TypeError where a member is missing or unknown."""
        return _value(cls, item)

    @property
    def primary_ipv4(self) -> str | None:
        return self.private_ipv4[0] if self.private_ipv4 else None


@dataclass(frozen=True)
class FlowLog:
    """A flow log (the subscription) as far as an agent needs it, resolved to the interfaces it covers now.

    `tag_keys` are its TagFieldSpecifications: resource type (`instance`, `network-interface`, `auto-scaling-group`) and
    the one or two tag keys that the fields of that type show. `file_format` is that of a bucket's files (`plain-text`,
    `parquet`); a bucket has neither log group nor role here: where it lies is the server's to know.
    """

    flow_log_id: str
    resource_id: str
    traffic_type: str  # ALL, ACCEPT or REJECT
    log_format: str  # `${...} ${...}`
    max_aggregation_interval: int  # seconds
    log_destination_type: str  # cloud-watch-logs, s3
    log_group_name: str
    deliver_logs_permission_arn: str
    interface_ids: tuple[str, ...]
    tag_keys: tuple[tuple[str, tuple[str, ...]], ...] = ()
    file_format: str | None = None

    @classmethod
    def from_json(cls, item: Mapping[str, Any]) -> FlowLog:
        """Raises TypeError where a member is missing or unknown."""
        return _value(cls, item)

    def stream_name(self, interface_id: str) -> str:
        return f"{interface_id}-{STREAM_SUFFIX[self.traffic_type]}"


@dataclass(frozen=True)
class Peer:
    """An ENI in the VPC of an agent's interface, on this agent or not: what next-hop fields say of it."""

    interface_id: str
    vpc_id: str
    subnet_id: str
    az_id: str
    interface_type: str | None
    addresses: tuple[str, ...]  # all private addresses, of both families

    @classmethod
    def from_json(cls, item: Mapping[str, Any]) -> Peer:
        """Raises TypeError where a member is missing or unknown."""
        return _value(cls, item)


@dataclass(frozen=True)
class EnrolledSubnet:
    """A subnet that is marked so that interfaces with an address in it become ENIs by themselves."""

    subnet_id: str
    cidrs: tuple[str, ...]

    @classmethod
    def from_json(cls, item: Mapping[str, Any]) -> EnrolledSubnet:
        """Raises TypeError where a member is missing or unknown."""
        return _value(cls, item)


@dataclass(frozen=True)
class AgentConfiguration:
    """All that one agent is told, at one revision of the server's state.

    `peers` are there only where a flow log of the agent asks for a next-hop field; `peers_omitted` is how many did not
    fit (`store.agents.PEERS_MAX`), for which those fields are `-`. `enrolled_subnets` are those of which the agent
    reports candidates.
    """

    revision: int
    interfaces: tuple[Interface, ...] = field(default_factory=tuple)
    flow_logs: tuple[FlowLog, ...] = field(default_factory=tuple)
    rules: RuleBook = field(default_factory=RuleBook)
    peers: tuple[Peer, ...] = ()
    peers_omitted: int = 0
    enrolled_subnets: tuple[EnrolledSubnet, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> AgentConfiguration:
        """Raises InputError where a member is missing, unknown or refers to rules that are not there, naming it."""
        try:
            configuration = cls(
                revision=int(document["revision"]),
                interfaces=tuple(Interface.from_json(item) for item in document["interfaces"]),
                flow_logs=tuple(FlowLog.from_json(item) for item in document["flow_logs"]),
                rules=RuleBook.from_json(document.get("rules", {}), "agent configuration: rules"),
                peers=tuple(Peer.from_json(item) for item in document.get("peers", ())),
                peers_omitted=int(document.get("peers_omitted", 0)),
                enrolled_subnets=tuple(EnrolledSubnet.from_json(item) for item in document.get("enrolled_subnets", ())),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"agent configuration: {error}") from error
        configuration.check_references()
        return configuration

    def check_references(self) -> None:
        """Raises InputError if an interface names a security group or network ACL that the rule book lacks."""
        groups = {group.group_id for group in self.rules.security_groups}
        acls = {acl.acl_id for acl in self.rules.network_acls}
        for interface in self.interfaces:
            place = f"agent configuration: {interface.interface_id}"
            if interface.group_ids is not None and not interface.group_ids:
                raise InputError(f"{place}: group_ids must name a group or be null")
            for group_id in interface.group_ids or ():
                if group_id not in groups:
                    raise InputError(f"{place}: the rule book has no security group {group_id}")
            if interface.network_acl_id is not None and interface.network_acl_id not in acls:
                raise InputError(f"{place}: the rule book has no network ACL {interface.network_acl_id}")


T = TypeVar("T")


def _value(kind: type[T], item: Mapping[str, Any]) -> T:
    """JSON has no tuples: lists become tuples, at every depth."""

    def freeze(value: Any) -> Any:
        return tuple(freeze(part) for part in value) if isinstance(value, list | tuple) else value

    return kind(**{name: freeze(value) for name, value in item.items()})

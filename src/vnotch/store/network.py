"""The network and its flow logs as rows: VPCs, subnets, network interfaces, bindings, flow logs, tags, agents.

Rules that the tables keep:
- `number` orders rows by creation and is what pages continue from; the AWS id is the key everything else refers to.
- `FlowLog.resource_id` is no foreign key: on AWS a flow log outlives the resource that it was made for.
- An interface is in use exactly while it has a `Binding` or an `Attachment` (`vnotch.store.instances`).
- Security groups, network ACLs and prefix lists are in `vnotch.store.firewall`; it also maps `NetworkInterface.groups`.
- Whatever can change what an agent is told goes through `vnotch.store.agents.touch` in the same transaction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, UniqueConstraint, false, func, select, text, true
from sqlalchemy.orm import Mapped, Session, column_property, mapped_column, relationship

from vnotch.inventory import RESERVED_NONE, RESERVED_TAG
from vnotch.store.state import Base

if TYPE_CHECKING:
    from vnotch.store.elastic_addresses import ElasticAddress
    from vnotch.store.firewall import SecurityGroup
    from vnotch.store.instances import Attachment

NAT_GATEWAY = "nat_gateway"
"""The type of a NAT gateway's interface. Only CreateNatGateway makes one with it; a binding may give it to any."""

DELIVERY_ERRORS = ("Access error", "Rate limited", "Unknown error")
"""DeliverLogsErrorMessage (API FlowLog), worst first: with several agents the worst is shown."""


class Tag(Base):
    __tablename__ = "tags"
    __table_args__ = (UniqueConstraint("resource_id", "key"),)

    number: Mapped[int] = mapped_column(primary_key=True)
    resource_id: Mapped[str]
    resource_type: Mapped[str]  # as in ARNs: vpc, subnet, network-interface, security-group, ...
    key: Mapped[str]
    value: Mapped[str]


def tags_of(owner: str, id_column: str, lazy: Literal["selectin", "select"] = "selectin") -> Any:
    """The tags of a table's rows, by the column that has their AWS id. `lazy`: loaded with the rows, or when used."""
    return relationship(
        Tag,
        primaryjoin=f"foreign(Tag.resource_id) == {owner}.{id_column}",
        order_by=Tag.number,
        lazy=lazy,
        viewonly=True,
    )


class Vpc(Base):
    __tablename__ = "vpcs"

    number: Mapped[int] = mapped_column(primary_key=True)
    vpc_id: Mapped[str] = mapped_column(unique=True)
    created_ms: Mapped[int] = mapped_column(BigInteger)
    is_default: Mapped[bool] = mapped_column(server_default=false())
    # Attributes that clients set and read back (API ModifyVpcAttribute); no DNS server of ours goes by them.
    dns_support: Mapped[bool] = mapped_column(server_default=true())
    dns_hostnames: Mapped[bool] = mapped_column(server_default=false())
    address_usage_metrics: Mapped[bool] = mapped_column(server_default=false())

    cidrs: Mapped[list[VpcCidr]] = relationship(
        order_by="VpcCidr.number", lazy="selectin", cascade="all, delete-orphan", passive_deletes=True
    )
    tags: Mapped[list[Tag]] = tags_of("Vpc", "vpc_id")

    def cidrs_of(self, family: int) -> list[VpcCidr]:
        """The associations of one family in the order they were made; for IPv4 the primary block is the first."""
        return [cidr for cidr in self.cidrs if cidr.family == family]


def default_vpc_id(session: Session) -> str | None:
    return session.scalar(select(Vpc.vpc_id).where(Vpc.is_default))


class VpcCidr(Base):
    """A CIDR block association of a VPC."""

    __tablename__ = "vpc_cidrs"

    number: Mapped[int] = mapped_column(primary_key=True)
    association_id: Mapped[str] = mapped_column(unique=True)
    vpc_id: Mapped[str] = mapped_column(ForeignKey("vpcs.vpc_id", ondelete="CASCADE"), index=True)
    family: Mapped[int]  # 4 or 6
    cidr: Mapped[str]


class Address(Base):
    """A private address of an interface."""

    __tablename__ = "addresses"
    __table_args__ = (
        UniqueConstraint("subnet_id", "address"),
        Index("addresses_by_value", "subnet_id", "family", "value"),
    )

    number: Mapped[int] = mapped_column(primary_key=True)
    interface_id: Mapped[str] = mapped_column(ForeignKey("network_interfaces.interface_id", ondelete="CASCADE"))
    subnet_id: Mapped[str] = mapped_column(ForeignKey("subnets.subnet_id"))
    family: Mapped[int]  # 4 or 6
    primary: Mapped[bool] = mapped_column(default=False)  # one IPv4 address of each interface
    address: Mapped[str]  # compressed text
    value: Mapped[int] = mapped_column(BigInteger)  # IPv4 as a number, 0 for IPv6; finds the next free one


Index("addresses_of_interface", Address.interface_id)


class Subnet(Base):
    __tablename__ = "subnets"

    number: Mapped[int] = mapped_column(primary_key=True)
    subnet_id: Mapped[str] = mapped_column(unique=True)
    vpc_id: Mapped[str] = mapped_column(ForeignKey("vpcs.vpc_id"), index=True)
    cidr: Mapped[str]
    ipv6_cidr: Mapped[str | None]
    ipv6_association_id: Mapped[str | None]
    zone: Mapped[str]  # us-east-1a
    zone_id: Mapped[str]  # use1-az1
    created_ms: Mapped[int] = mapped_column(BigInteger)
    default_for_zone: Mapped[bool] = mapped_column(server_default=false())
    gives_ipv6: Mapped[bool] = mapped_column(server_default=false())  # new interfaces get an IPv6 address
    maps_public: Mapped[bool] = mapped_column(server_default=false())  # launched instances get a public address

    used_ipv4: Mapped[int] = column_property(
        select(func.count(Address.number))
        .where(Address.subnet_id == subnet_id, Address.family == 4)
        .correlate_except(Address)
        .scalar_subquery(),
        deferred=True,  # counting is for who describes subnets, not for every interface that has one
    )
    tags: Mapped[list[Tag]] = tags_of("Subnet", "subnet_id")

    @property
    def reserves_addresses(self) -> bool:
        return not any((tag.key, tag.value) == (RESERVED_TAG, RESERVED_NONE) for tag in self.tags)

    @property
    def cidrs(self) -> list[str]:
        return [self.cidr] + ([self.ipv6_cidr] if self.ipv6_cidr else [])


class Binding(Base):
    """Which Linux interface, on which agent's host, a network interface is.

    `state` is `pending` until the agent has reported on this very binding, then what it reported: `attached`, `absent`
    (there is no such device) or `failed`; `message` says why. `revision` is the one at which the binding last changed.
    `sense`: `outside` where the device is the host's end of a link to the ENI, `inside` where it is the ENI itself.
    `guest_mac`: the address by which the ENI answers behind a switch's port that gets other frames too.
    `enforce` with `enforce_seconds` is a trial: it ends at `enforce_until_ms`, unless it is asked for without before.
    """

    __tablename__ = "bindings"
    __table_args__ = (UniqueConstraint("agent", "device"),)

    interface_id: Mapped[str] = mapped_column(ForeignKey("network_interfaces.interface_id"), primary_key=True)
    agent: Mapped[str] = mapped_column(ForeignKey("agents.name"), index=True)
    device: Mapped[str]
    instance_id: Mapped[str | None] = mapped_column(index=True)
    interface_type: Mapped[str | None]
    requester_id: Mapped[str | None]
    enforce: Mapped[bool]
    sense: Mapped[str] = mapped_column(server_default=text("'outside'"))
    enforce_seconds: Mapped[int | None]
    enforce_until_ms: Mapped[int | None] = mapped_column(BigInteger)
    guest_mac: Mapped[str | None]
    attachment_id: Mapped[str]
    attached_ms: Mapped[int] = mapped_column(BigInteger)
    revision: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[str] = mapped_column(default="pending")
    message: Mapped[str | None]
    mode: Mapped[str | None]  # how it is attached: tcx or clsact

    def enforces(self, now_ms: int) -> bool:
        return self.enforce and (self.enforce_until_ms is None or now_ms < self.enforce_until_ms)

    @property
    def requester_managed(self) -> bool:
        """An interface that an AWS service would hold: it has a type of its own and belongs to no instance."""
        return self.interface_type is not None and self.instance_id is None


class Departure(Base):
    """An interface that an agent had: for a while the agent still delivers its last records."""

    __tablename__ = "departures"

    number: Mapped[int] = mapped_column(primary_key=True)
    agent: Mapped[str] = mapped_column(index=True)
    interface_id: Mapped[str]
    subnet_id: Mapped[str]
    vpc_id: Mapped[str]
    until_ms: Mapped[int] = mapped_column(BigInteger, index=True)


class EndedFlowLog(Base):
    """A flow log that was deleted, and an agent that had records of it: for a while they are still delivered."""

    __tablename__ = "ended_flow_logs"

    number: Mapped[int] = mapped_column(primary_key=True)
    agent: Mapped[str] = mapped_column(index=True)
    flow_log_id: Mapped[str]
    log_destination_type: Mapped[str]
    log_destination: Mapped[str | None]
    deliver_logs_permission_arn: Mapped[str]
    file_format: Mapped[str | None]
    hive_compatible_partitions: Mapped[bool | None]
    per_hour_partition: Mapped[bool | None]
    until_ms: Mapped[int] = mapped_column(BigInteger, index=True)


class NetworkInterface(Base):
    __tablename__ = "network_interfaces"

    number: Mapped[int] = mapped_column(primary_key=True)
    interface_id: Mapped[str] = mapped_column(unique=True)
    subnet_id: Mapped[str] = mapped_column(ForeignKey("subnets.subnet_id"), index=True)
    vpc_id: Mapped[str] = mapped_column(ForeignKey("vpcs.vpc_id"), index=True)
    mac: Mapped[str] = mapped_column(unique=True)
    description: Mapped[str]
    created_type: Mapped[str]  # the InterfaceType it was made with
    public_ip: Mapped[str | None]  # that its instance got at its launch, for the primary address
    created_ms: Mapped[int] = mapped_column(BigInteger)

    subnet: Mapped[Subnet] = relationship(lazy="selectin", viewonly=True)
    addresses: Mapped[list[Address]] = relationship(
        order_by=(Address.primary.desc(), Address.number),
        lazy="selectin",
        cascade="all, delete-orphan",
        passive_deletes=True,
    )
    binding: Mapped[Binding | None] = relationship(lazy="selectin", viewonly=True)
    tags: Mapped[list[Tag]] = tags_of("NetworkInterface", "interface_id")
    if TYPE_CHECKING:
        groups: list[SecurityGroup]  # mapped in `vnotch.store.firewall`; empty for kinds that have none
        attachment: Attachment | None  # mapped in `vnotch.store.instances`
        elastic_addresses: list[ElasticAddress]  # mapped in `vnotch.store.elastic_addresses`

    def addresses_of(self, family: int) -> list[str]:
        """For IPv4 the primary address is the first."""
        return [address.address for address in self.addresses if address.family == family]

    def elastic_address(self, private_ip: str) -> ElasticAddress | None:
        """The one that is associated with a private address of it."""
        return next((row for row in self.elastic_addresses if row.private_ip == private_ip), None)

    @property
    def public_addresses(self) -> dict[str, str]:
        """Private address -> its public one."""
        found = {row.private_ip: row.public_ip for row in self.elastic_addresses if row.private_ip is not None}
        primary = self.addresses_of(4)[:1] if self.public_ip else []
        return dict.fromkeys(primary, self.public_ip or "") | found

    @property
    def interface_type(self) -> str:
        return (self.binding and self.binding.interface_type) or self.created_type

    @property
    def instance_id(self) -> str | None:
        by = self.attachment or self.binding
        return by.instance_id if by else None

    @property
    def requester_managed(self) -> bool:
        return self.created_type == NAT_GATEWAY or bool(self.binding and self.binding.requester_managed)

    @property
    def status(self) -> str:
        """A NAT gateway uses its interface whether it is bound or not."""
        return "in-use" if self.binding or self.attachment or self.created_type == NAT_GATEWAY else "available"


CLOUD_WATCH_LOGS, S3, FIREHOSE = "cloud-watch-logs", "s3", "kinesis-data-firehose"
"""LogDestinationType."""


class FlowLog(Base):
    __tablename__ = "flow_logs"

    number: Mapped[int] = mapped_column(primary_key=True)
    flow_log_id: Mapped[str] = mapped_column(unique=True)
    resource_id: Mapped[str] = mapped_column(index=True)
    resource_type: Mapped[str]
    traffic_type: Mapped[str]
    log_destination_type: Mapped[str]
    log_destination: Mapped[str | None]  # as given
    log_group_name: Mapped[str]  # empty for a bucket
    deliver_logs_permission_arn: Mapped[str]  # empty for a bucket
    log_format: Mapped[str]
    max_aggregation_interval: Mapped[int]
    created_ms: Mapped[int] = mapped_column(BigInteger)
    # DestinationOptions; None for a log group.
    file_format: Mapped[str | None]
    hive_compatible_partitions: Mapped[bool | None]
    per_hour_partition: Mapped[bool | None]

    deliveries: Mapped[list[FlowLogDelivery]] = relationship(
        lazy="selectin", cascade="all, delete-orphan", passive_deletes=True
    )
    tags: Mapped[list[Tag]] = tags_of("FlowLog", "flow_log_id")
    tag_fields: Mapped[list[FlowLogTagField]] = relationship(
        order_by="FlowLogTagField.number", lazy="selectin", cascade="all, delete-orphan", passive_deletes=True
    )

    @property
    def deliver_logs_error_message(self) -> str | None:
        """The worst of what the agents report; None while no delivery fails."""
        failed = {delivery.message for delivery in self.deliveries if delivery.status == "FAILED"}
        return next((message for message in DELIVERY_ERRORS if message in failed), None)

    @property
    def deliver_logs_status(self) -> str:
        return "FAILED" if self.deliver_logs_error_message else "SUCCESS"


class FlowLogTagField(Base):
    """A tag key that a flow log shows (TagFieldSpecifications); `number` keeps the caller's order."""

    __tablename__ = "flow_log_tag_fields"

    number: Mapped[int] = mapped_column(primary_key=True)
    flow_log_id: Mapped[str] = mapped_column(ForeignKey("flow_logs.flow_log_id", ondelete="CASCADE"), index=True)
    resource_type: Mapped[str]  # network-interface, instance, auto-scaling-group
    key: Mapped[str]


class FlowLogDelivery(Base):
    """How one agent's delivery of one flow log last went."""

    __tablename__ = "flow_log_deliveries"

    flow_log_id: Mapped[str] = mapped_column(ForeignKey("flow_logs.flow_log_id", ondelete="CASCADE"), primary_key=True)
    agent: Mapped[str] = mapped_column(ForeignKey("agents.name"), primary_key=True)
    status: Mapped[str]  # SUCCESS or FAILED
    message: Mapped[str | None]  # one of DELIVERY_ERRORS where FAILED


class ClientToken(Base):
    """What a request with a client token made, so that the same request again makes nothing more."""

    __tablename__ = "client_tokens"

    operation: Mapped[str] = mapped_column(primary_key=True)
    token: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[str]  # of the other parameters
    answer: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_ms: Mapped[int] = mapped_column(BigInteger, index=True)


class Agent(Base):
    """A host's agent. `revision` is that of the last change of what this agent is told."""

    __tablename__ = "agents"

    name: Mapped[str] = mapped_column(primary_key=True)
    access_key_id: Mapped[str | None]
    revision: Mapped[int] = mapped_column(BigInteger, index=True)
    created_ms: Mapped[int] = mapped_column(BigInteger)
    status: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    received_ms: Mapped[int | None] = mapped_column(BigInteger)


class Revision(Base):
    """One row. It begins at the time of its making, so that a state made anew never repeats an old revision."""

    __tablename__ = "revision"

    id: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[int] = mapped_column(BigInteger)

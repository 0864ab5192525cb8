"""The network, its flow logs, instances and agents as revision 0001 has them: a record, which does not change with the
tables of today."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    String,
    UniqueConstraint,
    false,
    text,
    true,
)

from vnotch.store.migrations.baseline import required, table

table(
    "agents",
    Column("name", String, primary_key=True),
    Column("access_key_id", String),
    required("revision", BigInteger, index=True),
    required("created_ms", BigInteger),
    Column("status", JSON(none_as_null=True)),
    Column("received_ms", BigInteger),
)
table(
    "client_tokens",
    Column("operation", String, primary_key=True),
    Column("token", String, primary_key=True),
    required("fingerprint", String),
    required("answer", JSON),
    required("created_ms", BigInteger, index=True),
)
table(
    "departures",
    Column("number", Integer, primary_key=True),
    required("agent", String, index=True),
    required("interface_id", String),
    required("subnet_id", String),
    required("vpc_id", String),
    required("until_ms", BigInteger, index=True),
)
table(
    "flow_logs",
    Column("number", Integer, primary_key=True),
    required("flow_log_id", String, unique=True),
    required("resource_id", String, index=True),
    required("resource_type", String),
    required("traffic_type", String),
    required("log_destination_type", String),
    Column("log_destination", String),
    required("log_group_name", String),
    required("deliver_logs_permission_arn", String),
    required("log_format", String),
    required("max_aggregation_interval", Integer),
    required("created_ms", BigInteger),
    Column("file_format", String),
    Column("hive_compatible_partitions", Boolean),
    Column("per_hour_partition", Boolean),
)
table(
    "instances",
    Column("number", Integer, primary_key=True),
    required("instance_id", String, unique=True),
    required("origin", String),
    required("state", String, index=True),
    Column("reason", String),
    Column("host", String, index=True),
    required("reservation_id", String),
    required("launch_index", Integer),
    Column("image_id", String),
    Column("instance_type", String),
    Column("vpc_id", String, index=True),
    Column("subnet_id", String, index=True),
    required("protected", Boolean, server_default=false()),
    required("launched_ms", BigInteger),
    Column("ended_ms", BigInteger),
)
table(
    "lab_hosts",
    Column("name", String, primary_key=True),
    Column("vpc_id", String),
    required("seen_ms", BigInteger),
)
table(
    "prefix_lists",
    Column("number", Integer, primary_key=True),
    required("prefix_list_id", String, unique=True),
    required("name", String),
    required("family", Integer),
    required("max_entries", Integer),
    required("version", BigInteger),
    required("state", String),
    required("created_ms", BigInteger),
)
table(
    "revision",
    Column("id", Integer, primary_key=True),
    required("value", BigInteger),
)
table(
    "tags",
    Column("number", Integer, primary_key=True),
    required("resource_id", String),
    required("resource_type", String),
    required("key", String),
    required("value", String),
    UniqueConstraint("resource_id", "key"),
)
table(
    "vpcs",
    Column("number", Integer, primary_key=True),
    required("vpc_id", String, unique=True),
    required("created_ms", BigInteger),
    required("is_default", Boolean, server_default=false()),
    required("dns_support", Boolean, server_default=true()),
    required("dns_hostnames", Boolean, server_default=false()),
    required("address_usage_metrics", Boolean, server_default=false()),
)
table(
    "flow_log_deliveries",
    Column("flow_log_id", String, ForeignKey("flow_logs.flow_log_id", ondelete="CASCADE"), primary_key=True),
    Column("agent", String, ForeignKey("agents.name"), primary_key=True),
    required("status", String),
    Column("message", String),
)
table(
    "flow_log_files",
    Column("flow_log_id", String, ForeignKey("flow_logs.flow_log_id", ondelete="CASCADE"), primary_key=True),
    Column("slot_s", BigInteger, primary_key=True),
    Column("name_hash", String, primary_key=True),
    required("agent", String),
    required("sha256", String),
    required("given_ms", BigInteger, index=True),
)
table(
    "flow_log_tag_fields",
    Column("number", Integer, primary_key=True),
    required("flow_log_id", String, ForeignKey("flow_logs.flow_log_id", ondelete="CASCADE"), index=True),
    required("resource_type", String),
    required("key", String),
)
table(
    "internet_gateways",
    Column("number", Integer, primary_key=True),
    required("gateway_id", String, unique=True),
    Column("vpc_id", String, ForeignKey("vpcs.vpc_id"), unique=True),
    required("created_ms", BigInteger),
)
table(
    "network_acls",
    Column("number", Integer, primary_key=True),
    required("acl_id", String, unique=True),
    required("vpc_id", String, ForeignKey("vpcs.vpc_id", ondelete="CASCADE"), index=True),
    required("is_default", Boolean),
    required("created_ms", BigInteger),
)
table(
    "prefix_list_entries",
    Column("number", Integer, primary_key=True),
    required("prefix_list_id", String, ForeignKey("prefix_lists.prefix_list_id", ondelete="CASCADE"), index=True),
    required("cidr", String),
    Column("description", String),
    required("added", BigInteger),
    Column("removed", BigInteger),
)
table(
    "route_tables",
    Column("number", Integer, primary_key=True),
    required("route_table_id", String, unique=True),
    required("vpc_id", String, ForeignKey("vpcs.vpc_id", ondelete="CASCADE"), index=True),
    required("created_ms", BigInteger),
)
table(
    "security_groups",
    Column("number", Integer, primary_key=True),
    required("group_id", String, unique=True),
    required("vpc_id", String, ForeignKey("vpcs.vpc_id", ondelete="CASCADE"), index=True),
    required("name", String),
    required("name_key", String),
    required("description", String),
    required("is_default", Boolean),
    required("created_ms", BigInteger),
    UniqueConstraint("vpc_id", "name_key"),
)
table(
    "subnets",
    Column("number", Integer, primary_key=True),
    required("subnet_id", String, unique=True),
    required("vpc_id", String, ForeignKey("vpcs.vpc_id"), index=True),
    required("cidr", String),
    Column("ipv6_cidr", String),
    Column("ipv6_association_id", String),
    required("zone", String),
    required("zone_id", String),
    required("created_ms", BigInteger),
    required("default_for_zone", Boolean, server_default=false()),
    required("gives_ipv6", Boolean, server_default=false()),
)
table(
    "vpc_cidrs",
    Column("number", Integer, primary_key=True),
    required("association_id", String, unique=True),
    required("vpc_id", String, ForeignKey("vpcs.vpc_id", ondelete="CASCADE"), index=True),
    required("family", Integer),
    required("cidr", String),
)
table(
    "network_acl_associations",
    Column("number", Integer, primary_key=True),
    required("association_id", String, unique=True),
    required("subnet_id", String, ForeignKey("subnets.subnet_id", ondelete="CASCADE"), unique=True),
    required("acl_id", String, ForeignKey("network_acls.acl_id"), index=True),
)
table(
    "network_acl_entries",
    Column("number", Integer, primary_key=True),
    required("acl_id", String, ForeignKey("network_acls.acl_id", ondelete="CASCADE")),
    required("rule_number", Integer),
    required("egress", Boolean),
    required("protocol", Integer),
    required("allow", Boolean),
    required("cidr", String),
    required("from_port", Integer),
    required("to_port", Integer),
    required("icmp_type", Integer),
    required("icmp_code", Integer),
    UniqueConstraint("acl_id", "egress", "rule_number"),
)
table(
    "network_interfaces",
    Column("number", Integer, primary_key=True),
    required("interface_id", String, unique=True),
    required("subnet_id", String, ForeignKey("subnets.subnet_id"), index=True),
    required("vpc_id", String, ForeignKey("vpcs.vpc_id"), index=True),
    required("mac", String, unique=True),
    required("description", String),
    required("created_type", String),
    required("created_ms", BigInteger),
)
table(
    "route_table_associations",
    Column("number", Integer, primary_key=True),
    required("association_id", String, unique=True),
    required("route_table_id", String, ForeignKey("route_tables.route_table_id", ondelete="CASCADE"), index=True),
    required("vpc_id", String, ForeignKey("vpcs.vpc_id", ondelete="CASCADE"), index=True),
    Column("subnet_id", String, ForeignKey("subnets.subnet_id", ondelete="CASCADE"), unique=True),
)
table(
    "routes",
    Column("number", Integer, primary_key=True),
    required("route_table_id", String, ForeignKey("route_tables.route_table_id", ondelete="CASCADE")),
    required("destination", String),
    required("target", String, index=True),
    UniqueConstraint("route_table_id", "destination"),
)
table(
    "security_group_rules",
    Column("number", Integer, primary_key=True),
    required("rule_id", String, unique=True),
    required("group_id", String, ForeignKey("security_groups.group_id", ondelete="CASCADE"), index=True),
    required("egress", Boolean),
    required("protocol", Integer),
    required("from_port", Integer),
    required("to_port", Integer),
    Column("cidr", String),
    Column("referenced_group_id", String, ForeignKey("security_groups.group_id", ondelete="CASCADE"), index=True),
    Column("prefix_list_id", String, ForeignKey("prefix_lists.prefix_list_id"), index=True),
    Column("description", String),
)
table(
    "addresses",
    Column("number", Integer, primary_key=True),
    required("interface_id", String, ForeignKey("network_interfaces.interface_id", ondelete="CASCADE")),
    required("subnet_id", String, ForeignKey("subnets.subnet_id")),
    required("family", Integer),
    required("primary", Boolean),
    required("address", String),
    required("value", BigInteger),
    UniqueConstraint("subnet_id", "address"),
    Index("addresses_by_value", "subnet_id", "family", "value"),
    Index("addresses_of_interface", "interface_id"),
)
table(
    "attachments",
    Column("number", Integer, primary_key=True),
    required("attachment_id", String, unique=True),
    required("interface_id", String, ForeignKey("network_interfaces.interface_id"), unique=True),
    required("instance_id", String, ForeignKey("instances.instance_id", ondelete="CASCADE"), index=True),
    required("device_index", Integer),
    required("delete_on_termination", Boolean),
    required("attached_ms", BigInteger),
)
table(
    "bindings",
    Column("interface_id", String, ForeignKey("network_interfaces.interface_id"), primary_key=True),
    required("agent", String, ForeignKey("agents.name"), index=True),
    required("device", String),
    Column("instance_id", String, index=True),
    Column("interface_type", String),
    Column("requester_id", String),
    required("enforce", Boolean),
    required("sense", String, server_default=text("'outside'")),
    Column("enforce_seconds", Integer),
    Column("enforce_until_ms", BigInteger),
    Column("guest_mac", String),
    required("attachment_id", String),
    required("attached_ms", BigInteger),
    required("revision", BigInteger),
    required("state", String),
    Column("message", String),
    Column("mode", String),
    UniqueConstraint("agent", "device"),
)
table(
    "enrolments",
    Column("interface_id", String, ForeignKey("network_interfaces.interface_id", ondelete="CASCADE"), primary_key=True),
    required("agent", String, ForeignKey("agents.name"), index=True),
    required("device", String),
    required("identity", String),
    required("tags", JSON),
    Column("mac", String),
    Column("gone_ms", BigInteger),
)
table(
    "interface_groups",
    Column("interface_id", String, ForeignKey("network_interfaces.interface_id", ondelete="CASCADE"), primary_key=True),
    Column("group_id", String, ForeignKey("security_groups.group_id"), primary_key=True),
    required("position", Integer),
    Index("interface_groups_by_group", "group_id"),
)
table(
    "nat_gateways",
    Column("number", Integer, primary_key=True),
    required("nat_gateway_id", String, unique=True),
    required("subnet_id", String, ForeignKey("subnets.subnet_id"), index=True),
    required("vpc_id", String, ForeignKey("vpcs.vpc_id"), index=True),
    required("interface_id", String, ForeignKey("network_interfaces.interface_id"), unique=True),
    required("connectivity_type", String),
    required("created_ms", BigInteger),
)

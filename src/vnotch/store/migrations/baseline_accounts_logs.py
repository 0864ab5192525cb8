"""The account, its users and policies, log groups, metrics and alerts as revision 0001 has them: a record, which does
not change with the tables of today."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    text,
)

from vnotch.store.migrations.baseline import required, table

table(
    "account",
    Column("id", Integer, primary_key=True),
    required("account_id", String(12)),
    required("region", String(32)),
    required("session_key", LargeBinary),
    required("created_ms", BigInteger),
)
table(
    "iam_attachment",
    Column("owner_id", String(32), primary_key=True),
    Column("policy_arn", String(2048), primary_key=True, index=True),
)
table(
    "iam_group",
    Column("name_key", String(128), primary_key=True),
    required("name", String(128)),
    required("path", String(512)),
    required("group_id", String(32), unique=True),
    required("tags", Text),
    required("created_ms", BigInteger),
)
table(
    "iam_inline_policy",
    Column("owner_id", String(32), primary_key=True),
    Column("name", String(128), primary_key=True),
    required("document", Text),
)
table(
    "iam_managed_policy",
    Column("name_key", String(128), primary_key=True),
    required("name", String(128)),
    required("path", String(512)),
    required("policy_id", String(32), unique=True),
    Column("description", Text),
    required("default_version", Integer),
    required("last_version", Integer),
    required("tags", Text),
    required("created_ms", BigInteger),
    required("updated_ms", BigInteger),
)
table(
    "iam_role",
    Column("name_key", String(64), primary_key=True),
    required("name", String(64)),
    required("path", String(512)),
    required("role_id", String(32), unique=True),
    required("trust_policy", Text),
    Column("description", Text),
    required("max_session_seconds", Integer),
    Column("trusted_ids", Text),
    required("tags", Text),
    required("created_ms", BigInteger),
    Column("boundary_arn", String(2048)),
)
table(
    "iam_user",
    Column("name_key", String(64), primary_key=True),
    required("name", String(64)),
    required("path", String(512)),
    required("user_id", String(32), unique=True),
    required("tags", Text),
    required("created_ms", BigInteger),
    Column("boundary_arn", String(2048)),
)
table(
    "iam_access_key",
    Column("access_key_id", String(32), primary_key=True),
    required("secret_access_key", String(64)),
    Column("user_key", String(64), ForeignKey("iam_user.name_key"), index=True),
    Column("agent", String(128), index=True),
    required("status", String(8)),
    required("created_ms", BigInteger),
)
table(
    "iam_group_member",
    Column("group_id", String(32), ForeignKey("iam_group.group_id", ondelete="CASCADE"), primary_key=True),
    Column("user_id", String(32), ForeignKey("iam_user.user_id", ondelete="CASCADE"), primary_key=True, index=True),
)
table(
    "iam_instance_profile",
    Column("name_key", String(128), primary_key=True),
    required("name", String(128)),
    required("path", String(512)),
    required("profile_id", String(32), unique=True),
    Column("role_id", String(32), ForeignKey("iam_role.role_id"), index=True),
    required("tags", Text),
    required("created_ms", BigInteger),
)
table(
    "iam_policy_version",
    Column("policy_id", String(32), ForeignKey("iam_managed_policy.policy_id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    required("document", Text),
    required("created_ms", BigInteger),
)
table(
    "alert_progress",
    Column("alert", String(1024), primary_key=True),
    required("position", BigInteger),
    required("learned", Boolean),
)
table(
    "log_grave",
    Column("group_id", Integer, primary_key=True, autoincrement=False),
    Column("stream_id", Integer, primary_key=True, autoincrement=False),
)
table(
    "log_group",
    Column("id", Integer, primary_key=True),
    required("name", String(512), unique=True),
    required("creation_ms", BigInteger),
    Column("retention_days", Integer),
    required("log_class", String(32)),
    required("deletion_protection", Boolean),
    required("stored_bytes", BigInteger),
    sqlite_autoincrement=True,
)
table(
    "log_progress",
    Column("id", Integer, primary_key=True),
    required("sequence", BigInteger),
)
table(
    "log_resource_policy",
    Column("group_id", Integer, primary_key=True, autoincrement=False),
    Column("key", String(512), primary_key=True),
    required("name", String(512)),
    required("document", Text),
    required("revision", String(64)),
    required("updated_ms", BigInteger),
)
table(
    "log_usage",
    Column("month", String(7), primary_key=True),
    Column("group_id", Integer, primary_key=True, autoincrement=False),
    required("name", String(512)),
    required("log_class", String(32)),
    required("events", BigInteger),
    required("custom_bytes", BigInteger),
    required("vended_bytes", BigInteger),
    required("scanned_bytes", BigInteger),
    required("stored_bytes", BigInteger),
    required("requests", BigInteger),
)
table(
    "log_usage_progress",
    Column("id", Integer, primary_key=True),
    required("sequence", BigInteger),
)
table(
    "metric",
    Column("id", Integer, primary_key=True),
    required("digest", String(64), unique=True),
    required("namespace", String(255), index=True),
    required("name", String(255)),
    required("dimensions", Text),
    required("last_ms", BigInteger),
)
table(
    "metric_alarm",
    Column("name", String(255), primary_key=True),
    required("asked", JSON),
    required("configured_ms", BigInteger),
    required("state", String(32)),
    required("reason", Text),
    Column("reason_data", Text),
    required("updated_ms", BigInteger),
    required("transitioned_ms", BigInteger),
)
table(
    "metric_point",
    Column("metric_id", Integer, primary_key=True, autoincrement=False),
    Column("minute_ms", BigInteger, primary_key=True, autoincrement=False),
    Column("unit", String(32), primary_key=True),
    required("samples", Float),
    required("total", Float),
    required("least", Float),
    required("greatest", Float),
    required("is_default", Boolean),
    Index("metric_point_minute", "minute_ms"),
)
table(
    "query_definition",
    Column("id", String(256), primary_key=True),
    required("name", String(255), index=True),
    required("query", Text),
    required("group_names", JSON),
    required("parameters", JSON),
    required("modified_ms", BigInteger),
    Column("token", String(128), unique=True),
)
table(
    "alert_listener",
    Column("alert", String(1024), ForeignKey("alert_progress.alert", ondelete="CASCADE"), primary_key=True),
    Column("address", String(64), primary_key=True),
    Column("port", Integer, primary_key=True),
    Column("protocol", Integer, primary_key=True),
)
table(
    "alert_told",
    Column("alert", String(1024), ForeignKey("alert_progress.alert", ondelete="CASCADE"), primary_key=True),
    Column("source", String(64), primary_key=True),
    Column("destination", String(64), primary_key=True),
    required("quiet_ms", BigInteger),
)
table(
    "log_group_tag",
    Column("group_id", Integer, ForeignKey("log_group.id", ondelete="CASCADE"), primary_key=True),
    Column("key", String(128), primary_key=True),
    required("value", Text),
)
table(
    "log_import",
    Column("group_id", Integer, ForeignKey("log_group.id", ondelete="CASCADE"), primary_key=True),
    Column("file_id", String(32), primary_key=True),
    required("name", Text),
    required("complete_ms", BigInteger),
)
table(
    "log_import_part",
    Column("group_id", Integer, ForeignKey("log_group.id", ondelete="CASCADE"), primary_key=True),
    Column("file_id", String(32), primary_key=True),
    Column("part", Integer, primary_key=True),
)
table(
    "log_stream",
    Column("id", Integer, primary_key=True),
    required("group_id", Integer, ForeignKey("log_group.id", ondelete="CASCADE")),
    required("name", String(512)),
    required("creation_ms", BigInteger),
    Column("first_ms", BigInteger),
    Column("last_ms", BigInteger),
    Column("ingestion_ms", BigInteger),
    required("events", BigInteger),
    required("bytes", BigInteger),
    Index("log_stream_name", "group_id", "name", unique=True),
    Index("log_stream_time", "group_id", text("coalesce(last_ms, 0)"), "name"),
    sqlite_autoincrement=True,
)
table(
    "metric_filter",
    Column("group_id", Integer, ForeignKey("log_group.id", ondelete="CASCADE"), primary_key=True),
    Column("name", String(512), primary_key=True),
    required("pattern", Text),
    required("transformation", JSON),
    required("creation_ms", BigInteger),
    required("position", BigInteger),
)

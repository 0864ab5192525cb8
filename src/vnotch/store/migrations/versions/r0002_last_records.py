"""Flow logs that were deleted are known until their last records are delivered, and so are the names of their files."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "ended_flow_logs",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("agent", sa.String(), nullable=False),
        sa.Column("flow_log_id", sa.String(), nullable=False),
        sa.Column("log_destination_type", sa.String(), nullable=False),
        sa.Column("log_destination", sa.String(), nullable=True),
        sa.Column("deliver_logs_permission_arn", sa.String(), nullable=False),
        sa.Column("file_format", sa.String(), nullable=True),
        sa.Column("hive_compatible_partitions", sa.Boolean(), nullable=True),
        sa.Column("per_hour_partition", sa.Boolean(), nullable=True),
        sa.Column("until_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("number"),
    )
    op.create_index("ix_ended_flow_logs_agent", "ended_flow_logs", ["agent"])
    op.create_index("ix_ended_flow_logs_until_ms", "ended_flow_logs", ["until_ms"])
    # Under another name, since SQLite cannot take away the reference to a flow log that has to be there.
    op.create_table(
        "bucket_file_names",
        sa.Column("flow_log_id", sa.String(), nullable=False),
        sa.Column("slot_s", sa.BigInteger(), nullable=False),
        sa.Column("name_hash", sa.String(), nullable=False),
        sa.Column("agent", sa.String(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("given_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("flow_log_id", "slot_s", "name_hash"),
    )
    op.create_index("ix_bucket_file_names_given_ms", "bucket_file_names", ["given_ms"])
    columns = "flow_log_id, slot_s, name_hash, agent, sha256, given_ms"
    op.execute(f"INSERT INTO bucket_file_names ({columns}) SELECT {columns} FROM flow_log_files")
    op.drop_index("ix_flow_log_files_given_ms", "flow_log_files")
    op.drop_table("flow_log_files")

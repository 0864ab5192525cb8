"""Elastic IP addresses."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "elastic_addresses",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("allocation_id", sa.String(), nullable=False),
        sa.Column("public_ip", sa.String(), nullable=False),
        sa.Column("association_id", sa.String(), nullable=True),
        sa.Column("interface_id", sa.String(), nullable=True),
        sa.Column("private_ip", sa.String(), nullable=True),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["interface_id"], ["network_interfaces.interface_id"]),
        sa.PrimaryKeyConstraint("number"),
        sa.UniqueConstraint("allocation_id"),
        sa.UniqueConstraint("association_id"),
        sa.UniqueConstraint("public_ip"),
    )
    op.create_index("ix_elastic_addresses_interface_id", "elastic_addresses", ["interface_id"])

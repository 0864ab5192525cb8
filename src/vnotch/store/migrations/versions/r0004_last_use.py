"""When access keys and roles were used last."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "iam_last_use",
        sa.Column("subject_id", sa.String(length=32), nullable=False),
        sa.Column("used_ms", sa.BigInteger(), nullable=False),
        sa.Column("service", sa.String(length=64), nullable=False),
        sa.Column("region", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("subject_id"),
    )

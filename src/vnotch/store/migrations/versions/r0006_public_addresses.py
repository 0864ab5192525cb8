"""Public addresses that instances get at their launch."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("subnets", sa.Column("maps_public", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("network_interfaces", sa.Column("public_ip", sa.String(), nullable=True))

"""The tables that there were when revisions began; states of before are brought to them."""

from __future__ import annotations

from alembic import op

from vnotch.store.migrations import baseline_accounts_logs, baseline_network  # noqa: F401  they declare the tables
from vnotch.store.migrations.baseline import bring_to_baseline

revision = "0001"
down_revision = None


def upgrade() -> None:
    bring_to_baseline(op.get_bind())

"""What a rollout waits for (soak, approval), what became of its lanes, and of a device's attempts."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add the columns."""
    before_the_first = sa.text("-1")
    op.add_column("rollout_states", sa.Column("settled_at", sa.Float(), nullable=True))
    for name in ("approval_wave", "approved_wave"):
        column = sa.Column(name, sa.Integer(), server_default=before_the_first, nullable=False)
        op.add_column("rollout_states", column)
    op.add_column("rollout_states", sa.Column("lanes", sa.JSON(), nullable=True))
    op.add_column("rollout_commands", sa.Column("wave", sa.Integer(), nullable=True))
    op.add_column("rollout_commands", sa.Column("profile", sa.String(63), nullable=True))
    for name in ("attempt", "retries"):
        column = sa.Column(name, sa.Integer(), server_default=sa.text("0"), nullable=False)
        op.add_column("deployments", column)
    op.add_column("deployments", sa.Column("retry_at", sa.Float(), nullable=True))
    op.add_column("deployments", sa.Column("takes_place", sa.Boolean(), server_default=sa.true(), nullable=False))

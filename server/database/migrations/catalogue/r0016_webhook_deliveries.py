"""What became of the latest attempts to tell decisions to the operator's webhook."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    """Add the table; it is empty until something is told."""
    op.create_table(
        "webhook_deliveries",
        sa.Column("decision_id", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("tried_at", sa.Float(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("fate", sa.String(16), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("failure", sa.Text(), nullable=False),
        sa.Column("next_try_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("decision_id", name="pk_webhook_deliveries"),
    )

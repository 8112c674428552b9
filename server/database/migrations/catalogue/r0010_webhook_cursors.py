"""How far the decisions of rollouts have been told to the operator's webhook."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Add the table; it is empty until something was told."""
    op.create_table(
        "webhook_cursors",
        sa.Column("name", sa.String(32), nullable=False),
        sa.Column("decision_id", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_webhook_cursors"),
    )

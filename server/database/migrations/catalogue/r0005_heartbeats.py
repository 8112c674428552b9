"""Which processes work."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the table; the processes of this release fill it within seconds."""
    op.create_table(
        "heartbeats",
        sa.Column("process", sa.String(16), nullable=False),
        sa.Column("instance", sa.String(64), nullable=False),
        sa.Column("beat_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("process", "instance", name="pk_heartbeats"),
    )

"""Rows that stand for several reports, and how far they have been merged."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the columns and the table."""
    op.add_column("reports", sa.Column("merged", sa.BigInteger(), server_default=sa.text("1"), nullable=False))
    op.add_column("reports", sa.Column("span_s", sa.Float(), server_default=sa.text("0"), nullable=False))
    op.add_column("reports", sa.Column("first_received_at", sa.Float(), nullable=True))
    op.add_column("reports", sa.Column("throttled_count", sa.BigInteger(), nullable=True))
    op.create_table(
        "merges",
        sa.Column("span_s", sa.Float(), nullable=False),
        sa.Column("until", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("span_s", name="pk_merges"),
    )

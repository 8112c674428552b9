"""Deltas between variants, and what they save."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "deltas",
        sa.Column("manifest_sha256", sa.String(64), nullable=False),
        sa.Column("base_manifest_sha256", sa.String(64), nullable=False),
        sa.Column("object_sha256", sa.String(64), nullable=True),
        sa.Column("document", sa.JSON(), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("manifest_sha256", "base_manifest_sha256", name="pk_deltas"),
    )

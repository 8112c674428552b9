"""The first tables of the telemetry."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create them."""
    op.create_table(
        "reports",
        sa.Column("device_id", sa.String(length=63), nullable=False),
        sa.Column("spool_id", sa.String(length=32), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("received_at", sa.Float(), nullable=False),
        sa.Column("window_start", sa.Float(), nullable=False),
        sa.Column("window_s", sa.Float(), nullable=False),
        sa.Column("profile", sa.String(length=63), nullable=False),
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("version", sa.String(length=63), nullable=False),
        sa.Column("variant_id", sa.String(length=63), nullable=False),
        sa.Column("deployment_id", sa.String(length=63), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("inferences", sa.BigInteger(), nullable=False),
        sa.Column("errors", sa.JSON(), nullable=False),
        sa.Column("error_count", sa.BigInteger(), nullable=False),
        sa.Column("sketches", sa.LargeBinary(), nullable=False),
        sa.Column("rss_bytes", sa.BigInteger(), nullable=False),
        sa.Column("temperature_c", sa.Float(), nullable=True),
        sa.Column("throttled", sa.Boolean(), nullable=True),
        sa.Column("dropped_reports", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("device_id", "spool_id", "sequence", name=op.f("pk_reports")),
    )
    op.create_index("ix_reports_received_at", "reports", ["received_at"], unique=False)
    op.create_index("ix_reports_variant", "reports", ["model", "version", "variant_id", "profile"], unique=False)

"""Certificates of devices, claims of factories, replaced and cloned devices."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0014"


def upgrade() -> None:
    """Add tables and columns."""
    op.create_table(
        "certificates",
        sa.Column("serial", sa.String(40), nullable=False),
        sa.Column("device_id", sa.String(63), nullable=False),
        sa.Column("public_key_sha256", sa.String(64), nullable=False),
        sa.Column("issued_at", sa.Float(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.Column("used_at", sa.Float(), nullable=True),
        sa.Column("revoked_at", sa.Float(), nullable=True),
        sa.Column("reason", sa.String(16), nullable=True),
        sa.PrimaryKeyConstraint("serial", name="pk_certificates"),
    )
    for name in ("device_id", "public_key_sha256", "revoked_at"):
        op.create_index(f"ix_certificates_{name}", "certificates", [name])
    op.create_table(
        "claims",
        sa.Column("public_key_sha256", sa.String(64), nullable=False),
        sa.Column("token_sha256", sa.String(64), nullable=False),
        sa.Column("device_id", sa.String(63), nullable=False),
        sa.Column("request", sa.JSON(), nullable=False),
        sa.Column("asked_at", sa.Float(), nullable=False),
        sa.Column("decided_at", sa.Float(), nullable=True),
        sa.Column("approved", sa.Boolean(), nullable=True),
        sa.PrimaryKeyConstraint("public_key_sha256", name="pk_claims"),
    )
    op.create_index("ix_claims_token_sha256", "claims", ["token_sha256"])
    op.add_column("devices", sa.Column("revoked_at", sa.Float(), nullable=True))
    op.create_index("ix_devices_revoked_at", "devices", ["revoked_at"])
    op.add_column("join_tokens", sa.Column("replaces", sa.String(63), nullable=True))
    op.add_column("join_tokens", sa.Column("max_uses", sa.Integer(), nullable=False, server_default=sa.text("1")))
    op.add_column("join_tokens", sa.Column("uses", sa.Integer(), nullable=False, server_default=sa.text("0")))
    op.add_column("join_tokens", sa.Column("uses_per_hour", sa.Integer(), nullable=True))
    op.add_column("join_tokens", sa.Column("needs_approval", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.execute("UPDATE join_tokens SET uses = 1 WHERE used_at IS NOT NULL")
    op.add_column("device_states", sa.Column("sessions", sa.JSON(), nullable=True))
    op.add_column("device_states", sa.Column("clones", sa.Integer(), nullable=False, server_default=sa.text("0")))
    op.add_column("device_states", sa.Column("clone_seen_at", sa.Float(), nullable=True))

"""What devices are asked, and what they answer."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Add the tables."""
    op.create_table(
        "inquiries",
        sa.Column("inquiry_id", sa.String(32), nullable=False),
        sa.Column("device_id", sa.String(63), nullable=False),
        sa.Column("request", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("inquiry_id", name="pk_inquiries"),
    )
    for name in ("device_id", "created_at", "expires_at"):
        op.create_index(f"ix_inquiries_{name}", "inquiries", [name])
    op.create_table(
        "inquiry_answers",
        sa.Column("inquiry_id", sa.String(32), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("active_at", sa.Float(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("inquiry_id", name="pk_inquiry_answers"),
    )
    op.create_table(
        "inquiry_parts",
        sa.Column("inquiry_id", sa.String(32), nullable=False),
        sa.Column("part", sa.Integer(), nullable=False),
        sa.Column("parts", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("inquiry_id", "part", name="pk_inquiry_parts"),
    )

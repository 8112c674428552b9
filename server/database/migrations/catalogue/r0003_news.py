"""The number of what a device said anew."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the column; nobody has said anything yet."""
    with op.batch_alter_table("device_states") as table:
        table.add_column(sa.Column("news", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
    op.create_index("ix_device_states_news", "device_states", ["news"], unique=False)

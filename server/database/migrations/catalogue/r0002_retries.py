"""Since when a device tries in vain to fetch what it was offered."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the column; nobody tries yet."""
    with op.batch_alter_table("deployments") as table:
        table.add_column(sa.Column("retrying_since", sa.Float(), nullable=True))

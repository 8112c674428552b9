"""What a device found as a shadow, before the variant answered anyone."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Add the column."""
    op.add_column("deployments", sa.Column("shadow", sa.JSON(), nullable=True))

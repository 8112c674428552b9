"""Why a profile gets what it gets."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the column; what was chosen before has no reason written down."""
    with op.batch_alter_table("choices") as table:
        table.add_column(sa.Column("reason", sa.Text(), server_default=sa.text("''"), nullable=False))

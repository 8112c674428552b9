"""Whether what devices hold ready may answer: an operator's word, or the time that the plan names."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    """Add the column; no rollout that is there has staged anything."""
    op.add_column("rollout_states", sa.Column("activated", sa.Boolean(), server_default=sa.false(), nullable=False))

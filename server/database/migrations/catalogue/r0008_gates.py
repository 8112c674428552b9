"""What measurements have stopped, and the wave of which too little was measured."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add the columns."""
    op.add_column("rollout_states", sa.Column("gate_stops", sa.JSON(), nullable=True))
    op.add_column(
        "rollout_states", sa.Column("unmeasured_wave", sa.Integer(), server_default=sa.text("-1"), nullable=False)
    )

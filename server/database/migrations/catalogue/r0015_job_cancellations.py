"""Jobs that shall not be done."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    """Add the table; nothing is cancelled yet."""
    op.create_table(
        "job_cancellations",
        sa.Column("job_id", sa.String(32), nullable=False),
        sa.Column("cancelled_by", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("job_id", name="pk_job_cancellations"),
    )

"""Reports found by deployment: the gates of a rollout ask for those of its devices."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the index."""
    op.create_index("ix_reports_deployment_id", "reports", ["deployment_id"], unique=False)

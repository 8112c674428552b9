"""What became of the latest attempts, for people: a row for each decision; how far all is told is the cursor's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from server.database.tables import decisions, rollouts, webhook_deliveries
from server.schemas.webhook import Delivery, WebhookStatus
from server.webhook.cursor import UNTOLD
from server.webhook.rules import Fate

if TYPE_CHECKING:
    from server.database.connect import Database

KEPT: Final = 100  # rows; older ones go
SHOWN: Final = 20


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt to tell a decision."""

    decision_id: int
    at: float
    fate: Fate
    status: int | None = None
    failure: str = ""
    next_try_at: float | None = None


def note(connection: sa.Connection, attempt: Attempt) -> None:
    """Write an attempt down.

    One that came to nothing is no news of a decision that is told by now: who writes it may have lost the lead.
    """
    columns = webhook_deliveries.c
    if attempt.fate is Fate.LATER and connection.execute(_untold(attempt.decision_id)).first() is None:
        return
    known = sa.select(columns.attempts).where(columns.decision_id == attempt.decision_id)
    attempts = connection.execute(known).scalar()
    values = {
        "tried_at": attempt.at,
        "attempts": (attempts or 0) + 1,
        "fate": attempt.fate.value,
        "status": attempt.status,
        "failure": attempt.failure,
        "next_try_at": attempt.next_try_at,
    }
    if attempts is None:
        connection.execute(sa.insert(webhook_deliveries).values(decision_id=attempt.decision_id, **values))
        kept = sa.select(columns.decision_id).order_by(columns.decision_id.desc()).offset(KEPT - 1).limit(1)
        if (oldest := connection.execute(kept).scalar()) is not None:
            connection.execute(sa.delete(webhook_deliveries).where(columns.decision_id < oldest))
    else:
        mine = columns.decision_id == attempt.decision_id
        connection.execute(sa.update(webhook_deliveries).where(mine).values(**values))


def webhook_status(database: Database, *, receiver: str, signed: bool) -> WebhookStatus:
    """How the webhook is doing.

    Args:
        database: the catalogue.
        receiver: what may be shown of its address; empty: none is set, and nothing waits.
        signed: whether what is posted carries a signature.

    Raises:
        DatabaseUnavailableError: it can't be read.
    """
    columns = webhook_deliveries.c
    known = webhook_deliveries.join(decisions, decisions.c.decision_id == columns.decision_id)
    query = (
        sa.select(
            *webhook_deliveries.c,
            decisions.c.rollout_id,
            decisions.c.action,
            decisions.c.at.label("decided_at"),
            rollouts.c.model,
            rollouts.c.version,
        )
        .select_from(known.join(rollouts, rollouts.c.rollout_id == decisions.c.rollout_id))
        .order_by(columns.decision_id.desc())
        .limit(SHOWN)
    )
    with database.read() as connection:
        count, since = connection.execute(sa.select(sa.func.count(), sa.func.min(decisions.c.at)).where(UNTOLD)).one()
        rows = connection.execute(query).all()
    latest = rows[0] if rows else None
    return WebhookStatus(
        receiver=receiver,
        signed=signed,
        waiting=count if receiver else 0,
        waiting_since=since if receiver else None,
        next_try_at=latest.next_try_at if receiver and latest is not None and latest.fate == Fate.LATER else None,
        deliveries=tuple(Delivery.model_validate(row._asdict()) for row in rows),
    )


def _untold(decision_id: int) -> sa.Select[tuple[int]]:
    return sa.select(decisions.c.decision_id).where(UNTOLD, decisions.c.decision_id == decision_id)

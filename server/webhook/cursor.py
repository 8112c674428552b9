"""How far decisions have been told: one row, which a restart and another leader go on from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from server.database.tables import decisions, rollouts, webhook_cursors
from server.schemas.rollouts import DecisionNotice

if TYPE_CHECKING:
    from server.database.connect import Database

NAME: Final = "decisions"
_MINE: Final = webhook_cursors.c.name == NAME
_REACHED: Final = sa.func.coalesce(sa.select(webhook_cursors.c.decision_id).where(_MINE).scalar_subquery(), 0)
UNTOLD: Final = decisions.c.decision_id > _REACHED


def next_notice(database: Database) -> DecisionNotice | None:
    """The first decision that was not told yet.

    Raises:
        DatabaseUnavailableError: it can't be read.
    """
    query = (
        sa.select(decisions, rollouts.c.model, rollouts.c.version)
        .join(rollouts, rollouts.c.rollout_id == decisions.c.rollout_id)
        .where(UNTOLD)
        .order_by(decisions.c.decision_id)
        .limit(1)
    )
    with database.read() as connection:
        row = connection.execute(query).first()
    if row is None:
        return None
    return DecisionNotice(
        id=row.decision_id,
        at=row.at,
        rollout_id=row.rollout_id,
        model=row.model,
        version=row.version,
        action=row.action,
        sentence=row.sentence,
        numbers=row.numbers,
    )


def move_on(connection: sa.Connection, decision_id: int) -> None:
    """All up to this decision are done with. Never back: one that has lost the lead may come late."""
    reached = connection.execute(sa.select(webhook_cursors.c.decision_id).where(_MINE)).scalar()
    if reached is None:
        connection.execute(sa.insert(webhook_cursors).values(name=NAME, decision_id=decision_id))
    elif reached < decision_id:
        connection.execute(sa.update(webhook_cursors).where(_MINE).values(decision_id=decision_id))


def skip_older(connection: sa.Connection, before: float) -> tuple[int, int]:
    """Be done with those at the front that were decided before this time; how many there were, and the last of them."""
    fresh = sa.select(sa.func.min(decisions.c.decision_id)).where(UNTOLD, decisions.c.at >= before)
    first_fresh = connection.execute(fresh).scalar()
    old = UNTOLD if first_fresh is None else sa.and_(UNTOLD, decisions.c.decision_id < first_fresh)
    count, last = connection.execute(sa.select(sa.func.count(), sa.func.max(decisions.c.decision_id)).where(old)).one()
    if count:
        move_on(connection, last)
    return int(count), int(last or 0)

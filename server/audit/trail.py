"""Writing the log and reading it: rows are added at the end, inside the transaction of the change that they tell of."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from server.audit.chain import FIRST, linked, told
from server.database.tables import audit_log
from server.schemas.audit import AuditEntry, Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

logger = logging.getLogger(__name__)

MAX_LISTED: Final = 1000
TRAIL: Final = "audit_trail"  # where a connection carries it
SUBJECT_LENGTH: Final = 256


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks for something, and by which request."""

    who: str
    role: str = ""
    address: str = ""
    request_id: str = ""
    operation: str = ""
    expires_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Change:
    """What is told of a change, or of an attempt."""

    what: str  # such as `device.retire`; empty: nothing was changed
    subject: str
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None
    who: str | None = None  # did it, where it is not the asker


@dataclass(slots=True)
class Trail:
    """What one transaction has changed, and what of it was recorded."""

    asker: Asker
    now: float
    recorded: int = 0
    written: set[str] = field(default_factory=set)
    """Names of the tables that were changed."""


def changed(
    connection: sa.Connection,
    change: str,
    subject: str,
    *,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    who: str | None = None,
) -> None:
    """Record a change of the transaction that this connection is in.

    Without a trail nobody asked for it: what the registry's own processes do stands in their tables (`decisions`,
    `job_runs`). The door of the API always gives one, and refuses a change that was not recorded.

    Args:
        connection: of the change.
        change: what is done, such as `device.retire`.
        subject: to what, such as `device/till-1`.
        before: what there was.
        after: what there is.
        who: did it, where it is not the asker: a device joins by a token.
    """
    trail: Trail | None = connection.info.get(TRAIL)
    if trail is None:
        return
    trail.recorded += 1
    append(connection, trail.asker, Change(change, subject, before, after, who), outcome=Outcome.DONE, now=trail.now)


def append(connection: sa.Connection, asker: Asker, change: Change, *, outcome: Outcome, now: float) -> AuditEntry:
    """Add a row. The connection must be in a writing transaction: writers take turns, so the last row stays last."""
    newest = sa.select(audit_log.c.sequence, audit_log.c.sha256).order_by(audit_log.c.sequence.desc()).limit(1)
    last = connection.execute(newest).first()
    content = {
        "at": now,
        "who": change.who or asker.who,
        "role": asker.role,
        "address": asker.address[:64],
        "request_id": asker.request_id,
        "operation": asker.operation,
        "change": change.what,
        "subject": change.subject[:SUBJECT_LENGTH],
        "outcome": outcome,
        "before": told(change.before),
        "after": told(change.after),
    }
    entry = linked((last.sequence, last.sha256) if last else (0, FIRST), content)
    connection.execute(sa.insert(audit_log).values(entry.model_dump(mode="json")))
    # the process's log is a second witness, which a change of the table would have to reach, too
    logger.info(
        "audit %d %s %s %s %s", entry.sequence, entry.sha256, entry.who, change.what or asker.operation, outcome
    )
    return entry


def read_entries(
    connection: sa.Connection, *, after: int = 0, since: float | None = None, newest: int | None = None
) -> Sequence[AuditEntry]:
    """Rows in their order.

    Args:
        connection: to read by.
        after: only those with a higher number; at most `MAX_LISTED`.
        since: only those of this time or later.
        newest: only so many, the last ones.
    """
    query = sa.select(audit_log).where(audit_log.c.sequence > after)
    if since is not None:
        query = query.where(audit_log.c.at >= since)
    if newest is not None:
        rows = connection.execute(query.order_by(audit_log.c.sequence.desc()).limit(newest)).all()[::-1]
    else:
        rows = connection.execute(query.order_by(audit_log.c.sequence).limit(MAX_LISTED)).all()
    return [AuditEntry.model_validate(row._asdict()) for row in rows]

"""One controller leads: a lease in the database, and a term that fences off one that has lost it without knowing."""

from __future__ import annotations

import sqlalchemy as sa

from server.database.tables import leases
from server.errors import RegistryError

NAME = "controller"


class LeaseLostError(RegistryError):
    """Another controller leads now: nothing of this transaction may be written."""

    code = "lease_lost"
    retryable = True


def leader_until(connection: sa.Connection) -> tuple[str, float]:
    """Who leads, and until when; before the first leader nobody, until 0."""
    row = connection.execute(sa.select(leases.c.holder, leases.c.until).where(leases.c.name == NAME)).first()
    return (row.holder, row.until) if row else ("", 0.0)


def acquire(connection: sa.Connection, *, holder: str, now: float, lease_s: float) -> int | None:
    """Take the lease if it is free or has run out; in a writing transaction.

    Returns:
        The term of the new leader, one higher than the last; None when somebody else leads.
    """
    row = connection.execute(sa.select(leases).where(leases.c.name == NAME)).first()
    if row is None:
        connection.execute(sa.insert(leases).values(name=NAME, holder=holder, until=now + lease_s, term=1))
        return 1
    # a lease longer than ours can be: the clock was set back, or lease_s was lowered; it must not lock us out for long
    if row.holder != holder and now < row.until <= now + 10 * lease_s:
        return None
    term = int(row.term) + 1
    connection.execute(
        sa.update(leases).where(leases.c.name == NAME).values(holder=holder, until=now + lease_s, term=term)
    )
    return term


def check(connection: sa.Connection, *, holder: str, term: int, now: float, lease_s: float) -> None:
    """Prove inside a writing transaction that we still lead, and prolong the lease.

    Raises:
        LeaseLostError: another term has begun.
    """
    prolonged = connection.execute(
        sa.update(leases)
        .where(leases.c.name == NAME, leases.c.holder == holder, leases.c.term == term)
        .values(until=now + lease_s)
    )
    if prolonged.rowcount != 1:
        raise LeaseLostError("Another controller has taken the lease; this one waits for its turn.")


def release(connection: sa.Connection, *, holder: str, term: int) -> None:
    """Leave cleanly, so that the next one need not wait."""
    connection.execute(
        sa.update(leases).where(leases.c.name == NAME, leases.c.holder == holder, leases.c.term == term).values(until=0)
    )

"""Asking for a sweep now: the API writes down that it was asked, and whoever owns what is swept looks there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from server.audit.trail import changed
from server.database.tables import sweep_requests

if TYPE_CHECKING:
    from server.database.connect import Database


def ask_for_sweep(database: Database, *, now: float) -> None:
    """Ask every owner; only the latest wish is kept."""
    with database.write() as connection:
        added = connection.execute(sa.insert(sweep_requests).values(created_at=now)).inserted_primary_key
        if added is not None:
            connection.execute(sa.delete(sweep_requests).where(sweep_requests.c.request_id < added[0]))
        changed(connection, "registry.sweep", "registry")


def latest_request(database: Database) -> int:
    """The number of the latest wish, which grows with each; 0 before the first."""
    with database.read() as connection:
        return connection.execute(sa.select(sa.func.max(sweep_requests.c.request_id))).scalar() or 0

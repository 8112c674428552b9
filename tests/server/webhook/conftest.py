from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from server.database import tables
from tests.server.hook import Hook

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from server.database.connect import Database


@pytest.fixture
def hook() -> Iterator[Hook]:
    """A receiver that takes everything, unless told otherwise."""
    found = Hook()
    yield found
    found.stop()


@pytest.fixture
def database(new_database: Callable[[str], Database]) -> Database:
    """A catalogue with one rollout."""
    found = new_database("registry")
    plan: dict[str, Any] = {"selector": "", "waves": [], "seed": 1, "options": {}, "created_at": 0.0}
    with found.write() as connection:
        tables.catalogue.create_all(connection)
        row = {"rollout_id": "r1", "model": "price", "version": "2", **plan}
        connection.execute(sa.insert(tables.rollouts).values(row))
    return found


@pytest.fixture
def decide(database: Database) -> Callable[..., None]:
    """Write decisions as the controller does; their sentences count on."""

    def write(count: int = 1, *, at: float | None = None) -> None:
        row = {"rollout_id": "r1", "at": time.time() if at is None else at, "action": "wave_opened"}
        with database.write() as connection:
            for _ in range(count):
                values = {**row, "sentence": "Wave 1 is open: é.", "numbers": {"wave": 1, "share": 0.5}}
                connection.execute(sa.insert(tables.decisions).values(values))

    return write

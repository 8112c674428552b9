"""The agent's state on disk: deployments, slots, the highest accepted desired state, counters that only grow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_agent.supervisor.database import open_database, transaction
from edge_agent.supervisor.records import Accepted, DeploymentRecord, ModelSlot, Snapshot

if TYPE_CHECKING:
    from pathlib import Path

    from edge_agent.supervisor.events import Persist

_SCHEMA = """
CREATE TABLE IF NOT EXISTS deployments (deployment_id TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS slots (model TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""


class StateStore:
    """What must survive a power cut. One thread uses it."""

    def __init__(self, path: Path) -> None:
        self._connection = open_database(path, _SCHEMA, synchronous="FULL")

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def load(self) -> Snapshot:
        """What the last `persist` left."""
        execute = self._connection.execute
        row = execute("SELECT value FROM facts WHERE name = 'accepted'").fetchone()
        return Snapshot(
            accepted=Accepted() if row is None else Accepted.model_validate_json(row[0]),
            records=tuple(
                DeploymentRecord.model_validate_json(text)
                for (text,) in execute("SELECT record FROM deployments ORDER BY deployment_id")
            ),
            slots=tuple(
                ModelSlot.model_validate_json(text) for (text,) in execute("SELECT record FROM slots ORDER BY model")
            ),
        )

    def persist(self, change: Persist) -> None:
        """Write a change; it is on disk when this returns."""
        with transaction(self._connection) as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO deployments VALUES (?, ?)",
                [(record.deployment_id, record.model_dump_json()) for record in change.records],
            )
            connection.executemany("DELETE FROM deployments WHERE deployment_id = ?", [(n,) for n in change.forgotten])
            connection.executemany(
                "INSERT OR REPLACE INTO slots VALUES (?, ?)",
                [(slot.model, slot.model_dump_json()) for slot in change.slots],
            )
            connection.executemany("DELETE FROM slots WHERE model = ?", [(model,) for model in change.emptied])
            if change.accepted is not None:
                connection.execute(
                    "INSERT OR REPLACE INTO facts VALUES ('accepted', ?)", (change.accepted.model_dump_json(),)
                )

    def reserve(self, counter: str, count: int) -> int:
        """Take `count` numbers that no process before or after this one gets; the first of them.

        Taken in lots, so that a counter costs few writes; a crash skips the rest of a lot.
        """
        with transaction(self._connection) as connection:
            row = connection.execute("SELECT value FROM facts WHERE name = ?", (counter,)).fetchone()
            first = 1 if row is None else int(row[0])
            connection.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (counter, str(first + count)))
        return first


class Counter:
    """Numbers that only grow, across restarts too."""

    def __init__(self, store: StateStore, name: str, *, lot: int) -> None:
        self._store, self._name, self._lot = store, name, lot
        self._next = self._end = 0

    def take(self) -> int:
        """The next number."""
        if self._next == self._end:
            self._next = self._store.reserve(self._name, self._lot)
            self._end = self._next + self._lot
        self._next += 1
        return self._next - 1

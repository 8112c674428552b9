"""The agent's state on disk: deployments, slots, the highest accepted desired state, counters that only grow."""

from __future__ import annotations

import logging
import sqlite3
from typing import TYPE_CHECKING

from edge_agent.deployments.events import Persist
from edge_agent.deployments.records import Accepted, DeploymentRecord, ModelSlot, Snapshot
from edge_agent.storage.database import open_database, transaction

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)
_SCHEMA = """
CREATE TABLE IF NOT EXISTS deployments (deployment_id TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS slots (model TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""


def merged(before: Persist, after: Persist) -> Persist:
    """Two changes as one. Pure."""
    records = {record.deployment_id: record for record in (*before.records, *after.records)}
    slots = {slot.model: slot for slot in (*before.slots, *after.slots)}
    renewed, refilled = {r.deployment_id for r in after.records}, {slot.model for slot in after.slots}
    return Persist(
        records=tuple(record for name, record in records.items() if name not in after.forgotten),
        forgotten=tuple({*before.forgotten, *after.forgotten} - renewed),
        slots=tuple(slot for model, slot in slots.items() if model not in after.emptied),
        emptied=tuple({*before.emptied, *after.emptied} - refilled),
        accepted=after.accepted or before.accepted,
    )


class StateStore:
    """What must survive a power cut. One thread uses it.

    A disk that is full or takes nothing more does not end what the device runs: changes are kept in memory and written
    with the first one that the disk takes. A restart before that begins at what was written last; from there every step
    can be done again.
    """

    def __init__(self, path: Path) -> None:
        self._connection = open_database(path, _SCHEMA, synchronous="FULL")
        self._unwritten: Persist | None = None
        self._reserved: dict[str, int] = {}  # the first number of each counter that is still free

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
        """Write a change; it is on disk when this returns, if the disk takes anything."""
        if self._unwritten is not None:
            change = merged(self._unwritten, change)
        try:
            self._write(change)
        except sqlite3.OperationalError as exc:
            if self._unwritten is None:
                log.error("the state can't be written (%s): it is kept in memory until the disk takes it again", exc)  # noqa: TRY400  one sentence says it all
            self._unwritten = change
        else:
            self._unwritten = None

    def reserve(self, counter: str, count: int) -> int:
        """Take `count` numbers that no process before or after this one gets; the first of them.

        Taken in lots, so that a counter costs few writes; a crash skips the rest of a lot. Only where the disk takes
        nothing can a restart give numbers again.
        """
        row = self._connection.execute("SELECT value FROM facts WHERE name = ?", (counter,)).fetchone()
        first = max(1 if row is None else int(row[0]), self._reserved.get(counter, 1))
        self._reserved[counter] = first + count
        try:
            with transaction(self._connection) as connection:
                connection.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (counter, str(first + count)))
        except sqlite3.OperationalError as exc:
            log.warning("the counter %s can't be written: %s", counter, exc)
        return first

    def _write(self, change: Persist) -> None:
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

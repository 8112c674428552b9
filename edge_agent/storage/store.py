"""The agent's state on disk: deployments, slots, the highest accepted desired state, counters that only grow."""

from __future__ import annotations

import logging
import sqlite3
from typing import TYPE_CHECKING, Protocol

from pydantic import TypeAdapter, ValidationError

from edge_agent.deployments.events import Persist
from edge_agent.deployments.records import Accepted, Deferral, DeploymentRecord, ModelSlot, Snapshot
from edge_agent.storage.database import open_database, set_aside, transaction

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)
_SCHEMA = """
CREATE TABLE IF NOT EXISTS deployments (deployment_id TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS slots (model TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
_DEFERRALS: TypeAdapter[tuple[Deferral, ...]] = TypeAdapter(tuple[Deferral, ...])


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
        deferrals=before.deferrals if after.deferrals is None else after.deferrals,
    )


class StateStore:
    """What must survive a power cut. One thread uses it.

    A disk that is full or takes nothing more does not end what the device runs: changes are kept in memory and written
    with the first one that the disk takes. A restart before that begins at what was written last; from there every step
    can be done again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = open_database(path, _SCHEMA, synchronous="FULL")
        self._unwritten: Persist | None = None

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def load(self) -> Snapshot:
        """What the last `persist` left; nothing when this version can't read it, as after a downgrade."""
        try:
            return self._read()
        except ValidationError as exc:
            where = ".".join(str(part) for part in exc.errors()[0]["loc"])
            detail = f"this version can't read {exc.title} {where}"
        self._connection.close()
        set_aside(self._path, "unreadable", detail=detail)
        self._connection = open_database(self._path, _SCHEMA, synchronous="FULL")
        return Snapshot()

    def _read(self) -> Snapshot:
        execute = self._connection.execute
        row = execute("SELECT value FROM facts WHERE name = 'accepted'").fetchone()
        deferrals = execute("SELECT value FROM facts WHERE name = 'deferrals'").fetchone()
        return Snapshot(
            accepted=Accepted() if row is None else Accepted.model_validate_json(row[0]),
            records=tuple(
                DeploymentRecord.model_validate_json(text)
                for (text,) in execute("SELECT record FROM deployments ORDER BY deployment_id")
            ),
            slots=tuple(
                ModelSlot.model_validate_json(text) for (text,) in execute("SELECT record FROM slots ORDER BY model")
            ),
            deferrals=() if deferrals is None else _DEFERRALS.validate_json(deferrals[0]),
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

    def reserved(self, counter: str) -> int:
        """The first number of a counter that no process before this one can have given; 0 when nothing is known."""
        row = self._connection.execute("SELECT value FROM facts WHERE name = ?", (counter,)).fetchone()
        return 0 if row is None else int(row[0])

    def reserve(self, counter: str, end: int) -> None:
        """Remember that this process may give the numbers below `end`; a disk that takes nothing is not waited for."""
        try:
            with transaction(self._connection) as connection:
                connection.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (counter, str(end)))
        except sqlite3.OperationalError as exc:
            log.warning("the counter %s can't be written: %s", counter, exc)

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
            if change.deferrals is not None:
                text = _DEFERRALS.dump_json(change.deferrals).decode()
                connection.execute("INSERT OR REPLACE INTO facts VALUES ('deferrals', ?)", (text,))


class Reservations(Protocol):
    """Where a counter remembers which numbers may have been given."""

    def reserved(self, counter: str) -> int:
        """The first number that no process before this one can have given."""

    def reserve(self, counter: str, end: int) -> None:
        """Remember that this process may give the numbers below `end`."""


class Counter:
    """Numbers that only grow, across restarts and even without the file: a hybrid clock.

    A number is the time in milliseconds since 1970, or one more than the last where the clock has not moved on or has
    been set back. So a device whose memory was lost, or replaced by an old copy, goes on above what it said before as
    soon as its clock is right; and one whose clock is wrong goes on above what it remembers.
    Source: Kulkarni et al. 2014, Logical Physical Clocks.

    Args:
        ahead: numbers that are remembered as given before they are: fewer writes. A crash skips what is left of them.
    """

    def __init__(self, store: Reservations, name: str, *, ahead: int) -> None:
        self._store, self._name, self._ahead = store, name, ahead
        self._next = self._end = store.reserved(name)

    def take(self, unix_s: float) -> int:
        """The next number."""
        number = max(self._next, int(unix_s * 1000))
        if number >= self._end:
            self._end = number + self._ahead
            self._store.reserve(self._name, self._end)
        self._next = number + 1
        return number

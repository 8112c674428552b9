"""Telemetry that the registry has not yet committed, within a limit of bytes and age.

PUBACK means that the broker has a report, not that it is counted: only the registry's `Ack` frees one. What had to be
dropped is counted, and later reports carry the count.

A report is known by (spool id, sequence) for ever. A power cut, or a disk that is pulled out, can undo the last commits
and with them the highest sequence; so every start has an id of its own, and what is left from earlier starts keeps the
one under which it may have been sent.

A report carries how many its id had dropped by then. Where the last report of an earlier id is dropped itself, what it
alone would have told goes over to the present id: else a device that starts often while nobody hears it would forget.
"""

from __future__ import annotations

import logging
import secrets
import sqlite3
from typing import TYPE_CHECKING, NamedTuple

from edge_agent.protocol.messages import Ack, MalformedMessageError, TelemetryReport, encode
from edge_agent.storage.database import open_database, transaction

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

log = logging.getLogger(__name__)
CLOCK_FLOOR = 1_600_000_000.0  # 2020: a clock before it has not been set, and tells nothing of age
LAST_SEQUENCE = 1 << 62
_SCHEMA = """
CREATE TABLE IF NOT EXISTS reports (
  sequence INTEGER PRIMARY KEY AUTOINCREMENT, created REAL NOT NULL, told INTEGER NOT NULL, size INTEGER NOT NULL,
  payload BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS spools (first INTEGER PRIMARY KEY, spool_id TEXT NOT NULL, heard INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS taken (name TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""


class _Id(NamedTuple):
    spool_id: str
    first: int  # sequence
    last: int
    heard: int  # drops that the registry has been told of, and has acknowledged


class Spool:
    """Reports on disk, in order. One thread uses it; a lost power supply may cost the last seconds, a kill nothing.

    Opening writes nothing: an agent must start on a full disk, and one without reports needs no id.
    """

    def __init__(self, path: Path, *, limit_bytes: int, limit_age_s: float) -> None:
        self._limit_bytes, self._limit_age_s = limit_bytes, limit_age_s
        self._connection = open_database(path, _SCHEMA, synchronous="NORMAL")
        self.spool_id = secrets.token_hex(16)
        self._id_is_kept = False  # in the file, with the first report that has it
        row = self._connection.execute("SELECT value FROM facts WHERE name = 'untold'").fetchone()
        self.dropped = self._untold = 0 if row is None else int(row[0])  # untold: no report carries it yet
        self.count = self.size_bytes = 0
        self._measure()

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def taken(self) -> frozenset[str]:
        """Journals whose windows came in with the last commit: they count no more, though their files may be left."""
        return frozenset(name for (name,) in self._connection.execute("SELECT name FROM taken"))

    def add(self, reports: Sequence[TelemetryReport], *, unix_s: float, journals: Sequence[str] = ()) -> None:
        """Take reports in, one commit for all of them; a full disk costs the reports, not the agent.

        Args:
            reports: windows.
            unix_s: now.
            journals: files that hold the same windows; those of the commit before must be gone by now.
        """
        if not reports:
            return
        try:
            with transaction(self._connection) as connection:
                if journals:
                    connection.execute("DELETE FROM taken")
                    connection.executemany("INSERT OR IGNORE INTO taken VALUES (?)", [(name,) for name in journals])
                if not self._id_is_kept:
                    self._keep_id(connection)
                for report in reports:
                    self._insert(connection, report, unix_s)
                if self._untold:
                    connection.execute("DELETE FROM facts WHERE name = 'untold'")
        except sqlite3.OperationalError as exc:
            self.dropped += len(reports)  # counted in memory: the disk takes nothing
            log.warning("%d telemetry reports were dropped: %s", len(reports), exc)
            self._measure()
            return
        self._id_is_kept, self._untold = True, 0
        self._trim(unix_s)

    def pending(self, *, after: int, limit: int) -> list[tuple[int, bytes]]:
        """The oldest reports behind a sequence, with their payloads."""
        query = "SELECT sequence, payload FROM reports WHERE sequence > ? ORDER BY sequence LIMIT ?"
        return [
            (int(sequence), bytes(payload)) for sequence, payload in self._connection.execute(query, (after, limit))
        ]

    def free(self, ack: Ack) -> int:
        """Forget what the registry has committed; the number of reports freed."""
        owned = {one.spool_id: one for one in self._ids()}
        named = [(r, owned[r.spool_id]) for r in ack.ranges if r.spool_id in owned]
        ours = [(max(r.first, one.first), min(r.last, one.last), one) for r, one in named]
        if not ours:
            return 0
        before = self.count
        try:
            with transaction(self._connection) as connection:
                for first, last, one in ours:
                    query = "SELECT COALESCE(MAX(told), 0) FROM reports WHERE sequence BETWEEN ? AND ?"
                    (told,) = connection.execute(query, (first, last)).fetchone()
                    connection.execute("UPDATE spools SET heard = MAX(heard, ?) WHERE first = ?", (told, one.first))
                    connection.execute("DELETE FROM reports WHERE sequence BETWEEN ? AND ?", (first, last))
        except sqlite3.OperationalError as exc:
            log.warning("telemetry that the registry has can't be freed (%s): it is sent again later", exc)
            return 0
        self._measure()
        return before - self.count

    def _ids(self) -> list[_Id]:
        """What each id has; an ack may name later sequences, whose commits were undone."""
        rows = self._connection.execute("SELECT first, spool_id, heard FROM spools ORDER BY first").fetchall()
        lasts = [*(first - 1 for first, _, _ in rows[1:]), LAST_SEQUENCE]
        return [_Id(spool_id, first, last, heard) for (first, spool_id, heard), last in zip(rows, lasts, strict=False)]

    def _keep_id(self, connection: sqlite3.Connection) -> None:
        """From the next sequence on the id is ours; ids of which no report is left are forgotten."""
        query = "SELECT COALESCE(MAX(seq), 0) + 1 FROM sqlite_sequence WHERE name = 'reports'"
        (first,) = connection.execute(query).fetchone()
        connection.execute("INSERT OR REPLACE INTO spools (first, spool_id) VALUES (?, ?)", (first, self.spool_id))
        (oldest,) = connection.execute("SELECT COALESCE(MIN(sequence), ?) FROM reports", (first,)).fetchone()
        (kept,) = connection.execute("SELECT MAX(first) FROM spools WHERE first <= ?", (oldest,)).fetchone()
        connection.execute("DELETE FROM spools WHERE first < ?", (kept,))

    def _insert(self, connection: sqlite3.Connection, report: TelemetryReport, unix_s: float) -> None:
        row = connection.execute(
            "INSERT INTO reports (created, told, size, payload) VALUES (?, ?, 0, x'')", (unix_s, self.dropped)
        )
        sequence = int(row.lastrowid or 0)
        numbered = report.model_copy(
            update={"spool_id": self.spool_id, "sequence": sequence, "dropped_reports": self.dropped}
        )
        try:
            payload = encode(numbered)
        except MalformedMessageError as exc:
            connection.execute("DELETE FROM reports WHERE sequence = ?", (sequence,))
            self.dropped += 1
            log.warning("a telemetry report was dropped: %s", exc)
            return
        connection.execute(
            "UPDATE reports SET size = ?, payload = ? WHERE sequence = ?", (len(payload), payload, sequence)
        )
        self.count += 1
        self.size_bytes += len(payload)

    def _trim(self, unix_s: float) -> None:
        doomed: set[int] = set()
        if unix_s > CLOCK_FLOOR:
            query = "SELECT sequence FROM reports WHERE created > ? AND created < ?"
            doomed.update(s for (s,) in self._connection.execute(query, (CLOCK_FLOOR, unix_s - self._limit_age_s)))
        if self.size_bytes > self._limit_bytes:
            excess = self.size_bytes - self._limit_bytes * 9 // 10  # some room, so that not every report trims
            for sequence, size in self._connection.execute("SELECT sequence, size FROM reports ORDER BY sequence"):
                if excess <= 0:
                    break
                doomed.add(sequence)
                excess -= size
        if doomed:
            self._drop(doomed)

    def _drop(self, sequences: Iterable[int]) -> None:
        rows = [(sequence,) for sequence in sequences]
        try:
            with transaction(self._connection) as connection:
                before = self._still_to_tell(connection)
                connection.executemany("DELETE FROM reports WHERE sequence = ?", rows)
                after = self._still_to_tell(connection)
                count = len(rows) + sum(told for spool_id, told in before.items() if spool_id not in after)
                untold = self._untold + count
                connection.execute("INSERT OR REPLACE INTO facts VALUES ('untold', ?)", (str(untold),))
        except sqlite3.OperationalError as exc:
            log.warning("the telemetry spool is full or old, and can't be trimmed: %s", exc)
            return
        self.dropped, self._untold = self.dropped + count, untold
        self._measure()
        log.warning("the telemetry spool is full or old: %d reports were dropped", len(rows))

    def _still_to_tell(self, connection: sqlite3.Connection) -> dict[str, int]:
        """By earlier id: the drops that its reports tell and the registry has not heard; none once all have gone."""
        query = "SELECT MAX(told) FROM reports WHERE sequence BETWEEN ? AND ?"
        found = {}
        for one in self._ids():
            (told,) = connection.execute(query, (one.first, one.last)).fetchone()
            if told is not None and one.spool_id != self.spool_id:
                found[one.spool_id] = max(0, int(told) - one.heard)
        return found

    def _measure(self) -> None:
        row = self._connection.execute("SELECT COUNT(*), COALESCE(SUM(size), 0) FROM reports").fetchone()
        self.count, self.size_bytes = int(row[0]), int(row[1])

"""Opening a SQLite file of the agent's; one that is damaged is set aside, because a device must go on."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

log = logging.getLogger(__name__)


def open_database(path: Path, schema: str, *, synchronous: str) -> sqlite3.Connection:
    """Open or make a database file.

    Args:
        path: the file.
        schema: `CREATE TABLE IF NOT EXISTS` statements.
        synchronous: `FULL` (on disk when committed) or `NORMAL` (survives kill -9, not a power cut; far fewer writes).
    """
    try:
        return _open(path, schema, synchronous)
    except sqlite3.DatabaseError as exc:
        if isinstance(exc, sqlite3.OperationalError):
            raise  # the disk or a lock, not the content
        set_aside(path, "damaged", detail=str(exc))
        return _open(path, schema, synchronous)


def set_aside(path: Path, what: str, *, detail: str) -> None:
    """Move a database that is of no use out of the way, and say so. Nobody has it open."""
    aside = path.with_name(f"{path.name}.{what}")
    log.error("%s is %s (%s); it was moved to %s and begins anew", path.name, what, detail, aside.name)
    path.replace(aside)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _open(path: Path, schema: str, synchronous: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, timeout=5.0)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute("PRAGMA cache_size = -256")  # KiB: these files are small, and so are the devices
        connection.executescript(schema)
        _check(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _check(connection: sqlite3.Connection) -> None:
    """Find damage now: the statement that met it later would end the agent, at every start again."""
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise sqlite3.DatabaseError(verdict)


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """All or nothing; begun IMMEDIATE, because a deferred one that turns into a write fails at once."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk can have rolled it back already, or have refused only the commit
            connection.execute("ROLLBACK")
        raise

"""Open a database so that a writing transaction never fails for a reason that waiting would mend.

On SQLite a deferred transaction that turns into a write fails at once, whatever the busy timeout: so `write()` begins
IMMEDIATE. A writing transaction is short, batched, and spans no other IO.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import event

from server.errors import DatabaseUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

BUSY_TIMEOUT_S = 30.0


class Database:
    """One engine, with separate doors for reading and for writing."""

    def __init__(self, url: str) -> None:
        self.url = sa.make_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        if self.is_sqlite:
            self.engine = sa.create_engine(self.url, connect_args={"timeout": BUSY_TIMEOUT_S})
            event.listen(self.engine, "connect", _prepare_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)
        else:
            self.engine = sa.create_engine(self.url, pool_pre_ping=True)

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A consistent view; nothing may be written through it."""
        try:
            with self.engine.connect() as connection:
                yield connection
        except sa.exc.OperationalError as exc:
            raise DatabaseUnavailableError(f"the registry's database can't be read: {exc.orig}") from exc

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that holds the write lock from its first statement; commits unless an exception leaves it."""
        try:
            with self.engine.connect() as connection:
                connection.info["immediate"] = True
                try:
                    with connection.begin():
                        yield connection
                finally:
                    connection.info.pop("immediate", None)
        except sa.exc.OperationalError as exc:
            raise DatabaseUnavailableError(f"the registry's database can't be written: {exc.orig}") from exc

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()


def _prepare_sqlite(connection: Any, _record: object) -> None:  # noqa: ANN401  sqlite3's own connection, by SQLAlchemy's event
    connection.isolation_level = None  # SQLAlchemy's `begin` event decides, not the driver
    cursor = connection.cursor()
    # a reader never waits for the writer; a commit survives a power cut only with FULL
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.info.get("immediate") else "BEGIN")

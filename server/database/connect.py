"""Open a database so that a writing transaction never fails for a reason that waiting would mend.

Writers take turns, on SQLite and on PostgreSQL alike: what a transaction has read before it writes is still so. On
SQLite a deferred transaction that turns into a write fails at once, whatever the busy timeout, so `write()` begins
IMMEDIATE; PostgreSQL has an advisory lock for it. A writing transaction is short, batched, and spans no other IO.
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
CONNECT_TIMEOUT_S = 10
TURN = 0x5_0A1  # any number: the advisory lock that a writer holds
_UNAVAILABLE = (sa.exc.OperationalError, sa.exc.InterfaceError)


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
            options = f"-c lock_timeout={BUSY_TIMEOUT_S * 1000:.0f} -c timezone=UTC"
            arguments = {"connect_timeout": CONNECT_TIMEOUT_S, "options": options}
            self.engine = sa.create_engine(self.url, pool_pre_ping=True, connect_args=arguments)

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A consistent view; nothing may be written through it."""
        try:
            with self.engine.connect() as connection:
                # PostgreSQL shows a statement what others have committed since the one before
                yield connection if self.is_sqlite else connection.execution_options(isolation_level="REPEATABLE READ")
        except _UNAVAILABLE as exc:
            raise DatabaseUnavailableError(f"The registry's database can't be read: {said(exc)}.") from exc

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that holds the write lock from its first statement; commits unless an exception leaves it."""
        try:
            with self.engine.connect() as connection:
                connection.info["immediate"] = True
                try:
                    with connection.begin():
                        if not self.is_sqlite:
                            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(TURN)))
                        yield connection
                finally:
                    connection.info.pop("immediate", None)
        except _UNAVAILABLE as exc:
            raise DatabaseUnavailableError(f"The registry's database can't be written: {said(exc)}.") from exc

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()


def said(error: sa.exc.DBAPIError) -> str:
    """What the driver says, in one line; libpq gives advice on lines of its own."""
    return " ".join(str(error.orig).split()).rstrip(".")


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

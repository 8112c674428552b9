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

from server.database.address import DRIVER, SQLITE, connect_arguments, parse
from server.errors import DatabaseUnavailableError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator

BUSY_TIMEOUT_S = 30.0
TURN = 0x5_0A1  # any number: the advisory lock that a writer holds
# A writer whose machine stopped in the middle of its turn must not hold up all others; PostgreSQL's units. Less than
# the others' patience, so that they outlast it.
TURN_LIMIT = "15s"
# One process holds no more connections to PostgreSQL than these two together; who finds none waits for one.
POOL_SIZE = 5
POOL_OVERFLOW = 5
POOL_WAIT_S = 10.0
# The fault of a value: waiting mends nothing. Whatever else a driver raises is the database's trouble.
_REFUSED = (sa.exc.DataError, sa.exc.IntegrityError)


class Database:
    """One engine, with separate doors for reading and for writing.

    Raises:
        SettingsError: the URL is not usable, or its driver is missing.
    """

    def __init__(self, url: str) -> None:
        self.url = parse(url)
        self.is_sqlite = self.url.get_backend_name() == SQLITE
        if self.is_sqlite:
            self.engine = sa.create_engine(self.url, connect_args={"timeout": BUSY_TIMEOUT_S})
            event.listen(self.engine, "connect", _prepare_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)
        else:
            self.engine = _postgresql_engine(self.url)

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A consistent view; nothing may be written through it.

        Raises:
            DatabaseUnavailableError: it does not answer, or not as it should.
        """
        with _told_apart("read"), self.engine.connect() as connection:
            # PostgreSQL shows a statement what others have committed since the one before
            yield connection if self.is_sqlite else connection.execution_options(isolation_level="REPEATABLE READ")

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that holds the write lock from its first statement; commits unless an exception leaves it.

        Raises:
            DatabaseUnavailableError: nothing was written, or the connection broke during the commit: do it again.
        """
        with _told_apart("written"), self.engine.connect() as connection:
            connection.info["immediate"] = True
            try:
                with connection.begin():
                    if not self.is_sqlite:
                        _take_turn(connection)
                    yield connection
            finally:
                connection.info.pop("immediate", None)

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()


@contextmanager
def _told_apart(verb: str) -> Iterator[None]:
    """What the database fails at becomes our error; a value that it refuses stays SQLAlchemy's."""
    try:
        yield
    except _REFUSED:
        raise
    except (sa.exc.DBAPIError, sa.exc.TimeoutError) as exc:
        raise DatabaseUnavailableError(f"The registry's database can't be {verb}: {_said(exc)}") from exc


def _said(error: sa.exc.SQLAlchemyError) -> str:
    """What the driver says, in one line that ends; libpq gives advice on lines of its own, and asks in return."""
    if isinstance(error, sa.exc.TimeoutError):
        return f"every connection to it was in use for {POOL_WAIT_S:.0f} s."
    text = " ".join(str(getattr(error, "orig", error)).split()).rstrip(".")
    return text if text.endswith("?") else f"{text}."


def _postgresql_engine(url: sa.URL) -> sa.Engine:
    try:
        return sa.create_engine(
            url,
            connect_args=connect_arguments(url.query, lock_timeout_s=BUSY_TIMEOUT_S),
            pool_pre_ping=True,
            pool_size=POOL_SIZE,
            max_overflow=POOL_OVERFLOW,
            pool_timeout=POOL_WAIT_S,
        )
    except ImportError as exc:
        raise SettingsError(
            f"PostgreSQL takes the driver {DRIVER}, which is not installed: run pip install 'shoal[postgresql]'."
        ) from exc


def _take_turn(connection: sa.Connection) -> None:
    limit = sa.func.set_config("idle_in_transaction_session_timeout", TURN_LIMIT, sa.true())
    connection.execute(sa.select(limit, sa.func.pg_advisory_xact_lock(TURN)))


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

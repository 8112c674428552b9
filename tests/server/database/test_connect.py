"""Both doors of a database, on SQLite and on PostgreSQL: turns, one view, and an outage that ends."""

import logging
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa

from server.database import connect
from server.database.connect import Database
from server.errors import DatabaseUnavailableError, SettingsError
from tests.postgresql import PostgresServer

WRITERS = 4
INCREMENTS = 25

metadata = sa.MetaData()
counters = sa.Table(
    "counters", metadata, sa.Column("name", sa.String(8), primary_key=True), sa.Column("value", sa.BigInteger)
)


@pytest.fixture
def database(new_database: Callable[[str], Database]) -> Database:
    found = new_database("counters")
    with found.write() as connection:
        metadata.create_all(connection)
        connection.execute(sa.insert(counters).values(name="a", value=0))
    return found


@pytest.fixture
def on_postgresql(postgresql: PostgresServer) -> Iterator[Database]:
    found = Database(postgresql.make_database())
    yield found
    found.close()
    postgresql.drop(found.url.render_as_string())


def _value(connection: sa.Connection) -> int:
    return int(connection.execute(sa.select(counters.c.value)).scalar_one())


def _insert(database: Database, name: str, *, between: Callable[[], object] = lambda: None) -> None:
    """Write one row; `between` happens while the turn is ours."""
    with database.write() as connection:
        connection.execute(sa.insert(counters).values(name=name, value=1))
        between()
        connection.execute(sa.insert(counters).values(name=f"{name}2", value=1))


def test_write_what_was_read_is_still_so_when_it_is_written(database: Database) -> None:
    def count() -> None:
        for _ in range(INCREMENTS):
            with database.write() as connection:
                connection.execute(sa.update(counters).values(value=_value(connection) + 1))

    threads = [threading.Thread(target=count) for _ in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read() as connection:
        assert _value(connection) == WRITERS * INCREMENTS


def test_read_sees_one_state_from_its_first_statement_to_its_last(database: Database) -> None:
    with database.read() as connection:
        before = _value(connection)
        with database.write() as writing:
            writing.execute(sa.update(counters).values(value=before + 1))
        assert _value(connection) == before


def test_write_exception_leaves_nothing(database: Database) -> None:
    def fail() -> None:
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        _insert(database, "b", between=fail)
    with database.read() as connection:
        assert _value(connection) == 0  # of the only row


def test_write_counts_beyond_32_bits_are_kept(database: Database) -> None:
    with database.write() as connection:
        connection.execute(sa.update(counters).values(value=1 << 53))
    with database.read() as connection:
        assert _value(connection) == 1 << 53


def test_write_value_that_is_refused_is_not_an_outage(database: Database) -> None:
    with pytest.raises(sa.exc.IntegrityError):
        _insert(database, "a")


def test_read_table_that_is_missing_is_the_trouble_of_the_database(database: Database) -> None:
    with pytest.raises(DatabaseUnavailableError, match=r"can't be read: .*nowhere"), database.read() as connection:
        connection.execute(sa.text("SELECT 1 FROM nowhere"))


def test_read_without_a_free_connection_says_so_after_a_while(
    monkeypatch: pytest.MonkeyPatch, postgresql: PostgresServer
) -> None:
    for name, value in (("POOL_SIZE", 1), ("POOL_OVERFLOW", 0), ("POOL_WAIT_S", 0.1)):
        monkeypatch.setattr(connect, name, value)
    database = Database(postgresql.make_database())
    with (
        database.read(),
        pytest.raises(DatabaseUnavailableError, match="every connection to it was in use"),
        database.read(),
    ):
        pass
    database.close()


def test_read_after_the_server_dropped_every_connection_goes_on(
    on_postgresql: Database, postgresql: PostgresServer
) -> None:
    with on_postgresql.read() as connection:
        connection.execute(sa.text("SELECT 1"))
    postgresql.drop_connections()
    with on_postgresql.read() as connection:
        assert connection.execute(sa.text("SELECT 1")).scalar() == 1


def test_write_whose_connection_is_cut_is_unavailable_and_leaves_nothing(
    on_postgresql: Database, postgresql: PostgresServer
) -> None:
    with on_postgresql.write() as connection:
        metadata.create_all(connection)
    with pytest.raises(DatabaseUnavailableError, match="can't be written"):
        _insert(on_postgresql, "a", between=postgresql.drop_connections)
    with on_postgresql.read() as connection:
        assert connection.execute(sa.select(counters)).all() == []


def test_write_writer_that_stands_still_loses_its_turn(
    on_postgresql: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect, "TURN_LIMIT", "200ms")
    with on_postgresql.write() as connection:
        metadata.create_all(connection)
    another = threading.Thread(target=_insert, args=(on_postgresql, "b"))

    def stand_still() -> None:
        another.start()
        another.join(20)
        assert not another.is_alive(), "the one that stands still keeps its turn for ever"

    with pytest.raises(DatabaseUnavailableError, match="can't be written"):
        _insert(on_postgresql, "a", between=stand_still)
    with on_postgresql.read() as connection:
        assert set(connection.execute(sa.select(counters.c.name)).scalars()) == {"b", "b2"}


def test_write_server_that_is_away_is_told_without_the_password(
    tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path_factory.mktemp("nobody")
    database = Database(f"postgresql://operator:hidden@/shoal?host={folder}")
    with (
        caplog.at_level(logging.DEBUG),
        pytest.raises(DatabaseUnavailableError, match="Is the server running") as caught,
        database.write(),
    ):
        pass
    database.close()
    assert "hidden" not in str(caught.value) + repr(database.engine) + caplog.text


def test_database_without_the_driver_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(SettingsError, match=r"run pip install 'shoal\[postgresql\]'"):
        Database("postgresql://operator@host/shoal")

"""The log in a database: rows are added in the transaction of the change, by turns, and never changed."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from server.audit.chain import ChainCheck
from server.audit.door import AuditedDatabase, UnrecordedChangeError
from server.audit.trail import Asker, changed, read_entries
from server.database.connect import Database
from server.database.migrate import CATALOGUE, upgrade_schema
from server.database.tables import audit_log, sweep_requests

ADA = Asker(who="ada", role="admin", address="10.0.0.1", request_id="r1", operation="sweep")


@pytest.fixture
def database(new_database: Callable[[str], Database]) -> Database:
    """An empty catalogue, on each kind of server."""
    database = new_database("catalogue")
    upgrade_schema(database, CATALOGUE)
    return database


@pytest.fixture
def door(database: Database) -> AuditedDatabase:
    """The same for Ada."""
    return AuditedDatabase(database, ADA, time.time)


def ask(door: AuditedDatabase, subject: str) -> None:
    with door.write() as connection:
        connection.execute(sa.insert(sweep_requests).values(created_at=1.0))
        changed(connection, "registry.sweep", subject, before={"n": 1.1}, after={"n": [None, "ä\0"]})


def count(database: Database, table: sa.Table) -> int:
    with database.read() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()


def test_rows_by_many_at_once_make_one_chain(database: Database, door: AuditedDatabase) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: ask(door, f"thing/{number}"), range(20)))
    with database.read() as connection:
        entries = read_entries(connection)
    check = ChainCheck()
    check.take(entries)
    assert (check.broken, check.sequence) == (None, 20)
    assert {entry.subject for entry in entries} == {f"thing/{number}" for number in range(20)}
    assert (entries[0].who, entries[0].address, entries[0].request_id, entries[0].operation) == (
        "ada",
        "10.0.0.1",
        "r1",
        "sweep",
    )


def test_change_that_fails_leaves_no_row(database: Database, door: AuditedDatabase) -> None:
    def fail() -> None:
        with door.write() as connection:
            changed(connection, "registry.sweep", "thing")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert count(database, audit_log) == 0


def test_change_that_nobody_recorded_is_undone(database: Database, door: AuditedDatabase) -> None:
    with pytest.raises(UnrecordedChangeError, match="sweep_requests"), door.write() as connection:
        connection.execute(sa.insert(sweep_requests).values(created_at=1.0))
    ask(door, "thing")
    with pytest.raises(UnrecordedChangeError), door.write() as connection:
        connection.execute(sa.update(sweep_requests).values(created_at=2.0))
    with pytest.raises(UnrecordedChangeError), door.write() as connection:
        connection.execute(sa.delete(sweep_requests))
    assert count(database, sweep_requests) == 1
    with door.write() as connection:  # what changes nothing needs no row
        connection.execute(sa.delete(sweep_requests).where(sweep_requests.c.created_at > 5))
    with database.write() as connection:  # and the registry's own processes are nobody's askers
        connection.execute(sa.insert(sweep_requests).values(created_at=1.0))
        changed(connection, "registry.sweep", "thing")
    assert count(database, audit_log) == 1


@pytest.mark.parametrize(
    "statement",
    [
        sa.update(audit_log).values(who="eve"),
        sa.delete(audit_log),
        sa.delete(audit_log).where(audit_log.c.sequence == 1),
    ],
    ids=["update", "delete-all", "delete-one"],
)
def test_row_can_not_be_changed_or_deleted(
    database: Database, door: AuditedDatabase, statement: sa.Update | sa.Delete
) -> None:
    ask(door, "thing")
    with pytest.raises(sa.exc.IntegrityError, match="append-only"), database.write() as connection:
        connection.execute(statement)
    with database.read() as connection:
        assert [entry.who for entry in read_entries(connection)] == ["ada"]


def test_reading_goes_on_after_a_row_and_begins_at_a_time(database: Database) -> None:
    clock = iter(range(1, 10)).__next__
    for _ in range(5):
        ask(AuditedDatabase(database, ADA, clock), "thing")
    with database.read() as connection:
        assert [entry.sequence for entry in read_entries(connection, after=3)] == [4, 5]
        assert [entry.at for entry in read_entries(connection, since=4.0)] == [4.0, 5.0]
        assert [entry.sequence for entry in read_entries(connection, newest=2)] == [4, 5]

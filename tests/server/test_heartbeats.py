"""A process is heard for as long as its loop goes round, on both kinds of database."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from server.database import tables
from server.heartbeats import LATE_S, Heart, Process, lacking, last_heard

if TYPE_CHECKING:
    from collections.abc import Callable

    from server.database.connect import Database


@pytest.fixture
def database(new_database: Callable[[str], Database]) -> Database:
    found = new_database("registry")
    tables.catalogue.create_all(found.engine)
    return found


def wait_for(holds: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end_s
        time.sleep(0.02)


def test_heart_is_heard_while_its_loop_goes_round_and_not_once_it_hangs(database: Database) -> None:
    now = [1000.0]
    with Heart(database, Process.INGEST, every_s=0.05, clock=lambda: now[0]) as heart:
        time.sleep(0.7)
        assert last_heard(database, Process.INGEST) is None, "its loop has not begun"
        heart.pulse()
        wait_for(lambda: last_heard(database, Process.INGEST) == 1000.0)
        now[0] = 2000.0
        time.sleep(0.7)
        assert last_heard(database, Process.INGEST) == 1000.0, "its loop hangs"
        heart.pulse()
        wait_for(lambda: last_heard(database, Process.INGEST) == 2000.0)
        assert last_heard(database, Process.WORKER) is None
    assert last_heard(database, Process.INGEST) is None, "it ended by itself"


def test_heart_of_two_processes_counts_the_latest_and_forgets_those_that_were_killed_long_ago(
    database: Database,
) -> None:
    with database.write() as connection:
        for instance, beat_at in (("killed", 10.0), ("lives", 99_000.0)):
            row = {"process": "worker", "instance": instance, "beat_at": beat_at}
            connection.execute(sa.insert(tables.heartbeats).values(row))
    assert last_heard(database, Process.WORKER) == 99_000.0
    with Heart(database, Process.WORKER, clock=lambda: 100_000.0) as heart:
        heart.pulse()
        wait_for(lambda: last_heard(database, Process.WORKER) == 100_000.0)
    with database.read() as connection:
        left = connection.execute(sa.select(tables.heartbeats.c.instance)).scalars().all()
    assert left == ["lives"]


def test_lacking_names_the_process_and_for_how_long() -> None:
    assert lacking(Process.INGEST, 1000.0, now=1000.0 + LATE_S) == ""
    assert lacking(Process.INGEST, 1000.0, now=1093.0).startswith("no ingest has worked for 93 s")
    assert lacking(Process.WORKER, None, now=0.0).startswith("no worker runs")
    assert lacking(Process.WORKER, 5000.0, now=1000.0), "a beat of the future proves nothing"

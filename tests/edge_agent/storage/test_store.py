"""The agent's state on its disk, after good and bad days of the disk."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import pytest

from edge_agent.deployments.events import Persist
from edge_agent.deployments.records import Accepted, DeploymentRecord, ModelSlot
from edge_agent.protocol.states import DeploymentState
from edge_agent.storage.database import open_database, transaction
from edge_agent.storage.store import Counter, StateStore
from tests.edge_agent.surroundings.toy_variant import make_variant

if TYPE_CHECKING:
    from pathlib import Path


NOON_S = 1_800_000_000.0


def numbers_of(path: Path, count: int, *, unix_s: float, ahead: int = 4) -> list[int]:
    """What a process that lives for a moment numbers."""
    store = StateStore(path)
    counter = Counter(store, "session", ahead=ahead)
    numbers = [counter.take(unix_s) for _ in range(count)]
    store.close()
    return numbers


@pytest.mark.parametrize("clock_s", [[0.0, 0.0, 0.0], [NOON_S, 5.0, NOON_S - 3600.0], [5.0, NOON_S, NOON_S + 0.001]])
def test_counter_never_gives_a_number_twice_whatever_the_clock_says(tmp_path: Path, clock_s: list[float]) -> None:
    seen = [number for unix_s in clock_s for number in numbers_of(tmp_path / "state.db", 6, unix_s=unix_s)]
    assert seen == sorted(set(seen))


def damage(path: Path) -> None:
    """The header and the schema stay good: only the pages of the tables are lost."""
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))


def test_counter_of_a_store_that_was_damaged_or_restored_goes_on_above_what_was_said(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    said = numbers_of(path, 100, unix_s=NOON_S)
    backup = path.read_bytes()
    said += numbers_of(path, 100, unix_s=NOON_S + 60)

    path.write_bytes(backup)
    after_restoring = numbers_of(path, 1, unix_s=NOON_S + 120)
    damage(path)
    after_damage = numbers_of(path, 1, unix_s=NOON_S + 180)

    assert (tmp_path / "state.db.damaged").exists()
    assert max(said) < after_restoring[0] < after_damage[0]


def test_counter_writes_once_for_many_numbers(tmp_path: Path) -> None:
    store = StateStore(tmp_path / "state.db")
    counter = Counter(store, "status", ahead=600_000)
    before = store._connection.total_changes
    for second in range(0, 600, 30):
        counter.take(NOON_S + second)
    assert store._connection.total_changes == before + 1
    store.close()


def records_of(store: StateStore) -> dict[str, str]:
    return {record.deployment_id: record.state.value for record in store.load().records}


def test_store_on_a_disk_that_takes_nothing_goes_on_and_catches_up(tmp_path: Path) -> None:
    store = StateStore(tmp_path / "state.db")
    counter = Counter(store, "status", ahead=2)
    queued = {name: DeploymentRecord(wanted=make_variant().wanted(name)) for name in ("d1", "d2", "d3")}
    staged = queued["d2"].model_copy(update={"state": DeploymentState.STAGED})
    store.persist(Persist(records=(queued["d1"],), slots=(ModelSlot(model="net", active="d1"),)))
    numbers = [counter.take(0.0) for _ in range(2)]

    store._connection.execute("PRAGMA query_only = ON")  # as a file system that has become read-only
    store.persist(Persist(records=(queued["d2"], queued["d3"]), accepted=Accepted(epoch=1, generation=7)))
    store.persist(Persist(records=(staged,), forgotten=("d1", "d3"), emptied=("net",)))
    numbers += [counter.take(0.0) for _ in range(4)]
    assert records_of(store) == {"d1": "queued"}

    store._connection.execute("PRAGMA query_only = OFF")
    store.persist(Persist(records=(queued["d3"],)))
    numbers += [counter.take(0.0) for _ in range(2)]
    store.close()
    again = StateStore(tmp_path / "state.db")
    numbers.append(Counter(again, "status", ahead=2).take(0.0))
    assert records_of(again) == {"d2": "staged", "d3": "queued"}
    assert (again.load().slots, again.load().accepted.generation) == ((), 7)
    assert numbers == sorted(set(numbers))
    again.close()


def test_transaction_whose_commit_is_refused_leaves_room_for_the_next(tmp_path: Path) -> None:
    connection = open_database(tmp_path / "x.db", "CREATE TABLE IF NOT EXISTS t (x INTEGER)", synchronous="FULL")
    connection.executescript(
        "PRAGMA foreign_keys = ON; CREATE TABLE child (x INTEGER REFERENCES parent (x) DEFERRABLE INITIALLY DEFERRED);"
        "CREATE TABLE parent (x INTEGER PRIMARY KEY);"
    )
    with pytest.raises(sqlite3.IntegrityError), transaction(connection):
        connection.execute("INSERT INTO child VALUES (1)")  # refused by COMMIT, as a full disk can be
    with transaction(connection):
        connection.execute("INSERT INTO t VALUES (1)")
    assert connection.execute("SELECT COUNT(*) FROM child").fetchone() == (0,)
    connection.close()

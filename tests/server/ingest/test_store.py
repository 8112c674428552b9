from collections.abc import Callable
from typing import Protocol

import pytest
import sqlalchemy as sa

from edge_agent.protocol.messages import DeploymentStatus, Presence, Status, TelemetryReport
from edge_agent.protocol.states import DeploymentState, Reason
from server.database import tables
from server.database.connect import Database
from server.errors import DatabaseUnavailableError
from server.ingest.intake import PresenceNews, Report, StatusNews
from server.ingest.store import IngestStore
from server.telemetry.codec import pack

SESSION = "a" * 32
MakeReport = Callable[..., TelemetryReport]
MakeDeployment = Callable[..., DeploymentStatus]


class Databases(Protocol):
    catalogue: Database
    telemetry: Database

    def add_device(self, device_id: str, *, joined_at: float = 1.0) -> str: ...
    def add_deployment(self, deployment_id: str, device_id: str, variant_id: str) -> None: ...
    def reports(self) -> list[sa.RowMapping]: ...
    def states(self) -> dict[str, sa.RowMapping]: ...
    def figures(self) -> list[sa.RowMapping]: ...


@pytest.fixture
def store(databases: Databases) -> IngestStore:
    for name in ("a", "b"):
        databases.add_device(name)
    return IngestStore(databases.catalogue, databases.telemetry)


def item(device: str, report: TelemetryReport) -> Report:
    return Report(device, report, pack(report))


def status(sequence: int, *deployments: DeploymentStatus, retained: bool = False) -> StatusNews:
    document = Status(
        session_id=SESSION,
        sequence=sequence,
        observed_epoch=1,
        observed_generation=sequence,
        deployments=deployments,
    )
    return StatusNews("a", document, retained)


def test_commit_a_report_twice_counts_it_once_and_acknowledges_it_twice(
    store: IngestStore, databases: Databases, report: MakeReport
) -> None:
    first = store.commit([item("a", report(1)), item("a", report(1))], now=10.0)
    again = store.commit([item("a", report(1, requests=99))], now=20.0)
    (row,) = databases.reports()
    assert (row["requests"], row["received_at"], row["profile"]) == (3, 10.0, "pi4")
    assert len(first.committed) == 2
    assert again.committed == [("a", "5" * 32, 1)]


def test_commit_unknown_and_removed_devices_are_dropped_without_a_row(
    store: IngestStore, databases: Databases, report: MakeReport
) -> None:
    with databases.catalogue.write() as connection:
        connection.execute(tables.devices.update().where(tables.devices.c.device_id == "b").values(removed_at=5.0))
    birth = Presence(session_id=SESSION, session_counter=1, online=True)
    outcome = store.commit([item("b", report(1)), item("ghost", report(1)), PresenceNews("b", birth, False)], now=10.0)
    assert [refused.kind for refused in outcome.refused] == ["unknown device"] * 3
    assert (outcome.committed, databases.reports(), databases.states()) == ([], [], {})


def test_commit_an_older_status_after_a_newer_changes_only_last_seen(store: IngestStore, databases: Databases) -> None:
    store.commit([status(9)], now=10.0)
    store.commit([status(8)], now=20.0)
    row = databases.states()["a"]
    assert (row["status_sequence"], row["observed_generation"], row["last_seen_at"]) == (9, 9, 20.0)
    assert Status.model_validate(row["status"]).sequence == 9


def test_commit_what_the_broker_kept_shows_life_only_when_it_is_news(store: IngestStore, databases: Databases) -> None:
    store.commit([status(9)], now=10.0)
    store.commit([status(9, retained=True)], now=500.0)
    assert databases.states()["a"]["last_seen_at"] == 10.0
    store.commit([status(10, retained=True)], now=600.0)
    assert databases.states()["a"]["last_seen_at"] == 600.0


def test_commit_a_device_that_joined_again_begins_at_low_counters(store: IngestStore, databases: Databases) -> None:
    store.commit([status(5000)], now=10.0)
    databases.add_device("a", joined_at=50.0)
    store.commit([status(1)], now=60.0)
    assert databases.states()["a"]["status_sequence"] == 1


def test_commit_numbers_what_a_device_says_anew_and_not_what_always_moves(
    store: IngestStore, databases: Databases, deployment: MakeDeployment
) -> None:
    told = deployment("d1", p95_ms=5.0)
    for sequence, (said, number) in enumerate(
        (
            (told, 1),
            (told.model_copy(update={"inferences": 7, "detail": "other words"}), 1),
            (told.model_copy(update={"serving": True}), 2),
            (told.model_copy(update={"state": DeploymentState.ROLLED_BACK, "reason": Reason.CRASH_LOOP}), 3),
        )
    ):
        store.commit([status(sequence, said)], now=10.0)
        assert databases.states()["a"]["news"] == number
    store.commit([StatusNews("b", status(1, told).status, retained=False)], now=10.0)
    assert databases.states()["b"]["news"] == 4, "the numbers go over all devices"


def test_commit_a_self_test_is_kept_once_and_replaced_by_a_new_one(
    store: IngestStore, databases: Databases, deployment: MakeDeployment
) -> None:
    databases.add_deployment("d1", "a", "v1")
    store.commit([status(1, deployment("d1", p95_ms=5.0))], now=10.0)
    store.commit([status(2, deployment("d1", p95_ms=5.0))], now=20.0)
    (figure,) = databases.figures()
    assert (figure["report"]["p95_ms"], figure["received_at"], figure["variant_id"]) == (5.0, 10.0, "v1")
    store.commit([status(3, deployment("d1", p95_ms=7.0))], now=30.0)
    (figure,) = databases.figures()
    assert (figure["report"]["p95_ms"], figure["received_at"]) == (7.0, 30.0)


def test_commit_a_self_test_of_another_device_is_refused(
    store: IngestStore, databases: Databases, deployment: MakeDeployment
) -> None:
    databases.add_deployment("d1", "b", "v1")
    outcome = store.commit([status(1, deployment("d1", p95_ms=0.001))], now=10.0)
    assert [refused.kind for refused in outcome.refused] == ["self-test of a foreign deployment"]
    assert databases.figures() == []
    assert databases.states()["a"]["status_sequence"] == 1


def test_commit_a_row_that_the_database_refuses_does_not_hold_back_the_others(
    store: IngestStore, databases: Databases, report: MakeReport
) -> None:
    refusal = "CREATE TRIGGER no BEFORE INSERT ON reports WHEN NEW.sequence = 2 BEGIN SELECT RAISE(ABORT, 'no'); END"
    if not databases.telemetry.is_sqlite:
        refusal = "ALTER TABLE reports ADD CONSTRAINT no CHECK (sequence <> 2)"
    with databases.telemetry.write() as connection:
        connection.execute(sa.text(refusal))
    outcome = store.commit([item("a", report(number)) for number in (1, 2, 3)], now=10.0)
    assert sorted(row["sequence"] for row in databases.reports()) == [1, 3]
    assert [sequence for _, _, sequence in outcome.committed] == [1, 3]
    assert len(outcome.refused) == 1


def test_commit_a_locked_database_raises_and_promises_nothing(
    databases: Databases, report: MakeReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.database.connect.BUSY_TIMEOUT_S", 0.05)
    databases.add_device("a")
    telemetry = Database(str(databases.telemetry.url))
    store = IngestStore(databases.catalogue, telemetry)
    with databases.telemetry.write(), pytest.raises(DatabaseUnavailableError):
        store.commit([item("a", report(1))], now=1.0)
    assert len(store.commit([item("a", report(1))], now=1.0).committed) == 1
    telemetry.close()


def test_mark_heard_moves_forward_only(store: IngestStore, databases: Databases) -> None:
    store.mark_heard({"a": 50.0, "ghost": 50.0})
    store.mark_heard({"a": 40.0})
    assert {name: row["last_seen_at"] for name, row in databases.states().items()} == {"a": 50.0}

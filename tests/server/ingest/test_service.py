"""Ingest as a real process between a real Mosquitto and real databases."""

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen
from typing import Any, Protocol

import pytest
import sqlalchemy as sa

from edge_agent.protocol.messages import Presence, Status, TelemetryReport, encode
from edge_agent.protocol.topics import DeviceTopic
from server.database import tables
from server.database.connect import Database
from server.retention.requests import ask_for_sweep
from server.stack.child import Child

SESSION = "a" * 32

Eventually = Callable[[Callable[[], bool]], None]
Connect = Callable[[str, str], Any]
StartIngest = Callable[..., Popen[bytes]]

DIES_AFTER_COMMIT = """
import os, signal, sys, threading
from server.database.connect import Database
from server.ingest.service import BatchLimits, Ingest
from server.ingest.store import IngestStore

class Dies(IngestStore):
    def commit(self, batch, *, now):
        outcome = super().commit(batch, now=now)
        if outcome.committed:
            os.kill(os.getpid(), signal.SIGKILL)
        return outcome

store = Dies(Database(os.environ["SHOAL_DATABASE_URL"]), Database(os.environ["SHOAL_TELEMETRY_URL"]))
url, limits = os.environ["SHOAL_MQTT_URL"], BatchLimits(size=200)
Ingest(store, mqtt_url=url, name=sys.argv[1], limits=limits).run(threading.Event())
"""


class Databases(Protocol):
    folder: Path
    catalogue: Database
    telemetry: Database

    def reports(self, device_id: str = ...) -> list[sa.RowMapping]: ...
    def states(self) -> dict[str, sa.RowMapping]: ...


@pytest.fixture
def url(own_broker: tuple[str, Child]) -> str:
    """A broker of this test alone: the sessions of ingest outlive its process, and keep their share of the reports."""
    return own_broker[0]


def test_ingest_reports_are_committed_and_acknowledged_once_each(
    url: str,
    databases: Databases,
    connect: Connect,
    start_ingest: StartIngest,
    device_id: str,
    eventually: Eventually,
) -> None:
    process = start_ingest(url)
    device = connect(url, device_id)
    device.report(*range(300), 5, 5, 299)
    eventually(lambda: device.acked == set(range(300)))
    assert len(databases.reports(device_id)) == 300
    process.send_signal(signal.SIGTERM)
    assert process.wait(5) == 0


def test_ingest_asked_for_a_sweep_deletes_reports_that_are_too_old_and_merges_those_of_an_hour(
    url: str,
    databases: Databases,
    connect: Connect,
    start_ingest: StartIngest,
    device_id: str,
    eventually: Eventually,
) -> None:
    start_ingest(url)
    device = connect(url, device_id)
    device.report(*range(6))
    eventually(lambda: device.acked == set(range(6)))
    reports = tables.reports.c
    ages = {1.0: reports.sequence < 2, time.time() // 86400 * 86400 - 20 * 86400: reports.sequence.in_((2, 3, 4))}
    with databases.telemetry.write() as connection:
        for received_at, those in ages.items():
            values = sa.update(tables.reports).values(received_at=received_at)
            connection.execute(values.where(reports.device_id == device_id, those))
    ask_for_sweep(databases.catalogue, now=2.0)
    # 0 and 1 are gone, and 2 to 4 are one row
    eventually(lambda: {(row["sequence"], row["merged"]) for row in databases.reports(device_id)} == {(4, 3), (5, 1)})


def test_ingest_several_processes_share_the_reports(
    url: str,
    databases: Databases,
    connect: Connect,
    start_ingest: StartIngest,
    device_id: str,
    eventually: Eventually,
) -> None:
    start_ingest(url)
    start_ingest(url)
    device = connect(url, device_id)
    device.report(*range(200))
    device.send(Status(session_id=SESSION, sequence=1, observed_epoch=0, observed_generation=0))
    eventually(lambda: device.acked == set(range(200)) and databases.states()[device_id]["status_sequence"] == 1)
    assert len(databases.reports(device_id)) == 200


def test_ingest_bad_messages_are_dropped_and_hold_nothing_back(
    url: str,
    databases: Databases,
    connect: Connect,
    start_ingest: StartIngest,
    device_id: str,
    report: Callable[..., TelemetryReport],
    eventually: Eventually,
) -> None:
    process = start_ingest(url)
    device = connect(url, device_id)
    good = json.loads(encode(report(1)))
    bomb = {"offset": 1 << 20, "bins": [1], "max_ms": 1}
    payloads = [
        b"\xff\xfe garbage",
        b"[]",
        b"[" * 200_000,
        b"{" + b" " * 1_000_000 + b"}",
        json.dumps({**good, "v": 2}).encode(),
        json.dumps({**good, "requests": -1}).encode(),
        json.dumps({**good, "invoke": bomb}).encode(),
        json.dumps({**good, "invoke": {"bins": [1] * 50_000}}).encode(),
        json.dumps({**good, "spool_id": "../../etc/passwd"}).encode(),
    ]
    for _ in range(30):
        for payload in payloads:
            device.send_raw(DeviceTopic.TELEMETRY, payload)
    device.send_raw(DeviceTopic.STATUS, b"null")
    device.send_raw(DeviceTopic.PRESENCE, b"")
    device.report(7)
    eventually(lambda: device.acked == {7})
    assert [row["sequence"] for row in databases.reports(device_id)] == [7]
    assert process.poll() is None
    log = (databases.folder / "ingest-0.log").read_text()
    assert log.count("malformed telemetry") == 1
    assert log.count("unsupported version of telemetry") == 1
    assert log.count("bad sketch") == 1
    assert log.count("Traceback") == 0


def test_ingest_killed_between_commit_and_ack_counts_once(
    url: str,
    databases: Databases,
    connect: Connect,
    start_ingest: StartIngest,
    device_id: str,
    eventually: Eventually,
) -> None:
    device = connect(url, device_id)
    killed = start_ingest(url, program=("-c", DIES_AFTER_COMMIT, "the-same"))
    assert killed.wait(10) == -signal.SIGKILL
    device.report(*range(50))  # while nobody is there: the broker keeps them for the session
    killed = start_ingest(url, program=("-c", DIES_AFTER_COMMIT, "the-same"))
    assert killed.wait(10) == -signal.SIGKILL
    assert databases.reports(device_id)
    assert device.acked == set()

    start_ingest(url, name="the-same")
    eventually(lambda: device.acked == set(range(50)))
    assert len(databases.reports(device_id)) == 50


def test_ingest_broker_killed_loses_nothing_that_was_acknowledged(
    url: str,
    own_broker: tuple[str, Child],
    databases: Databases,
    connect: Connect,
    start_ingest: StartIngest,
    device_id: str,
    eventually: Eventually,
) -> None:
    _, child = own_broker
    start_ingest(url)
    device = connect(url, device_id)
    device.report(*range(20))
    eventually(lambda: device.acked == set(range(20)))
    child.finish(time.monotonic())
    child.start()

    def acknowledged() -> bool:  # as a device does: what was not acknowledged is sent again
        if device._client.is_connected():
            device._client.subscribe(f"shoal/v1/d/{device_id}/ack", qos=1)
            device.report(20, 21)
        return bool({20, 21} <= device.acked)

    eventually(acknowledged)
    assert sorted(row["sequence"] for row in databases.reports(device_id)) == list(range(22))


def test_ingest_locked_database_waits_and_acknowledges_afterwards(
    url: str,
    databases: Databases,
    connect: Connect,
    start_ingest: StartIngest,
    device_id: str,
    eventually: Eventually,
) -> None:
    start_ingest(url)
    device = connect(url, device_id)
    with databases.telemetry.write():  # a backup, or another writer
        device.report(1, 2)
        time.sleep(0.6)
        assert device.acked == set()
    eventually(lambda: device.acked == {1, 2})


def test_ingest_started_late_learns_what_the_broker_retained(
    url: str,
    databases: Databases,
    connect: Connect,
    start_ingest: StartIngest,
    device_id: str,
    eventually: Eventually,
) -> None:
    device = connect(url, device_id)
    device.send(Presence(session_id=SESSION, session_counter=4, online=True), retain=True)
    device.send(Status(session_id=SESSION, sequence=8, observed_epoch=3, observed_generation=2), retain=True)
    start_ingest(url)
    eventually(
        lambda: [row["status_sequence"] for row in databases.states().values() if row["device_id"] == device_id] == [8]
    )
    row = databases.states()[device_id]
    assert (row["online"], row["session_counter"], row["observed_epoch"]) == (True, 4, 3)
    for kind in (DeviceTopic.PRESENCE, DeviceTopic.STATUS):
        device.send_raw(kind, b"", retain=True)


def test_ingest_without_a_broker_setting_says_so(databases: Databases, monkeypatch: pytest.MonkeyPatch) -> None:
    from server.processes.ingest import main  # noqa: PLC0415  the environment must be set first

    monkeypatch.setenv("SHOAL_DATA_DIR", str(databases.folder))
    monkeypatch.delenv("SHOAL_MQTT_URL", raising=False)
    assert main([]) == 1

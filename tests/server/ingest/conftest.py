"""A registry's databases with devices in them, devices that speak MQTT, and ingest as a real process."""

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import sqlalchemy as sa
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from edge_agent.protocol.messages import Ack, DeploymentStatus, Message, SelfTestReport, TelemetryReport, decode, encode
from edge_agent.protocol.topics import DeviceTopic, device_topic
from server.database import tables
from server.database.connect import Database

SPOOL = "5" * 32


@dataclass
class Databases:
    """Both databases of one registry, in one folder."""

    folder: Path
    catalogue: Database
    telemetry: Database

    def add_device(self, device_id: str, *, joined_at: float = 1.0) -> str:
        row = {
            "device_id": device_id,
            "profile": "pi4",
            "labels": {},
            "key_sha256": "0" * 64,
            "facts": {},
            "joined_at": joined_at,
        }
        with self.catalogue.write() as connection:
            connection.execute(tables.devices.delete().where(tables.devices.c.device_id == device_id))
            connection.execute(tables.devices.insert(), row)
        return device_id

    def add_deployment(self, deployment_id: str, device_id: str, variant_id: str) -> None:
        row = {
            "deployment_id": deployment_id,
            "rollout_id": uuid.uuid4().hex,
            "device_id": device_id,
            "wave": 0,
            "profile": "pi4",
            "model": "m",
            "version": "1",
            "variant_id": variant_id,
            "state": "offered",
            "reason": "none",
            "detail": "",
            "updated_at": 1.0,
        }
        with self.catalogue.write() as connection:
            connection.execute(tables.deployments.insert(), row)

    def reports(self, device_id: str | None = None) -> list[sa.RowMapping]:
        query = sa.select(tables.reports)
        if device_id is not None:
            query = query.where(tables.reports.c.device_id == device_id)
        with self.telemetry.read() as connection:
            return list(connection.execute(query).mappings())

    def states(self) -> dict[str, sa.RowMapping]:
        with self.catalogue.read() as connection:
            rows = connection.execute(sa.select(tables.device_states)).mappings()
            return {row["device_id"]: row for row in rows}

    def figures(self) -> list[sa.RowMapping]:
        with self.catalogue.read() as connection:
            return list(connection.execute(sa.select(tables.device_figures)).mappings())


class TestDevice:
    """An MQTT client that does as a device does, and remembers what was acknowledged."""

    __test__ = False

    def __init__(self, url: str, device_id: str) -> None:
        self.device_id = device_id
        self.acked: set[int] = set()
        self.ack_count = 0
        parts = urlsplit(url)
        self._client = Client(CallbackAPIVersion.VERSION2, client_id=device_id, protocol=MQTTProtocolVersion.MQTTv5)
        self._client.on_message = self._on_message
        self._client.connect(parts.hostname or "", parts.port or 1883, clean_start=True)
        self._client.loop_start()
        ready: list[bool] = []
        self._client.on_subscribe = lambda *_: ready.append(True)
        wait_until(self._client.is_connected)
        self._client.subscribe(device_topic(device_id, DeviceTopic.ACK), qos=1)
        wait_until(lambda: bool(ready))

    def send(self, message: Message, *, retain: bool = False) -> None:
        self.send_raw(message.topic, encode(message), retain=retain)

    def send_raw(self, kind: DeviceTopic, payload: bytes, *, retain: bool = False) -> None:
        self._client.publish(device_topic(self.device_id, kind), payload, qos=1, retain=retain).wait_for_publish(10)

    def report(self, *sequences: int) -> None:
        for sequence in sequences:
            self.send(make_report(sequence))

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _on_message(self, _client: Client, _: object, message: MQTTMessage) -> None:
        self.ack_count += 1
        for one in decode(Ack, bytes(message.payload)).ranges:
            assert one.spool_id == SPOOL
            self.acked.update(range(one.first, one.last + 1))


def make_report(sequence: int, **changes: object) -> TelemetryReport:
    document = {
        "spool_id": SPOOL,
        "sequence": sequence,
        "model": "m",
        "version": "1",
        "variant_id": "v1",
        "deployment_id": "d1",
        "window_start": 1.0,
        "window_s": 10.0,
        "requests": 3,
    }
    return TelemetryReport.model_validate({**document, **changes})


def make_deployment(deployment_id: str, *, p95_ms: float) -> DeploymentStatus:
    return DeploymentStatus.model_validate(
        {
            "deployment_id": deployment_id,
            "model": "m",
            "version": "1",
            "variant_id": "v1",
            "state": "active",
            "self_test": SelfTestReport.model_validate(
                {"passed": True, "runtime": "litert", "delegate": "xnnpack", "p95_ms": p95_ms, "runs": 10}
            ),
        }
    )


def wait_until(holds: Callable[[], bool], *, timeout_s: float = 20.0) -> None:
    end_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end_s, "it did not happen in time"
        time.sleep(0.02)


@pytest.fixture
def databases(tmp_path: Path, new_database: Callable[[str], Database]) -> Databases:
    catalogue, telemetry = new_database("registry"), new_database("telemetry")
    tables.catalogue.create_all(catalogue.engine)
    tables.telemetry.create_all(telemetry.engine)
    return Databases(tmp_path, catalogue, telemetry)


@pytest.fixture
def device_id() -> str:
    """A name that no other test of this broker has."""
    return f"t-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def connect(databases: Databases) -> Iterator[Callable[[str, str], TestDevice]]:
    """Register a device and connect it to a broker."""
    made: list[TestDevice] = []

    def make(url: str, device_id: str) -> TestDevice:
        databases.add_device(device_id)
        made.append(TestDevice(url, device_id))
        return made[-1]

    yield make
    for device in made:
        device.close()


@pytest.fixture
def start_ingest(databases: Databases) -> Iterator[Callable[..., "subprocess.Popen[bytes]"]]:
    """Start ingest, or a program around it, as a process of its own; waits until it has its subscriptions."""
    started: list[subprocess.Popen[bytes]] = []

    def start(url: str, *, name: str = "", program: tuple[str, ...] = ()) -> "subprocess.Popen[bytes]":
        environment = {
            **os.environ,
            "SHOAL_DATA_DIR": str(databases.folder),
            "SHOAL_DATABASE_URL": str(databases.catalogue.url),
            "SHOAL_TELEMETRY_URL": str(databases.telemetry.url),
            "SHOAL_MQTT_URL": url,
        }
        argv = program or ("-m", "server.processes.ingest", "--name", name or uuid.uuid4().hex)
        log = databases.folder / f"ingest-{len(started)}.log"
        with log.open("wb") as file:
            started.append(subprocess.Popen([sys.executable, *argv], env=environment, stderr=file))
        # a device that is known only for this: it is heard once ingest listens
        probe = TestDevice(url, databases.add_device(f"probe-{uuid.uuid4().hex[:12]}"))
        sequence = 0

        def heard() -> bool:
            nonlocal sequence
            assert program or started[-1].poll() is None, log.read_text()
            probe.report(sequence)
            sequence += 1
            return bool(probe.acked) or started[-1].poll() is not None

        wait_until(heard)
        probe.close()
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def report() -> Callable[..., TelemetryReport]:
    return make_report


@pytest.fixture
def deployment() -> Callable[..., DeploymentStatus]:
    return make_deployment


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool]], None]:
    return wait_until

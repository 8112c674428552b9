"""Real Mosquitto and real SeaweedFS for all tests of the registry, one of each per xdist worker."""

import os
import random
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from server.api.app import create_app
from server.api.ports import Ports
from server.database import tables
from server.database.connect import Database
from server.database.migrate import upgrade
from server.fleet.enrol import Addresses
from server.fleet.manifests import ManifestCache
from server.heartbeats import Process
from server.settings import RegistrySettings
from server.stack.broker import broker_command
from server.stack.child import Child
from server.stack.commands import Command
from server.stack.objects import INTERNAL_PORTS, S3Keys, remove_sockets, weed_command
from server.stack.ports import LOOPBACK, choose_ports
from server.stack.probes import mqtt_answers
from server.storage import S3ObjectStore
from server.storage.prepare import prepare
from server.trust.folder import TrustFolder
from tests.postgresql import PostgresServer

# a broker of somebody else's, that lets everybody in: who tests trust starts the embedded one
OPEN_LISTENER = f"listener {{port}} {LOOPBACK}\nallow_anonymous true\n"
StartChild = Callable[[Command, Path], Child]


@dataclass(frozen=True)
class S3Server:
    """A running SeaweedFS with a bucket."""

    endpoint: str
    access_key: str
    secret_key: str
    bucket: str = "shoal"
    region: str = "us-east-1"

    def store(self) -> S3ObjectStore:
        return S3ObjectStore(
            endpoint=self.endpoint,
            bucket=self.bucket,
            access_key=self.access_key,
            secret_key=self.secret_key,
            region=self.region,
        )


def _free_ports(*names: str) -> dict[str, int]:
    return choose_ports(names, fixed={}, addresses=[LOOPBACK], chance=random.SystemRandom())


def _start(command: Command, log_dir: Path) -> Child:
    child = Child(command, log_dir=log_dir, environment=dict(os.environ))
    child.start()
    return child


def _stop(child: Child) -> None:
    child.ask_to_stop()
    child.finish(time.monotonic() + child.command.stop_grace_s)


def _wait_for(answers: Callable[[], bool], child: Child) -> None:
    end_s = time.monotonic() + 20
    while not answers():
        assert child.poll() is None, child.last_line()
        assert time.monotonic() < end_s, child.last_line()
        time.sleep(0.02)


@pytest.fixture
def start_child(tmp_path: Path) -> Iterator[Callable[[Command], Child]]:
    """Start a command that is stopped after the test."""
    children: list[Child] = []

    def start(command: Command) -> Child:
        children.append(_start(command, tmp_path))
        return children[-1]

    yield start
    for child in children:
        _stop(child)


@pytest.fixture
def own_broker(tmp_path: Path, start_child: Callable[[Command], Child]) -> tuple[str, Child]:
    """A Mosquitto of this test alone, to be killed and started again: (url, child)."""
    port = _free_ports("mqtt")["mqtt"]
    child = start_child(broker_command(tmp_path / "mosquitto", listener=OPEN_LISTENER.format(port=port)))
    _wait_for(lambda: mqtt_answers(LOOPBACK, port), child)
    return f"mqtt://{LOOPBACK}:{port}", child


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a running Mosquitto that all tests of this worker share: use topics of your own."""
    folder = tmp_path_factory.mktemp("broker")
    port = _free_ports("mqtt")["mqtt"]
    child = _start(broker_command(folder / "mosquitto", listener=OPEN_LISTENER.format(port=port)), folder)
    try:
        _wait_for(lambda: mqtt_answers(LOOPBACK, port), child)
        yield f"mqtt://{LOOPBACK}:{port}"
    finally:
        _stop(child)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresServer]:
    """A running PostgreSQL that all tests of this worker share."""
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def new_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], Database]]:
    """An empty database by a name, on each of the servers that a registry may have."""
    opened: list[Database] = []

    def make(name: str) -> Database:
        url = f"sqlite:///{tmp_path / name}.db"
        if request.param == "postgresql":
            url = request.getfixturevalue("postgresql").make_database()
        opened.append(Database(url))
        return opened[-1]

    yield make
    for database in opened:
        database.close()
        if not database.is_sqlite:
            request.getfixturevalue("postgresql").drop(database.url.render_as_string())


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A running SeaweedFS with the bucket `shoal` that all tests of this worker share."""
    folder = tmp_path_factory.mktemp("s3")
    ports = _free_ports("s3", *INTERNAL_PORTS)
    server = S3Server(f"http://{LOOPBACK}:{ports['s3']}", access_key="test-key", secret_key="test-secret-key")
    keys = S3Keys(server.access_key, server.secret_key)
    child = _start(weed_command(folder / "weed", address=LOOPBACK, ports=ports, keys=keys), folder)
    try:
        store = server.store()
        prepare(store)
        store.close()
        yield server
    finally:
        _stop(child)
        remove_sockets(ports)


@pytest.fixture(scope="session")
def object_store(s3_server: S3Server) -> Iterator[S3ObjectStore]:
    """The store of the registry on the shared SeaweedFS."""
    store = s3_server.store()
    yield store
    store.close()


@dataclass(frozen=True)
class RunningRegistry:
    """An API in this process on a free port, with databases of its own, the shared S3 and the shared broker."""

    url: str
    settings: RegistrySettings
    catalogue: Database


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with migrated databases, to be copied: migrating for each test would take longer than the tests."""
    folder = tmp_path_factory.mktemp("migrated")
    settings = RegistrySettings(data_dir=folder)
    upgrade(settings)
    trust = TrustFolder(settings.trust_dir)
    trust.make("test", now=time.time())
    trust.keep_current(host_names=["localhost", LOOPBACK], now=time.time())
    return folder


@pytest.fixture
def start_registry(
    tmp_path: Path, s3_server: S3Server, broker: str, migrated: Path
) -> Iterator[Callable[..., RunningRegistry]]:
    """Start an API of this test alone, with some settings changed; it ends after the test."""
    shutil.copytree(migrated, tmp_path / "registry")
    with ExitStack() as stack:

        def start(**changes: object) -> RunningRegistry:
            return stack.enter_context(_running(_settings(tmp_path / "registry", s3_server, broker, changes)))

        yield start


@pytest.fixture(scope="session")
def shared_registry(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    s3_server: S3Server,
    broker: str,
    migrated: Path,
) -> Iterator[RunningRegistry]:
    """One API for all tests of this worker; with the mark `ON_BOTH_DATABASES` one on each kind."""
    folder = tmp_path_factory.mktemp("shared") / "registry"
    shutil.copytree(migrated, folder)
    changes = {}
    if getattr(request, "param", "sqlite") == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgresql")
        changes = {name: server.make_database() for name in ("database_url", "telemetry_url")}
    settings = _settings(folder, s3_server, broker, changes)
    upgrade(settings)
    with _running(settings) as running:
        yield running


@pytest.fixture
def registry(shared_registry: RunningRegistry) -> RunningRegistry:
    """A running API with empty tables. What it has in S3 may be left from other tests: objects are known by content."""
    with shared_registry.catalogue.write() as connection:
        for table in tables.catalogue.sorted_tables:
            if table is not tables.registry:
                connection.execute(table.delete())
    return shared_registry


@pytest.fixture
def add_version(registry: RunningRegistry) -> Callable[..., None]:
    """Write the model version that an inspection ends with."""

    def add(model: str = "net", version: str = "1") -> None:
        document = {
            "model": model,
            "version": version,
            "task": "classification",
            "metric": "top1",
            "signature": {"inputs": [{"name": "x", "shape": [-1, 2]}], "outputs": [{"name": "y", "shape": [-1, 2]}]},
            "preprocessing": {},
            "labels": [],
            "splits": {"calibration": 1, "selection": 1, "test": 2, "groups": 4},
            "parameters": 6,
            "source_sha256": "0" * 64,
            "source_bytes": 10,
            "eval_sha256": "1" * 64,
            "created_at": 1.0,
        }
        names = ("model", "version", "task", "metric", "source_sha256", "source_bytes", "eval_sha256", "created_at")
        row = {**{name: document[name] for name in names}, "document": document}
        with registry.catalogue.write() as connection:
            connection.execute(tables.model_versions.insert().values(row))

    return add


@pytest.fixture
def all_work(registry: RunningRegistry) -> RunningRegistry:
    """The registry, as if each of its processes had just said that it works."""
    rows = [{"process": process.value, "instance": "here", "beat_at": time.time()} for process in Process]
    with registry.catalogue.write() as connection:
        connection.execute(tables.heartbeats.insert(), rows)
    return registry


def _settings(data_dir: Path, s3_server: S3Server, broker: str, changes: Mapping[str, object]) -> RegistrySettings:
    values: dict[str, Any] = {
        "data_dir": data_dir,
        "s3_endpoint": s3_server.endpoint,
        "s3_access_key": s3_server.access_key,
        "s3_secret_key": s3_server.secret_key,
        "mqtt_url": broker,
    }
    return RegistrySettings(**{**values, **changes})


@contextmanager
def _running(settings: RegistrySettings) -> Iterator[RunningRegistry]:
    catalogue, telemetry = Database(settings.database_url), Database(settings.telemetry_url)
    objects = S3ObjectStore.from_settings(settings)
    listener = socket.create_server((LOOPBACK, 0))
    url = f"http://{LOOPBACK}:{listener.getsockname()[1]}"
    ports = Ports(
        settings=settings,
        catalogue=catalogue,
        telemetry=telemetry,
        objects=objects,
        manifests=ManifestCache(objects),
        addresses=Addresses(registry_url=url, mqtt_url=settings.mqtt_url or ""),
        trust=TrustFolder(settings.trust_dir),
        clock=time.time,
    )
    server = uvicorn.Server(uvicorn.Config(create_app(ports), log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        _wait_until(lambda: server.started)
        yield RunningRegistry(url=url, settings=settings, catalogue=catalogue)
    finally:
        server.should_exit = True
        thread.join(timeout=20)
        listener.close()
        objects.close()
        catalogue.close()
        telemetry.close()


def _wait_until(holds: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end_s
        time.sleep(0.01)

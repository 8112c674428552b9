"""Real Mosquitto and real SeaweedFS for all tests of the registry, one of each per xdist worker."""

import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from server.stack.broker import broker_command
from server.stack.child import Child
from server.stack.commands import Command
from server.stack.objects import INTERNAL_PORTS, S3Keys, remove_sockets, weed_command
from server.stack.ports import LOOPBACK, choose_ports
from server.stack.probes import mqtt_answers
from server.storage import S3ObjectStore
from server.storage.prepare import prepare

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
    child = start_child(broker_command(tmp_path / "mosquitto", address=LOOPBACK, port=port))
    _wait_for(lambda: mqtt_answers(LOOPBACK, port), child)
    return f"mqtt://{LOOPBACK}:{port}", child


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a running Mosquitto that all tests of this worker share: use topics of your own."""
    folder = tmp_path_factory.mktemp("broker")
    port = _free_ports("mqtt")["mqtt"]
    child = _start(broker_command(folder / "mosquitto", address=LOOPBACK, port=port), folder)
    try:
        _wait_for(lambda: mqtt_answers(LOOPBACK, port), child)
        yield f"mqtt://{LOOPBACK}:{port}"
    finally:
        _stop(child)


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

"""One far end for all points: a real broker, the registry's side of the contract, a device that serves."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.edge_agent.surroundings.broker import Broker
from tests.edge_agent.surroundings.mqtt_registry import MqttRegistry
from tests.edge_agent.surroundings.toy_variant import make_variant
from tests.faults.scene import Scene, Wire

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.record import Call


@pytest.fixture(scope="session")
def scene() -> Iterator[Scene]:
    yield from set_up()


@pytest.fixture(scope="module")
def staging_scene() -> Iterator[Scene]:
    """Version 2 is to lie ready first, and is activated then."""
    yield from set_up(stages=True)


def set_up(*, stages: bool = False) -> Iterator[Scene]:
    if shutil.which("strace") is None:
        pytest.fail("the command `strace` is missing, which `make setup` installs: apt-get install strace")
    if subprocess.run(["strace", "-o", "/dev/null", "true"], check=False, capture_output=True).returncode:
        pytest.skip("strace may not trace here: ptrace is not permitted")
    folder = Path(tempfile.mkdtemp(prefix="shoal-"))  # short: Unix socket paths end at 107 bytes
    broker = Broker(folder)
    broker.start()
    registry, wire = MqttRegistry(broker.url), Wire(broker.port)
    new = make_variant(version="2", filler_bytes=40_000)
    scene = Scene(folder, broker, registry, wire, old=make_variant(), new=new, stages=stages)
    try:
        scene.prepare()
        yield scene
    finally:
        scene.close()
        wire.close()
        registry.close()
        broker.kill()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def recorded(scene: Scene) -> list[Call]:
    """The update, undisturbed."""
    return scene.record()

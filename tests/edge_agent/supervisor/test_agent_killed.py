"""A device killed, its broker killed, its files damaged: on a real broker it ends in the wanted state."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.edge_agent.surroundings.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.edge_agent.surroundings.broker import Broker
    from tests.edge_agent.surroundings.device import Device
    from tests.edge_agent.surroundings.mqtt_registry import MqttRegistry
    from tests.edge_agent.surroundings.toy_variant import ToyVariant

    VariantOf = Callable[..., ToyVariant]


def test_agent_killed_serves_again_without_any_network(
    device: Device, registry: MqttRegistry, broker: Broker, variant_of: VariantOf
) -> None:
    registry.want(1, {"d1": variant_of()})
    device.start()
    registry.expect_serving("d1")
    broker.kill()
    device.kill()
    until(lambda: device.infer() is None, what="the end of the runner")

    device.start()

    device.expect_answer("1")
    assert device.status()["connected"] is False
    broker.start()
    until(lambda: device.status()["connected"], what="a connection")


def test_agent_killed_before_it_removed_a_pointer_removes_it_at_its_next_start(
    device: Device, registry: MqttRegistry, variant_of: VariantOf
) -> None:
    registry.want(1, {"d1": variant_of()})
    device.start()
    registry.expect_serving("d1")
    pointer = device.layout.active_pointer("net")
    content = pointer.read_bytes()
    registry.want(2, {})
    until(lambda: not pointer.exists(), what="the pointer's end")
    device.kill()
    pointer.write_bytes(content)
    folder = device.root / json.loads(content)["variant_dir"]
    folder.mkdir(parents=True, exist_ok=True)  # garbage had not been collected either

    device.start()
    until(lambda: not pointer.exists(), what="the stale pointer's end")


def test_agent_whose_disk_takes_no_pointer_serves_all_the_same(
    device: Device, registry: MqttRegistry, variant_of: VariantOf
) -> None:
    device.start()
    registry.expect_online()
    pointer = device.layout.active_pointer("net")
    pointer.mkdir()  # nothing can be renamed to a folder
    registry.want(1, {"d1": variant_of()})
    registry.expect_serving("d1")
    device.expect_answer("1")
    assert device.status()["complaints"] == {"disk": 1}
    pointer.rmdir()


@pytest.mark.parametrize("pause_s", [0.0, 0.4, 0.8, 1.6])
def test_agent_killed_while_it_updates_ends_in_the_wanted_state(
    device: Device, registry: MqttRegistry, variant_of: VariantOf, pause_s: float
) -> None:
    registry.want(1, {"d1": variant_of()})
    device.start()
    registry.expect_serving("d1")
    registry.block_limit = 20
    registry.want(2, {"d2": variant_of(version="2", behaviour="slow_proof", filler_bytes=60_000)})
    until(lambda: registry.state_of("d2") is not None, what="the update")
    time.sleep(pause_s)

    device.kill()
    device.start()

    registry.expect_serving("d2", timeout_s=30)
    device.expect_answer("2")


def test_agent_killed_during_a_transfer_fetches_only_what_is_missing(
    device: Device, registry: MqttRegistry, variant_of: VariantOf
) -> None:
    variant = variant_of(filler_bytes=200_000)
    count = variant.manifest.object.block_count
    registry.lose = lambda index: index >= 101
    registry.want(1, {"d1": variant})
    device.start()
    until(lambda: (s := registry.state_of("d1")) is not None and s.bytes_done >= 101 * 1024, what="101 blocks")
    device.kill()
    registry.asks.clear()
    registry.lose = lambda _index: False

    device.start()

    status = registry.expect_serving("d1")
    assert status.bytes_received <= (count - 101) * 1024


def test_agent_whose_broker_dies_comes_back_with_a_higher_session(
    device: Device, registry: MqttRegistry, broker: Broker
) -> None:
    device.start()
    first = registry.expect_online()
    broker.kill()
    broker.start()

    second = registry.expect_online(after=1)

    assert second.session_counter > first.session_counter
    assert second.session_id != first.session_id


def test_agent_killed_is_declared_offline_by_its_will(device: Device, registry: MqttRegistry) -> None:
    device.start()
    birth = registry.expect_online()

    device.kill()

    until(lambda: not registry.presences[-1].online, what="the will")
    assert registry.presences[-1].session_id == birth.session_id


def test_second_agent_in_the_same_folder_is_refused(device: Device, registry: MqttRegistry) -> None:
    device.start()
    registry.expect_online()

    second = subprocess.run(device.command(), capture_output=True, text=True, timeout=20, check=False)

    assert second.returncode == 1
    assert second.stderr.count("\n") == 1
    assert "already runs in" in second.stderr


def damage(state_db: Path) -> None:
    state_db.write_bytes(b"SQLite format 3\0" + b"\xff" * 4096)


def make_unreadable(state_db: Path) -> None:
    """As a later version may have written it."""
    connection = sqlite3.connect(state_db)
    with connection:
        connection.execute("UPDATE deployments SET record = json_set(record, '$.state', 'hibernating')")
    connection.close()


@pytest.mark.parametrize(("spoil", "word"), [(damage, "damaged"), (make_unreadable, "unreadable")])
def test_agent_whose_state_is_of_no_use_serves_offline_what_it_served_and_is_heard_again(
    device: Device,
    registry: MqttRegistry,
    broker: Broker,
    variant_of: VariantOf,
    spoil: Callable[[Path], None],
    word: str,
) -> None:
    registry.want(1, {"d1": variant_of()})
    device.start()
    before = (registry.expect_serving("d1"), registry.presences[-1], registry.statuses[-1])
    broker.kill()
    device.stop()
    for name in ("state.db-wal", "state.db-shm"):
        (device.root / name).unlink(missing_ok=True)
    spoil(device.layout.state_db)

    device.start()
    device.expect_answer("1")
    device.stop()  # what was found is in the store by now
    device.start()
    device.expect_answer("1")

    assert (device.root / f"state.db.{word}").exists()
    assert device.log.count(f"state.db is {word}") == 1
    registry.statuses.clear()
    registry.presences.clear()
    broker.start()
    until(lambda: any(p.online for p in registry.presences), what="the birth")
    registry.expect_serving("d1")
    assert registry.presences[-1].session_counter > before[1].session_counter
    assert registry.statuses[0].sequence > before[2].sequence
    registry.want(2, {"d2": variant_of(version="2")})
    registry.expect_serving("d2")
    assert registry.expect_state("d1", "superseded").serving is False


def test_agent_with_damaged_databases_begins_anew_and_ends_in_the_wanted_state(
    device: Device, registry: MqttRegistry, variant_of: VariantOf
) -> None:
    device.layout.state_db.write_bytes(b"SQLite format 3\0" + b"\xff" * 4096)
    device.layout.spool_db.write_bytes(b"nonsense" * 100)
    registry.want(1, {"d1": variant_of()})

    device.start()

    registry.expect_serving("d1")
    assert "is damaged" in device.log

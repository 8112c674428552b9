"""The real agent on a machine that fails it: a full disk, one that takes no writes, a clock of 1970."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.edge_agent.surroundings.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.edge_agent.surroundings.broker import Broker
    from tests.edge_agent.surroundings.device import Device
    from tests.edge_agent.surroundings.mqtt_registry import MqttRegistry
    from tests.edge_agent.surroundings.toy_variant import ToyVariant

    VariantOf = Callable[..., ToyVariant]


def mount(*arguments: str) -> bool:
    return subprocess.run(["mount", *arguments], check=False, capture_output=True).returncode == 0


@pytest.fixture
def small_disk(device: Device) -> Iterator[Device]:
    """A device whose folder is a file system of its own, of 12 MB."""
    if os.geteuid() != 0 or not mount("-t", "tmpfs", "-o", "size=12m", "shoal-test", str(device.root)):
        pytest.skip("mounting a small file system needs root and the right to mount")
    try:
        device.join()
        yield device
    finally:
        device.kill()
        until(lambda: _unmounted(device), what="the end of the mount")


def _unmounted(device: Device) -> bool:
    return subprocess.run(["umount", str(device.root)], check=False, capture_output=True).returncode == 0


def test_agent_whose_disk_is_full_says_so_serves_on_and_updates_once_there_is_room(
    small_disk: Device, registry: MqttRegistry, variant_of: VariantOf
) -> None:
    device = small_disk
    device.flags = ["--storage-budget", "100M"]
    registry.want(1, {"d1": variant_of()})
    device.start()
    registry.expect_serving("d1")
    filler = device.root / "filler"
    left = os.statvfs(device.root)
    filler.write_bytes(bytes(left.f_bavail * left.f_frsize))

    registry.want(2, {"d2": variant_of(version="2", filler_bytes=2_000_000, block_bytes=65_536)})

    assert registry.expect_state("d2", "failed").reason == "disk_full"
    device.expect_answer("1")
    assert registry.serving("d1")
    filler.unlink()
    registry.expect_serving("d2", timeout_s=40)
    device.expect_answer("2")


def test_agent_on_a_disk_that_takes_no_writes_says_so_and_has_lost_nothing_afterwards(
    small_disk: Device, registry: MqttRegistry, broker: Broker, variant_of: VariantOf
) -> None:
    device = small_disk
    registry.want(1, {"d1": variant_of()})
    device.start()
    registry.expect_serving("d1")
    broker.kill()
    device.stop()
    assert mount("-o", "remount,ro", str(device.root))

    refused = subprocess.run(device.command(), capture_output=True, text=True, timeout=20, check=False)

    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert f"can't write to {device.root} (Read-only file system)" in refused.stderr
    assert mount("-o", "remount,rw", str(device.root))
    device.start()
    device.expect_answer("1")


def test_agent_that_believes_it_is_1970_serves_updates_and_is_believed_when_its_clock_is_right(
    device: Device, registry: MqttRegistry, variant_of: VariantOf
) -> None:
    library = next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)
    if library is None:
        pytest.fail("libfaketime is missing, which `make setup` installs: apt-get install faketime")
    registry.want(1, {"d1": variant_of()})
    device.start()
    registry.expect_serving("d1")
    before = registry.presences[-1], registry.statuses[-1]
    device.kill()

    # as a board without a clock begins; the library sets the monotonic clock back too, as a boot does
    device.prefix = ["env", f"LD_PRELOAD={library}", "FAKETIME=@1970-01-01 00:00:10"]
    registry.statuses.clear()
    device.start()
    device.expect_answer("1")
    registry.want(2, {"d2": variant_of(version="2")})
    registry.expect_serving("d2")
    device.expect_answer("2")
    there = registry.presences[-1], registry.statuses[-1]
    assert there[1].sent_at < 1e6, "it does believe so"
    assert there[0].session_counter > before[0].session_counter
    assert there[1].sequence > before[1].sequence
    device.kill()

    device.prefix = []
    registry.statuses.clear()
    device.start()
    registry.expect_serving("d2")
    assert registry.statuses[-1].sent_at > 1e9
    assert registry.presences[-1].session_counter > there[0].session_counter
    assert registry.statuses[-1].sequence > there[1].sequence

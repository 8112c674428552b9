"""Transfers of the real agent that are broken off, taken up another way, superseded, limited."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from edge_agent.protocol import bitmap
from edge_agent.protocol.messages import AskKind
from tests.edge_agent.surroundings.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.edge_agent.surroundings.device import Device
    from tests.edge_agent.surroundings.http_registry import HttpRegistry
    from tests.edge_agent.surroundings.mqtt_registry import MqttRegistry
    from tests.edge_agent.surroundings.toy_variant import ToyVariant

    VariantOf = Callable[..., ToyVariant]

KIB = 1024
OTHER_BOOT = 'mount --bind "$1" /proc/sys/kernel/random/boot_id && shift && exec "$@"'


def begin(registry: MqttRegistry, variant: ToyVariant, *, blocks: int) -> None:
    """Want it as d1; no block from this one on arrives."""
    registry.lose = lambda index: index >= blocks
    registry.want(1, {"d1": variant})


def wait_for_blocks(registry: MqttRegistry, blocks: int) -> None:
    until(lambda: (s := registry.state_of("d1")) is not None and s.bytes_done >= blocks * KIB, what=f"{blocks} blocks")


def asked_blocks(registry: MqttRegistry, variant: ToyVariant) -> list[list[int]]:
    """What each question for blocks of an object has asked for."""
    count = variant.manifest.object.block_count
    asks = [ask for ask in registry.asks if ask.kind is AskKind.BLOCKS and ask.sha256 == variant.object_sha256]
    return [bitmap.unpack(ask.missing or b"", count=count) for ask in asks]


@pytest.fixture
def both_ways(device: Device, http_registry: HttpRegistry) -> Device:
    """A device that may fetch over either transport."""
    device.registry_url = http_registry.url
    device.join()
    return device


def test_agent_killed_over_mqtt_and_started_with_https_asks_for_the_rest_alone(
    both_ways: Device, registry: MqttRegistry, http_registry: HttpRegistry, variant_of: VariantOf
) -> None:
    variant = variant_of(filler_bytes=200_000)
    http_registry.variants[variant.manifest_sha256] = variant
    begin(registry, variant, blocks=77)
    both_ways.start()
    wait_for_blocks(registry, 77)
    both_ways.kill()

    both_ways.start("--transport", "https")

    registry.expect_serving("d1")
    assert [asked.partition("-")[0] for asked in http_registry.ranges] == [f"bytes={77 * KIB}"]


def test_agent_killed_over_https_and_started_with_mqtt_asks_for_the_rest_alone(
    both_ways: Device, registry: MqttRegistry, http_registry: HttpRegistry, variant_of: VariantOf
) -> None:
    variant = variant_of(filler_bytes=200_000)
    http_registry.variants[variant.manifest_sha256] = variant
    http_registry.hang_after_bytes = 77 * KIB
    registry.want(1, {"d1": variant})
    both_ways.start("--transport", "https")
    wait_for_blocks(registry, 77)
    both_ways.kill()

    both_ways.start()

    registry.expect_serving("d1")
    assert asked_blocks(registry, variant)[0][0] == 77


def test_agent_of_a_machine_that_was_started_anew_goes_on_where_it_was(
    device: Device, registry: MqttRegistry, variant_of: VariantOf, tmp_path: Path
) -> None:
    """As after a reboot: another boot id, a monotonic clock that begins elsewhere, nothing left in run/."""
    boot_id = tmp_path / "boot_id"
    boot_id.write_text("6a0c5f0e-0000-4000-8000-000000000000\n")
    clock = ["--time", "--monotonic", "1000000", "--boottime", "1000000"]
    other_boot = ["unshare", "--mount", *clock, "--fork", "--kill-child", "sh", "-c", OTHER_BOOT, "sh", str(boot_id)]
    if subprocess.run([*other_boot, "true"], check=False, capture_output=True).returncode:
        pytest.skip("a clock and a boot id of one's own need root and a kernel with time namespaces")
    variant = variant_of(filler_bytes=200_000)
    begin(registry, variant, blocks=101)
    device.start()
    wait_for_blocks(registry, 101)
    device.kill()
    shutil.rmtree(device.layout.run_dir)
    registry.asks.clear()
    registry.lose = lambda _index: False

    device.prefix = other_boot
    device.start()

    registry.expect_serving("d1")
    assert asked_blocks(registry, variant)[0][0] == 101
    device.kill()  # `unshare` passes no other signal on


def test_agent_told_of_another_model_while_its_store_hangs_lets_go_of_it(
    both_ways: Device, registry: MqttRegistry, http_registry: HttpRegistry, variant_of: VariantOf
) -> None:
    old, new = variant_of(filler_bytes=200_000), variant_of(version="2")
    for variant in (old, new):
        http_registry.variants[variant.manifest_sha256] = variant
    http_registry.hang_after_bytes = 20 * KIB
    registry.want(1, {"d1": old})
    both_ways.start("--transport", "https")
    wait_for_blocks(registry, 20)
    http_registry.hang_after_bytes = None

    registry.want(2, {"d2": new})

    assert http_registry.hung.wait(10), "it does not wait for its time limit of 30 s"
    registry.expect_serving("d2")
    assert registry.expect_state("d1", "superseded").serving is False


@pytest.mark.parametrize("transport", ["mqtt", "https"])
def test_agent_told_of_the_same_variant_by_another_deployment_keeps_what_it_has_of_it(
    both_ways: Device, registry: MqttRegistry, http_registry: HttpRegistry, variant_of: VariantOf, transport: str
) -> None:
    variant = variant_of(filler_bytes=200_000)
    http_registry.variants[variant.manifest_sha256] = variant
    http_registry.cut_after_bytes = 60 * KIB
    begin(registry, variant, blocks=60)
    both_ways.start("--transport", transport)
    until(lambda: registry.statuses and registry.state_of("d1") is not None, what="d1")
    until(lambda: asked_blocks(registry, variant) or http_registry.ranges, what="the first blocks")
    registry.want(2, {"d2": variant})
    registry.lose = lambda _index: False

    status = registry.expect_serving("d2")

    assert status.bytes_received <= len(variant.travelling) + KIB
    if transport == "https":
        assert [asked.partition("-")[0] for asked in http_registry.ranges] == ["bytes=0", f"bytes={60 * KIB}"]


def test_agent_told_of_another_model_asks_no_more_for_the_old_one(
    device: Device, registry: MqttRegistry, variant_of: VariantOf
) -> None:
    old = variant_of(filler_bytes=200_000)
    begin(registry, old, blocks=10)
    device.start()
    wait_for_blocks(registry, 10)

    registry.want(2, {"d2": variant_of(version="2", filler_bytes=5_000)})

    registry.expect_state("d1", "superseded")
    asked = len(asked_blocks(registry, old))
    registry.expect_serving("d2")
    assert len(asked_blocks(registry, old)) == asked
    assert not device.layout.transfer_dir(old.object_sha256).exists(), "what nobody wants is garbage"


@pytest.mark.parametrize("flags", [["--metered"], ["--max-download-rate", "40K"]], ids=["metered", "limited"])
def test_agent_that_pays_for_bytes_receives_none_that_it_did_not_ask_for(
    device: Device, registry: MqttRegistry, variant_of: VariantOf, flags: list[str]
) -> None:
    variant = variant_of(filler_bytes=100_000)
    device.flags = flags
    registry.block_limit = 30
    registry.want(1, {"d1": variant})
    device.start()
    until(lambda: asked_blocks(registry, variant), what="the first question")

    registry.broadcast(variant, range(variant.manifest.object.block_count))  # the next wave's pass

    status = registry.expect_serving("d1")
    assert status.bytes_received == len(variant.travelling)
    assert not any(ask.listening for ask in registry.asks if ask.kind is AskKind.BLOCKS)
    if "--metered" not in flags:
        assert max(len(asked) for asked in asked_blocks(registry, variant)) == 40, "what one second allows"


def test_agent_that_hears_no_bell_asks_by_itself(device: Device, registry: MqttRegistry, variant_of: VariantOf) -> None:
    device.flags = ["--set", "ask_interval_s=1"]
    device.start()
    registry.expect_online()
    until(lambda: registry.asks, what="the question at connecting")
    variant = variant_of()
    registry.offer(variant)

    registry.desired = registry.desired.model_copy(
        update={"generation": 1, "deployments": (variant.wanted("d1"),), "status_interval_s": 1.0}
    )  # and the message is lost

    registry.expect_serving("d1")

"""Deltas fetched and applied by the real agent, over a real broker and over HTTPS."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.edge_agent.supervisor.test_agent_transfers import asked_blocks
from tests.edge_agent.surroundings.toy_delta import offering
from tests.edge_agent.surroundings.toy_variant import make_variant
from tests.edge_agent.surroundings.waiting import until

if TYPE_CHECKING:
    from tests.edge_agent.surroundings.device import Device
    from tests.edge_agent.surroundings.http_registry import HttpRegistry
    from tests.edge_agent.surroundings.mqtt_registry import MqttRegistry
    from tests.edge_agent.surroundings.toy_variant import ToyVariant

KIB = 1024
ONE = make_variant("net", "1", filler_bytes=200_000)
TWO, DELTA = offering(ONE, make_variant("net", "2", filler_bytes=200_000, filler_of=ONE, own_bytes=40_000))


class Shop:
    """A device that runs version 1, and both ways to it."""

    def __init__(self, device: Device, registry: MqttRegistry, http_registry: HttpRegistry) -> None:
        self.device, self.registry, self.http_registry = device, registry, http_registry
        self.carry(ONE, TWO, DELTA)
        device.registry_url = http_registry.url
        device.join()

    def carry(self, *variants: ToyVariant) -> None:
        for variant in variants:
            self.registry.variants[variant.object_sha256] = variant
            self.http_registry.variants[variant.manifest_sha256] = variant

    def run_one(self, transport: str) -> None:
        self.registry.want(1, {"d1": ONE})
        self.device.start("--transport", transport)
        self.registry.expect_serving("d1")

    def served(self) -> tuple[str, bool]:
        """How it came by version 2, once that answers, and whether it took less than a third of the whole object."""
        status = self.registry.expect_serving("d2")
        self.device.expect_answer("2")
        assert status.file_sha256 == TWO.manifest.model_file.sha256
        return status.fetched, status.bytes_received < len(TWO.travelling) / 3


@pytest.fixture
def shop(device: Device, registry: MqttRegistry, http_registry: HttpRegistry) -> Shop:
    return Shop(device, registry, http_registry)


@pytest.mark.parametrize("transport", ["mqtt", "https"])
def test_agent_with_the_base_fetches_the_delta_alone(shop: Shop, transport: str) -> None:
    shop.run_one(transport)
    shop.registry.want(2, {"d2": TWO})
    assert shop.served() == ("delta", True)


@pytest.mark.parametrize("transport", ["mqtt", "https"])
def test_agent_without_the_base_fetches_the_whole_object(shop: Shop, transport: str) -> None:
    shop.registry.want(1, {"d2": TWO})
    shop.device.start("--transport", transport)
    assert shop.served() == ("whole", False)


def test_agent_whose_base_is_damaged_on_the_disk_fetches_the_whole_object_and_says_so(shop: Shop) -> None:
    shop.run_one("mqtt")
    file = shop.device.layout.variant_dir(ONE.manifest_sha256) / "model"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    shop.registry.want(2, {"d2": TWO})
    assert shop.served() == ("whole_after_delta", False)
    status = shop.registry.state_of("d2")
    assert status is not None
    assert "is damaged on this disk" in status.detail


def test_agent_whose_delta_is_gone_from_the_store_fetches_the_whole_object(shop: Shop) -> None:
    shop.run_one("https")
    del shop.http_registry.variants[DELTA.manifest_sha256]
    shop.registry.want(2, {"d2": TWO})
    assert shop.served() == ("whole_after_delta", False)


def test_agent_killed_in_the_middle_of_a_delta_asks_for_the_rest_of_it_alone(shop: Shop) -> None:
    shop.run_one("mqtt")
    shop.registry.lose = lambda index: index >= 20
    shop.registry.want(2, {"d2": TWO})
    until(lambda: (s := shop.registry.state_of("d2")) is not None and s.bytes_done >= 20 * KIB, what="20 blocks")
    shop.device.kill()
    shop.registry.asks.clear()
    shop.registry.lose = lambda _index: False

    shop.device.start("--transport", "mqtt")

    assert shop.served() == ("delta", True)
    assert asked_blocks(shop.registry, DELTA)[0][0] == 20

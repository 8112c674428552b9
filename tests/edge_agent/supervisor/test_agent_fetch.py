"""What a device is sent and fetches, on a real broker: lost, wrong, garbage, missing, too large."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from edge_agent.protocol.messages import Desired, encode
from edge_agent.protocol.topics import DeviceTopic
from tests.edge_agent.surroundings.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.edge_agent.surroundings.device import Device
    from tests.edge_agent.surroundings.mqtt_registry import MqttRegistry
    from tests.edge_agent.surroundings.toy_variant import ToyVariant

    VariantOf = Callable[..., ToyVariant]


def test_agent_told_the_same_older_and_newer_ends_in_the_newest_state(
    device: Device, registry: MqttRegistry, variant_of: VariantOf
) -> None:
    one, two, three = (variant_of(version=str(n)) for n in (1, 2, 3))
    device.start()
    registry.expect_online()
    for generation, variant in ((3, three), (1, one), (3, three), (2, two), (1, one), (3, three)):
        registry.want(generation, {f"d{generation}": variant})

    registry.expect_serving("d3")

    device.expect_answer("3")
    status = device.status()
    assert status["desired"]["generation"] == 3
    assert status["ignored_desired"] >= 4
    assert status["complaints"]["mqtt.desired.older"] == 3
    told = "generation 1 of epoch 1 is wanted, older than generation 3 of epoch 1: it is ignored"
    assert device.log.count(told) == 1
    assert [d["deployment_id"] for d in status["deployments"]] == ["d3"]


def test_agent_that_hears_the_first_pass_asks_only_for_what_it_missed(
    device: Device, registry: MqttRegistry, variant_of: VariantOf
) -> None:
    variant = variant_of(filler_bytes=100_000)
    device.flags = ["--set", "first_pass_wait_s=3600", "--set", "quiet_s=0.5"]
    device.start()
    registry.expect_online()
    registry.want(1, {"d1": variant})
    registry.expect_state("d1", "downloading")

    registry.broadcast(variant, range(2, variant.manifest.object.block_count))

    registry.expect_serving("d1")
    asked = [ask for ask in registry.asks if ask.kind == "blocks"]
    assert [ask.missing[0] if ask.missing else 0 for ask in asked] == [0b11]
    assert asked[0].listening


def test_agent_with_lost_and_wrong_blocks_and_a_busy_registry_still_ends_with_the_right_file(
    device: Device, registry: MqttRegistry, variant_of: VariantOf
) -> None:
    tries: Counter[int] = Counter()

    def first_time(index: int) -> bool:
        tries[index] += 1
        return tries[index] == 1

    registry.lose = lambda index: index % 7 == 1 and first_time(index)
    registry.spoil = lambda index: index % 3 == 0 and first_time(index)
    registry.slow_down_left = 2
    registry.want(1, {"d1": variant_of(filler_bytes=40_000)})
    device.start()

    status = registry.expect_serving("d1", timeout_s=40)

    assert status.file_sha256 == variant_of(filler_bytes=40_000).manifest.model_file.sha256
    assert device.status()["wrong_blocks"] > 0


@pytest.mark.parametrize(
    ("topic", "payload", "complaint"),
    [
        (DeviceTopic.DESIRED, b"\x00\xffgarbage", "mqtt.desired.malformed"),
        (DeviceTopic.DESIRED, b"[" * 50_000, "mqtt.desired.malformed"),
        (DeviceTopic.DESIRED, b'{"v": 2, "epoch": 1, "generation": 9}', "mqtt.desired.unsupported_version"),
        (DeviceTopic.DESIRED, b'{"v": 1, "epoch": -1, "generation": 9}', "mqtt.desired.malformed"),
        (DeviceTopic.DESIRED, b" " * 1_000_000, "mqtt.desired.malformed"),
        (DeviceTopic.ACK, b'{"ranges": [{"spool_id": "x"}]}', "mqtt.ack.malformed"),
        (DeviceTopic.REPLY, b'{"kind": "desired", "status": "ok"}', "mqtt.reply.unasked"),
    ],
    ids=["garbage", "nested", "newer-version", "negative", "one-megabyte", "bad-ack", "unasked-reply"],
)
def test_agent_sent_a_bad_message_says_so_once_and_goes_on(
    device: Device,
    registry: MqttRegistry,
    variant_of: VariantOf,
    topic: DeviceTopic,
    payload: bytes,
    complaint: str,
) -> None:
    device.start()
    registry.expect_online()
    until(lambda: registry.statuses, what="the first status")
    for _ in range(3):
        registry.publish(topic, payload)

    registry.want(1, {"d1": variant_of()})

    registry.expect_serving("d1")
    assert device.status()["complaints"][complaint] == 3
    assert device.log.count(f"counted as {complaint}") == 1
    assert "Traceback" not in device.log


def test_agent_sent_five_megabytes_never_sees_them(
    device: Device, registry: MqttRegistry, variant_of: VariantOf
) -> None:
    device.start()
    registry.expect_online()
    until(lambda: registry.statuses, what="the first status")
    registry.publish(DeviceTopic.DESIRED, b"x" * 5_000_000)

    registry.want(1, {"d1": variant_of()})

    registry.expect_serving("d1")
    assert len(registry.presences) == 1, "the connection was never lost"


def test_agent_given_a_manifest_of_something_else_rejects_it(
    device: Device, registry: MqttRegistry, variant_of: VariantOf
) -> None:
    variant = variant_of()
    registry.offer(variant)
    wanted = variant.wanted("d1").model_copy(update={"version": "99"})
    registry.desired = Desired(epoch=1, generation=1, deployments=(wanted,))
    registry.publish(DeviceTopic.DESIRED, encode(registry.desired))
    device.start()

    assert registry.expect_state("d1", "rejected").reason == "manifest_invalid"


def test_agent_wanting_what_the_registry_does_not_have_says_so_and_asks_again_when_it_is_told_later(
    device: Device, registry: MqttRegistry, variant_of: VariantOf
) -> None:
    variant = variant_of()
    registry.desired = Desired(epoch=1, generation=1, deployments=(variant.wanted("d1"),), status_interval_s=1.0)
    device.start()
    registry.publish(DeviceTopic.DESIRED, encode(registry.desired))
    assert registry.expect_state("d1", "failed").reason == "object_not_found"
    asked = len(registry.asks)

    registry.want(2, {"d1": variant})

    registry.expect_serving("d1")
    assert [ask.kind for ask in registry.asks[asked:] if ask.kind != "desired"] == ["manifest", "blocks"]


def test_agent_with_a_budget_smaller_than_the_model_rejects_it_before_fetching(
    device: Device, registry: MqttRegistry, variant_of: VariantOf
) -> None:
    device.flags = ["--storage-budget", "10K"]
    registry.want(1, {"d1": variant_of(filler_bytes=50_000)})
    device.start()

    refused = registry.expect_state("d1", "rejected")

    assert refused.reason == "storage_budget"
    assert refused.bytes_received == 0


def test_agent_whose_disk_had_no_room_for_the_manifest_fetches_on_once_there_is_some(
    device: Device, registry: MqttRegistry, variant_of: VariantOf
) -> None:
    """No restart is needed: what came and could not be written is written at the next attempt."""
    variant = variant_of()
    device.start()
    registry.expect_online()
    transfer = device.layout.transfer_dir(variant.object_sha256)
    transfer.write_bytes(b"")  # no folder can be made here
    registry.want(1, {"d1": variant})
    registry.expect_state("d1", "failed")

    transfer.unlink()

    registry.expect_serving("d1")

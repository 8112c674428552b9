"""What the registry asks of a device, on a real broker: its log, and a diagnosis by a process that exits."""

from __future__ import annotations

import hashlib
import secrets
from typing import TYPE_CHECKING

from edge_agent.protocol.inquiry import (
    AnswerStatus,
    Diagnosis,
    Inquiry,
    InquiryKind,
    LogLevel,
    LogTail,
    unpack,
)
from edge_agent.protocol.messages import encode
from edge_agent.protocol.topics import DeviceTopic
from tests.edge_agent.surroundings.device import KEY
from tests.edge_agent.surroundings.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_agent.protocol.inquiry import AnswerPart
    from tests.edge_agent.surroundings.device import Device
    from tests.edge_agent.surroundings.mqtt_registry import MqttRegistry
    from tests.edge_agent.surroundings.toy_variant import ToyVariant

    VariantOf = Callable[..., ToyVariant]


def whole(parts: list[AnswerPart]) -> bytes:
    assert [part.status for part in parts] == [AnswerStatus.OK] * len(parts), parts[0].detail
    packed = b"".join(part.data for part in sorted(parts, key=lambda part: part.part))
    assert hashlib.sha256(packed).hexdigest() == parts[0].sha256
    return packed


def test_agent_asked_for_its_log_tells_what_became_of_a_deployment(
    device: Device, registry: MqttRegistry, variant_of: VariantOf
) -> None:
    registry.want(1, {"d1": variant_of(behaviour="crash_on_load")})
    device.start()
    registry.expect_state("d1", "rejected")

    found = unpack(LogTail, whole(registry.inquire(InquiryKind.LOG)))

    texts = [line.text for line in found.lines]
    assert any("deployment d1 (net@1) is downloading" in text for text in texts)
    assert any("the runner of d1 ended: killed by SIGSEGV" in text for text in texts)
    warnings = unpack(LogTail, whole(registry.inquire(InquiryKind.LOG, level=LogLevel.WARNING)))
    assert any("is rejected: runner_crashed" in line.text for line in warnings.lines)
    assert all(line.level is not LogLevel.INFO for line in warnings.lines)
    newer = unpack(LogTail, whole(registry.inquire(InquiryKind.LOG, after=found.last_number)))
    assert all(line.number > found.last_number for line in newer.lines)
    assert KEY not in (device.layout.log_dir / "agent.log").read_text()


def test_agent_killed_has_its_log_of_before(device: Device, registry: MqttRegistry, variant_of: VariantOf) -> None:
    registry.want(1, {"d1": variant_of()})
    device.start()
    registry.expect_serving("d1")
    device.kill()
    seen = len(registry.presences)
    device.start()
    registry.expect_online(after=seen)

    found = unpack(LogTail, whole(registry.inquire(InquiryKind.LOG)))

    assert sum("device dev-1 at" in line.text for line in found.lines) == 2
    assert any("is active" in line.text for line in found.lines)


def test_agent_asked_for_a_diagnosis_tells_all_of_itself_and_nothing_secret(
    device: Device, registry: MqttRegistry, variant_of: VariantOf
) -> None:
    registry.want(1, {"d1": variant_of()})
    device.start()
    registry.expect_serving("d1")

    packed = whole(registry.inquire(InquiryKind.DIAGNOSIS, lines=500))

    found = unpack(Diagnosis, packed)
    assert found.device_id == "dev-1"
    assert found.agent["running"] is True
    assert found.settings["metered"] is False
    (variant,) = found.variants.values()
    assert variant["files"]["model"]["right"] is True  # type: ignore[index,call-overload]
    assert found.deployments["records"][0]["state"] == "active"  # type: ignore[index,call-overload]
    assert found.deployments["history"]["transitions"][-1]["to"] == "active"  # type: ignore[index,call-overload]
    assert found.machine["disk"]["free_bytes"] > 0  # type: ignore[index,call-overload,operator]
    assert found.log.lines
    assert KEY not in found.model_dump_json()
    device.expect_answer("1")


def test_agent_that_is_metered_refuses_a_large_answer_unless_it_is_insisted_on(
    device: Device, registry: MqttRegistry
) -> None:
    device.layout.log_dir.mkdir()
    noise = "".join(f"{n} 2026-01-01T00:00:00.000Z INFO {secrets.token_hex(100)}\n" for n in range(1, 1000))
    (device.layout.log_dir / "agent.log").write_text(noise)
    device.start("--metered")
    registry.expect_online()

    (refusal,) = registry.inquire(InquiryKind.LOG, lines=1000)
    assert refusal.status is AnswerStatus.REFUSED
    assert "every byte costs" in refusal.detail
    assert len(unpack(LogTail, whole(registry.inquire(InquiryKind.LOG, lines=10))).lines) == 10
    insisted = registry.inquire(InquiryKind.LOG, lines=1000, even_metered=True)
    assert len(insisted) > 1
    assert len(unpack(LogTail, whole(insisted)).lines) >= 999


def test_agent_asked_too_much_or_nonsense_goes_on(device: Device, registry: MqttRegistry) -> None:
    device.start()
    registry.expect_online()
    registry.publish(DeviceTopic.INQUIRY, b"{")
    registry.publish(DeviceTopic.INQUIRY, b'{"inquiry_id": "' + b"a" * 32 + b'", "kind": "shell"}')
    same = Inquiry(inquiry_id="b" * 32, kind=InquiryKind.DIAGNOSIS)
    for _ in range(5):
        registry.publish(DeviceTopic.INQUIRY, encode(same))
    for number in range(8):
        registry.publish(DeviceTopic.INQUIRY, encode(Inquiry(inquiry_id=f"{number:032x}", kind=InquiryKind.LOG)))

    def answered(status: AnswerStatus) -> int:
        return len({part.inquiry_id for part in registry.answers if part.status is status})

    until(lambda: answered(AnswerStatus.OK) + answered(AnswerStatus.REFUSED) == 9, timeout_s=40, what="nine answers")
    assert answered(AnswerStatus.REFUSED) >= 3, "the rest may ask again"
    assert sum(part.inquiry_id == same.inquiry_id for part in registry.answers) == 1
    assert device.status()["complaints"] == {"mqtt.inquiry.malformed": 2}

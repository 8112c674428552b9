"""The registry's side of the MQTT contract, which remembers what it saw."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, cast

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge_agent.protocol import bitmap, topics
from edge_agent.protocol.inquiry import AnswerPart, Inquiry, InquiryKind
from edge_agent.protocol.messages import (
    Ack,
    AckRange,
    Ask,
    AskKind,
    DeploymentStatus,
    Desired,
    Presence,
    Reply,
    ReplyStatus,
    Status,
    TelemetryReport,
    decode,
    encode,
)
from edge_agent.protocol.states import Reason
from edge_agent.protocol.topics import DeviceTopic, device_topic
from tests.edge_agent.surroundings.device import DEVICE
from tests.edge_agent.surroundings.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_agent.protocol.shadow import ShadowPlan
    from tests.edge_agent.surroundings.toy_variant import ToyVariant


class MqttRegistry:
    """The registry's side of the MQTT contract: answers asks, remembers what it saw."""

    def __init__(self, url: str) -> None:
        self.variants: dict[str, ToyVariant] = {}
        self.desired = Desired(epoch=1, generation=0)
        self.presences: list[Presence] = []
        self.statuses: list[Status] = []
        self.reports: list[TelemetryReport] = []
        self.asks: list[Ask] = []
        self.answers: list[AnswerPart] = []
        self.acknowledge = True
        self.lose: Callable[[int], bool] = lambda _index: False  # blocks that never arrive
        self.spoil: Callable[[int], bool] = lambda _index: False  # blocks that arrive wrong
        self.on_held: Callable[[], None] = lambda: None  # a device says that something lies ready
        self.slow_down_left = 0
        self.block_limit = 10_000  # blocks sent per ask
        self.client = Client(CallbackAPIVersion.VERSION2, client_id="registry", protocol=MQTTProtocolVersion.MQTTv5)
        self.client.on_message = self._on_message
        self.client.on_connect = lambda *_: self._subscribe()
        self.client.connect("127.0.0.1", int(url.rpartition(":")[2]))
        self.client.loop_start()
        until(self.client.is_connected, what="the registry's connection")

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def offer(self, *variants: ToyVariant) -> None:
        for variant in variants:
            self.variants[variant.manifest_sha256] = variant

    def want(
        self,
        generation: int,
        deployments: dict[str, ToyVariant],
        *,
        staged: dict[str, ToyVariant] | None = None,
        epoch: int = 1,
        shadow: ShadowPlan | None = None,
        max_defer_s: float = 0.0,
    ) -> None:
        """Publish a desired state as the retained doorbell."""
        ready = staged or {}
        self.offer(*deployments.values(), *ready.values())
        wanted = tuple(
            variant.wanted(name).model_copy(update={"shadow": shadow, "max_defer_s": max_defer_s})
            for name, variant in deployments.items()
        )
        desired = Desired(
            epoch=epoch,
            generation=generation,
            deployments=wanted,
            staged=tuple(variant.wanted(name) for name, variant in ready.items()),
            status_interval_s=1.0,
            telemetry_window_s=1.0,
        )
        self.desired = max(self.desired, desired, key=lambda d: d.order)
        self.publish(DeviceTopic.DESIRED, encode(desired), retain=True)

    def publish(
        self, kind: DeviceTopic, payload: bytes, *, retain: bool = False, correlation: bytes | None = None
    ) -> None:
        properties = None
        if correlation is not None:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.CorrelationData = correlation
        self.client.publish(device_topic(DEVICE, kind), payload, qos=1, retain=retain, properties=properties)

    def inquire(self, kind: InquiryKind, *, timeout_s: float = 30.0, **options: Any) -> list[AnswerPart]:  # noqa: ANN401
        """Ask the device something; the parts of its answer, or the one that refuses."""
        inquiry = Inquiry(inquiry_id=secrets.token_hex(16), kind=kind, **options)
        self.publish(DeviceTopic.INQUIRY, encode(inquiry))

        def mine() -> list[AnswerPart]:
            return [part for part in self.answers if part.inquiry_id == inquiry.inquiry_id]

        until(lambda: mine() and len(mine()) == mine()[0].parts, timeout_s=timeout_s, what=f"an answer to {kind}")
        return mine()

    def broadcast(self, variant: ToyVariant, blocks: range) -> None:
        """The first pass of an object."""
        for index in blocks:
            self.client.publish(
                topics.broadcast_block(variant.object_sha256, index), self._block(variant, index), qos=0
            )

    def state_of(self, deployment_id: str) -> DeploymentStatus | None:
        for deployment in self.statuses[-1].deployments if self.statuses else ():
            if deployment.deployment_id == deployment_id:
                return deployment
        return None

    def history_of(self, deployment_id: str) -> list[str]:
        """The states that the registry has seen, in order, each once."""
        seen = [d.state.value for s in self.statuses for d in s.deployments if d.deployment_id == deployment_id]
        return [state for i, state in enumerate(seen) if i == 0 or seen[i - 1] != state]

    def serving(self, deployment_id: str) -> bool:
        deployment = self.state_of(deployment_id)
        return deployment is not None and deployment.state == "active" and deployment.serving

    def expect_serving(self, deployment_id: str, *, timeout_s: float = 20.0) -> DeploymentStatus:
        until(lambda: self.serving(deployment_id), timeout_s=timeout_s, what=f"{deployment_id} serving")
        return cast("DeploymentStatus", self.state_of(deployment_id))

    def expect_state(self, deployment_id: str, state: str, *, timeout_s: float = 20.0) -> DeploymentStatus:
        def reached() -> bool:
            deployment = self.state_of(deployment_id)
            return deployment is not None and deployment.state == state

        def awaited() -> str:
            return f"{deployment_id} {state}; seen {self.history_of(deployment_id)}"

        until(reached, timeout_s=timeout_s, what=awaited)
        return cast("DeploymentStatus", self.state_of(deployment_id))

    def expect_online(self, *, after: int = 0) -> Presence:
        until(lambda: len(self.presences) > after and self.presences[-1].online, what="presence")
        return self.presences[-1]

    def _subscribe(self) -> None:
        for kind in (
            DeviceTopic.PRESENCE,
            DeviceTopic.STATUS,
            DeviceTopic.TELEMETRY,
            DeviceTopic.ASK,
            DeviceTopic.ANSWER,
        ):
            self.client.subscribe(topics.every_device(kind), qos=1)

    def _on_message(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        parsed = topics.parse(message.topic)
        if not isinstance(parsed, topics.ParsedDeviceTopic) or not message.payload:
            return
        payload = bytes(message.payload)
        if parsed.kind is DeviceTopic.PRESENCE:
            self.presences.append(decode(Presence, payload))
        elif parsed.kind is DeviceTopic.STATUS:
            self.statuses.append(decode(Status, payload))
            if any(told.reason is Reason.HELD for told in self.statuses[-1].deployments):
                self.on_held()
        elif parsed.kind is DeviceTopic.TELEMETRY:
            report = decode(TelemetryReport, payload)
            self.reports.append(report)
            if self.acknowledge:
                ack = AckRange(spool_id=report.spool_id, first=report.sequence, last=report.sequence)
                self.publish(DeviceTopic.ACK, encode(Ack(ranges=(ack,))))
        elif parsed.kind is DeviceTopic.ANSWER:
            self.answers.append(decode(AnswerPart, payload))
        elif parsed.kind is DeviceTopic.ASK:
            ask = decode(Ask, payload)
            self.asks.append(ask)
            self.publish(DeviceTopic.REPLY, encode(self._answer(ask)), correlation=message.properties.CorrelationData)  # type: ignore[union-attr]

    def _answer(self, ask: Ask) -> Reply:
        if ask.kind is AskKind.DESIRED:
            return Reply(kind=ask.kind, status=ReplyStatus.OK, desired=self.desired)
        if ask.kind is AskKind.MANIFEST:
            variant = self.variants.get(ask.sha256 or "")
            if variant is None:
                return Reply(kind=ask.kind, status=ReplyStatus.NOT_FOUND, sha256=ask.sha256)
            return Reply(kind=ask.kind, status=ReplyStatus.OK, sha256=ask.sha256, manifest=variant.text.decode())
        if self.slow_down_left > 0:
            self.slow_down_left -= 1
            return Reply(kind=ask.kind, status=ReplyStatus.SLOW_DOWN, sha256=ask.sha256, retry_after_s=0.2)
        variant = next(v for v in self.variants.values() if v.object_sha256 == ask.sha256)
        missing = bitmap.unpack(ask.missing or b"", count=variant.manifest.object.block_count)[: self.block_limit]
        for index in missing:
            if not self.lose(index):
                topic = topics.private_block(DEVICE, variant.object_sha256, index)
                self.client.publish(topic, self._block(variant, index), qos=0)
        return Reply(kind=ask.kind, status=ReplyStatus.OK, sha256=ask.sha256, blocks_sent=len(missing))

    def _block(self, variant: ToyVariant, index: int) -> bytes:
        start, length = variant.manifest.object.block_span(index)
        block = variant.travelling[start : start + length]
        return bytes(length) if self.spoil(index) else block

"""What comes from outside the worker: messages of the broker, answers, blocks, windows of in-process models.

None of it is trusted: capped, validated, and what does not fit is said once, counted, and changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_agent.deployments.events import DesiredReceived, Event, Moment
from edge_agent.link.mqtt import Connected, Disconnected, Received
from edge_agent.protocol import topics
from edge_agent.protocol.inquiry import Inquiry
from edge_agent.protocol.messages import (
    Ack,
    AskKind,
    Desired,
    ProtocolError,
    Reply,
    ReplyStatus,
    TelemetryReport,
    decode,
)
from edge_agent.protocol.topics import MAX_PAYLOAD_BYTES, DeviceTopic, ParsedBlockTopic
from edge_agent.transfer.http_fetch import BlockFetched, PassEnded
from edge_agent.transfer.manifests import ManifestText

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from edge_agent.deployments.core import DeviceCore
    from edge_agent.supervisor.complaints import Complaints
    from edge_agent.supervisor.inquiries import Inquiries
    from edge_agent.supervisor.line import Line

DATAGRAMS_AT_ONCE = 64


class Incoming:
    """Reads what has come and tells whom it concerns."""

    def __init__(
        self,
        device_id: str,
        *,
        core: DeviceCore,
        line: Line,
        inquiries: Inquiries,
        complaints: Complaints,
        deliver: Callable[[Event], None],
    ) -> None:
        self._device_id, self._core, self._complaints, self._deliver = device_id, core, complaints, deliver
        self._asks, self._connection = line.asks, line.connection
        self._manifests, self._transfers, self._inquiries = line.manifests, line.transfers, inquiries

    def take(self, item: object, moment: Moment) -> None:
        """One thing from the inbox."""
        match item:
            case Received():
                self._received(item, moment)
            case BlockFetched():
                self._event(self._transfers.block(item.object_sha256, item.index, item.payload, now_s=moment.now_s))
            case PassEnded():
                self._event(self._transfers.pass_ended(item, now_s=moment.now_s))
            case ManifestText():
                self._event(self._manifests.arrived(item, now_s=moment.now_s))
            case Connected():
                self._connection.came_up(item, moment)
                self._transfers.connected(moment.now_s)
                self._manifests.connected(moment.now_s)
            case Disconnected():
                self._connection.went_down(item, moment)
                self._inquiries.forget()
            case _:
                self._complaints.add("internal", f"the inbox held a {type(item).__name__}")

    def take_reports(self, reports: socket.socket) -> list[TelemetryReport]:
        """Windows that in-process models have sent."""
        cap = MAX_PAYLOAD_BYTES[DeviceTopic.TELEMETRY]
        taken: list[TelemetryReport] = []
        for _ in range(DATAGRAMS_AT_ONCE):
            try:
                payload = reports.recv(cap + 1)
            except BlockingIOError:
                break
            try:
                report = decode(TelemetryReport, payload)
            except ProtocolError as exc:
                self._complaints.add("report.malformed", f"a window of an in-process model is not usable: {exc}")
                continue
            if report.source != "inprocess" or not self._core.knows(report.deployment_id):
                self._complaints.add("report.unknown", "a window came for a deployment that is not on this device")
                continue
            taken.append(report)
        return taken

    def remark(self, event: Event) -> None:
        """Say it when a wanted state is older than ours, once it is its turn: the core ignores it without a word."""
        if not isinstance(event, DesiredReceived) or event.desired.order >= self._core.accepted.order:
            return
        told, kept = (
            f"generation {one.generation} of epoch {one.epoch}" for one in (event.desired, self._core.accepted)
        )
        self._complaints.add("mqtt.desired.older", f"{told} is wanted, older than {kept}: it is ignored")

    def _received(self, message: Received, moment: Moment) -> None:
        parsed = topics.parse(message.topic)
        if isinstance(parsed, ParsedBlockTopic):
            if parsed.device in (None, self._device_id):
                private = parsed.device is not None
                payload, now_s = message.payload, moment.now_s
                self._event(self._transfers.block(parsed.sha256, parsed.block, payload, now_s=now_s, private=private))
            else:
                self._complaints.add("mqtt.other_device", f"a block for another device came on {message.topic[:200]}")
            return
        if parsed is None or parsed.device != self._device_id:
            self._complaints.add("mqtt.other_device", f"a message came on {message.topic[:200]}, which is not ours")
            return
        if not message.payload:
            return  # the registry has cleared a retained topic
        try:
            self._understand(parsed.kind, message, moment)
        except ProtocolError as exc:
            self._complaints.add(f"mqtt.{parsed.kind}.{exc.code}", f"a message was refused: {exc}")

    def _understand(self, kind: DeviceTopic, message: Received, moment: Moment) -> None:
        match kind:
            case DeviceTopic.DESIRED:
                self._deliver(DesiredReceived(decode(Desired, message.payload)))
                self._connection.heard(moment)
            case DeviceTopic.ACK:
                self._connection.acknowledged(decode(Ack, message.payload), moment)
            case DeviceTopic.REPLY:
                self._reply(decode(Reply, message.payload), message.correlation, moment)
            case DeviceTopic.INQUIRY:
                self._inquiries.take(decode(Inquiry, message.payload))
            case _:
                self._complaints.add(f"mqtt.{kind}", f"a message came on {kind}, on which only devices speak")

    def _reply(self, reply: Reply, correlation: bytes | None, moment: Moment) -> None:
        ask = self._asks.answered(correlation)
        if ask is None or ask.kind is not reply.kind:
            self._complaints.add("mqtt.reply.unasked", "an answer came to no question that is open")
            return
        if ask.kind is AskKind.DESIRED:
            self._connection.heard(moment)
            if reply.status is ReplyStatus.OK and reply.desired is not None:
                self._deliver(DesiredReceived(reply.desired))
            elif reply.status in (ReplyStatus.NOT_FOUND, ReplyStatus.GONE):
                self._complaints.add(
                    "registry.unknown_device",
                    f"the registry does not have this device: {reply.detail} What runs here goes on; a device joins in "
                    "an empty data folder (edge-agent start --data-dir DIR --token TOKEN)",
                )
        elif ask.kind is AskKind.MANIFEST and ask.sha256 is not None:
            self._event(self._manifests.answered(ask.sha256, reply, now_s=moment.now_s))
        elif ask.kind is AskKind.BLOCKS and ask.sha256 is not None:
            self._transfers.answered(ask.sha256, reply, now_s=moment.now_s)

    def _event(self, event: Event | None) -> None:
        if event is not None:
            self._deliver(event)

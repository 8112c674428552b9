"""Asks from the broker to answers: one thread for the link, one that answers in order, one that sends blocks."""

from __future__ import annotations

import logging
import queue
import threading
import time
from typing import TYPE_CHECKING

from edge_agent.protocol.messages import (
    Ask,
    MalformedMessageError,
    ProtocolError,
    Reply,
    ReplyStatus,
    UnsupportedVersionError,
    decode,
    encode,
)
from edge_agent.protocol.topics import DeviceTopic, ParsedDeviceTopic, device_topic, every_device, parse
from server.errors import BrokerUnavailableError
from server.ingest.intake import Refused
from server.ingest.refusals import Refusals
from server.mqtt import BrokerConnection, Incoming, Subscription

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from server.delivery.answers import Answers
    from server.delivery.sender import BlockSender
    from server.inquiries.inquirer import Inquirer

log = logging.getLogger(__name__)

SHARE = "delivery"
RECEIVE_MAXIMUM = 200
REPLY_EXPIRY_S = 60  # by then the device has asked again
ROOM_WAIT_S = 5.0
IDLE_S = 1.0


def connect(
    mqtt_url: str, name: str, *, share: str = SHARE, tls: ssl.SSLContext | None = None
) -> tuple[BrokerConnection, queue.SimpleQueue[Incoming]]:
    """The link, and the queue that it fills with asks and answers: nothing is done in its own thread.

    The broker has at most `RECEIVE_MAXIMUM` of them under way to us, and so has the queue.
    """
    asks: queue.SimpleQueue[Incoming] = queue.SimpleQueue()
    subscriptions = [Subscription(every_device(kind, share=share)) for kind in (DeviceTopic.ASK, DeviceTopic.ANSWER)]
    connection = BrokerConnection(mqtt_url, name, subscriptions, asks.put, receive_maximum=RECEIVE_MAXIMUM, tls=tls)
    return connection, asks


class Delivery:
    """Puts the three threads together."""

    def __init__(
        self,
        connection: BrokerConnection,
        asks: queue.SimpleQueue[Incoming],
        answers: Answers,
        sender: BlockSender,
        inquirer: Inquirer,
    ) -> None:
        self._connection = connection
        self._inquirer = inquirer
        self._asks = asks
        self._answers = answers
        self._sender = sender
        self.refusals = Refusals(log.warning, now_s=time.monotonic())

    def run(self, stop: threading.Event, *, pulse: Callable[[], None] = lambda: None) -> None:
        """Serve until `stop` is set; `pulse` is called in each round."""
        threads = [
            threading.Thread(target=self._guarded, args=(self._connection.run, stop, stop), name="mqtt"),
            threading.Thread(target=self._guarded, args=(self._sender.run, stop), name="sender"),
        ]
        for thread in threads:
            thread.start()
        try:
            while not stop.is_set():
                pulse()
                self._inquirer.tick()
                self.serve_one(IDLE_S)
        finally:
            stop.set()
            self._sender.stop()
            self._connection.wake()
            for thread in threads:
                thread.join()

    def serve_one(self, timeout_s: float) -> None:
        """Handle the next ask or answer, if one comes in time; only then the broker may forget it."""
        self.refusals.tick(time.monotonic())
        try:
            message = self._asks.get(timeout=timeout_s)
        except queue.Empty:
            return
        try:
            self._handle(message)
        except Exception:  # the top of the loop: one question must not end the service for all
            log.exception("an ask on %.100s could not be answered", message.topic)
        message.ack()

    def _handle(self, message: Incoming) -> None:
        parsed = parse(message.topic)
        if not isinstance(parsed, ParsedDeviceTopic) or parsed.kind not in (DeviceTopic.ASK, DeviceTopic.ANSWER):
            self.refusals.add(Refused("", "foreign topic", message.topic[:200]))
            return
        if parsed.kind is DeviceTopic.ANSWER:
            if (refused := self._inquirer.take(parsed.device, message.payload)) is not None:
                self.refusals.add(refused)
            return
        try:
            ask = decode(Ask, message.payload)
        except UnsupportedVersionError as exc:
            self.refusals.add(Refused(parsed.device, "unsupported version of ask", str(exc)))
            return
        except ProtocolError as exc:
            self.refusals.add(Refused(parsed.device, "malformed ask", str(exc)))
            return
        if message.correlation is None:
            self.refusals.add(Refused(parsed.device, "ask without correlation data", ask.kind))
            return
        reply = self._answers.answer(parsed.device, ask)
        if reply.status in {ReplyStatus.NOT_FOUND, ReplyStatus.GONE}:
            self.refusals.add(Refused(parsed.device, f"{ask.kind} answered {reply.status}", reply.detail))
        self._publish(parsed.device, ask, reply, message.correlation)

    def _publish(self, device: str, ask: Ask, reply: Reply, correlation: bytes) -> None:
        try:
            payload = encode(reply)
        except MalformedMessageError as exc:
            detail = f"{exc}; fetch it by HTTPS"
            payload = encode(Reply(kind=ask.kind, status=ReplyStatus.NOT_FOUND, sha256=ask.sha256, detail=detail))
        topic = device_topic(device, DeviceTopic.REPLY)
        try:
            self._connection.publish(
                topic, payload, qos=1, correlation=correlation, expiry_s=REPLY_EXPIRY_S, wait_s=ROOM_WAIT_S
            )
        except BrokerUnavailableError as exc:
            log.warning("%s is not answered and will ask again: %s", device, exc)

    @staticmethod
    def _guarded(work: Callable[..., None], stop: threading.Event, *arguments: object) -> None:
        try:
            work(*arguments)
        except Exception:  # a service that lost one of its threads ends, and is started again
            log.exception("a thread of the delivery failed")
            stop.set()

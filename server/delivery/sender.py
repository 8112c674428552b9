"""The thread that sends blocks: takes what the schedule says is due, at its pace and at the broker's."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from edge_agent.protocol.messages import ReplyStatus
from edge_agent.protocol.topics import broadcast_block, private_block
from server.delivery.schedule import Answer
from server.errors import BrokerUnavailableError, RegistryError, StorageRefusedError, StorageUnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge_agent.protocol.manifest import ObjectDescriptor
    from server.delivery.blocks import BlockCache
    from server.delivery.schedule import Schedule, Send
    from server.mqtt import BrokerConnection

log = logging.getLogger(__name__)

ROOM_WAIT_S = 1.0
AWAY_PAUSE_S = 0.1
STORE_PAUSE_S = 5.0
EXPIRY_S = 30  # a block that could not be delivered by then has been asked for again


class BlockSender:
    """Guards the schedule, and sends; other threads hand it questions through `ask` and `may_ask`."""

    def __init__(self, schedule: Schedule, blocks: BlockCache, connection: BrokerConnection) -> None:
        self._schedule = schedule
        self._blocks = blocks
        self._connection = connection
        self._changed = threading.Condition()
        self._stopped = False
        self._store_away_until_s = 0.0

    def may_ask(self, device: str) -> float:
        """See Schedule.may_ask."""
        with self._changed:
            return self._schedule.may_ask(device, time.monotonic())

    def ask(self, device: str, descriptor: ObjectDescriptor, missing: Sequence[int], *, listening: bool) -> Answer:
        """See Schedule.ask; `unavailable` while S3 does not give what is to be sent."""
        now_s = time.monotonic()
        with self._changed:
            if now_s < self._store_away_until_s:
                return Answer(ReplyStatus.UNAVAILABLE, retry_after_s=STORE_PAUSE_S)
            answer = self._schedule.ask(device, descriptor, missing, listening=listening, now_s=now_s)
            self._changed.notify()
        return answer

    def stop(self) -> None:
        """Make `run` return."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def run(self) -> None:
        """Send until stopped."""
        while True:
            if not self._connection.is_ready:
                with self._changed:
                    if self._stopped:
                        return
                    self._changed.wait(AWAY_PAUSE_S)
                continue
            with self._changed:
                if self._stopped:
                    return
                send = self._schedule.next_block(time.monotonic())
                if send is None:
                    self._changed.wait(self._schedule.wait_s(time.monotonic()))
                    continue
            self._send(send)

    def _send(self, send: Send) -> None:
        sha256 = send.descriptor.sha256
        try:
            payload = self._blocks.read(send.descriptor, send.block)
        except RegistryError as exc:
            log.warning("object %s is not sent further for now: %s", sha256, exc)
            with self._changed:
                self._schedule.give_up(sha256)
                if isinstance(exc, StorageUnavailableError | StorageRefusedError):
                    self._store_away_until_s = time.monotonic() + STORE_PAUSE_S
            return
        if send.device is None:
            topic = broadcast_block(sha256, send.block)
        else:
            topic = private_block(send.device, sha256, send.block)
        try:
            self._connection.publish(topic, payload, qos=0, expiry_s=EXPIRY_S, wait_s=ROOM_WAIT_S)
        except BrokerUnavailableError as exc:
            log.info("a block is left out, whoever lacks it will ask: %s", exc)

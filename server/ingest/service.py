"""The ingest loop: gather messages, commit them as one batch, and only then acknowledge them.

The order is the promise: commit, then PUBACK to the broker, then `ack` to the devices. Killed between any two of them,
the broker or the device sends again what is committed already, and it is counted once. Several of these may run: the
broker divides telemetry among them by a shared subscription. Presence and status go to each of them, because a shared
subscription never gets what the broker retained, which is what a new ingest must learn; both are written only if newer.
"""

import logging
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from edge_agent.protocol.messages import encode
from edge_agent.protocol.topics import DeviceTopic, device_topic, every_device
from server.errors import BrokerUnavailableError, DatabaseUnavailableError
from server.ingest.acks import acks_of
from server.ingest.intake import Intake, read
from server.ingest.refusals import Refusals
from server.ingest.store import IngestStore, Outcome
from server.mqtt import BrokerConnection, Incoming, Subscription

log = logging.getLogger(__name__)

SHARE: Final = "ingest"
BATCH_WAIT_S: Final = 0.1
HEARD_EVERY_S: Final = 1.0
RETRY_FIRST_S: Final = 0.2
RETRY_LONGEST_S: Final = 5.0
IDLE_S: Final = 1.0
# Longer than any restart. Not much longer: while one of several is away, the broker keeps its share of the reports, and
# their devices send them again.
SESSION_EXPIRY_S: Final = 600


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """When a batch is committed: at `size` messages, or when its first one has waited for `wait_s`."""

    size: int
    wait_s: float = BATCH_WAIT_S


class Ingest:
    """One ingest process; all of it runs in one thread."""

    def __init__(
        self,
        store: IngestStore,
        *,
        mqtt_url: str,
        name: str,
        limits: BatchLimits,
        share: str = SHARE,
        tls: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._limits = limits
        self._clock = clock
        self._batch: list[tuple[Incoming, Intake]] = []
        self._batch_since_s = 0.0
        self._heard: dict[str, float] = {}
        self._heard_at_s = 0.0
        self._retry_at_s = 0.0
        self._retry_pause_s = 0.0
        self._refusals = Refusals(log.warning, now_s=time.monotonic())
        self._connection = BrokerConnection(
            mqtt_url,
            # no device can have a colon in its id, so none can take this session over
            f"registry:{name}",
            (
                Subscription(every_device(DeviceTopic.TELEMETRY, share=share)),
                Subscription(every_device(DeviceTopic.PRESENCE)),
                Subscription(every_device(DeviceTopic.STATUS)),
            ),
            self._on_message,
            clean_start=False,
            session_expiry_s=SESSION_EXPIRY_S,
            receive_maximum=min(2 * limits.size + 100, 65_535),
            tls=tls,
        )

    @property
    def refused(self) -> dict[str, int]:
        """How many messages were dropped, by kind."""
        return dict(self._refusals.total)

    def wake(self) -> None:
        """Make `run` look at its stop event; from any thread or signal handler."""
        self._connection.wake()

    def run(self, stop: threading.Event, *, pulse: Callable[[], None] = lambda: None) -> None:
        """Serve until `stop` is set; what was received by then is committed if the database lets it.

        `pulse` is called in each round.
        """
        try:
            while not stop.is_set():
                pulse()
                self._connection.run_once(self._patience_s())
                self._commit_if_due()
                self._save_heard_if_due()
                self._refusals.tick(time.monotonic())
            if self._batch:
                self._commit()
        finally:
            self._connection.close()

    def _on_message(self, incoming: Incoming) -> None:
        if not self._batch:
            self._batch_since_s = time.monotonic()
        self._batch.append((incoming, read(incoming.topic, incoming.payload, retained=incoming.retain)))

    def _patience_s(self) -> float:
        """How long the connection may wait for a message before something else is due."""
        if not self._batch:
            return HEARD_EVERY_S if self._heard else IDLE_S
        due_s = self._batch_since_s + self._limits.wait_s
        return min(IDLE_S, max(0.0, max(due_s, self._retry_at_s) - time.monotonic()))

    def _commit_if_due(self) -> None:
        now_s = time.monotonic()
        if not self._batch or now_s < self._retry_at_s:
            return
        if len(self._batch) >= self._limits.size or now_s >= self._batch_since_s + self._limits.wait_s:
            self._commit()

    def _commit(self) -> None:
        now = self._clock()
        try:
            outcome = self._store.commit([item for _, item in self._batch], now=now)
        except DatabaseUnavailableError as exc:
            self._wait_for_database(exc)
            return
        self._database_answered()
        for incoming, _ in self._batch:
            incoming.ack()
        self._batch.clear()
        for refused in outcome.refused:
            self._refusals.add(refused)
        self._heard.update(dict.fromkeys(outcome.heard, now))
        self._acknowledge(outcome)

    def _acknowledge(self, outcome: Outcome) -> None:
        for device, message in acks_of(outcome.committed):
            try:
                self._connection.publish(device_topic(device, DeviceTopic.ACK), encode(message), qos=1)
            except BrokerUnavailableError:
                # the devices keep their reports and send them again, and are acknowledged then
                return

    def _save_heard_if_due(self) -> None:
        now_s = time.monotonic()
        if not self._heard or now_s < max(self._heard_at_s + HEARD_EVERY_S, self._retry_at_s):
            return
        self._heard_at_s = now_s
        try:
            self._store.mark_heard(self._heard)
        except DatabaseUnavailableError as exc:
            self._wait_for_database(exc)
            return
        self._database_answered()
        self._heard.clear()

    def _wait_for_database(self, exc: DatabaseUnavailableError) -> None:
        if not self._retry_pause_s:
            log.error("Nothing is acknowledged until the database takes it again: %s", exc)
        self._retry_pause_s = min(RETRY_LONGEST_S, max(RETRY_FIRST_S, 2 * self._retry_pause_s))
        self._retry_at_s = time.monotonic() + self._retry_pause_s

    def _database_answered(self) -> None:
        if self._retry_pause_s:
            log.warning("The database takes writes again.")
        self._retry_pause_s = 0.0
        self._retry_at_s = 0.0

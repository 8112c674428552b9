"""What the device says on MQTT and when: presence, status, questions, telemetry; and connecting again."""

from __future__ import annotations

import logging
import secrets
from typing import TYPE_CHECKING

from edge_agent import __version__
from edge_agent.backoff import Backoff
from edge_agent.link.mqtt import Connected, Disconnected, Session, Will
from edge_agent.protocol import topics
from edge_agent.protocol.messages import Ask, AskKind, MalformedMessageError, Presence, Status, encode
from edge_agent.protocol.topics import DeviceTopic, device_topic
from edge_agent.storage.store import Counter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from edge_agent.deployments.events import Moment
    from edge_agent.deployments.records import Accepted
    from edge_agent.link.asks import Asks
    from edge_agent.link.ports import Link, Reports
    from edge_agent.protocol.messages import Ack, DeploymentStatus
    from edge_agent.protocol.profile import RuntimeName
    from edge_agent.settings import AgentSettings
    from edge_agent.storage.store import Reservations

log = logging.getLogger(__name__)
IN_FLIGHT_LIMIT = 32  # telemetry reports that the registry has not acknowledged
STATUS_AHEAD_MS = 600_000  # one write in ten minutes remembers the number of the status, one each connection's
ASK_AGAIN = Backoff(first_s=5.0, cap_s=300.0)  # on top of the time in which an answer should come
SOON_S = 0.25  # changes within this time go in one status


class Connection:
    """One device's conversation with its registry."""

    def __init__(
        self,
        settings: AgentSettings,
        *,
        device_id: str,
        link: Link,
        asks: Asks,
        store: Reservations,
        spool: Reports,
        runtimes: Mapping[RuntimeName, str],
        chance: Callable[[], float],
    ) -> None:
        self._settings, self._device_id, self._link, self._asks = settings, device_id, link, asks
        self._spool = spool
        self._sessions = Counter(store, "session", ahead=1)
        self._sequences = Counter(store, "status", ahead=STATUS_AHEAD_MS)
        self._runtimes, self._chance = dict(runtimes), chance
        self._reconnect = Backoff(settings.reconnect_first_s, settings.reconnect_cap_s)
        self._session: Session | None = None
        self._unused: Session | None = None
        self._failures = 0
        self._open_at_s: float | None = 0.0
        self._status_at_s = 0.0
        self._ask_at_s = 0.0
        self._unanswered = 0  # questions for the desired state since the registry was last heard
        self._sent_after = 0  # the last report that was sent on this connection
        self._in_flight = 0
        self._acked_s = 0.0

    @property
    def connected(self) -> bool:
        """Whether the broker has us."""
        return self._asks.connected

    @property
    def session_counter(self) -> int | None:
        """The number of the session at hand."""
        return None if self._session is None else self._session.counter

    @property
    def due_s(self) -> float | None:
        """When there is something to say, or a connection to try, on the monotonic clock; None: nothing waits."""
        return min(self._status_at_s, self._ask_at_s) if self.connected else self._open_at_s

    def tick(self, moment: Moment) -> None:
        """Connect when it is time."""
        if self._open_at_s is not None and moment.now_s >= self._open_at_s:
            self._open_at_s = None
            session = self._unused or self._new_session(moment)
            self._unused = None
            self._link.open(session)

    def came_up(self, event: Connected, moment: Moment) -> None:
        """The broker has accepted: listen, say who we are, and let the next status and question go at once."""
        self._session = event.session
        self._asks.connected = True
        self._failures = 0
        for kind in (DeviceTopic.DESIRED, DeviceTopic.REPLY, DeviceTopic.ACK, DeviceTopic.INQUIRY):
            self._link.subscribe(device_topic(self._device_id, kind), qos=1)
        self._link.subscribe(topics.private_blocks(self._device_id), qos=0)
        self._say_presence(event.session, online=True, unix_s=moment.unix_s)
        self._status_at_s = self._ask_at_s = moment.now_s
        self._unanswered = 0
        self._sent_after = self._in_flight = 0
        self._acked_s = moment.now_s

    def went_down(self, event: Disconnected, moment: Moment) -> None:
        """No connection: try again after a while."""
        if self.connected or self._failures == 0:
            log.warning("no connection to the broker: %s", event.detail)
        self._asks.connected = False
        self._asks.forget()
        self._session = None
        self._unused = None if event.spent else event.session
        self._failures += 1
        self._open_at_s = moment.now_s + self._reconnect.delay_s(self._failures, self._chance())

    def changed(self, moment: Moment) -> None:
        """Something changed that the registry should know soon."""
        self._status_at_s = min(self._status_at_s, moment.now_s + SOON_S)

    def heard(self, moment: Moment) -> None:
        """The registry has said something: no need to ask for a while."""
        self._unanswered = 0
        self._ask_at_s = moment.now_s + self._settings.ask_interval_s * (0.7 + 0.25 * self._chance())

    def ask_desired(self, accepted: Accepted, moment: Moment) -> None:
        """Ask for the desired state after connecting and after a long silence."""
        if not self.connected or moment.now_s < self._ask_at_s:
            return
        epoch, generation = accepted.order
        self._asks.send(Ask(kind=AskKind.DESIRED, observed_epoch=epoch, observed_generation=generation))
        # a registry that is away must not come back to the questions of a whole fleet, several of each device
        wait_s = ASK_AGAIN.delay_s(self._unanswered, self._chance()) if self._unanswered else 0.0
        self._unanswered += 1
        self._ask_at_s = moment.now_s + self._settings.answer_s * (1.0 + self._chance()) + wait_s

    def say_status(
        self,
        accepted: Accepted,
        deployments: Callable[[], tuple[DeploymentStatus, ...]],
        *,
        moment: Moment,
        storage_free_bytes: Callable[[], int],
        busy: bool,
    ) -> None:
        """Report when something changed, and in any case once an interval."""
        if self._session is None or not self.connected or moment.now_s < self._status_at_s:
            return
        epoch, generation = accepted.order
        status = Status(
            session_id=self._session.session_id,
            sequence=self._sequences.take(moment.unix_s),
            observed_epoch=epoch,
            observed_generation=generation,
            deployments=deployments()[-256:],
            storage_free_bytes=storage_free_bytes(),
            sent_at=moment.unix_s,
        )
        self._publish(DeviceTopic.STATUS, status, retain=True)
        interval_s = max(1.0, accepted.status_interval_s)
        self._status_at_s = moment.now_s + (min(2.0, interval_s) if busy else interval_s)

    def send_telemetry(self, moment: Moment) -> None:
        """Send what waits in the spool; what stays unacknowledged for long goes again."""
        if not self.connected or not self._spool.count:
            self._acked_s = moment.now_s
            return
        if self._in_flight and moment.now_s - self._acked_s > self._settings.ack_wait_s:
            self._sent_after = self._in_flight = 0
            self._acked_s = moment.now_s
        room = IN_FLIGHT_LIMIT - self._in_flight
        if room <= 0:
            return
        topic = device_topic(self._device_id, DeviceTopic.TELEMETRY)
        for sequence, payload in self._spool.pending(after=self._sent_after, limit=room):
            self._link.publish(topic, payload, qos=1)
            self._sent_after = sequence
            self._in_flight += 1

    def acknowledged(self, ack: Ack, moment: Moment) -> None:
        """The registry has committed reports."""
        freed = self._spool.free(ack)
        self._in_flight = max(0, self._in_flight - freed)
        if freed:
            self._acked_s = moment.now_s

    def say_goodbye(self, moment: Moment) -> None:
        """Leave in good order: offline at once, without waiting for the will."""
        if self._session is not None and self.connected:
            self._say_presence(self._session, online=False, unix_s=moment.unix_s)

    def status_now(self, moment: Moment) -> None:
        """The next status does not wait."""
        self._status_at_s = moment.now_s

    def _new_session(self, moment: Moment) -> Session:
        session_id, counter = secrets.token_hex(16), self._sessions.take(moment.unix_s)
        presence = Presence(
            session_id=session_id,
            session_counter=counter,
            online=False,
            agent_version=__version__,
            sent_at=moment.unix_s,
        )
        topic = device_topic(self._device_id, DeviceTopic.PRESENCE)
        return Session(session_id, counter, Will(topic, encode(presence), self._settings.will_delay_s))

    def _say_presence(self, session: Session, *, online: bool, unix_s: float) -> None:
        presence = Presence(
            session_id=session.session_id,
            session_counter=session.counter,
            online=online,
            agent_version=__version__,
            runtimes=self._runtimes,
            sent_at=unix_s,
        )
        self._publish(DeviceTopic.PRESENCE, presence, retain=True)

    def _publish(self, kind: DeviceTopic, message: Presence | Status, *, retain: bool) -> None:
        try:
            payload = encode(message)
        except MalformedMessageError:
            log.exception("a %s message could not be sent", kind)
            return
        self._link.publish(device_topic(self._device_id, kind), payload, qos=1, retain=retain)

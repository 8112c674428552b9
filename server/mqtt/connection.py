"""One MQTT 5 connection of a registry process, driven from one selector.

Paho's own loop uses `select()`, which dies at 1,024 descriptors; here paho is only told when its socket is ready. One
thread calls `run` (or `run_once`) and is the only one that touches paho; others fill queues and wake it.
"""

import logging
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

from paho.mqtt.client import MQTT_ERR_SUCCESS, Client, ConnectFlags
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from server.errors import BrokerUnavailableError
from server.mqtt.messages import MAX_PACKET_BYTES, Incoming, Publication, Subscription, Will, checked_size
from server.mqtt.outbox import Outbox, Outgoing
from server.mqtt.pacing import Backoff
from server.mqtt.poller import Poller
from server.mqtt.traffic import MAX_INFLIGHT, Traffic

log = logging.getLogger(__name__)

DEFAULT_PORTS: Final = {"mqtt": 1883, "mqtts": 8883}
KEEPALIVE_S: Final = 30
CONNECT_TIMEOUT_S: Final = 5.0
# A connection that held for this long was a good one: the next loss begins with the shortest pause again.
STABLE_AFTER_S: Final = 10.0
MAX_PENDING_BYTES: Final = 8 * 1024 * 1024
LONGEST_SLEEP_S: Final = 1.0  # paho wants loop_misc about once a second


class BrokerConnection:
    """Publishes, receives, reconnects; subscribes again after each connect.

    `on_message` runs in the thread of `run`, outside of paho: what it raises leaves `run`.
    """

    def __init__(  # noqa: PLR0913 - a connection has this many properties; all but the first four have defaults
        self,
        url: str,
        client_id: str,
        subscriptions: Sequence[Subscription],
        on_message: Callable[[Incoming], None],
        *,
        session_expiry_s: int = 0,
        clean_start: bool = True,
        will: Will | None = None,
        tls: ssl.SSLContext | None = None,
        receive_maximum: int = 200,
        max_pending_bytes: int = MAX_PENDING_BYTES,
        keepalive_s: int = KEEPALIVE_S,
        backoff: Backoff | None = None,
    ) -> None:
        parts = urlsplit(url)
        self._url = url
        self._host, self._port = parts.hostname or "", parts.port or DEFAULT_PORTS.get(parts.scheme, 1883)
        self._subscriptions = tuple(subscriptions)
        self._on_message = on_message
        self._session_expiry_s = session_expiry_s
        self._clean_start = clean_start
        self._receive_maximum = receive_maximum
        self._keepalive_s = keepalive_s
        self._backoff = backoff or Backoff()

        self._outbox = Outbox(max_pending_bytes)
        self._ready = threading.Event()
        self._linked = False
        self._subscribed_once = False
        self._subscribe_mid: int | None = None
        self._connect_at_s = 0.0
        self._deadline_s: float | None = None
        self._ready_since_s = 0.0
        self._loop_thread: int | None = None
        self.last_error: str | None = None
        """Why the last attempt or connection ended; for logs and health pages."""

        self._client = self._make_client(client_id, will, tls)
        self._traffic = Traffic(self._client, self._outbox, self._wake)
        self._poller = Poller(self._client)

    # -- for any thread --------------------------------------------------------------------------------------------

    @property
    def is_ready(self) -> bool:
        """Connected, and subscribed to everything."""
        return self._ready.is_set()

    def wait_ready(self, timeout_s: float) -> bool:
        """Wait from another thread until it is ready."""
        return self._ready.wait(timeout_s)

    @property
    def pending_bytes(self) -> int:
        """Bytes that were published and have not reached the broker as far as we know."""
        return self._outbox.pending_bytes

    def room_bytes(self, qos: int = 0) -> int:
        """How much `publish` takes now. A QoS 0 stream may fill half, so that it never keeps a message of state out."""
        return self._outbox.room_bytes(qos)

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        correlation: bytes | None = None,
        response_topic: str | None = None,
        expiry_s: int | None = None,
        wait_s: float = 0.0,
    ) -> Publication:
        """Queue a message; it is sent when connected, QoS 1 at least once across reconnects, QoS 0 at most once.

        Args:
            topic: a topic name of the caller's; no wildcards.
            payload: bytes; empty with `retain` clears a retained message.
            qos: 0 or 1.
            retain: keep it as the last value of the topic.
            correlation: correlation data for an answer.
            response_topic: where the answer should go.
            expiry_s: the broker drops it when it could not deliver it within this time.
            wait_s: how long to wait for room; the back-pressure of a stream. Never waits in the thread of `run`.

        Raises:
            BrokerUnavailableError: there is no room, and none became free in time.
            InvalidError: the message can never be sent: too large for the broker, or no valid topic.
        """
        size_bytes = checked_size(topic, len(payload) + len(correlation or b""), qos)
        properties = _properties(PacketTypes.PUBLISH)
        if correlation is not None:
            properties.CorrelationData = correlation
        if response_topic is not None:
            properties.ResponseTopic = response_topic
        if expiry_s is not None:
            properties.MessageExpiryInterval = expiry_s
        publication = Publication(topic, qos, size_bytes)
        patience_s = 0.0 if threading.get_ident() == self._loop_thread else wait_s
        if not self._outbox.offer(Outgoing(publication, payload, retain, properties), patience_s):
            raise BrokerUnavailableError(
                f"The MQTT broker at {self._url} takes no more now ({self.pending_bytes} bytes wait); try again."
            )
        self._wake()
        return publication

    # -- for the thread that runs it -------------------------------------------------------------------------------

    def run(self, stop: threading.Event) -> None:
        """Serve until `stop` is set (call `wake` after setting it to be heard at once), then close."""
        try:
            while not stop.is_set():
                self.run_once(LONGEST_SLEEP_S)
        finally:
            self.close()

    def run_once(self, timeout_s: float) -> None:
        """Connect if it is time, wait at most `timeout_s` for something to do, and do it."""
        self._loop_thread = threading.get_ident()
        now_s = time.monotonic()
        if not self._linked and now_s >= self._connect_at_s:
            self._connect()
        self._send_queued()
        wait_s = min(timeout_s, LONGEST_SLEEP_S)
        if not self._linked:
            wait_s = min(wait_s, max(0.0, self._connect_at_s - time.monotonic()))
        if self._traffic.inbox:  # left over from a callback that raised
            wait_s = 0.0
        self._poller.serve(wait_s)
        self._check_link()
        while self._traffic.inbox:
            self._on_message(self._traffic.inbox.popleft())
        self._send_queued()

    def wake(self) -> None:
        """Make `run_once` return soon; from any thread or signal handler."""
        self._poller.wake()

    def close(self, flush_s: float = 2.0) -> None:
        """Send what is queued, at most for `flush_s`, then disconnect. The session stays for its expiry."""
        end_s = time.monotonic() + flush_s
        while self._linked and self.pending_bytes and time.monotonic() < end_s:
            self.run_once(0.05)
        if self._linked:
            self._send_queued()  # acknowledgements that came last
            self._client.disconnect()
            while self._client.socket() is not None and self._client.want_write() and time.monotonic() < end_s:
                if self._client.loop_write() != MQTT_ERR_SUCCESS:
                    break
        self._drop_socket()
        self._forget_lost(everything=True)
        self._outbox.close("the connection was closed before it was sent")
        self._poller.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # -- connecting ------------------------------------------------------------------------------------------------

    def _make_client(self, client_id: str, will: Will | None, tls: ssl.SSLContext | None) -> Client:
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=MQTTProtocolVersion.MQTTv5,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.max_queued_messages_set(0)  # ours is the bound, in bytes
        client.max_inflight_messages_set(0)  # ours too: the broker says it in CONNACK, when paho takes it no more
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        if tls is not None:
            client.tls_set_context(tls)
        if will is not None:
            properties = _properties(PacketTypes.WILLMESSAGE)
            properties.WillDelayInterval = will.delay_s
            client.will_set(will.topic, will.payload, will.qos, will.retain, properties)
        return client

    def _connect(self) -> None:
        properties = _properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = self._session_expiry_s
        properties.ReceiveMaximum = self._receive_maximum
        properties.MaximumPacketSize = MAX_PACKET_BYTES
        # A clean start is for the first connection of this process; later ones go on where the link broke.
        clean = self._clean_start and not self._subscribed_once
        self._traffic.begin_connection()
        try:
            self._client.connect(
                self._host, self._port, keepalive=self._keepalive_s, clean_start=clean, properties=properties
            )
        except (OSError, ValueError) as exc:
            self.last_error = f"{self._url}: {exc}"
            self._schedule()
            return
        self._linked = True
        self._deadline_s = time.monotonic() + CONNECT_TIMEOUT_S

    def _check_link(self) -> None:
        if not self._linked:
            return
        if self._client.socket() is not None:
            if self._deadline_s is None or time.monotonic() < self._deadline_s:
                return
            self.last_error = f"{self._url} accepted the connection and did not answer within {CONNECT_TIMEOUT_S:.0f} s"
            self._drop_socket()
        if self._ready.is_set() and time.monotonic() - self._ready_since_s >= STABLE_AFTER_S:
            self._backoff.reset()
        self._forget_lost(everything=False)
        self._schedule()

    def _schedule(self) -> None:
        pause_s = self._backoff.next_s()
        log.warning("MQTT connection lost or refused (%s); trying again in %.2f s", self.last_error, pause_s)
        self._connect_at_s = time.monotonic() + pause_s

    def _drop_socket(self) -> None:
        # Paho has no public way to give up a socket without a DISCONNECT packet, which would cancel the will.
        self._client._sock_close()  # noqa: SLF001 - see above

    def _forget_lost(self, *, everything: bool) -> None:
        self._linked = False
        self._deadline_s = None
        self._subscribe_mid = None
        self._ready.clear()
        self._traffic.forget_lost(everything=everything)

    # -- paho's callbacks: in the loop's thread, and inside paho, so that they must not raise ----------------------

    def _on_connect(
        self, client: Client, _: object, _flags: ConnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        if reason.is_failure:
            self.last_error = f"{self._url} refused the connection: {reason}"
            return
        self._traffic.limit(int(getattr(properties, "ReceiveMaximum", MAX_INFLIGHT)))
        if self._subscriptions:
            # Also where the session is still there: a Mosquitto that reads it back from its file after `kill -9` has
            # lost its shared subscriptions (seen in 2.0.11). What was retained comes again only where it is new.
            again = SubscribeOptions.RETAIN_SEND_IF_NEW_SUB if self._subscribed_once else 0
            wanted = [
                (one.topic_filter, SubscribeOptions(qos=one.qos, retainHandling=again)) for one in self._subscriptions
            ]
            _, self._subscribe_mid = client.subscribe(wanted)
        else:
            self._became_ready()

    def _on_subscribe(
        self, _client: Client, _: object, mid: int, reasons: list[ReasonCode], _properties: Properties | None
    ) -> None:
        if mid != self._subscribe_mid:
            return
        refused = [
            one.topic_filter for one, reason in zip(self._subscriptions, reasons, strict=False) if reason.is_failure
        ]
        if refused:
            self.last_error = f"{self._url} refused the subscription to {', '.join(refused)}"
            self._drop_socket()
        else:
            self._became_ready()

    def _became_ready(self) -> None:
        self._subscribed_once = True
        self._deadline_s = None
        self._ready_since_s = time.monotonic()
        self.last_error = None
        self._ready.set()

    def _on_disconnect(
        self, _client: Client, _: object, _flags: object, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        if self.last_error is None:
            self.last_error = f"{self._url}: {reason}"

    # -- queues ----------------------------------------------------------------------------------------------------

    def _send_queued(self) -> None:
        if self._linked:
            self._traffic.send_acks()
            if self._ready.is_set():
                self._traffic.send()

    def _wake(self) -> None:
        if threading.get_ident() != self._loop_thread:
            self.wake()


def _properties(packet_type: int) -> Properties:
    return Properties(packet_type)  # type: ignore[no-untyped-call]  # paho's constructor has no annotations

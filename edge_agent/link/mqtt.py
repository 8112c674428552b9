"""The connection to the broker: paho on a thread of its own, whose callbacks only put into the inbox.

One `Session` is one connection: its counter is persisted before it is used, so presence and last will of an older one
never count. Who decides when to connect again is the worker, not paho.
"""

from __future__ import annotations

import logging
import queue
import threading
import urllib.parse
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from edge_agent.errors import EdgeAgentError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from paho.mqtt.reasoncodes import ReasonCode

    from edge_agent.link.inbox import Inbox

log = logging.getLogger(__name__)
MAX_PACKET_BYTES = (1 << 20) + (64 << 10)  # the largest block, and its topic; the broker keeps larger ones from us
CONNECT_TIMEOUT_S = 10.0


class MqttAddressError(EdgeAgentError):
    """The broker's address can't be used."""

    code = "bad_mqtt_url"


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker says for us when we are gone for a while."""

    topic: str
    payload: bytes
    delay_s: int


@dataclass(frozen=True, slots=True)
class Session:
    """One connection, as presence names it."""

    session_id: str
    counter: int
    will: Will


@dataclass(frozen=True, slots=True)
class Connected:
    """The broker has accepted the session."""

    session: Session


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The session is over, or never began (`spent` False: the broker has not seen it)."""

    session: Session
    detail: str
    spent: bool


@dataclass(frozen=True, slots=True)
class Received:
    """A message, as it came."""

    topic: str
    payload: bytes
    correlation: bytes | None


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where the broker is."""

    host: str
    port: int
    tls: bool


def parse_url(url: str) -> BrokerAddress:
    """Read `mqtt://host:port` or `mqtts://host:port`.

    Raises:
        MqttAddressError: something else.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urllib.parse.SplitResult("", "", "", "", ""), None
    if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname:
        raise MqttAddressError(f"{url} is no mqtt:// or mqtts:// address")
    tls = parts.scheme == "mqtts"
    return BrokerAddress(parts.hostname, port or (8883 if tls else 1883), tls)


class MqttLink:
    """One device's connection, made anew by `open` after each `Disconnected`."""

    def __init__(
        self,
        address: BrokerAddress,
        *,
        device_id: str,
        key: str,
        tls: Callable[[], ssl.SSLContext],
        keepalive_s: int,
        session_expiry_s: int,
        inbox: Inbox,
    ) -> None:
        self._address, self._device_id, self._key, self._tls = address, device_id, key, tls
        self._keepalive_s, self._session_expiry_s = keepalive_s, session_expiry_s
        self._inbox = inbox
        self._sessions: queue.Queue[Session | None] = queue.Queue()
        self._client: Client | None = None
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)

    def start(self) -> None:
        """Begin to wait for a session to open."""
        self._thread.start()

    def open(self, session: Session) -> None:
        """Connect; `Connected` or `Disconnected` follows in the inbox."""
        self._sessions.put(session)

    def close(self, *, timeout_s: float) -> None:
        """Send what is queued, disconnect, end the thread."""
        self._sessions.put(None)
        client = self._client
        if client is not None:
            client.disconnect()
        self._thread.join(timeout_s)

    def publish(
        self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False, correlation: bytes | None = None
    ) -> None:
        """Send; what a broken connection swallows is sent again by those who need it."""
        if (client := self._client) is not None:  # read once: the other thread sets it to None at any moment
            publish(client, topic, payload, qos=qos, retain=retain, correlation=correlation)

    def subscribe(self, topic: str, *, qos: int) -> None:
        """Receive a topic."""
        if (client := self._client) is not None:
            client.subscribe(topic, options=SubscribeOptions(qos=qos))

    def unsubscribe(self, topic: str) -> None:
        """Receive a topic no longer."""
        if (client := self._client) is not None:
            client.unsubscribe(topic)

    def _run(self) -> None:
        while (session := self._sessions.get()) is not None:
            address = self._address
            try:
                # read at each connection: a certificate that was renewed meanwhile is shown from the next one on
                tls = self._tls() if address.tls else None
                client = new_client(session, device_id=self._device_id, key=self._key, tls=tls, put=self._inbox.put)
                connect(client, address, keepalive_s=self._keepalive_s, session_expiry_s=self._session_expiry_s)
            except Exception as exc:  # noqa: BLE001  no address, no certificates: this thread must live to try again
                self._inbox.put(Disconnected(session, str(exc), spent=False))
                continue
            self._client = client
            try:
                _loop_until_disconnected(client)
            except Exception as exc:  # noqa: BLE001  top of this thread: whatever paho stumbles over ends one session
                self._inbox.put(Disconnected(session, f"{type(exc).__name__}: {exc}", spent=True))
            self._client = None


def new_client(
    session: Session,
    *,
    device_id: str,
    key: str,
    tls: ssl.SSLContext | None,
    put: Callable[[object], None],
) -> Client:
    """A client of paho that is not connected yet; `put` gets `Connected`, `Disconnected` and `Received`.

    Without `tls` it shows the key; with it the certificate says who it is, and the broker has no need of the key.
    """
    client = Client(
        CallbackAPIVersion.VERSION2,
        client_id=device_id,
        protocol=MQTTProtocolVersion.MQTTv5,
        reconnect_on_failure=False,
    )
    client.connect_timeout = CONNECT_TIMEOUT_S
    if tls is None:
        client.username_pw_set(device_id, key)
    else:
        client.tls_set_context(tls)
    will = _properties(PacketTypes.WILLMESSAGE)
    will.WillDelayInterval = session.will.delay_s
    client.will_set(session.will.topic, session.will.payload, qos=1, retain=True, properties=will)

    def on_connect(
        _client: Client, _data: object, _flags: ConnectFlags, code: ReasonCode, _properties: Properties | None
    ) -> None:
        if not code.is_failure:
            put(Connected(session))

    def on_disconnect(
        _client: Client, _data: object, _flags: DisconnectFlags, code: ReasonCode, _properties: Properties | None
    ) -> None:
        put(Disconnected(session, str(code), spent=True))

    def on_message(_client: Client, _data: object, message: MQTTMessage) -> None:
        correlation = getattr(message.properties, "CorrelationData", None)
        put(Received(message.topic, bytes(message.payload), correlation))

    # without it `publish` writes to the socket itself, in the worker's thread: two writers of one stream
    client.on_socket_register_write = _leave_writing_to_the_loop
    client.on_connect = on_connect
    client.on_disconnect = on_disconnect
    client.on_message = on_message
    return client


def connect(client: Client, address: BrokerAddress, *, keepalive_s: int, session_expiry_s: int) -> None:
    """Open the socket and ask the broker to take up the device's session.

    Raises:
        OSError: nobody listens there.
    """
    properties = _properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = session_expiry_s
    properties.MaximumPacketSize = MAX_PACKET_BYTES
    client.connect(_plain(address.host), address.port, keepalive_s, clean_start=False, properties=properties)


def publish(client: Client, topic: str, payload: bytes, *, qos: int, retain: bool, correlation: bytes | None) -> None:
    """Send a message, with the correlation data of MQTT 5 if there are any."""
    properties = None
    if correlation is not None:
        properties = _properties(PacketTypes.PUBLISH)
        properties.CorrelationData = correlation
    client.publish(topic, payload, qos=qos, retain=retain, properties=properties)


def _plain(host: str) -> str:
    """A host's name as the socket wants it in the end: of text it would import `idna` and `unicodedata`, 0.7 MB."""
    return cast("str", host.encode()) if host.isascii() else host


def _loop_until_disconnected(client: Client) -> None:
    """Serve one connection in this thread.

    Not by `loop_forever`: without `loop_start`, which makes a thread of its own, nothing wakes that from its `select`,
    and what the worker publishes waits there for up to a second. `loop` makes the pair of sockets that wakes it.
    """
    while client.loop(timeout=1.0) == MQTTErrorCode.MQTT_ERR_SUCCESS:
        pass


def _leave_writing_to_the_loop(_client: Client, _data: object, _socket: object) -> None:
    """A socket wants to be written: paho's own loop sees to it, `publish` has woken it."""


def _properties(packet_type: int) -> Properties:
    return Properties(packet_type)  # type: ignore[no-untyped-call]  # paho has no annotation here

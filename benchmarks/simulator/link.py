"""A device's connection to the broker, one of many in a thread."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

from paho.mqtt.subscribeoptions import SubscribeOptions

from edge_agent.link import mqtt

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from paho.mqtt.client import Client

    from benchmarks.simulator.loop import Loop
    from edge_agent.settings import AgentSettings


class SimulatedLink:
    """`edge_agent.link.ports.Link` on a shared loop."""

    def __init__(
        self,
        loop: Loop,
        address: mqtt.BrokerAddress,
        *,
        device_id: str,
        tls: Callable[[], ssl.SSLContext],
        settings: AgentSettings,
        put: Callable[[object], None],
    ) -> None:
        self._loop, self._address, self._device_id = loop, address, device_id
        self._settings, self._put, self._tls = settings, put, tls
        self._client: Client | None = None

    def open(self, session: mqtt.Session) -> None:
        """Connect; `Connected` or `Disconnected` follows."""
        client = mqtt.new_client(session, device_id=self._device_id, key="", tls=self._tls(), put=self._put)
        self._loop.watch(client)
        settings = self._settings
        try:
            mqtt.connect(
                client, self._address, keepalive_s=settings.keepalive_s, session_expiry_s=settings.session_expiry_s
            )
        except OSError as exc:
            self._put(mqtt.Disconnected(session, str(exc), spent=False))
        else:
            self._client = client

    def publish(
        self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False, correlation: bytes | None = None
    ) -> None:
        """Send, if there is a connection."""
        if self._client is not None:
            mqtt.publish(self._client, topic, payload, qos=qos, retain=retain, correlation=correlation)

    def subscribe(self, topic: str, *, qos: int) -> None:
        """Receive a topic."""
        if self._client is not None:
            self._client.subscribe(topic, options=SubscribeOptions(qos=qos))

    def keep_alive(self) -> None:
        """Ping when it is time."""
        if self._client is not None:
            self._client.loop_misc()

    def cut(self) -> None:
        """The network is gone: no word of goodbye."""
        opened = None if self._client is None else self._client.socket()
        if isinstance(opened, socket.socket):
            with contextlib.suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)

"""What is under way between our queues and the broker: messages out, messages in, and who has confirmed what.

Only the thread that runs the connection calls it; acknowledgements come from any. Knows nothing of when to connect.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

from paho.mqtt.client import MQTT_ERR_QUEUE_SIZE, Client, MQTTMessage
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from server.mqtt.messages import Incoming, Publication
from server.mqtt.outbox import Outbox

MAX_INFLIGHT: Final = 100
# Paho numbers messages up to 65,535 and starts again: far fewer may be in its hands.
MAX_HANDED_OVER: Final = 1000


class Traffic:
    """Hands messages to a paho client and takes them from it.

    Args:
        client: whose callbacks for messages are ours from now on.
        outbox: what is to be sent.
        wake: called when there is something to do, from any thread.
    """

    def __init__(self, client: Client, outbox: Outbox, wake: Callable[[], None]) -> None:
        self._client, self._outbox, self._wake = client, outbox, wake
        self._acks: deque[tuple[int, int, int]] = deque()
        self._sent: dict[int, Publication] = {}
        self._inflight = 0
        self._inflight_limit = MAX_INFLIGHT
        self._generation = 0
        self.inbox: deque[Incoming] = deque()
        client.on_publish = self._on_publish
        client.on_message = self._on_message

    def begin_connection(self) -> None:
        """What is acknowledged from now on came over a new connection."""
        self._generation += 1

    def limit(self, receive_maximum: int) -> None:
        """So many unconfirmed messages the broker takes."""
        self._inflight_limit = min(MAX_INFLIGHT, receive_maximum)

    def send_acks(self) -> None:
        """Pass the acknowledgements on; there is a connection."""
        while self._acks:
            generation, mid, qos = self._acks.popleft()
            # The number belongs to the connection that brought the message; on another it may name a different one.
            if generation == self._generation:
                self._client.ack(mid, qos)

    def send(self) -> None:
        """Hand over as many messages as may be under way; the connection is ready."""
        while len(self._sent) < MAX_HANDED_OVER and self._inflight < self._inflight_limit:
            message = self._outbox.next()
            if message is None:
                return
            publication = message.publication
            info = self._client.publish(
                publication.topic, message.payload, publication.qos, message.retain, message.properties
            )
            if info.rc == MQTT_ERR_QUEUE_SIZE:  # its number is still in use by a message that was not confirmed
                self._outbox.put_back(message)
                return
            self._sent[info.mid] = publication
            self._inflight += publication.qos

    def forget_lost(self, *, everything: bool) -> None:
        """QoS 0 messages in paho's queue died with the socket; QoS 1 ones are sent again by paho."""
        self._acks.clear()
        lost = [(mid, one) for mid, one in self._sent.items() if everything or one.qos == 0]
        for mid, publication in lost:
            del self._sent[mid]
            self._inflight -= publication.qos
            self._outbox.finish(publication, "the connection was lost before it was sent")

    # -- paho's callbacks: in the loop's thread, and inside paho, so that they must not raise ----------------------

    def _on_publish(
        self, _client: Client, _: object, mid: int, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        publication = self._sent.pop(mid, None)
        if publication is not None:
            self._inflight -= publication.qos
            self._outbox.finish(publication, str(reason) if reason.is_failure else None)

    def _on_message(self, _client: Client, _: object, message: MQTTMessage) -> None:
        generation, mid, qos = self._generation, message.mid, message.qos

        def acknowledge() -> None:
            if qos:
                self._acks.append((generation, mid, qos))
                self._wake()

        properties = message.properties
        try:
            topic = message.topic
        except UnicodeDecodeError:  # no topic of ours; not acknowledging it would have it sent again for ever
            acknowledge()
            return
        self.inbox.append(
            Incoming(
                topic=topic,
                payload=bytes(message.payload),
                qos=qos,
                retain=message.retain,
                correlation=getattr(properties, "CorrelationData", None),
                response_topic=getattr(properties, "ResponseTopic", None),
                is_repeated=message.dup,
                _acknowledge=acknowledge,
            )
        )

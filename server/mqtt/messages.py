"""What goes over a connection, as values."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from server.errors import InvalidError

MAX_PACKET_BYTES: Final = 1_114_112  # as the embedded broker: a block of 1 MiB, its topic and properties
MAX_TOPIC_BYTES: Final = 65_535
PROPERTIES_BYTES: Final = 1024  # room for what a packet holds beside topic, payload and correlation data


@dataclass(frozen=True, slots=True)
class Subscription:
    """A topic filter (a `$share/group/...` one too)."""

    topic_filter: str
    qos: int = 1


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes when this client is lost for longer than `delay_s`."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = True
    delay_s: int = 0


@dataclass(frozen=True, slots=True)
class Incoming:
    """One received message."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    correlation: bytes | None
    response_topic: str | None
    is_repeated: bool
    """The DUP flag: it may have been seen before. Its absence promises nothing."""
    _acknowledge: Callable[[], None] = field(repr=False, compare=False)

    def ack(self) -> None:
        """Tell the broker that it may forget the message. From any thread, once, and in the order of arrival.

        If the connection was lost meanwhile this does nothing, and the broker delivers the message again.
        """
        self._acknowledge()


class Publication:
    """The fate of one published message."""

    __slots__ = ("_done", "_failure", "qos", "size_bytes", "topic")

    def __init__(self, topic: str, qos: int, size_bytes: int) -> None:
        self.topic = topic
        self.qos = qos
        self.size_bytes = size_bytes
        self._done = threading.Event()
        self._failure: str | None = None

    @property
    def is_done(self) -> bool:
        """QoS 0: handed to the network, or lost; QoS 1: the broker has it, or refused it."""
        return self._done.is_set()

    @property
    def failure(self) -> str | None:
        """Why it did not reach the broker; None while that is not known to have happened."""
        return self._failure

    def wait(self, timeout_s: float) -> bool:
        """Wait from another thread than the connection's own until it is done."""
        return self._done.wait(timeout_s)

    def finish(self, failure: str | None = None) -> None:
        """For the connection only."""
        self._failure = failure
        self._done.set()


def checked_size(topic: str, content_bytes: int, qos: int) -> int:
    """Bytes that a message counts for.

    Raises:
        InvalidError: it can never be sent: too large for the broker, or no valid topic.
    """
    try:
        topic_bytes = len(topic.encode())
    except UnicodeEncodeError:
        topic_bytes = 0
    if not 0 < topic_bytes <= MAX_TOPIC_BYTES or any(sign in topic for sign in "+#\0") or qos not in {0, 1}:
        raise InvalidError(
            f"{topic[:100]!a} with QoS {qos} cannot be published: 1 to {MAX_TOPIC_BYTES} bytes of UTF-8, no wildcards, "
            "QoS 0 or 1."
        )
    size_bytes = topic_bytes + content_bytes
    if size_bytes + PROPERTIES_BYTES > MAX_PACKET_BYTES:
        # The broker would cut the connection, paho would send it again, and so on for ever.
        raise InvalidError(f"A message of {size_bytes} bytes to {topic[:100]} exceeds {MAX_PACKET_BYTES} bytes.")
    return size_bytes

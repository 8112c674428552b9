"""What goes over a connection, as values."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field


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

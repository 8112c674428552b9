"""A connection in a thread of its own, as the registry's processes run it."""

import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator

import pytest

from server.mqtt import Backoff, BrokerConnection, Incoming, Subscription


class Running:
    """A connection that runs, and what it received."""

    def __init__(self, url: str, filters: tuple[str, ...], *, auto_ack: bool, client_id: str, **options: int) -> None:
        self.received: list[Incoming] = []
        self._auto_ack = auto_ack
        self._stop = threading.Event()
        self.connection = BrokerConnection(
            url,
            client_id,
            [Subscription(one) for one in filters],
            self._take,
            backoff=Backoff(longest_s=0.5, chance=random.Random(1)),
            **options,  # type: ignore[arg-type]  # only the options that are numbers
        )
        self._thread = threading.Thread(target=self.connection.run, args=(self._stop,))
        self._thread.start()

    def _take(self, message: Incoming) -> None:
        self.received.append(message)
        if self._auto_ack:
            message.ack()

    def payloads(self) -> list[bytes]:
        return [message.payload for message in self.received]

    def wait_for(self, condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
        end_s = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end_s, (self.payloads()[-3:], self.connection.last_error)
            time.sleep(0.005)

    def stop(self) -> None:
        self._stop.set()
        self.connection.wake()
        self._thread.join(timeout=10)
        assert not self._thread.is_alive()


@pytest.fixture
def topic() -> str:
    """A topic that no other test uses."""
    return f"test/{uuid.uuid4().hex}"


@pytest.fixture
def connect() -> Iterator[Callable[..., Running]]:
    """Run connections that are closed after the test."""
    running: list[Running] = []

    def start(
        url: str,
        *filters: str,
        auto_ack: bool = True,
        client_id: str | None = None,
        is_ready: bool = True,
        **options: int,
    ) -> Running:
        one = Running(url, filters, auto_ack=auto_ack, client_id=client_id or uuid.uuid4().hex, **options)
        running.append(one)
        if is_ready:
            assert one.connection.wait_ready(10), one.connection.last_error
        return one

    yield start
    for one in running:
        one.stop()

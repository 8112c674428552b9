"""One selector and one clock for thousands of paho clients: paho's own loop ends at 1,024 descriptors."""

from __future__ import annotations

import heapq
import itertools
import selectors
import time
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from paho.mqtt.client import Client

LONGEST_SLEEP_S = 0.1


class Loop:
    """Sockets, timers and what is to be done next, in one thread."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._ready: deque[Callable[[], None]] = deque()

    def soon(self, callback: Callable[[], None]) -> None:
        """Call back when those that call now are done."""
        self._ready.append(callback)

    def at(self, due_s: float, callback: Callable[[], None]) -> None:
        """Call back at a time of the monotonic clock."""
        heapq.heappush(self._timers, (due_s, next(self._numbers), callback))

    def watch(self, client: Client) -> None:
        """Let a client read and write when its socket is ready, from its next connection on."""
        selector = self._selector

        def opened(_client: Client, _data: object, socket: Any) -> None:  # noqa: ANN401  paho's SocketLike
            selector.register(socket, selectors.EVENT_READ, client)

        def closed(_client: Client, _data: object, socket: Any) -> None:  # noqa: ANN401  paho's SocketLike
            selector.unregister(socket)

        def wants_to_write(_client: Client, _data: object, socket: Any) -> None:  # noqa: ANN401  paho's SocketLike
            selector.modify(socket, selectors.EVENT_READ | selectors.EVENT_WRITE, client)

        def has_written(_client: Client, _data: object, socket: Any) -> None:  # noqa: ANN401  paho's SocketLike
            selector.modify(socket, selectors.EVENT_READ, client)

        client.on_socket_open, client.on_socket_close = opened, closed
        client.on_socket_register_write, client.on_socket_unregister_write = wants_to_write, has_written

    def turn(self) -> None:
        """Wait for something to do, a tenth of a second at most, and do it."""
        due_s = self._timers[0][0] - time.monotonic() if self._timers else LONGEST_SLEEP_S
        for key, events in self._selector.select(max(0.0, min(LONGEST_SLEEP_S, due_s))):
            client: Client = key.data
            if events & selectors.EVENT_READ:
                client.loop_read()
            if events & selectors.EVENT_WRITE and client.socket() is not None:
                client.loop_write()
        now_s = time.monotonic()
        while self._timers and self._timers[0][0] <= now_s:
            self._ready.append(heapq.heappop(self._timers)[2])
        for _ in range(len(self._ready)):
            self._ready.popleft()()

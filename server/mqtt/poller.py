"""Tells a paho client when its socket is ready: by epoll, without the limit of 1,024 descriptors of `select()`."""

import contextlib
import selectors
import socket
from typing import Any

from paho.mqtt.client import Client


class Poller:
    """One selector with the socket of one client and a way to be woken from other threads."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        client.on_socket_open = self._on_open
        client.on_socket_close = self._on_close
        # With these set paho never writes by itself, which it would do in whatever thread publishes.
        client.on_socket_register_write = self._on_want_write
        client.on_socket_unregister_write = self._on_no_write

    def serve(self, timeout_s: float) -> None:
        """Wait until there is something to do or the time is over, and let paho do it."""
        for key, events in self._selector.select(timeout_s):
            if key.fileobj is self._wake_read:
                self._drain_wake()
                continue
            if events & selectors.EVENT_READ:
                self._client.loop_read()
            if events & selectors.EVENT_WRITE and self._client.socket() is not None:
                self._client.loop_write()
        self._client.loop_misc()

    def wake(self) -> None:
        """Make `serve` return soon; from any thread or signal handler."""
        with contextlib.suppress(OSError):  # full: it will wake anyway; closed: nobody is there to wake
            self._wake_write.send(b"\0")

    def close(self) -> None:
        """Give the descriptors back; once more is harmless."""
        if self._wake_write.fileno() >= 0:
            self._selector.close()
            self._wake_read.close()
            self._wake_write.close()

    def _drain_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._wake_read.recv(4096):
                pass

    def _on_open(self, _client: Client, _: object, opened: Any) -> None:  # noqa: ANN401 - paho's SocketLike
        self._selector.register(opened, selectors.EVENT_READ)

    def _on_close(self, _client: Client, _: object, closing: Any) -> None:  # noqa: ANN401 - paho's SocketLike
        self._selector.unregister(closing)

    def _on_want_write(self, _client: Client, _: object, one: Any) -> None:  # noqa: ANN401 - paho's SocketLike
        self._selector.modify(one, selectors.EVENT_READ | selectors.EVENT_WRITE)

    def _on_no_write(self, _client: Client, _: object, one: Any) -> None:  # noqa: ANN401 - paho's SocketLike
        self._selector.modify(one, selectors.EVENT_READ)

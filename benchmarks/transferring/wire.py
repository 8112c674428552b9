"""A way to a server that is cut after so many bytes, and counts what its clients' sockets carry."""

from __future__ import annotations

import contextlib
import fcntl
import random
import re
import socket
import struct
import termios
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

PIECE_BYTES = 64 * 1024
DELIVERY_S = 5.0
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close by RST, as a line that breaks
PATH = re.compile(rb"^[A-Z]+ (\S+)")


class Meter(Protocol):
    """Tells the bytes of an object from those around them, on one connection."""

    def payload_bytes(self, data: bytes) -> int:
        """How many of these are an object's."""
        ...


@dataclass(slots=True)
class Account:
    """What one device's connections have carried."""

    up_bytes: int = 0
    down_bytes: int = 0
    payload_bytes: int = 0  # of objects, what came twice and what a cut left unfinished included
    cuts: int = 0

    @property
    def other_bytes(self) -> int:
        """All that is no object's."""
        return self.up_bytes + self.down_bytes - self.payload_bytes


@dataclass(slots=True)
class Cuts:
    """When to cut: each account so many times, after a length that chance draws."""

    each: int
    mean_bytes: int
    seed: int
    _chance: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)  # noqa: S311  lengths, no secrets

    def after_bytes(self, account: Account) -> int | None:
        """How much the next connection may carry; None: it is not cut."""
        if account.cuts >= self.each:
            return None
        return int(self.mean_bytes * self._chance.uniform(0.5, 1.5))


class Wire:
    """Listens on a port of its own and carries each connection to the server.

    Args:
        to: host and port of the server.
        meter: made for each connection.
        cuts: when to cut; None: never.
        account_of: the account of a connection, by its first bytes upwards.
        on_request: sees what goes up.
    """

    def __init__(
        self,
        to: tuple[str, int],
        *,
        meter: Callable[[], Meter],
        cuts: Cuts | None = None,
        account_of: Callable[[bytes], str] = lambda _first: "",
        on_request: Callable[[bytes], None] = lambda _data: None,
    ) -> None:
        self._to, self._meter, self._cuts = to, meter, cuts
        self._account_of, self._on_request = account_of, on_request
        self._accounts: dict[str, Account] = {}
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def account(self, name: str = "") -> Account:
        """What was carried for one device."""
        with self._lock:
            return self._accounts.setdefault(name, Account())

    def close(self) -> None:
        """Take no more connections; those that are open end with their ends."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), socket.create_connection(self._to) as server:
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            first = client.recv(PIECE_BYTES)
            account = self.account(self._account_of(first))
            up = threading.Thread(target=self._carry_up, args=(client, server, account, first), daemon=True)
            up.start()
            cut = False
            with contextlib.suppress(OSError):
                cut = self._carry_down(client, server, account)
            with contextlib.suppress(OSError):  # the other thread waits at it
                client.shutdown(socket.SHUT_RD if cut else socket.SHUT_RDWR)
            up.join()
            if cut:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    def _carry_up(self, client: socket.socket, server: socket.socket, account: Account, data: bytes) -> None:
        with contextlib.suppress(OSError):
            while data:
                account.up_bytes += len(data)
                self._on_request(data)
                server.sendall(data)
                data = client.recv(PIECE_BYTES)
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)

    def _carry_down(self, client: socket.socket, server: socket.socket, account: Account) -> bool:
        """Until the server has no more, or the line is cut: then True."""
        meter = self._meter()
        left = None if self._cuts is None else self._cuts.after_bytes(account)
        while data := server.recv(PIECE_BYTES if left is None else min(PIECE_BYTES, left)):
            client.sendall(data)
            account.down_bytes += len(data)
            account.payload_bytes += meter.payload_bytes(data)
            if left is not None:
                left -= len(data)
                if left == 0:
                    account.cuts += 1
                    _wait_for_delivery(client)
                    return True
        return False


def _wait_for_delivery(client: socket.socket) -> None:
    """Wait until all that was counted has arrived at the client's socket."""
    end_s = time.monotonic() + DELIVERY_S
    while time.monotonic() < end_s:
        if not struct.unpack("i", fcntl.ioctl(client, termios.TIOCOUTQ, bytes(4)))[0]:
            break
        time.sleep(0.001)


class HttpMeter:
    """The bodies of the answers of one connection that carries one request."""

    def __init__(self) -> None:
        self._head = b""
        self._in_body = False

    def payload_bytes(self, data: bytes) -> int:
        """See Meter."""
        if self._in_body:
            return len(data)
        self._head += data
        head, found, body = self._head.partition(b"\r\n\r\n")
        self._in_body = bool(found)
        return len(body) if self._in_body and b" 20" in head[:16] else 0


class NoObjects:
    """A connection that carries no object."""

    def payload_bytes(self, data: bytes) -> int:  # noqa: ARG002  of the protocol
        """See Meter."""
        return 0


class MqttMeter:
    """The payloads of block messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._left = 0  # of the payload at hand
        self._counts = False

    def payload_bytes(self, data: bytes) -> int:
        """See Meter."""
        self._buffer += data
        counted = 0
        while self._buffer:
            if not self._left and not self._read_head():
                break
            taken = min(self._left, len(self._buffer))
            del self._buffer[:taken]
            self._left -= taken
            counted += taken * self._counts
        return counted

    def _read_head(self) -> bool:
        """Take the packet up to its payload out of the buffer; False: it is not here yet."""
        length = shift = used = 0
        while True:
            used += 1
            if len(self._buffer) <= used:
                return False
            length |= (self._buffer[used] & 0x7F) << shift
            shift += 7
            if not self._buffer[used] & 0x80:
                break
        head = used + 1
        self._counts = False
        if self._buffer[0] & 0xF0 == 0x30:  # noqa: PLR2004  PUBLISH, MQTT 5 section 3.3
            if len(self._buffer) < head + 2:
                return False
            topic_bytes = int.from_bytes(self._buffer[head : head + 2], "big")
            if len(self._buffer) < head + 2 + topic_bytes + 1:
                return False
            topic = bytes(self._buffer[head + 2 : head + 2 + topic_bytes])
            self._counts = topic.startswith(b"shoal/v1/a/") or b"/block/" in topic
            if self._counts:  # QoS 0: no packet id, then the properties, whose length fits a byte
                around = 2 + topic_bytes + 1 + self._buffer[head + 2 + topic_bytes]
                head, length = head + around, length - around
                if len(self._buffer) < head:
                    return False
        del self._buffer[:head]
        self._left = length
        return True


def object_in_path(first: bytes) -> str:
    """The sha256 of the object that a request names."""
    found = PATH.match(first)
    return found[1].decode().partition("?")[0].rpartition("/")[2] if found else ""

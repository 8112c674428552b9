"""HTTP on inherited listening sockets: begin to accept, stop, and drain without losing a request.

The sockets are shared with other processes (the same descriptor, never SO_REUSEPORT): whoever stops accepting leaves
the backlog to the others. Knows no model.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from edge_agent.runner.control import ANSWER_S
from edge_agent.runner.http import COMPLETE_S

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    Application = Callable[..., Awaitable[None]]

KEEP_ALIVE_S = 600  # an idle connection costs little, and one that closes may meet a request on its way
ACCEPT_AT_ONCE = 64
PAUSE_S = 1.0  # without descriptors, memory or a place for another connection
MAX_CONNECTIONS = 256
NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
HEAD_LIMIT_BYTES = 64 << 10  # the parser itself takes headers of any length
CHUNK_OVERHEAD = 8  # bytes around each byte of a body that may come one byte at a time


@dataclass(slots=True)
class Gate:
    """One listening socket, and what its connections must know."""

    closing: bool = False  # answer with Connection: close
    given_up: bool = False  # another process accepts here now


class Listener:
    """Accepts connections for an application `app(gate, scope, receive, send)`.

    At its limit of connections it closes the one whose client has been silent longest; while every client waits for an
    answer, newcomers wait in the backlog.

    Not by `asyncio.Server`: one that closes loses what it has accepted in the same turn of the loop (Python 3.11 makes
    the transport in a later turn, which finds the server closed, and nobody answers that client for ever).
    """

    def __init__(self, app: Application, *, connection_limit: int = MAX_CONNECTIONS) -> None:
        self._app, self._connection_limit = app, connection_limit
        self._state = ServerState()
        self._open: dict[int, tuple[socket.socket, Gate]] = {}
        self._gates: list[Gate] = []
        self._accepted: set[asyncio.Task[Any]] = set()  # not yet connections
        self._changed = asyncio.Event()
        for name in ("uvicorn.error", "uvicorn.asgi"):
            logging.getLogger(name).setLevel(logging.ERROR)  # malformed requests are the client's news, not ours

    @property
    def connections(self) -> int:
        """Open connections."""
        return len(self._state.connections) + len(self._accepted)

    async def accept(self, descriptors: Iterable[int]) -> None:
        """Accept on these listening sockets too."""
        for descriptor in descriptors:
            if descriptor in self._open:
                continue
            gate = Gate()
            config = Config(
                partial(self._app, gate),
                http=HttpToolsProtocol,
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                date_header=False,
                timeout_keep_alive=KEEP_ALIVE_S,
            )
            config.load()
            listening = socket.socket(fileno=os.dup(descriptor))  # closing it closes nothing for the others
            listening.setblocking(False)
            self._open[descriptor] = (listening, gate)
            self._gates.append(gate)
            self._listen(listening, partial(_Connection, config, self._state, self._changed.set))

    def stop(self, descriptors: Iterable[int]) -> None:
        """Leave these sockets to others; their open connections are asked to connect again."""
        for descriptor in descriptors:
            entry = self._open.pop(descriptor, None)
            if entry is not None:
                listening, gate = entry
                gate.closing = gate.given_up = True
                asyncio.get_running_loop().remove_reader(listening)
                listening.close()

    async def drain(self, deadline_s: float) -> None:
        """Stop accepting, answer who is connected, return when the last one has gone or the time is over."""
        self.stop(tuple(self._open))
        for gate in self._gates:
            gate.closing = True
        await self._until_empty(deadline_s)
        for connection in tuple(self._state.connections):
            connection.shutdown()  # idle: closed; busy: closed after its answer
        await self._until_empty(ANSWER_S)

    async def _until_empty(self, timeout_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self.connections:
                    self._changed.clear()
                    await self._changed.wait()

    def _listen(self, listening: socket.socket, factory: Callable[[], asyncio.Protocol]) -> None:
        if listening.fileno() >= 0:  # not stopped meanwhile
            asyncio.get_running_loop().add_reader(listening, self._accept_some, listening, factory)

    def _accept_some(self, listening: socket.socket, factory: Callable[[], asyncio.Protocol]) -> None:
        loop = asyncio.get_running_loop()
        if self.connections >= self._connection_limit:
            if not self._make_room():
                self._pause(listening, factory)
            return  # a place is free once the loop has turned; the newcomer is still in the backlog then
        for _ in range(min(ACCEPT_AT_ONCE, self._connection_limit - self.connections)):
            try:
                connection, _ = listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:
                continue
            except OSError as exc:
                if exc.errno not in NO_ROOM:
                    raise
                self._pause(listening, factory)
                return
            connection.setblocking(False)
            task = loop.create_task(loop.connect_accepted_socket(factory, connection))
            self._accepted.add(task)
            task.add_done_callback(self._opened)

    def _pause(self, listening: socket.socket, factory: Callable[[], asyncio.Protocol]) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(listening)  # it stays readable: others may accept, or we in a moment
        loop.call_later(PAUSE_S, self._listen, listening, factory)

    def _make_room(self) -> bool:
        """Close the connection whose client has been silent longest; who waits for an answer of ours is spared."""
        silent = [c for c in self._state.connections if isinstance(c, _Connection) and c.waits_for_client]
        if not silent:
            return False
        min(silent, key=lambda connection: connection.heard_s).transport.close()
        return True

    def _opened(self, task: asyncio.Task[Any]) -> None:
        self._accepted.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._changed.set()  # it went away before it was a connection


class _Connection(HttpToolsProtocol):
    """A connection that bounds the head of a request, and refuses in the protocol's own words."""

    def __init__(self, config: Config, state: ServerState, on_lost: Callable[[], None]) -> None:
        super().__init__(config=config, server_state=state, app_state={})
        self._on_lost = on_lost
        self._overhead_bytes = 0  # since the request began, without its body
        self.heard_s = self.loop.time()

    @property
    def waits_for_client(self) -> bool:
        """Whether nothing is owed to the client: no request has come, or only a part of one."""
        cycle = self.cycle
        return cycle is None or cycle.response_complete or cycle.more_body

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._on_lost()

    def data_received(self, data: bytes) -> None:
        self._overhead_bytes += len(data)
        self.heard_s = self.loop.time()
        super().data_received(data)
        if self._overhead_bytes > HEAD_LIMIT_BYTES and not self.transport.is_closing():
            self._refuse(431, f"the head of a request may have {HEAD_LIMIT_BYTES} bytes")

    def on_message_begin(self) -> None:
        self._overhead_bytes = 0
        super().on_message_begin()

    def on_body(self, body: bytes) -> None:
        self._overhead_bytes = max(0, self._overhead_bytes - (1 + CHUNK_OVERHEAD) * len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.cycle is not None:
            self.cycle.scope["state"][COMPLETE_S] = time.perf_counter()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, f"this is no HTTP request: {msg}")

    def _refuse(self, status: int, words: str) -> None:
        body = orjson.dumps({"error": words})
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[status] + head + body)
        self.transport.close()

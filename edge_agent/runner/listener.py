"""HTTP on inherited listening sockets: begin to accept, stop, and drain without losing a request.

The sockets are shared with other processes (the same descriptor, never SO_REUSEPORT): whoever stops accepting leaves
the backlog to the others. Knows no model.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    Application = Callable[..., Awaitable[None]]

KEEP_ALIVE_S = 600  # an idle connection costs little, and one that closes may meet a request on its way
SETTLE_S = 0.05  # until a connection that was accepted just now is known
ANSWER_S = 10.0  # for requests that run when the deadline of a drain is over
POLL_S = 0.02


@dataclass(slots=True)
class Gate:
    """One listening socket, and what its connections must know."""

    closing: bool = False  # answer with Connection: close
    given_up: bool = False  # another process accepts here now


class Listener:
    """Accepts connections for an application `app(gate, scope, receive, send)`."""

    def __init__(self, app: Application) -> None:
        self._app = app
        self._state = ServerState()
        self._open: dict[int, tuple[asyncio.Server, Gate]] = {}
        self._gates: list[Gate] = []
        for name in ("uvicorn.error", "uvicorn.asgi"):
            logging.getLogger(name).setLevel(logging.ERROR)  # malformed requests are the client's news, not ours

    @property
    def connections(self) -> int:
        """Open connections."""
        return len(self._state.connections)

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
            server = await asyncio.get_running_loop().create_server(
                partial(_protocol, config, self._state), sock=_duplicate(descriptor), backlog=socket.SOMAXCONN
            )
            self._open[descriptor] = (server, gate)
            self._gates.append(gate)

    def stop(self, descriptors: Iterable[int]) -> None:
        """Leave these sockets to others; their open connections are asked to connect again."""
        for descriptor in descriptors:
            entry = self._open.pop(descriptor, None)
            if entry is not None:
                server, gate = entry
                gate.closing = gate.given_up = True
                server.close()

    async def drain(self, deadline_s: float) -> None:
        """Stop accepting, answer who is connected, return when the last one has gone or the time is over."""
        ends_s = time.monotonic() + deadline_s
        self.stop(tuple(self._open))
        for gate in self._gates:
            gate.closing = True
        await asyncio.sleep(SETTLE_S)
        await self._until_empty(ends_s)
        for connection in tuple(self._state.connections):
            connection.shutdown()  # idle: closed; busy: closed after its answer
        await self._until_empty(time.monotonic() + ANSWER_S)

    async def _until_empty(self, ends_s: float) -> None:
        while self._state.connections and time.monotonic() < ends_s:  # noqa: ASYNC110  the set tells nobody
            await asyncio.sleep(POLL_S)


def _protocol(config: Config, state: ServerState) -> HttpToolsProtocol:
    return HttpToolsProtocol(config=config, server_state=state, app_state={})


def _duplicate(descriptor: int) -> socket.socket:
    """A socket of our own on the same open file: closing it closes nothing for the others."""
    duplicate: Any = os.dup(descriptor)
    return socket.socket(fileno=duplicate)

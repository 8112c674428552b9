"""The way to one runner: pooled connections over its Unix socket, one retry, and patience while it restarts."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import httptools

from edge_agent.runner.http import UnavailableError
from edge_agent.supervisor.listeners import short_path

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

ANSWER_S = 100.0  # longer than the supervisor lets one invoke run: it decides what a hang is, not we
RESTART_S = 10.0  # how long a request waits for a runner that has just ended
RESTART_POLL_S = 0.05
IDLE_LIMIT = 64
PROBE = b"GET /v2/health/ready HTTP/1.1\r\nhost: localhost\r\n\r\n"
OK = 200


class Response(NamedTuple):
    """A whole answer of a runner."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


class BrokenError(Exception):
    """A connection ended before the answer was whole; `began` tells whether some of it had arrived."""

    def __init__(self, *, began: bool) -> None:
        super().__init__("the connection to the runner broke")
        self.began = began


class _Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, on_lost: Callable[[], None]) -> None:
        self._on_lost = on_lost
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Response] | None = None
        self._began = False
        self._headers: list[tuple[bytes, bytes]] = []
        self._body = bytearray()
        self.usable = True

    async def exchange(self, parts: Sequence[bytes], timeout_s: float) -> Response:
        """Send a request and wait for its answer.

        Raises:
            BrokenError: the connection ended before.
            TimeoutError: the time is over.
        """
        if self._transport is None or self._transport.is_closing():
            raise BrokenError(began=False)
        self._answer = asyncio.get_running_loop().create_future()
        self._began = False
        self._headers, self._body = [], bytearray()
        self._transport.writelines(parts)
        try:
            return await asyncio.wait_for(self._answer, timeout_s)
        except BaseException:
            self.close()  # what still comes belongs to nobody
            raise
        finally:
            self._answer = None

    def close(self) -> None:
        """Hang up."""
        self.usable = False
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's signature
        if self.usable:  # the runner hung up, not we, and without having said so
            self._on_lost()
        self.usable = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(BrokenError(began=self._began))

    def data_received(self, data: bytes) -> None:
        self._began = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_body(self, data: bytes) -> None:
        self._body += data

    def on_message_complete(self) -> None:
        self.usable = self._parser.should_keep_alive()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(Response(self._parser.get_status_code(), self._headers, bytes(self._body)))


class Upstream:
    """One model's runner. Which process that is may change at any time; the socket stays."""

    def __init__(self, model: str, path: Path) -> None:
        self.model, self.path = model, path
        self._idle: deque[_Connection] = deque(maxlen=IDLE_LIMIT)
        self._recovery: asyncio.Task[bool] | None = None
        self._removed = False
        self._alive = True  # False: the last that was heard of the runner is bad; it must answer a probe first

    def remove(self) -> None:
        """Nobody waits any longer for a runner of this model."""
        self._removed = True
        self.let_go()

    def let_go(self) -> None:
        """Close the idle connections, so that a runner that drains can leave."""
        while self._idle:
            self._idle.popleft().close()

    async def ask(
        self, parts: Sequence[bytes], *, timeout_s: float = ANSWER_S, patience_s: float = RESTART_S
    ) -> Response:
        """Forward a request that does no harm when it is done twice.

        It is sent again once, on a new connection, when the first one broke before any byte of an answer.

        Args:
            parts: the request's bytes.
            timeout_s: how long to wait for the answer.
            patience_s: how long to wait for a runner that is being restarted.

        Raises:
            UnavailableError: there is no runner, it ended twice, or it does not answer in time.
        """
        for attempt in (1, 2):
            if not self._alive and not await self._recovered(patience_s):
                raise UnavailableError(f"model {self.model} does not answer now: its runner is being restarted")
            try:
                return await self._exchange(parts, timeout_s, fresh=attempt > 1)
            except TimeoutError as exc:
                self._alive = False
                raise UnavailableError(f"model {self.model} gave no answer within {timeout_s:.0f} s") from exc
            except (BrokenError, OSError) as exc:
                self._alive = False
                self.let_go()
                if isinstance(exc, BrokenError) and exc.began:
                    break
        raise UnavailableError(f"model {self.model} ended while it answered: send the request again")

    async def _exchange(self, parts: Sequence[bytes], timeout_s: float, *, fresh: bool) -> Response:
        connection = None if fresh else self._take_idle()
        if connection is None:
            connection = await self._connect()
        response = await connection.exchange(parts, timeout_s)
        if connection.usable:
            if len(self._idle) == IDLE_LIMIT:
                self._idle.popleft().close()
            self._idle.append(connection)
        else:
            connection.close()
        return response

    def _take_idle(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        return None

    async def _connect(self) -> _Connection:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            with short_path(self.path) as address:
                sock.connect(address)  # at once on a Unix socket, or EAGAIN when the backlog is full
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: _Connection(self._lost), sock=sock
            )
        except BaseException:
            sock.close()
            raise
        return connection

    def _lost(self) -> None:
        self._alive = False

    async def _recovered(self, patience_s: float) -> bool:
        """Wait for the runner that follows one that has ended; all who ask wait for the same answer."""
        if self._recovery is None:
            self._recovery = asyncio.get_running_loop().create_task(self._recover())
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(asyncio.shield(self._recovery), patience_s)
        return False

    async def _recover(self) -> bool:
        # The supervisor holds the listening socket: a connection made now waits there for the next runner.
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RESTART_S):
                    while not self._alive and not self._removed:
                        with contextlib.suppress(BrokenError, OSError):
                            response = await self._exchange([PROBE], RESTART_S, fresh=True)
                            self._alive = response.status == OK
                        if not self._alive:
                            await asyncio.sleep(RESTART_POLL_S)
            return self._alive
        finally:
            self._recovery = None

"""The active runner's end: copies of what it has answered, one for each that the shadow asks for; never a queue."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from edge_agent.runner.shadow.frames import MAX_ARRAY_BYTES, Frame, size_bytes, write
from edge_agent.supervisor.listeners import short_path

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from edge_agent.runtimes.base import Array


class Tap(asyncio.Protocol):
    """Open as long as the shadow listens. What is answered while it asks for nothing is counted, and not copied."""

    def __init__(self, deployment_id: str, on_lost: Callable[[Tap], None]) -> None:
        self._deployment_id, self._on_lost = deployment_id, on_lost
        self._transport: asyncio.Transport | None = None
        self._asked = self._requests = self._too_large = 0

    @classmethod
    async def open(cls, path: Path, deployment_id: str, on_lost: Callable[[Tap], None]) -> Tap:
        """Connect to a shadow.

        Args:
            path: the socket on which it listens.
            deployment_id: who answers here.
            on_lost: called when it has gone.

        Raises:
            OSError: nobody listens there.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            with short_path(path) as address:
                sock.connect(address)  # at once on a Unix socket
            loop = asyncio.get_running_loop()
            _, tap = await loop.create_connection(lambda: cls(deployment_id, on_lost), sock=sock)
        except BaseException:
            sock.close()
            raise
        return tap

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say who answers here."""
        if isinstance(transport, asyncio.Transport):
            self._transport = transport
            transport.write(self._deployment_id.encode() + b"\n")

    def data_received(self, data: bytes) -> None:
        """Each byte asks for one copy."""
        self._asked += len(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's signature
        """The shadow has ended, or answers itself now."""
        self._transport = None
        self._on_lost(self)

    def answered(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array], invoke_ms: float) -> None:
        """A request has been answered: copy it if the shadow has asked for one.

        Args:
            inputs: by name; nobody changes them any more.
            outputs: by name, as the client got them.
            invoke_ms: how long the invocation took.
        """
        self._requests += 1
        if not self._asked or self._transport is None:
            return
        self._asked -= 1
        frame = Frame(self._requests, self._too_large, invoke_ms, dict(inputs), dict(outputs))
        if size_bytes(inputs, outputs) > MAX_ARRAY_BYTES:
            self._too_large += 1
            frame = Frame(self._requests, self._too_large, invoke_ms, {}, {})
        self._transport.writelines(write(frame))

"""A body that is refused: what is still sent of it is read and forgotten, within reason.

A client that is still sending sees a reset connection instead of the answer.
"""

import asyncio
from contextlib import suppress
from typing import Final

from starlette.types import Message, Receive, Send

DRAIN_BYTES: Final = 64 * 1024 * 1024
DRAIN_S: Final = 5.0


class Body:
    """A body on its way: knows whether it has ended."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.ended = False

    async def receive(self) -> Message:
        """The next message."""
        message = await self._receive()
        self.ended = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    def answering(self, send: Send) -> Send:
        """`send`, which reads the rest of the body before an answer begins."""

        async def drained(message: Message) -> None:
            if message["type"] == "http.response.start" and not self.ended:
                await self.drain()
            await send(message)

        return drained

    async def drain(self) -> None:
        """Read what is left of it and forget it, within reason."""
        left = DRAIN_BYTES
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                while not self.ended and left > 0:
                    message = await self.receive()
                    left -= len(message.get("body", b""))

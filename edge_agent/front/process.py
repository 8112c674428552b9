"""The life of the front: learn the routes, accept, forward, drain, leave. See `runner.control` for what is said."""

from __future__ import annotations

import asyncio
import os
import traceback
from typing import TYPE_CHECKING

from edge_agent.front.app import FrontApp
from edge_agent.runner.channel import ControlChannel, leave_when_orphaned
from edge_agent.runner.control import (
    BEAT_INTERVAL_S,
    TO_FRONT,
    Beat,
    Drain,
    Drained,
    Routes,
    Serve,
    Serving,
    StopAccepting,
)
from edge_agent.runner.listener import Listener
from edge_agent.runner.process import ORPHAN_LIMIT_S, drain_until_told
from edge_agent.telemetry.board import rss_bytes

if TYPE_CHECKING:
    from edge_agent.runner.control import ToFront


class FrontProcess:
    """Does what the supervisor says."""

    def __init__(self, channel: ControlChannel[ToFront]) -> None:
        self._channel = channel
        self._inbox: asyncio.Queue[ToFront | None] = asyncio.Queue()  # None: the supervisor has gone
        self._app = FrontApp()
        self._listener = Listener(self._app)

    async def run(self) -> None:
        """Return when there is nothing left to do."""
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(self._listen()), loop.create_task(self._beat())]
        await drain_until_told(self._listener, self._inbox, await self._serve())
        self._channel.send(Drained())
        for task in tasks:
            task.cancel()
        await self._channel.flush()

    async def _listen(self) -> None:
        while True:
            message = await self._channel.receive()
            if isinstance(message, Routes):  # at once, and while it drains too: what was accepted is still forwarded
                self._app.route(message.sockets)
                continue
            self._inbox.put_nowait(message)
            if message is None:
                return

    async def _serve(self) -> Drain | None:
        while True:
            message = await self._inbox.get()
            if isinstance(message, Serve):
                await self._listener.accept(message.descriptors)
                self._channel.send(Serving())
            elif isinstance(message, StopAccepting):
                self._listener.stop(message.descriptors)
            elif message is None or isinstance(message, Drain):
                return message

    async def _beat(self) -> None:
        while True:
            self._channel.send(Beat(connections=self._listener.connections, rss_bytes=rss_bytes(os.getpid())))
            await asyncio.sleep(BEAT_INTERVAL_S)


async def run(control_descriptor: int) -> None:
    """Run until there is nothing left to do."""
    leave_when_orphaned(control_descriptor, ORPHAN_LIMIT_S)
    await FrontProcess(await ControlChannel.open(control_descriptor, TO_FRONT)).run()


def main(control_descriptor: int) -> None:
    """Run, then end at once: nothing that is left over must hold the process."""
    code = 1
    try:
        asyncio.run(run(control_descriptor))
        code = 0
    except Exception:  # noqa: BLE001  the top of the process: the trace goes to the log, then os._exit
        traceback.print_exc()
    finally:
        os._exit(code)

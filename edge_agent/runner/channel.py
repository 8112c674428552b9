"""The child's end of the control socket: JSON lines, and the notice that the supervisor has gone."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Generic, TypeVar

from edge_agent.errors import EdgeAgentError
from edge_agent.runner.control import line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic import TypeAdapter

    from edge_agent.protocol.base import Wire

LINE_LIMIT_BYTES = 32 << 20  # a manifest of 2 GiB in 64 KiB blocks lists 32,768 hashes
ORPHAN_EXIT = 3
_PR_SET_PDEATHSIG = 1  # Linux, <linux/prctl.h>

M = TypeVar("M")


class ControlError(EdgeAgentError):
    """The supervisor sent something that is no message."""

    code = "control"


class ControlChannel(Generic[M]):
    """Messages of one kind in, any message out."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, messages: TypeAdapter[M]) -> None:
        self._reader, self._writer, self._messages = reader, writer, messages

    @classmethod
    async def open(cls, descriptor: int, messages: TypeAdapter[M]) -> ControlChannel[M]:
        """Take over an inherited socket."""
        control = socket.socket(fileno=descriptor)
        control.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=control, limit=LINE_LIMIT_BYTES)
        return cls(reader, writer, messages)

    async def receive(self) -> M | None:
        """The next message; None when the supervisor has closed its end.

        Raises:
            ControlError: a line is no message.
        """
        try:
            text = await self._reader.readline()
        except (ConnectionError, OSError):
            return None
        if not text.endswith(b"\n"):
            return None
        try:
            return self._messages.validate_json(text)
        except ValueError as exc:
            raise ControlError(f"the control line can't be read: {str(exc)[:300]}") from exc

    def send(self, message: Wire) -> None:
        """Send without waiting; a supervisor that has gone hears nothing."""
        if not self._writer.is_closing():
            self._writer.write(line(message))

    async def flush(self) -> None:
        """Wait until everything sent has left."""
        try:
            await self._writer.drain()
            self._writer.close()
            await self._writer.wait_closed()
        except (ConnectionError, OSError):
            return


def control_descriptor_of(arguments: Sequence[str]) -> int:
    """The number behind `--control-fd`: only the supervisor says it, and argparse would cost each child 0.7 MB.

    Raises:
        SystemExit: a person tries to start it.
    """
    match arguments:
        case ["--control-fd", number] if number.isdigit():
            return int(number)
    raise SystemExit("edge-agent starts this process itself, with --control-fd and an inherited socket")


def die_with_the_supervisor(descriptor: int) -> None:
    """Let the kernel kill this process when the supervisor ends, even while native code holds the interpreter.

    The kernel means the thread that started this process: the supervisor starts all children from its main thread,
    which lives as long as the supervisor. Between a launcher and the supervisor it means the launcher, and on another
    kernel nobody: then `leave_when_orphaned` remains.
    """
    if sys.platform != "linux":
        return
    import ctypes  # noqa: PLC0415  numpy brings it anyway, and elsewhere nobody needs it

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # it may have ended before: not by `getppid`, which tells of a launcher what it would tell of init
    poll = select.poll()
    poll.register(descriptor, select.POLLRDHUP | select.POLLHUP)
    if poll.poll(0):
        os._exit(ORPHAN_EXIT)


def leave_when_orphaned(descriptor: int, grace_s: float) -> None:
    """End this process some time after the other end of the socket closes, even when the event loop hangs."""
    poll = select.poll()
    poll.register(descriptor, select.POLLRDHUP | select.POLLHUP)

    def watch() -> None:
        poll.poll()
        time.sleep(grace_s)
        os._exit(ORPHAN_EXIT)

    threading.Thread(target=watch, name="orphan", daemon=True).start()

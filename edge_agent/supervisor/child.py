"""A child process with a control socket: lines out, lines in, signs of life, and an end that is always noticed."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.runner.control import Beat, FromRunner, Window, line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pydantic import TypeAdapter

    from edge_agent.protocol.base import Wire

LINE_LIMIT_BYTES = 1 << 20
SEND_TIMEOUT_S = 5.0
STOP_PATIENCE_S = 3.0  # beyond the time in which a child should have left
_OOM_SCORE = 500  # when memory ends, the kernel takes a runner before the supervisor


class Child:
    """One runner or front process.

    Raises:
        OSError: it can't be started; from the constructor.
    """

    def __init__(
        self, command: Sequence[str], *, descriptors: Sequence[int], environment: Mapping[str, str], now_s: float
    ) -> None:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self.process = subprocess.Popen(  # noqa: S603  our own module, no shell
                    [*command, "--control-fd", str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    env=environment,
                    pass_fds=(theirs.fileno(), *descriptors),
                    process_group=0,  # Ctrl-C is for the supervisor, which then lets its children finish
                )
        except BaseException:
            ours.close()
            raise
        with contextlib.suppress(OSError):
            Path(f"/proc/{self.process.pid}/oom_score_adj").write_text(str(_OOM_SCORE))
        ours.setblocking(False)
        self.control = ours
        self.started_s = self.heard_s = now_s
        self.last_beat = Beat()
        self.kill_at_s: float | None = None
        self.ended = False
        self._buffer = bytearray()

    def send(self, message: Wire) -> None:
        """Tell it something; one that does not listen shows by its silence."""
        with contextlib.suppress(OSError):
            self.control.settimeout(SEND_TIMEOUT_S)
            self.control.sendall(line(message))
        with contextlib.suppress(OSError):
            self.control.setblocking(False)

    def receive(self, adapter: TypeAdapter[FromRunner], *, now_s: float) -> list[FromRunner]:
        """What it has said; `ended` is set when its socket has come to an end.

        Raises:
            ValueError: it speaks another language.
        """
        try:
            data = self.control.recv(256 * 1024)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            self.ended = True
            return []
        self.heard_s = now_s
        self._buffer += data
        if len(self._buffer) > LINE_LIMIT_BYTES:
            raise ValueError("a control line is too long")
        *lines, rest = self._buffer.split(b"\n")
        self._buffer = bytearray(rest)
        messages = [adapter.validate_json(bytes(text)) for text in lines if text]
        for message in messages:
            if isinstance(message, Beat):
                self.last_beat = message
        return messages

    def kill(self) -> None:
        """End it now."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

    def reap(self) -> str:
        """Wait for its end, and say what it was; one that only closed its socket is killed."""
        try:
            code = self.process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            self.kill()
            code = self.process.wait()
        self.control.close()
        if code >= 0:
            return f"exit code {code}"
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-code).name}"
        return f"killed by signal {-code}"

    def last_windows(self, adapter: TypeAdapter[FromRunner], *, now_s: float) -> list[Window]:
        """The windows that are still in the socket of a process that has ended."""
        windows: list[Window] = []
        while not self.ended:
            before = len(windows)
            with contextlib.suppress(ValueError):
                windows += [m for m in self.receive(adapter, now_s=now_s) if isinstance(m, Window)]
            if len(windows) == before:
                break
        return windows

"""The control socket: `edge-agent status` connects, and gets one JSON document."""

from __future__ import annotations

import contextlib
import json
import socket
from typing import TYPE_CHECKING, Any, cast

from edge_agent.errors import EdgeAgentError
from edge_agent.supervisor.listeners import listen_unix, short_path

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

ANSWER_TIMEOUT_S = 0.5  # a reader that does not read must not hold the worker


class NoAgentError(EdgeAgentError):
    """No agent runs in this data directory."""

    code = "no_agent"


class ControlServer:
    """Answers whoever connects."""

    def __init__(self, path: Path, describe: Callable[[], Mapping[str, object]]) -> None:
        self._path, self._describe = path, describe
        self.listener = listen_unix(path)
        self.listener.setblocking(False)

    def answer(self) -> None:
        """Answer one connection."""
        with contextlib.suppress(OSError):
            connection, _ = self.listener.accept()
            with connection:
                connection.settimeout(ANSWER_TIMEOUT_S)
                connection.sendall(json.dumps(self._describe()).encode() + b"\n")

    def close(self) -> None:
        """Stop answering."""
        self.listener.close()
        self._path.unlink(missing_ok=True)


def ask(path: Path, *, timeout_s: float = 5.0) -> dict[str, Any]:
    """What the agent behind a control socket says of itself.

    Raises:
        NoAgentError: nobody answers there.
    """
    chunks = []
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection, short_path(path) as address:
            connection.settimeout(timeout_s)
            connection.connect(address)
            while chunk := connection.recv(64 * 1024):
                chunks.append(chunk)
        document = json.loads(b"".join(chunks))
    except (OSError, ValueError) as exc:
        raise NoAgentError(
            f"no agent answers in {path.parent.parent}: start one with edge-agent start, or give its --data-dir"
        ) from exc
    return cast("dict[str, Any]", document)

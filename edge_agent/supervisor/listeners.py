"""The listening sockets: made once by the supervisor, inherited by whoever accepts, so that a swap refuses nobody."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.errors import EdgeAgentError

if TYPE_CHECKING:
    from edge_agent.layout import Layout

BACKLOG = 512
SUN_PATH_LIMIT = 107
SOCKET_MODE = 0o660  # to connect is to write: applications in the agent's group may, whatever the umask
OWN_MODE = 0o600  # only the agent's own processes
BIND_PATIENCE_S = 5.0  # runners of a supervisor that was killed need a moment to go


class ListenError(EdgeAgentError):
    """The address can't be listened on."""

    code = "listen_failed"


class Listeners:
    """One TCP port for all models, and one Unix socket for each."""

    def __init__(self, layout: Layout, address: tuple[str, int] | None) -> None:
        self._layout = layout
        layout.run_dir.mkdir(parents=True, exist_ok=True)
        for left in layout.run_dir.glob(layout.shadow_socket("*").name):  # by a supervisor that was killed
            left.unlink(missing_ok=True)
        self.tcp = None if address is None else _listen_tcp(*address)
        self._unix: dict[str, socket.socket] = {}

    @property
    def address(self) -> str | None:
        """Where the shared port is, as HOST:PORT."""
        if self.tcp is None:
            return None
        host, port = self.tcp.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def unix(self, model: str) -> socket.socket:
        """The Unix socket of a model, made when it is first wanted."""
        if model not in self._unix:
            self._unix[model] = listen_unix(self._layout.model_socket(model))
        return self._unix[model]

    def drop(self, model: str) -> None:
        """Nobody answers for this model any more."""
        if (listener := self._unix.pop(model, None)) is not None:
            listener.close()
            self._layout.model_socket(model).unlink(missing_ok=True)

    def close(self) -> None:
        """Stop listening."""
        for model in list(self._unix):
            self.drop(model)
        if self.tcp is not None:
            self.tcp.close()


def _listen_tcp(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        ListenError: somebody else holds the port, or the host is not ours.
    """
    give_up_at = time.monotonic() + BIND_PATIENCE_S
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    while True:
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            listener.listen(BACKLOG)
        except OSError as exc:
            listener.close()
            if exc.errno != errno.EADDRINUSE or time.monotonic() >= give_up_at:
                raise ListenError(f"can't listen on {host}:{port}: {exc.strerror}; give another --listen") from exc
            time.sleep(0.1)
        else:
            return listener


def listen_unix(path: Path, *, kind: socket.SocketKind = socket.SOCK_STREAM, mode: int = SOCKET_MODE) -> socket.socket:
    """A bound Unix socket, in place of whatever an earlier process left there."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, kind)
    try:
        with short_path(path) as address:
            listener.bind(address)
        path.chmod(mode)
        if kind == socket.SOCK_STREAM:
            listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


class short_path(contextlib.AbstractContextManager[str]):  # noqa: N801  reads as a function
    """A name for a socket path that fits into `sun_path`, whatever the data directory is called."""

    def __init__(self, path: Path) -> None:
        self._path, self._folder = path, -1

    def __enter__(self) -> str:
        """The path itself, or the same file seen through its folder's descriptor."""
        if len(os.fsencode(self._path)) <= SUN_PATH_LIMIT:
            return str(self._path)
        self._folder = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY)
        return str(Path("/proc/self/fd") / str(self._folder) / self._path.name)

    def __exit__(self, *_: object) -> None:
        """Let go of the folder."""
        if self._folder >= 0:
            os.close(self._folder)

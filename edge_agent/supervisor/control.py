"""The control socket: whoever connects sends one request as a line of JSON, and gets one JSON document."""

from __future__ import annotations

import contextlib
import json
import socket
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import Field, TypeAdapter, ValidationError

from edge_agent.deployments.records import MOST_DEFER_S
from edge_agent.errors import EdgeAgentError
from edge_agent.protocol.base import Name, StrictWire
from edge_agent.supervisor.listeners import listen_unix, short_path

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

ANSWER_TIMEOUT_S = 0.5  # a reader that does not read must not hold the worker
MOST_REQUEST_BYTES = 4096
MOST_OPEN = 32  # connections that have not said what they want yet; beyond that the oldest goes

Token = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class NoAgentError(EdgeAgentError):
    """No agent runs in this data directory."""

    code = "no_agent"


class RequestRefusedError(EdgeAgentError):
    """The agent can't do what it was asked, and says why."""

    code = "request_refused"


class StatusRequest(StrictWire):
    """What is known of everything here."""

    kind: Literal["status"] = "status"


class DeferRequest(StrictWire):
    """Swap nothing for now. The one who asks chooses the token, and may ask again with it for more time."""

    kind: Literal["defer"] = "defer"
    token: Token
    model: Name | None = None  # None: no model here
    for_s: Annotated[float, Field(gt=0, le=MOST_DEFER_S, allow_inf_nan=False)]
    reason: Annotated[str, Field(min_length=1, max_length=200)]


class ReleaseRequest(StrictWire):
    """Swap again as soon as nobody else defers."""

    kind: Literal["release"] = "release"
    token: Token


Request = StatusRequest | DeferRequest | ReleaseRequest
_REQUEST: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="kind")])


class ControlServer:
    """Answers whoever connects and asks.

    Args:
        path: of the socket.
        obey: answers a request; what it refuses rises as `RequestRefusedError`.
        watch: calls back when a descriptor can be read.
        unwatch: ends that.
    """

    def __init__(
        self,
        path: Path,
        obey: Callable[[Request], Mapping[str, object]],
        *,
        watch: Callable[[int, Callable[[], None]], None],
        unwatch: Callable[[int], None],
    ) -> None:
        self._path, self._obey, self._watch, self._unwatch = path, obey, watch, unwatch
        self._open: dict[socket.socket, bytes] = {}  # what each has said so far
        self.listener = listen_unix(path)
        self.listener.setblocking(False)

    def accept(self) -> None:
        """Take one connection in."""
        with contextlib.suppress(OSError):
            connection, _ = self.listener.accept()
            connection.setblocking(False)
            if len(self._open) >= MOST_OPEN:
                self._end(next(iter(self._open)))
            self._open[connection] = b""
            self._watch(connection.fileno(), partial(self._readable, connection))

    def close(self) -> None:
        """Stop answering."""
        for connection in list(self._open):
            self._end(connection)
        self.listener.close()
        self._path.unlink(missing_ok=True)

    def _readable(self, connection: socket.socket) -> None:
        if connection not in self._open:
            return  # ended in this very turn
        try:
            part = connection.recv(MOST_REQUEST_BYTES)
        except BlockingIOError:
            return
        except OSError:
            part = b""
        self._open[connection] += part
        text = self._open[connection]
        if part and b"\n" not in text and len(text) < MOST_REQUEST_BYTES:
            return
        with contextlib.suppress(OSError):
            if text:
                connection.settimeout(ANSWER_TIMEOUT_S)
                connection.sendall(json.dumps(self._answer(text)).encode() + b"\n")
        self._end(connection)

    def _answer(self, text: bytes) -> Mapping[str, object]:
        try:
            request = _REQUEST.validate_json(text.partition(b"\n")[0])
        except ValidationError as exc:
            first = exc.errors(include_url=False, include_input=False, include_context=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            return {"error": f"the request does not fit: {f'{where}: ' if where else ''}{first['msg']}"}
        try:
            return self._obey(request)
        except RequestRefusedError as exc:
            return {"error": str(exc)}

    def _end(self, connection: socket.socket) -> None:
        del self._open[connection]
        self._unwatch(connection.fileno())
        connection.close()


def ask(path: Path, request: Request | None = None, *, timeout_s: float = 5.0) -> dict[str, Any]:
    """What the agent behind a control socket answers.

    Args:
        path: of the socket.
        request: by default what it says of itself.
        timeout_s: for each step of the conversation.

    Raises:
        NoAgentError: nobody answers there.
        RequestRefusedError: it says why not.
    """
    chunks = []
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection, short_path(path) as address:
            connection.settimeout(timeout_s)
            connection.connect(address)
            connection.sendall((request or StatusRequest()).model_dump_json().encode() + b"\n")
            while chunk := connection.recv(64 * 1024):
                chunks.append(chunk)
        document = json.loads(b"".join(chunks))
    except (OSError, ValueError) as exc:
        raise NoAgentError(
            f"no agent answers in {path.parent.parent}: start one with edge-agent start, or give its --data-dir"
        ) from exc
    if isinstance(error := document.get("error"), str):
        raise RequestRefusedError(error)
    return cast("dict[str, Any]", document)

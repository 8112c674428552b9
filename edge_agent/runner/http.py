"""What runner and front share of HTTP: reading a body within a limit, answering, and errors as the protocol words them.

Raw ASGI: no framework, no numpy. The Open Inference Protocol says what the answers look like.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import orjson

from edge_agent.errors import EdgeAgentError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    Scope = dict[str, Any]
    Receive = Callable[[], Awaitable[dict[str, Any]]]
    Send = Callable[[dict[str, Any]], Awaitable[None]]
    Headers = Iterable[tuple[bytes, bytes]]

MAX_BODY_BYTES = 32 << 20
MAX_HELD_BYTES = 64 << 20  # bodies of all requests together; a single one may be as large as its own limit allows
LINGER_S = 1.0  # a client that is still sending when it is refused gets this long to stop and read the answer
LINGER_BYTES = 4 << 20
COMPLETE_S = "complete_s"  # in the scope's state: when the whole request was read, as perf_counter says
SHOWN_CHARS = 64  # of a client's text that an error repeats
JSON = b"application/json"
BINARY = b"application/octet-stream"
JSON_LENGTH = b"inference-header-content-length"


class BadRequestError(EdgeAgentError):
    """What was sent is not what the protocol or the model's signature asks for."""

    code = "bad_request"


class NotFoundError(EdgeAgentError):
    """There is no such path, model or version here."""

    code = "not_found"


class MisdirectedError(EdgeAgentError):
    """This connection was made before its port got another owner; on a new one the request will be answered."""

    code = "misdirected"


class MethodError(EdgeAgentError):
    """The path exists, the method does not."""

    code = "method_not_allowed"

    def __init__(self, allowed: str) -> None:
        super().__init__(f"use {allowed} here")
        self.allowed = allowed


class TooLargeError(EdgeAgentError):
    """More bytes than one request may bring."""

    code = "too_large"


class EncodingError(EdgeAgentError):
    """The body is compressed."""

    code = "unsupported_encoding"


class UnavailableError(EdgeAgentError):
    """The model's process does not answer now."""

    code = "unavailable"


class BusyError(EdgeAgentError):
    """The requests that are under way hold all the memory that bodies may take."""

    code = "busy"
    retryable = True


STATUS = {
    "bad_request": 400,
    "bad_input": 400,
    "not_found": 404,
    "method_not_allowed": 405,
    "too_large": 413,
    "unsupported_encoding": 415,
    "misdirected": 421,
    "invoke_failed": 500,
    "unavailable": 503,
    "busy": 503,
}


class Answer(NamedTuple):
    """A response; `close` ends the connection after it."""

    status: int
    body: bytes
    content_type: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()
    close: bool = False


def shown(value: object) -> str:
    """A client's value as an error may repeat it: short, and quoted."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARS else text[:SHOWN_CHARS] + "..."


def json_answer(value: Any, status: int = 200) -> Answer:  # noqa: ANN401  whatever JSON can say
    """An answer whose body is JSON."""
    return Answer(status, orjson.dumps(value))


def error_answer(error: EdgeAgentError) -> Answer:
    """`{"error": sentence}` with the status that belongs to the error."""
    extra: tuple[tuple[bytes, bytes], ...] = ()
    if isinstance(error, MethodError):
        extra = ((b"allow", error.allowed.encode()),)
    elif isinstance(error, BusyError):
        extra = ((b"retry-after", b"1"),)
    close = isinstance(error, (TooLargeError, EncodingError, MisdirectedError, BusyError))
    body = orjson.dumps({"error": str(error)})
    return Answer(STATUS.get(error.code, 500), body, headers=extra, close=close)


async def send_answer(send: Send, answer: Answer, *, close: bool = False, more: bool = False) -> None:
    """Send a response; with `more` the caller ends it by `end_answer`."""
    headers = [
        (b"content-type", answer.content_type),
        (b"content-length", b"%d" % len(answer.body)),
        *answer.headers,
    ]
    if close or answer.close:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body, "more_body": more})


async def send_refusal(receive: Receive, send: Send, answer: Answer) -> None:
    """Answer a client that may still be sending, and read on for a moment before the connection closes.

    A socket that is closed with unread bytes resets the connection, and the reset can overtake the answer.
    """
    await send_answer(send, answer, close=True, more=True)
    read_bytes = 0
    try:
        async with asyncio.timeout(LINGER_S):
            while read_bytes < LINGER_BYTES:
                message = await receive()
                read_bytes += len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body"):
                    break
    except TimeoutError:
        pass
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def header(headers: Headers, name: bytes) -> bytes | None:
    """The first header of this (lower-case) name."""
    return next((value for key, value in headers if key == name), None)


class HeldBodies:
    """The bodies that a process holds at once: what has arrived counts, not what was announced.

    Args:
        largest_bytes: what one request may bring; so much is always allowed.
    """

    def __init__(self, largest_bytes: int) -> None:
        self._limit_bytes = max(MAX_HELD_BYTES, largest_bytes)
        self.held_bytes = 0

    def take(self, size_bytes: int) -> None:
        """Hold more.

        Raises:
            BusyError: that would be too much; nothing was taken.
        """
        if self.held_bytes + size_bytes > self._limit_bytes:
            raise BusyError("the requests that are under way fill the memory for them: try again in a moment")
        self.held_bytes += size_bytes

    def release(self, size_bytes: int) -> None:
        """Hold less."""
        self.held_bytes -= size_bytes


async def read_body(headers: Headers, receive: Receive, held: HeldBodies, limit_bytes: int) -> bytes | None:
    """The whole body, which the caller releases from `held`; None when the client left before it was complete.

    Raises:
        BusyError: the bodies of other requests leave no room for it.
        TooLargeError: it is, or says that it will be, larger than the limit; nothing was read in the second case.
        EncodingError: it is compressed.
    """
    _check_announced(headers, limit_bytes)
    message = await receive()
    if not message.get("more_body"):
        body: bytes = message.get("body", b"")
        if len(body) > limit_bytes:
            _too_large(limit_bytes)
        if message["type"] != "http.request":
            return None
        held.take(len(body))
        return body
    parts = bytearray()
    whole = False
    try:
        while message["type"] == "http.request":
            if len(parts) + len(message["body"]) > limit_bytes:
                _too_large(limit_bytes)
            held.take(len(message["body"]))
            parts += message["body"]
            if not message.get("more_body"):
                whole = True
                return bytes(parts)
            message = await receive()
    finally:
        if not whole:
            held.release(len(parts))
    return None


def _check_announced(headers: Headers, limit_bytes: int) -> None:
    for key, value in headers:
        if key == b"content-length" and (len(value) > len(str(limit_bytes)) + 3 or int(value) > limit_bytes):
            _too_large(limit_bytes)
        if key == b"content-encoding" and value.lower() != b"identity":
            raise EncodingError(
                f"Content-Encoding {value.decode('latin-1')[:32]!r} is not supported: send the body as it is"
            )


def _too_large(limit_bytes: int) -> NoReturn:
    raise TooLargeError(f"one request may bring at most {limit_bytes} bytes: send fewer samples at once")


class ModelPath(NamedTuple):
    """`/v2/models/{model}[/versions/{version}][/{verb}]`."""

    model: str
    version: str | None
    verb: str  # "", ready, infer or stats


_MODEL_PATH = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?(?:/(ready|infer|stats))?/?")


def parse_model_path(path: str) -> ModelPath | None:
    """Read a path that names a model; None when it does not."""
    match = _MODEL_PATH.fullmatch(path)
    if match is None:
        return None
    return ModelPath(match[1], match[2], match[3] or "")


def server_metadata(version: str) -> dict[str, Any]:
    """The answer to `GET /v2`."""
    extensions = ["binary_tensor_data", "model_repository", "statistics"]
    return {"name": "shoal", "version": version, "extensions": extensions}


def require_method(scope: Scope, *allowed: str) -> None:
    """Refuse the wrong method.

    Raises:
        MethodError: names the right ones.
    """
    if scope["method"] not in allowed:
        raise MethodError(", ".join(allowed))

"""How large a body may be, decided before anything parses it."""

import json
import re
from http import HTTPStatus
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.schemas.common import ErrorBody, ErrorDocument

MAX_BODY_BYTES: Final = 1024 * 1024
_PUSH: Final = re.compile(r"/v1/models/[^/]+/versions/[^/]+")


class BodyLimit:
    """Reads the body of an ordinary request into memory, up to the limit; uploads are left to their own route.

    `Content-Length` is only a claim, and a chunked body makes none: so what arrives is counted.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int = MAX_BODY_BYTES) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http" or scope["method"] in {"GET", "HEAD", "OPTIONS"} or _is_push(scope):
            await self._app(scope, receive, send)
            return
        if _content_length(scope) > self._max_bytes:
            await self._refuse(send)
            return
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            if len(body) > self._max_bytes:
                await self._refuse(send)
                return
            if not message.get("more_body", False):
                break
        await self._app(scope, _replay(bytes(body), receive), send)

    async def _refuse(self, send: Send) -> None:
        text = f"The body is larger than {self._max_bytes} bytes, which no request here needs."
        content = json.dumps(ErrorDocument(error=ErrorBody(code="too_large", message=text)).model_dump()).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        headers.append((b"connection", b"close"))
        await send(
            {"type": "http.response.start", "status": int(HTTPStatus.REQUEST_ENTITY_TOO_LARGE), "headers": headers}
        )
        await send({"type": "http.response.body", "body": content})


def _replay(body: bytes, receive: Receive) -> Receive:
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return first.pop() if first else await receive()

    return again


def _is_push(scope: Scope) -> bool:
    """The one route that takes files; it counts them itself."""
    return scope["method"] == "POST" and _PUSH.fullmatch(scope["path"]) is not None


def _content_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0

"""How large a body may be, decided before anything parses it."""

import json
import re
from http import HTTPStatus
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.draining import Body
from server.schemas.common import ErrorBody, ErrorDocument

MAX_BODY_BYTES: Final = 1024 * 1024
_WITH_FILES: Final = re.compile(r"/v1/models/[^/]+/versions/[^/]+(/reports)?")


class BodyLimit:
    """Reads the body of an ordinary request into memory, up to the limit; one with files is counted by its route.

    A `Content-Length` above the limit is refused before a byte of the body is read. It is only a claim, and a chunked
    body makes none: so what arrives is counted too.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int = MAX_BODY_BYTES) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = Body(receive)
        if scope["method"] == "POST" and _WITH_FILES.fullmatch(scope["path"]):
            await self._app(scope, body.receive, body.answering(send))
            return
        if _claimed_bytes(scope) > self._max_bytes:
            await self._refuse(body, send)
            return
        content = bytearray()
        while not body.ended:
            message = await body.receive()
            if message["type"] == "http.disconnect":
                return
            content += message.get("body", b"")
            if len(content) > self._max_bytes:
                await self._refuse(body, send)
                return
        await self._app(scope, _replay(bytes(content), receive), send)

    async def _refuse(self, body: Body, send: Send) -> None:
        """Answer at once, whether or not more comes; the connection ends when the rest has been read, within reason."""
        text = f"The body is larger than {self._max_bytes} bytes, which no request here needs."
        content = json.dumps(ErrorDocument(error=ErrorBody(code="too_large", message=text)).model_dump()).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(content)).encode()),
            (b"connection", b"close"),
        ]
        await send(
            {"type": "http.response.start", "status": int(HTTPStatus.REQUEST_ENTITY_TOO_LARGE), "headers": headers}
        )
        await send({"type": "http.response.body", "body": content, "more_body": True})
        await body.drain()
        await send({"type": "http.response.body", "body": b""})


def _claimed_bytes(scope: Scope) -> int:
    """What `Content-Length` says; 0 without one. The HTTP server has refused what is no number."""
    return next((int(value) for name, value in scope["headers"] if name == b"content-length"), 0)


def _replay(body: bytes, receive: Receive) -> Receive:
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return first.pop() if first else await receive()

    return again

"""A program that decisions are posted to: a real HTTP server, which may be slow, fail, go away and come back."""

from __future__ import annotations

import json
import threading
from collections import deque
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Posted:
    """One request, and what it was answered."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    status: int

    @property
    def document(self) -> dict[str, Any]:
        return dict(json.loads(self.body))


class Hook:
    """Answers with the `statuses` that were put there, then with `status`; not before `answers` is set."""

    def __init__(self) -> None:
        self.posted: list[Posted] = []
        self.statuses: deque[int] = deque()
        self.status = 204
        self.location = ""
        self.answers = threading.Event()
        self.answers.set()
        self._port = 0
        self._server: ThreadingHTTPServer | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def taken(self) -> list[int]:
        """Numbers of the decisions that were answered with success, in order."""
        return [one.document["id"] for one in self.posted if one.status < 300]

    def start(self) -> None:
        """Listen, on the same port each time."""
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = hook.statuses.popleft() if hook.statuses else hook.status
                hook.posted.append(Posted(self.path, dict(self.headers), body, status))
                hook.answers.wait(60)
                self.send_response(status)
                if hook.location:
                    self.send_header("Location", hook.location)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:  # who was killed reads no answer
                pass

        self._server = Server(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Be away."""
        if self._server is not None:
            self.answers.set()
            self._server.shutdown()
            self._server.server_close()
            self._server = None

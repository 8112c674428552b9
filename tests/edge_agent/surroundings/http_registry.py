"""The registry's HTTP side as a device sees it."""

from __future__ import annotations

import http.client
import http.server
import json
import threading
from typing import TYPE_CHECKING

from tests.edge_agent.surroundings.device import DEVICE, KEY

if TYPE_CHECKING:
    from tests.edge_agent.surroundings.toy_variant import ToyVariant


class HttpRegistry(http.server.ThreadingHTTPServer):
    """The registry's HTTP side: manifests, presigned objects with ranges."""

    daemon_threads = True

    def __init__(self, mqtt_url: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.mqtt_url = mqtt_url
        self.variants: dict[str, ToyVariant] = {}
        self.ranges: list[str] = []
        self.urls_given = 0
        self.expired_urls = 0  # so many URLs are refused by the store
        self.expires_when_cut = False
        self.store_says: list[int] = []  # statuses of the store's next answers
        self.registry_says: list[int] = []  # the same where a URL is asked for
        self.retry_after_s = 0
        self.hang_after_bytes: int | None = None
        self.hung = threading.Event()  # the client of an answer that hangs has gone
        self.cut_after_bytes: int | None = None
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is part of the tests."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: HttpRegistry
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
        pass

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        parts = self.path.partition("?")[0].split("/")
        if self.path.startswith("/v1/device/"):
            if self.headers["Authorization"] != f"Device {DEVICE}:{KEY}":
                self._send(401, json.dumps({"error": {"code": "unauthorized", "message": "who?"}}).encode())
            elif parts[3] == "manifests" and parts[4] in self.server.variants:
                self._send(200, self.server.variants[parts[4]].text)
            elif self.server.registry_says:
                status = self.server.registry_says.pop(0)
                self._send(status, b"{}", Retry_After=str(self.server.retry_after_s))
            elif parts[3] == "objects" and self._object(parts[4]) is not None:
                self.server.urls_given += 1
                url = f"{self.server.url}/store/{parts[4]}?n={self.server.urls_given}"
                self._send(200, json.dumps({"url": url, "expires_at": 0.0}).encode())
            else:
                self._send(404, json.dumps({"error": {"code": "not_found", "message": "no such thing"}}).encode())
        elif self.server.expired_urls:
            self.server.expired_urls -= 1
            self._send(403, b"<Error>expired</Error>")
        elif self.server.store_says:
            self._send(self.server.store_says.pop(0), b"<Error/>", Retry_After=str(self.server.retry_after_s))
        else:
            self._send_range(self._object(parts[2]) or b"")

    def _send_range(self, data: bytes) -> None:
        asked = self.headers["Range"]
        self.server.ranges.append(asked)
        first, last = (int(number) for number in asked.removeprefix("bytes=").split("-"))
        body = data[first : last + 1]
        if self.server.hang_after_bytes is not None:
            self._hang(body, self.server.hang_after_bytes)
            return
        cut = self.server.cut_after_bytes
        if cut is not None and len(body) > cut:
            self.server.cut_after_bytes = None
            self.server.expired_urls += self.server.expires_when_cut
            self.send_response(206)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:cut])
            self.close_connection = True
            return
        self._send(206, body)

    def _hang(self, body: bytes, after_bytes: int) -> None:
        """Send a part, then nothing, until the client goes."""
        self.send_response(206)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:after_bytes])
        self.rfile.read(1)
        self.server.hung.set()
        self.close_connection = True

    def _object(self, sha256: str) -> bytes | None:
        return next((v.travelling for v in self.server.variants.values() if v.object_sha256 == sha256), None)

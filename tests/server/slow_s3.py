"""A way to S3 on which every answer to a write comes late; reads pass at once."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def slow_writes(endpoint: str, delay_s: float) -> Iterator[str]:
    """The address of a proxy in front of `endpoint`."""
    target = urlsplit(endpoint)
    sockets: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    near, _ = listener.accept()
                    far = socket.create_connection((target.hostname, target.port))
                    sockets.extend((near, far))
                    _join(near, far, delay_s)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(5)
            for each in sockets:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
                each.close()


def _join(near: socket.socket, far: socket.socket, delay_s: float) -> None:
    writes = threading.Event()

    def forth() -> None:
        with suppress(OSError):
            while data := near.recv(1 << 16):
                if data.startswith(b"PUT "):
                    writes.set()
                elif data.startswith((b"GET ", b"HEAD ")):
                    writes.clear()
                far.sendall(data)
            far.shutdown(socket.SHUT_RDWR)

    def back() -> None:
        with suppress(OSError):
            while data := far.recv(1 << 16):
                if writes.is_set():
                    time.sleep(delay_s)
                near.sendall(data)
            near.shutdown(socket.SHUT_RDWR)

    for work in (forth, back):
        threading.Thread(target=work, daemon=True).start()

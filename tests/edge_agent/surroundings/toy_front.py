"""A front process that forwards one request for each connection: the other half of the supervisor's own contract."""

from __future__ import annotations

import re
import selectors
import socket
import sys
import time

from edge_agent.runner.control import TO_FRONT, Beat, Drain, Drained, Routes, Serve, Serving, line


def forward(connection: socket.socket, routes: dict[str, str]) -> None:
    connection.settimeout(5)
    request = connection.recv(1 << 16)
    model = re.search(rb"/v2/models/([^/ ]+)", request)
    path = routes.get(model[1].decode()) if model else None
    if path is None:
        connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        return
    with socket.socket(socket.AF_UNIX) as upstream:
        upstream.connect(path)
        upstream.sendall(request)
        while data := upstream.recv(1 << 16):
            connection.sendall(data)


def main(control: socket.socket) -> None:
    selector = selectors.DefaultSelector()
    selector.register(control, selectors.EVENT_READ, None)
    routes: dict[str, str] = {}
    buffer, draining = b"", False
    while not draining:
        for key, _ in selector.select(0.2):
            if key.data is not None:
                with key.data.accept()[0] as connection:
                    forward(connection, routes)
                continue
            data = control.recv(1 << 16)
            if not data:
                return
            *lines, buffer = (buffer + data).split(b"\n")
            for text in lines:
                match message := TO_FRONT.validate_json(text):
                    case Routes():
                        routes = {model: str(path) for model, path in message.sockets.items()}
                    case Serve():
                        for descriptor in message.descriptors:
                            listener = socket.socket(fileno=descriptor)
                            selector.register(listener, selectors.EVENT_READ, listener)
                        control.sendall(line(Serving()))
                    case Drain():
                        draining = True
        control.sendall(line(Beat(busy_ms=time.monotonic() % 1)))
    control.sendall(line(Drained()))


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[sys.argv.index("--control-fd") + 1])))

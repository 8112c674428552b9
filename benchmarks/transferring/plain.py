"""The peers: what the bare protocols take for the same bytes. No manifest, no hash, no disk."""

from __future__ import annotations

import http.client
import selectors
import socket
import threading
import time
import urllib.parse

from edge_agent.protocol.topics import broadcast_block, broadcast_blocks

KEEPALIVE_S = 60
CONNACK_BYTES, SUBACK_BYTES = 4, 5
RECEIVE_BYTES = 1 << 20


def fan_out(broker: tuple[str, int], payload: bytes, *, block_bytes: int, subscribers: int) -> float:
    """Publish an object once, in blocks of QoS 0, to so many bare sockets; seconds until the last one has all of it."""
    name = "0" * 64
    blocks = [payload[start : start + block_bytes] for start in range(0, len(payload), block_bytes)]
    packets = [_publish(broadcast_block(name, index), block) for index, block in enumerate(blocks)]
    expected = sum(len(packet) for packet in packets)
    ends = [_subscriber(broker, f"plain-{n}", broadcast_blocks(name)) for n in range(subscribers)]
    publisher = _client(broker, "plain-publisher")
    began_s = time.monotonic()
    thread = threading.Thread(target=publisher.sendall, args=(b"".join(packets),))
    thread.start()
    with selectors.DefaultSelector() as selector:
        for end in ends:
            end.setblocking(False)
            selector.register(end, selectors.EVENT_READ, [0])
        left = len(ends)
        while left:
            for key, _ in selector.select(30.0):
                read = len(key.fileobj.recv(RECEIVE_BYTES))  # type: ignore[union-attr]  # a socket
                if not read:
                    raise ConnectionError("the broker has closed a subscriber's connection")
                key.data[0] += read
                if key.data[0] >= expected:
                    selector.unregister(key.fileobj)
                    left -= 1
    took_s = time.monotonic() - began_s
    thread.join()
    for end in (*ends, publisher):
        end.close()
    return took_s


def ranged_get(url: str, *, size_bytes: int) -> bytes:
    """Fetch an object as a plain client does that goes on after each cut, where it was cut."""
    parts = urllib.parse.urlsplit(url)
    data = bytearray()
    while len(data) < size_bytes:
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=30)
        try:
            connection.request("GET", f"{parts.path}?{parts.query}", headers={"Range": f"bytes={len(data)}-"})
            response = connection.getresponse()
            while piece := response.read1(64 * 1024):
                data += piece
        except (OSError, http.client.HTTPException):
            time.sleep(0.05)
        finally:
            connection.close()
    return bytes(data)


def _subscriber(broker: tuple[str, int], name: str, topic: str) -> socket.socket:
    end = _client(broker, name)
    body = b"\0\1" + _text(topic) + b"\0"
    end.sendall(b"\x82" + _length(len(body)) + body)
    _expect(end, SUBACK_BYTES)
    return end


def _client(broker: tuple[str, int], name: str) -> socket.socket:
    """A connection of MQTT 3.1.1, section 3.1."""
    end = socket.create_connection(broker)
    body = _text("MQTT") + b"\x04\x02" + KEEPALIVE_S.to_bytes(2, "big") + _text(name)
    end.sendall(b"\x10" + _length(len(body)) + body)
    _expect(end, CONNACK_BYTES)
    return end


def _publish(topic: str, payload: bytes) -> bytes:
    body = _text(topic) + payload
    return b"\x30" + _length(len(body)) + body


def _text(text: str) -> bytes:
    return len(text).to_bytes(2, "big") + text.encode()


def _length(number: int) -> bytes:
    encoded = bytearray()
    while True:
        number, digit = divmod(number, 128)
        encoded.append(digit | (0x80 if number else 0))
        if not number:
            return bytes(encoded)


def _expect(end: socket.socket, size_bytes: int) -> None:
    while size_bytes:
        answer = end.recv(size_bytes)
        if not answer:
            raise ConnectionError("the broker refuses a plain client")
        size_bytes -= len(answer)

"""Does a part answer? Real questions over the wire, with the standard library only."""

import http.client
import socket
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

TIMEOUT_S: Final = 1.0
MQTT_PORT: Final = 1883
# MQTT 5, CONNECT (section 3.1): protocol name, version 5, clean start, 10 s keep-alive, no properties, empty client id.
_CONNECT: Final = bytes.fromhex("100d 0004 4d515454 05 02 000a 00 0000")
_DISCONNECT: Final = bytes.fromhex("e000")
_CONNACK: Final = 0x20
_CONNACK_BYTES: Final = 5


def mqtt_answers(host: str, port: int, *, timeout_s: float = TIMEOUT_S) -> bool:
    """Whether an MQTT 5 broker accepts a connection there (CONNACK with reason 0)."""
    try:
        with socket.create_connection((host, port), timeout=timeout_s) as connection:
            connection.sendall(_CONNECT)
            answer = b""
            while len(answer) < _CONNACK_BYTES and (part := connection.recv(64)):
                answer += part
            connection.sendall(_DISCONNECT)
    except OSError:
        return False
    # fixed header, remaining length, session flags, reason code, ...
    return len(answer) >= _CONNACK_BYTES and answer[0] == _CONNACK and answer[3] == 0


def mqtt_url_answers(url: str) -> bool:
    """The same for an address of the settings."""
    parts = urlsplit(url)
    return mqtt_answers(parts.hostname or "", parts.port or MQTT_PORT)


def http_answers(host: str, port: int, path: str, *, timeout_s: float = TIMEOUT_S) -> bool:
    """Whether GET gives 200 there."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()

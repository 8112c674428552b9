"""Does a part answer? Real questions over the wire, with the standard library only."""

import http.client
import socket
import ssl
from contextlib import ExitStack
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

TIMEOUT_S: Final = 1.0
MQTT_PORT: Final = 1883
MQTTS_PORT: Final = 8883
# MQTT 5, CONNECT (section 3.1): protocol name, version 5, clean start, 10 s keep-alive, no properties, empty client id.
_CONNECT: Final = bytes.fromhex("100d 0004 4d515454 05 02 000a 00 0000")
_DISCONNECT: Final = bytes.fromhex("e000")
_CONNACK: Final = 0x20
_CONNACK_BYTES: Final = 5


def mqtt_answers(
    host: str, port: int, *, tls: ssl.SSLContext | None = None, name: str | None = None, timeout_s: float = TIMEOUT_S
) -> bool:
    """Whether an MQTT 5 broker accepts a connection there (CONNACK with reason 0).

    Args:
        host: where to connect to.
        port: of the broker.
        tls: with which certificate and trust; None: without encryption.
        name: that its certificate must have; None: the host's.
        timeout_s: for each step.
    """
    try:
        with ExitStack() as stack:
            connection = stack.enter_context(socket.create_connection((host, port), timeout=timeout_s))
            if tls is not None:
                connection = stack.enter_context(tls.wrap_socket(connection, server_hostname=name or host))
            connection.sendall(_CONNECT)
            answer = b""
            while len(answer) < _CONNACK_BYTES and (part := connection.recv(64)):
                answer += part
            connection.sendall(_DISCONNECT)
    except OSError:
        return False
    # fixed header, remaining length, session flags, reason code, ...
    return len(answer) >= _CONNACK_BYTES and answer[0] == _CONNACK and answer[3] == 0


def mqtt_url_answers(url: str, tls: ssl.SSLContext | None = None) -> bool:
    """The same for an address of the settings."""
    parts = urlsplit(url)
    port = parts.port or (MQTT_PORT if tls is None else MQTTS_PORT)
    return mqtt_answers(parts.hostname or "", port, tls=tls)


def http_answers(
    host: str, port: int, path: str, *, tls: ssl.SSLContext | None = None, timeout_s: float = TIMEOUT_S
) -> bool:
    """Whether GET gives 200 there; with `tls`, by HTTPS."""
    connection: http.client.HTTPConnection
    if tls is None:
        connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    else:
        connection = http.client.HTTPSConnection(host, port, timeout=timeout_s, context=tls)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()

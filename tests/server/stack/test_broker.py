import socket
from urllib.parse import urlsplit

import pytest

from server.stack import broker as broker_module
from server.stack.broker import mosquitto_executable
from server.stack.errors import MosquittoMissingError
from server.stack.probes import http_answers, mqtt_answers, mqtt_url_answers

CONNECT = bytes.fromhex("100d 0004 4d515454 05 02 003c 00 0000")
MIB = 1024 * 1024


def remaining_length(value: int) -> bytes:
    encoded = bytearray()
    while True:
        value, digit = divmod(value, 128)
        encoded.append(digit | (0x80 if value else 0))
        if not value:
            return bytes(encoded)


@pytest.mark.parametrize(("size_bytes", "is_accepted"), [(1 * MIB, True), (5 * MIB, False)])
def test_broker_cuts_off_who_sends_more_than_a_block_and_goes_on(
    broker: str, size_bytes: int, *, is_accepted: bool
) -> None:
    parts = urlsplit(broker)
    topic = b"size/of/message"
    content = len(topic).to_bytes(2) + topic + b"\0\1" + b"\0" + bytes(size_bytes)  # topic, packet id 1, no properties
    with socket.create_connection((parts.hostname, parts.port), timeout=5) as client:
        client.sendall(CONNECT)
        assert client.recv(100)[0] == 0x20
        answer = b""
        try:
            client.sendall(b"\x32" + remaining_length(len(content)) + content)
            answer = client.recv(100)
        except (ConnectionResetError, BrokenPipeError):
            pass
    assert (answer[:1] == b"\x40") is is_accepted  # PUBACK
    assert mqtt_url_answers(broker)


def test_mosquitto_missing_is_one_sentence_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_module, "SEARCH_PATH", "/nonexistent")
    with pytest.raises(MosquittoMissingError, match="sudo apt-get install mosquitto"):
        mosquitto_executable()


def test_probes_of_a_port_where_nobody_or_somebody_else_listens_say_no() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        assert not mqtt_answers("127.0.0.1", held.getsockname()[1])
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        assert not mqtt_answers("127.0.0.1", port, timeout_s=0.1)
        assert not http_answers("127.0.0.1", port, "/", timeout_s=0.1)


def test_http_probe_of_the_broker_says_no(broker: str) -> None:
    assert not http_answers("127.0.0.1", urlsplit(broker).port or 0, "/v1/health")

"""The proxy of the benchmark: what it carries, counts and cuts."""

from __future__ import annotations

import os
import random
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from benchmarks.transferring.plain import fan_out
from benchmarks.transferring.wire import Cuts, HttpMeter, MqttMeter, NoObjects, Wire, object_in_path
from tests.edge_agent.surroundings.broker import Broker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BLOCK = bytes(range(256)) * 256


def publish(topic: bytes, payload: bytes) -> bytes:
    """MQTT 5 section 3.3, QoS 0 without properties."""
    body = len(topic).to_bytes(2, "big") + topic + b"\0" + payload
    length = bytearray()
    rest = len(body)
    while rest or not length:
        rest, digit = divmod(rest, 128)
        length.append(digit | (0x80 if rest else 0))
    return b"\x30" + bytes(length) + body


@pytest.mark.parametrize("seed", range(5))
def test_mqtt_meter_counts_blocks_alone_however_the_stream_is_cut_up(seed: int) -> None:
    chance = random.Random(seed)
    stream = b"\x20\x03\0\0\0"  # CONNACK
    stream += publish(b"shoal/v1/d/x/desired", b"{}" * 300)
    stream += publish(b"shoal/v1/a/" + b"0" * 64 + b"/0", BLOCK)
    stream += publish(b"shoal/v1/d/x/block/" + b"0" * 64 + b"/1", BLOCK[:5000])
    stream += b"\xd0\0" + publish(b"shoal/v1/a/" + b"0" * 64 + b"/2", BLOCK)[:-100]  # unfinished
    meter, counted = MqttMeter(), 0
    while stream:
        length = chance.choice((1, 3, 700, 40_000))
        counted += meter.payload_bytes(stream[:length])
        stream = stream[length:]
    assert counted == 2 * len(BLOCK) + 5000 - 100


def test_http_meter_counts_the_body_of_a_good_answer_alone() -> None:
    meter = HttpMeter()
    answer = b"HTTP/1.1 206 Partial Content\r\nContent-Length: 10\r\n\r\n0123456789"
    assert sum(meter.payload_bytes(answer[i : i + 7]) for i in range(0, len(answer), 7)) == 10
    assert HttpMeter().payload_bytes(b"HTTP/1.1 403 Forbidden\r\n\r\n<Error/>") == 0
    assert object_in_path(b"GET /shoal/objects/ab/abcd?X-Amz=1 HTTP/1.1\r\n") == "abcd"


@pytest.fixture
def server() -> Iterator[tuple[str, int]]:
    """Sends a megabyte to whoever sends a byte."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                end, _ = listener.accept()
                with end, suppress(OSError):
                    end.recv(1)
                    end.sendall(BLOCK * 16)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listener.getsockname()
    listener.shutdown(socket.SHUT_RDWR)
    thread.join()
    listener.close()


def received(port: int) -> tuple[int, bool]:
    """How much comes, and whether the connection was reset."""
    with socket.create_connection(("127.0.0.1", port)) as end:
        end.sendall(b"x")
        total = 0
        try:
            while data := end.recv(1 << 16):
                total += len(data)
        except ConnectionResetError:
            return total, True
    return total, False


def test_wire_resets_each_account_so_many_times_and_counts_what_arrived(server: tuple[str, int]) -> None:
    wire = Wire(server, meter=NoObjects, cuts=Cuts(2, 100_000, seed=1))
    seen = [received(wire.port) for _ in range(3)]
    wire.close()
    account = wire.account()
    assert [reset for _, reset in seen] == [True, True, False]
    assert all(50_000 <= size <= 150_000 for size, _ in seen[:2])
    assert seen[2][0] == 16 * len(BLOCK)
    assert account.down_bytes == sum(size for size, _ in seen), "what was counted was read, even after the reset"
    assert (account.up_bytes, account.cuts, account.payload_bytes) == (3, 2, 0)


def test_fan_out_reaches_every_bare_subscriber(tmp_path: Path) -> None:
    broker = Broker(tmp_path)
    broker.start()
    try:
        took_s = fan_out(("127.0.0.1", broker.port), os.urandom(300_000), block_bytes=65_536, subscribers=3)
    finally:
        broker.kill()
    assert took_s > 0

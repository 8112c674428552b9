from __future__ import annotations

import asyncio
import json
import resource
import socket
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from edge_agent.runner.http import (
    COMPLETE_S,
    MAX_BODY_BYTES,
    BusyError,
    HeldBodies,
    json_answer,
    read_body,
    send_answer,
)
from edge_agent.runner.listener import HEAD_LIMIT_BYTES, MAX_CONNECTIONS, Listener
from tests.edge_agent.runner.conftest import listen

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from edge_agent.runner.listener import Gate

REQUEST = b"POST /v2 HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}"


async def echo(gate: Gate, scope: dict[str, Any], receive: Any, send: Any) -> None:  # noqa: ANN401  ASGI callables
    body = await read_body(scope["headers"], receive, HeldBodies(MAX_BODY_BYTES), MAX_BODY_BYTES)
    await send_answer(send, json_answer({"bytes": len(body or b"")}), close=gate.closing)


def run(
    story: Callable[[Listener, socket.socket], Coroutine[None, None, None]],
    *,
    app: Callable[..., Coroutine[None, None, None]] = echo,
    connection_limit: int = MAX_CONNECTIONS,
) -> None:
    async def whole() -> None:
        with listen() as listening:
            listener = Listener(app, connection_limit=connection_limit)
            await listener.accept([listening.fileno()])
            async with asyncio.timeout(20):
                await story(listener, listening)
                await listener.drain(0.0)

    asyncio.run(whole())


async def answer_to(connection: socket.socket) -> bytes:
    """A whole answer; what came of it when the other side hung up."""
    connection.settimeout(5)
    answer = b""
    while not answer.endswith(b"}"):
        data = await asyncio.to_thread(connection.recv, 65536)
        if not data:
            break
        answer += data
    return answer


@pytest.mark.parametrize("turns", range(5))
def test_stop_in_any_turn_of_the_loop_loses_no_connection(turns: int) -> None:
    async def story(listener: Listener, listening: socket.socket) -> None:
        other = Listener(echo)  # as another process does: it accepts on the same socket from now on
        with socket.create_connection(listening.getsockname()) as client:
            client.sendall(REQUEST)
            for _ in range(turns):
                await asyncio.sleep(0)
            listener.stop([listening.fileno()])
            await other.accept([listening.fileno()])
            assert (await answer_to(client)).startswith(b"HTTP/1.1 200 ")
        await other.drain(1.0)

    run(story)


def test_drain_waits_for_a_connection_that_has_just_been_accepted() -> None:
    async def story(listener: Listener, listening: socket.socket) -> None:
        with socket.create_connection(listening.getsockname()) as client:
            client.sendall(REQUEST)
            for _ in range(2):
                await asyncio.sleep(0)
            drained = asyncio.create_task(listener.drain(5.0))
            answer = await answer_to(client)
            assert b"connection: close" in answer
        await drained
        assert listener.connections == 0

    run(story)


def test_accept_again_after_stop_answers() -> None:
    async def story(listener: Listener, listening: socket.socket) -> None:
        listener.stop([listening.fileno()])
        await listener.accept([listening.fileno(), listening.fileno()])
        with socket.create_connection(listening.getsockname()) as client:
            client.sendall(REQUEST)
            assert b'{"bytes":2}' in await answer_to(client)

    run(story)


def test_accept_without_a_descriptor_left_waits_until_there_is_one() -> None:
    async def story(listener: Listener, listening: socket.socket) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with socket.create_connection(listening.getsockname()) as client:
            client.sendall(REQUEST)
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (client.fileno() + 1, hard))
                await asyncio.sleep(0.2)
                assert listener.connections == 0
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert b'{"bytes":2}' in await answer_to(client)

    run(story)


@pytest.mark.parametrize("started", [b"", b"POST /v2 HTTP/1.1\r\n", REQUEST[:-1]], ids=["silent", "head", "body"])
def test_listener_at_its_limit_closes_the_client_that_was_silent_longest(started: bytes) -> None:
    async def story(listener: Listener, listening: socket.socket) -> None:
        with ExitStack() as stack:
            clients = []
            for _ in range(3):
                client = stack.enter_context(socket.create_connection(listening.getsockname()))
                client.sendall(started)
                clients.append(client)
                await asyncio.sleep(0.05)
            assert listener.connections == 3
            newcomer = stack.enter_context(socket.create_connection(listening.getsockname()))
            newcomer.sendall(REQUEST)
            assert b'{"bytes":2}' in await answer_to(newcomer)
            assert await answer_to(clients[0]) == b""
            clients[1].sendall(REQUEST[len(started) :])
            assert b'{"bytes":2}' in await answer_to(clients[1])

    run(story, connection_limit=3)


def test_listener_at_its_limit_cuts_off_nobody_who_waits_for_an_answer() -> None:
    ready = asyncio.Event()

    async def slow(gate: Gate, scope: dict[str, Any], receive: Any, send: Any) -> None:  # noqa: ANN401  ASGI callables
        await ready.wait()
        await echo(gate, scope, receive, send)

    async def story(listener: Listener, listening: socket.socket) -> None:
        with ExitStack() as stack:
            clients = [stack.enter_context(socket.create_connection(listening.getsockname())) for _ in range(3)]
            for client in clients:
                client.sendall(REQUEST)
            await asyncio.sleep(0.3)
            assert listener.connections == 2
            ready.set()
            for client in clients:
                assert b'{"bytes":' in await answer_to(client)

    run(story, app=slow, connection_limit=2)


def test_listener_tells_when_a_request_was_read_although_others_are_served_first() -> None:
    served: list[tuple[float, float]] = []  # read, answered

    async def busy(gate: Gate, scope: dict[str, Any], receive: Any, send: Any) -> None:  # noqa: ANN401  ASGI callables
        time.sleep(0.05)  # noqa: ASYNC251  as a small model that runs in the loop itself
        served.append((scope["state"][COMPLETE_S], time.perf_counter()))
        await echo(gate, scope, receive, send)

    async def story(_listener: Listener, listening: socket.socket) -> None:
        with ExitStack() as stack:
            clients = [stack.enter_context(socket.create_connection(listening.getsockname())) for _ in range(3)]
            for client in clients:  # each is a connection by now
                client.sendall(REQUEST)
                await answer_to(client)
            served.clear()
            for client in clients:
                client.sendall(REQUEST)  # in one turn of the loop
            for client in clients:
                assert b'{"bytes":2}' in await answer_to(client)
        first_answered_s = served[0][1]
        assert all(read_s < first_answered_s for read_s, _ in served)

    run(story, app=busy)


def test_held_bodies_refuse_what_is_too_much_and_forget_what_was_released() -> None:
    async def body_of(held: HeldBodies, *chunks: bytes) -> bytes | None:
        messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
        messages[-1]["more_body"] = False

        async def receive() -> dict[str, Any]:
            return messages.pop(0)

        return await read_body([], receive, held, MAX_BODY_BYTES)

    async def story() -> None:
        held, chunk = HeldBodies(0), bytes(8 << 20)
        first = await body_of(held, chunk, chunk, chunk)
        second = await body_of(held, chunk, chunk, chunk)
        with pytest.raises(BusyError):
            await body_of(held, chunk, chunk, chunk)
        assert first is not None
        assert second is not None
        assert held.held_bytes == len(first) + len(second)
        held.release(len(first))
        assert await body_of(held, chunk, chunk, chunk) == bytes(24 << 20)

    asyncio.run(story())


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET / HTTP/1.1\r\n" + b"a: " + b"x" * 4096 + b"\r\n", 431),
        (b"GET /" + b"x" * 4096, 431),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n" + b"trailer: " + b"x" * 4096, 431),
        (b"\x16\x03\x01\x02\x00", 400),
        (b"GET http://[ HTTP/1.1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", 400),
    ],
    ids=["headers", "path", "trailers", "tls", "url", "negative", "two-lengths"],
)
def test_hostile_heads_are_refused_in_the_protocol_s_words(sent: bytes, status: int) -> None:
    async def story(_listener: Listener, listening: socket.socket) -> None:
        with socket.create_connection(listening.getsockname()) as client:
            client.settimeout(5)
            try:
                await asyncio.to_thread(client.sendall, sent)
                for _ in range(2 * HEAD_LIMIT_BYTES // 4096 if status == 431 else 0):
                    await asyncio.to_thread(client.sendall, b"x" * 4096)
                    await asyncio.sleep(0)
            except ConnectionError:
                pass  # it hung up in the middle of it, as it should
            head, _, body = (await answer_to(client)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status)
        assert set(json.loads(body)) == {"error"}

    run(story)


def test_body_that_comes_one_byte_at_a_time_is_no_head() -> None:
    async def story(_listener: Listener, listening: socket.socket) -> None:
        with socket.create_connection(listening.getsockname()) as client:
            chunks = b"1\r\nx\r\n" * 40_000
            client.sendall(b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n")
            await asyncio.to_thread(client.sendall, chunks + b"0\r\n\r\n")
            assert b'{"bytes":40000}' in await answer_to(client)

    run(story)

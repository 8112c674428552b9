from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

import pytest

from edge_agent.front import upstream as module
from edge_agent.front.upstream import Upstream
from edge_agent.runner.http import UnavailableError
from edge_agent.supervisor.listeners import short_path

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

REQUEST = [b"POST /v2/models/red/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n", b"{}"]
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class ScriptedRunner:
    """A real socket whose connections answer as told: the n-th request gets the n-th bytes, then the line is cut."""

    def __init__(self, path: Path, answers: list[bytes], *, keep_alive: bool = False) -> None:
        self.path, self.answers, self.requests, self._keep = path, answers, 0, keep_alive
        self.connections = 0

    async def start(self) -> asyncio.Server:
        return await asyncio.start_unix_server(self._serve, self.path)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if head.startswith(b"POST"):
                    await reader.readexactly(2)
                    answer = self.answers[self.requests]
                    self.requests += 1
                else:
                    answer = ANSWER  # of a probe
                writer.write(answer)
                await writer.drain()
                if not (self._keep or head.startswith(b"GET")):
                    break
        writer.close()


def run(story: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 20))


def test_ask_keeps_its_connection(tmp_path: Path) -> None:
    async def story() -> None:
        runner = ScriptedRunner(tmp_path / "red.sock", [ANSWER] * 3, keep_alive=True)
        async with await runner.start():
            upstream = Upstream("red", runner.path)
            for _ in range(3):
                assert (await upstream.ask(REQUEST)).body == b"ok"
            assert runner.connections == 1
            upstream.let_go()
            await asyncio.sleep(0.05)

    run(story)


def test_ask_when_the_line_is_cut_before_an_answer_sends_once_more(tmp_path: Path) -> None:
    async def story() -> None:
        runner = ScriptedRunner(tmp_path / "red.sock", [b"", ANSWER])
        async with await runner.start():
            upstream = Upstream("red", runner.path)
            assert (await upstream.ask(REQUEST)).status == 200
            assert runner.requests == 2
            upstream.let_go()

    run(story)


@pytest.mark.parametrize(("answers", "requests"), [([b"", b"", ANSWER], 2), ([b"HTTP/1.1 200 OK\r\n", ANSWER], 1)])
def test_ask_when_it_may_not_be_sent_again_is_unavailable(tmp_path: Path, answers: list[bytes], requests: int) -> None:
    async def story() -> None:
        runner = ScriptedRunner(tmp_path / "red.sock", answers)
        async with await runner.start():
            upstream = Upstream("red", runner.path)
            with pytest.raises(UnavailableError, match="send the request again"):
                await upstream.ask(REQUEST)
            assert runner.requests == requests
            upstream.let_go()
            await asyncio.sleep(0.05)

    run(story)


def test_ask_of_a_runner_that_answers_nonsense_is_unavailable(tmp_path: Path) -> None:
    async def story() -> None:
        runner = ScriptedRunner(tmp_path / "red.sock", [b"\x00\x01nonsense\r\n\r\n"])
        async with await runner.start():
            upstream = Upstream("red", runner.path)
            with pytest.raises(UnavailableError):
                await upstream.ask(REQUEST)

    run(story)


def test_ask_when_nobody_accepts_again_gives_up_after_its_patience(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RESTART_S", 0.3)

    async def story() -> None:
        path = tmp_path / "red.sock"
        upstream = Upstream("red", path)
        with pytest.raises(UnavailableError, match="being restarted"):  # no socket at all
            await upstream.ask(REQUEST)
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(path))
            listening.listen(4)
            asked = [upstream.ask(REQUEST, patience_s=0.2) for _ in range(8)]  # more than the backlog holds
            results = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(result) for result in results] == [UnavailableError] * 8
        await asyncio.sleep(0.4)

    run(story)


def test_ask_without_an_answer_in_time_is_unavailable(tmp_path: Path) -> None:
    async def story() -> None:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(tmp_path / "red.sock"))
            listening.listen(4)
            upstream = Upstream("red", tmp_path / "red.sock")
            with pytest.raises(UnavailableError, match="no answer within"):
                await upstream.ask(REQUEST, timeout_s=0.2)

    run(story)


def test_ask_over_a_path_longer_than_a_socket_address(tmp_path: Path) -> None:
    async def story() -> None:
        folder = tmp_path / ("long" * 40)
        folder.mkdir()
        runner = ScriptedRunner(folder / "red.sock", [ANSWER], keep_alive=True)
        with short_path(runner.path) as address:
            server = await asyncio.start_unix_server(runner._serve, address)
        async with server:
            upstream = Upstream("red", runner.path)
            assert (await upstream.ask(REQUEST)).status == 200
            upstream.let_go()
            await asyncio.sleep(0.05)

    run(story)

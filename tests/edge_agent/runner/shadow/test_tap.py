"""The active runner's end: one copy for each that is asked for, and nothing that grows."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edge_agent.runner.shadow import frames
from edge_agent.runner.shadow.tap import Tap

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

ROW = {"x": np.ones((1, 4), np.float32)}
SCORES = {"y": np.ones((1, 2), np.float32)}


def with_tap(
    path: Path, story: Callable[[Tap, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
) -> list[Tap]:
    """Run a story between a tap and the shadow that it is connected to; those that were lost."""
    lost: list[Tap] = []

    async def run() -> None:
        arrived: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
        server = await asyncio.start_unix_server(lambda *pair: arrived.put_nowait(pair), path=str(path))
        async with server:
            tap = await Tap.open(path, "d-1", lost.append)
            reader, writer = await arrived.get()
            assert await reader.readline() == b"d-1\n"
            await story(tap, reader, writer)
            writer.close()
            await asyncio.sleep(0.1)

    asyncio.run(run())
    return lost


async def asked(writer: asyncio.StreamWriter, times: int = 1) -> None:
    writer.write(frames.ASK * times)
    await asyncio.sleep(0.05)


def test_tap_copies_only_what_is_asked_for_and_counts_the_rest(tmp_path: Path) -> None:
    async def story(tap: Tap, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(3):
            tap.answered(ROW, SCORES, 1.0)
        await asked(writer)
        for _ in range(3):
            tap.answered(ROW, SCORES, 2.0)
        frame = await frames.read(reader)
        assert (frame.requests, frame.invoke_ms) == (4, 2.0)
        np.testing.assert_array_equal(frame.outputs["y"], SCORES["y"])
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(frames.read(reader), 0.1)

    with_tap(tmp_path / "s", story)


def test_tap_given_a_request_too_large_to_copy_says_so_without_it(tmp_path: Path) -> None:
    large = {"x": np.zeros(frames.MAX_ARRAY_BYTES // 4, np.float32)}

    async def story(tap: Tap, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asked(writer)
        tap.answered(large, SCORES, 1.0)
        frame = await frames.read(reader)
        assert (frame.too_large, frame.inputs, frame.outputs) == (1, {}, {})

    with_tap(tmp_path / "s", story)


def test_tap_whose_shadow_has_gone_says_so_and_takes_what_is_answered_later(tmp_path: Path) -> None:
    async def story(tap: Tap, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asked(writer)
        writer.close()
        await asyncio.sleep(0.1)
        tap.answered(ROW, SCORES, 1.0)

    assert len(with_tap(tmp_path / "s", story)) == 1


def test_tap_without_a_shadow_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))

    with pytest.raises(OSError, match="refused"):
        asyncio.run(Tap.open(path, "d-1", lambda _: None))

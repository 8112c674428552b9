"""Frames arrive as they were sent, and what is none is refused before anything is made of it."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import orjson
import pytest

from edge_agent.runner.shadow import frames


def read(content: bytes) -> frames.Frame:
    async def fed() -> frames.Frame:
        reader = asyncio.StreamReader()
        reader.feed_data(content)
        reader.feed_eof()
        return await frames.read(reader)

    return asyncio.run(fed())


def headed(head: Any, arrays: bytes = b"") -> bytes:  # noqa: ANN401  anything that JSON can say
    text = orjson.dumps(head)
    return len(text).to_bytes(4, "big") + text + arrays


def test_frame_arrives_as_it_was_sent_also_when_its_arrays_are_not_contiguous() -> None:
    inputs: dict[str, Any] = {"x": np.arange(12, dtype=np.float32).reshape(3, 4).T, "n": np.array([7], np.int64)}
    sent = frames.Frame(12, 3, 1.5, inputs, {"y": np.array([[True, False]])})

    found = read(b"".join(frames.write(sent)))

    assert (found.requests, found.too_large, found.invoke_ms) == (12, 3, 1.5)
    np.testing.assert_array_equal(found.inputs["x"], inputs["x"])
    assert found.inputs["n"].dtype == np.int64
    np.testing.assert_array_equal(found.outputs["y"], [[True, False]])
    assert found.inputs["x"].flags.writeable, "interpreters ask for that"


COUNTS = {"requests": 1, "too_large": 0, "invoke_ms": 1.0}


@pytest.mark.parametrize(
    "content",
    [
        (1 << 30).to_bytes(4, "big"),
        headed([]),
        headed({**COUNTS, "arrays": [["inputs", "x", "|O", [1]]]}),
        headed({**COUNTS, "arrays": [["other", "x", "<f4", [1]]]}),
        headed({**COUNTS, "arrays": [["inputs", "x", "<f4", [-4]]]}),
        headed({**COUNTS, "arrays": [["inputs", "x", "<f4", [1 << 40]]]}),
        headed({**COUNTS, "arrays": [["inputs"]]}),
        headed({"arrays": []}),
        (3).to_bytes(4, "big") + b"{[}",
    ],
    ids=["long-head", "list", "objects", "role", "negative", "huge", "short", "no-counts", "no-json"],
)
def test_frame_that_is_none_is_refused(content: bytes) -> None:
    with pytest.raises(frames.FrameError):
        read(content)


def test_frame_that_ends_early_is_the_end_of_the_other_side() -> None:
    whole = b"".join(frames.write(frames.Frame(1, 0, 1.0, {"x": np.ones(4, np.float32)}, {})))
    with pytest.raises(asyncio.IncompleteReadError):
        read(whole[:-1])

"""What the active runner writes to the shadow's socket, and how the shadow reads it.

First a line: the deployment that answers. Then one frame for each byte that the shadow has sent, so it is the shadow
that decides how often it is given something. A frame is four bytes with the length of its head, the head (JSON), and
the arrays that the head names, one after the other.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import orjson

from edge_agent.errors import EdgeAgentError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping

    from edge_agent.runtimes.base import Array

ASK = b"."  # give me one
MAX_ARRAY_BYTES = 4 << 20  # of a request and its answer: copying more would hold up the next request by milliseconds
MAX_HEAD_BYTES = 64 << 10
_LENGTH_BYTES = 4


class FrameError(EdgeAgentError):
    """What came is no frame."""

    code = "shadow_frame"


class Frame(NamedTuple):
    """One answered request; without arrays it was too large to be copied."""

    requests: int  # answered since the copying began
    too_large: int  # of these
    invoke_ms: float
    inputs: dict[str, Array]
    outputs: dict[str, Array]


def write(frame: Frame) -> list[bytes | memoryview]:
    """A frame as pieces to be sent."""
    described, pieces = [], []
    for role, arrays in (("inputs", frame.inputs), ("outputs", frame.outputs)):
        for name, values in arrays.items():
            whole = np.ascontiguousarray(values)
            described.append((role, name, whole.dtype.str, values.shape))
            pieces.append(whole.reshape(-1).view(np.uint8).data)
    head = orjson.dumps(
        {
            "requests": frame.requests,
            "too_large": frame.too_large,
            "invoke_ms": frame.invoke_ms,
            "arrays": described,
        }
    )
    return [len(head).to_bytes(_LENGTH_BYTES, "big"), head, *pieces]


async def read(reader: asyncio.StreamReader) -> Frame:
    """The next frame.

    Raises:
        FrameError: it is none.
        asyncio.IncompleteReadError: the other end has gone.
    """
    length = int.from_bytes(await reader.readexactly(_LENGTH_BYTES), "big")
    if length > MAX_HEAD_BYTES:
        raise FrameError(f"the head of a frame may have {MAX_HEAD_BYTES} bytes, this one has {length}")
    head = await reader.readexactly(length)
    try:
        document = orjson.loads(head)
        described = [_described(*entry) for entry in document["arrays"]]
        counted = int(document["requests"]), int(document["too_large"]), float(document["invoke_ms"])
    except (ValueError, TypeError, KeyError) as exc:
        raise FrameError(f"the head of a frame can't be read: {exc}") from exc
    if sum(entry.size_bytes for entry in described) > MAX_ARRAY_BYTES:
        raise FrameError(f"a frame may have {MAX_ARRAY_BYTES} bytes of arrays")
    found: dict[str, dict[str, Array]] = {"inputs": {}, "outputs": {}}
    for entry in described:
        content = await reader.readexactly(entry.size_bytes)
        found[entry.role][entry.name] = np.frombuffer(bytearray(content), entry.dtype).reshape(entry.shape)
    return Frame(*counted, found["inputs"], found["outputs"])


class _Described(NamedTuple):
    role: str
    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def _described(role: str, name: str, dtype: str, shape: list[int]) -> _Described:
    kind = np.dtype(dtype)
    if role not in {"inputs", "outputs"} or kind.kind not in "biuf" or any(length < 1 for length in shape):
        raise ValueError(f"{role} {name} is {dtype} {shape}")
    return _Described(role, name, kind, tuple(shape))


def size_bytes(*groups: Mapping[str, Array]) -> int:
    """What arrays take together."""
    return sum(values.nbytes for arrays in groups for values in arrays.values())

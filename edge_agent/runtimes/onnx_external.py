"""Whether an `.onnx` file is all there is: ONNX lets a tensor name another file, and the runtime would read it.

The protobuf is walked as bytes, without the onnx package (a device has none) and without copying a weight. Only the
fields that can lead to a tensor are entered. Pure but for mapping the file.
Source: onnx.proto3 of ONNX 1.23 for the field numbers; protobuf.dev/programming-guides/encoding for the wire format.
"""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_DEPTH = 64
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_UINT64, _UINT32 = (1 << 64) - 1, (1 << 32) - 1
_EXTERNAL = 1  # TensorProto.DataLocation
_DATA_LOCATION, _EXTERNAL_DATA = 14, 13  # of a TensorProto
# message -> field -> the message that the field holds
_WAYS: Final[dict[str, dict[int, str]]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}


class OutsideDataError(ValueError):
    """The file names data outside of itself, or is no protobuf."""


def require_self_contained(path: Path) -> None:
    """Refuse a file whose tensors lie in other files.

    Raises:
        OutsideDataError: a tensor does, or the file is no ONNX model.
        OSError: it can't be read.
    """
    with path.open("rb") as file:
        if file.seek(0, 2) == 0:
            raise OutsideDataError("it is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as area, memoryview(area) as content:
            check(content)


def check(content: memoryview | bytes) -> None:
    """Walk the bytes of a ModelProto; see `require_self_contained`."""
    view = memoryview(content)
    try:
        _walk(view, 0, len(view), "model", 0)
    finally:
        view.release()


def _walk(view: memoryview, start: int, end: int, message: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise OutsideDataError("its graphs are nested too deeply")
    ways = _WAYS[message]
    for field, kind, first, last in _fields(view, start, end):
        if message == "tensor":
            located = field == _DATA_LOCATION and kind == _VARINT and first & _UINT32 == _EXTERNAL
            if located or (field == _EXTERNAL_DATA and kind == _BYTES):
                raise OutsideDataError("a tensor of it lies in another file: write all weights into the model itself")
        elif kind == _BYTES and field in ways:
            _walk(view, first, last, ways[field], depth + 1)


def _fields(view: memoryview, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Each field with its wire type and its span; of a varint its value stands in place of the span's start."""
    while at < end:
        tag, at = _varint(view, at, end)
        field, kind = (tag & _UINT32) >> 3, tag & 7
        if kind == _VARINT:
            value, at = _varint(view, at, end)
            yield field, kind, value, at
            continue
        if kind == _BYTES:
            length, at = _varint(view, at, end)
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            raise OutsideDataError("it is no ONNX model")
        if length > end - at:
            raise OutsideDataError("it is no ONNX model, or cut off")
        yield field, kind, at, at + length
        at += length


def _varint(view: memoryview, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:  # noqa: PLR2004  ten bytes of seven bits
        byte = view[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:  # noqa: PLR2004  the last one
            return value & _UINT64, at  # as protobuf cuts it off
    raise OutsideDataError("it is no ONNX model, or cut off")

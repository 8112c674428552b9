"""Whether an `.onnx` file is all there is: ONNX lets a tensor name another file, and the runtime would read it.

The protobuf is walked as bytes, without the onnx package (a device has none) and without copying a weight. Only the
fields that can lead to a tensor are entered. Pure but for mapping the file.
Source: onnx.proto3 of ONNX 1.23 for the field numbers.
"""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Final

from edge_agent.runtimes.protobuf import DELIMITED, ProtobufError, fields

if TYPE_CHECKING:
    from pathlib import Path

MAX_DEPTH = 64
_UINT32 = (1 << 32) - 1  # what protobuf keeps of an enumeration's number
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
    except ProtobufError as exc:
        raise OutsideDataError(f"it is no ONNX model, or cut off: {exc}") from exc
    finally:
        view.release()


def _walk(view: memoryview, start: int, end: int, message: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise OutsideDataError("its graphs are nested too deeply")
    ways = _WAYS[message]
    for field in fields(view, start, end, message):
        if message == "tensor":
            located = (field.number, field.value & _UINT32) == (_DATA_LOCATION, _EXTERNAL)
            if located or field.number == _EXTERNAL_DATA:
                raise OutsideDataError("a tensor of it lies in another file: write all weights into the model itself")
        elif field.wire == DELIMITED and field.number in ways:
            _walk(view, field.start, field.end, ways[field.number], depth + 1)

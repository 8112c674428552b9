"""The gate for `.tflite` uploads: what the file asks of the interpreter is read before the interpreter sees it.

A LiteRT file holds no code, but it may name custom operators, buffers in other files, and state that outlives a
sample. Fields are read one by one through the generated accessors, which a damaged offset can only make raise; the
interpreter then verifies the whole flatbuffer, and only after that is it unpacked.
Source: the LiteRT schema, version 3.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from ai_edge_litert.tools import flatbuffer_utils

from compressors.errors import ArchiveError, ConversionError, SignatureError, WeightError
from compressors.files.litert import read_graphs, tensor_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

HOW_TO_MAKE = "make it with litert_torch or with TensorFlow's converter, without quantization"
MAX_COUNT = 100_000  # of operators, tensors and buffers
SIGNATURE_KEY = "serving_default"
_NAME_CHARS = 120
_KINDS = {value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
_STATEFUL = {"CALL_ONCE", "VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE"}
_STATEFUL |= {"HASHTABLE", "HASHTABLE_FIND", "HASHTABLE_IMPORT", "HASHTABLE_SIZE"}
_QUANTIZED = {schema.TensorType.INT4, schema.TensorType.INT8, schema.TensorType.UINT8, schema.TensorType.INT16}
_FLOATS = {
    schema.TensorType.FLOAT16: np.float16,
    schema.TensorType.FLOAT32: np.float32,
    schema.TensorType.FLOAT64: np.float64,
}
# what the accessors raise for offsets that lead nowhere
_DAMAGED = (struct.error, IndexError, TypeError, ValueError, OverflowError, AttributeError)


def read_file(path: Path) -> bytes:
    """A LiteRT file that may be loaded and holds a float model; it has exactly one signature.

    Raises:
        ArchiveError: it may not be loaded, or is damaged.
        ConversionError: it holds what can't be compressed: custom operators, or integers instead of a float model.
        SignatureError: it has several signatures.
        WeightError: a weight is NaN or infinite.
    """
    content = path.read_bytes()
    try:
        _check_header(content)
        _verify(content, path.name)
        for graph in read_graphs(content):
            _check_is_float(graph.tensors)
        _check_weights(content)
        file = _with_signature(content)
        read_ends(file)
    except _DAMAGED as exc:
        raise ArchiveError(f"{path.name} is a damaged .tflite file: copy it again, or {HOW_TO_MAKE}") from exc
    return file


def _verify(content: bytes, name: str) -> None:
    """Let the interpreter verify the flatbuffer; nothing is allocated. It does not look at signatures and metadata."""
    try:
        Interpreter(model_content=content)
    except (ValueError, RuntimeError) as exc:
        said = " ".join(str(exc).split())[:200]
        raise ArchiveError(f"the interpreter refuses {name} ({said}): copy it again, or {HOW_TO_MAKE}") from exc


def count_parameters(file: bytes) -> int:
    """How many float numbers a checked file holds."""
    return sum(values.size for _, values in _weights(file))


@dataclass(frozen=True)
class End:
    """An input or output of a file: its name in the signature and its lengths, -1 where one is free."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Ends:
    """The inputs and outputs of a file, in the order in which the interpreter lists them."""

    inputs: tuple[End, ...]
    outputs: tuple[End, ...]


def read_ends(file: bytes) -> Ends:
    """The inputs and outputs of a checked file."""
    parsed = flatbuffer_utils.read_model_from_bytearray(bytearray(file))
    signature = parsed.signatureDefs[0]
    graph = parsed.subgraphs[signature.subgraphIndex]

    def listed(indices: list[int], entries: list[Any]) -> tuple[End, ...]:
        names = {int(entry.tensorIndex): entry.name.decode(errors="replace") for entry in entries}
        return tuple(End(names.get(int(index), ""), _lengths(graph.tensors[index])) for index in indices)

    return Ends(listed(graph.inputs, signature.inputs), listed(graph.outputs, signature.outputs))


def _lengths(tensor: Any) -> tuple[int, ...]:  # noqa: ANN401
    """With -1 where a length is free: `shape` then says 1."""
    lengths = tensor.shape if tensor.shapeSignature is None else tensor.shapeSignature
    return tuple(int(length) for length in (() if lengths is None else lengths))


def _check_header(content: bytes) -> None:
    model = schema.Model.GetRootAsModel(content, 0)
    counts = (model.SubgraphsLength(), model.OperatorCodesLength(), model.BuffersLength())
    if max(counts) > MAX_COUNT or not model.SubgraphsLength():
        raise ValueError(counts)
    if model.ExternalBufferGroupsLength() or model.ExternalBuffersLength():
        raise ArchiveError("the .tflite file keeps weights in other files, which are never read: store them inside it")
    for number in range(model.OperatorCodesLength()):
        code = model.OperatorCodes(number)
        kind = _KINDS.get(max(code.BuiltinCode(), code.DeprecatedBuiltinCode()), "unknown")
        if kind in {"CUSTOM", "unknown"}:
            name = (code.CustomCode() or b"without a name").decode(errors="replace")[:_NAME_CHARS]
            raise ConversionError(
                f"the .tflite file uses the custom operator {name!r}: convert the model with builtin operators only"
            )
        if kind in _STATEFUL:
            raise ConversionError(
                f"the .tflite file uses {kind}, which keeps state between samples: make that an input and an output"
            )


def _check_is_float(tensors: list[Any]) -> None:
    integers = [
        tensor
        for tensor in tensors
        if tensor.type in _QUANTIZED and tensor.quantization is not None and tensor.quantization.scale is not None
    ]
    if integers:
        raise ConversionError(
            f"the .tflite file is no float model: {len(integers)} of its {len(tensors)} tensors are quantized, "
            f"{tensor_name(integers[0])[:_NAME_CHARS]!r} among them: push the float model that it was made from"
        )


def _weights(file: bytes) -> Iterator[tuple[str, NDArray[np.floating[Any]]]]:
    """The float constants of a file by name."""
    for graph in read_graphs(file):
        for index, content in graph.constants.items():
            tensor = graph.tensors[index]
            if tensor.type in _FLOATS:
                yield tensor_name(tensor), content.view(_FLOATS[tensor.type])


def _check_weights(file: bytes) -> None:
    for name, values in _weights(file):
        wrong = int((~np.isfinite(values)).sum())
        if wrong:
            raise WeightError(
                f"{name[:_NAME_CHARS]} holds {wrong} values that are NaN or infinite: train the model again"
            )


def _with_signature(file: bytes) -> bytes:
    """The file with one signature: runtimes and the quantizer call it by that. Older files have none."""
    parsed = flatbuffer_utils.read_model_from_bytearray(bytearray(file))
    signatures = parsed.signatureDefs or []
    if len(signatures) == 1:
        if signatures[0].subgraphIndex != 0:
            raise SignatureError("the signature of the .tflite file is not of its first graph: convert it again")
        return file
    if signatures:
        keys = ", ".join(one.signatureKey.decode(errors="replace")[:_NAME_CHARS] for one in signatures[:5])
        raise SignatureError(f"the .tflite file has {len(signatures)} signatures ({keys}): convert it with one")
    graph, signature = parsed.subgraphs[0], schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = SIGNATURE_KEY, 0
    signature.inputs = _named(graph.tensors, graph.inputs)
    signature.outputs = _named(graph.tensors, graph.outputs)
    parsed.signatureDefs = [signature]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(parsed))


def _named(tensors: list[Any], ends: list[int]) -> list[Any]:
    entries = []
    for index in ends:
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = tensors[index].name, int(index)
        entries.append(entry)
    return entries

"""What is really inside a `.tflite` file: its operators, which of them compute with integers, and their MACs.

A step's word is not taken for its effect: litert-quantizer has returned a file unquantized without an error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from compressors.files.facts import FileFacts, special_weights

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_OPERATORS = {value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
_QUANTIZED_TYPES = {
    schema.TensorType.INT4,
    schema.TensorType.INT8,
    schema.TensorType.UINT8,
    schema.TensorType.INT16,
}
# operators that hold the weights: these decide whether a file is quantized
_WEIGHTED = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "EMBEDDING_LOOKUP", "GATHER"}
_FILTER_INPUT = 1
_BIAS_INPUT = 2
_PICTURE_INPUT = 2  # of a transposed convolution
_CONVERSIONS = {"QUANTIZE", "DEQUANTIZE"}  # they touch integers, but compute nothing with them


def read_facts(model: bytes) -> FileFacts:
    """Parse a `.tflite` flatbuffer."""
    operators, quantized, macs = 0, 0, 0
    layers: dict[str, str] = {}
    for graph in read_graphs(model):
        expanded = _expanded(graph)
        for name, operator in graph.operators:
            tensors = [graph.tensors[i] for i in operator.inputs if i >= 0]
            operators += 1
            quantized += name not in _CONVERSIONS and any(_is_quantized(tensor) for tensor in tensors)
            macs += _macs(name, graph, operator)
            if name in _WEIGHTED and len(tensors) > _FILTER_INPUT:
                layer = tensor_name(graph.tensors[operator.outputs[0]])
                held = expanded.get(operator.inputs[_FILTER_INPUT], operator.inputs[_FILTER_INPUT])
                kinds = f"{type_name(tensors[0])} x {type_name(graph.tensors[held])}"
                layers[layer] = f"{name} {kinds}{_weights(graph, held)}"
    return FileFacts(operators, quantized, macs, layers)


def end_types(model: bytes) -> tuple[str, ...]:
    """The element types of a file's inputs, then of its outputs: what a caller has to give, and gets."""
    graph = flatbuffer_utils.read_model_from_bytearray(bytearray(model)).subgraphs[0]
    return tuple(type_name(graph.tensors[place]) for place in (*graph.inputs, *graph.outputs))


class Graph(NamedTuple):
    """One subgraph of a file."""

    inputs: list[int]
    tensors: list[Any]  # generated classes without types
    constants: dict[int, NDArray[np.uint8]]  # the bytes of tensors whose values are in the file
    operators: list[tuple[str, Any]]  # with their names, in the order of execution


def read_graphs(model: bytes) -> Iterator[Graph]:
    """The subgraphs of a file."""
    parsed = flatbuffer_utils.read_model_from_bytearray(bytearray(model))
    for graph in parsed.subgraphs:
        found = {i: _content(parsed.buffers[tensor.buffer], model) for i, tensor in enumerate(graph.tensors)}
        stored = {i: content for i, content in found.items() if len(content)}
        named = [(_name(parsed, operator), operator) for operator in graph.operators]
        yield Graph([int(i) for i in graph.inputs], graph.tensors, stored, named)


@dataclass(frozen=True)
class WeightedOperator:
    """An operator of a float file with the weights that it holds."""

    kind: str
    input: str  # name of the activation
    output: str
    filter_name: str
    filter: NDArray[np.float32]
    bias: NDArray[np.float32] | None


def weighted_operators(model: bytes) -> list[WeightedOperator]:
    """The operators of a float file whose weights are stored in it, in the order of execution."""
    found = []
    for graph in read_graphs(model):
        for kind, operator in graph.operators:
            places = [int(index) for index in operator.inputs]
            weights = _floats(graph, places[_FILTER_INPUT]) if kind in _WEIGHTED and len(places) > 1 else None
            if weights is None:
                continue
            transposed = kind == "TRANSPOSE_CONV"
            bias_at = len(places) - 1 if len(places) > _BIAS_INPUT + transposed else -1
            found.append(
                WeightedOperator(
                    kind,
                    input=tensor_name(graph.tensors[places[_PICTURE_INPUT if transposed else 0]]),
                    output=tensor_name(graph.tensors[operator.outputs[0]]),
                    filter_name=tensor_name(graph.tensors[places[_FILTER_INPUT]]),
                    filter=weights,
                    bias=None if bias_at < 0 else _floats(graph, places[bias_at]),
                )
            )
    return found


def _floats(graph: Graph, tensor: int) -> NDArray[np.float32] | None:
    """The values of a float tensor that is stored in the file; None if it is none."""
    if tensor not in graph.constants or graph.tensors[tensor].type != schema.TensorType.FLOAT32:
        return None
    return graph.constants[tensor].view("<f4").reshape([int(length) for length in graph.tensors[tensor].shape])


def _content(buffer: Any, model: bytes) -> NDArray[np.uint8]:  # noqa: ANN401
    """A buffer's bytes; those of large files lie behind the flatbuffer, at an offset."""
    if buffer.offset:
        return np.frombuffer(model, np.uint8, count=buffer.size, offset=buffer.offset)
    return np.array([], np.uint8) if buffer.data is None else np.asarray(buffer.data, np.uint8)


def _expanded(graph: Graph) -> dict[int, int]:
    """Weights that are stored as integers and become float when the file is loaded: the float tensor to the stored."""
    return {
        int(operator.outputs[0]): int(operator.inputs[0])
        for name, operator in graph.operators
        if name == "DEQUANTIZE" and int(operator.inputs[0]) in graph.constants
    }


def _weights(graph: Graph, tensor: int) -> str:
    """What is special about a layer's weights: that many are zero, or that they have few values."""
    content = graph.constants.get(tensor, np.array([], np.uint8))
    if graph.tensors[tensor].type != schema.TensorType.FLOAT32 or content.size == 0:
        return ""
    return special_weights(content.view("<f4"))


def tensor_name(tensor: Any) -> str:  # noqa: ANN401  generated classes without types
    """A tensor's name as text."""
    return tensor.name.decode(errors="replace") if isinstance(tensor.name, bytes) else str(tensor.name)


def _name(parsed: Any, operator: Any) -> str:  # noqa: ANN401  generated classes without types
    code = parsed.operatorCodes[operator.opcodeIndex]
    return str(_OPERATORS.get(max(code.builtinCode, code.deprecatedBuiltinCode), "CUSTOM"))


def _is_quantized(tensor: Any) -> bool:  # noqa: ANN401
    scales = tensor.quantization.scale if tensor.quantization is not None else None
    return tensor.type in _QUANTIZED_TYPES and scales is not None and len(scales) > 0


def type_name(tensor: Any) -> str:  # noqa: ANN401
    """A tensor's element type as text."""
    names = {value: name for name, value in vars(schema.TensorType).items() if not name.startswith("_")}
    return str(names.get(tensor.type, tensor.type)).lower()


def _macs(name: str, graph: Any, operator: Any) -> int:  # noqa: ANN401
    """Multiply-accumulates of the layers that have weights, and of products of activations."""
    if name not in {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "BATCH_MATMUL"}:
        return 0
    kernel = [int(n) for n in graph.tensors[operator.inputs[_FILTER_INPUT]].shape]
    output = math.prod(int(n) for n in graph.tensors[operator.outputs[0]].shape)
    if name == "CONV_2D":  # filter: out, height, width, in
        return output * math.prod(kernel[1:])
    if name == "DEPTHWISE_CONV_2D":  # filter: 1, height, width, channels
        return output * kernel[1] * kernel[2]
    if name == "TRANSPOSE_CONV":  # inputs: shape, filter (out, height, width, in), picture
        picture = math.prod(int(n) for n in graph.tensors[operator.inputs[2]].shape)
        return picture * math.prod(kernel[:3])
    if name == "BATCH_MATMUL":
        left = graph.tensors[operator.inputs[0]].shape
        return output * int(left[-2] if operator.builtinOptions.adjX else left[-1])
    return output * kernel[1]  # FULLY_CONNECTED filter: out, in

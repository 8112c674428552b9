"""What is really inside a `.tflite` file: its operators, which of them compute with integers, and their MACs.

A step's word is not taken for its effect: litert-quantizer has returned a file unquantized without an error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

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


@dataclass(frozen=True)
class FileFacts:
    """What a file holds."""

    operators: int
    quantized_operators: int  # with quantized activations or weights
    macs: int
    layers: dict[str, str] = field(default_factory=dict)  # weighted operators by output name: "CONV_2D int8 x int8"


def read_facts(model: bytes) -> FileFacts:
    """Parse a `.tflite` flatbuffer."""
    parsed = flatbuffer_utils.read_model_from_bytearray(bytearray(model))
    operators, quantized, macs = 0, 0, 0
    layers: dict[str, str] = {}
    for graph in parsed.subgraphs:
        for operator in graph.operators:
            name = _name(parsed, operator)
            tensors = [graph.tensors[i] for i in operator.inputs if i >= 0]
            integer = any(_is_quantized(tensor) for tensor in tensors) and name != "QUANTIZE"
            operators += 1
            quantized += integer
            macs += _macs(name, graph, operator)
            if name in _WEIGHTED and len(tensors) > _FILTER_INPUT:
                output = graph.tensors[operator.outputs[0]]
                layers[_text(output.name)] = f"{name} {_type(tensors[0])} x {_type(tensors[_FILTER_INPUT])}"
    return FileFacts(operators, quantized, macs, layers)


def _name(parsed: Any, operator: Any) -> str:  # noqa: ANN401  generated classes without types
    code = parsed.operatorCodes[operator.opcodeIndex]
    return str(_OPERATORS.get(max(code.builtinCode, code.deprecatedBuiltinCode), "CUSTOM"))


def _text(name: bytes | str) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name)


def _is_quantized(tensor: Any) -> bool:  # noqa: ANN401
    scales = tensor.quantization.scale if tensor.quantization is not None else None
    return tensor.type in _QUANTIZED_TYPES and scales is not None and len(scales) > 0


def _type(tensor: Any) -> str:  # noqa: ANN401
    names = {value: name for name, value in vars(schema.TensorType).items() if not name.startswith("_")}
    return str(names.get(tensor.type, tensor.type)).lower()


def _macs(name: str, graph: Any, operator: Any) -> int:  # noqa: ANN401
    if name not in {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"}:
        return 0
    kernel = [int(n) for n in graph.tensors[operator.inputs[_FILTER_INPUT]].shape]
    output = math.prod(int(n) for n in graph.tensors[operator.outputs[0]].shape)
    if name == "CONV_2D":  # filter: out, height, width, in
        return output * math.prod(kernel[1:])
    if name == "DEPTHWISE_CONV_2D":  # filter: 1, height, width, channels
        return output * kernel[1] * kernel[2]
    return output * kernel[1]  # FULLY_CONNECTED filter: out, in

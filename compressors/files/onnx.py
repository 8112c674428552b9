"""What is really inside an `.onnx` file; see `facts`.

A quantized file keeps its operators between QuantizeLinear and DequantizeLinear (QDQ), which ONNX Runtime fuses with
them when it loads; weights that were quantized alone are multiplied by operators for integers. Needs the extra `onnx`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from compressors.extras import extra
from compressors.files.facts import FileFacts, special_weights

_WEIGHTED = {"Conv", "ConvTranspose", "ConvInteger", "Gemm", "MatMul", "MatMulInteger", "Gather"}
_TRANSPARENT = {"Transpose", "Reshape", "Identity", "Cast"}  # between a layer and its stored weights
_CONVERSIONS = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}
_WEIGHT_INPUT = {"Gather": 0}  # otherwise 1
_TABLE_DIMENSIONS = 2


def read_facts(content: bytes) -> FileFacts:
    """Parse an ONNX model."""
    graph = OnnxGraph(content)
    operators, quantized, macs = 0, 0, 0
    layers: dict[str, str] = {}
    for node in graph.nodes:
        if node.op_type == "Constant" or node.op_type in _CONVERSIONS:
            continue
        operators += 1
        quantized += any(graph.is_integer(name) for name in node.input)
        place = _WEIGHT_INPUT.get(node.op_type, 1)
        weight = graph.weight(node.input[place]) if node.op_type in _WEIGHTED and len(node.input) > place else None
        if weight is None or weight.ndim < _TABLE_DIMENSIONS:
            continue
        macs += _macs(node, graph, weight)
        said = special_weights(weight) if weight.dtype == np.float32 else ""
        layers[node.output[0]] = f"{node.op_type} {graph.kind(node.input[1 - place])} x {weight.dtype}{said}"
    return FileFacts(operators, quantized, macs, layers)


class OnnxGraph:
    """The main graph of a model, with what is known of each of its values."""

    def __init__(self, content: bytes) -> None:
        with extra("onnx"):
            import onnx  # noqa: PLC0415  an extra of its own
            from onnx import numpy_helper  # noqa: PLC0415
        model = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(content))
        graph = model.graph
        self.nodes: list[Any] = list(graph.node)
        self.inputs = [value.name for value in graph.input]
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        for node in self.nodes:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self.constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        self._made_by = {name: node for node in self.nodes for name in node.output}
        values = (*graph.input, *graph.output, *graph.value_info)
        self._shapes = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in values}
        to_numpy = onnx.helper.tensor_dtype_to_np_dtype
        self._types = {value.name: str(to_numpy(value.type.tensor_type.elem_type)) for value in values}

    def elements(self, name: str) -> int:
        """How many numbers a value holds; 0 where its shape is not known."""
        return math.prod(self._shapes[name]) if name in self._shapes else 0

    def last_length(self, name: str) -> int:
        """The length of a value's last dimension; 0 where it is not known."""
        return int(self._shapes[name][-1]) if self._shapes.get(name) else 0

    def weight(self, name: str) -> Any:  # noqa: ANN401  an array of any type, or None
        """The stored numbers behind a value: quantized ones as they are stored."""
        node = self._made_by.get(name)
        while node is not None and (node.op_type in _TRANSPARENT or node.op_type == "DequantizeLinear"):
            name = node.input[0]
            node = self._made_by.get(name)
        return self.constants.get(name)

    def is_integer(self, name: str) -> bool:
        """Whether a value was quantized just before it is used."""
        node = self._made_by.get(name)
        return node is not None and node.op_type in _CONVERSIONS

    def kind(self, name: str) -> str:
        """The element type with which a value is computed."""
        node = self._made_by.get(name)
        if node is None or node.op_type not in _CONVERSIONS:
            return self._types.get(name, "float32")
        if node.op_type == "DynamicQuantizeLinear":
            return "uint8"
        zero_points = self.constants.get(node.input[2]) if len(node.input) > 2 else None  # noqa: PLR2004
        return "uint8" if zero_points is None else str(zero_points.dtype)


def _macs(node: Any, graph: OnnxGraph, weight: Any) -> int:  # noqa: ANN401
    """Multiply-accumulates of a layer that has weights."""
    if node.op_type in {"Conv", "ConvInteger"}:  # weights: out, in / groups, height, width
        return int(graph.elements(node.output[0]) * math.prod(weight.shape[1:]))
    if node.op_type == "ConvTranspose":  # weights: in, out / groups, height, width
        return int(graph.elements(node.input[0]) * math.prod(weight.shape[1:]))
    if node.op_type == "Gather":
        return 0
    return graph.elements(node.output[0]) // max(1, graph.last_length(node.output[0])) * int(weight.size)

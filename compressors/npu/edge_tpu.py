"""Whether a `.tflite` file conforms to the Edge TPU: fully integer, and supported operators. A pure rule on the file.

The compiler itself (`edgetpu_compiler`) is closed and comes as a Debian package of Google's; what conforms here it can
still leave to the CPU for a tensor's size.
Source: coral.ai/docs/edgetpu/models-intro (model requirements, supported operations).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ai_edge_litert import schema_py_generated as schema

from compressors.files.litert import read_graphs, tensor_name, type_name

if TYPE_CHECKING:
    from compressors.files.litert import Graph

# the builtin operators behind the names of that page
SUPPORTED = frozenset(
    {
        "ADD",
        "AVERAGE_POOL_2D",
        "CONCATENATION",
        "CONV_2D",
        "DEPTHWISE_CONV_2D",
        "EXPAND_DIMS",
        "FULLY_CONNECTED",
        "L2_NORMALIZATION",
        "LOGISTIC",
        "MAXIMUM",
        "MAX_POOL_2D",
        "MEAN",
        "MINIMUM",
        "MUL",
        "PACK",
        "PAD",
        "PRELU",
        "QUANTIZE",
        "REDUCE_MAX",
        "REDUCE_MIN",
        "RELU",
        "RELU6",
        "RELU_N1_TO_1",
        "RESHAPE",
        "RESIZE_BILINEAR",
        "RESIZE_NEAREST_NEIGHBOR",
        "RSQRT",
        "SLICE",
        "SOFTMAX",
        "SPACE_TO_DEPTH",
        "SPLIT",
        "SQUARED_DIFFERENCE",
        "SQUEEZE",
        "STRIDED_SLICE",
        "SUB",
        "SUM",
        "TANH",
        "TRANSPOSE",
        "TRANSPOSE_CONV",
        "UNIDIRECTIONAL_SEQUENCE_LSTM",
    }
)
_UNFUSED = {"AVERAGE_POOL_2D", "CONCATENATION", "MAX_POOL_2D"}  # no activation function inside
_SAME_DILATION = {"CONV_2D", "DEPTHWISE_CONV_2D"}
_INTEGERS = {schema.TensorType.INT8, schema.TensorType.UINT8}
_INNER_DIMENSIONS = 3


def violations(content: bytes) -> list[str]:
    """One sentence for each operator or tensor that keeps a file from the Edge TPU; none: it conforms."""
    graphs = list(read_graphs(content))
    if len(graphs) > 1:
        return [f"the file has {len(graphs)} graphs, and the Edge TPU takes one"]
    (graph,) = graphs
    found = [_wrong_input(graph, index) for index in graph.inputs]
    found += [_wrong_operator(name, operator, graph) for name, operator in graph.operators]
    return [sentence for sentence in found if sentence]


def _wrong_input(graph: Graph, index: int) -> str:
    tensor = graph.tensors[index]
    if tensor.type in _INTEGERS:
        return ""
    return f"the input {tensor_name(tensor)} is {type_name(tensor)}: let the file take int8 (static-int8 with io int8)"


def _wrong_operator(name: str, operator: Any, graph: Graph) -> str:  # noqa: ANN401  generated classes without types
    """What is wrong with an operator, "" for nothing; the first reason is enough to leave it to the CPU."""
    output = graph.tensors[operator.outputs[0]]
    where = f"{name} ({tensor_name(output)})"
    if name not in SUPPORTED:
        return f"{where} is not an operator of the Edge TPU"
    data = [graph.tensors[i] for i in (*operator.inputs, *operator.outputs) if i >= 0 and i not in graph.constants]
    wrong = next((tensor for tensor in data if tensor.type not in _INTEGERS), None)
    if wrong is not None:
        return f"{where} works on {type_name(wrong)}: only int8 and uint8 run there"
    if any(length < 0 for tensor in data for length in (tensor.shapeSignature if _is_free(tensor) else ())):
        return f"{where} has a free dimension: export it with constant lengths"
    if any(int(length) > 1 for tensor in data for length in tensor.shape[:-_INNER_DIMENSIONS]):
        return (
            f"{where} has a tensor {[int(n) for n in output.shape]}: only its three innermost dimensions may exceed 1"
        )
    return _wrong_options(name, operator.builtinOptions, where)


def _is_free(tensor: Any) -> bool:  # noqa: ANN401
    return tensor.shapeSignature is not None


def _wrong_options(name: str, options: Any, where: str) -> str:  # noqa: ANN401
    if name in _UNFUSED and options.fusedActivationFunction != schema.ActivationFunctionType.NONE:
        return f"{where} has an activation function inside: put it into an operator of its own"
    if name in _SAME_DILATION and options.dilationWFactor != options.dilationHFactor:
        return f"{where} dilates x and y differently"
    if name == "FULLY_CONNECTED" and options.weightsFormat != schema.FullyConnectedOptionsWeightsFormat.DEFAULT:
        return f"{where} keeps its weights in a shuffled format"
    return ""

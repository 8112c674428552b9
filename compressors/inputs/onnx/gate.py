"""The gate for `.onnx` uploads: the whole file is read here, by tables, before any library of ONNX sees it.

What makes an ONNX file reach beyond itself is external data: a tensor whose bytes lie at a path. It is refused whatever
the path says, and so are graphs within the graph, functions, and operators that this registry doesn't know.
Source: onnx.proto of ONNX 1.23 (IR version 13).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compressors.errors import ArchiveError, ConversionError
from compressors.inputs.protobuf import Field, Kind, Message, Table, read
from edge_agent.runtimes.protobuf import ProtobufError

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

OLDEST_OPSET = 13  # since then the axes of Squeeze and the sums are inputs, and Softmax has one axis
HOW_TO_EXPORT = "make it with torch.onnx.export(model, example_inputs, 'model.onnx', external_data=False)"
NAME_CHARS = 120
_OWN_DOMAINS = {"", "ai.onnx"}
_BYTES_PER_ELEMENT = {1: 4, 2: 1, 3: 1, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8}  # by TensorProto.DataType
_TYPED_FIELDS = {"float_data": 1, "int32_data": 6, "int64_data": 7, "double_data": 11}
_INT32_STORES = {2, 3, 6, 9}  # uint8, int8, int32, bool
_EXTERNAL = 1

_STRING_PAIR: Table = {1: Field("key", Kind.TEXT), 2: Field("value", Kind.TEXT)}
_TENSOR: Table = {
    1: Field("dims", Kind.INTEGER, repeated=True),
    2: Field("data_type", Kind.INTEGER),
    4: Field("float_data", Kind.FLOAT, repeated=True),
    5: Field("int32_data", Kind.INTEGER, repeated=True),
    6: Field("string_data", Kind.BYTES, repeated=True),
    7: Field("int64_data", Kind.INTEGER, repeated=True),
    8: Field("name", Kind.TEXT),
    9: Field("raw_data", Kind.BYTES),
    10: Field("double_data", Kind.DOUBLE, repeated=True),
    12: Field("doc_string", Kind.IGNORED),
    13: Field("external_data", _STRING_PAIR, repeated=True),
    14: Field("data_location", Kind.INTEGER),
    16: Field("metadata_props", Kind.IGNORED),
}
_ATTRIBUTE: Table = {
    1: Field("name", Kind.TEXT),
    2: Field("f", Kind.FLOAT),
    3: Field("i", Kind.INTEGER),
    4: Field("s", Kind.BYTES),
    5: Field("t", _TENSOR),
    6: Field("g", Kind.BYTES),  # a graph within the graph: seen, and refused unread
    7: Field("floats", Kind.FLOAT, repeated=True),
    8: Field("ints", Kind.INTEGER, repeated=True),
    9: Field("strings", Kind.BYTES, repeated=True),
    10: Field("tensors", Kind.BYTES, repeated=True),
    11: Field("graphs", Kind.BYTES, repeated=True),
    13: Field("doc_string", Kind.IGNORED),
    20: Field("type", Kind.INTEGER),
    21: Field("ref_attr_name", Kind.TEXT),
    22: Field("sparse_tensor", Kind.BYTES),
    23: Field("sparse_tensors", Kind.BYTES, repeated=True),
}
_NODE: Table = {
    1: Field("input", Kind.TEXT, repeated=True),
    2: Field("output", Kind.TEXT, repeated=True),
    3: Field("name", Kind.TEXT),
    4: Field("op_type", Kind.TEXT),
    5: Field("attribute", _ATTRIBUTE, repeated=True),
    6: Field("doc_string", Kind.IGNORED),
    7: Field("domain", Kind.TEXT),
    8: Field("overload", Kind.TEXT),
    9: Field("metadata_props", Kind.IGNORED),
}
_DIMENSION: Table = {
    1: Field("dim_value", Kind.INTEGER),
    2: Field("dim_param", Kind.TEXT),
    3: Field("denotation", Kind.IGNORED),
}
_SHAPE: Table = {1: Field("dim", _DIMENSION, repeated=True)}
_TYPE: Table = {
    1: Field("tensor_type", {1: Field("elem_type", Kind.INTEGER), 2: Field("shape", _SHAPE)}),
    4: Field("sequence_type", Kind.BYTES),
    5: Field("map_type", Kind.BYTES),
    6: Field("denotation", Kind.IGNORED),
    8: Field("sparse_tensor_type", Kind.BYTES),
    9: Field("optional_type", Kind.BYTES),
}
_VALUE: Table = {
    1: Field("name", Kind.TEXT),
    2: Field("type", _TYPE),
    3: Field("doc_string", Kind.IGNORED),
    4: Field("metadata_props", Kind.IGNORED),
}
_GRAPH: Table = {
    1: Field("node", _NODE, repeated=True),
    2: Field("name", Kind.IGNORED),
    5: Field("initializer", _TENSOR, repeated=True),
    10: Field("doc_string", Kind.IGNORED),
    11: Field("input", _VALUE, repeated=True),
    12: Field("output", _VALUE, repeated=True),
    13: Field("value_info", Kind.IGNORED),
    14: Field("quantization_annotation", Kind.IGNORED),
    15: Field("sparse_initializer", Kind.BYTES, repeated=True),
    16: Field("metadata_props", Kind.IGNORED),
}
_MODEL: Table = {
    1: Field("ir_version", Kind.INTEGER),
    2: Field("producer_name", Kind.IGNORED),
    3: Field("producer_version", Kind.IGNORED),
    4: Field("domain", Kind.IGNORED),
    5: Field("model_version", Kind.IGNORED),
    6: Field("doc_string", Kind.IGNORED),
    7: Field("graph", _GRAPH),
    8: Field("opset_import", {1: Field("domain", Kind.TEXT), 2: Field("version", Kind.INTEGER)}, repeated=True),
    14: Field("metadata_props", Kind.IGNORED),
    20: Field("training_info", Kind.BYTES, repeated=True),
    25: Field("functions", Kind.BYTES, repeated=True),
}
_UNSUPPORTED_ATTRIBUTES = {
    "g": "a graph within the graph",
    "graphs": "graphs within the graph",
    "sparse_tensor": "a sparse tensor",
    "sparse_tensors": "sparse tensors",
    "tensors": "a list of tensors",
    "ref_attr_name": "a reference to an attribute of a function",
}


@dataclass(frozen=True)
class Tensor:
    """A constant of the graph: its type as the format numbers it, its lengths, and its values in one of two forms."""

    name: str
    data_type: int
    dims: tuple[int, ...]
    raw: memoryview | None  # little-endian elements
    values: tuple[float, ...]  # where there is no `raw`


@dataclass(frozen=True)
class Node:
    """One operator of the graph."""

    operator: str
    label: str  # the layer, as people know it
    inputs: tuple[str, ...]  # an empty name: not given
    outputs: tuple[str, ...]
    attributes: dict[str, Any]


@dataclass(frozen=True)
class Value:
    """An input or output of the graph."""

    name: str
    data_type: int
    dims: tuple[int | None, ...]  # None: free


@dataclass(frozen=True)
class Graph:
    """All of an ONNX model that this registry makes use of."""

    opset: int
    nodes: tuple[Node, ...]
    constants: dict[str, Tensor]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


def read_graph(path: Path, operators: Collection[str]) -> Graph:
    """Read an upload whole.

    Args:
        path: of the file.
        operators: those that may stand in it.

    Raises:
        ArchiveError: it may not be loaded; the sentence names what is to blame.
        ConversionError: it holds an operator that is not supported; the sentence names its layer, too.
    """
    try:
        model = read(path.read_bytes(), _MODEL, "the model")
    except ProtobufError as exc:
        raise ArchiveError(f"{path.name} is no ONNX model, or a damaged one ({exc}): {HOW_TO_EXPORT}") from exc
    for field, what in (("functions", "functions of its own"), ("training_info", "a training graph")):
        if model.get(field):
            raise ArchiveError(f"the model holds {what}, which is not supported: export for inference, with plain ops")
    graph = model.get("graph")
    if graph is None:
        raise ArchiveError(f"{path.name} holds no graph: {HOW_TO_EXPORT}")
    if graph.get("sparse_initializer"):
        raise ArchiveError("the model holds sparse weights, which are not supported: store them as ordinary tensors")
    constants = [_tensor(one, one.get("name", "")) for one in graph.get("initializer", ())]
    nodes = tuple(_node(one, number, operators) for number, one in enumerate(graph.get("node", ())))
    named = {one.name for one in constants}
    taken = tuple(_value(one) for one in graph.get("input", ()) if one.get("name", "") not in named)
    given = tuple(_value(one) for one in graph.get("output", ()))
    found = Graph(_opset(model), nodes, {one.name: one for one in constants}, taken, given)
    _check_names(found, [one.name for one in constants])
    return found


def _opset(model: Message) -> int:
    versions = [one.get("version", 1) for one in model.get("opset_import", ()) if one.get("domain", "") in _OWN_DOMAINS]
    if len(versions) != 1:
        raise ArchiveError(f"the model names {len(versions)} versions of ONNX's operators, not one: {HOW_TO_EXPORT}")
    if versions[0] < OLDEST_OPSET:
        raise ArchiveError(
            f"the model uses operator set {versions[0]}, and {OLDEST_OPSET} is the oldest that is supported: export it "
            "again, or convert it with onnx.version_converter.convert_version(model, 17)"
        )
    return int(versions[0])


def _tensor(tensor: Message, name: str) -> Tensor:
    shown = repr(name[:NAME_CHARS])
    if tensor.get("data_location", 0) == _EXTERNAL or tensor.get("external_data"):
        pairs = {one.get("key", ""): one.get("value", "") for one in tensor.get("external_data", ())}
        place = pairs.get("location", "")[:NAME_CHARS]
        raise ArchiveError(
            f"the weights {shown} lie in another file ({place!r}), and no other file is ever read: save the model as "
            "one file, onnx.save(model, 'model.onnx') after onnx.load, or torch.onnx.export(..., external_data=False)"
        )
    data_type, dims = tensor.get("data_type", 0), tuple(tensor.get("dims", ()))
    if data_type not in _BYTES_PER_ELEMENT:
        raise ArchiveError(f"the constant {shown} has the type {data_type} of ONNX: use float32, int64, int32 or bool")
    if any(length < 0 for length in dims):
        raise ArchiveError(f"the constant {shown} has the lengths {list(dims)[:8]}, of which one is negative")
    elements = math.prod(dims)
    raw = tensor.get("raw_data")
    if raw is not None:
        if len(raw) != elements * _BYTES_PER_ELEMENT[data_type]:
            raise ArchiveError(f"the constant {shown} holds {len(raw)} bytes, which is not what {list(dims)[:8]} needs")
        return Tensor(name, data_type, dims, raw, ())
    field = next((one for one in _TYPED_FIELDS if tensor.get(one)), None)
    values = tuple(tensor[field]) if field else ()
    wanted = _TYPED_FIELDS[field] if field else data_type
    if (wanted != data_type and not (field == "int32_data" and data_type in _INT32_STORES)) or len(values) != elements:
        raise ArchiveError(f"the constant {shown} holds {len(values)} values, which is not what {list(dims)[:8]} needs")
    return Tensor(name, data_type, dims, None, values)


def _node(node: Message, number: int, operators: Collection[str]) -> Node:
    operator, domain = node.get("op_type", ""), node.get("domain", "")
    outputs = tuple(node.get("output", ()))
    label = (node.get("name") or next(iter(outputs), "") or f"node {number}")[:NAME_CHARS]
    if not any(outputs):
        raise ArchiveError(f"the layer {label!r} gives nothing: {HOW_TO_EXPORT}")
    attributes = {}
    for one in node.get("attribute", ()):
        unsupported = next((what for field, what in _UNSUPPORTED_ATTRIBUTES.items() if one.get(field)), None)
        if unsupported is not None:
            raise ConversionError(
                f"the layer {label!r} ({operator[:NAME_CHARS]}) holds {unsupported}, which is not supported: "
                "replace it, or export the model as a torch.export archive"
            )
        attributes[one.get("name", "")] = _attribute(one, label)
    if domain not in _OWN_DOMAINS or operator not in operators:
        name = f"{domain}.{operator}" if domain not in _OWN_DOMAINS else operator
        raise ConversionError(
            f"the operator {name[:NAME_CHARS]} of the layer {label!r} is not supported: replace that layer, or export "
            "the model as a torch.export archive"
        )
    return Node(operator, label, tuple(node.get("input", ())), outputs, attributes)


def _attribute(attribute: Message, label: str) -> Any:  # noqa: ANN401  one of the kinds below
    if "t" in attribute:
        return _tensor(attribute["t"], f"{label}.{attribute.get('name', '')}")
    for field in ("f", "i"):
        if field in attribute:
            return attribute[field]
    if "s" in attribute:
        return bytes(attribute["s"][:NAME_CHARS]).decode(errors="replace")
    for field in ("floats", "ints"):
        if field in attribute:
            return tuple(attribute[field])
    return ()


def _value(value: Message) -> Value:
    name = value.get("name", "")
    tensor = value.get("type", {}).get("tensor_type")
    if tensor is None or "shape" not in tensor:
        raise ArchiveError(f"{name[:NAME_CHARS]!r} is no tensor with a shape: export the model with shapes")
    dims = tuple(one.get("dim_value") for one in tensor["shape"].get("dim", ()))
    return Value(name, tensor.get("elem_type", 0), dims)


def _check_names(graph: Graph, constants: list[str]) -> None:
    """Whether each value is made once, before it is used."""
    known: set[str] = set()
    for name in [*constants, *(one.name for one in graph.inputs)]:
        _add(name, known)
    for node in graph.nodes:
        missing = next((name for name in node.inputs if name and name not in known), None)
        if missing is not None:
            raise ArchiveError(f"the layer {node.label!r} uses {missing[:NAME_CHARS]!r}, which nothing before it makes")
        for name in node.outputs:
            if name:
                _add(name, known)
    missing = next((one.name for one in graph.outputs if one.name not in known), None)
    if missing is not None:
        raise ArchiveError(f"the output {missing[:NAME_CHARS]!r} is made by no layer")
    if not graph.inputs or not graph.outputs:
        raise ArchiveError("the model has no input or no output")


def _add(name: str, known: set[str]) -> None:
    if not name or name in known:
        raise ArchiveError(f"the value {name[:NAME_CHARS]!r} is made twice, or has no name")
    known.add(name)

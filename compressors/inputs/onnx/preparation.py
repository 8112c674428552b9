"""An ONNX graph made ready for torch: constants under the names of their layers, matrices as torch keeps them.

Exporters fold and share constants: a batch-norm's mean may be the same tensor as its bias, and both be unnamed. Torch
wants what is trained and what is not apart, and products with a matrix that is (out, in).
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from compressors.inputs.onnx.gate import NAME_CHARS, Graph, Node, Tensor
from compressors.inputs.onnx.values import array_of

if TYPE_CHECKING:
    from collections.abc import Sequence

LINEAR = "a product with a matrix of torch"  # no operator of ONNX has such a name
_PRODUCTS = {"MatMul", "Gemm"}
_MATRIX = 2  # dimensions; and a product has two inputs
_SCALES = 2  # the input of Resize
_WEIGHT_NAMES = {1: "weight", 2: "bias"}  # by the input of the layer
_STATISTICS = {3: "running_mean", 4: "running_var"}  # of a batch-norm; they are not trained
_RECURRENT_NAMES = {1: "weight_ih", 2: "weight_hh", 3: "bias"}


@dataclass(frozen=True)
class Stored:
    """A constant and where the module keeps it."""

    constant: Tensor
    path: str  # dotted
    turned: bool = False  # kept transposed
    trained: bool = True


@dataclass(frozen=True)
class Prepared:
    """The operators to run, and the constants that they use by name."""

    nodes: tuple[Node, ...]
    stored: dict[str, Stored]


def prepare(graph: Graph) -> Prepared:
    """Name, part and turn the constants of a graph."""
    nodes, constants = _folded(graph)
    nodes = _with_biases(nodes, constants, {end.name for end in graph.outputs})
    uses = Counter(name for node in nodes for name in node.inputs)
    stored: dict[str, Stored] = {}
    ready = []
    for node in nodes:
        if node.operator == "BatchNormalization":
            ready.append(_with_own_statistics(node, constants, stored))
        elif _has_matrix_to_turn(node, constants) and uses[node.inputs[1]] == 1:
            name = node.inputs[1]
            stored[name] = Stored(constants[name], _path(name, node), turned=True)
            ready.append(replace(node, operator=LINEAR))
        elif node.operator == "Resize" and len(node.inputs) > _SCALES and node.inputs[_SCALES] in constants:
            scales = tuple(array_of(constants[node.inputs[_SCALES]]).tolist())
            ready.append(replace(node, attributes={**node.attributes, "scales": scales}))
        else:
            ready.append(node)
    first_user = _first_users(ready)
    for name, constant in constants.items():
        if name not in stored and name in first_user:
            stored[name] = Stored(constant, _path(name, first_user[name]))
    return Prepared(tuple(ready), stored)


def _folded(graph: Graph) -> tuple[list[Node], dict[str, Tensor]]:
    """The operators that compute, and all constants: Constant gives one, and Identity gives one another name."""
    constants, same_as, nodes = dict(graph.constants), dict[str, str](), list[Node]()
    outputs = {end.name for end in graph.outputs}
    for original in graph.nodes:
        node = replace(original, inputs=tuple(same_as.get(name, name) for name in original.inputs))
        value = node.attributes.get("value")
        if node.operator == "Constant" and isinstance(value, Tensor) and node.outputs:
            constants[node.outputs[0]] = value
        elif (
            node.operator == "Identity"
            and node.inputs[:1]
            and node.inputs[0] in constants
            and node.outputs[0] not in outputs
        ):
            same_as[node.outputs[0]] = node.inputs[0]
        else:
            nodes.append(node)
    return nodes, constants


def _with_biases(nodes: list[Node], constants: dict[str, Tensor], outputs: set[str]) -> list[Node]:
    """A product and the addition of a vector to it are one layer with a bias."""
    uses = Counter(name for node in nodes for name in node.inputs)
    products = {
        node.outputs[0]: constants[node.inputs[1]].dims[1]
        for node in nodes
        if node.operator == "MatMul" and _has_matrix_to_turn(node, constants) and uses[node.inputs[1]] == 1
    }
    sums: dict[str, tuple[Node, str]] = {}  # by the product: the addition, and the bias
    for node in nodes:
        for product, bias in (node.inputs, node.inputs[::-1]) if node.operator == "Add" else ():
            is_alone = product in products and uses[product] == 1 and product not in outputs
            if is_alone and bias in constants and constants[bias].dims == (products[product],):
                sums[product] = (node, bias)
    joined = {addition.outputs for addition, _ in sums.values()}
    found = []
    for node in nodes:
        if node.outputs[0] in sums:
            addition, bias = sums[node.outputs[0]]
            found.append(replace(node, inputs=(*node.inputs, bias), outputs=addition.outputs))
        elif node.outputs not in joined:
            found.append(node)
    return found


def _has_matrix_to_turn(node: Node, constants: dict[str, Tensor]) -> bool:
    if node.operator not in _PRODUCTS or len(node.inputs) < _MATRIX or node.attributes.get("transB", 0):
        return False
    return node.inputs[1] in constants and len(constants[node.inputs[1]].dims) == _MATRIX


def _with_own_statistics(node: Node, constants: dict[str, Tensor], stored: dict[str, Stored]) -> Node:
    """The batch-norm with mean and variance of its own, whatever shares their values."""
    inputs = list(node.inputs)
    for at, leaf in _STATISTICS.items():
        if at < len(inputs) and inputs[at] in constants:
            name = f"{leaf} of {node.outputs[0]}"  # each value of a graph is made once
            stored[name] = Stored(constants[inputs[at]], f"{_layer(inputs[1], node)}.{leaf}", trained=False)
            inputs[at] = name
    return replace(node, inputs=tuple(inputs))


def _first_users(nodes: Sequence[Node]) -> dict[str, Node]:
    users: dict[str, Node] = {}
    for node in nodes:
        for name in node.inputs:
            users.setdefault(name, node)
    return users


def _path(name: str, node: Node) -> str:
    """Where a constant is kept: under its own name, or that of its layer if the exporter gave it a number only."""
    if _is_dotted(name):
        return name
    names = _RECURRENT_NAMES if node.operator == "LSTM" else _WEIGHT_NAMES
    return f"{_layer(name, node)}.{names.get(node.inputs.index(name), 'value')}"


def _layer(weight: str, node: Node) -> str:
    """The layer of a weight: as the network called it, or from the label of its operator (`/f/f.0/Conv`)."""
    if _is_dotted(weight):
        return weight.rpartition(".")[0]
    return re.sub(r"[^A-Za-z0-9_]+", ".", node.label.removesuffix(f"/{node.operator}")).strip(".") or "layer"


def _is_dotted(name: str) -> bool:
    return len(name) <= NAME_CHARS and re.fullmatch(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)+", name) is not None

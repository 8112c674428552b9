"""ONNX files of the tests' networks, written operator by operator: no converter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
OPSET = 18


def write_layers(path: Path, weights: Sequence[tuple[Floats, Floats]], *, batch: int | str = 1) -> Path:
    """Dense layers with ReLU between them; `batch` as a text is a free dimension."""
    nodes, stored, previous = [], [], "features"
    for i, (weight, bias) in enumerate(weights):
        stored += [numpy_helper.from_array(weight, f"w{i}"), numpy_helper.from_array(bias, f"b{i}")]
        nodes.append(helper.make_node("Gemm", [previous, f"w{i}", f"b{i}"], [f"y{i}"], transB=1))
        previous = f"y{i}"
        if i < len(weights) - 1:
            nodes.append(helper.make_node("Relu", [previous], [f"r{i}"]))
            previous = f"r{i}"
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, length])
        for name, length in (("features", weights[0][0].shape[1]), (previous, weights[-1][0].shape[0]))
    ]
    graph = helper.make_graph(nodes, "layers", ends[:1], ends[1:], stored)
    return save(path, graph)


def write_embedding(path: Path, table: Floats) -> Path:
    """Row `id` of a table."""
    gather = helper.make_node("Gather", ["table", "ids"], ["vectors"])
    ends = [
        helper.make_tensor_value_info("ids", TensorProto.INT32, [1]),
        helper.make_tensor_value_info("vectors", TensorProto.FLOAT, [1, table.shape[1]]),
    ]
    return save(
        path, helper.make_graph([gather], "table", ends[:1], ends[1:], [numpy_helper.from_array(table, "table")])
    )


def write_hungry(path: Path, *, rows: int, columns: int) -> Path:
    """Gigabytes of output out of a small file: a column and a row, added."""
    column = helper.make_node("ConstantOfShape", ["shape"], ["column"])
    table = helper.make_node("Add", ["row", "column"], ["table"])
    ends = [
        helper.make_tensor_value_info("row", TensorProto.FLOAT, [1, columns]),
        helper.make_tensor_value_info("table", TensorProto.FLOAT, [rows, columns]),
    ]
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [rows, 1])
    return save(path, helper.make_graph([column, table], "hungry", ends[:1], ends[1:], [shape]))


def save(path: Path, graph: onnx.GraphProto) -> Path:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path

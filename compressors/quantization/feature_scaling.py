"""Which operators of a file must stay in float because an input's features live on different scales.

A table row such as (income 3.2, population 1,425, longitude -122.2) is one tensor, and a quantized tensor has one
scale: in steps of 150 persons nothing is left of the income, and R2 fell from 0.96 to -0.01. Most such networks begin
by scaling their features. So when the calibration rows show that, the input and the elementwise operators that follow
it stay in float, and integers begin where the features are alike.
"""

from __future__ import annotations

from dataclasses import dataclass

from compressors.files.litert import read_graphs, tensor_name

_SCALING = {"SUB", "ADD", "MUL", "DIV", "MAXIMUM", "MINIMUM", "RELU", "RELU6", "RELU_N1_TO_1", "CAST", "RESHAPE"}


@dataclass(frozen=True)
class FloatOperator:
    """An operator that is left in float: its kind and the name of its output."""

    kind: str
    output: str


def scaling_operators(file: bytes) -> list[FloatOperator]:
    """The operators that work on the inputs and constants alone, element by element, up to the first that does not."""
    found = []
    for graph in read_graphs(file):
        scaled = set(graph.inputs)
        for kind, operator in graph.operators:
            used = {int(index) for index in operator.inputs if index >= 0}
            if kind in _SCALING and used & scaled and used <= scaled | graph.constants.keys():
                scaled.update(int(index) for index in operator.outputs)
                found.append(FloatOperator(kind, tensor_name(graph.tensors[operator.outputs[0]])))
    return found

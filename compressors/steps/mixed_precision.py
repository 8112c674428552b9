"""Which operators of a file are a network's most sensitive layers: those that mixed precision leaves in float."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from compressors.errors import CompressorError
from compressors.folding import fold_batch_norms
from compressors.layers import graph_of, weight_of, weighted_layers
from compressors.sensitivity import sensitivity
from compressors.steps.feature_scaling import FloatOperator
from compressors.tflite_file import weighted_operators

if TYPE_CHECKING:
    from torch import fx

    from compressors.steps.base import Context, Model
    from compressors.tflite_file import WeightedOperator


def most_sensitive(model: Model, context: Context, file: bytes, count: int) -> dict[str, FloatOperator]:
    """The operators of so many layers, the most sensitive first, by layer.

    Raises:
        CompressorError: they are not found in the file.
        RecipeError: the model was pushed as a file and has no layers.
    """
    wanted = [one.layer for one in sensitivity(model.network, context)[:count]]
    known = operators_of_layers(fold_batch_norms(graph_of(model.network.module)), file)
    missing = [layer for layer in wanted if layer not in known]
    if missing:
        raise CompressorError(
            f"the layer {missing[0]} is not found again in the exported file, so it can't stay in float: leave "
            "float_layers out"
        )
    return {layer: FloatOperator(known[layer].kind, known[layer].output) for layer in wanted}


def operators_of_layers(folded: fx.GraphModule, file: bytes) -> dict[str, WeightedOperator]:
    """The operator of a file that each layer of a network became: the one with the same weights, in whatever order."""
    free = weighted_operators(file)
    found = {}
    for name, layer in weighted_layers(folded):
        values = np.sort(weight_of(layer).numpy().ravel())
        place = next((place for place, one in enumerate(free) if _holds(one, values)), None)
        if place is not None:
            found[name] = free.pop(place)
    return found


def _holds(operator: WeightedOperator, values: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> bool:
    if operator.filter.size != values.size:
        return False
    largest = float(np.abs(values).max(initial=0.0))
    return bool(np.allclose(np.sort(operator.filter.ravel()), values, rtol=1e-4, atol=1e-5 * largest))

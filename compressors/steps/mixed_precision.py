"""Which operators of a file are a network's most sensitive layers: those that mixed precision leaves in float."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

from compressors.errors import CompressorError
from compressors.files.litert import weighted_operators
from compressors.network.folding import fold_batch_norms
from compressors.network.layers import graph_of, weight_of, weighted_layers
from compressors.quantization.feature_scaling import FloatOperator
from compressors.sensitivity.quantizing import sensitivity
from compressors.sensitivity.sharpness import sharpness

if TYPE_CHECKING:
    from torch import fx

    from compressors.files.litert import WeightedOperator
    from compressors.step import Context, Model


class SensitiveBy(StrEnum):
    """What says how sensitive a layer is."""

    NOISE = "noise"  # of the output with this layer alone quantized, see `sensitivity`
    CURVATURE = "curvature"  # of the loss, see `sharpness`


def most_sensitive(
    model: Model, context: Context, file: bytes, count: int, by: SensitiveBy
) -> dict[str, FloatOperator]:
    """The operators of so many layers, the most sensitive first, by layer.

    Raises:
        DataError: curvature needs labelled calibration rows.
        ModelRunError: curvature needs operators with a second derivative.
        CompressorError: they are not found in the file.
        RecipeError: the model was pushed as a file and has no layers.
    """
    if by is SensitiveBy.CURVATURE:
        wanted = list(sharpness(model.network, context))[:count]
    else:
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

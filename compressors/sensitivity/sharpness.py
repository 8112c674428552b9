"""How much rounding each layer's weights is expected to add to the loss, by the curvature of the loss there.

Source: Dong et al. 2020, "HAWQ-V2", arXiv:1911.03852: half the mean trace of the layer's Hessian, times the squared
change of its weights. Unlike `sensitivity` it needs labels and second derivatives, and sees no activations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from compressors.network.folding import fold_batch_norms
from compressors.network.layers import graph_of, weight_of, weighted_layers
from compressors.sensitivity.curvature import curvature_of
from compressors.simulation.grid import bounds_of, rounded
from compressors.simulation.simulate import INT8_WEIGHTS, channel_axis
from compressors.training.row_losses import loss_batches

if TYPE_CHECKING:
    from compressors.inputs.program import FloatModel
    from compressors.simulation.grid import Grid
    from compressors.step import Context

ROWS, BATCH_ROWS = 128, 32


def sharpness(network: FloatModel, context: Context, grid: Grid = INT8_WEIGHTS) -> dict[str, float]:
    """What each layer adds to the mean loss when its weights are rounded per channel; the most costly first.

    Args:
        network: of layers.
        context: labelled calibration rows are what the loss is taken over.
        grid: how finely weights are rounded.

    Raises:
        DataError: fewer than eight calibration rows have a label.
        ModelRunError: an operator has no second derivative.
        RecipeError: the network was pushed as a file and has no layers.
    """
    folded = fold_batch_norms(graph_of(network.module))
    rows = loss_batches(folded, context.calibration, context.task, context.metric, max_rows=ROWS, batch_size=BATCH_ROWS)
    curvature = curvature_of(folded, list(rows), seed=context.seed)
    cost = {}
    for name, layer in weighted_layers(folded):
        if name in curvature:
            weight = weight_of(layer)
            change = rounded(weight, *bounds_of(weight, channel_axis(layer)), grid) - weight
            cost[name] = curvature[name].cost_of(float(change.square().sum()))
    return dict(sorted(cost.items(), key=lambda one: -one[1]))

"""How much rounding each layer's weights is expected to add to the loss, by the curvature of the loss there.

Source: Dong et al. 2020, "HAWQ-V2", arXiv:1911.03852: half the mean trace of the layer's Hessian, times the squared
change of its weights. Unlike `sensitivity` it needs labels and second derivatives, and sees no activations.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from compressors.errors import CompressorError
from compressors.network.folding import fold_batch_norms
from compressors.network.layers import graph_of, weight_of, weighted_layers
from compressors.network.macs import layer_macs
from compressors.sensitivity.curvature import MAX_POWER_STEPS, PROBES, Curvature, curvature_of
from compressors.sensitivity.keeping import Shelf, key_of
from compressors.simulation.grid import bounds_of, rounded
from compressors.simulation.simulate import INT8_WEIGHTS, channel_axis
from compressors.training.row_losses import has_labels, loss_batches

if TYPE_CHECKING:
    from compressors.inputs.program import FloatModel
    from compressors.simulation.grid import Grid
    from compressors.step import Context

ROWS, BATCH_ROWS = 128, 32
# What a search or a report may spend on it unasked: about 12 s on one core, a fiftieth of the usual ten minutes.
AFFORDABLE_MACS = 3e11
AFFORDABLE_LAYERS = 32  # of however few multiplications: each product passes through all of them

_BY_LAYER: TypeAdapter[dict[str, Curvature]] = TypeAdapter(dict[str, Curvature])


def sharpness(network: FloatModel, context: Context, grid: Grid = INT8_WEIGHTS) -> dict[str, float]:
    """What each layer adds to the mean loss when its weights are rounded per channel; the most costly first.

    Args:
        network: of layers.
        context: labelled calibration rows are what the loss is taken over; `cache_dir` keeps the curvature.
        grid: how finely weights are rounded.

    Raises:
        DataError: fewer than eight calibration rows have a label.
        ModelRunError: an operator has no second derivative.
        RecipeError: the network was pushed as a file and has no layers.
    """
    curvature = layer_curvature(network, context)
    cost = {}
    for name, layer in weighted_layers(fold_batch_norms(graph_of(network.module))):
        if name in curvature:
            weight = weight_of(layer)
            change = rounded(weight, *bounds_of(weight, channel_axis(layer)), grid) - weight
            cost[name] = curvature[name].cost_of(float(change.square().sum()))
    return dict(sorted(cost.items(), key=lambda one: -one[1]))


def layer_curvature(network: FloatModel, context: Context) -> dict[str, Curvature]:
    """The curvature of each layer with its batch norm folded in, over `ROWS` labelled calibration rows.

    It is computed once for the same network, rows, loss and seed where the context has a `cache_dir`.

    Raises:
        DataError: fewer than eight calibration rows have a label.
        ModelRunError: an operator has no second derivative.
        RecipeError: the network was pushed as a file and has no layers.
    """
    folded = fold_batch_norms(graph_of(network.module))
    split = context.calibration
    asked = [ROWS, BATCH_ROWS, context.task.value, context.metric.name, context.seed]
    key = key_of(folded, asked, (*split.inputs.values(), split.target))
    shelf = Shelf(context.cache_dir, "curvature", _BY_LAYER)
    if (kept := shelf.read(key)) is not None:
        return kept
    rows = loss_batches(folded, split, context.task, context.metric, max_rows=ROWS, batch_size=BATCH_ROWS)
    found = curvature_of(folded, list(rows), seed=context.seed)
    shelf.write(key, found)
    return found


def affordable_curvature(network: FloatModel, context: Context) -> dict[str, Curvature]:
    """The same for whoever did not ask for it: empty where it would take long, or can't be had.

    It takes long for networks of more than `AFFORDABLE_LAYERS` layers or `AFFORDABLE_MACS` multiply-accumulates: for
    each layer a product with each random vector and at most each step of the power iteration, over all rows. By
    arithmetic, so that every run agrees.
    """
    macs = layer_macs(network)
    products = len(macs) * (PROBES + MAX_POWER_STEPS)
    if len(macs) > AFFORDABLE_LAYERS or products * ROWS * sum(macs.values()) > AFFORDABLE_MACS:
        return {}
    if not has_labels(context.calibration, context.task):
        return {}
    try:
        found = layer_curvature(network, context)
    except CompressorError:  # an operator without a second derivative
        return {}
    is_known = all(math.isfinite(one.trace) and math.isfinite(one.top_eigenvalue) for one in found.values())
    return found if is_known else {}

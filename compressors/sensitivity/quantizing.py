"""How much of a network's answers each layer would cost if it alone were quantized: weights only, activations only.

It is simulated on selection rows, and kept by a hash of all that it depends on: a search asks again and again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from compressors.calibration.rows import part_of
from compressors.contract import Part
from compressors.measuring.fidelity import snr_db
from compressors.network.folding import fold_batch_norms
from compressors.network.layers import graph_of, weighted_layers
from compressors.network.macs import layer_macs
from compressors.sensitivity.keeping import Shelf, key_of
from compressors.simulation import Scheme, ranges_of, simulated
from compressors.simulation.points import points_of_layers

if TYPE_CHECKING:
    from compressors.inputs.program import FloatModel
    from compressors.step import Context

ROWS = 32
LEAST_ROWS = 4
SIMULATED_MACS = 2e11  # about 20 s on one core, for networks that take a hundred runs a row


class LayerSensitivity(Part):
    """The output's signal-to-noise ratio in dB with one layer quantized; the lower, the more sensitive."""

    layer: str
    weights_db: float
    activations_db: float  # of the layer's rounded result; that of a network without noise is `fidelity.MOST_DB`

    @property
    def noise(self) -> float:
        """What both together add, as a share of the signal."""
        return float(10.0 ** (-self.weights_db / 10.0) + 10.0 ** (-self.activations_db / 10.0))


_LIST = TypeAdapter(tuple[LayerSensitivity, ...])


def sensitivity(
    network: FloatModel, context: Context, scheme: Scheme | None = None, *, rows: int | None = None
) -> tuple[LayerSensitivity, ...]:
    """The sensitivity of each layer with weights, the most sensitive first.

    Args:
        network: of layers.
        context: calibration rows give the ranges, selection rows the answers; `cache_dir` keeps the result.
        scheme: what quantization is simulated; None stands for 8 bits, per channel.
        rows: of selection; None: as many as a large network leaves time for, from 4 to 32.

    Raises:
        RecipeError: the network was pushed as a file and has no layers.
    """
    scheme = scheme or Scheme()
    module = fold_batch_norms(graph_of(network.module))
    rows = _affordable_rows(network) if rows is None else rows
    arrays = (*context.calibration.inputs.values(), *context.selection.inputs.values())
    key = key_of(module, [repr(scheme), rows], arrays)
    shelf = Shelf(context.cache_dir, "sensitivity", _LIST)
    if (kept := shelf.read(key)) is not None:
        return kept
    folded = replace(network, module=module)
    few = part_of(context.selection, rows).inputs
    name = network.signature.outputs[0].name
    expected = folded.run(few)[name]
    ranges = ranges_of(folded, context.calibration)
    points = points_of_layers(module)

    def cost_db(weights: set[str], activations: set[str]) -> float:
        rounding = simulated(module, scheme, ranges, only_weights=weights, only_activations=activations)
        return snr_db(expected, replace(folded, module=rounding).run(few)[name])

    found = [
        LayerSensitivity(
            layer=layer, weights_db=cost_db({layer}, set()), activations_db=cost_db(set(), {points[layer]})
        )
        for layer, _ in weighted_layers(module)
        if layer in points
    ]
    ordered = tuple(sorted(found, key=lambda one: -one.noise))
    shelf.write(key, ordered)
    return ordered


def _affordable_rows(network: FloatModel) -> int:
    """Each layer is simulated twice on each row; by arithmetic, so that a result is kept under one key."""
    macs = layer_macs(network)
    return max(LEAST_ROWS, min(ROWS, int(SIMULATED_MACS / max(1, 2 * len(macs) * sum(macs.values())))))

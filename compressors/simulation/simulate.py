"""A network whose weights and activations are rounded as an integer runtime would round them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn

from compressors.calibration.feature_scales import is_unevenly_scaled
from compressors.calibration.rows import part_of
from compressors.measuring.fidelity import snr_db
from compressors.network.folding import fold_batch_norms
from compressors.network.layers import graph_of, weight_of, weighted_layers
from compressors.rehydrate import clone
from compressors.simulation.grid import Grid, RoundedActivation, bounds_of, rounded
from compressors.simulation.points import before_layers, rounding_points

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from compressors.data.evaluation_rows import Split
    from compressors.inputs.program import FloatModel
    from compressors.step import Context

    Ranges = Mapping[str, tuple[float, float]]

INT8_WEIGHTS, INT8_ACTIVATIONS = Grid(8, symmetric=True), Grid(8, symmetric=False)
BATCH = 32
MAX_ROWS = 64  # that ranges are taken from and answers are compared on


@dataclass(frozen=True)
class Scheme:
    """What is rounded, and how finely; no bits leave it float."""

    weights: Grid | None = INT8_WEIGHTS
    activations: Grid | None = INT8_ACTIVATIONS
    per_channel: bool = True


def channel_axis(layer: nn.Module) -> int:
    """The dimension of a weight that has a scale for each index."""
    return 1 if isinstance(layer, (nn.ConvTranspose1d, nn.ConvTranspose2d)) else 0


def ranges_of(network: FloatModel, split: Split) -> dict[str, tuple[float, float]]:
    """The extremes of each activation that would be rounded, by the name of its node, batch by batch.

    The network's batch-norms are folded, as `simulated` wants it. Features on scales that one tensor can't hold stay
    float until the first layer, as the quantizer leaves them.
    """
    graph = graph_of(network.module)
    uneven = any(map(is_unevenly_scaled, split.inputs.values()))
    points = {node.name for node in rounding_points(graph)} - (before_layers(graph) if uneven else set())
    watching = _Watching(graph, points)
    replace(network, module=watching).run(part_of(split, MAX_ROWS).inputs, batch=BATCH)
    return watching.ranges


class _Watching(nn.Module):
    """Runs a network node by node and notes extremes."""

    def __init__(self, network: fx.GraphModule, names: Collection[str]) -> None:
        super().__init__()
        self.ranges: dict[str, tuple[float, float]] = {}
        outer = self

        class Noting(fx.Interpreter):
            def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401
                found = super().run_node(n)
                if n.name in names and isinstance(found, torch.Tensor) and found.is_floating_point():
                    outer.note(n.name, found)
                return found

        self._interpreter = Noting(network)

    def note(self, name: str, values: torch.Tensor) -> None:
        low, high = self.ranges.get(name, (0.0, 0.0))
        self.ranges[name] = min(low, float(values.min())), max(high, float(values.max()))

    def forward(self, *inputs: torch.Tensor) -> Any:  # noqa: ANN401  a tensor or several
        return self._interpreter.run(*inputs)


def simulated(
    folded: fx.GraphModule,
    scheme: Scheme,
    ranges: Ranges,
    *,
    only_weights: Collection[str] | None = None,
    only_activations: Collection[str] | None = None,
) -> fx.GraphModule:
    """A copy of a network that rounds.

    Args:
        folded: a network whose batch-norms are folded.
        scheme: what is rounded, and how.
        ranges: of activations by node, see `ranges_of`; those that are not there stay float.
        only_weights: the layers whose weights are rounded; None rounds all.
        only_activations: the nodes whose results are rounded; None rounds all.
    """
    network = clone(folded)
    if scheme.weights is not None:
        round_weights(network, scheme.weights, per_channel=scheme.per_channel, only=only_weights)
    if scheme.activations is not None:
        wanted = {name: one for name, one in ranges.items() if only_activations is None or name in only_activations}
        _round_activations(network, scheme.activations, wanted)
    return network


def round_weights(
    network: fx.GraphModule, grid: Grid, *, per_channel: bool, only: Collection[str] | None = None
) -> None:
    """Round the weights of a network in place."""
    for name, layer in weighted_layers(network):
        if only is None or name in only:
            weight = weight_of(layer)
            low, high = bounds_of(weight, channel_axis(layer) if per_channel else None)
            weight.copy_(rounded(weight, low, high, grid))


def _round_activations(network: fx.GraphModule, grid: Grid, ranges: Ranges) -> None:
    for node in list(network.graph.nodes):
        if node.name not in ranges:
            continue
        name = f"rounded_{node.name}"
        network.add_submodule(name, RoundedActivation(*ranges[node.name], grid))
        with network.graph.inserting_after(node):
            behind = network.graph.call_module(name)
        node.replace_all_uses_with(behind)
        behind.args = (node,)
    network.recompile()


def simulated_snr_db(
    network: FloatModel, context: Context, scheme: Scheme, *, expected: NDArray[np.generic] | None = None
) -> float:
    """How near a network's answers would be to those of the pushed float model, once it is quantized.

    The signal-to-noise ratio of the first output on selection rows, with ranges from calibration rows. `expected`:
    those answers, see `answers_on_selection`, where they are known already.
    """
    module = fold_batch_norms(graph_of(network.module))
    folded = replace(network, module=module)
    ranges = ranges_of(folded, context.calibration) if scheme.activations is not None else {}
    rounding = replace(folded, module=simulated(module, scheme, ranges))
    wanted = answers_on_selection(context.teacher or network, context) if expected is None else expected
    return snr_db(wanted, answers_on_selection(rounding, context))


def answers_on_selection(network: FloatModel, context: Context) -> NDArray[np.generic]:
    """The first output of a network on the selection rows that simulations are compared on."""
    rows = part_of(context.selection, MAX_ROWS).inputs
    return network.run(rows, batch=BATCH)[network.signature.outputs[0].name]

"""Fake quantization for training: weights and activations are rounded on the way forward, gradients pass through.

Source: Jacob et al. 2018, arXiv:1712.05877 (moving ranges); Esser et al. 2020, arXiv:1902.08153 (learned ones).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.utils import parametrize

from compressors.network.layers import weighted_layers
from compressors.rehydrate import clone
from compressors.simulation.grid import RoundedWeight, rounded
from compressors.simulation.simulate import channel_axis

if TYPE_CHECKING:
    from torch import fx

    from compressors.simulation.grid import Grid
    from compressors.simulation.simulate import Ranges, Scheme

MEMORY = 0.99  # of a moving range, a batch
_PREFIX = "rounding_"


class MovingRange(nn.Module):
    """An activation on a grid whose range follows the extremes of the batches of training."""

    low: torch.Tensor
    high: torch.Tensor

    def __init__(self, low: float, high: float, grid: Grid) -> None:
        """Begins with a range of calibration rows."""
        super().__init__()
        self.grid = grid
        self.register_buffer("low", torch.tensor(low))
        self.register_buffer("high", torch.tensor(high))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """The values on the grid."""
        if self.training:
            seen = values.detach()
            self.low.lerp_(seen.amin().clamp(max=0.0), 1.0 - MEMORY)
            self.high.lerp_(seen.amax().clamp(min=0.0), 1.0 - MEMORY)
        return rounded(values, self.low, self.high, self.grid)


class LearnedRange(nn.Module):
    """An activation on a grid whose range is trained with the weights: clipped values pull at it."""

    def __init__(self, low: float, high: float, grid: Grid) -> None:
        """Begins with a range of calibration rows."""
        super().__init__()
        self.grid = grid
        self.low = nn.Parameter(torch.tensor(low))
        self.high = nn.Parameter(torch.tensor(high))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """The values on the grid."""
        return rounded(values, self.low.clamp(max=0.0), self.high.clamp(min=0.0), self.grid)


def prepared(folded: fx.GraphModule, scheme: Scheme, ranges: Ranges, *, learned: bool) -> fx.GraphModule:
    """A copy of a network that trains as it will be rounded; its last result stays float, for the loss to see."""
    network = clone(folded)
    if scheme.weights is not None:
        for _, layer in list(weighted_layers(network)):
            axis = channel_axis(layer) if scheme.per_channel else None
            parametrize.register_parametrization(layer, "weight", RoundedWeight(axis, scheme.weights))
    for node in list(network.graph.nodes):
        if scheme.activations is None or node.name not in ranges or any(user.op == "output" for user in node.users):
            continue
        kind = LearnedRange if learned else MovingRange
        name = f"{_PREFIX}{node.name}"
        network.add_submodule(name, kind(*ranges[node.name], scheme.activations))
        with network.graph.inserting_after(node):
            behind = network.graph.call_module(name)
        node.replace_all_uses_with(behind)
        behind.args = (node,)
    network.recompile()
    return network


def move_weights(trained: fx.GraphModule, target: fx.GraphModule) -> None:
    """Copy what was trained into the network that was prepared, without the rounding."""
    state = {
        name.replace(".parametrizations.weight.original", ".weight"): tensor
        for name, tensor in trained.state_dict().items()
        if not name.startswith(_PREFIX)
    }
    target.load_state_dict(state)

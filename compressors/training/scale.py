"""What the numbers of a network's first output are, and how losses see them: as logits."""

from __future__ import annotations

from enum import StrEnum

import torch
from torch import fx, nn

SMALLEST = 1e-6  # probability that a loss can see


class Scale(StrEnum):
    """The scale of an output."""

    LOGITS = "logits"
    PROBABILITIES = "probabilities"  # of classes that add up to one
    LOG_PROBABILITIES = "log-probabilities"
    CHANCES = "chances"  # each output for itself


_LAYERS: dict[type[nn.Module], Scale] = {
    nn.Softmax: Scale.PROBABILITIES,
    nn.LogSoftmax: Scale.LOG_PROBABILITIES,
    nn.Sigmoid: Scale.CHANCES,
}
_FUNCTIONS = {torch.softmax: Scale.PROBABILITIES, torch.sigmoid: Scale.CHANCES}
_SHAPES = (torch.reshape, torch.flatten, torch.squeeze, torch.unsqueeze)  # leave the numbers alone


def scale_of(network: nn.Module) -> Scale:
    """The scale of the first output, told by the layer that gives it; logits where that is not known."""
    if not isinstance(network, fx.GraphModule):
        return Scale.LOGITS
    node = next(iter(reversed(network.graph.nodes))).all_input_nodes[0]
    while node.op == "call_function" and node.target in _SHAPES:
        node = node.all_input_nodes[0]
    if node.op == "call_module":
        return _LAYERS.get(type(network.get_submodule(str(node.target))), Scale.LOGITS)
    return next((scale for function, scale in _FUNCTIONS.items() if node.target is function), Scale.LOGITS)


def logits_of(outputs: torch.Tensor, scale: Scale) -> torch.Tensor:
    """Outputs as logits: what a softmax or a sigmoid would turn into them."""
    if scale is Scale.PROBABILITIES:
        return outputs.clamp_min(SMALLEST).log()
    if scale is Scale.CHANCES:
        return torch.logit(outputs, eps=SMALLEST)
    return outputs

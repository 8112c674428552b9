"""Cross-layer equalisation: channels of neighbouring layers share out their ranges, and the function stays the same.

Where a layer's channel is divided by a factor and the next layer's weights for it are multiplied, a ReLU between them
lets the factor through. The factor that makes both ranges alike makes them as narrow as they can be.
Source: Nagel et al. 2019, arXiv:1906.04721.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from compressors.network.layers import weight_of
from compressors.simulation.points import layer_at

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import fx

CAP = 6.0  # of ReLU6
BELOW_CAP = 0.9  # of the cap, for what the calibration rows did not show
SWEEPS = 20
STILL = 1e-3  # a sweep that moves no factor further is the last
_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)
_LETTING_THROUGH = (nn.ReLU, nn.Identity, nn.Dropout, nn.ZeroPad2d)


@dataclass(frozen=True)
class Pair:
    """Two layers with nothing between them but what lets a factor through; `capped`: the node of a ReLU6 there."""

    first: str
    second: str
    capped: str | None


def pairs_of(folded: fx.GraphModule, *, through_caps: bool) -> list[Pair]:
    """The pairs of a network whose batch-norms are folded, in its order."""
    calls = [str(node.target) for node in folded.graph.nodes if node.op == "call_module"]
    found = []
    for node in folded.graph.nodes:
        if not _is_single(folded, node, calls):
            continue
        behind, capped = _next(folded, node)
        if behind is None or not _is_single(folded, behind, calls) or (capped and not through_caps):
            continue
        if _by_input(layer_at(folded, behind)) is not None:
            found.append(Pair(str(node.target), str(behind.target), capped))
    return found


def equalize(network: fx.GraphModule, pairs: list[Pair], highest: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """Equalise pairs in place, over and over, because a layer between two others belongs to two pairs.

    Args:
        network: is changed.
        pairs: of it.
        highest: what each channel of a capped node was at most, float32, (channels,). A channel that reached the cap
            keeps its range, the others stay below it.

    Returns:
        For each first layer how much its widest range was above its narrowest, before over after.
    """
    tops = dict(highest)
    before = {pair.first: _spread(network, pair.first) for pair in pairs}
    for _ in range(SWEEPS):
        moved = max((_equalize_pair(network, pair, tops) for pair in pairs), default=0.0)
        if moved < STILL:
            break
    return {name: one / _spread(network, name) for name, one in before.items()}


def _equalize_pair(network: fx.GraphModule, pair: Pair, tops: dict[str, torch.Tensor]) -> float:
    """Returns how far the furthest factor is from one."""
    first, second = network.get_submodule(pair.first), network.get_submodule(pair.second)
    weights = weight_of(first)
    incoming = _by_input(second)
    if incoming is None:
        return 0.0
    own, following = weights.flatten(1).abs().amax(1), incoming.abs().flatten(1).amax(1)
    live = (own > 0.0) & (following > 0.0)  # pruning makes channels of zeros
    factor = torch.where(live, (own / following.clamp(min=1e-30)).sqrt(), torch.ones_like(own))
    if pair.capped is not None:
        top = tops[pair.capped]
        factor = torch.where(top < CAP * BELOW_CAP, torch.maximum(factor, top / (CAP * BELOW_CAP)), 1.0)
        tops[pair.capped] = top / factor
    weights /= factor.reshape(-1, *[1] * (weights.dim() - 1))
    if isinstance(first.bias, torch.Tensor):
        first.bias.detach().div_(factor)
    incoming *= factor.reshape(-1, *[1] * (incoming.dim() - 1))
    return float((factor - 1.0).abs().max())


def _by_input(layer: Any) -> torch.Tensor | None:  # noqa: ANN401  of any kind
    """A view of a layer's weights whose first dimension is the input channel; None where channels are in groups."""
    if not isinstance(layer, _LAYERS):
        return None
    weight = weight_of(layer)
    groups = getattr(layer, "groups", 1)
    if groups == 1:
        return weight.transpose(0, 1)
    return weight if groups == weight.shape[0] == layer.in_channels else None


def _is_single(network: fx.GraphModule, node: fx.Node, calls: list[str]) -> bool:
    return isinstance(layer_at(network, node), _LAYERS) and calls.count(str(node.target)) == 1


def _next(network: fx.GraphModule, node: fx.Node) -> tuple[fx.Node | None, str | None]:
    """The layer behind a node, and the ReLU6 on the way; None where the way forks or does not let a factor through."""
    capped = None
    while len(node.users) == 1:
        node = next(iter(node.users))
        layer = layer_at(network, node)
        if isinstance(layer, _LAYERS):
            return node, capped
        if isinstance(layer, nn.ReLU6):
            capped = node.name
        elif not isinstance(layer, _LETTING_THROUGH) and not _pads_with_zero(node):
            break
    return None, None


def _pads_with_zero(node: fx.Node) -> bool:
    """`aten.pad(values, widths, mode="constant", value=None)`."""
    if node.op != "call_function" or "pad" not in str(node.target):
        return False
    mode, value = [*node.args[2:], *[None] * 2][:2]
    mode, value = node.kwargs.get("mode", mode), node.kwargs.get("value", value)
    return mode in {None, "constant"} and not value


def _spread(network: fx.GraphModule, name: str) -> float:
    ranges = weight_of(network.get_submodule(name)).flatten(1).abs().amax(1)
    live = ranges[ranges > 0.0]
    return float(live.max() / live.min()) if len(live) else 1.0

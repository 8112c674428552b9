"""Batch-norms become part of the layers before them: at inference they are a factor and a term for each channel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from compressors.rehydrate import clone

if TYPE_CHECKING:
    from torch import fx

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def fold_batch_norms(network: fx.GraphModule) -> fx.GraphModule:
    """A copy whose batch-norms are folded, where a convolution or linear layer is theirs alone; the others stay."""
    folded = clone(network).eval()
    for node in list(folded.graph.nodes):
        before: Any = node.args[0] if node.args else None
        if not _is_folding_pair(folded, before, node):
            continue
        layer, norm = folded.get_submodule(before.target), folded.get_submodule(node.target)
        folded.set_submodule(before.target, _folded(layer, norm))
        node.replace_all_uses_with(before)
        folded.graph.erase_node(node)
        folded.delete_submodule(node.target)
    folded.recompile()
    return folded


def _is_folding_pair(network: fx.GraphModule, before: Any, node: fx.Node) -> bool:  # noqa: ANN401  of any kind
    """Whether a node is a batch-norm, and the only one to use a layer's only call."""
    if node.op != "call_module" or getattr(before, "op", "") != "call_module" or len(before.users) > 1:
        return False
    calls = [one.target for one in network.graph.nodes if one.op == "call_module"]
    norm, layer = network.get_submodule(str(node.target)), network.get_submodule(before.target)
    alone = calls.count(node.target) == 1 and calls.count(before.target) == 1
    return alone and isinstance(norm, _NORMS) and isinstance(layer, (*_CONVOLUTIONS, nn.Linear))


def _folded(layer: Any, norm: Any) -> nn.Module:  # noqa: ANN401
    fuse = fuse_linear_bn_eval if isinstance(layer, nn.Linear) else fuse_conv_bn_eval
    folded: nn.Module = fuse(layer, norm)
    return folded

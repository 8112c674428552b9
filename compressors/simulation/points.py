"""Where an integer network rounds its activations. Pure: a graph in, nodes out.

A runtime computes a layer, its batch-norm and its ReLU at once: there is one rounding, behind the last of them. What
moves values without computing any (padding, reshaping, the maximum of some) keeps the rounding of what it moves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from compressors.network.layers import WEIGHTED

if TYPE_CHECKING:
    from torch import fx

_FUSED = (nn.ReLU, nn.ReLU6, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_MOVING = (nn.Flatten, nn.Dropout, nn.Identity, nn.MaxPool1d, nn.MaxPool2d, nn.ConstantPad2d, nn.ZeroPad2d)
_MOVING_FUNCTIONS = ("flatten", "pad", "getitem", "reshape", "view", "permute", "transpose", "squeeze", "dropout")


def rounding_points(network: fx.GraphModule) -> list[fx.Node]:
    """The nodes whose results are rounded, inputs among them; some may turn out to be no float tensors."""
    return [
        node
        for node in network.graph.nodes
        if node.op in {"placeholder", "call_module", "call_function", "call_method"}
        and not _is_fused_with_next(network, node)
        and not _moves(network, node)
    ]


def before_layers(network: fx.GraphModule) -> set[str]:
    """The names of the inputs, and of what is computed of them before any layer has weights."""
    found: set[str] = set()
    for node in network.graph.nodes:
        from_inputs = node.all_input_nodes and all(
            before.name in found or before.op == "get_attr" for before in node.all_input_nodes
        )
        if node.op == "placeholder" or (from_inputs and not isinstance(layer_at(network, node), WEIGHTED)):
            found.add(node.name)
    return found


def points_of_layers(network: fx.GraphModule) -> dict[str, str]:
    """For each layer with weights the node whose result is rounded behind it; the last call counts."""
    points = set(rounding_points(network))
    found = {}
    for node in network.graph.nodes:
        if isinstance(layer_at(network, node), WEIGHTED):
            behind = node
            while behind not in points and len(behind.users) == 1:
                behind = next(iter(behind.users))
            found[str(node.target)] = behind.name
    return found


def layer_at(network: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """The layer that a node calls; None where it calls none."""
    return network.get_submodule(str(node.target)) if node.op == "call_module" else None


def _is_fused_with_next(network: fx.GraphModule, node: fx.Node) -> bool:
    if len(node.users) != 1 or not isinstance(layer_at(network, node), (*WEIGHTED, *_FUSED)):
        return False
    return isinstance(layer_at(network, next(iter(node.users))), _FUSED)


def _moves(network: fx.GraphModule, node: fx.Node) -> bool:
    layer = layer_at(network, node)
    if layer is not None:
        return isinstance(layer, _MOVING)
    return node.op != "placeholder" and any(name in str(node.target) for name in _MOVING_FUNCTIONS)

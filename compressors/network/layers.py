"""The layers of a network that hold weights, and how one layer is replaced by a chain of others in its graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import fx, nn

from compressors.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    import torch

WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.Embedding)


def weighted_layers(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Name and layer of whatever multiplies or looks up weights, each once, in the order of the network."""
    for name, layer in network.named_modules():
        if isinstance(layer, WEIGHTED):
            yield name, layer


def check_skip(network: nn.Module, skip: Collection[str]) -> None:
    """Whether all layers exist that a step is told to leave alone: a slip of the pen would change one of them.

    Raises:
        RecipeError: one does not.
    """
    known = {name for name, _ in network.named_modules()}
    unknown = next((name for name in skip if name not in known), None)
    if unknown is not None:
        some = ", ".join(name for name, _ in weighted_layers(network))
        raise RecipeError(f"skip names the layer {unknown!r}, which the network does not have; it has {some}")


def weight_of(layer: nn.Module) -> torch.Tensor:
    """The weights of a layer, for a step to look at or to write into."""
    weight = layer.weight
    if not isinstance(weight, nn.Parameter):
        raise TypeError(f"{type(layer).__name__} has no weight of its own")
    return weight.detach()


def graph_of(network: nn.Module) -> fx.GraphModule:
    """The network as a graph whose layers can be replaced.

    Raises:
        RecipeError: it is none; networks that come from a `.pt2` are.
    """
    if not isinstance(network, fx.GraphModule):
        raise RecipeError("this step needs the network as a graph of layers: push it as a .pt2")
    return network


def replace_layer(network: fx.GraphModule, name: str, chain: Mapping[str, nn.Module]) -> None:
    """Put layers, one after the other, where one layer was; each call of that layer calls the chain.

    Args:
        network: is changed.
        name: of the layer.
        chain: new layers by the names that they get inside `name`, in the order in which they are called.
    """
    network.set_submodule(name, nn.ModuleDict(dict(chain)))
    for node in [node for node in network.graph.nodes if node.op == "call_module" and node.target == name]:
        made = node
        with network.graph.inserting_before(node):
            value = node.args[0] if node.args else next(iter(node.kwargs.values()))
            for part in chain:
                made = value = network.graph.call_module(f"{name}.{part}", (value,))
                made.meta = dict(node.meta)
        node.replace_all_uses_with(made)
        network.graph.erase_node(node)
    network.recompile()

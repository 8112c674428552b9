"""Channels that can only go together, and their removal: Torch-Pruning's dependency graph, read into plain data.

A channel of a layer is also an input of the layers after it, a number in the batch norm between, and by a residual
connection a channel of other layers. Whoever removes it removes all of that.
Source: Fang et al. 2023, "DepGraph: Towards Any Structural Pruning", arXiv:2301.12900.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch_pruning import DependencyGraph, ops
from torch_pruning.dependency.index_mapping import _FlattenIndexMapping

from compressors.errors import RecipeError
from compressors.rehydrate import clone
from compressors.running import first_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    Examples = tuple[torch.Tensor, ...]

# what belongs to an input or an output of the network, or has a structure of its own
_FIXED = {ops.OPTYPE.OUTPUT, ops.OPTYPE.EMBED, ops.OPTYPE.MHA, ops.OPTYPE.LSTM, ops.OPTYPE.IN}
_GROUPED = nn.modules.conv._ConvNd | nn.GroupNorm  # noqa: SLF001  has no public name
_PICTURE = 4  # dimensions of what the library flattens by itself


@dataclass(frozen=True)
class Side:
    """The channels of one side of a layer that go with those of a coupling's root.

    `channels[i]` of the layer goes with channel `roots[i]` of the root.
    """

    layer: str
    is_input: bool
    channels: tuple[int, ...]
    roots: tuple[int, ...]


@dataclass(frozen=True)
class Coupling:
    """The output channels of a layer, with everything that goes with each of them.

    Where a member is a convolution or a norm in `groups` groups, each group must lose as many: the channels i,
    i + channels / groups, ... are one unit. Else a unit is one channel.
    """

    root: str
    channels: int
    groups: int
    sides: tuple[Side, ...]

    @property
    def units(self) -> int:
        """How many can go one by one."""
        return self.channels // self.groups

    def channels_of(self, units: Sequence[int]) -> list[int]:
        """The root's channels in some units, ascending."""
        return sorted(unit + number * self.units for unit in units for number in range(self.groups))


def couplings_of(network: nn.Module, examples: Examples) -> list[Coupling]:
    """What can be pruned by the graph alone; whether the network allows it, only a trial can tell: see `trial`.

    Args:
        network: not modified.
        examples: one tensor for each input.

    Raises:
        RecipeError: the library can't trace the network.
    """
    copied = clone(network)
    try:
        graph = _graph(copied, examples)
        names = {module: name for name, module in copied.named_modules()}
        found = [_coupling(graph, group, names) for group in graph.get_all_groups()]
    except Exception as exc:  # the library raises whatever it hits: ZeroDivisionError for shuffled channels, and others
        raise RecipeError(
            f"Torch-Pruning can't follow the channels of this network ({type(exc).__name__}: {first_line(exc)}): "
            "prune its single weights instead, or leave the step out"
        ) from exc
    return [coupling for coupling in found if coupling is not None]


def without_channels(network: nn.Module, examples: Examples, removed: Mapping[Coupling, Sequence[int]]) -> nn.Module:
    """A copy of a network without some units of some couplings: its layers are really smaller."""
    copied = clone(network)
    graph = _graph(copied, examples)
    for coupling, units in removed.items():
        if len(units) == 0:
            continue
        root = copied.get_submodule(coupling.root)
        function = graph.get_pruner_of_module(root).prune_out_channels
        graph.get_pruning_group(root, function, coupling.channels_of(units)).prune()
    return copied


def _graph(network: nn.Module, examples: Examples) -> Any:  # noqa: ANN401  the library has no types
    network.requires_grad_(requires_grad=True)  # it is traced by its gradients
    with warnings.catch_warnings(action="ignore"), torch.enable_grad():
        graph = DependencyGraph().build_dependency(network, examples, verbose=False)
    _map_other_flattenings(graph)
    return graph


def _map_other_flattenings(graph: Any) -> None:  # noqa: ANN401
    """Tell the library which inputs of a Linear come from which channel of a flattened (rows, channels, length).

    Torch-Pruning 1.6.1 does so for four dimensions only, and takes channel numbers for numbers of inputs elsewhere.
    """
    for node in list(graph.module2node.values()):
        lengths = getattr(node.grad_fn, "_saved_self_sym_sizes", getattr(node.grad_fn, "_saved_self_sizes", ()))
        if node.type is not ops.OPTYPE.RESHAPE or len(lengths) <= 2 or len(lengths) == _PICTURE:  # noqa: PLR2004
            continue
        if not any(_takes(following, math.prod(lengths[1:])) for following in node.outputs):
            continue
        stride = math.prod(lengths[2:])
        for before in node.inputs:
            for source, target, reverse in ((node, before, True), (before, node, False)):
                for dependency in source.dependencies:
                    if dependency.target is target:
                        dependency.index_mapping[0] = _FlattenIndexMapping(stride=stride, reverse=reverse)


def _takes(node: Any, values: int) -> bool:  # noqa: ANN401
    """Whether a Linear with this many inputs follows, behind operators that treat each value alone."""
    while node.type is ops.OPTYPE.ELEMENTWISE and len(node.outputs) == 1:
        node = node.outputs[0]
    return isinstance(node.module, nn.Linear) and node.module.in_features == values


def _coupling(graph: Any, group: Any, names: Mapping[nn.Module, str]) -> Coupling | None:  # noqa: ANN401
    """A group as data; None where it reaches what must stay."""
    if any(dependency.target.type in _FIXED for dependency, _ in group):
        return None
    sides = tuple(_sides(graph, group, names))
    channels = len(group[0].idxs)
    groups = {_groups_of(dependency.target.module) for dependency, _ in group} - {1}
    if not any(side.is_input for side in sides) or len(groups) > 1:
        return None  # nothing reads these channels but the user of the network
    number = next(iter(groups), 1)
    if channels % number:
        return None
    return Coupling(names[group[0].dep.target.module], channels, number, sides)


def _groups_of(module: nn.Module) -> int:
    if not isinstance(module, _GROUPED):
        return 1
    if isinstance(module, nn.GroupNorm):
        return int(module.num_groups)
    return 1 if is_depthwise(module) else int(module.groups)


def _sides(graph: Any, group: Any, names: Mapping[nn.Module, str]) -> Iterator[Side]:  # noqa: ANN401
    for item in group:
        module = item.dep.target.module
        if isinstance(module, nn.Module) and module in names and any(True for _ in module.parameters()):
            outwards = graph.is_out_channel_pruning_fn(item.dep.handler)
            yield Side(names[module], not outwards, tuple(item.idxs), tuple(item.root_idxs))


def is_depthwise(module: nn.Module) -> bool:
    """A convolution whose every channel is a group of its own: what goes out is what came in."""
    if not isinstance(module, nn.modules.conv._ConvNd):  # noqa: SLF001  has no public name
        return False
    return module.groups == module.out_channels == module.in_channels and module.groups > 1

"""Multiply-accumulates of a network, layer by layer, as a function of how many units each coupling has lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn

from compressors.pruning.coupling import is_depthwise

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from compressors.pruning.coupling import Coupling


class _Narrowed(NamedTuple):
    """A side of a layer, and the share of it that goes with each unit of a coupling."""

    coupling: Coupling
    is_input: bool
    share: float


class Cost:
    """The MACs of one sample, for the layers that have weights.

    Args:
        network: whole.
        layers: what each layer costs in it, from `macs.layer_macs`.
        couplings: what can be removed.
    """

    def __init__(self, network: nn.Module, layers: Mapping[str, int], couplings: Sequence[Coupling]) -> None:
        self.layers = layers
        self._narrowed: dict[str, list[_Narrowed]] = {name: [] for name in self.layers}
        self._touched: dict[Coupling, set[str]] = {coupling: set() for coupling in couplings}
        for coupling in couplings:
            for side in coupling.sides:
                layer = network.get_submodule(side.layer)
                if side.layer not in self.layers or (side.is_input and is_depthwise(layer)):
                    continue
                share = len(side.channels) / coupling.units / _width(layer, is_input=side.is_input)
                self._narrowed[side.layer].append(_Narrowed(coupling, side.is_input, share))
                self._touched[coupling].add(side.layer)

    def macs(self, removed: Mapping[Coupling, int]) -> float:
        """Of the whole network without some units."""
        return sum(self._layer(name, removed) for name in self.layers)

    def saved(self, removed: Mapping[Coupling, int], coupling: Coupling, units: int) -> float:
        """What removing more units of one coupling saves, where others are gone already."""
        fewer = {**removed, coupling: removed.get(coupling, 0) + units}
        return sum(self._layer(name, removed) - self._layer(name, fewer) for name in self._touched[coupling])

    def _layer(self, name: str, removed: Mapping[Coupling, int]) -> float:
        # inputs and outputs multiply; several couplings of one side (a concatenation) add up
        left = {True: 1.0, False: 1.0}
        for narrowed in self._narrowed[name]:
            left[narrowed.is_input] -= narrowed.share * removed.get(narrowed.coupling, 0)
        return self.layers[name] * left[True] * left[False]


def _width(layer: Any, *, is_input: bool) -> int:  # noqa: ANN401
    if isinstance(layer, nn.Linear):
        return layer.in_features if is_input else layer.out_features
    return int(layer.in_channels if is_input else layer.out_channels)

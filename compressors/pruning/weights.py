"""Which single weights go: those that are worth least, of the whole network or of each layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from compressors.errors import NoEffectError
from compressors.network.layers import check_skip, weight_of, weighted_layers

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from torch import nn

Scope = Literal["network", "layer"]


def prunable(network: nn.Module, skip: Collection[str]) -> dict[str, nn.Module]:
    """The layers whose weights may go, by name; of layers that share their weights the first.

    Raises:
        NoEffectError: there are none.
        RecipeError: `skip` names a layer that does not exist.
    """
    check_skip(network, skip)
    found: dict[int, tuple[str, nn.Module]] = {}
    for name, layer in weighted_layers(network):
        if name not in skip:
            found.setdefault(weight_of(layer).data_ptr(), (name, layer))
    if not found:
        raise NoEffectError(
            "no layer of this network has weights that may go: leave the step out, or skip fewer layers"
        )
    return dict(found.values())


def least(scores: Mapping[str, torch.Tensor], sparsity: float, scope: Scope) -> dict[str, torch.Tensor]:
    """Where the weights are that are worth least, as masks.

    Args:
        scores: by layer; what is zero already must score least.
        sparsity: the share that goes.
        scope: whether scores are compared over the whole network, or every layer gives the same share.
    """
    if scope == "layer":
        return {name: lowest(values, round(sparsity * values.numel())) for name, values in scores.items()}
    everything = torch.cat([values.flatten() for values in scores.values()])
    mask = lowest(everything, round(sparsity * everything.numel()))
    pieces = mask.split([values.numel() for values in scores.values()])
    return {name: piece.reshape(scores[name].shape) for name, piece in zip(scores, pieces, strict=True)}


def lowest(values: torch.Tensor, count: int) -> torch.Tensor:
    """Where the lowest values are, as a mask of the same shape."""
    mask = torch.zeros(values.numel(), dtype=torch.bool)
    mask[torch.argsort(values.flatten(), stable=True)[:count]] = True
    return mask.reshape(values.shape)


def zeros_of(layers: Mapping[str, nn.Module]) -> dict[str, int]:
    """How many weights of each layer are zero."""
    return {name: int((weight_of(layer) == 0).sum()) for name, layer in layers.items()}


def sizes_of(layers: Mapping[str, nn.Module]) -> dict[str, int]:
    """How many weights each layer has."""
    return {name: weight_of(layer).numel() for name, layer in layers.items()}

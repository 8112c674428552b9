"""Unstructured pruning by magnitude: the smallest weights become zero, wherever they are.

The download shrinks; the file on the device and its latency stay: LiteRT computes with zeros as with any number.
Source: Han et al. 2015, arXiv:1506.02626; at random: as `torch.nn.utils.prune` has it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field

from compressors.errors import NoEffectError
from compressors.network.layers import weight_of
from compressors.pruning.weights import Scope, least, prunable, sizes_of, zeros_of
from compressors.rehydrate import clone
from compressors.step import Form, Outcome, Parameters, Step

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from compressors.step import Context, Model


class PruneWeightsParameters(Parameters):
    """How many weights go.

    `sparsity`: the share of weights that is zero in the end. `by`: magnitude, or a random number. `scope`: whether
    weights are compared over the whole network, or each layer gives the same share. `skip`: layers that stay.
    """

    sparsity: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.8
    by: Literal["magnitude", "random"] = "magnitude"
    scope: Scope = "network"
    skip: tuple[str, ...] = ()


def prune(model: Model, context: Context, parameters: PruneWeightsParameters) -> Outcome:
    """Set the smallest weights to zero; see `Step`.

    Raises:
        NoEffectError: no layer has weights to give, or as many are zero already.
    """
    module = clone(model.network.module)
    layers = prunable(module, parameters.skip)
    generator = torch.Generator().manual_seed(context.seed)
    scores = {}
    for name, layer in layers.items():
        size = weight_of(layer).abs()
        drawn = torch.rand(size.shape, generator=generator) + 1.0  # what is zero already still scores least
        scores[name] = size if parameters.by == "magnitude" else drawn * (size > 0)
    before = zeros_of(layers)
    for name, mask in least(scores, parameters.sparsity, parameters.scope).items():
        weight_of(layers[name]).masked_fill_(mask, 0.0)
    return outcome_of(model, module, layers, before)


def outcome_of(model: Model, module: nn.Module, layers: Mapping[str, nn.Module], before: Mapping[str, int]) -> Outcome:
    """What a step says that set weights to zero.

    Raises:
        NoEffectError: no more are zero than before.
    """
    after, sizes = zeros_of(layers), sizes_of(layers)
    if sum(after.values()) <= sum(before.values()):
        raise NoEffectError(
            f"{sum(before.values())} of {sum(sizes.values())} weights were zero already and no more became so: ask for "
            "a higher sparsity, or leave the step out"
        )
    said = {name: f"{after[name] / sizes[name]:.1%} of {sizes[name]} weights are zero" for name in layers}
    summary = f"{sum(after.values())} of {sum(sizes.values())} weights are zero, {sum(before.values())} were before"
    return Outcome(replace(model, network=replace(model.network, module=module)), summary, said)


STEP = Step("prune-weights", PruneWeightsParameters, prune, takes=Form.NETWORK, gives=Form.NETWORK)

"""Channels leave a network: what the structured steps have in common, whatever says which channels go."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field
from torch import nn

from compressors.errors import NoEffectError
from compressors.network.layers import check_skip, weighted_layers
from compressors.network.macs import layer_macs
from compressors.pruning.cost import Cost
from compressors.pruning.coupling import couplings_of, without_channels
from compressors.pruning.selection import Widths, choose_globally, choose_per_layer
from compressors.pruning.trial import allowed
from compressors.rehydrate import clone
from compressors.step import Outcome, Parameters

if TYPE_CHECKING:
    from collections.abc import Callable

    from compressors.pruning.coupling import Coupling, Examples
    from compressors.step import Context, Model

    Scores = dict[Coupling, torch.Tensor]

_EXAMPLE_ROWS = 2


class ChannelParameters(Parameters):
    """What every structured step is told.

    `macs`: the share of the multiply-accumulates to come down to. `multiple_of`: what widths are rounded to; kernels
    compute so many channels at once. `scope`: whether channels are compared over the whole network, or each layer
    gives the same share. `skip`: layers whose channels stay.
    """

    macs: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    multiple_of: Literal[1, 2, 4, 8, 16] = 8
    scope: Literal["network", "layer"] = "network"
    skip: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prunable:
    """A network, and which of its channels can go."""

    network: nn.Module
    examples: Examples
    couplings: tuple[Coupling, ...]
    macs: dict[str, int]


def prunable_of(model: Model, context: Context, skip: tuple[str, ...]) -> Prunable:
    """Look for channels that can go.

    Raises:
        NoEffectError: there are none.
        RecipeError: the network can't be traced, or `skip` names a layer that does not exist.
    """
    check_skip(model.network.module, skip)
    network = clone(model.network.module).eval()
    examples = tuple(torch.from_numpy(array[:_EXAMPLE_ROWS]) for array in context.calibration.inputs.values())
    found = [
        coupling
        for coupling in couplings_of(network, examples)
        if not any(side.layer in skip for side in coupling.sides if not side.is_input)
    ]
    couplings = tuple(allowed(network, examples, found))
    if not couplings:
        raise NoEffectError(
            "no channels of this network can go: every layer's width is fixed by its inputs and outputs, by a shape "
            "that is written down, or by skip; leave the step out"
        )
    return Prunable(network, examples, couplings, layer_macs(model.network))


def prune_channels(model: Model, prunable: Prunable, scores: Scores, parameters: ChannelParameters) -> Outcome:
    """Take the channels that are worth least until the network costs what it may.

    Raises:
        NoEffectError: it costs no more already, or can't come down so far.
    """
    whole = sum(prunable.macs.values())
    gone = chosen(prunable, scores, parameters, whole=whole, share=parameters.macs)
    return outcome_of(model, without_channels(prunable.network, prunable.examples, gone))


def chosen(
    prunable: Prunable, scores: Scores, parameters: ChannelParameters, *, whole: int, share: float
) -> dict[Coupling, list[int]]:
    """The units that go, so that no more than a share of `whole` multiply-accumulates is left.

    Raises:
        NoEffectError: the network can't come down so far.
    """
    cost = Cost(prunable.network, prunable.macs, prunable.couplings)
    choose: Callable[..., dict[Coupling, list[int]]] = (
        choose_globally if parameters.scope == "network" else choose_per_layer
    )
    widths = Widths(parameters.multiple_of, parameters.multiple_of)
    return choose(scores, lambda removed: cost.macs(removed) / max(whole, 1), share, widths)


def check_reachable(model: Model, context: Context, parameters: ChannelParameters) -> None:
    """Whether a network can come down so far, before it is brought there bit by bit.

    Raises:
        NoEffectError: it can't; the sentence names the share that was asked for, not that of a round.
        RecipeError: see `prunable_of`.
    """
    prunable = prunable_of(model, context, parameters.skip)
    equal = {coupling: torch.zeros(coupling.units) for coupling in prunable.couplings}
    chosen(prunable, equal, parameters, whole=sum(prunable.macs.values()), share=parameters.macs)


def outcome_of(model: Model, smaller: nn.Module) -> Outcome:
    """What a step says that made layers narrower.

    Raises:
        NoEffectError: none is.
    """
    layers = _changes(model.network.module, smaller)
    if not layers:
        raise NoEffectError("no channel had to go: leave the step out")
    left = sum(weight.numel() for weight in smaller.parameters())
    network = replace(model.network, module=smaller, parameters=left)
    before, after = (sum(layer_macs(one).values()) for one in (model.network, network))
    summary = (
        f"{len(layers)} layers are narrower: {before} -> {after} multiply-accumulates ({after / before:.1%}), "
        f"{model.network.parameters} -> {left} parameters"
    )
    return Outcome(replace(model, network=network), summary, layers)


def _changes(before: nn.Module, after: nn.Module) -> dict[str, str]:
    """The layers that became smaller: channels going out and coming in."""
    found = {}
    for name, layer in weighted_layers(before):
        old, new = _widths(layer), _widths(after.get_submodule(name))
        if old != new:
            found[name] = f"{old[0]} -> {new[0]} outputs, {old[1]} -> {new[1]} inputs"
    return found


def _widths(layer: Any) -> tuple[int, int]:  # noqa: ANN401
    if isinstance(layer, nn.Linear):
        return layer.out_features, layer.in_features
    if isinstance(layer, nn.Embedding):
        return layer.embedding_dim, layer.num_embeddings
    return int(layer.out_channels), int(layer.in_channels)

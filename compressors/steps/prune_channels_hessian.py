"""Structured pruning by the Hessian: the channels leave whose going costs least of the loss.

The cost is optimal brain damage on a factor before each group of coupled channels, with the Fisher information of
labelled rows for the Hessian; see `pruning.channel_scores.fisher`.
Source: LeCun et al. 1989, "Optimal Brain Damage"; Liu et al. 2021, arXiv:2108.00708.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from compressors.network.layers import weight_of
from compressors.network.macs import layer_macs
from compressors.network.moments import patch_moments
from compressors.pruning.channel_scores import fisher
from compressors.pruning.coupling import without_channels
from compressors.pruning.gates import inputs_gone
from compressors.pruning.surgeon import without_inputs
from compressors.running import operators_may_refuse
from compressors.sensitivity.curvature import curvature_of
from compressors.step import Form, Step
from compressors.steps.narrowing import ChannelParameters, check_reachable, chosen, outcome_of, prunable_of
from compressors.training.row_losses import has_labels, loss_batches

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import nn

    from compressors.step import Context, Model, Outcome
    from compressors.training.row_losses import LossBatch

BATCH_ROWS = 64
CURVATURE_ROWS = 128  # rows of the report's eigenvalues
MOMENT_ROWS = 256


class PruneChannelsHessianParameters(ChannelParameters):
    """Those of all structured steps, and four more.

    `rows`: from which the Fisher information is taken. `rounds`: it is taken anew in each, because channels that are
    alike are worth more when the others have gone. `make_up`: the layers behind move their weights so that their
    outputs change least. `curvature`: the top eigenvalue and trace of each layer's Hessian are reported.
    """

    rows: Annotated[int, Field(ge=8, le=100_000)] = 512
    rounds: Annotated[int, Field(ge=1, le=20)] = 4
    make_up: bool = True
    curvature: bool = False  # hours for a network of many layers


def prune(model: Model, context: Context, parameters: PruneChannelsHessianParameters) -> Outcome:
    """Remove the channels that cost least of the loss; rows of `--train` where there are some; see `Step`.

    Raises:
        NoEffectError: no channel can go, none has to, or too few can.
        RecipeError: Torch-Pruning can't follow the network.
        ModelRunError: the network can't be derived.
    """
    check_reachable(model, context, parameters)
    whole = sum(layer_macs(model.network).values())
    smaller = model
    for number in range(1, parameters.rounds + 1):
        share = 1.0 - (1.0 - parameters.macs) * number / parameters.rounds
        smaller = _round(smaller, context, parameters, whole=whole, share=share)
    outcome = outcome_of(model, smaller.network.module)
    if not parameters.curvature:
        return outcome
    found = curvature_of(model.network.module, list(_batches(model, context, CURVATURE_ROWS)), seed=context.seed)
    layers = {name: f"{outcome.layers.get(name, 'as it was')}; {one}" for name, one in found.items()}
    return replace(outcome, layers={**outcome.layers, **layers})


def _round(
    model: Model, context: Context, parameters: PruneChannelsHessianParameters, *, whole: int, share: float
) -> Model:
    """Bring the network down to a share of the whole one's multiply-accumulates."""
    prunable = prunable_of(model, context, parameters.skip)
    batches = _batches(model, context, parameters.rows)
    with operators_may_refuse("the network's loss has no derivative", "prune by magnitude instead"):
        scores = fisher(prunable.network, prunable.couplings, batches)
    gone = chosen(prunable, scores, parameters, whole=whole, share=share)
    if parameters.make_up:
        _make_up(model, context, prunable.network, inputs_gone(prunable.network, gone))
    smaller = without_channels(prunable.network, prunable.examples, gone)
    return replace(model, network=replace(model.network, module=smaller))


def _make_up(model: Model, context: Context, network: nn.Module, gone: Mapping[str, list[int]]) -> None:
    """Move the weights of the layers that lose inputs; those of grouped and transposed convolutions stay."""
    mixing = [name for name in gone if getattr(network.get_submodule(name), "groups", 1) == 1]
    moments = patch_moments(model.network, context.calibration, max_rows=MOMENT_ROWS, layers=mixing)
    for name, inputs in gone.items():
        if name in moments:
            weight = weight_of(network.get_submodule(name))
            weight.copy_(without_inputs(weight, moments[name], inputs))


def _batches(model: Model, context: Context, rows: int) -> Iterator[LossBatch]:
    taught = context.train is not None and has_labels(context.train, context.task)
    split = context.train if context.train is not None and taught else context.calibration
    network, task, metric = model.network.module, context.task, context.metric
    return loss_batches(network, split, task, metric, max_rows=rows, batch_size=BATCH_ROWS)


STEP = Step("prune-channels-hessian", PruneChannelsHessianParameters, prune, takes=Form.NETWORK, gives=Form.NETWORK)

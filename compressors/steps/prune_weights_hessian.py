"""Unstructured pruning by the Hessian: weights go that change their layer's outputs least, and the others make up.

A closed form for each layer from the second moments of its inputs, on rows of `--train` where there are some: a small
evaluation set leaves too few for calibration to know them. See `pruning.surgeon`.
An embedding's Hessian is diagonal (how often a row is looked up), so there nothing makes up for what goes.
Source: Hassibi & Stork 1993; Frantar & Alistarh 2022, arXiv:2208.11580, and 2023, arXiv:2301.00774.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field
from torch import nn

from compressors.errors import NoEffectError
from compressors.network.layers import weight_of
from compressors.network.moments import input_moments, patch_moments
from compressors.pruning.surgeon import output_error, without_weights
from compressors.pruning.weights import Scope, least, lowest, prunable, zeros_of
from compressors.rehydrate import clone
from compressors.sensitivity.curvature import curvature_of
from compressors.step import Form, Parameters, Step
from compressors.steps.prune_weights import outcome_of
from compressors.training.row_losses import loss_batches

if TYPE_CHECKING:
    from compressors.sensitivity.curvature import Curvature
    from compressors.step import Context, Model, Outcome

CURVATURE_ROWS = 128  # the mean curvature of a layer is known well before
BATCH_ROWS = 64
LOOKUP_ROWS = 65_536  # cheap, and a large table has many rows that a few hundred lookups miss


class PruneWeightsHessianParameters(Parameters):
    """How many weights go.

    `sparsity`: the share of weights that is zero in the end. `scope`: whether each layer gives as many as pruning by
    magnitude over the whole network would take there, or all the same share. `rows`: of `--train`, else of the
    calibration split, for the moments. `curvature`: the top eigenvalue and trace of each layer's Hessian are reported.
    `skip`: layers that stay.
    """

    sparsity: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.8
    scope: Scope = "network"
    rows: Annotated[int, Field(ge=8, le=100_000)] = 512
    curvature: bool = False  # hours for a network of many layers
    skip: tuple[str, ...] = ()


def prune(model: Model, context: Context, parameters: PruneWeightsHessianParameters) -> Outcome:
    """Set the weights to zero that matter least, and move the others; see `Step`.

    Raises:
        NoEffectError: no layer has weights to give, or as many are zero already.
        ModelRunError: the network can't be derived twice, for the curvature.
    """
    module = clone(model.network.module)
    moments = patch_moments(model.network, context.train or context.calibration, max_rows=parameters.rows)
    possible = prunable(module, parameters.skip)
    tables = [name for name, layer in possible.items() if isinstance(layer, nn.Embedding)]
    lookups = _lookups(model, context, tables)
    layers = {name: layer for name, layer in possible.items() if name in moments or name in lookups}
    if not layers:
        raise NoEffectError("there is no closed form for any layer of this network: use prune-weights instead")
    before = zeros_of(layers)
    sizes = {name: weight_of(layer).abs() for name, layer in layers.items()}
    left = [name for name in possible if name not in layers]
    said = dict.fromkeys(left, "as it was: there is no closed form for it, or one that is too large")
    for name, mask in least(sizes, parameters.sparsity, parameters.scope).items():
        weight = weight_of(layers[name])
        if name in moments:
            pruned = without_weights(weight, moments[name], int(mask.sum()))
            said[name] = f"{output_error(weight, pruned, moments[name]):.2%} of its outputs' energy lost"
        else:
            pruned = _rarely_looked_up(weight, lookups[name], int(mask.sum()))
            said[name] = "by how often its rows are looked up"
        weight.copy_(pruned)
    if parameters.curvature:
        for name, one in _curvature(model, context).items():
            said[name] = f"{said.get(name, 'as it was')}; {one}"
    outcome = outcome_of(model, module, layers, before)
    return replace(
        outcome, layers={name: ", ".join(filter(None, (outcome.layers.get(name), said[name]))) for name in said}
    )


def _curvature(model: Model, context: Context) -> dict[str, Curvature]:
    network, rows = model.network.module, context.calibration
    few = loss_batches(network, rows, context.task, context.metric, max_rows=CURVATURE_ROWS, batch_size=BATCH_ROWS)
    return curvature_of(network, list(few), seed=context.seed)


def _lookups(model: Model, context: Context, tables: list[str]) -> dict[str, torch.Tensor]:
    """How often each row of the embeddings is looked up; one that these rows never ask for counts as asked for once.

    The splits are made of whole groups: the calibration rows know none of the users of the other splits.
    """
    rows = context.train or context.calibration
    found = input_moments(model.network, rows, max_rows=LOOKUP_ROWS, layers=tables)
    return {name: share + 1.0 / min(rows.rows, LOOKUP_ROWS) for name, share in found.items()}


def _rarely_looked_up(weight: torch.Tensor, lookups: torch.Tensor, count: int) -> torch.Tensor:
    cost = weight.double().square() * lookups[:, None]
    return weight.masked_fill(lowest(cost, count), 0.0)


STEP = Step("prune-weights-hessian", PruneWeightsHessianParameters, prune, takes=Form.NETWORK, gives=Form.NETWORK)

"""Smaller tables of embeddings: entries share rows, or are the sum of two.

A table of users or items is most of a recommender's bytes, and few of its multiplications: this makes a model smaller,
not faster. Train it further behind this step.
Source: see `compressors.network.shared_rows`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from compressors.errors import NoEffectError
from compressors.network.layers import graph_of, replace_layer, weight_of, weighted_layers
from compressors.network.moments import input_moments
from compressors.network.shared_rows import hashed, least_hashed_rows, shared
from compressors.rehydrate import clone
from compressors.step import Form, Outcome, Parameters, Step

if TYPE_CHECKING:
    from compressors.step import Context, Model


class ShareEmbeddingsParameters(Parameters):
    """`way`: entries that are alike share a row, or the sum of a quotient's and a remainder's row.

    `rows`: the share of a table's rows that is left. `min_entries`: smaller tables stay.
    """

    way: Literal["shared", "hashed"] = "shared"
    rows: Annotated[float, Field(gt=0, lt=1)] = 0.25
    min_entries: Annotated[int, Field(ge=4)] = 256


def share_embeddings(model: Model, context: Context, parameters: ShareEmbeddingsParameters) -> Outcome:
    """Make the tables smaller; see `Step`."""
    module = clone(graph_of(model.network.module))
    looked_up = input_moments(model.network, context.calibration, max_rows=context.calibration.rows)
    layers = {}
    for name, layer in list(weighted_layers(module)):
        if not isinstance(layer, nn.Embedding) or layer.num_embeddings < parameters.min_entries:
            continue
        rows = max(1, round(layer.num_embeddings * parameters.rows))
        if parameters.way == "hashed":
            rows = max(rows, least_hashed_rows(layer.num_embeddings))
            chain = hashed(layer, looked_up.get(name), rows)
        else:
            chain = shared(layer, looked_up.get(name), rows, seed=context.seed)
        lost = _lost(layer, nn.Sequential(*chain.values()), looked_up.get(name))
        replace_layer(module, name, chain)
        layers[name] = (
            f"{layer.num_embeddings} entries {parameters.way} in {rows} rows, {lost:.2%} of their energy lost"
        )
    if not layers:
        raise NoEffectError(
            f"no embedding has {parameters.min_entries} entries or more: ask for fewer with min_entries, or leave the "
            "step out"
        )
    left = sum(weight.numel() for weight in module.parameters())
    summary = f"{len(layers)} tables are smaller: {model.network.parameters} -> {left} parameters"
    network = replace(model.network, module=module, parameters=left)
    return Outcome(replace(model, network=network), summary, layers)


def _lost(layer: nn.Embedding, chain: nn.Module, looked_up: torch.Tensor | None) -> float:
    """The share of the energy of what is looked up."""
    before = weight_of(layer)
    with torch.no_grad():
        error = (chain(torch.arange(len(before))) - before).square().sum(1)
    energy = before.square().sum(1)
    counts = torch.ones(len(before)) if looked_up is None else looked_up
    return float((error * counts).sum() / (energy * counts).sum().clamp(min=1e-30))


STEP = Step("share-embeddings", ShareEmbeddingsParameters, share_embeddings, takes=Form.NETWORK, gives=Form.NETWORK)

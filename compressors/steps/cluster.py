"""Non-linear quantization: the weights of each layer become a few shared values, the best ones by k-means.

The device computes with ordinary floats; what shrinks is the download, where a codebook and indices travel
(`edge_agent.protocol.words`). Batch-norms are folded first: folded later, they would scale each channel's values apart.
Source: Han et al. 2016, arXiv:1510.00149 (trained quantization and weight sharing).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field

from compressors.errors import NoEffectError
from compressors.network.folding import fold_batch_norms
from compressors.network.layers import graph_of, weight_of, weighted_layers
from compressors.quantization.codebooks import codebook_of, nearest
from compressors.step import Form, Outcome, Parameters, Step

if TYPE_CHECKING:
    from compressors.step import Context, Model


class ClusterParameters(Parameters):
    """`values`: how many a layer may have. `min_weights`: smaller layers stay, a codebook would not pay there."""

    values: Annotated[int, Field(ge=2, le=256)] = 16
    min_weights: Annotated[int, Field(ge=2)] = 256


def cluster(model: Model, _context: Context, parameters: ClusterParameters) -> Outcome:
    """Let the weights of each layer share a few values; see `Step`."""
    module = fold_batch_norms(graph_of(model.network.module))
    layers = {}
    weights, kept = 0, 0
    for name, layer in weighted_layers(module):
        weight = weight_of(layer)
        before = weight.numpy()
        if before.size < parameters.min_weights:
            continue
        codebook = codebook_of(before, parameters.values)
        after = codebook[nearest(before, codebook)]
        error = float(((after - before) ** 2).sum() / max(float((before**2).sum()), 1e-30))
        weight.copy_(torch.from_numpy(after))
        layers[name] = f"{len(codebook)} values for {before.size} weights, {error:.2%} of their energy lost"
        weights, kept = weights + before.size, kept + len(codebook)
    if not layers:
        raise NoEffectError(
            f"no layer has {parameters.min_weights} weights or more: ask for fewer with min_weights, or leave it out"
        )
    summary = f"{weights} weights of {len(layers)} layers share {kept} values"
    return Outcome(replace(model, network=replace(model.network, module=module)), summary, layers)


STEP = Step("cluster", ClusterParameters, cluster, takes=Form.NETWORK, gives=Form.NETWORK)

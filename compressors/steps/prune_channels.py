"""Structured pruning by magnitude: channels of small weights leave the network, with everything that goes with them.

Layers become really smaller, so any runtime is faster. Torch-Pruning's dependency graph says what goes together.
Source: Li et al. 2017, arXiv:1608.08710; Fang et al. 2023, arXiv:2301.12900.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from compressors.pruning.channel_scores import at_random, magnitude
from compressors.step import Form, Step
from compressors.steps.narrowing import ChannelParameters, prunable_of, prune_channels

if TYPE_CHECKING:
    from compressors.step import Context, Model, Outcome


class PruneChannelsParameters(ChannelParameters):
    """Those of all structured steps; `by`: what a channel is worth, a norm of its weights or a random number."""

    by: Literal["l1", "l2", "random"] = "l2"


def prune(model: Model, context: Context, parameters: PruneChannelsParameters) -> Outcome:
    """Remove the channels of least magnitude; see `Step`.

    Raises:
        NoEffectError: no channel can go, none has to, or too few can.
        RecipeError: Torch-Pruning can't follow the network.
    """
    prunable = prunable_of(model, context, parameters.skip)
    if parameters.by == "random":
        scores = at_random(prunable.couplings, torch.Generator().manual_seed(context.seed))
    else:
        scores = magnitude(prunable.network, prunable.couplings, norm=1 if parameters.by == "l1" else 2)
    return prune_channels(model, prunable, scores, parameters)


STEP = Step("prune-channels", PruneChannelsParameters, prune, takes=Form.NETWORK, gives=Form.NETWORK)

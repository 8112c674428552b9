from __future__ import annotations

from dataclasses import replace

import pytest

from compressors.errors import NoEffectError, RecipeError
from compressors.measuring.scoring import score
from compressors.network.macs import layer_macs
from compressors.pruning.weights import prunable, sizes_of, zeros_of
from compressors.step import Model
from compressors.steps.prune_gradually import STEP
from compressors.steps.prune_weights import STEP as AT_ONCE
from tests.compressors.pruning_networks import Grouped, Residual, context_for, network_of
from tests.compressors.steps.applying import apply


def test_weights_go_over_rounds_stay_gone_and_answers_are_better_than_at_once() -> None:
    network = network_of(Residual())
    context = context_for(network, rows=384)
    outcome = apply(
        STEP, Model(network), context, gone=0.7, rounds=3, epochs=9, batch_size=16, learning_rate=0.01, patience=9
    )
    layers = prunable(outcome.model.network.module, ())
    assert sum(zeros_of(layers).values()) / sum(sizes_of(layers).values()) == pytest.approx(0.7, abs=0.01)
    assert "top1 after each round: " in outcome.summary
    at_once = apply(AT_ONCE, Model(network), context, sparsity=0.7).model
    assert score(outcome.model, context.selection, context.metric) > score(at_once, context.selection, context.metric)


def test_channels_go_over_rounds_down_to_the_share() -> None:
    network = network_of(Grouped())
    outcome = apply(
        STEP, Model(network), context_for(network), what="channels", gone=0.6, rounds=2, epochs=2, batch_size=32
    )
    whole, left = (sum(layer_macs(one).values()) for one in (network, outcome.model.network))
    assert left <= 0.4 * whole
    assert "outputs" in outcome.layers["stem"]


def test_share_that_can_not_be_reached_is_refused_before_training() -> None:
    network = network_of(Grouped())
    with pytest.raises(NoEffectError, match=r"are left, and 1\.0% are asked for"):
        apply(STEP, Model(network), context_for(network), what="channels", gone=0.99, rounds=4, epochs=4)


def test_more_rounds_than_epochs_are_refused() -> None:
    network = network_of(Grouped())
    with pytest.raises(RecipeError, match="2 epochs can't be shared out over 3 rounds"):
        apply(STEP, Model(network), context_for(network), rounds=3, epochs=2)


def test_no_training_rows_are_refused() -> None:
    network = network_of(Grouped())
    with pytest.raises(RecipeError, match="push it with --train"):
        apply(STEP, Model(network), replace(context_for(network), train=None))


def test_network_that_is_as_sparse_already_is_an_error() -> None:
    network = network_of(Grouped())
    context = context_for(network)
    sparse = apply(AT_ONCE, Model(network), context, sparsity=0.8).model
    with pytest.raises(NoEffectError, match="were zero already"):
        apply(STEP, sparse, context, gone=0.5, rounds=1, epochs=1)

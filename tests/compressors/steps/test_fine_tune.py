from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from compressors.contract import Task
from compressors.data import evaluation_rows, training_rows
from compressors.errors import NoEffectError, RecipeError
from compressors.inputs import program
from compressors.measuring.scoring import score
from compressors.rehydrate import clone
from compressors.step import Context, Model
from compressors.steps.fine_tune import STEP
from tests.compressors.networks import price_rows
from tests.compressors.steps.applying import apply, context_of

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def network(uploads: Path) -> program.FloatModel:
    return program.load(uploads / "price.pt2")


@pytest.fixture(scope="module")
def context(uploads: Path, network: program.FloatModel, tmp_path_factory: pytest.TempPathFactory) -> Context:
    evaluation = evaluation_rows.load(uploads / "price.npz", network.signature, Task.REGRESSION)
    features, prices = price_rows()
    path = tmp_path_factory.mktemp("train") / "train.npz"
    np.savez(path, features=features, target=prices)
    taught = training_rows.load(path, network.signature, Task.REGRESSION, evaluation)
    return context_of(evaluation, Task.REGRESSION, train=taught.split, teacher=network)


def damaged(network: program.FloatModel) -> Model:
    """The network with a quarter of its second layer gone, and the rest shaken."""
    module = clone(network.module)
    with torch.no_grad():
        weight = module.get_parameter("layers.2.weight")
        weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)), alpha=0.1)
        weight[::4] = 0.0
    return Model(replace(network, module=module))


@pytest.mark.parametrize("teacher", [True, False])
def test_fine_tune_mends_what_was_taken_away_and_leaves_its_input_alone(
    network: program.FloatModel, context: Context, *, teacher: bool
) -> None:
    model = damaged(network)
    before = {name: tensor.clone() for name, tensor in model.network.module.state_dict().items()}
    outcome = apply(STEP, model, context, epochs=8, batch_size=32, learning_rate=0.01, teacher=teacher)
    r2 = {
        name: score(one, context.selection, context.metric)
        for name, one in (("before", model), ("after", outcome.model))
    }
    assert r2["before"] < 0.8
    assert r2["after"] > 0.9
    assert outcome.summary.startswith(f"r2 {r2['before']:.4g} -> {r2['after']:.4g} on the selection split")
    assert set(outcome.layers) == {"layers.0", "layers.2", "layers.4"}
    assert all("moved by" in said for said in outcome.layers.values())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.network.module.state_dict().items())


def test_fine_tune_that_mends_nothing_is_an_error(network: program.FloatModel, context: Context) -> None:
    with pytest.raises(
        NoEffectError, match=r"2 epochs of fine-tuning made the network no better .*lower learning_rate"
    ):
        apply(STEP, Model(network), context, epochs=5, learning_rate=1.0, batch_size=16, patience=2)


def test_fine_tune_without_training_rows_is_refused(network: program.FloatModel, context: Context) -> None:
    with pytest.raises(RecipeError, match="push it with --train"):
        apply(STEP, Model(network), replace(context, train=None))


def test_zeros_of_pruned_weights_stay_zero(network: program.FloatModel, context: Context) -> None:
    model = damaged(network)
    outcome = apply(STEP, model, context, epochs=4, batch_size=32, learning_rate=0.01)
    assert not outcome.model.network.module.get_parameter("layers.2.weight")[::4].any()
    assert outcome.model.network.module.get_parameter("layers.2.weight")[1::2].any()

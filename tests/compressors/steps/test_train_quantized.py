from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from compressors.contract import Task
from compressors.data import evaluation_rows
from compressors.data.evaluation_rows import Split
from compressors.errors import RecipeError
from compressors.inputs import program
from compressors.measuring.scoring import score
from compressors.step import Context, Model
from compressors.steps.export_litert import STEP as EXPORT
from compressors.steps.quantize_static import INT8 as STATIC
from compressors.steps.train_quantized import STEP
from tests.compressors.networks import price_rows
from tests.compressors.steps.applying import apply, context_of

if TYPE_CHECKING:
    from pathlib import Path

ROWS = 700


@pytest.fixture(scope="module")
def network(uploads: Path) -> program.FloatModel:
    return program.load(uploads / "price.pt2")


@pytest.fixture(scope="module")
def context(uploads: Path, network: program.FloatModel) -> Context:
    evaluation = evaluation_rows.load(uploads / "price.npz", network.signature, Task.REGRESSION)
    features, prices = price_rows()
    places = np.arange(ROWS)
    train = Split({"features": features[:ROWS]}, prices[:ROWS].astype(np.float64), places, None, places)
    return context_of(evaluation, Task.REGRESSION, train=train, teacher=network)


def r2_at_4_bits(model: Model, context: Context) -> float:
    exported = apply(EXPORT, model, context).model
    quantized = apply(STATIC, exported, context, weight_bits=4, calibration="min-max").model
    return score(quantized, context.selection, context.metric)


@pytest.mark.parametrize("ranges", ["moving", "learned"])
def test_file_with_4_bit_weights_is_better_after_training_than_without(
    network: program.FloatModel, context: Context, ranges: str
) -> None:
    before = {name: tensor.clone() for name, tensor in network.module.state_dict().items()}
    outcome = apply(
        STEP, Model(network), context, weight_bits=4, ranges=ranges, epochs=6, learning_rate=2e-3, batch_size=32
    )
    assert r2_at_4_bits(outcome.model, context) > r2_at_4_bits(Model(network), context) + 0.005
    assert set(outcome.layers) == {"layers.0", "layers.2", "layers.4"}
    assert outcome.model.network.module.state_dict().keys() == before.keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in network.module.state_dict().items())


def test_training_that_is_no_better_is_left_out_with_both_figures(
    network: program.FloatModel, context: Context
) -> None:
    outcome = apply(STEP, Model(network), context, epochs=1, learning_rate=0.5, batch_size=16)
    assert outcome.model.network is network
    assert outcome.summary.startswith("left out: r2 of the quantized network on the selection split 0.9")
    assert outcome.summary.endswith("which is no gain")


def test_no_rows_to_train_on_are_refused(network: program.FloatModel, context: Context) -> None:
    bare = Context(context.calibration, context.selection, context.task, context.metric)
    with pytest.raises(RecipeError, match="push it with --train"):
        apply(STEP, Model(network), bare)

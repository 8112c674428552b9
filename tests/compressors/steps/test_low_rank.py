from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from compressors.contract import Task
from compressors.data import evaluation_rows
from compressors.errors import NoEffectError
from compressors.files.litert import read_facts
from compressors.inputs import program
from compressors.measuring.scoring import score
from compressors.metrics import METRICS
from compressors.step import Context, Model, content_of
from compressors.steps.export_litert import STEP as EXPORT
from compressors.steps.low_rank import STEP as LOW_RANK
from tests.compressors.steps.applying import apply, context_of

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def network(uploads: Path) -> program.FloatModel:
    return program.load(uploads / "price.pt2")


@pytest.fixture(scope="module")
def evaluation(uploads: Path, network: program.FloatModel) -> evaluation_rows.EvaluationData:
    return evaluation_rows.load(uploads / "price.npz", network.signature, Task.REGRESSION)


@pytest.fixture(scope="module")
def context(evaluation: evaluation_rows.EvaluationData) -> Context:
    return context_of(evaluation, Task.REGRESSION)


def test_factors_are_plain_layers_of_the_file_with_fewer_multiplications(
    network: program.FloatModel, evaluation: evaluation_rows.EvaluationData, context: Context
) -> None:
    plain = Model(network)
    thin = apply(LOW_RANK, plain, context, energy=0.97, multiple=2)
    before, after = (read_facts(content_of(apply(EXPORT, model, context).model)) for model in (plain, thin.model))
    assert after.macs < 0.9 * before.macs
    assert after.operators > before.operators
    assert thin.model.network.parameters < network.parameters
    assert "rank" in next(iter(thin.layers.values()))
    assert score(thin.model, evaluation.test, METRICS["r2"]) > score(plain, evaluation.test, METRICS["r2"]) - 0.1


def test_share_of_multiplications_that_is_asked_for_is_met(network: program.FloatModel, context: Context) -> None:
    before, after = (
        read_facts(content_of(apply(EXPORT, model, context).model)).macs
        for model in (Model(network), apply(LOW_RANK, Model(network), context, macs=0.6, multiple=2).model)
    )
    assert 0.4 * before < after <= 0.6 * before


def test_share_that_can_not_be_met_names_the_nearest(network: program.FloatModel, context: Context) -> None:
    with pytest.raises(NoEffectError, match=r"down to \d+% of its multiplications at most, and 10% are asked for"):
        apply(LOW_RANK, Model(network), context, macs=0.1, multiple=8)


def test_layers_of_full_rank_are_left_and_said_so(network: program.FloatModel, context: Context) -> None:
    with pytest.raises(NoEffectError, match="no layer becomes cheaper"):
        apply(LOW_RANK, Model(network), context, energy=0.999999, aim="weights")


def test_convolutions_become_tucker_factors_and_depthwise_ones_stay(uploads: Path) -> None:
    network = program.load(uploads / "shapes.pt2")
    rows = evaluation_rows.load(uploads / "shapes.npz", network.signature, Task.CLASSIFICATION)
    outcome = apply(
        LOW_RANK, Model(network), context_of(rows, Task.CLASSIFICATION), energy=0.5, multiple=1, skip=("layers.8",)
    )
    assert "layers.2" not in outcome.layers  # depthwise
    assert "layers.8" not in outcome.layers
    assert "layers.4" in outcome.layers
    exported = content_of(apply(EXPORT, outcome.model, context_of(rows, Task.CLASSIFICATION)).model)
    assert len(read_facts(exported).layers) == 4 + 1 + 1  # one picture channel needs no layer that reduces it

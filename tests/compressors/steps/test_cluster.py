from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import zstandard

from compressors.contract import Task
from compressors.data import evaluation_rows
from compressors.errors import NoEffectError
from compressors.files.litert import read_facts
from compressors.inputs import program
from compressors.measuring.scoring import score
from compressors.metrics import METRICS
from compressors.packing.package import encode
from compressors.step import Context, Model, content_of
from compressors.steps.cluster import STEP as CLUSTER
from compressors.steps.export_litert import STEP as EXPORT
from tests.compressors.steps.applying import apply, context_of, first_output

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


def exported(model: Model, context: Context) -> bytes:
    return content_of(apply(EXPORT, model, context).model)


def test_clustered_file_holds_few_values_travels_in_fewer_bytes_and_answers_alike(
    network: program.FloatModel, evaluation: evaluation_rows.EvaluationData, context: Context
) -> None:
    plain = Model(network)
    clustered = apply(CLUSTER, plain, context, values=16)
    before, after = exported(plain, context), exported(clustered.model, context)
    said = [text for text in read_facts(after).layers.values() if "values" in text]
    assert said == ["FULLY_CONNECTED float32 x float32, 16 values"]  # the layer that has 1,024 weights
    assert len(encode(after)[0]) < 0.6 * len(zstandard.compress(before, 19))
    assert len(after) == len(before)
    float_r2, r2 = (score(model, evaluation.test, METRICS["r2"]) for model in (plain, clustered.model))
    assert r2 > float_r2 - 0.02


def test_more_values_lose_less(
    network: program.FloatModel, evaluation: evaluation_rows.EvaluationData, context: Context
) -> None:
    wanted = first_output(Model(network), evaluation.test)
    errors = [
        float(
            np.abs(
                first_output(apply(CLUSTER, Model(network), context, values=n).model, evaluation.test) - wanted
            ).mean()
        )
        for n in (4, 16, 64)
    ]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_network_that_was_given_stays_as_it_was(network: program.FloatModel, context: Context) -> None:
    before = [weight.clone() for weight in network.module.parameters()]
    apply(CLUSTER, Model(network), context, values=2)
    assert all((old == new).all() for old, new in zip(before, network.module.parameters(), strict=True))


def test_network_of_small_layers_is_told_to_leave_the_step_out(network: program.FloatModel, context: Context) -> None:
    with pytest.raises(NoEffectError, match="no layer has 9999 weights or more"):
        apply(CLUSTER, Model(network), context, min_weights=9999)

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from compressors.contract import Task
from compressors.data import evaluation_rows
from compressors.errors import NoEffectError, RecipeError
from compressors.files.litert import read_facts
from compressors.inputs import program
from compressors.inputs.program import FloatModel
from compressors.step import Context, Model, content_of
from compressors.steps.export_litert import STEP as EXPORT
from compressors.steps.student import STEP as STUDENT
from tests.compressors.steps.applying import apply, context_of, first_output

if TYPE_CHECKING:
    from pathlib import Path

SMALL = {"architecture": "mobilenet-v3-small", "width": 0.1, "epochs": 25, "batch_size": 16}


@pytest.fixture(scope="module")
def network(uploads: Path) -> program.FloatModel:
    """With a wide layer in front, so that there is something to save."""
    loaded = program.load(uploads / "shapes.pt2")
    wide = torch.nn.Sequential(torch.nn.Conv2d(1, 96, 3, padding=1), torch.nn.Conv2d(96, 96, 3, padding=1))

    class Wide(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide, self.rest = wide, loaded.module

        def forward(self, picture: torch.Tensor) -> torch.Tensor:
            classes: torch.Tensor = self.rest(picture + 0.0 * self.wide(picture).mean(1, keepdim=True))
            return torch.softmax(classes, dim=1)

    traced = torch.fx.symbolic_trace(Wide().eval())
    return FloatModel(traced, loaded.signature, sum(weight.numel() for weight in traced.parameters()))


@pytest.fixture(scope="module")
def evaluation(uploads: Path, network: program.FloatModel) -> evaluation_rows.EvaluationData:
    return evaluation_rows.load(uploads / "shapes.npz", network.signature, Task.CLASSIFICATION)


@pytest.fixture(scope="module")
def context(evaluation: evaluation_rows.EvaluationData, network: program.FloatModel) -> Context:
    unlabelled = replace(evaluation.calibration, target=np.full(evaluation.calibration.rows, -1))
    return context_of(evaluation, Task.CLASSIFICATION, train=unlabelled, teacher=network)


def test_student_learns_from_the_teacher_alone_and_gives_what_the_model_gives(
    network: program.FloatModel, evaluation: evaluation_rows.EvaluationData, context: Context
) -> None:
    outcome = apply(STUDENT, Model(network), context, **SMALL)
    exported = apply(EXPORT, outcome.model, context).model
    answers = first_output(exported, evaluation.test)
    assert np.allclose(answers.sum(axis=1), 1.0, atol=1e-3)  # probabilities, as before
    assert np.allclose(answers, first_output(outcome.model, evaluation.test), atol=1e-3)
    right = (answers.argmax(axis=1) == evaluation.test.target).mean()
    assert right > 0.6  # of three classes
    assert read_facts(content_of(exported)).macs < 10_000_000
    assert "% of the multiplications" in outcome.summary


def test_student_larger_than_the_model_is_refused(network: program.FloatModel, context: Context) -> None:
    with pytest.raises(NoEffectError, match="choose a smaller width"):
        apply(STUDENT, Model(network), context, architecture="mobilenet-v2", width=2.0)


def test_student_without_rows_to_learn_from_is_refused(network: program.FloatModel, context: Context) -> None:
    with pytest.raises(RecipeError, match="--train"):
        apply(STUDENT, Model(network), replace(context, train=None))

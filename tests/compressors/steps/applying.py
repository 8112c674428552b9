"""Steps applied by hand: what tests of single steps share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from compressors.contract import Task
from compressors.measuring.scoring import outputs_of
from compressors.metrics import METRICS
from compressors.step import Context

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from compressors.data.evaluation_rows import EvaluationData, Split
    from compressors.step import AnyStep, Model, Outcome

METRIC_OF = {Task.CLASSIFICATION: "top1", Task.REGRESSION: "r2", Task.RANKING: "hr@10"}


def context_of(evaluation: EvaluationData, task: Task, **more: Any) -> Context:  # noqa: ANN401  fields of Context
    return Context(evaluation.calibration, evaluation.selection, task, METRICS[METRIC_OF[task]], **more)


def apply(step: AnyStep, model: Model, context: Context, **parameters: object) -> Outcome:
    return step.apply(model, context, step.parameters.model_validate(parameters))


def first_output(model: Model, split: Split) -> NDArray[np.float32]:
    """In the form that the model has at the moment; a file runs on its runtime."""
    return outputs_of(model, split)[model.network.signature.outputs[0].name].astype(np.float32)

"""Look into an upload: may it be loaded, what does it take and give, do the data and the metric fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compressors.contract import InspectResult
from compressors.data import evaluation_rows, training_rows
from compressors.inputs import loading, program
from compressors.metrics import metric_for, value_of

if TYPE_CHECKING:
    from compressors.contract import InspectRequest


def run_inspect(request: InspectRequest) -> InspectResult:
    """Look into a model and its data."""
    inputs = request.inputs
    metric = metric_for(inputs.metric, inputs.task)
    network = loading.load(inputs.model_path)
    evaluation = evaluation_rows.load(inputs.data_path, network.signature, inputs.task, labels=inputs.labels)
    first = network.signature.outputs[0].name
    for split in (evaluation.calibration, evaluation.selection, evaluation.test):
        outputs = network.run(split.inputs)
        program.check_finite(outputs, split.places)
        value_of(metric, outputs[first], split.target, query=split.query)  # only whether there is one: nothing is told
    network.check_samples_are_independent(evaluation.selection.inputs)
    taught = None
    if inputs.train_path is not None:
        taught = training_rows.load(inputs.train_path, network.signature, inputs.task, evaluation)
        program.check_finite(network.run(taught.split.inputs), taught.split.places)
    return InspectResult(
        signature=network.signature,
        parameters=network.parameters,
        splits=evaluation.counts(),
        training=None if taught is None else taught.counts,
        labels=evaluation.labels,
    )

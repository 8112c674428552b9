"""Look into an upload: may it be loaded, what does it take and give, do the data and the metric fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compressors.contract import InspectResult
from compressors.data import evaluation_rows, training_rows
from compressors.errors import MetricError
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
    program.check_finite(network.run(evaluation.calibration.inputs), evaluation.calibration.places)
    for name, split in (("selection", evaluation.selection), ("test", evaluation.test)):
        outputs = network.run(split.inputs)
        program.check_finite(outputs, split.places)
        try:
            value_of(metric, outputs[network.signature.outputs[0].name], split.target, query=split.query)
        except MetricError as exc:
            raise MetricError(f"the {name} split can't be scored: {exc}") from exc
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

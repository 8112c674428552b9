"""What a search works with. The test split is not here, so that no step, trial or judge of a search can read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from compressors.bootstrap import evaluate
from compressors.data import evaluation_rows, training_rows
from compressors.inputs import loading, program

if TYPE_CHECKING:
    from compressors.bootstrap import Estimate
    from compressors.contract import Inputs
    from compressors.data.evaluation_rows import Split
    from compressors.inputs.program import FloatModel
    from compressors.metrics import Metric


@dataclass(frozen=True)
class Materials:
    """A model and the rows by which it may be compressed."""

    network: FloatModel
    calibration: Split
    selection: Split
    train: Split | None
    metric: Metric  # as it reads the outputs of this model
    float_metric: Estimate  # of the model itself, on the selection split


def materials_of(inputs: Inputs, metric: Metric) -> Materials:
    """Load a model and its data; of the test split only which training rows it holds back is looked at.

    Raises:
        compressors.errors.CompressorError: they can't be loaded, or do not fit each other.
    """
    network = loading.load(inputs.model_path)
    rows = evaluation_rows.load(inputs.data_path, network.signature, inputs.task, labels=inputs.labels)
    train = None
    if inputs.train_path is not None:
        train = training_rows.load(inputs.train_path, network.signature, inputs.task, rows).split
    selection = rows.selection
    outputs = network.run(selection.inputs)
    program.check_finite(outputs, selection.places)
    network.check_samples_are_independent(selection.inputs)
    first = outputs[network.signature.outputs[0].name]
    metric = metric.for_model(first)
    score = evaluate(metric, first, selection.target, group=selection.group, query=selection.query)
    return Materials(network, rows.calibration, selection, train, metric, score)

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from compressors.bootstrap import Estimate
from compressors.contract import Task
from compressors.data import evaluation_rows
from compressors.files.formats import Target
from compressors.measuring.kept import KeptMeasurements
from compressors.measuring.measure import Bench, Scores
from compressors.metrics import METRICS
from edge_agent.protocol.profile import Delegate, RuntimeName
from edge_agent.protocol.signature import ModelSignature, TensorSpec

TWO_OUTPUTS = ModelSignature(
    inputs=(TensorSpec(name="features", shape=(-1, 8)),),
    outputs=(TensorSpec(name="output_0", shape=(-1, 1)), TensorSpec(name="output_1", shape=(-1, 1))),
)


def test_measurement_whose_second_output_is_no_number_is_an_error(uploads: Path, tmp_path: Path) -> None:
    rows = evaluation_rows.load(uploads / "price.npz", TWO_OUTPUTS, Task.REGRESSION)
    bench = Bench(
        rows,
        TWO_OUTPUTS,
        task=Task.REGRESSION,
        metric=METRICS["r2"],
        pythons={RuntimeName.LITERT: Path(sys.executable)},
        folder=tmp_path,
        golden_samples=2,
        kept=KeptMeasurements(None),
    )
    none = Estimate(0.0, np.zeros(1))
    scores = Scores(selection=none, test=none, test_outputs=np.zeros((rows.test.rows, 1)))
    target = Target(RuntimeName.LITERT, Delegate.NONE, 1)
    measured = bench.run(uploads / "logarithm.tflite", target, scores)
    assert measured.error == "its output output_1 is not finite on this runtime"
    assert measured.golden_outputs is None

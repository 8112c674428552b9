from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from compressors.bootstrap import Estimate
from compressors.contract import Task
from compressors.data import evaluation_rows
from compressors.files.formats import Target
from compressors.measuring.kept import KeptMeasurements
from compressors.measuring.measure import Bench, Rig, Run, Scores
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
    none = Estimate(0.0, np.zeros(1), np.zeros(1), sources=1)
    scores = Scores(selection=none, test=none, test_outputs=np.zeros((rows.test.rows, 1)))
    target = Target(RuntimeName.LITERT, Delegate.NONE, 1)
    measured = bench.run(uploads / "logarithm.tflite", target, scores)
    assert measured.error == "its output output_1 is not finite on this runtime"
    assert measured.golden_outputs is None


def price_rig(uploads: Path, tmp_path: Path, cache: Path) -> Rig:
    """For the exported logarithm, on rows where it is a number."""
    rows = evaluation_rows.load(uploads / "price.npz", TWO_OUTPUTS, Task.REGRESSION).test.inputs["features"]
    tmp_path.mkdir(exist_ok=True)
    return Rig(
        {"features": np.abs(rows[:20]) + 1.0},
        TWO_OUTPUTS,
        pythons={RuntimeName.LITERT: Path(sys.executable)},
        folder=tmp_path,
        kept=KeptMeasurements(cache),
    )


TARGET = Target(RuntimeName.LITERT, Delegate.NONE, 1)


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 garbage", None])
def test_kept_outputs_that_are_damaged_are_measured_anew(uploads: Path, tmp_path: Path, damage: bytes | None) -> None:
    cache = tmp_path / "cache"
    first = price_rig(uploads, tmp_path / "a", cache).run(uploads / "logarithm.tflite", TARGET)
    assert isinstance(first, Run)
    (outputs,) = cache.glob("*.npz")
    whole = outputs.read_bytes()
    outputs.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    again = price_rig(uploads, tmp_path / "b", cache).run(uploads / "logarithm.tflite", TARGET)
    assert isinstance(again, Run)
    assert all(np.array_equal(again.outputs[name], values) for name, values in first.outputs.items())
    with np.load(outputs) as kept:  # and mended
        assert set(kept.files) == set(first.outputs)


def test_measurement_that_can_not_be_kept_counts_all_the_same(uploads: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    rig = price_rig(uploads, tmp_path / "a", tmp_path / "file" / "cache")
    assert isinstance(rig.run(uploads / "logarithm.tflite", TARGET), Run)

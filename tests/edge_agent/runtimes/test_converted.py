from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edge_agent.protocol.profile import Delegate, RuntimeName
from edge_agent.protocol.signature import Datatype, ModelSignature, TensorSpec
from edge_agent.runtimes.measure import MeasureRequest, MeasureResult

if TYPE_CHECKING:
    from pathlib import Path

SIGNATURE = ModelSignature(
    inputs=(TensorSpec(name="picture", shape=(-1, 1, 8, 8)),), outputs=(TensorSpec(name="scores", shape=(-1, 5)),)
)


def largest_error(folder: Path, file: Path, runtime: RuntimeName, tflite_python: Path) -> float:
    """Run all pictures on a runtime, in its own Python, and compare with the network's own answers."""
    with np.load(file.parent / "answers.npz") as answers:
        pictures, scores = answers["pictures"], answers["scores"]
    np.savez(folder / "data.npz", picture=pictures)
    request = MeasureRequest(
        model_path=file,
        runtime=runtime,
        delegate=Delegate.XNNPACK,
        signature=SIGNATURE,
        data_path=folder / "data.npz",
        outputs_path=folder / "outputs.npz",
        runs=5,
    )
    (folder / "request.json").write_text(request.model_dump_json())
    python = tflite_python if runtime is RuntimeName.TFLITE else sys.executable
    command = [python, "-m", "edge_agent.runtimes.measure", folder / "request.json", folder / "result.json"]
    subprocess.run(command, check=True, timeout=60)
    result = MeasureResult.model_validate_json((folder / "result.json").read_bytes())
    assert result.error is None
    assert result.inputs[0].datatype is (Datatype.INT8 if file.stem == "int8" else Datatype.FP32)
    with np.load(folder / "outputs.npz") as outputs:
        return float(np.abs(outputs["scores"] - scores).max())


@pytest.mark.parametrize(
    ("file", "runtime", "tolerance"),
    [
        ("float", RuntimeName.LITERT, 1e-5),
        ("float", RuntimeName.TFLITE, 1e-5),
        ("int8", RuntimeName.LITERT, 0.02),
        ("int8", RuntimeName.TFLITE, 0.02),
        ("dynamic", RuntimeName.LITERT, 0.02),
    ],
)
def test_files_of_converter_and_quantizer_answer_as_the_network(
    converted: Path, tmp_path: Path, tflite_python: Path, file: str, runtime: RuntimeName, tolerance: float
) -> None:
    assert largest_error(tmp_path, converted / f"{file}.tflite", runtime, tflite_python) < tolerance


def test_dynamic_file_on_tflite_runtime_loads_and_is_wrong_which_only_golden_outputs_show(
    converted: Path, tmp_path: Path, tflite_python: Path
) -> None:
    # seen in 2.14, with and without the delegate: a dynamic fully-connected layer answers with its bias alone
    assert largest_error(tmp_path, converted / "dynamic.tflite", RuntimeName.TFLITE, tflite_python) > 0.2

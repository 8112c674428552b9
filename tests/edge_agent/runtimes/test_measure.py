from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edge_agent.protocol.profile import DELEGATES_OF, Delegate, FileFormat, RuntimeName
from edge_agent.runtimes.measure import MeasureRequest, MeasureResult

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.edge_agent.conftest import Workshop


def run_measure(request: MeasureRequest, folder: Path, *, python: str = sys.executable) -> MeasureResult:
    asked, answered = folder / "request.json", folder / "result.json"
    asked.write_text(request.model_dump_json())
    subprocess.run([python, "-m", "edge_agent.runtimes.measure", str(asked), str(answered)], check=True, timeout=60)
    return MeasureResult.model_validate_json(answered.read_bytes())


def request_for(workshop: Workshop, model: Path, runtime: RuntimeName, delegate: Delegate) -> MeasureRequest:
    data = workshop.folder / "data.npz"
    np.savez(data, features=workshop.network.samples(20), target=np.zeros(20))
    return MeasureRequest(
        model_path=model,
        runtime=runtime,
        delegate=delegate,
        signature=workshop.network.signature,
        data_path=data,
        outputs_path=workshop.folder / "outputs.npz",
        runs=50,
    )


@pytest.mark.parametrize(
    ("runtime", "delegate"),
    [(name, one) for name in RuntimeName for one in DELEGATES_OF[name] if one is not Delegate.ETHOS_U],
)
def test_measure_on_each_runtime_gives_figures_and_all_outputs(
    workshop: Workshop,
    tflite_python: Path,
    float_file_for: Callable[[RuntimeName], Path],
    runtime: RuntimeName,
    delegate: Delegate,
) -> None:
    request = request_for(workshop, float_file_for(runtime), runtime, delegate)
    python = str(tflite_python) if runtime is RuntimeName.TFLITE else sys.executable
    result = run_measure(request, workshop.folder, python=python)
    assert result.error is None
    assert result.runs == 50
    assert 0 < result.p50_ms <= result.p95_ms
    told = None if runtime is RuntimeName.EXECUTORCH else int(delegate is Delegate.XNNPACK)
    assert result.delegate_partitions == told
    assert result.inputs[0].shape == (1, 8)
    with np.load(workshop.folder / "outputs.npz") as outputs:
        expected = workshop.network.expected(workshop.network.samples(20))
        np.testing.assert_allclose(outputs["scores"], expected, atol=1e-5)


@pytest.mark.parametrize("runtime", FileFormat.TFLITE.runtimes)
def test_measure_for_a_processor_without_its_library_says_which_is_missing(
    workshop: Workshop, tflite_python: Path, runtime: RuntimeName
) -> None:
    request = request_for(workshop, workshop.float_file(), runtime, Delegate.ETHOS_U)
    python = str(tflite_python) if runtime is RuntimeName.TFLITE else sys.executable
    result = run_measure(request, workshop.folder, python=python)
    assert result.error_code == "load_failed"
    assert result.error is not None
    assert "reached through libethosu_delegate.so, which does not load here" in result.error


def test_measure_of_a_file_that_is_no_model_is_a_result_with_the_runtime_s_words(workshop: Workshop) -> None:
    path = workshop.folder / "broken.tflite"
    path.write_bytes(b"garbage" * 50)
    request = request_for(workshop, path, RuntimeName.LITERT, Delegate.XNNPACK)
    result = run_measure(request, workshop.folder)
    assert result.error_code == "load_failed"
    assert result.error is not None
    assert "broken.tflite" in result.error


def test_measure_on_a_runtime_that_is_missing_says_so(workshop: Workshop) -> None:
    request = request_for(workshop, workshop.float_file(), RuntimeName.TFLITE, Delegate.XNNPACK)
    assert run_measure(request, workshop.folder).error_code == "runtime_missing"


def test_measure_without_an_input_s_data_says_which(workshop: Workshop) -> None:
    request = request_for(workshop, workshop.float_file(), RuntimeName.LITERT, Delegate.XNNPACK)
    np.savez(request.data_path, other=np.zeros(3))
    result = run_measure(request, workshop.folder)
    assert result.error_code == "bad_input"
    assert result.error is not None
    assert "features" in result.error

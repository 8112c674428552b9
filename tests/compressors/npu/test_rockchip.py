"""Rockchip's compiler in an environment of its own; where there is none, the tests say so and are skipped."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from compressors.contract import Task
from compressors.data import evaluation_rows
from compressors.errors import ConversionError, ExtraMissingError
from compressors.inputs import program
from compressors.npu.rockchip import compile_onnx
from compressors.step import Model, content_of
from compressors.steps.export_onnx import STEP as EXPORT
from tests.compressors.steps.applying import apply, context_of

VARIABLE = "SHOAL_TEST_RKNN_PYTHON"
USUAL = Path(__file__).resolve().parents[3] / ".venv-rknn" / "bin" / "python"  # of `make rknn`
ROWS = {"picture": np.zeros((1, 1, 12, 12), np.float32)}


@pytest.fixture
def rknn_python() -> Path:
    python = Path(os.environ.get(VARIABLE, USUAL))
    if not python.exists():
        pytest.skip(f"no environment with rknn-toolkit2: `make rknn` makes one, or {VARIABLE} names its Python")
    return python


def test_convnet_compiled_for_rk3588_decides_as_the_network_does(uploads: Path, rknn_python: Path) -> None:
    network = program.load(uploads / "shapes.pt2")
    splits = evaluation_rows.load(uploads / "shapes.npz", network.signature, Task.CLASSIFICATION)
    onnx = content_of(apply(EXPORT, Model(network), context_of(splits, Task.CLASSIFICATION)).model)
    compiled = compile_onnx(
        onnx, splits.calibration.inputs, splits.selection.inputs, platform="rk3588", python=rknn_python
    )
    assert compiled.content.startswith(b"RKNN")
    expected = network.run(splits.selection.inputs)["output_0"].argmax(axis=1)
    assert (compiled.outputs[0].argmax(axis=1) == expected).mean() >= 0.95


def test_file_that_is_no_model_is_refused_by_the_toolkit(rknn_python: Path) -> None:
    with pytest.raises(ConversionError, match=r"can't be compiled for this NPU"):
        compile_onnx(b"garbage", ROWS, ROWS, platform="rk3588", python=rknn_python)


def test_environment_without_the_toolkit_says_how_to_make_one() -> None:
    with pytest.raises(ExtraMissingError, match=r"rknn-toolkit2 does not load .*docs/how-to/npu\.md"):
        compile_onnx(b"", ROWS, ROWS, platform="rk3588", python=Path(sys.executable))


def test_environment_that_is_not_there_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ExtraMissingError, match=r"can't be started .*name its Python"):
        compile_onnx(b"", ROWS, ROWS, platform="rk3588", python=tmp_path / "python")


def test_platform_that_rockchip_does_not_make_is_refused_with_those_that_it_does() -> None:
    with pytest.raises(ConversionError, match=r"no platform 'rk1'.*rk3588"):
        compile_onnx(b"", ROWS, ROWS, platform="rk1", python=Path(sys.executable))

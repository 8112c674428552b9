"""Static int8 beside LiteRT: calibration data that are missing or of another kind."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from compressors.contract import Task
from compressors.data import evaluation_rows
from compressors.errors import DataError
from compressors.inputs import program
from compressors.step import Context, Model
from compressors.steps.export_executorch import STEP as EXECUTORCH
from compressors.steps.export_onnx import STEP as EXPORT_ONNX
from compressors.steps.quantize_onnx import STATIC as ONNX
from tests.compressors.steps.applying import apply, context_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from compressors.step import Outcome

    Quantize = Callable[[Context], Outcome]


@pytest.fixture(scope="session")
def shapes(uploads: Path) -> tuple[Model, Context]:
    network = program.load(uploads / "shapes.pt2")
    rows = evaluation_rows.load(uploads / "shapes.npz", network.signature, Task.CLASSIFICATION)
    return Model(network), context_of(rows, Task.CLASSIFICATION)


@pytest.fixture(scope="session")
def onnx_file(shapes: tuple[Model, Context]) -> Model:
    return apply(EXPORT_ONNX, *shapes).model


@pytest.fixture(params=["onnx", "executorch"])
def quantize(request: pytest.FixtureRequest, shapes: tuple[Model, Context]) -> Quantize:
    if request.param == "executorch":
        return lambda context: apply(EXECUTORCH, shapes[0], context, quantize="static-int8")
    exported: Model = request.getfixturevalue("onnx_file")
    return lambda context: apply(ONNX, exported, context)


def calibrated_on(context: Context, change: Callable[[Any], Any]) -> Context:
    split = context.calibration
    inputs = {name: change(array) for name, array in split.inputs.items()}
    rows = len(next(iter(inputs.values())))
    return replace(context, calibration=replace(split, inputs=inputs, target=split.target[:rows]))


def test_no_calibration_rows_are_refused_in_a_sentence(shapes: tuple[Model, Context], quantize: Quantize) -> None:
    with pytest.raises(DataError, match="no calibration rows, and ranges are taken from them: add some"):
        quantize(calibrated_on(shapes[1], lambda array: array[:0]))


def test_calibration_rows_of_another_distribution_are_warned_of(
    shapes: tuple[Model, Context], quantize: Quantize
) -> None:
    dark = calibrated_on(shapes[1], lambda array: array.astype(np.float32) * np.float32(0.05))
    warned, alike = quantize(dark), quantize(shapes[1])
    assert warned.warning.startswith("warning: the calibration data look like another distribution")
    assert warned.warning in warned.summary
    assert (alike.warning, "warning" in alike.summary) == ("", False)

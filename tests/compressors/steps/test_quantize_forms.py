"""Every form of quantization, seen in the file that it gives and in its answers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from compressors.contract import Task
from compressors.data import evaluation_rows
from compressors.errors import DataError
from compressors.files.litert import read_facts
from compressors.inputs import program
from compressors.measuring.fidelity import snr_db
from compressors.sensitivity.sharpness import sharpness
from compressors.step import Context, Model, content_of
from compressors.steps import STEPS
from compressors.steps.export_litert import STEP as EXPORT
from edge_agent.protocol.profile import Delegate, RuntimeName
from edge_agent.runtimes.registry import open_runtime
from tests.compressors.steps.applying import apply, context_of, first_output

if TYPE_CHECKING:
    from pathlib import Path

LAYERS = ("DEPTHWISE_CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D", "FULLY_CONNECTED")  # the first sees one channel


@pytest.fixture(scope="module")
def context(uploads: Path) -> Context:
    network = program.load(uploads / "shapes.pt2")
    evaluation = evaluation_rows.load(uploads / "shapes.npz", network.signature, Task.CLASSIFICATION)
    return context_of(evaluation, Task.CLASSIFICATION, teacher=network)


@pytest.fixture(scope="module")
def exported(uploads: Path, context: Context) -> Model:
    return apply(EXPORT, Model(program.load(uploads / "shapes.pt2")), context).model


def shortened(bits: str) -> list[str]:
    """The types of the weights where depthwise ones have 8 bits."""
    return [bits if layer != "DEPTHWISE_CONV_2D" else "int8" for layer in LAYERS]


@pytest.mark.parametrize(
    ("step", "parameters", "activations", "weights", "least_snr_db"),
    [
        ("dynamic-int8", {}, "float32", ["int8"] * 4, 30),
        ("dynamic-int8", {"granularity": "tensor"}, "float32", ["int8"] * 4, 30),
        ("dynamic-int4", {}, "float32", shortened("int4"), 10),
        ("weight-only", {}, "float32", ["int8"] * 4, 30),
        ("weight-only", {"granularity": "tensor"}, "float32", ["int8"] * 4, 30),
        ("weight-only", {"bits": 4}, "float32", shortened("int4"), 10),
        ("static-int8", {}, "int8", ["int8"] * 4, 25),
        ("static-int8", {"granularity": "tensor", "calibration": "mse"}, "int8", ["int8"] * 4, 25),
        ("static-int8", {"weight_bits": 4, "calibration": "min-max"}, "int8", shortened("int4"), 10),
        ("static-int16", {"calibration": "min-max"}, "int16", ["int8"] * 4, 30),
    ],
)
def test_weights_and_activations_have_the_types_that_were_asked_for(
    exported: Model,
    context: Context,
    step: str,
    parameters: dict[str, object],
    activations: str,
    weights: list[str],
    least_snr_db: float,
) -> None:
    outcome = apply(STEPS[step], exported, context, **parameters)
    expected = [f"{layer} {activations} x {weight}" for layer, weight in zip(LAYERS, weights, strict=True)]
    assert list(read_facts(content_of(outcome.model)).layers.values()) == expected
    given = first_output(outcome.model, context.selection)
    assert snr_db(first_output(exported, context.selection), given) > least_snr_db
    assert len(content_of(outcome.model)) < len(content_of(exported))


@pytest.mark.parametrize(
    ("step", "io", "dtype"),
    [
        ("static-int8", "uint8", "uint8"),
        ("static-int8", "int8", "int8"),
        ("static-int8", "float32", "float32"),
        ("static-int16", "int16", "int16"),
        ("static-int16", "float32", "float32"),
    ],
)
def test_ends_of_the_file_are_what_io_says(
    exported: Model, context: Context, tmp_path: Path, step: str, io: str, dtype: str
) -> None:
    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415

    outcome = apply(STEPS[step], exported, context, io=io, calibration="min-max")
    assert f"inputs and outputs of the file: {dtype}, {dtype};" in outcome.summary
    file = content_of(outcome.model)
    interpreter = Interpreter(model_content=file)
    ends = [*interpreter.get_input_details(), *interpreter.get_output_details()]
    assert [np.dtype(end["dtype"]).name for end in ends] == [dtype, dtype]
    path = tmp_path / "model.tflite"
    path.write_bytes(file)
    open_runtime(RuntimeName.LITERT).load(path, threads=1, delegate=Delegate.NONE)


def test_best_calibration_is_the_one_that_measures_best_and_all_are_told(exported: Model, context: Context) -> None:
    said = apply(STEPS["static-int8"], exported, context).summary
    measured = said.partition("selection rows: ")[2].partition(";")[0].split(", ")
    figures = {one.split()[0]: float(one.split()[1]) for one in measured}
    assert set(figures) == {"min-max", "percentile", "mse", "entropy"}
    best = max(figures, key=lambda rule: figures[rule])
    assert f"calibrated by {best};" in said


def test_no_calibration_rows_are_refused_in_a_sentence(exported: Model, context: Context) -> None:
    empty = replace(
        context.calibration,
        inputs={name: array[:0] for name, array in context.calibration.inputs.items()},
        target=context.calibration.target[:0],
    )
    with pytest.raises(DataError, match="no calibration rows, and ranges are taken from them: add some"):
        apply(STEPS["static-int8"], exported, replace(context, calibration=empty))


def test_calibration_rows_of_another_distribution_are_warned_of(exported: Model, context: Context) -> None:
    dark = replace(
        context.calibration,
        inputs={name: array.astype(np.float32) * 0.05 for name, array in context.calibration.inputs.items()},
    )
    warned = apply(STEPS["static-int8"], exported, replace(context, calibration=dark), calibration="min-max")
    assert warned.warning.startswith("warning: the calibration data look like another distribution")
    assert warned.warning in warned.summary
    assert "warning" not in apply(STEPS["static-int8"], exported, context, calibration="min-max").summary


def test_layers_where_the_loss_is_sharpest_stay_in_float(exported: Model, context: Context) -> None:
    options = {"float_layers": 1, "sensitive_by": "curvature", "calibration": "min-max"}
    outcome = apply(STEPS["static-int8"], exported, context, **options)
    first = next(iter(sharpness(exported.network, context)))
    assert f"the most sensitive layers stay in float: {first}" in outcome.summary
    assert sum("float32 x float32" in kind for kind in outcome.layers.values()) == 1


@pytest.mark.parametrize("count", [1, 2])
def test_the_most_sensitive_layers_stay_in_float(exported: Model, context: Context, tmp_path: Path, count: int) -> None:
    kept = replace(context, cache_dir=tmp_path)
    outcome = apply(STEPS["static-int8"], exported, kept, float_layers=count, calibration="min-max")
    assert sum("float32 x float32" in kind for kind in outcome.layers.values()) == count
    assert sum("int8 x int8" in kind for kind in outcome.layers.values()) == len(LAYERS) - count
    assert "the most sensitive layers stay in float: layers." in outcome.summary
    plain = first_output(apply(STEPS["static-int8"], exported, context, calibration="min-max").model, context.selection)
    expected = first_output(exported, context.selection)
    assert snr_db(expected, first_output(outcome.model, context.selection)) > snr_db(expected, plain)

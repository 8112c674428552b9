from __future__ import annotations

import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from compressors.bootstrap import evaluate
from compressors.calibration.feature_scales import is_unevenly_scaled
from compressors.contract import Task
from compressors.data import evaluation_rows
from compressors.errors import NoEffectError
from compressors.files.litert import read_facts
from compressors.inputs import program
from compressors.metrics import METRICS
from compressors.quantization.feature_scaling import scaling_operators
from compressors.step import Context, Model, content_of
from compressors.steps.export_litert import STEP as EXPORT
from compressors.steps.quantize_dynamic import INT8 as DYNAMIC
from compressors.steps.quantize_static import INT8 as STATIC
from edge_agent.protocol.profile import Delegate, RuntimeName
from edge_agent.runtimes.registry import open_runtime
from tests.compressors.steps.applying import apply, context_of, first_output

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

MACS_OF_PRICE = 8 * 32 + 32 * 32 + 32


@pytest.fixture(scope="session")
def network(uploads: Path) -> program.FloatModel:
    return program.load(uploads / "price.pt2")


@pytest.fixture(scope="session")
def evaluation(uploads: Path, network: program.FloatModel) -> evaluation_rows.EvaluationData:
    return evaluation_rows.load(uploads / "price.npz", network.signature, Task.REGRESSION)


@pytest.fixture(scope="session")
def context(evaluation: evaluation_rows.EvaluationData) -> Context:
    return context_of(evaluation, Task.REGRESSION)


@pytest.fixture(scope="session")
def exported(network: program.FloatModel, context: Context) -> Model:
    return apply(EXPORT, Model(network), context).model


def r2(outputs: NDArray[np.float32], split: evaluation_rows.Split) -> float:
    return evaluate(METRICS["r2"], outputs, split.target, group=split.group, query=None).value


def test_export_gives_the_float_model_at_batch_one(exported: Model, evaluation: evaluation_rows.EvaluationData) -> None:
    expected = exported.network.run(evaluation.test.inputs)["output_0"]
    assert np.allclose(first_output(exported, evaluation.test), expected, atol=1e-4)
    facts = read_facts(content_of(exported))
    assert facts.macs == MACS_OF_PRICE
    assert facts.quantized_operators == 0


def test_static_int8_with_one_output_keeps_r2_within_half_a_point(
    exported: Model, evaluation: evaluation_rows.EvaluationData, context: Context
) -> None:
    quantized = apply(STATIC, exported, context)
    float_r2 = r2(first_output(exported, evaluation.test), evaluation.test)
    int8_r2 = r2(first_output(quantized.model, evaluation.test), evaluation.test)
    assert float_r2 > 0.9
    assert abs(float_r2 - int8_r2) < 0.005
    assert "scale the features stay in float" in quantized.summary


def test_static_int8_range_of_the_output_is_its_true_one(
    exported: Model, evaluation: evaluation_rows.EvaluationData, context: Context
) -> None:
    # the library's moving average of each sample's extremes would end near the mean: min = max for one output
    quantized = apply(STATIC, exported, context).model
    seen = first_output(exported, evaluation.calibration)
    given = first_output(quantized, evaluation.calibration)
    assert given.min() == pytest.approx(seen.min(), abs=0.05)
    assert given.max() == pytest.approx(seen.max(), abs=0.05)


def test_static_int8_makes_every_layer_int8_and_says_so(exported: Model, context: Context) -> None:
    outcome = apply(STATIC, exported, context)
    assert len(outcome.layers) == 3
    assert set(outcome.layers.values()) == {"FULLY_CONNECTED int8 x int8"}
    assert read_facts(content_of(outcome.model)).quantized_operators == 3


def test_dynamic_int8_stores_weights_as_int8_and_shrinks_the_file(exported: Model, context: Context) -> None:
    outcome = apply(DYNAMIC, exported, context)
    assert set(outcome.layers.values()) == {"FULLY_CONNECTED float32 x int8"}
    assert len(content_of(outcome.model)) < 0.8 * len(content_of(exported))


@pytest.mark.parametrize(("io", "integer"), [("int8", True), ("float32", False)])
def test_static_int8_ends_are_what_the_parameter_says(uploads: Path, tmp_path: Path, io: str, *, integer: bool) -> None:
    shapes = program.load(uploads / "shapes.pt2")
    evaluation = evaluation_rows.load(uploads / "shapes.npz", shapes.signature, Task.CLASSIFICATION)
    context = context_of(evaluation, Task.CLASSIFICATION)
    file = content_of(apply(STATIC, apply(EXPORT, Model(shapes), context).model, context, io=io).model)
    path = tmp_path / "shapes.tflite"
    path.write_bytes(file)
    loaded = open_runtime(RuntimeName.LITERT).load(path, threads=1, delegate=Delegate.NONE)
    assert [tensor.scale is not None for tensor in (*loaded.inputs, *loaded.outputs)] == [integer, integer]


def test_static_int8_of_a_network_with_a_dead_channel_loads_on_both_runtimes(
    uploads: Path, tmp_path: Path, pythons: dict[str, str]
) -> None:
    shapes = program.load(uploads / "shapes.pt2")
    evaluation = evaluation_rows.load(uploads / "shapes.npz", shapes.signature, Task.CLASSIFICATION)
    context = context_of(evaluation, Task.CLASSIFICATION)
    path = tmp_path / "shapes.tflite"
    path.write_bytes(content_of(apply(STATIC, apply(EXPORT, Model(shapes), context).model, context).model))
    code = (
        "import sys; from pathlib import Path; from edge_agent.runtimes.registry import open_runtime;"
        "from edge_agent.protocol.profile import Delegate, RuntimeName;"
        "open_here = open_runtime(RuntimeName(sys.argv[2]));"
        "[open_here.load(Path(sys.argv[1]), threads=1, delegate=d) for d in (Delegate.XNNPACK, Delegate.NONE)]"
    )
    for runtime, python in pythons.items():
        subprocess.run([python, "-c", code, str(path), runtime], check=True, capture_output=True)


def test_step_that_quantizes_nothing_is_an_error(exported: Model, context: Context) -> None:
    with pytest.raises(NoEffectError, match="no layer"):
        apply(DYNAMIC, _without_weights(exported.network, context), context)


def _without_weights(network: program.FloatModel, context: Context) -> Model:
    """A file of the same signature that only adds: there is nothing to quantize."""

    class Sum(torch.nn.Module):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return torch.sin(features).sum(dim=1, keepdim=True)

    return apply(EXPORT, Model(replace(network, module=Sum())), context).model


def test_scaling_operators_are_those_before_the_first_layer(exported: Model) -> None:
    kinds = [operator.kind for operator in scaling_operators(content_of(exported))]
    assert len(kinds) == 2
    assert set(kinds) <= {"SUB", "ADD", "MUL", "DIV"}


@pytest.mark.parametrize(
    ("scales", "uneven"),
    [((1.0, 1.0, 1.0), False), ((1.0, 5.0, 2.0), False), ((1.0, 1000.0, 1.0), True)],
)
def test_features_are_uneven_when_one_scale_leaves_too_little_of_one(
    scales: tuple[float, ...], *, uneven: bool
) -> None:
    rows = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32) * np.array(scales, np.float32)
    assert is_unevenly_scaled(rows) is uneven


def test_features_that_never_change_do_not_count_as_uneven() -> None:
    rows = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)
    rows[:, 1] = 0.0
    assert not is_unevenly_scaled(rows)
    assert not is_unevenly_scaled(np.zeros((5, 3), np.float32))
    assert not is_unevenly_scaled(np.zeros((5, 3, 8, 8), np.float32))

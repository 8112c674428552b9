from __future__ import annotations

import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from compressors import data, program
from compressors.contract import Task
from compressors.errors import NoEffectError, RecipeError
from compressors.metrics import METRICS, evaluate
from compressors.recipes import RECIPES, Kitchen, Recipe, StepSpec, recipes_named
from compressors.steps.base import Context, Model
from compressors.steps.export_litert import export_litert
from compressors.steps.feature_scaling import is_unevenly_scaled, scaling_operators
from compressors.steps.quantize_litert import quantize_dynamic, quantize_static
from compressors.tflite_file import read_facts
from edge_agent.protocol.profile import Delegate, RuntimeName
from edge_agent.runtimes.convert import BoundModel, bind
from edge_agent.runtimes.registry import open_runtime

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

MACS_OF_PRICE = 8 * 32 + 32 * 32 + 32


@pytest.fixture(scope="session")
def network(uploads: Path) -> program.FloatModel:
    return program.load(uploads / "price.pt2")


@pytest.fixture(scope="session")
def evaluation(uploads: Path, network: program.FloatModel) -> data.EvaluationData:
    return data.load(uploads / "price.npz", network.signature, Task.REGRESSION)


@pytest.fixture(scope="session")
def context(evaluation: data.EvaluationData) -> Context:
    return Context(evaluation.calibration, evaluation.selection)


@pytest.fixture(scope="session")
def exported(network: program.FloatModel, context: Context) -> Model:
    return export_litert(Model(network), context, {}).model


def outputs_of(model: Model, split: data.Split, folder: Path) -> NDArray[np.float32]:
    """What the adapter that runs on devices gives for all rows."""
    assert model.file is not None
    path = folder / "model.tflite"
    path.write_bytes(model.file)
    loaded = open_runtime(RuntimeName.LITERT).load(path, threads=1, delegate=Delegate.NONE)
    signature = model.network.signature
    bound = BoundModel(
        loaded, signature, bind(signature.inputs, loaded.inputs), bind(signature.outputs, loaded.outputs)
    )
    result: NDArray[np.float32] = bound.run(split.inputs)["output_0"]
    return result


def r2(outputs: NDArray[np.float32], split: data.Split) -> float:
    return evaluate(METRICS["r2"], outputs, split.target, group=split.group, query=None).value


def test_export_gives_the_float_model_at_batch_one(
    exported: Model, evaluation: data.EvaluationData, tmp_path: Path
) -> None:
    expected = exported.network.run(evaluation.test.inputs)["output_0"]
    assert np.allclose(outputs_of(exported, evaluation.test, tmp_path), expected, atol=1e-4)
    facts = read_facts(exported.file or b"")
    assert facts.macs == MACS_OF_PRICE
    assert facts.quantized_operators == 0


def test_static_int8_with_one_output_keeps_r2_within_half_a_point(
    exported: Model, evaluation: data.EvaluationData, context: Context, tmp_path: Path
) -> None:
    quantized = quantize_static(exported, context, {})
    float_r2 = r2(outputs_of(exported, evaluation.test, tmp_path), evaluation.test)
    int8_r2 = r2(outputs_of(quantized.model, evaluation.test, tmp_path), evaluation.test)
    assert float_r2 > 0.9
    assert abs(float_r2 - int8_r2) < 0.005
    assert "scale the features stay in float" in quantized.summary


def test_static_int8_range_of_the_output_is_its_true_one(
    exported: Model, evaluation: data.EvaluationData, context: Context, tmp_path: Path
) -> None:
    # the library's moving average of each sample's extremes would end near the mean: min = max for one output
    quantized = quantize_static(exported, context, {}).model
    seen = outputs_of(exported, evaluation.calibration, tmp_path)
    given = outputs_of(quantized, evaluation.calibration, tmp_path)
    assert given.min() == pytest.approx(seen.min(), abs=0.05)
    assert given.max() == pytest.approx(seen.max(), abs=0.05)


def test_static_int8_makes_every_layer_int8_and_says_so(exported: Model, context: Context) -> None:
    outcome = quantize_static(exported, context, {})
    assert len(outcome.layers) == 3
    assert set(outcome.layers.values()) == {"FULLY_CONNECTED int8 x int8"}
    assert read_facts(outcome.model.file or b"").quantized_operators == 3


def test_dynamic_int8_stores_weights_as_int8_and_shrinks_the_file(exported: Model, context: Context) -> None:
    outcome = quantize_dynamic(exported, context, {})
    assert set(outcome.layers.values()) == {"FULLY_CONNECTED float32 x int8"}
    assert len(outcome.model.file or b"") < 0.8 * len(exported.file or b"")


@pytest.mark.parametrize(("io", "integer"), [("int8", True), ("float32", False)])
def test_static_int8_ends_are_what_the_parameter_says(uploads: Path, tmp_path: Path, io: str, *, integer: bool) -> None:
    shapes = program.load(uploads / "shapes.pt2")
    evaluation = data.load(uploads / "shapes.npz", shapes.signature, Task.CLASSIFICATION)
    context = Context(evaluation.calibration, evaluation.selection)
    file = quantize_static(export_litert(Model(shapes), context, {}).model, context, {"io": io}).model.file
    path = tmp_path / "shapes.tflite"
    path.write_bytes(file or b"")
    loaded = open_runtime(RuntimeName.LITERT).load(path, threads=1, delegate=Delegate.NONE)
    assert [tensor.scale is not None for tensor in (*loaded.inputs, *loaded.outputs)] == [integer, integer]


def test_static_int8_of_a_network_with_a_dead_channel_loads_on_both_runtimes(
    uploads: Path, tmp_path: Path, pythons: dict[str, str]
) -> None:
    shapes = program.load(uploads / "shapes.pt2")
    evaluation = data.load(uploads / "shapes.npz", shapes.signature, Task.CLASSIFICATION)
    context = Context(evaluation.calibration, evaluation.selection)
    path = tmp_path / "shapes.tflite"
    path.write_bytes(quantize_static(export_litert(Model(shapes), context, {}).model, context, {}).model.file or b"")
    code = (
        "import sys; from pathlib import Path; from edge_agent.runtimes.registry import open_runtime;"
        "from edge_agent.protocol.profile import Delegate, RuntimeName;"
        "[open_runtime(RuntimeName(sys.argv[2])).load(Path(sys.argv[1]), threads=1, delegate=d) for d in Delegate]"
    )
    for runtime, python in pythons.items():
        subprocess.run([python, "-c", code, str(path), runtime], check=True, capture_output=True)


def test_step_that_quantizes_nothing_is_an_error(exported: Model, context: Context) -> None:
    network = exported.network
    with pytest.raises(NoEffectError, match="no layer"):
        quantize_dynamic(Model(network, _without_weights(network, context)), context, {})


def _without_weights(network: program.FloatModel, context: Context) -> bytes:
    """A file of the same signature that only adds: there is nothing to quantize."""

    class Sum(torch.nn.Module):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return torch.sin(features).sum(dim=1, keepdim=True)

    return export_litert(Model(replace(network, module=Sum())), context, {}).model.file or b""


def test_quantization_before_export_is_refused(network: program.FloatModel, context: Context) -> None:
    with pytest.raises(RecipeError, match="put export-litert before it"):
        quantize_static(Model(network), context, {})


def test_export_twice_is_refused(exported: Model, context: Context) -> None:
    with pytest.raises(RecipeError, match="comes once"):
        export_litert(exported, context, {})


def test_scaling_operators_are_those_before_the_first_layer(exported: Model) -> None:
    kinds = [operator.kind for operator in scaling_operators(exported.file or b"")]
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


def test_recipe_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(RecipeError, match="no recipe 'int2'; there are float32"):
        recipes_named(("int2",))


def test_recipe_without_export_or_with_an_unknown_step_is_refused(
    network: program.FloatModel, context: Context
) -> None:
    kitchen = Kitchen(network, context, inputs_sha256="0" * 64, cache_dir=None)
    with pytest.raises(RecipeError, match="there is no step 'melt'"):
        kitchen.cook(Recipe("odd", (StepSpec("melt"),)))


def test_kitchen_takes_from_the_cache_what_it_built_before(
    network: program.FloatModel, context: Context, tmp_path: Path
) -> None:
    recipe = RECIPES["dynamic-int8"]
    first = Kitchen(network, context, inputs_sha256="1" * 64, cache_dir=tmp_path).cook(recipe)
    kept = sorted(path.name for path in tmp_path.iterdir())
    again = Kitchen(network, context, inputs_sha256="1" * 64, cache_dir=tmp_path).cook(recipe)
    assert again == first
    assert sorted(path.name for path in tmp_path.iterdir()) == kept
    other = Kitchen(network, context, inputs_sha256="2" * 64, cache_dir=tmp_path)
    assert other.cook(recipe)[0] == first[0]  # the same bytes, built anew under another key
    assert len(list(tmp_path.iterdir())) == 2 * len(kept)


def test_damaged_cache_is_built_anew(network: program.FloatModel, context: Context, tmp_path: Path) -> None:
    recipe = RECIPES["float32"]
    first, _ = Kitchen(network, context, inputs_sha256="1" * 64, cache_dir=tmp_path).cook(recipe)
    for path in tmp_path.glob("*.json"):
        path.write_text("{")
    again, _ = Kitchen(network, context, inputs_sha256="1" * 64, cache_dir=tmp_path).cook(recipe)
    assert again == first

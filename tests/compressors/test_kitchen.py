"""What recipes share is built once, kept for later jobs, and stopped where it costs too much."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from compressors import data, program
from compressors.contract import Recipe, StepSpec, Task
from compressors.errors import GateError, RecipeError
from compressors.kitchen import Kitchen
from compressors.recipes import RECIPES
from compressors.scoring import score
from compressors.steps import STEPS
from compressors.steps.base import Form, Outcome, Parameters, Step
from tests.compressors.steps.applying import context_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from compressors.steps.base import Context, Model

EXPORT, STATIC = StepSpec(step="export-litert"), StepSpec(step="static-int8")


@pytest.fixture(scope="session")
def network(uploads: Path) -> program.FloatModel:
    return program.load(uploads / "price.pt2")


@pytest.fixture(scope="session")
def kitchen_of(uploads: Path, network: program.FloatModel) -> Callable[..., Kitchen]:
    evaluation = data.load(uploads / "price.npz", network.signature, Task.REGRESSION)
    context = context_of(evaluation, Task.REGRESSION)

    def opened(
        cache_dir: Path | None = None, inputs: str = "0", scores: Callable[[Model], float] | None = None
    ) -> Kitchen:
        scored = scores or (lambda model: score(model, context.selection, context.metric))
        return Kitchen(network, context, inputs_sha256=inputs * 64, cache_dir=cache_dir, score=scored)

    return opened


def test_kitchen_takes_from_the_cache_what_it_built_before(kitchen_of: Callable[..., Kitchen], tmp_path: Path) -> None:
    recipe = RECIPES["dynamic-int8"]
    first = kitchen_of(tmp_path, "1").cook(recipe)
    kept = sorted(path.name for path in tmp_path.iterdir())
    again = kitchen_of(tmp_path, "1").cook(recipe)
    assert again == first
    assert sorted(path.name for path in tmp_path.iterdir()) == kept
    assert kitchen_of(tmp_path, "2").cook(recipe)[0] == first[0]  # the same bytes, built anew under another key
    assert len(list(tmp_path.iterdir())) == 2 * len(kept)


def test_kitchen_with_a_damaged_cache_builds_anew(kitchen_of: Callable[..., Kitchen], tmp_path: Path) -> None:
    recipe = RECIPES["float32"]
    first, _ = kitchen_of(tmp_path).cook(recipe)
    for path in tmp_path.glob("*.json"):
        path.write_text("{")
    again, _ = kitchen_of(tmp_path).cook(recipe)
    assert again == first


def test_gate_that_a_step_passes_leaves_its_metric_in_the_record(kitchen_of: Callable[..., Kitchen]) -> None:
    gated = Recipe(name="gated", steps=(EXPORT, STATIC.model_copy(update={"max_drop": 0.005})))
    _, (exported, quantized) = kitchen_of().cook(gated)
    assert exported.metric is None
    assert quantized.metric is not None
    assert quantized.metric > 0.9


def test_gate_that_a_step_does_not_pass_ends_the_recipe(kitchen_of: Callable[..., Kitchen]) -> None:
    gated = Recipe(name="gated", steps=(EXPORT, STATIC.model_copy(update={"max_drop": 0.005})))
    worse = kitchen_of(scores=lambda model: 0.9 if model.form is Form.NETWORK else 0.8)
    with pytest.raises(GateError, match=r"after static-int8 the metric has lost 0\.1 .* 0\.005 is allowed"):
        worse.cook(gated)


def test_step_that_trains_without_training_data_is_refused(
    kitchen_of: Callable[..., Kitchen], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(_model: Model, _context: Context, _parameters: Parameters) -> Outcome:
        raise AssertionError

    study = Step("study", Parameters, never, takes=Form.NETWORK, gives=Form.NETWORK, trains=True)
    monkeypatch.setitem(STEPS, "study", study)
    with pytest.raises(RecipeError, match="study trains, and this version has no training data: push it with --train"):
        kitchen_of().cook(Recipe(name="taught", steps=(StepSpec(step="study"), EXPORT)))

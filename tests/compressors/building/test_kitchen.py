"""What recipes share is built once, kept for later jobs, and stopped where it costs too much."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from compressors.building.kitchen import Kitchen
from compressors.contract import Recipe, StepSpec, Task
from compressors.data import evaluation_rows
from compressors.data.evaluation_rows import Split
from compressors.errors import GateError, RecipeError
from compressors.inputs import program
from compressors.measuring.scoring import outputs_of, score
from compressors.metrics import metric_for
from compressors.recipes import RECIPES
from compressors.rehydrate import clone
from compressors.step import Form, Model, Outcome, Parameters, Step
from compressors.steps import STEPS
from tests.compressors.steps.applying import context_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from compressors.step import Context

EXPORT, STATIC = StepSpec(step="export-litert"), StepSpec(step="static-int8")


@pytest.fixture(scope="session")
def network(uploads: Path) -> program.FloatModel:
    return program.load(uploads / "price.pt2")


@pytest.fixture(scope="session")
def kitchen_of(uploads: Path, network: program.FloatModel) -> Callable[..., Kitchen]:
    evaluation = evaluation_rows.load(uploads / "price.npz", network.signature, Task.REGRESSION)
    context = context_of(evaluation, Task.REGRESSION)

    def opened(
        cache_dir: Path | None = None,
        inputs: str = "0",
        scores: Callable[[Model], float] | None = None,
        *,
        train: bool = False,
        seed: int = 0,
        metric: str = "r2",
    ) -> Kitchen:
        scored = scores or (lambda model: score(model, context.selection, context.metric))
        seen = replace(context, seed=seed, metric=metric_for(metric, Task.REGRESSION))
        seen = replace(seen, train=context.calibration) if train else seen
        return Kitchen(network, seen, inputs_sha256=inputs * 64, cache_dir=cache_dir, score=scored)

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


@pytest.mark.parametrize("library", ["shoal", "onnxruntime", "torchao"])
def test_kitchen_takes_nothing_that_another_version_of_a_library_built(
    kitchen_of: Callable[..., Kitchen], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    versions = {library: "1.0"}

    def told(name: str) -> str:
        if name == "ethos-u-vela":  # an extra that is not installed
            raise PackageNotFoundError(name)
        return versions.get(name) or version(name)

    monkeypatch.setattr("compressors.building.kitchen.version", told)
    kitchen_of(tmp_path).cook(RECIPES["float32"])
    kept = len(list(tmp_path.iterdir()))
    versions[library] = "1.1"
    kitchen_of(tmp_path).cook(RECIPES["float32"])
    assert len(list(tmp_path.iterdir())) == 2 * kept


def test_kitchen_with_a_damaged_cache_builds_anew(kitchen_of: Callable[..., Kitchen], tmp_path: Path) -> None:
    recipe = RECIPES["float32"]
    first, _ = kitchen_of(tmp_path).cook(recipe)
    for path in tmp_path.glob("*.json"):
        path.write_text("{")
    again, _ = kitchen_of(tmp_path).cook(recipe)
    assert again == first


def test_kitchen_whose_cache_can_not_be_written_builds_all_the_same(
    kitchen_of: Callable[..., Kitchen], tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    recipe = RECIPES["float32"]
    found, _ = kitchen_of(tmp_path / "file" / "cache").cook(recipe)
    assert found == kitchen_of().cook(recipe)[0]


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


@pytest.fixture
def halving(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A step that trains, `study`, and how often it ran."""
    runs: list[str] = []

    def halve(model: Model, context: Context, _parameters: Parameters) -> Outcome:
        runs.append(context.task)
        module = clone(model.network.module)
        with torch.no_grad():
            module.get_parameter("layers.2.weight").mul_(0.5)
        return Outcome(replace(model, network=replace(model.network, module=module)), "halved", {"layers.2": "halved"})

    study = Step("study", Parameters, halve, takes=Form.NETWORK, gives=Form.NETWORK, trains=True)
    monkeypatch.setitem(STEPS, "study", study)
    return runs


STUDIED = Recipe(name="taught", steps=(StepSpec(step="study"), StepSpec(step="study"), EXPORT))


def test_job_that_was_killed_goes_on_with_the_networks_it_had_trained(
    kitchen_of: Callable[..., Kitchen], halving: list[str], tmp_path: Path
) -> None:
    first = kitchen_of(tmp_path, train=True).cook(STUDIED)
    assert len(halving) == 2
    for path in sorted(tmp_path.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)[1:]:
        path.unlink()  # as a job leaves it that is killed in its second step
    resumed = kitchen_of(tmp_path, train=True).cook(STUDIED)
    assert len(halving) == 3
    assert resumed[0] == first[0]
    assert resumed[1][0] == first[1][0]


@pytest.mark.parametrize("changed", [{"seed": 1}, {"metric": "mae"}])
def test_kitchen_takes_nothing_from_the_cache_that_another_seed_or_metric_has_left_there(
    kitchen_of: Callable[..., Kitchen], halving: list[str], tmp_path: Path, changed: dict[str, Any]
) -> None:
    for asked in ({}, changed, changed):
        kitchen_of(tmp_path, train=True, **asked).cook(STUDIED)
    assert len(halving) == 2 * 2  # it halves twice each time


def test_network_that_was_kept_answers_like_one_that_was_not(
    kitchen_of: Callable[..., Kitchen], network: program.FloatModel, halving: list[str], tmp_path: Path
) -> None:
    kept, _ = kitchen_of(tmp_path, train=True).cook(STUDIED)
    free, _ = kitchen_of(None, train=True).cook(STUDIED)
    rows = {"features": np.random.default_rng(0).normal(size=(9, 8)).astype(np.float32)}
    split = Split({**rows}, np.zeros(9), np.arange(9), None, np.arange(9))
    ours, theirs = (outputs_of(Model(network, file), split)["output_0"] for file in (kept, free))
    assert np.allclose(ours, theirs, atol=1e-5)
    assert len(halving) == 4


def test_damaged_network_in_the_cache_is_trained_anew(
    kitchen_of: Callable[..., Kitchen], halving: list[str], tmp_path: Path
) -> None:
    first, _ = kitchen_of(tmp_path, train=True).cook(STUDIED)
    for path in tmp_path.glob("*.model"):
        path.write_bytes(path.read_bytes()[:500])
    kitchen_of(tmp_path, train=True).cook(STUDIED)
    assert len(halving) == 4
    assert kitchen_of(tmp_path, train=True).cook(STUDIED)[0] == first
    assert len(halving) == 4


def test_network_that_can_not_be_written_is_trained_in_each_job(
    kitchen_of: Callable[..., Kitchen], halving: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_network: program.FloatModel, _path: Path) -> None:
        raise RuntimeError

    monkeypatch.setattr(program, "save", refuse)
    first, _ = kitchen_of(tmp_path, train=True).cook(STUDIED)
    assert [path.suffix for path in tmp_path.iterdir()].count(".model") == 1  # the file
    for path in tmp_path.iterdir():
        path.unlink()
    assert kitchen_of(tmp_path, train=True).cook(STUDIED)[0] == first
    assert len(halving) == 4

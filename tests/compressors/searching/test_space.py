"""Whatever a space suggests can work: steps in order, no training without rows, no surgery without layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import optuna
import pytest

from compressors.files.formats import Form
from compressors.recipes import check, form_of, recipe_hash, step_of
from compressors.searching.facts import Facts
from compressors.searching.sampling import told
from compressors.searching.space import NUMBERS, space_of
from compressors.students import Architecture

if TYPE_CHECKING:
    from compressors.contract import Recipe

LAYERS = ("features.0", "features.3", "classifier")
EVERYTHING = Facts(
    has_layers=True,
    has_norms=True,
    has_wide_layers=True,
    has_tables=True,
    sensitive=LAYERS,
    outstanding=2,
    curved=("features.3", "features.0", "classifier"),
    spared=2,
    narrowest_percent=35,
    energy_percent=95,
    student_percent={Architecture.MOBILENET_V2: 75, Architecture.SHUFFLENET_V2: 50},
    epochs=8,
)
KINDS = {
    "three-formats": EVERYTHING.model_copy(update={"forms": (Form.ONNX, Form.LITERT, Form.EXECUTORCH)}),
    "everything": EVERYTHING,
    "no-training-rows": EVERYTHING.model_copy(update={"epochs": 0, "student_percent": {}}),
    "fixed-widths": EVERYTHING.model_copy(update={"narrowest_percent": None, "energy_percent": None, "spared": 0}),
    "one-layer": Facts(has_layers=True, sensitive=("only",)),
    "no-layers": Facts(has_layers=False),
}


def suggested(facts: Facts, count: int = 200) -> list[Recipe]:
    space = space_of(facts)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    given = [told(space.suggest, choices)[0] for choices in space.first]
    return given + [space.suggest(study.ask()) for _ in range(count)]


@pytest.mark.parametrize("facts", [pytest.param(facts, id=name) for name, facts in KINDS.items()])
def test_every_suggestion_is_a_recipe_that_can_work(facts: Facts) -> None:
    for recipe in suggested(facts):
        check(recipe)
        names = [spec.step for spec in recipe.steps]
        if not facts.mends:
            assert min(float(str(spec.parameters.get("macs", 1.0))) for spec in recipe.steps) >= 0.65
            assert not any(step_of(spec).trains for spec in recipe.steps), names
        if not facts.has_layers:
            assert names[0] == "export-litert"
        if not facts.has_tables:
            assert "share-embeddings" not in names
        if facts.narrowest_percent is None:
            assert not {"prune-channels", "prune-channels-hessian", "prune-gradually"} & set(names)
        for spec in recipe.steps:
            assert set(spec.parameters.get("skip", ())) <= set(facts.sensitive)  # type: ignore[arg-type]
            if "macs" in spec.parameters:
                assert spec.parameters["macs"] >= (facts.narrowest_percent or 0) / 100  # type: ignore[operator]


def test_nothing_behind_zeros_or_codebooks_moves_the_weights_again() -> None:
    moving = {"train-quantized", "equalize-layers", "correct-biases"}
    for recipe in suggested(EVERYTHING):
        names = [spec.step for spec in recipe.steps]
        for kept in {"prune-weights", "prune-weights-hessian", "cluster"} & set(names):
            assert not moving & set(names[names.index(kept) :]), names
        if "cluster" in names:
            assert "fine-tune" not in names[names.index("cluster") :], names


def test_all_that_the_facts_allow_is_suggested_and_the_usual_recipes_come_first() -> None:
    recipes = suggested(EVERYTHING)
    assert [recipe.name for recipe in recipes[:4]] == ["float32", "dynamic-int8", "static-int8", "weight-only-int8"]
    assert {spec.step for recipe in recipes for spec in recipe.steps} >= {
        *("prune-channels", "prune-channels-hessian", "prune-gradually", "low-rank", "student", "share-embeddings"),
        *("prune-weights", "prune-weights-hessian", "fine-tune", "cluster", "train-quantized", "equalize-layers"),
        *("static-int8", "dynamic-int8", "dynamic-int4", "weight-only"),
    }
    floats = {spec.parameters.get("float_layers", 0) for recipe in recipes for spec in recipe.steps}
    assert floats == {0, 1, 2}
    scales = {spec.parameters.get("granularity") for recipe in recipes for spec in recipe.steps}
    assert scales == {None, "tensor"}


def test_curvature_names_the_layers_that_stay_in_float_only_where_it_names_others() -> None:
    def asked(facts: Facts) -> set[tuple[object, object]]:
        steps = [spec for recipe in suggested(facts) for spec in recipe.steps if spec.step == "static-int8"]
        return {
            (spec.parameters.get("float_layers", 0), spec.parameters.get("sensitive_by", "noise")) for spec in steps
        }

    plain = {(0, "noise"), (1, "noise"), (2, "noise")}
    assert asked(EVERYTHING) == plain | {(1, "curvature")}, "of two layers both name the same"
    assert asked(EVERYTHING.model_copy(update={"curved": ()})) == plain
    assert asked(EVERYTHING.model_copy(update={"curved": LAYERS})) == plain
    others = EVERYTHING.model_copy(update={"curved": ("classifier", "features.3")})
    assert asked(others) == plain | {(1, "curvature"), (2, "curvature")}
    usual = len(NUMBERS[Form.LITERT]) - 2
    first = [recipe.steps[-1].parameters for recipe in suggested(others, 0)[usual : usual + 2]]
    assert first == [{"float_layers": 2}, {"float_layers": 2, "sensitive_by": "curvature"}]


def test_model_without_layers_is_tried_in_each_number_format_and_no_more() -> None:
    assert len({recipe_hash(recipe) for recipe in suggested(KINDS["no-layers"])}) == len(NUMBERS[Form.LITERT])


def test_files_of_every_format_that_the_profile_runs_are_tried_each_with_its_own_steps() -> None:
    recipes = suggested(KINDS["three-formats"])
    usual = ["onnx-float32", "onnx-dynamic-int8", "onnx-static-int8", "float32", "dynamic-int8", "static-int8"]
    assert [recipe.name for recipe in recipes[:6]] == usual
    assert "onnx-static-uint8" in {recipe.name for recipe in recipes}
    assert {"activations": "uint8", "granularity": "tensor"} in [recipe.steps[-1].parameters for recipe in recipes]
    assert {form_of(recipe) for recipe in recipes} == {Form.ONNX, Form.LITERT, Form.EXECUTORCH}
    searched = [recipe for recipe in recipes if recipe.name.startswith("auto-")]
    assert {form_of(recipe) for recipe in searched} == {Form.ONNX, Form.LITERT, Form.EXECUTORCH}
    assert all(form_of(recipe) is Form.LITERT for recipe in recipes if "float_layers" in recipe.steps[-1].parameters)


def test_same_steps_have_the_same_name_and_others_another() -> None:
    by_name = {recipe.name: recipe_hash(recipe) for recipe in suggested(EVERYTHING)}
    assert len(set(by_name.values())) == len(by_name)
    assert max(map(len, by_name)) <= 31  # a variant's id adds runtime, delegate and digest

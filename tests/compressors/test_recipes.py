"""Recipes are refused before anything is computed where they can't work."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from compressors.contract import Recipe, StepSpec
from compressors.errors import RecipeError
from compressors.recipes import RECIPES, check, parameters_of, recipes_of, steps_from
from compressors.step import Form
from edge_agent.protocol.profile import DELEGATES_OF, Delegate, DeviceProfile, RuntimeName
from tests.compressors.conftest import board

LITERT = DeviceProfile.model_validate(board("pi"))
EXPORT, STATIC = StepSpec(step="export-litert"), StepSpec(step="static-int8")


@pytest.mark.parametrize(
    ("runtimes", "names"),
    [
        (("tflite",), ["float32", "dynamic-int8", "static-int8"]),
        (("onnx",), ["onnx-float32", "onnx-dynamic-int8", "onnx-static-int8"]),
        (
            ("executorch", "onnx"),
            [
                "onnx-float32",
                "onnx-dynamic-int8",
                "onnx-static-int8",
                "executorch-float32",
                "executorch-static-int8",
            ],
        ),
    ],
)
def test_no_recipe_asked_for_gives_those_of_the_formats_that_the_profiles_load(
    runtimes: tuple[str, ...], names: list[str]
) -> None:
    profile = DeviceProfile.model_validate(board("some", runtimes=runtimes))
    assert [recipe.name for recipe in recipes_of((), [profile])] == names


def test_recipe_of_a_format_that_no_profile_loads_is_refused_with_the_runtimes_that_do() -> None:
    sentence = r"onnx-float32 makes \.onnx files, and none of these profiles .* add one of onnx to"
    with pytest.raises(RecipeError, match=sentence):
        recipes_of(("onnx-float32",), [LITERT])


def test_every_known_recipe_can_work() -> None:
    for recipe in RECIPES.values():
        check(recipe)


def test_recipe_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(RecipeError, match="no recipe 'int2'; there are float32"):
        recipes_of(("int2",), [LITERT])


def test_name_of_a_ready_made_recipe_is_refused_for_other_steps_alone() -> None:
    with pytest.raises(RecipeError, match="float32 is a ready-made recipe, and has other steps: give yours another"):
        recipes_of((Recipe(name="float32", steps=(EXPORT, STATIC)),), [LITERT])
    (found,) = recipes_of((Recipe(name="float32", steps=(EXPORT,)),), [LITERT])
    assert found == RECIPES["float32"]


@pytest.mark.parametrize(("runtime", "delegate"), [(r, d) for r in RuntimeName for d in DELEGATES_OF[r]])
def test_longest_name_leaves_room_for_the_id_of_a_variant(runtime: RuntimeName, delegate: Delegate) -> None:
    name = "r" * 31
    Recipe(name=name, steps=(EXPORT,))
    assert len(f"{name}-{runtime}-{delegate}-{'0' * 12}") <= 63
    with pytest.raises(ValidationError, match="at most 31 items"):
        Recipe(name=name + "r", steps=(EXPORT,))


def test_two_recipes_of_one_name_are_refused() -> None:
    with pytest.raises(RecipeError, match="two recipes have the name float32"):
        recipes_of(("float32", Recipe(name="float32", steps=(EXPORT, STATIC))), [LITERT])


@pytest.mark.parametrize(
    ("steps", "sentence"),
    [
        ((STATIC,), "static-int8 works on a litert file: put export-litert before it"),
        ((EXPORT, EXPORT), "export-litert works on the network, which is a litert file by then"),
        ((EXPORT, StepSpec(step="melt")), "there is no step 'melt'; there are .*export-litert"),
        ((EXPORT, StepSpec(step="static-int8", parameters={"io": "int2"})), "static-int8: io: Input should be"),
        ((EXPORT, StepSpec(step="static-int8", parameters={"oi": 1})), "oi: Extra inputs.*has these parameters: .*io"),
    ],
)
def test_recipe_that_cannot_work_is_refused_by_name(steps: tuple[StepSpec, ...], sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence):
        check(Recipe(name="odd", steps=steps))


def test_parameters_left_out_have_their_defaults() -> None:
    given = parameters_of(STATIC).model_dump()
    assert (given["io"], given["calibration"], given["float_layers"]) == ("int8", "best", 0)


def test_model_that_is_a_file_needs_no_export() -> None:
    recipe = Recipe(name="r", steps=(EXPORT, STATIC))
    assert steps_from(Form.NETWORK, recipe) == (EXPORT, STATIC)
    assert steps_from(Form.LITERT, recipe) == (STATIC,)
    assert steps_from(Form.LITERT, RECIPES["float32"]) == ()


def test_model_that_is_a_file_refuses_a_step_that_needs_layers() -> None:
    recipe = Recipe(name="small", steps=(StepSpec(step="low-rank"), EXPORT, STATIC))
    with pytest.raises(
        RecipeError, match="small: low-rank works on the network, and this model was pushed as a litert"
    ):
        steps_from(Form.LITERT, recipe)

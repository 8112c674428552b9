"""Recipes: ordered steps as data. Which exist, and whether one can work at all."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from pydantic import ValidationError

from compressors.contract import Recipe, StepSpec
from compressors.errors import RecipeError
from compressors.files.formats import FORMATS, targets_of
from compressors.npu.vela import ACCELERATORS
from compressors.step import Form
from compressors.steps import STEPS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from compressors.files.formats import Target
    from compressors.step import AnyStep, Parameters
    from edge_agent.protocol.profile import DeviceProfile

_EXPORT, _INT8, _ONNX = StepSpec(step="export-litert"), StepSpec(step="static-int8"), StepSpec(step="export-onnx")
_REPAIRS = tuple(StepSpec(step=name) for name in ("fold-batch-norm", "equalize-layers", "correct-biases"))
RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(name="float32", steps=(_EXPORT,)),
        Recipe(name="dynamic-int8", steps=(_EXPORT, StepSpec(step="dynamic-int8"))),
        Recipe(name="dynamic-int4", steps=(_EXPORT, StepSpec(step="dynamic-int4"))),
        Recipe(name="weight-only-int8", steps=(_EXPORT, StepSpec(step="weight-only"))),
        Recipe(name="weight-only-int4", steps=(_EXPORT, StepSpec(step="weight-only", parameters={"bits": 4}))),
        Recipe(name="static-int8", steps=(_EXPORT, _INT8)),
        Recipe(name="static-int8-floatio", steps=(_EXPORT, StepSpec(step="static-int8", parameters={"io": "float32"}))),
        Recipe(name="static-int8-uint8io", steps=(_EXPORT, StepSpec(step="static-int8", parameters={"io": "uint8"}))),
        Recipe(name="static-int8-repaired", steps=(*_REPAIRS, _EXPORT, _INT8)),
        Recipe(name="static-int16", steps=(_EXPORT, StepSpec(step="static-int16"))),
        Recipe(name="static-int8-edge-tpu", steps=(_EXPORT, _INT8, StepSpec(step="check-edge-tpu"))),
        Recipe(name="onnx-float32", steps=(_ONNX,)),
        Recipe(name="onnx-dynamic-int8", steps=(_ONNX, StepSpec(step="dynamic-int8-onnx"))),
        Recipe(name="onnx-static-int8", steps=(_ONNX, StepSpec(step="static-int8-onnx"))),
        Recipe(
            name="onnx-static-uint8",
            steps=(_ONNX, StepSpec(step="static-int8-onnx", parameters={"activations": "uint8"})),
        ),
        Recipe(name="executorch-float32", steps=(StepSpec(step="export-executorch"),)),
        Recipe(
            name="executorch-static-int8",
            steps=(StepSpec(step="export-executorch", parameters={"quantize": "static-int8"}),),
        ),
        *(
            Recipe(
                name=f"static-int8-{accelerator}",
                steps=(_EXPORT, _INT8, StepSpec(step="compile-ethos-u", parameters={"accelerator": accelerator})),
            )
            for accelerator in ACCELERATORS
        ),
    )
}


def default_recipes(profiles: Iterable[DeviceProfile]) -> list[str]:
    """The recipes of every format that a runtime of some profile loads."""
    named = list(profiles)
    plain = [name for form, one in FORMATS.items() if targets_of(form, named) for name in one.recipes]
    compiled = {target.npu for target in targets_of(Form.ETHOS_U, named)}
    return plain + [f"static-int8-{accelerator}" for accelerator in ACCELERATORS if accelerator in compiled]


def recipes_of(asked: Sequence[str | Recipe], profiles: Sequence[DeviceProfile]) -> list[Recipe]:
    """Recipes by name, or as they are given; none asked for: those that suit every task, for the profiles' runtimes.

    Raises:
        RecipeError: a name that does not exist or that is a ready-made recipe's, two recipes of one name, or one that
            cannot work for these profiles.
    """
    unknown = [one for one in asked if isinstance(one, str) and one not in RECIPES]
    if unknown:
        raise RecipeError(f"there is no recipe {unknown[0]!r}; there are {', '.join(RECIPES)}")
    recipes = [RECIPES[one] if isinstance(one, str) else one for one in asked or default_recipes(profiles)]
    names = [recipe.name for recipe in recipes]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RecipeError(f"two recipes have the name {twice}: rename one of them")
    for recipe in recipes:
        if recipe.name in RECIPES and recipe.steps != RECIPES[recipe.name].steps:
            raise RecipeError(f"{recipe.name} is a ready-made recipe, and has other steps: give yours another name")
        check(recipe)
        if not targets_for(recipe, profiles):
            raise RecipeError(_no_target(recipe))
    return recipes


def form_of(recipe: Recipe) -> Form:
    """What a recipe ends in."""
    return step_of(recipe.steps[-1]).gives


def targets_for(recipe: Recipe, profiles: Sequence[DeviceProfile]) -> list[Target]:
    """Everything that some profile would run the file of a recipe on."""
    compiled_for = recipe.steps[-1].parameters.get("accelerator", "")
    return [target for target in targets_of(form_of(recipe), profiles) if target.npu == compiled_for]


def _no_target(recipe: Recipe) -> str:
    kind = FORMATS[form_of(recipe)]
    if kind.npus:
        accelerator = recipe.steps[-1].parameters.get("accelerator")
        return f"the recipe {recipe.name} is for {accelerator}, and no profile has it as npu.configuration"
    return (
        f"the recipe {recipe.name} makes .{kind.ending} files, and none of these profiles has a runtime for them: add "
        f"one of {', '.join(kind.ending.runtimes)} to a profile's runtimes, or leave the recipe out"
    )


def check(recipe: Recipe) -> None:
    """Whether a recipe can work: its steps exist, their parameters fit, and each takes what the one before gives.

    Raises:
        RecipeError: it cannot; the sentence names the step.
    """
    form = Form.NETWORK
    for spec in recipe.steps:
        step = step_of(spec)
        parameters_of(spec)
        if step.takes is not form:
            raise RecipeError(f"{recipe.name}: {_out_of_place(step, form)}")
        form = step.gives
    if form is Form.NETWORK:
        raise RecipeError(f"the recipe {recipe.name} does not end in a file: let an export step be one of its steps")


def steps_from(form: Form, recipe: Recipe) -> tuple[StepSpec, ...]:
    """The steps of a recipe that a model of this form still needs.

    A model that was pushed as a file has no network: the export that would make such a file is left out.

    Args:
        form: of the model as it was pushed.
        recipe: one that `check` has passed.

    Raises:
        RecipeError: another step works on the network.
    """
    if form is Form.NETWORK:
        return recipe.steps
    exports = next(number for number, spec in enumerate(recipe.steps) if step_of(spec).gives is not Form.NETWORK)
    lost = recipe.steps[: exports + (step_of(recipe.steps[exports]).gives is not form)]
    if lost:
        raise RecipeError(
            f"{recipe.name}: {lost[0].step} works on the network, and this model was pushed as a {form} file, which "
            "has none: push it as a torch.export archive, .onnx or .keras"
        )
    return recipe.steps[exports + 1 :]


def recipe_hash(recipe: Recipe) -> str:
    """The same for the same steps, whatever the recipe is called."""
    steps = [spec.model_dump(mode="json") for spec in recipe.steps]
    return hashlib.sha256(json.dumps(steps, sort_keys=True).encode()).hexdigest()


def step_of(spec: StepSpec) -> AnyStep:
    """The step that a recipe names.

    Raises:
        RecipeError: there is none of this name.
    """
    if spec.step not in STEPS:
        raise RecipeError(f"there is no step {spec.step!r}; there are {', '.join(STEPS)}")
    return STEPS[spec.step]


def parameters_of(spec: StepSpec) -> Parameters:
    """The parameters of a step, checked, with its defaults where the recipe names none.

    Raises:
        RecipeError: one does not exist, or has a value that it can't have.
    """
    kind: type[Parameters] = step_of(spec).parameters
    try:
        return kind.model_validate(spec.parameters)
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"])) or "its parameters"
        known = ", ".join(kind.model_fields) or "none"
        raise RecipeError(f"{spec.step}: {name}: {first['msg']}; it has these parameters: {known}") from exc


def _out_of_place(step: AnyStep, form: Form) -> str:
    if step.takes is Form.NETWORK:
        return f"{step.name} works on the network, which is a {form} file by then: put it before the export"
    if form is Form.NETWORK:
        return f"{step.name} works on a {step.takes} file: put export-{step.takes} before it"
    return f"{step.name} works on a {step.takes} file and can't follow a step that gives a {form} file"

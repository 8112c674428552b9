"""Recipes that people write: read as they are meant, or refused in one sentence."""

import pytest

from compressors import contract
from server.catalogue.recipe_book import recipe_book
from server.client import RegistryClientError, dump_recipe, load_recipe
from server.schemas import recipes
from server.schemas.recipes import ReadyRecipe

GOOD = """
name: mine
steps:
  - step: prune-channels
    parameters: {macs: 0.5, skip: [head, stem]}
    max_drop: 0.02
  - step: export-litert
"""


def test_load_reads_steps_in_their_order_with_parameters_and_gates() -> None:
    found = load_recipe(GOOD)
    assert (found.name, [step.step for step in found.steps]) == ("mine", ["prune-channels", "export-litert"])
    assert found.steps[0].parameters == {"macs": 0.5, "skip": ["head", "stem"]}
    assert [step.max_drop for step in found.steps] == [0.02, None]


def test_load_reads_json_as_well() -> None:
    assert load_recipe(load_recipe(GOOD).model_dump_json()) == load_recipe(GOOD)


@pytest.mark.parametrize("recipe", recipe_book().recipes, ids=lambda recipe: recipe.name)
def test_dump_of_a_ready_made_recipe_is_read_as_the_same(recipe: ReadyRecipe) -> None:
    text = dump_recipe(recipe)
    assert load_recipe(text).model_dump() == recipe.model_dump(exclude={"is_usual"})
    assert "null" not in text
    assert "{}" not in text


def test_dump_keeps_a_gate_that_allows_no_loss() -> None:
    gated = load_recipe(GOOD.replace("0.02", "0.0"))
    told = ReadyRecipe(**gated.model_dump(), is_usual=False)
    assert load_recipe(dump_recipe(told)) == gated


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is no mapping of `name: ...` and `steps: ...`"),
        ("- step: export-litert", "is no mapping"),
        ("name: mine", "steps is missing"),
        ("name: mine\nsteps: []", "steps has 0 entries, and needs 1"),
        (GOOD + "  - {step: export-onnx}\n" * 31, "steps has 33 entries, and may have at most 32"),
        (GOOD.replace("name: mine", "title: mine"), "name is missing"),
        (GOOD.replace("name: mine", "name: mine\ncolour: red"), "colour is unknown"),
        (GOOD.replace("max_drop", "most_drop"), "steps.0.most_drop is unknown"),
        (GOOD.replace("mine", "my own"), "name is 'my own', but a name has"),
        (GOOD.replace("mine", "a..b"), "two dots in a row"),
        (GOOD.replace("mine", "12"), "name is 12"),
        (GOOD.replace("0.02", ".nan"), "max_drop is nan"),
        (GOOD.replace("0.5", ".inf"), "'macs' can't be that: a parameter is a finite number"),
        (GOOD.replace("0.5", "2020-01-01"), "'macs' can't be that"),
        (GOOD.replace("0.5", "!!binary aGVsbG8="), "'macs' can't be that"),
        (GOOD.replace("0.5", "[" * 100 + "]" * 100), "'macs' can't be that"),
        (GOOD.replace("macs", "1"), "steps.0.parameters"),
        (GOOD.replace("name: mine", "name: mine\nname: yours"), "line 3: 'name' is there twice"),
        (GOOD.replace("0.5", "*name"), "aliases (*name) are not allowed"),
        (GOOD + "#" * 70_000, "is larger than 65536 bytes"),
        ("[" * 5000, "is not usable YAML"),
        ("!!python/object/apply:os.system ['true']", "is not usable YAML"),
        ("name: [", "is not usable YAML: line"),
        ("\0", "is not usable YAML"),
    ],
)
def test_load_of_what_is_no_recipe_says_so_in_one_sentence(text: str, words: str) -> None:
    with pytest.raises(RegistryClientError) as caught:
        load_recipe(text)
    assert words in caught.value.message
    assert caught.value.message.startswith("The recipe")
    assert "\n" not in caught.value.message


def test_limits_are_those_of_the_jobs() -> None:
    of_jobs = contract.Recipe.model_json_schema()["properties"]
    ours = recipes.Recipe.model_json_schema()["properties"]
    for field, limits in (("name", ("maxLength", "pattern")), ("steps", ("minItems", "maxItems"))):
        assert [ours[field][limit] for limit in limits] == [of_jobs[field][limit] for limit in limits]

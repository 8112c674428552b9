"""Recipes over HTTP: what there is, and builds with one's own."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from server.database.tables import jobs

Registry = Any
Profile = Callable[..., dict[str, Any]]
PATH = "/v1/models/net/versions/1/variants"
EXPORT = {"step": "export-litert"}
OWN = {"name": "half", "steps": [{"step": "prune-channels", "parameters": {"macs": 0.5}, "max_drop": 0.1}, EXPORT]}


@pytest.fixture
def ready(http: httpx.Client, profile: Profile, add_version: Callable[..., None]) -> None:
    """A version and a profile."""
    add_version()
    http.post("/v1/profiles", json=profile())


def test_recipe_book_tells_recipes_and_what_steps_can_be_told(http: httpx.Client) -> None:
    book = http.get("/v1/recipes").json()
    recipes = {recipe["name"]: recipe for recipe in book["recipes"]}
    assert (recipes["float32"]["is_usual"], recipes["dynamic-int4"]["is_usual"]) == (True, False)
    assert recipes["static-int8-uint8io"]["steps"][1]["parameters"] == {"io": "uint8"}
    steps = {step["name"]: step for step in book["steps"]}
    assert {step["step"] for recipe in book["recipes"] for step in recipe["steps"]} <= steps.keys()
    assert (steps["fine-tune"]["trains"], steps["cluster"]["trains"]) == (True, False)
    macs = next(one for one in steps["prune-channels"]["parameters"] if one["name"] == "macs")
    assert macs == {"name": "macs", "allowed": "number above 0 below 1", "default": 0.5, "required": False}
    (accelerator,) = steps["compile-ethos-u"]["parameters"]
    assert (accelerator["required"], "ethos-u65-256" in accelerator["allowed"]) == (True, True)


@pytest.mark.usefixtures("ready")
def test_build_with_a_recipe_of_ones_own_is_one_job_for_the_same_steps(http: httpx.Client, registry: Registry) -> None:
    other = {"name": "apart", "steps": [EXPORT]}
    first = http.post(PATH, json={"own_recipes": [OWN, other]})
    assert first.status_code == 202, first.text
    assert http.post(PATH, json={"own_recipes": [other, OWN]}).json() == first.json()
    with registry.catalogue.read() as connection:
        request = connection.execute(sa.select(jobs.c.request)).scalar_one()
    assert [recipe["name"] for recipe in request["own_recipes"]] == ["apart", "half"]
    assert request["own_recipes"][1]["steps"][0] == OWN["steps"][0]
    changed = {**OWN, "steps": [{"step": "prune-channels", "parameters": {"macs": 0.6}}, EXPORT]}
    assert http.post(PATH, json={"own_recipes": [changed, other]}).json() != first.json()


@pytest.mark.usefixtures("ready")
def test_build_with_a_ready_made_recipe_given_in_full_is_taken(http: httpx.Client) -> None:
    assert http.post(PATH, json={"own_recipes": [{"name": "float32", "steps": [EXPORT]}]}).status_code == 202


def recipe(**changes: Any) -> dict[str, Any]:  # noqa: ANN401  whatever JSON can hold
    return {"own_recipes": [{**OWN, **changes}]}


def told(value: Any) -> dict[str, Any]:  # noqa: ANN401
    return recipe(steps=[{"step": "low-rank", "parameters": {"skip": value}}])


@pytest.mark.usefixtures("ready")
@pytest.mark.parametrize(
    ("body", "words"),
    [
        (recipe(name="float32"), "float32 is a ready-made recipe, and has other steps: give yours another name."),
        (recipe(name="../x"), "own_recipes.0.name is '../x', but a name has 1 to 63 letters"),
        (recipe(name="x" * 32), "name has 32 characters, and may have at most 31"),
        (recipe(steps=[]), "own_recipes.0.steps has 0 entries, and needs 1"),
        (recipe(steps=[EXPORT] * 33), "own_recipes.0.steps has 33 entries, and may have at most 32"),
        (recipe(steps=[{"stap": "x", "step": "y"}]), "own_recipes.0.steps.0.stap is unknown"),
        (recipe(steps=[{"parameters": {}}]), "own_recipes.0.steps.0.step is missing"),
        (recipe(steps=["export-litert"]), "it should be a mapping of names to values"),
        (recipe(steps=[{**EXPORT, "max_drop": "much"}]), "max_drop is 'much'"),
        (recipe(author="me"), "own_recipes.0.author is unknown"),
        (told({"a": 1}), "'skip' can't be that: a parameter is a finite number, a short text"),
        (told([["a"]]), "'skip' can't be that"),
        (told("a\ud800"), "'skip' can't be that"),
        (told("a\0"), "'skip' can't be that"),
        (told("a" * 257), "'skip' can't be that"),
        (told(["a"] * 1025), "'skip' can't be that"),
        (told(1 << 60), "'skip' can't be that"),
        (told(float("inf")), "'skip' can't be that"),
        ({"own_recipes": [OWN, OWN]}, "two recipes have the name half: rename one of them"),
        ({"recipes": ["half"], "own_recipes": [OWN]}, "two recipes have the name half: rename one of them"),
        ({"own_recipes": [{**OWN, "name": f"r{number}"} for number in range(33)]}, "has 33 entries"),
    ],
)
def test_recipe_that_cannot_be_is_one_sentence_and_no_job(http: httpx.Client, body: dict[str, Any], words: str) -> None:
    answer = http.post(PATH, content=json.dumps(body), headers={"content-type": "application/json"})
    message = answer.json()["error"]["message"]
    assert (answer.status_code, words in message, "\n" in message) == (422, True, False), message
    assert http.get("/v1/jobs").json() == []


@pytest.mark.usefixtures("ready")
def test_recipe_nested_deeper_than_a_stack_is_refused(http: httpx.Client) -> None:
    deep = '{"own_recipes": ' + '{"steps": [' * 50_000 + "]}" * 50_000 + "}"
    answer = http.post(PATH, content=deep, headers={"content-type": "application/json"})
    assert answer.status_code in {400, 422}
    assert http.get("/v1/jobs").json() == []

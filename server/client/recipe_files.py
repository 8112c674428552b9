"""Recipes as files: YAML, of which JSON is a part."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import yaml
from pydantic import ValidationError

from edge_agent.profiles.plain_yaml import PlainYamlError, load_plain
from server.client.errors import RegistryClientError
from server.schemas.recipes import Recipe
from server.schemas.sentence import sentence

if TYPE_CHECKING:
    from server.schemas.recipes import ToldRecipe

MAX_RECIPE_BYTES: Final = 64 * 1024


def load_recipe(text: str) -> Recipe:
    """Read a recipe: a name and steps.

    Raises:
        RegistryClientError: not YAML, or a field that is missing, unknown or out of range. Whether its steps exist and
            can follow each other is told by the job that builds with it.
    """
    try:
        document = load_plain(text, max_bytes=MAX_RECIPE_BYTES)
    except PlainYamlError as exc:
        raise RegistryClientError("bad_recipe", f"The recipe {exc}.") from exc
    if not isinstance(document, dict):
        raise RegistryClientError("bad_recipe", "The recipe is no mapping of `name: ...` and `steps: ...`.")
    try:
        return Recipe.model_validate(document)
    except ValidationError as exc:
        raise RegistryClientError("bad_recipe", sentence(exc.errors(include_url=False), subject="The recipe")) from exc


def dump_recipe(recipe: ToldRecipe) -> str:
    """Write a recipe that the registry has told of; `load_recipe` reads it."""
    document = recipe.model_dump(mode="json", include={"name": True, "steps": True})
    for step in document["steps"]:
        for name, absent in (("parameters", {}), ("max_drop", None)):
            if step[name] == absent:
                del step[name]
    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    return text

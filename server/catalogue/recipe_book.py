"""Which ready-made recipes and steps there are: told by a document, because only jobs may load what defines them.

`tooling/recipe_book.py` writes it from `compressors.recipes`.
"""

from __future__ import annotations

import functools
from importlib import resources
from typing import TYPE_CHECKING

from server.errors import InvalidError
from server.schemas.recipes import RecipeBook

if TYPE_CHECKING:
    from collections.abc import Iterable

    from server.schemas.recipes import Recipe


@functools.cache
def recipe_book() -> RecipeBook:
    """The recipes and steps of this release."""
    return RecipeBook.model_validate_json(resources.files(__package__).joinpath("recipe_book.json").read_bytes())


def refuse_taken_names(own: Iterable[Recipe]) -> None:
    """A ready-made recipe's name says what a variant is: it can't be given to other steps.

    Raises:
        InvalidError: one of them has such a name.
    """
    ready = {recipe.name: [step.model_dump() for step in recipe.steps] for recipe in recipe_book().recipes}
    for recipe in own:
        steps = [step.model_dump() for step in recipe.steps]
        if ready.get(recipe.name, steps) != steps:
            raise InvalidError(f"{recipe.name} is a ready-made recipe, and has other steps: give yours another name.")

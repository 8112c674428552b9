"""Recipes: those that a user writes, and what there is to write them with."""

from __future__ import annotations

import math
from typing import Annotated, Final

from pydantic import BeforeValidator, Field, JsonValue

from edge_agent.protocol.base import Name
from server.schemas.common import Document, RequestDocument

MAX_STEPS: Final = 32
MAX_PARAMETERS: Final = 64
MAX_LIST: Final = 1024
MAX_TEXT: Final = 256
MAX_INTEGER: Final = 1 << 53
PLAIN: Final = "a parameter is a finite number, a short text, true, false, null, or a list of these"

# What runtime, delegate and hash leave of a variant's id.
RecipeName = Annotated[Name, Field(max_length=31)]


def _plain(parameters: object) -> object:
    """Refuse what no step takes before anything walks through it: depth, infinity, what JSON can't hold."""
    if not isinstance(parameters, dict):
        return parameters
    for name, value in parameters.items():
        values = value if isinstance(value, list | tuple) else [value]
        if len(values) > MAX_LIST or not all(map(_is_plain, values)):
            raise ValueError(f"{str(name)[:63]!r} can't be that: {PLAIN}")
    return parameters


def _is_plain(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= MAX_TEXT and value.isprintable()
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or (isinstance(value, int) and abs(value) <= MAX_INTEGER)


class RecipeStep(RequestDocument):
    """One step of a recipe; `GET /v1/recipes` tells which there are and what they take."""

    step: Name
    parameters: Annotated[
        dict[Annotated[str, Field(max_length=63)], JsonValue], Field(max_length=MAX_PARAMETERS), BeforeValidator(_plain)
    ] = Field(default_factory=dict)
    max_drop: Annotated[float | None, Field(allow_inf_nan=False)] = Field(
        default=None,
        description="the recipe ends where the metric on the selection split has lost more after this step",
    )


class Recipe(RequestDocument):
    """Compression steps in their order, under a name of one's own."""

    name: RecipeName
    steps: Annotated[tuple[RecipeStep, ...], Field(min_length=1, max_length=MAX_STEPS)]


class ToldStep(Document):
    """One step of a recipe that the registry tells of."""

    step: Name
    parameters: dict[str, JsonValue] = Field(default_factory=dict)
    max_drop: float | None = None


class ToldRecipe(Document):
    """A recipe that the registry tells of; under a name of one's own it can be asked for again."""

    name: Name
    steps: tuple[ToldStep, ...]


class ReadyRecipe(ToldRecipe):
    """A recipe that is asked for by its name; `is_usual`: built where no recipe is asked for."""

    is_usual: bool


class StepParameter(Document):
    """What a step can be told. A step with a parameter that is required needs it in every recipe."""

    name: str
    allowed: str  # in words
    default: JsonValue = None
    required: bool = False


class StepDescription(Document):
    """A step that recipes are made of. It works on the network or on a file, and gives one or the other."""

    name: Name
    takes: str
    gives: str
    trains: bool  # it needs the rows of `--train`
    what: str  # one sentence
    about: str  # what its parameters mean
    parameters: tuple[StepParameter, ...]


class RecipeBook(Document):
    """The ready-made recipes, and the steps for one's own."""

    recipes: tuple[ReadyRecipe, ...]
    steps: tuple[StepDescription, ...]

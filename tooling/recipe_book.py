"""Write what the code says of recipes and steps: `server/catalogue/recipe_book.json`, and the table of the reference.

    python tooling/recipe_book.py [--check]

The API never loads the compressors, so it reads this document. `--check` only compares.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressors.contract import Part
from compressors.files.formats import FORMATS
from compressors.recipes import RECIPES
from compressors.step import Parameters
from compressors.steps import STEPS
from server.schemas.recipes import ReadyRecipe, RecipeBook, StepDescription, StepParameter, ToldStep

if TYPE_CHECKING:
    from collections.abc import Iterator

    from compressors.step import AnyStep

ROOT = Path(__file__).resolve().parents[1]
BOOK, PAGE = ROOT / "server" / "catalogue" / "recipe_book.json", ROOT / "docs" / "reference" / "compression.md"
BEGIN, END = "<!-- steps: begin (tooling/recipe_book.py) -->", "<!-- steps: end -->"
KINDS = {"integer": "integer", "number": "number", "boolean": "true or false", "string": "text", "null": "null"}
BOUNDS = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}


def book() -> RecipeBook:
    """All of it."""
    usual = {name for kind in FORMATS.values() for name in kind.recipes}
    return RecipeBook(
        recipes=tuple(
            ReadyRecipe(
                name=recipe.name,
                steps=tuple(ToldStep.model_validate(spec.model_dump(mode="json")) for spec in recipe.steps),
                is_usual=recipe.name in usual,
            )
            for recipe in RECIPES.values()
        ),
        steps=tuple(description_of(step) for step in STEPS.values()),
    )


def description_of(step: AnyStep) -> StepDescription:
    """A step as its code tells of it: the first sentence of its module, and what its parameters' classes say."""
    schema = step.parameters.model_json_schema()
    required = set(schema.get("required", ()))
    return StepDescription(
        name=step.name,
        takes=step.takes,
        gives=step.gives,
        trains=step.trains,
        what=what_of(step),
        about=" ".join(about_of(step.parameters)),
        parameters=tuple(
            StepParameter(
                name=name,
                allowed=allowed(field, schema.get("$defs", {})),
                default=field.get("default"),
                required=name in required,
            )
            for name, field in schema.get("properties", {}).items()
        ),
    )


def what_of(step: AnyStep) -> str:
    """One sentence; where a module holds several steps, with what tells them apart."""
    module = sys.modules[step.apply.__module__]
    sentence = first_of(module)
    if sum(other.apply.__module__ == module.__name__ for other in STEPS.values()) > 1:
        own = first_of(step.apply)
        return f"{own[:1].upper()}{own[1:].rstrip('.')}. {sentence}"
    return sentence


def first_of(documented: object) -> str:
    """The first line of a docstring, without what it refers to in the code."""
    line = (inspect.getdoc(documented) or "").partition("\n")[0]
    return re.sub(r"; see `[^`]*`", "", line)


def about_of(parameters: type[Parameters]) -> Iterator[str]:
    """What the classes of the parameters say, the step's own first."""
    for kind in parameters.__mro__:
        if issubclass(kind, Part) and kind not in {Part, Parameters} and kind.model_fields and kind.__doc__:
            yield " ".join(inspect.cleandoc(kind.__doc__).split())


def allowed(field: dict[str, Any], definitions: dict[str, Any]) -> str:
    """What a parameter may be, in words."""
    if "$ref" in field:
        return allowed(definitions[field["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in field or "allOf" in field:
        return " or ".join(allowed(one, definitions) for one in field.get("anyOf") or field["allOf"])
    if "const" in field:
        return str(field["const"])
    if "enum" in field:
        return ", ".join(map(str, field["enum"]))
    if field["type"] == "array":
        return "list of texts"
    bounds = [f"{word} {field[name]:g}" for name, word in BOUNDS.items() if name in field]
    return " ".join([KINDS[field["type"]], *bounds])


def table(steps: tuple[StepDescription, ...]) -> Iterator[str]:
    """The steps for people who read."""
    yield from ("| step | works on | what it does | parameters (default) |", "|---|---|---|---|")
    for step in steps:
        works = step.takes if step.takes == step.gives else f"{step.takes}, gives {step.gives}"
        told = "; ".join(
            f"`{one.name}`: {one.allowed} ({'required' if one.required else f'`{json.dumps(one.default)}`'})"
            for one in step.parameters
        )
        yield f"| `{step.name}` | {works} | {step.what}{' Trains.' if step.trains else ''} | {told or 'none'} |"


def with_table(page: str, steps: tuple[StepDescription, ...]) -> str:
    """The page with the table in its place."""
    before, _, rest = page.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise SystemExit(f"{PAGE.relative_to(ROOT)} lacks the lines {BEGIN} and {END}")
    return "\n".join([f"{before}{BEGIN}", "", *table(steps), "", f"{END}{after}"])


def main() -> int:
    """Write, or compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit 1 if a file is not in step; write nothing")
    check = parser.parse_args().check
    found = book()
    texts = {
        BOOK: found.model_dump_json(indent=1) + "\n",
        PAGE: with_table(PAGE.read_text(encoding="utf-8"), found.steps),
    }
    late = [path for path, text in texts.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in late:
        sys.stdout.write(f"{path.relative_to(ROOT)} {'is not in step with the code' if check else 'written'}\n")
        if not check:
            path.write_text(texts[path], encoding="utf-8")
    return 1 if check and late else 0


if __name__ == "__main__":
    raise SystemExit(main())

"""`edge-registry recipe`, and recipes that a command is given as files."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.cli.options import JsonOption, RegistryOption
from server.cli.output import fail, say, show_json, show_table, text_of_step
from server.cli.session import connected

if TYPE_CHECKING:
    from server.schemas.recipes import Recipe, StepDescription, ToldRecipe

app = typer.Typer(help="How variants are made: ready-made recipes, and the steps for your own.", no_args_is_help=True)


@app.command("list")
def list_(registry: RegistryOption = None, *, as_json: JsonOption = False) -> None:
    """The ready-made recipes; `*`: built where no recipe is asked for, if a runtime of the profile loads it."""
    with connected(registry) as client:
        recipes = client.get_recipes().recipes
    if as_json:
        show_json([recipe.model_dump(mode="json") for recipe in recipes])
        return
    show_table(("", "recipe", "steps"), [("*" if one.is_usual else "", one.name, steps_of(one)) for one in recipes])


@app.command()
def show(name: str, registry: RegistryOption = None, *, as_json: JsonOption = False) -> None:
    """One ready-made recipe, as the YAML to begin your own with: give it another name."""
    from server.client import dump_recipe  # noqa: PLC0415  `--help` must not wait for it

    with connected(registry) as client:
        recipes = client.get_recipes().recipes
    found = next((recipe for recipe in recipes if recipe.name == name), None)
    if found is None:
        fail(f"There is no ready-made recipe {name[:80]}: there are {', '.join(one.name for one in recipes)}.")
    if as_json:
        show_json(found.model_dump(mode="json"))
        return
    say(dump_recipe(found).rstrip())


@app.command()
def steps(
    step: Annotated[str | None, typer.Argument(metavar="[STEP]", help="Only this one, with its parameters.")] = None,
    registry: RegistryOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """The steps that recipes are made of, and what they can be told."""
    with connected(registry) as client:
        known = client.get_recipes().steps
    found = [one for one in known if step in {None, one.name}]
    if not found:
        fail(f"There is no step {(step or '')[:80]}: there are {', '.join(one.name for one in known)}.")
    if as_json:
        show_json([one.model_dump(mode="json") for one in found])
    elif step is None:
        rows = [(one.name, one.takes, one.gives, "yes" if one.trains else "", one.what) for one in found]
        show_table(("step", "works on", "gives", "trains", "what it does"), rows)
    else:
        _show_step(found[0])


def read_recipe(path: Path) -> "Recipe":
    """A recipe from a file; what is wrong ends the program with a sentence."""
    from server.client import RegistryClientError, load_recipe  # noqa: PLC0415  `--help` must not wait for it
    from server.client.recipe_files import MAX_RECIPE_BYTES  # noqa: PLC0415

    try:
        with path.open("rb") as file:
            content = file.read(MAX_RECIPE_BYTES + 1)
        if len(content) > MAX_RECIPE_BYTES:
            fail(f"The file {path} is larger than {MAX_RECIPE_BYTES} bytes, so it holds no recipe.")
        return load_recipe(content.decode("utf-8"))
    except OSError as exc:
        fail(f"The file {path} can't be read: {exc.strerror}.")
    except UnicodeDecodeError:
        fail(f"The file {path} is no UTF-8 text, so it holds no recipe.")
    except RegistryClientError as exc:
        fail(f"{path}: {exc.message}")


def save_recipe(recipe: "ToldRecipe", path: Path) -> None:
    """Write a recipe to a file, in place of what it held."""
    from server.client import dump_recipe  # noqa: PLC0415  `--help` must not wait for it

    try:
        path.write_text(dump_recipe(recipe), "utf-8")
    except OSError as exc:
        fail(f"The file {path} can't be written: {exc.strerror}.")


def steps_of(recipe: "ToldRecipe") -> str:
    """A recipe in one line."""
    return " > ".join(text_of_step(one.step, one.parameters) for one in recipe.steps)


def _show_step(step: "StepDescription") -> None:
    say(step.what)
    needs = ", and trains: the version needs rows of --train" if step.trains else ""
    say(f"It works on: {step.takes}; it gives: {step.gives}{needs}.")
    if not step.parameters:
        say("It has no parameters.")
        return
    say("")
    rows = [(one.name, "required" if one.required else json.dumps(one.default), one.allowed) for one in step.parameters]
    show_table(("parameter", "default", "may be"), rows)
    say("")
    say(step.about)

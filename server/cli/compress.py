"""`edge-registry compress`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.cli.options import ComputeDeviceOption, JsonOption, ModelVersionArgument, RegistryOption, split_version
from server.cli.output import fail, say, show_json
from server.cli.recipes import save_recipe
from server.cli.search_page import search_screen, show_search
from server.cli.session import connected
from server.cli.tokens import seconds_of
from server.cli.waiting import follow, refusals, show_choices

if TYPE_CHECKING:
    from server.schemas.search import Search, SearchForm

USUAL_BUDGET = "10m"


def compress(  # noqa: PLR0913, PLR0917  a flag for each field of a search
    model: ModelVersionArgument,
    profile: Annotated[str, typer.Option("--profile", help="The kind of device to search for.")],
    budget: Annotated[
        str | None,
        typer.Option("--budget", help=f"How long to search: 90s, 2h; without --trials {USUAL_BUDGET}."),
    ] = None,
    trials: Annotated[int | None, typer.Option("--trials", min=1, help="How many recipes to try at most.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Of the sampler; the same tries the same.")] = None,
    replay: Annotated[
        Path | None, typer.Option("--replay", help="What --json printed of an earlier search: its latencies count.")
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option("--save-recipe", help="Write the best recipe to this file, for `variant build --recipe-file`."),
    ] = None,
    device: ComputeDeviceOption = "cpu",
    registry: RegistryOption = None,
    *,
    auto: Annotated[bool, typer.Option("--auto", help="Search for the recipe that suits the profile best.")] = False,
    until_fits: Annotated[
        bool, typer.Option("--until-fits", help="End once a recipe meets every limit for certain.")
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Even if the same was searched already; it goes on where it ended.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is found and built.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Search for the recipe that suits a profile best within its limits, and build it; exit code 1 if none fits."""
    if not auto:
        fail("compress searches: add --auto; `edge-registry variant build` builds the recipes you name.", exit_code=2)
    name, version = split_version(model)
    if save is not None and not wait:
        fail("--save-recipe waits for what is found: leave --no-wait out.", exit_code=2)
    if save is not None and not save.parent.is_dir():
        fail(f"The file {save} can't be written: there is no folder {save.parent}.")
    recorded = {} if replay is None else _recorded(replay)
    if budget is None and trials is None:
        trials = len(recorded["trials"]) if recorded else None
        budget = None if recorded else USUAL_BUDGET
    form = _form(
        profile=profile,
        seconds=None if budget is None else seconds_of(budget),
        trials=trials,
        until_fits=until_fits,
        seed=recorded.get("seed", 0) if seed is None else seed,
        replay=recorded.get("latencies"),
        device=device,
        again=again,
    )
    with connected(registry) as client:
        job = client.start_search(name, version, form)
        if not wait:
            _tell(job.job_id, model, document=job.model_dump(mode="json") if as_json else None)
            return
        job = follow(client, job.job_id, f"search {model} for {profile}", screen=search_screen)
        found = client.get_search(job.job_id)
        if save is not None:
            _save_best(found, save)
        refused = refusals([one for one in client.list_choices(name, version) if one.profile == profile])
        if as_json:
            show_json(found.model_dump(mode="json"))
        else:
            show_search(found)
            if not refused:
                show_choices(client, name, version, profile=profile)
    if refused:
        fail(refused[0])


def _save_best(found: "Search", path: Path) -> None:
    """The recipe that the profile gets; where it gets none, nothing is written, and the refusal is said."""
    best = next((trial for trial in found.trials if trial.number == found.best), None)
    if best is not None:
        save_recipe(best.recipe, path)


def _tell(job_id: str, model: str, document: dict[str, Any] | None) -> None:
    if document is not None:
        show_json(document)
        return
    say(f"{model} is searched and built once job {job_id} is done: `edge-registry job show {job_id} --wait`")


def _recorded(path: Path) -> dict[str, Any]:
    """The document of an earlier search."""
    try:
        document = json.loads(path.read_text("utf-8"))
    except OSError as exc:
        fail(f"The file {path} can't be read: {exc.strerror}.")
    except ValueError:
        fail(f"The file {path} is no JSON: give what `edge-registry compress --auto --json` printed.")
    if not isinstance(document, dict) or not {"latencies", "trials"} <= document.keys():
        fail(f"The file {path} holds no search: give what `edge-registry compress --auto --json` printed.")
    return document


def _form(**fields: Any) -> "SearchForm":  # noqa: ANN401  checked by the form
    from pydantic import ValidationError  # noqa: PLC0415  `--help` must not wait for these

    from server.schemas.search import SearchForm  # noqa: PLC0415
    from server.schemas.sentence import sentence  # noqa: PLC0415

    try:
        return SearchForm.model_validate(fields)
    except ValidationError as exc:
        fail(sentence(exc.errors(include_url=False)), exit_code=2)

"""`edge-registry variant`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.cli.options import ComputeDeviceOption, JsonOption, ModelVersionArgument, RegistryOption, split_version
from server.cli.output import fail, say, show_documents, show_json, show_table
from server.cli.recipes import read_recipe
from server.cli.report import report
from server.cli.session import connected
from server.cli.variant_page import LIST_COLUMNS, WIDE_COLUMNS, list_row, show_variant, wide_row
from server.cli.waiting import follow, refusals, show_choices

if TYPE_CHECKING:
    from server.schemas.catalogue import Choice, Variant

app = typer.Typer(help="What was built of a model for each profile, and measured.", no_args_is_help=True)
_NONE_YET = "none yet: `edge-registry job list` shows builds under way, `edge-registry variant build` starts one"
ProfileOption = Annotated[list[str] | None, typer.Option("--profile", help="Only this profile; may be repeated.")]


@app.command()
def build(  # noqa: PLR0913  a flag for each field of a build
    model: ModelVersionArgument,
    profile: ProfileOption = None,
    recipe: Annotated[
        list[str] | None,
        typer.Option("--recipe", help="Only this ready-made recipe (`recipe list`); may be repeated."),
    ] = None,
    recipe_file: Annotated[
        list[Path] | None,
        typer.Option("--recipe-file", help="Only this recipe of your own, a YAML file; may be repeated."),
    ] = None,
    device: ComputeDeviceOption = "cpu",
    registry: RegistryOption = None,
    *,
    again: Annotated[bool, typer.Option("--again", help="Even if it was built already; measured again, too.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is built.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Build the variants of a version, for every profile or for those named; exit code 1 if a named recipe can't be."""
    name, version = split_version(model)
    own = [read_recipe(path) for path in recipe_file or ()]  # all are read before anything is sent
    asked = [*(recipe or ()), *(one.name for one in own)]
    with connected(registry) as client:
        jobs = client.build_variants(
            name, version, profiles=profile or (), recipes=recipe or (), own_recipes=own, device=device, again=again
        )
        if wait:
            jobs = [follow(client, job.job_id, f"build {model}") for job in jobs]
        if as_json:
            show_documents(jobs)
        elif wait:
            show_choices(client, name, version)
        else:
            for job in jobs:
                say(f"{model} is built once job {job.job_id} is done: `edge-registry job show {job.job_id} --wait`")
        refused = _refused(client.list_variants(name, version), asked, profile) if wait else []
    if refused:
        fail(" ".join(refused))


@app.command("list")
def list_(
    model: ModelVersionArgument,
    profile: Annotated[str | None, typer.Option("--profile", help="Only this profile.")] = None,
    registry: RegistryOption = None,
    *,
    wide: Annotated[bool, typer.Option("--wide", help="Every figure, and the ids.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Variants of a version, `*` is what a profile gets; `d`, `h`, `p`: measured on a device, a host, predicted."""
    name, version = split_version(model)
    with connected(registry) as client:
        found = client.list_variants(name, version, profile=profile)
        choices = [choice for choice in client.list_choices(name, version) if profile in {None, choice.profile}]
    if as_json:
        show_documents(found)
        return
    columns = (*LIST_COLUMNS, *(WIDE_COLUMNS if wide else ()))
    rows = [(*list_row(variant), *(wide_row(variant) if wide else ())) for variant in found]
    show_table(columns, rows, empty=_NONE_YET, folded=not wide)
    for sentence in refusals(choices):
        say(sentence)


@app.command()
def show(
    model: ModelVersionArgument,
    variant: Annotated[
        str | None,
        typer.Argument(metavar="[VARIANT]", help="Its id, how that begins, or a recipe; else the chosen ones."),
    ] = None,
    profile: Annotated[str | None, typer.Option("--profile", help="As judged for this profile.")] = None,
    registry: RegistryOption = None,
    *,
    layers: Annotated[bool, typer.Option("--layers", help="Also what each step did to each layer.")] = False,
    as_json: JsonOption = False,
) -> None:
    """All figures of one variant with their origins, what made it, why a profile gets it or not, and what came next."""
    name, version = split_version(model)
    with connected(registry) as client:
        metric = client.get_version(name, version).metric
        of_version = client.list_variants(name, version, profile=profile, steps=True)
        why = {choice.profile: choice.reason for choice in client.list_choices(name, version)}
    found = [one for one in of_version if _is_meant(one, variant)]
    if not found:
        meant = f"variant {variant[:80]}" if variant else "chosen variant"
        where = f" for {profile}" if profile else ""
        fail(f"There is no {meant} of {model}{where}: `edge-registry variant list {model} --wide` shows all.")
    if as_json:
        show_documents(found)
        return
    for number, one in enumerate(found):
        if number:
            say("")
        show_variant(one, metric=metric, choice=why.get(one.profile, ""), layers=layers)


@app.command()
def choices(model: ModelVersionArgument, registry: RegistryOption = None, *, as_json: JsonOption = False) -> None:
    """What each profile gets of a version and why, or the limit that forbids it."""
    name, version = split_version(model)
    with connected(registry) as client:
        found = client.list_choices(name, version)
    if as_json:
        show_json([choice.model_dump(mode="json") for choice in found])
        return
    rows = [(choice.profile, choice.variant_id or "no_variant", _why(choice)) for choice in found]
    show_table(("profile", "variant", "why"), rows, empty=_NONE_YET)


app.command()(report)


def _refused(variants: "list[Variant]", asked: list[str], profiles: list[str] | None) -> list[str]:
    """Why recipes that were asked for made no file that runs anywhere, a sentence each."""
    sentences = []
    for recipe in asked:
        found = [one for one in variants if one.recipe == recipe and (not profiles or one.profile in profiles)]
        newest = max((one.created_at for one in found), default=0.0)
        latest = [one for one in found if one.created_at == newest]
        if latest and all(one.verdict == "unmeasured" for one in latest):
            sentences.append(f"{recipe} can't be had: {latest[0].reason.rstrip('.')}.")
    return sentences


def _is_meant(variant: "Variant", text: str | None) -> bool:
    if text is None:
        return variant.chosen
    return variant.recipe == text or variant.variant_id.startswith(text)


def _why(choice: "Choice") -> str:
    return choice.refusal.sentence if choice.refusal else choice.reason

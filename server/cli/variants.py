"""`edge-registry variant`."""

from typing import TYPE_CHECKING, Annotated

import typer

from server.cli.options import JsonOption, ModelVersionArgument, RegistryOption, split_version
from server.cli.output import (
    fail,
    say,
    show_documents,
    show_json,
    show_pairs,
    show_table,
    text_of_bytes,
    text_of_number,
)
from server.cli.session import connected
from server.cli.waiting import follow, show_choices

if TYPE_CHECKING:
    from server.schemas.catalogue import Choice, Variant
    from server.schemas.common import Figure

app = typer.Typer(help="What was built of a model for each profile, and measured.", no_args_is_help=True)
_NONE_YET = "none yet: `edge-registry job list` shows builds under way, `edge-registry variant build` starts one"
ProfileOption = Annotated[list[str] | None, typer.Option("--profile", help="Only this profile; may be repeated.")]


@app.command()
def build(
    model: ModelVersionArgument,
    profile: ProfileOption = None,
    recipe: Annotated[list[str] | None, typer.Option("--recipe", help="Only this recipe; may be repeated.")] = None,
    registry: RegistryOption = None,
    *,
    again: Annotated[bool, typer.Option("--again", help="Even if the same was built already.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is built.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Build the variants of a version, for every profile or for those named."""
    name, version = split_version(model)
    with connected(registry) as client:
        jobs = client.build_variants(name, version, profiles=profile or (), recipes=recipe or (), again=again)
        if wait:
            jobs = [follow(client, job.job_id, f"build {model}") for job in jobs]
        if as_json:
            show_documents(jobs)
        elif wait:
            show_choices(client, name, version)
        else:
            for job in jobs:
                say(f"{model} is built once job {job.job_id} is done: `edge-registry job show {job.job_id} --wait`")


@app.command("list")
def list_(
    model: ModelVersionArgument,
    profile: Annotated[str | None, typer.Option("--profile", help="Only this profile.")] = None,
    registry: RegistryOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Every variant of a version with its figures; `d`, `h`, `p`: measured on a device, on the host, predicted."""
    name, version = split_version(model)
    with connected(registry) as client:
        found = client.list_variants(name, version, profile=profile)
        choices = [choice for choice in client.list_choices(name, version) if profile in {None, choice.profile}]
    if as_json:
        show_documents(found)
        return
    columns = ("", "profile", "variant", "recipe", "runtime", "verdict", "wire", "p95 ms", "ram", "metric", "drop")
    show_table(columns, [_row(variant) for variant in found], empty=_NONE_YET)
    for sentence in _refusals(choices):
        say(sentence)


@app.command()
def show(
    model: ModelVersionArgument,
    variant_id: Annotated[str, typer.Argument(metavar="VARIANT")],
    profile: Annotated[str | None, typer.Option("--profile", help="As judged for this profile.")] = None,
    registry: RegistryOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Everything that is known of one variant, for each profile that it was judged for."""
    name, version = split_version(model)
    with connected(registry) as client:
        of_version = client.list_variants(name, version, profile=profile)
    found = [variant for variant in of_version if variant.variant_id == variant_id]
    if not found:
        fail(f"There is no variant {variant_id[:80]} of {model}: `edge-registry variant list {model}` shows all.")
    if as_json:
        show_documents(found)
        return
    for variant in found:
        show_pairs(_pairs(variant))
        say("")


@app.command()
def choices(model: ModelVersionArgument, registry: RegistryOption = None, *, as_json: JsonOption = False) -> None:
    """What each profile gets of a version, or the limit that forbids it."""
    name, version = split_version(model)
    with connected(registry) as client:
        found = client.list_choices(name, version)
    if as_json:
        show_json([choice.model_dump(mode="json") for choice in found])
        return
    rows = [(choice.profile, choice.variant_id or "no_variant", _refusal(choice)) for choice in found]
    show_table(("profile", "variant", "why not"), rows, empty=_NONE_YET)


def _row(variant: "Variant") -> tuple[str, ...]:
    return (
        "*" if variant.chosen else "",
        variant.profile,
        variant.variant_id,
        variant.recipe,
        f"{variant.runtime}/{variant.delegate}",
        variant.verdict,
        text_of_bytes(variant.wire_bytes),
        _figure(variant.latency_p95_ms),
        _figure_bytes(variant.peak_rss_bytes),
        _figure(variant.metric),
        _figure(variant.metric_drop),
    )


def _pairs(variant: "Variant") -> list[tuple[str, str]]:
    pairs = []
    for name, value in variant.model_dump(mode="json", exclude_none=True).items():
        if isinstance(value, dict):
            interval = f" [{value['low']:.4g}, {value['high']:.4g}]" if "low" in value and "high" in value else ""
            pairs.append((name, f"{value['value']:.6g}{interval} ({value['origin']})"))
        elif value != "":
            pairs.append((name, str(value)))
    return pairs


def _refusals(choices_: "list[Choice]") -> list[str]:
    return [f"{choice.profile}: {choice.refusal.sentence}" for choice in choices_ if choice.refusal]


def _refusal(choice: "Choice") -> str:
    return choice.refusal.sentence if choice.refusal else ""


def _figure(figure: "Figure | None") -> str:
    return "-" if figure is None else f"{text_of_number(figure.value)} {figure.origin[0]}"


def _figure_bytes(figure: "Figure | None") -> str:
    return "-" if figure is None else f"{text_of_bytes(figure.value)} {figure.origin[0]}"

"""`edge-registry variant report`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.cli.options import JsonOption, ModelVersionArgument, RegistryOption, split_version
from server.cli.output import fail, say, show_json
from server.cli.session import connected
from server.cli.waiting import follow

if TYPE_CHECKING:
    from server.client import RegistryClient
    from server.schemas.report import Report, ReportForm

MOST_NAMED = 6


def report(  # noqa: PLR0913  a flag for each thing that may be said of a report
    model: ModelVersionArgument,
    profile: Annotated[str, typer.Option("--profile", help="The kind of device whose variant is meant.")],
    variant: Annotated[
        str | None, typer.Option("--variant", help="Its id, how that begins, or a recipe; else the chosen one.")
    ] = None,
    shifted: Annotated[
        Path | None,
        typer.Option("--shifted", help="Rows from elsewhere, a .npz as the evaluation data: how it does there."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the pages; else one named after the variant.")
    ] = None,
    registry: RegistryOption = None,
    *,
    again: Annotated[bool, typer.Option("--again", help="Even if there is one; measured again, too.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is there.")] = True,
    as_json: JsonOption = False,
) -> None:
    """A page on what a variant gains and loses against the float model, on the test rows, with pictures and JSON."""
    from server.client.pages import require_writable  # noqa: PLC0415  `--help` must not wait for it

    name, version = split_version(model)
    with connected(registry) as client:
        require_writable(output or Path.cwd())
        variant_id = _variant_id(client, model, profile, variant) if variant else None
        form = _form(profile=profile, variant_id=variant_id, again=again)
        job = client.start_report(name, version, form, shifted=shifted)
        if not wait:
            _tell(job.job_id, as_json=as_json, document=job.model_dump(mode="json"))
            return
        follow(client, job.job_id, f"report on {model} for {profile}")
        found = client.get_report(job.job_id)
        folder = output or Path(f"report-{name}-{version}-{profile}-{found.variant_id}")
        page = client.save_report(job.job_id, folder)
    if as_json:
        show_json({**found.model_dump(mode="json"), "folder": str(folder)})
        return
    _show(found, page)


def _show(found: "Report", page: Path) -> None:
    say(f"{found.variant_id} is {found.label}: {found.sentence}.")
    if found.loses_points:
        say("It loses more than one point of the metric: look at the parts of the data before you roll it out.")
    say(str(page))


def _tell(job_id: str, *, as_json: bool, document: dict[str, object]) -> None:
    if as_json:
        show_json(document)
        return
    say(f"The report is made by job {job_id}: the same command fetches it once that is done.")


def _variant_id(client: "RegistryClient", model: str, profile: str, text: str) -> str:
    """The one variant of the profile that a text means."""
    known = client.list_variants(*split_version(model), profile=profile)
    if not known or any(one.variant_id == text for one in known):
        return text  # the registry has a sentence for a profile without variants
    meant = [one.variant_id for one in known if one.variant_id.startswith(text) or one.recipe == text]
    if not meant:
        fail(
            f"There is no variant {text[:80]} of {model} for {profile}: `edge-registry variant list {model} --wide` "
            "shows all."
        )
    if len(meant) > 1:
        more = ", ..." if len(meant) > MOST_NAMED else ""
        fail(f"{text[:80]} is more than one variant of {model} for {profile}: {', '.join(meant[:MOST_NAMED])}{more}.")
    return meant[0]


def _form(*, profile: str, variant_id: str | None, again: bool) -> "ReportForm":
    from pydantic import ValidationError  # noqa: PLC0415  `--help` must not wait for these

    from server.schemas.report import ReportForm  # noqa: PLC0415
    from server.schemas.sentence import sentence  # noqa: PLC0415

    try:
        return ReportForm(profile=profile, variant_id=variant_id, again=again)
    except ValidationError as exc:
        fail(sentence(exc.errors(include_url=False)), exit_code=2)

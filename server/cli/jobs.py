"""`edge-registry job`."""

from typing import TYPE_CHECKING, Annotated

import typer

from server.cli.options import JsonOption, RegistryOption
from server.cli.output import show_documents, show_json, show_pairs, show_table, text_of_time
from server.cli.session import connected
from server.cli.waiting import follow

if TYPE_CHECKING:
    from server.schemas.catalogue import Job

app = typer.Typer(help="Inspections and builds.", no_args_is_help=True)


@app.command("list")
def list_(
    model: Annotated[str | None, typer.Option("--model", help="Only of this model.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=500, help="How many at most.")] = 20,
    registry: RegistryOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """The latest jobs, newest first."""
    with connected(registry) as client:
        found = client.list_jobs(model=model, limit=limit)
    if as_json:
        show_documents(found)
        return
    rows = [
        (
            job.job_id,
            job.kind,
            f"{job.model}@{job.version}",
            job.state,
            _progress(job),
            text_of_time(job.created_at),
            job.error.message if job.error else "",
        )
        for job in found
    ]
    show_table(("job", "kind", "model", "state", "progress", "created", "error"), rows, empty="no jobs")


@app.command()
def show(
    job_id: Annotated[str, typer.Argument(metavar="JOB")],
    registry: RegistryOption = None,
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it is done; exit code 1 if it fails.")] = False,
    as_json: JsonOption = False,
) -> None:
    """One job."""
    with connected(registry) as client:
        job = follow(client, job_id, f"job {job_id}") if wait else client.get_job(job_id)
    if as_json:
        show_json(job.model_dump(mode="json"))
        return
    show_pairs(
        [
            ("job", job.job_id),
            ("kind", job.kind),
            ("model", f"{job.model}@{job.version}"),
            ("state", job.state),
            ("progress", _progress(job)),
            ("created", text_of_time(job.created_at)),
            ("finished", text_of_time(job.finished_at)),
            *([("error", f"{job.error.message} ({job.error.code})")] if job.error else []),
        ]
    )


def _progress(job: "Job") -> str:
    """The step that it is at, or failed at; what is done is at none."""
    if job.state == "done":
        return "-"
    counted = f" {job.progress.done}/{job.progress.of}" if job.progress.of else ""
    return f"{job.progress.stage}{counted}".strip() or "-"

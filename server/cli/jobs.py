"""`edge-registry job`."""

import getpass
import os
import socket
from typing import TYPE_CHECKING, Annotated

import typer

from server.cli.options import JsonOption, RegistryOption
from server.cli.output import say, show_documents, show_json, show_pairs, show_table, text_of_time
from server.cli.session import connected
from server.cli.waiting import follow

if TYPE_CHECKING:
    from server.schemas.catalogue import Job

STOP_PATIENCE_S = 15.0  # a worker looks each second; one that stores a large file just then looks after it

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
            _state(job),
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
            ("state", _state(job)),
            ("progress", _progress(job)),
            ("created", text_of_time(job.created_at)),
            ("finished", text_of_time(job.finished_at)),
            *([("error", f"{job.error.message} ({job.error.code})")] if job.error else []),
        ]
    )


@app.command()
def cancel(
    job_id: Annotated[str, typer.Argument(metavar="JOB")],
    registry: RegistryOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Have a job not done: one that waits is over at once, one that runs is stopped within seconds.

    It registers nothing. What a search has tried is kept: the same command goes on from there. A rollout that waits for
    a build that is cancelled stops and says so.
    """
    from server.client import RegistryClientError  # noqa: PLC0415  httpx: `--help` must not wait for it

    with connected(registry) as client:
        job = client.cancel_job(job_id, cancelled_by=_who())
        if job.stopping:
            try:
                job = client.wait_for_job(job_id, timeout_s=STOP_PATIENCE_S)
            except RegistryClientError as exc:
                if exc.code not in {"cancelled", "timeout"}:
                    raise
                job = client.get_job(job_id)
    if as_json:
        show_json(job.model_dump(mode="json"))
    elif job.state == "done":
        say(f"Job {job_id} was done before it could be stopped.")
    elif job.stopping:
        say(f"Job {job_id} is cancelled; the worker that does it has not let go of it yet.")
    else:
        say(f"Job {job_id}: {job.error.message if job.error else job.state}")
    if job.state == "done":
        raise typer.Exit(1)


def _who() -> str:
    """Who gives this command, for those who wait for the job."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # an id without a name, as in many containers
        user = f"user {os.getuid()}"
    return f"{user}@{socket.gethostname()}"[:128]


def _state(job: "Job") -> str:
    return "being cancelled" if job.stopping else str(job.state)


def _progress(job: "Job") -> str:
    """The step that it is at, or failed at; what is done is at none."""
    if job.state == "done":
        return "-"
    counted = f" {job.progress.done}/{job.progress.of}" if job.progress.of else ""
    return f"{job.progress.stage}{counted}".strip() or "-"

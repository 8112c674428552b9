"""Who works on which job: a claim is a lease in `job_runs` that its worker renews.

A worker that dies lets its lease run out, and the job is taken again, three times at the most: a model that kills its
worker must not go round for ever. Every change names worker and attempt, so one that lost its lease changes nothing.
"""

from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from server.database.connect import Database
from server.database.job_states import is_cancelled, is_over
from server.database.tables import job_runs, jobs
from server.jobs.errors import JobCancelledError, LeaseLostError, WorkerLostError
from server.schemas.catalogue import JobState
from server.schemas.work import JobKind

MAX_ATTEMPTS: Final = 3
NO_PROGRESS: Final = {"stage": "starting", "done": 0, "of": 0}
_ORDER: Final = (JobKind.INSPECT, JobKind.REPORT, JobKind.DELTA, JobKind.BUILD, JobKind.SEARCH)
_TURNS: Final = {kind.value: turn for turn, kind in enumerate(_ORDER)}


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that is ours for as long as the lease lasts."""

    job_id: str
    kind: JobKind
    model: str
    version: str
    request: dict[str, Any]
    worker: str
    attempt: int


def claim(database: Database, *, worker: str, now: float, lease_s: float) -> Claim | None:
    """Take the next job: inspections, reports and deltas first, for somebody waits for them; then builds; searches.

    A build or a search waits for the inspection of its model version, and a delta for its builds. A job whose third
    worker died is marked failed on the way, and one that was cancelled while its worker died is marked cancelled.

    Raises:
        DatabaseUnavailableError: nothing was taken.
    """
    with database.read() as connection:  # most looks find nothing, and should not take the write lock
        if connection.execute(_open_jobs(now).limit(1)).first() is None:
            return None
    with database.write() as connection:
        for row in connection.execute(_open_jobs(now)).mappings().all():
            if row["cancelled"]:
                _end_lost(connection, row["job_id"], {"state": JobState.CANCELLED.value, "finished_at": now})
                continue
            attempt = int(row["attempt"] or 0) + 1
            if attempt > MAX_ATTEMPTS:
                _fail_lost(connection, row["job_id"], now)
                continue
            values = {
                "state": "running",
                "worker": worker,
                "attempt": attempt,
                "lease_until": now + lease_s,
                "started_at": now,
                "finished_at": None,
                "progress": NO_PROGRESS,
                "error": sa.null(),
                "result": sa.null(),
            }
            if row["attempt"] is None:
                connection.execute(sa.insert(job_runs).values(job_id=row["job_id"], **values))
            else:
                connection.execute(sa.update(job_runs).where(job_runs.c.job_id == row["job_id"]).values(**values))
            return Claim(
                job_id=row["job_id"],
                kind=JobKind(row["kind"]),
                model=row["model"],
                version=row["version"],
                request=row["request"],
                worker=worker,
                attempt=attempt,
            )
    return None


def renew(database: Database, claim: Claim, *, until: float, progress: dict[str, Any] | None) -> None:
    """Prolong the lease, and say how far the job is.

    Raises:
        LeaseLostError: another worker has the job, or it is finished.
    """
    values: dict[str, Any] = {"lease_until": until}
    if progress is not None:
        values["progress"] = progress
    with database.write() as connection:
        _update_own(connection, claim, values)


def give_back(database: Database, claim: Claim) -> None:
    """Put the job back into the queue; being asked to stop does not count as an attempt.

    Raises:
        LeaseLostError: it is not ours any more.
    """
    with database.write() as connection:
        values = {"state": "queued", "lease_until": 0.0, "attempt": claim.attempt - 1, "progress": NO_PROGRESS}
        _update_own(connection, claim, values)


def fail(database: Database, claim: Claim, *, code: str, message: str, now: float) -> None:
    """The job is over and registered nothing.

    Raises:
        LeaseLostError: it is not ours any more.
    """
    with database.write() as connection:
        values = {"state": "failed", "finished_at": now, "error": {"code": code, "message": message}}
        _update_own(connection, claim, values)


def is_unwanted(database: Database, claim: Claim) -> bool:
    """Whether somebody has cancelled the job.

    Raises:
        DatabaseUnavailableError: it is not known.
    """
    with database.read() as connection:
        return bool(connection.execute(sa.select(is_cancelled(sa.literal(claim.job_id)))).scalar())


def end_cancelled(database: Database, claim: Claim, *, now: float) -> None:
    """The job is stopped because somebody cancelled it; how far it was stays in it.

    Raises:
        LeaseLostError: it is not ours any more.
    """
    with database.write() as connection:
        _update_own(connection, claim, {"state": JobState.CANCELLED.value, "finished_at": now})


def finish(connection: sa.Connection, claim: Claim, *, result: dict[str, Any], now: float) -> None:
    """Mark the job done, in the transaction that registers what it made.

    Raises:
        LeaseLostError: it is not ours any more; the transaction must not be committed.
        JobCancelledError: it was cancelled just now; the same.
    """
    if connection.execute(sa.select(is_cancelled(sa.literal(claim.job_id)))).scalar():
        raise JobCancelledError(f"Job {claim.job_id} was cancelled.")
    _update_own(connection, claim, {"state": "done", "finished_at": now, "error": sa.null(), "result": result})


def _open_jobs(now: float) -> sa.Select[tuple[Any, ...]]:
    """Jobs that nobody works on, in order; with those that were cancelled and whose worker died before it saw that."""
    inspection = jobs.alias("inspection")
    waits_for_inspection = (
        sa.exists()
        .where(
            inspection.c.kind == JobKind.INSPECT,
            inspection.c.model == jobs.c.model,
            inspection.c.version == jobs.c.version,
        )
        .where(~is_over(inspection.c.job_id))
    )
    build = jobs.alias("build")
    waits_for_builds = (
        sa.exists()
        .where(
            build.c.kind.in_([JobKind.BUILD, JobKind.SEARCH]),
            build.c.model == jobs.c.model,
            build.c.version == jobs.c.version,
        )
        .where(~is_over(build.c.job_id))
    )
    # asked for again while it is being stopped: two of a kind would write the same journal
    stopping, stopping_run = jobs.alias("stopping"), job_runs.alias("stopping_run")
    waits_for_a_stop = (
        sa.exists()
        .where(stopping.c.kind == jobs.c.kind, stopping.c.model == jobs.c.model, stopping.c.version == jobs.c.version)
        .where(stopping.c.job_id != jobs.c.job_id, is_cancelled(stopping.c.job_id))
        .where(sa.exists().where(stopping_run.c.job_id == stopping.c.job_id, stopping_run.c.state == "running"))
    )
    return (
        sa.select(jobs, job_runs.c.attempt, is_cancelled(jobs.c.job_id).label("cancelled"))
        .select_from(jobs.outerjoin(job_runs, job_runs.c.job_id == jobs.c.job_id))
        .where(
            sa.or_(
                job_runs.c.job_id.is_(None),
                sa.and_(job_runs.c.state.in_(["running", "queued"]), job_runs.c.lease_until < now),
            ),
            ~is_over(jobs.c.job_id),
            sa.or_(is_cancelled(jobs.c.job_id), ~waits_for_a_stop),
            sa.or_(jobs.c.kind == JobKind.INSPECT, ~waits_for_inspection),
            sa.or_(jobs.c.kind != JobKind.DELTA, ~waits_for_builds),
        )
        .order_by(sa.case(_TURNS, value=jobs.c.kind, else_=len(_TURNS)), jobs.c.created_at, jobs.c.job_id)
    )


def _fail_lost(connection: sa.Connection, job_id: str, now: float) -> None:
    message = (
        f"The worker died {MAX_ATTEMPTS} times during this job; lower job_memory_bytes so that the job's own limit "
        "stops it first, or push a smaller model."
    )
    error = {"code": WorkerLostError.code, "message": message}
    _end_lost(connection, job_id, {"state": JobState.FAILED.value, "finished_at": now, "error": error})


def _end_lost(connection: sa.Connection, job_id: str, values: dict[str, Any]) -> None:
    connection.execute(sa.update(job_runs).where(job_runs.c.job_id == job_id).values(**values))


def _update_own(connection: sa.Connection, claim: Claim, values: dict[str, Any]) -> None:
    updated = connection.execute(
        sa.update(job_runs)
        .where(
            job_runs.c.job_id == claim.job_id,
            job_runs.c.worker == claim.worker,
            job_runs.c.attempt == claim.attempt,
            job_runs.c.state == "running",
        )
        .values(**values)
    )
    if updated.rowcount != 1:
        raise LeaseLostError(f"Job {claim.job_id} belongs to another worker now.")

"""Jobs: asked for here, done by the workers. The same work is asked for once, and again only after it failed."""

from __future__ import annotations

import hashlib
import itertools
import json
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from server.audit.trail import changed
from server.catalogue.cancelling import how_cancelled
from server.database.job_states import JOBS, STATE
from server.database.tables import job_cancellations, job_runs, jobs
from server.errors import ConflictError, NotFoundError
from server.schemas.catalogue import Job, JobProgress, JobState
from server.schemas.common import ErrorBody

if TYPE_CHECKING:
    from collections.abc import Mapping

    from server.database.connect import Database
    from server.schemas.work import JobKind

MAX_LISTED: Final = 500

_COLUMNS: Final = (
    *jobs.c,
    STATE.label("state"),
    job_runs.c.progress,
    job_runs.c.error,
    job_runs.c.finished_at,
    job_cancellations.c.cancelled_by,
    job_cancellations.c.created_at.label("cancelled_at"),
)


@dataclass(frozen=True, slots=True)
class WantedJob:
    """Work to ask for. `identity`: what makes two of them the same work."""

    kind: JobKind
    model: str
    version: str
    identity: object
    request: Mapping[str, Any]
    job_id: str = ""
    """Of the first job that does it, where who asks has to know beforehand; empty: any."""


@dataclass(frozen=True, slots=True)
class EnqueuedJob:
    """What stands in the table for a wanted job: new, or found."""

    job: Job
    request: Mapping[str, Any]


def enqueue(connection: sa.Connection, wanted: WantedJob, *, now: float, again: bool = False) -> EnqueuedJob:
    """Find the job that does this work, or add one.

    A failed or cancelled job is not the answer to a new wish: the next attempt gets a key of its own. `again` passes
    over those that are done as well.
    """
    for attempt in itertools.count():
        key = _dedupe_key(wanted, attempt)
        row = connection.execute(_by_key(key)).first()
        if row is None:
            row = _insert(connection, wanted, key, now)
        if _came_to_nothing(row) or (again and _state(row) is JobState.DONE):
            continue
        return EnqueuedJob(_view(row), row.request)
    raise AssertionError("itertools.count ends")


def enqueue_once(connection: sa.Connection, wanted: WantedJob, *, now: float) -> None:
    """Add the job that does this work, unless it was asked for before: also one that has failed is not done again."""
    key = _dedupe_key(wanted, 0)
    if connection.execute(_by_key(key)).first() is None:
        _insert(connection, wanted, key, now)


def find_job(connection: sa.Connection, wanted: WantedJob) -> Job | None:
    """The job of `enqueue_once`."""
    row = connection.execute(_by_key(_dedupe_key(wanted, 0))).first()
    return None if row is None else _view(row)


def get_job(database: Database, job_id: str) -> Job:
    """A job.

    Raises:
        NotFoundError: there is none with this id.
    """
    with database.read() as connection:
        return _view(_require(connection, job_id))


def cancel_job(database: Database, job_id: str, cancelled_by: str, *, now: float) -> Job:
    """Say that a job shall not be done: one that waits is over at once, one that is done now within seconds.

    Cancelling what is cancelled already changes nothing, nor who did it first.

    Args:
        database: the catalogue.
        job_id: of the job.
        cancelled_by: who says so, for those who wait for it; may be empty.
        now: seconds since the epoch.

    Raises:
        NotFoundError: there is none with this id.
        ConflictError: it is done, or has failed.
    """
    with database.write() as connection:
        row = _require(connection, job_id)
        if _state(row) in {JobState.DONE, JobState.FAILED}:
            ended = "is done" if row.state == JobState.DONE else "has failed"
            raise ConflictError(f"Job {job_id} {ended}: there is nothing left of it to cancel.")
        if row.cancelled_at is None:
            values = {"job_id": job_id, "cancelled_by": cancelled_by, "created_at": now}
            connection.execute(sa.insert(job_cancellations).values(values))
        return _view(_require(connection, job_id))


def list_jobs(
    database: Database, *, model: str | None = None, version: str | None = None, limit: int = MAX_LISTED
) -> list[Job]:
    """The latest jobs, newest first."""
    query = sa.select(*_COLUMNS).select_from(JOBS)
    if model is not None:
        query = query.where(jobs.c.model == model)
    if version is not None:
        query = query.where(jobs.c.version == version)
    query = query.order_by(jobs.c.created_at.desc(), jobs.c.job_id).limit(limit)
    with database.read() as connection:
        return [_view(row) for row in connection.execute(query)]


def latest_job(connection: sa.Connection, kind: JobKind, model: str, version: str) -> Job | None:
    """The newest job of a kind for a model version."""
    row = _latest(connection, kind, model, version)
    return None if row is None else _view(row)


def standing_job(connection: sa.Connection, kind: JobKind, model: str, version: str) -> EnqueuedJob | None:
    """The newest job of a kind for a model version, unless it failed or was cancelled."""
    row = _latest(connection, kind, model, version)
    return None if row is None or _came_to_nothing(row) else EnqueuedJob(_view(row), row.request)


def _require(connection: sa.Connection, job_id: str) -> sa.Row[Any]:
    row = connection.execute(sa.select(*_COLUMNS).select_from(JOBS).where(jobs.c.job_id == job_id)).first()
    if row is None:
        raise NotFoundError(f"There is no job {job_id[:64]}: `edge-registry job list` shows the latest.")
    return row


def _latest(connection: sa.Connection, kind: JobKind, model: str, version: str) -> sa.Row[Any] | None:
    query = (
        sa.select(*_COLUMNS)
        .select_from(JOBS)
        .where(jobs.c.kind == kind, jobs.c.model == model, jobs.c.version == version)
        .order_by(jobs.c.created_at.desc())
        .limit(1)
    )
    return connection.execute(query).first()


def _dedupe_key(wanted: WantedJob, attempt: int) -> str:
    text = json.dumps([wanted.kind, wanted.model, wanted.version, wanted.identity, attempt], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _by_key(key: str) -> sa.Select[tuple[Any, ...]]:
    return sa.select(*_COLUMNS).select_from(JOBS).where(jobs.c.dedupe_key == key)


def _insert(connection: sa.Connection, wanted: WantedJob, key: str, now: float) -> sa.Row[Any]:
    values = {
        "job_id": wanted.job_id or secrets.token_hex(16),
        "kind": wanted.kind,
        "dedupe_key": key,
        "model": wanted.model,
        "version": wanted.version,
        "request": wanted.request,
        "created_at": now,
    }
    connection.execute(sa.insert(jobs).values(values))
    told = {"model": wanted.model, "version": wanted.version, "request": wanted.request}
    changed(connection, f"job.{wanted.kind}", f"job/{values['job_id']}", after=told)
    return connection.execute(_by_key(key)).one()


def _state(row: sa.Row[Any]) -> JobState:
    return JobState(row.state)


def _came_to_nothing(row: sa.Row[Any]) -> bool:
    """Whether a new wish needs a job of its own: this one failed, was cancelled, or is being stopped."""
    state = _state(row)
    return state in {JobState.FAILED, JobState.CANCELLED} or (
        state is JobState.RUNNING and row.cancelled_at is not None
    )


def how_row_was_cancelled(row: sa.Row[*tuple[Any, ...]]) -> str:
    """The end of a sentence about a cancelled job, from a row with kind, `cancelled_by`, `finished_at` of its run."""
    return how_cancelled(row.kind, row.cancelled_by or "", had_begun=row.finished_at is not None)


def _view(row: sa.Row[Any]) -> Job:
    state = _state(row)
    error = ErrorBody.model_validate(row.error) if row.error else None
    if state is JobState.CANCELLED:
        error = ErrorBody(code="cancelled", message=f"This job was {how_row_was_cancelled(row)}")
    return Job(
        job_id=row.job_id,
        kind=row.kind,
        model=row.model,
        version=row.version,
        state=state,
        progress=JobProgress.model_validate(row.progress or {}),
        error=error,
        stopping=state is JobState.RUNNING and row.cancelled_at is not None,
        created_at=row.created_at,
        finished_at=row.finished_at or (row.cancelled_at if state is JobState.CANCELLED else None),
    )

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
from server.database.tables import job_runs, jobs
from server.errors import NotFoundError
from server.schemas.catalogue import Job, JobProgress, JobState
from server.schemas.common import ErrorBody

if TYPE_CHECKING:
    from collections.abc import Mapping

    from server.database.connect import Database
    from server.schemas.work import JobKind

MAX_LISTED: Final = 500

_COLUMNS: Final = (
    *jobs.c,
    job_runs.c.state,
    job_runs.c.progress,
    job_runs.c.error,
    job_runs.c.finished_at,
)
_WITH_RUNS: Final = jobs.outerjoin(job_runs, jobs.c.job_id == job_runs.c.job_id)


@dataclass(frozen=True, slots=True)
class WantedJob:
    """Work to ask for. `identity`: what makes two of them the same work."""

    kind: JobKind
    model: str
    version: str
    identity: object
    request: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class EnqueuedJob:
    """What stands in the table for a wanted job: new, or found."""

    job: Job
    request: Mapping[str, Any]


def enqueue(connection: sa.Connection, wanted: WantedJob, *, now: float, again: bool = False) -> EnqueuedJob:
    """Find the job that does this work, or add one.

    A failed job is not the answer to a new wish: the next attempt gets a key of its own. `again` passes over those that
    are done as well.
    """
    for attempt in itertools.count():
        key = _dedupe_key(wanted, attempt)
        row = connection.execute(_by_key(key)).first()
        if row is None:
            row = _insert(connection, wanted, key, now)
        state = _state(row)
        if state is JobState.FAILED or (again and state is JobState.DONE):
            continue
        return EnqueuedJob(_view(row), row.request)
    raise AssertionError("itertools.count ends")


def get_job(database: Database, job_id: str) -> Job:
    """A job.

    Raises:
        NotFoundError: there is none with this id.
    """
    with database.read() as connection:
        row = connection.execute(sa.select(*_COLUMNS).select_from(_WITH_RUNS).where(jobs.c.job_id == job_id)).first()
    if row is None:
        raise NotFoundError(f"There is no job {job_id[:64]}: `edge-registry job list` shows the latest.")
    return _view(row)


def list_jobs(
    database: Database, *, model: str | None = None, version: str | None = None, limit: int = MAX_LISTED
) -> list[Job]:
    """The latest jobs, newest first."""
    query = sa.select(*_COLUMNS).select_from(_WITH_RUNS)
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
    """The newest job of a kind for a model version, unless it failed."""
    row = _latest(connection, kind, model, version)
    return None if row is None or _state(row) is JobState.FAILED else EnqueuedJob(_view(row), row.request)


def _latest(connection: sa.Connection, kind: JobKind, model: str, version: str) -> sa.Row[Any] | None:
    query = (
        sa.select(*_COLUMNS)
        .select_from(_WITH_RUNS)
        .where(jobs.c.kind == kind, jobs.c.model == model, jobs.c.version == version)
        .order_by(jobs.c.created_at.desc())
        .limit(1)
    )
    return connection.execute(query).first()


def _dedupe_key(wanted: WantedJob, attempt: int) -> str:
    text = json.dumps([wanted.kind, wanted.model, wanted.version, wanted.identity, attempt], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _by_key(key: str) -> sa.Select[tuple[Any, ...]]:
    return sa.select(*_COLUMNS).select_from(_WITH_RUNS).where(jobs.c.dedupe_key == key)


def _insert(connection: sa.Connection, wanted: WantedJob, key: str, now: float) -> sa.Row[Any]:
    values = {
        "job_id": secrets.token_hex(16),
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
    return JobState(row.state) if row.state else JobState.QUEUED


def _view(row: sa.Row[Any]) -> Job:
    return Job(
        job_id=row.job_id,
        kind=row.kind,
        model=row.model,
        version=row.version,
        state=_state(row),
        progress=JobProgress.model_validate(row.progress or {}),
        error=ErrorBody.model_validate(row.error) if row.error else None,
        created_at=row.created_at,
        finished_at=row.finished_at,
    )

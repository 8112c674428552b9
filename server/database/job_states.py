"""Where a job stands, told from three tables: what shall be done, what became of it, and whether it was cancelled.

The API writes that a job is cancelled, and only a worker writes into `job_runs`: so a job that nobody works on is over
with its cancellation alone, and one that is being done goes on until the worker that holds it has stopped it.
"""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa

from server.database.tables import job_cancellations, job_runs, jobs
from server.schemas.catalogue import JobState

_ENDED: Final = tuple(state.value for state in (JobState.DONE, JobState.FAILED, JobState.CANCELLED))
_WAITS: Final = sa.or_(job_runs.c.state.is_(None), job_runs.c.state == JobState.QUEUED.value)

JOBS: Final = jobs.outerjoin(job_runs, job_runs.c.job_id == jobs.c.job_id).outerjoin(
    job_cancellations, job_cancellations.c.job_id == jobs.c.job_id
)
"""Every job once, with its run and its cancellation where there are such."""

STATE: Final[sa.ColumnElement[Any]] = sa.case(
    (sa.and_(job_cancellations.c.job_id.is_not(None), _WAITS), JobState.CANCELLED.value),
    else_=sa.func.coalesce(job_runs.c.state, JobState.QUEUED.value),
)
"""The `JobState` of a row of `JOBS`."""


def is_over(job_id: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
    """Whether the job of an enclosing query is done, failed, or cancelled; not while a worker still has to stop it."""
    run, cancellation = job_runs.alias(), job_cancellations.alias()
    of_job = sa.exists().where(run.c.job_id == job_id)
    return sa.or_(
        of_job.where(run.c.state.in_(_ENDED)),
        sa.and_(
            sa.exists().where(cancellation.c.job_id == job_id),
            ~of_job.where(run.c.state == JobState.RUNNING.value),
        ),
    )


def is_cancelled(job_id: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
    """Whether somebody cancelled the job of an enclosing query, whatever became of it."""
    cancellation = job_cancellations.alias()
    return sa.exists().where(cancellation.c.job_id == job_id)

"""Searches for the recipe that suits a profile best: asked for here, done by the workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from server.catalogue.jobs import WantedJob, enqueue, get_job
from server.catalogue.profiles import require_profiles
from server.catalogue.versions import require_usable
from server.database.tables import job_runs, jobs
from server.errors import ConflictError, InvalidError, NotFoundError
from server.schemas.catalogue import Job, JobState
from server.schemas.search import Search
from server.schemas.work import SEARCH_SHARE, JobKind, SearchWork

if TYPE_CHECKING:
    from server.database.connect import Database
    from server.schemas.search import SearchForm


def request_search(
    database: Database, model: str, version: str, form: SearchForm, *, job_timeout_s: float, now: float
) -> Job:
    """Ask for a search for a profile.

    Raises:
        NotFoundError: no such version or profile.
        InvalidError: no profile is registered, or the budget is larger than the time of a job.
    """
    check_seconds(form.seconds or 0.0, job_timeout_s=job_timeout_s)
    with database.write() as connection:
        require_usable(connection, model, version)
        require_profiles(connection, (form.profile,))
        document = SearchWork.model_validate(form.model_dump(exclude={"again"})).model_dump(mode="json")
        wanted = WantedJob(JobKind.SEARCH, model, version, identity=document, request=document)
        return enqueue(connection, wanted, now=now, again=form.again).job


def check_seconds(seconds: float, *, job_timeout_s: float) -> None:
    """Refuse a search that a job has no time for.

    Raises:
        InvalidError: the budget is larger than the time of a job.
    """
    most_s = SEARCH_SHARE * job_timeout_s
    if seconds > most_s:
        raise InvalidError(
            f"A search may take {most_s:g} s here, and {seconds:g} s are asked for: ask for less, or set job_timeout_s "
            "higher."
        )


def get_search(database: Database, job_id: str) -> Search:
    """What a search has found.

    Raises:
        NotFoundError: there is no such search.
        ConflictError: it is not done, has failed, or was cancelled.
    """
    job = get_job(database, job_id)
    if job.kind != JobKind.SEARCH:
        raise NotFoundError(f"Job {job.job_id} is no search: `edge-registry job list` shows what is what.")
    if job.state is not JobState.DONE:
        raise ConflictError(f"Search {job.job_id} is {job.state}: `edge-registry job show {job.job_id}` says more.")
    query = sa.select(jobs.c.request, job_runs.c.result).join(job_runs, jobs.c.job_id == job_runs.c.job_id)
    with database.read() as connection:
        row = connection.execute(query.where(jobs.c.job_id == job_id)).one()
    known = {"job_id": job_id, "model": job.model, "version": job.version, "profile": row.request["profile"]}
    return Search.model_validate({**row.result["search"], **known})

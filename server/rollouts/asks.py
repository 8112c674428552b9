"""The searches that lanes ask for, as jobs: written with the decision, and read until they end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from server.catalogue.jobs import WantedJob, enqueue_once, find_job
from server.database.tables import job_runs
from server.rollouts.facts import AskedJob
from server.schemas.catalogue import JobState
from server.schemas.work import JobKind, SearchWork

if TYPE_CHECKING:
    from server.rollouts.asking import Wish
    from server.rollouts.facts import Rollout, Standing


def ask(connection: sa.Connection, wish: Wish, *, now: float) -> None:
    """Write the job of an ask; one that is there already is the same."""
    work = SearchWork(
        profile=wish.profile,
        seconds=wish.seconds,
        until_fits=wish.until_fits,
        seed=wish.seed,
        rollout_id=wish.rollout_id,
        latency_p95_ms=wish.latency_p95_ms,
    )
    request = work.model_dump(mode="json")
    enqueue_once(connection, _wanted(wish.job_id, wish.model, wish.version, request), now=now)


def asked_jobs(connection: sa.Connection, rollout: Rollout, standing: Standing | None) -> dict[str, AskedJob]:
    """By job id: what became of those that lanes wait for."""
    found = {}
    for profile, lane in (standing.lanes if standing is not None else {}).items():
        if (waits_for := lane.waits_for) is None:
            continue
        job = find_job(connection, _wanted(waits_for.job_id, rollout.model, rollout.version, {}))
        if job is None:
            continue  # its deadline holds
        sentence = job.error.message if job.error else ""
        if job.state == JobState.DONE:
            sentence = _refusal(connection, job.job_id, profile)
        found[job.job_id] = AskedJob(job.state, sentence)
    return found


def _wanted(job_id: str, model: str, version: str, request: dict[str, Any]) -> WantedJob:
    return WantedJob(JobKind.SEARCH, model, version, identity=job_id, request=request, job_id=job_id)


def _refusal(connection: sa.Connection, job_id: str, profile: str) -> str:
    """Why a search that is done has found nothing for a profile; empty where it has."""
    result = connection.execute(sa.select(job_runs.c.result).where(job_runs.c.job_id == job_id)).scalar() or {}
    return str(result.get("refusals", {}).get(profile, ""))

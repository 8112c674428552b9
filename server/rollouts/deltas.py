"""Deltas of a rollout: asked for when it starts, waited for a while before its first wave, offered beside the whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from edge_agent.protocol.delta import Delta
from server.catalogue.jobs import WantedJob, enqueue
from server.database.job_states import JOBS, STATE
from server.database.tables import choices, deltas, deployments, jobs, variants
from server.rollouts.facts import RUNNING
from server.schemas.catalogue import JobState
from server.schemas.work import DeltaWork, JobKind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from server.rollouts.facts import Rollout

SMALLEST_BYTES: Final = 64 << 10  # of a whole object: for less nobody shall wait
QUEUED_PATIENCE_S: Final = 10.0  # for a worker to take the job: all may be busy, or none up
PATIENCE_S: Final = 300.0  # for the job to end; 18 MB of floats take 10 s
PER_VARIANT: Final = 2  # as many as `DesiredDeployment.deltas` may hold


def request_deltas(
    connection: sa.Connection, rollout_id: str, *, model: str, version: str, profiles: Iterable[str], now: float
) -> None:
    """Ask for deltas where devices run another version that is large enough."""
    same = [variants.c[name] == deployments.c[name] for name in ("model", "version", "profile", "variant_id")]
    names = sorted(set(profiles))
    query = (
        sa.select(deployments.c.deployment_id)
        .select_from(deployments.join(variants, sa.and_(*same)))
        .where(deployments.c.model == model, deployments.c.version != version, deployments.c.profile.in_(names))
        .where(deployments.c.state == RUNNING, variants.c.object_bytes >= SMALLEST_BYTES)
        .limit(1)
    )
    if connection.execute(query).first() is None:
        return
    document = DeltaWork(profiles=tuple(names)).model_dump(mode="json")
    # what devices run changes: each rollout asks anew
    enqueue(connection, WantedJob(JobKind.DELTA, model, version, identity=rollout_id, request=document), now=now)


def deltas_until(connection: sa.Connection, rollout: Rollout) -> float | None:
    """How long a rollout waits for deltas that are being made, from the moment its variants were; None: for none."""
    query = (
        sa.select(STATE)
        .select_from(JOBS)
        .where(jobs.c.kind == JobKind.DELTA, jobs.c.model == rollout.model, jobs.c.version == rollout.version)
        .where(STATE.in_([JobState.QUEUED.value, JobState.RUNNING.value]))
    )
    states = set(connection.execute(query).scalars())
    if not states:
        return None
    chosen_at = sa.select(sa.func.max(choices.c.created_at)).where(
        choices.c.model == rollout.model, choices.c.version == rollout.version
    )
    begun_at = max(rollout.created_at, rollout.options.start_at, connection.execute(chosen_at).scalar() or 0.0)
    return begun_at + (PATIENCE_S if JobState.RUNNING in states else QUEUED_PATIENCE_S)


def deltas_to(connection: sa.Connection, manifests: Iterable[str]) -> dict[str, tuple[Delta, ...]]:
    """By manifest: the latest deltas to it."""
    query = (
        sa.select(deltas.c.manifest_sha256, deltas.c.document)
        .where(deltas.c.manifest_sha256.in_(sorted(set(manifests))), deltas.c.object_sha256.is_not(None))
        .order_by(deltas.c.created_at.desc(), deltas.c.base_manifest_sha256)
    )
    found: dict[str, tuple[Delta, ...]] = {}
    for row in connection.execute(query):
        before = found.get(row.manifest_sha256, ())
        if len(before) < PER_VARIANT:
            found[row.manifest_sha256] = (*before, Delta.model_validate(row.document))
    return found

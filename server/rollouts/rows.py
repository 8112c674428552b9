"""From rows to what the rules look at: queries that remember nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa

from edge_agent.protocol.messages import DesiredDeployment
from edge_agent.protocol.shadow import ShadowReport
from server.catalogue.jobs import how_row_was_cancelled
from server.database import tables
from server.database.job_states import JOBS, STATE
from server.rollouts import facts
from server.schemas.catalogue import JobState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

IN_CHUNK = 500  # values in one IN (...)
_T = TypeVar("_T")


def pending_commands(connection: sa.Connection) -> dict[str, list[facts.Command]]:
    """By rollout: what was said to it and not obeyed yet, in order."""
    commands, states = tables.rollout_commands, tables.rollout_states
    query = (
        sa.select(commands.c.command_id, commands.c.rollout_id, commands.c.action, commands.c.wave, commands.c.profile)
        .outerjoin(states, states.c.rollout_id == commands.c.rollout_id)
        .where(commands.c.command_id > sa.func.coalesce(states.c.last_command_id, 0))
        .order_by(commands.c.command_id)
    )
    pending: dict[str, list[facts.Command]] = {}
    for row in connection.execute(query):
        pending.setdefault(row.rollout_id, []).append(facts.Command(row.command_id, row.action, row.wave, row.profile))
    return pending


def choices_of(
    connection: sa.Connection, rollout: facts.Rollout, variants: Mapping[tuple[str, str], facts.VariantFact]
) -> dict[str, facts.ChoiceFact]:
    """By profile: what the search decided for a version."""
    columns = tables.choices.c
    query = sa.select(tables.choices).where(columns.model == rollout.model, columns.version == rollout.version)
    found = {}
    for row in connection.execute(query):
        variant = variants.get((row.profile, row.variant_id or ""))
        if row.variant_id and variant is None:
            refusal = f"Variant {row.variant_id} was chosen, but it could not be packed."
        else:
            refusal = (row.refusal or {}).get("sentence", "No variant fits this profile.")
        others = [
            (other.rank, other)
            for (profile, _), other in variants.items()
            if variant is not None and profile == row.profile and other != variant and other.rank is not None
        ]
        others.sort(key=lambda one: one[0])
        found[row.profile] = facts.ChoiceFact(
            variant=variant, refusal="" if variant else refusal, others=tuple(other for _, other in others)
        )
    return found


def build_failures(connection: sa.Connection, rollout: facts.Rollout, missing: set[str]) -> dict[str, str]:
    """By profile: why the last job that should have built for it came to nothing, unless another is queued or running.

    A profile that no job was asked to build for would be waited for without end: that is a failure, too. (A rollout
    asks for its builds when it starts; a label that changes before the plan is made can bring in another profile.)
    """
    jobs, runs = tables.jobs.c, tables.job_runs.c
    query = (
        sa.select(
            *(jobs.request, jobs.kind, runs.error, runs.finished_at),
            STATE.label("state"),
            tables.job_cancellations.c.cancelled_by,
        )
        .select_from(JOBS)
        .where(jobs.kind == "build", jobs.model == rollout.model, jobs.version == rollout.version)
        .order_by(jobs.created_at)
    )
    unasked = (
        f"nobody asked for it: run `edge-registry variant build {rollout.model}@{rollout.version}`, then start again"
    )
    failures = dict.fromkeys(missing, unasked)
    for row in connection.execute(query):
        covered = missing & set(row.request.get("profiles") or missing)
        for profile in covered:
            failures.pop(profile, None)
        if row.state == JobState.FAILED:
            failures |= dict.fromkeys(covered, (row.error or {}).get("message", "the build job failed"))
        if row.state == JobState.CANCELLED:
            failures |= dict.fromkeys(covered, f"its build was {how_row_was_cancelled(row)}")
    return failures


def newly_removed(connection: sa.Connection) -> list[str]:
    """Devices whose desired state is of a life that has ended: they were removed, or have joined again, since then."""
    desired, devices = tables.desired.c, tables.devices.c
    query = (
        sa.select(devices.device_id)
        .outerjoin(tables.desired, desired.device_id == devices.device_id)
        .where(
            sa.or_(
                sa.and_(devices.removed_at.is_not(None), desired.device_id.is_(None)),
                desired.updated_at < devices.removed_at,
                desired.updated_at < devices.joined_at,
            )
        )
    )
    return list(connection.execute(query).scalars())


def deployment_of(row: sa.Row[Any]) -> facts.Deployment:
    """A row of deployments."""
    return facts.Deployment(
        deployment_id=row.deployment_id,
        rollout_id=row.rollout_id,
        device_id=row.device_id,
        wave=row.wave,
        profile=row.profile,
        model=row.model,
        version=row.version,
        variant_id=row.variant_id,
        state=row.state,
        reason=row.reason,
        detail=row.detail,
        previous=DesiredDeployment.model_validate(row.previous) if row.previous else None,
        offered_generation=row.offered_generation,
        canary=row.canary,
        opened_at=row.opened_at,
        running_at=row.running_at,
        retrying_since=row.retrying_since,
        attempt=row.attempt,
        retries=row.retries,
        retry_at=row.retry_at,
        takes_place=row.takes_place,
        shadow=ShadowReport.model_validate(row.shadow) if row.shadow else None,
        changed_at=row.updated_at,
    )


def lanes_of(document: dict[str, dict[str, Any]] | None) -> dict[str, facts.LaneStanding]:
    """By profile: what rollout_states says of lanes."""
    return {
        profile: facts.LaneStanding(
            lane["paused"],
            lane["ended"],
            tuple(lane["rejected"]),
            tuple(facts.Ask(**ask) for ask in lane.get("asks", ())),  # rows that are older than these have none
            lane.get("undecided", ""),
        )
        for profile, lane in (document or {}).items()
    }


def in_chunks(column: sa.ColumnElement[str], values: Sequence[str]) -> Iterator[sa.ColumnElement[bool]]:
    """Conditions that together say `column IN values`, none of them too long for a database."""
    for part in _chunks(values):
        yield column.in_(part)


def _chunks(values: Sequence[_T]) -> Iterable[Sequence[_T]]:
    return (values[start : start + IN_CHUNK] for start in range(0, len(values), IN_CHUNK))

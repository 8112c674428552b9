"""Rollouts as operators see them: plan, state, waves, devices and the sentences that say why."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from edge_agent.protocol.shadow import ShadowReport
from server.database.tables import decisions, deployments, rollout_states, rollouts
from server.rollouts.asking import without_hope
from server.rollouts.facts import Deployment
from server.rollouts.gate import Lane, LaneStop, count_alike, stopped_lanes
from server.rollouts.plan import in_plan_order
from server.rollouts.reading import OPEN_STATES
from server.rollouts.requests import unknown_rollout
from server.rollouts.rows import lanes_of
from server.schemas.rollouts import (
    DecisionView,
    DeploymentView,
    LaneStopView,
    LaneView,
    Rollout,
    RolloutOptions,
    RolloutState,
    WaveView,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from server.database.connect import Database

MAX_DECISIONS: Final = 100

_COLUMNS: Final = (
    *rollouts.c,
    rollout_states.c.state,
    rollout_states.c.wave,
    rollout_states.c.reason,
    rollout_states.c.gate_stops,
    rollout_states.c.approval_wave,
    rollout_states.c.approved_wave,
    rollout_states.c.lanes,
    rollout_states.c.updated_at,
)
_ALL: Final = rollouts.outerjoin(rollout_states, rollouts.c.rollout_id == rollout_states.c.rollout_id)

# what decides how a deployment counts; the rest of the rows of all rollouts there ever were is not read for a list
_ALIKE: Final = (
    deployments.c.rollout_id,
    deployments.c.wave,
    deployments.c.state,
    deployments.c.reason,
    deployments.c.canary,
)
Alike = tuple[Deployment, int]


def list_rollouts(database: Database) -> list[Rollout]:
    """All rollouts, newest first, with their waves but without their devices."""
    with database.read() as connection:
        rows = connection.execute(sa.select(*_COLUMNS).select_from(_ALL).order_by(rollouts.c.created_at.desc())).all()
        of_rollout: dict[str, list[Alike]] = {}
        for group in connection.execute(sa.select(*_ALIKE, sa.func.count().label("number")).group_by(*_ALIKE)):
            of_rollout.setdefault(group.rollout_id, []).append((_alike(group), group.number))
    return [_view(row, of_rollout.get(row.rollout_id, [])) for row in rows]


def get_rollout(database: Database, rollout_id: str) -> Rollout:
    """One rollout with all there is to tell.

    Raises:
        NotFoundError: there is none with this id.
    """
    with database.read() as connection:
        row = connection.execute(
            sa.select(*_COLUMNS).select_from(_ALL).where(rollouts.c.rollout_id == rollout_id)
        ).first()
        if row is None:
            raise unknown_rollout(rollout_id)
        of_rollout = sa.select(deployments).where(deployments.c.rollout_id == rollout_id)
        found = connection.execute(of_rollout.order_by(deployments.c.wave, deployments.c.device_id)).all()
        told = connection.execute(
            sa.select(decisions.c.at, decisions.c.action, decisions.c.sentence, decisions.c.numbers)
            .where(decisions.c.rollout_id == rollout_id)
            .order_by(decisions.c.decision_id.desc())
            .limit(MAX_DECISIONS)
        ).all()
    view = _view(row, [(_alike(deployment), 1) for deployment in found])
    return view.model_copy(
        update={
            "stopped_lanes": _stopped_lanes(row, found),
            "lanes": tuple(LaneView(profile=profile, **lane) for profile, lane in sorted((row.lanes or {}).items())),
            "deployments": tuple(_deployment_view(deployment) for deployment in found),
            "decisions": tuple(
                DecisionView(at=row.at, action=row.action, sentence=row.sentence, numbers=row.numbers)
                for row in told[::-1]
            ),
        }
    )


def _view(row: sa.Row[Any], groups: Iterable[Alike]) -> Rollout:
    by_wave: dict[int, list[Alike]] = {}
    for deployment, number in groups:
        by_wave.setdefault(deployment.wave, []).append((deployment, number))
    return Rollout(
        rollout_id=row.rollout_id,
        model=row.model,
        version=row.version,
        selector=row.selector,
        state=RolloutState(row.state) if row.state else RolloutState.PREPARING,
        reason=row.reason or "",
        wave=-1 if row.wave is None else row.wave,
        approval_wave=_waits_for_approval(row),
        waves=tuple(_wave_view(wave, by_wave[wave]) for wave in sorted(by_wave)),
        created_at=row.created_at,
        updated_at=row.updated_at or row.created_at,
    )


def _wave_view(wave: int, groups: list[Alike]) -> WaveView:
    counts = count_alike(groups)
    return WaveView(
        wave=wave,
        devices=counts.devices,
        waiting=counts.waiting,
        in_progress=counts.in_progress,
        staged=counts.staged,
        running=counts.running,
        failed=counts.failed,
        timed_out=counts.timed_out,
        no_variant=counts.no_variant,
        refused=counts.refused,
        left=counts.left,
    )


def _stopped_lanes(rollout: sa.Row[Any], found: Iterable[sa.Row[Any]]) -> tuple[LaneStopView, ...]:
    offered = [
        replace(
            _alike(row),
            device_id=row.device_id,
            profile=row.profile,
            variant_id=row.variant_id,
            detail=row.detail,
        )
        for row in found
        if row.variant_id is not None
    ]
    allowed = rollout.options.get("max_failures", RolloutOptions().max_failures)
    stops = {
        Lane(stop["profile"], stop["variant_id"]): LaneStop(stop["wave"], stop["cause"])
        for stop in rollout.gate_stops or ()
    }
    stops |= stopped_lanes(in_plan_order(offered, seed=rollout.seed), max_failures=allowed)
    stops = without_hope(stops, lanes_of(rollout.lanes), found=True)
    return tuple(
        LaneStopView(profile=lane.profile, variant_id=lane.variant_id, wave=stop.wave, cause=stop.cause)
        for lane, stop in sorted(stops.items())
    )


def _alike(row: sa.Row[Any]) -> Deployment:
    """As much of a deployment as counting needs."""
    return Deployment(
        deployment_id="",
        rollout_id=row.rollout_id,
        device_id="",
        wave=row.wave,
        profile="",
        model="",
        version="",
        state=row.state,
        reason=row.reason,
        canary=bool(row.canary),
    )


def _deployment_view(row: sa.Row[Any]) -> DeploymentView:
    return DeploymentView(
        deployment_id=row.deployment_id,
        device_id=row.device_id,
        profile=row.profile,
        wave=row.wave,
        variant_id=row.variant_id,
        state=row.state,
        reason=row.reason,
        detail=row.detail,
        attempt=row.attempt,
        opened_at=row.opened_at,
        running_at=row.running_at,
        shadow=ShadowReport.model_validate(row.shadow) if row.shadow else None,
    )


def _waits_for_approval(row: sa.Row[Any]) -> int | None:
    if row.state is None or row.state not in OPEN_STATES or row.approval_wave <= row.approved_wave:
        return None
    return int(row.approval_wave)

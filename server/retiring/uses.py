"""What still needs a version: devices that run it or would go back to it, rollouts that deliver it, jobs on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from edge_agent.protocol.messages import Desired
from server.database.job_states import is_over
from server.database.tables import (
    deployments,
    desired,
    device_states,
    devices,
    jobs,
    rollout_states,
    rollouts,
)
from server.rollouts.facts import Standing
from server.rollouts.ledger import Ledger
from server.rollouts.reading import OPEN_STATES
from server.rollouts.rows import deployment_of, lanes_of
from server.schemas.rollouts import RolloutState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SHOWN: Final = 5
_IN_USE: Final = devices.c.removed_at.is_(None)


def why_needed(connection: sa.Connection, model: str, version: str) -> str:
    """What needs a version now, as half a sentence that names it; empty: nothing does."""
    if running := _running(connection, model, version):
        return f"{_listed('device', running)} {'runs' if len(running) == 1 else 'run'} it"
    if delivering := list(connection.execute(_open_rollouts(model, version)).scalars()):
        return f"{_listed('rollout', delivering)} {'delivers' if len(delivering) == 1 else 'deliver'} it"
    if going_back := sorted(_going_back(connection, model, version)):
        return f"{_listed('device', going_back)} would go back to it"
    if at_work := list(connection.execute(_open_jobs(model, version)).scalars()):
        return f"{_listed('job', at_work)} {'is' if len(at_work) == 1 else 'are'} at work on it"
    return ""


def _running(connection: sa.Connection, model: str, version: str) -> list[str]:
    """Devices that are wanted to run a version, or said last that they serve it."""
    found = {device_id for device_id, entry in _wanted(connection, model) if entry.version == version}
    said = (
        sa.select(device_states.c.device_id, device_states.c.status)
        .join(devices, devices.c.device_id == device_states.c.device_id)
        .where(_IN_USE, device_states.c.status.is_not(None), device_states.c.last_seen_at >= devices.c.joined_at)
    )
    for device_id, status in connection.execute(said):
        told = (status or {}).get("deployments", ())
        if any(one["model"] == model and one["version"] == version and one.get("serving") for one in told):
            found.add(device_id)
    return sorted(found)


def _open_rollouts(model: str, version: str) -> sa.Select[Any]:
    is_open = sa.or_(
        rollout_states.c.state.is_(None), rollout_states.c.state.in_([state.value for state in OPEN_STATES])
    )
    return (
        sa.select(rollouts.c.rollout_id)
        .outerjoin(rollout_states, rollout_states.c.rollout_id == rollouts.c.rollout_id)
        .where(rollouts.c.model == model, rollouts.c.version == version, is_open)
        .order_by(rollouts.c.created_at)
    )


def _going_back(connection: sa.Connection, model: str, version: str) -> Iterator[str]:
    """Devices whose rollback, were it asked for now, would bring a version back."""
    wanted = [(device_id, entry.deployment_id) for device_id, entry in _wanted(connection, model)]
    of_model = sa.select(deployments).where(deployments.c.model == model)
    rows = {row.deployment_id: deployment_of(row) for row in connection.execute(of_model)}
    standings = {
        row.rollout_id: Standing(state=RolloutState(row.state), lanes=lanes_of(row.lanes))
        for row in connection.execute(sa.select(rollout_states))
    }
    ledger = Ledger(deployments=rows.values(), standings=standings)
    for device_id, deployment_id in wanted:
        row = rows.get(deployment_id)
        target = None if row is None else ledger.last_good(row.previous)
        if target is not None and target.version == version:
            yield device_id


def _wanted(connection: sa.Connection, model: str) -> Iterator[tuple[str, Any]]:
    """By device in use: the deployment of a model that it is wanted to run."""
    query = sa.select(desired.c.device_id, desired.c.document).join(devices, devices.c.device_id == desired.c.device_id)
    for device_id, document in connection.execute(query.where(_IN_USE, desired.c.updated_at >= devices.c.joined_at)):
        for entry in Desired.model_validate(document).deployments:
            if entry.model == model:
                yield device_id, entry


def _open_jobs(model: str, version: str) -> sa.Select[Any]:
    return (
        sa.select(jobs.c.job_id)
        .where(jobs.c.model == model, jobs.c.version == version, ~is_over(jobs.c.job_id))
        .order_by(jobs.c.created_at)
    )


def _listed(kind: str, names: Iterable[str]) -> str:
    """The first of many names.

    >>> _listed("device", ["a"]), _listed("device", list("abcdefg"))
    ('device a', 'devices a, b, c, d, e and 2 more')
    """
    found = list(names)
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return f"{kind}{'s' if len(found) > 1 else ''} {', '.join(found[:SHOWN])}{more}"

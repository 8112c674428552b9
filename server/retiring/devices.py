"""A device that is retired has no key from this moment on; the controller then withdraws it from its rollouts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from edge_agent.protocol.states import DeploymentState
from server.database.tables import deployments, devices, inquiries, rollout_states, rollouts
from server.errors import ConflictError
from server.fleet.certificates import Reason, take_back
from server.fleet.devices import unknown_device
from server.fleet.selector import parse
from server.rollouts.facts import CLOSED_STATES, FAILED_STATES, TIMED_OUT
from server.rollouts.reading import OPEN_STATES

if TYPE_CHECKING:
    from server.database.connect import Database

# An open rollout wants no more of a device that stands so.
_OVER: Final = [str(state) for state in (*CLOSED_STATES, *FAILED_STATES, TIMED_OUT)]
_OPEN: Final = [state.value for state in OPEN_STATES]


def retire_device(database: Database, device_id: str, *, force: bool, now: float) -> None:
    """Take its key away at once; the controller then clears its retained topics and withdraws it from rollouts.

    Raises:
        NotFoundError: no such device, or it is retired already.
        ConflictError: a rollout is at work on it, and `force` is not said.
    """
    with database.write() as connection:
        query = sa.select(devices).where(devices.c.device_id == device_id, devices.c.removed_at.is_(None))
        device = connection.execute(query).first()
        if device is None:
            raise unknown_device(connection, device_id)
        if not force and (rollout := _rollout_at_work(connection, device)) is not None:
            raise ConflictError(
                f"Device {device_id} is in rollout {rollout.rollout_id} of {rollout.model}@{rollout.version} "
                f"({rollout.state}): wait until it has ended, abort it, or retire the device all the same with --force."
            )
        connection.execute(sa.update(devices).where(devices.c.device_id == device_id).values(removed_at=now))
        take_back(connection, device_id, Reason.RETIRED, now=now)
        connection.execute(sa.delete(inquiries).where(inquiries.c.device_id == device_id))


def _rollout_at_work(connection: sa.Connection, device: sa.Row[Any]) -> sa.Row[Any] | None:
    """A rollout that is open and has the device, or was just started and means it; `state` is the device's in it."""
    plan = (rollouts.c.rollout_id, rollouts.c.model, rollouts.c.version)
    at_work: sa.Select[Any] = (
        sa.select(*plan, deployments.c.state)
        .join(deployments, deployments.c.rollout_id == rollouts.c.rollout_id)
        .join(rollout_states, rollout_states.c.rollout_id == rollouts.c.rollout_id)
        .where(deployments.c.device_id == device.device_id, deployments.c.state.not_in(_OVER))
        .where(rollout_states.c.state.in_(_OPEN))
        .order_by(rollouts.c.created_at.desc())
    )
    if (found := connection.execute(at_work).first()) is not None:
        return found
    unread = (
        sa.select(*plan, sa.literal(DeploymentState.QUEUED.value).label("state"), rollouts.c.selector)
        .outerjoin(rollout_states, rollout_states.c.rollout_id == rollouts.c.rollout_id)
        .where(rollout_states.c.rollout_id.is_(None))
    )
    for row in connection.execute(unread):
        if parse(row.selector).matches(device.labels, device.profile, device.device_id):
            return row
    return None

"""Whether a tick may leave the fleet unread: nothing is open, and nothing has come since a tick that changed nothing.

A few lookups by index say so, however large the fleet is; one is the number of the latest thing that a device said
anew, so that one which ran and fails later is seen at once. What they don't see (a clock that went back, a device that
falls silent) a look at the whole fleet finds every few seconds.
"""

from __future__ import annotations

import sqlalchemy as sa

from edge_agent.protocol.states import DeploymentState
from server.database.tables import (
    deployments,
    device_states,
    devices,
    registry,
    rollout_commands,
    rollout_states,
    rollouts,
)
from server.rollouts.facts import FAILED_STATES, OFFERED, RETRYING
from server.rollouts.reading import OPEN_STATES
from server.schemas.rollouts import RolloutState

Pulse = tuple[int, float, float, int]

# Devices in these are on the way, also where their rollout has ended: they go back to what they ran before.
IN_FLIGHT = frozenset({OFFERED, RETRYING, *DeploymentState}) - FAILED_STATES - {DeploymentState.SUPERSEDED}


class Quiet:
    """Remembers what a tick that changed nothing has seen."""

    def __init__(self, *, patrol_s: float) -> None:
        self._patrol_s = patrol_s
        self._pulse: Pulse | None = None
        self._rested: Pulse | None = None
        self._since = 0.0

    def holds(self, connection: sa.Connection, *, now: float) -> bool:
        """Whether there is nothing to decide; asked before the fleet is read: what comes later is seen later."""
        self._pulse = _pulse(connection)
        unchanged = self._pulse is not None and self._pulse == self._rested
        return unchanged and 0.0 <= now - self._since < self._patrol_s

    def rest(self, *, now: float) -> None:
        """The fleet was read after `holds`, and nothing was to be done."""
        self._rested, self._since = self._pulse, now


def _pulse(connection: sa.Connection) -> Pulse | None:
    """What grows when something comes; None while something is open."""
    ended = [state.value for state in RolloutState if state not in OPEN_STATES]
    done = sa.select(rollout_states.c.rollout_id).where(rollout_states.c.state.in_(ended))
    is_open = sa.exists().where(rollouts.c.rollout_id.not_in(done))
    said = (
        sa.select(rollout_commands.c.command_id)
        .outerjoin(rollout_states, rollout_states.c.rollout_id == rollout_commands.c.rollout_id)
        .where(rollout_commands.c.command_id > sa.func.coalesce(rollout_states.c.last_command_id, 0))
        .exists()
    )
    on_the_way = sa.exists().where(deployments.c.state.in_(sorted(str(state) for state in IN_FLIGHT)))
    if any(connection.execute(sa.select(found)).scalar() for found in (is_open, said, on_the_way)):
        return None
    epoch = connection.execute(sa.select(registry.c.epoch)).scalar()
    joined = connection.execute(sa.select(sa.func.max(devices.c.joined_at))).scalar()
    removed = connection.execute(sa.select(sa.func.max(devices.c.removed_at))).scalar()
    news = connection.execute(sa.select(sa.func.max(device_states.c.news))).scalar()
    return None if epoch is None else (epoch, joined or 0.0, removed or 0.0, news or 0)

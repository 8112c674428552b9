"""Rollouts as operators ask for them: the immutable plan, and the words said to it later; the controller acts."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import sqlalchemy as sa

from server.catalogue.versions import build_missing, require_usable
from server.database.tables import deployments, rollout_commands, rollout_states, rollouts
from server.errors import ConflictError, InvalidError, NotFoundError
from server.fleet.devices import matching
from server.fleet.selector import parse
from server.rollouts.commands import allowed
from server.rollouts.deltas import request_deltas
from server.rollouts.facts import DeviceFact
from server.rollouts.plan import check_growing
from server.schemas.rollouts import RolloutAction, RolloutState

if TYPE_CHECKING:
    from server.database.connect import Database
    from server.fleet.selector import Selector
    from server.schemas.rollouts import RolloutRequest

# What each word leads to, so that words which the controller has not obeyed yet count already.
_LEADS_TO = {
    RolloutAction.PAUSE: RolloutState.PAUSED,
    RolloutAction.ABORT: RolloutState.ABORTED,
    RolloutAction.ROLLBACK: RolloutState.ROLLING_BACK,
}


def start_rollout(database: Database, request: RolloutRequest, *, now: float) -> str:
    """Write the plan, and ask for the variants that are missing; the controller takes it from there.

    Returns:
        The id of the rollout.

    Raises:
        SelectorError: the selector can't be read.
        WavesError: a wave reaches no more devices than the one before.
        NotFoundError: no such version.
        InvalidError: the selector means no device.
    """
    selector = parse(request.selector)
    check_growing(request.waves)
    rollout_id = secrets.token_hex(8)
    row = {
        "rollout_id": rollout_id,
        "model": request.model,
        "version": request.version,
        "selector": str(selector),
        "waves": [wave.model_dump(mode="json", exclude_none=True) for wave in request.waves],
        "seed": request.seed,
        "options": request.options.model_dump(mode="json"),
        "created_at": now,
    }
    with database.write() as connection:
        targets = targets_of(connection, request, selector)
        profiles = {device.profile for device in targets}
        build_missing(connection, request.model, request.version, profiles, now=now)
        request_deltas(connection, rollout_id, model=request.model, version=request.version, profiles=profiles, now=now)
        connection.execute(sa.insert(rollouts).values(row))
    return rollout_id


def targets_of(connection: sa.Connection, request: RolloutRequest, selector: Selector) -> list[DeviceFact]:
    """The devices that a rollout is for.

    Raises:
        NotFoundError: no such version.
        ConflictError: it is retired.
        InvalidError: the selector means no device.
    """
    require_usable(connection, request.model, request.version)
    targets = [DeviceFact(*found) for found in matching(connection, selector)]
    if not targets:
        raise _nobody_is_meant(selector)
    return targets


def command_rollout(
    database: Database, rollout_id: str, action: RolloutAction, *, profile: str | None = None, now: float
) -> None:
    """Say something to a rollout, or to the lane of a profile; the controller obeys in order.

    Raises:
        NotFoundError: no such rollout, or it has no such lane.
        ConflictError: the rollout is where this word means nothing, or a retired version would be tried again.
    """
    with database.write() as connection:
        known = sa.select(rollouts.c.model, rollouts.c.version).where(rollouts.c.rollout_id == rollout_id)
        if (plan := connection.execute(known).first()) is None:
            raise unknown_rollout(rollout_id)
        if action is RolloutAction.RETRY:
            require_usable(connection, plan.model, plan.version)
        state = _coming_state(connection, rollout_id)
        if state not in allowed(action, profile):
            possible = [word for word in RolloutAction if state in allowed(word, profile)]
            advice = f"possible is {', '.join(possible)}" if possible else "nothing can be said to it any more"
            subject = "it" if profile is None else f"lane {profile}"
            raise ConflictError(f"Rollout {rollout_id} is {state}, so {subject} can't {action}: {advice}.")
        if profile is not None:
            _require_lane(connection, rollout_id, profile)
        if action is RolloutAction.ACTIVATE:
            _require_staged(connection, rollout_id)
        wave = _wave_to_approve(connection, rollout_id) if action is RolloutAction.APPROVE else None
        row = {"rollout_id": rollout_id, "action": action, "wave": wave, "profile": profile, "created_at": now}
        connection.execute(sa.insert(rollout_commands).values(row))


def _nobody_is_meant(selector: Selector) -> InvalidError:
    """A selector that no device matches."""
    meant = f"The selector {selector} matches no device" if selector.terms else "No device has joined yet"
    return InvalidError(f"{meant}: `edge-registry device list` shows those that are there.")


def unknown_rollout(rollout_id: str) -> NotFoundError:
    """There is none with this id."""
    return NotFoundError(f"There is no rollout {rollout_id[:64]}: `edge-registry rollout list` shows those there are.")


def _require_lane(connection: sa.Connection, rollout_id: str, profile: str) -> None:
    """A lane of the plan.

    Raises:
        NotFoundError: no device of this rollout has the profile; or it has no plan yet, which takes a moment.
    """
    query = sa.select(deployments.c.profile).where(deployments.c.rollout_id == rollout_id).distinct()
    lanes = sorted(connection.execute(query).scalars())
    if profile not in lanes:
        there = f"it has {', '.join(lanes)}" if lanes else "it is not planned yet: say it again in a moment"
        raise NotFoundError(f"Rollout {rollout_id} has no lane {profile}: {there}.")


def _require_staged(connection: sa.Connection, rollout_id: str) -> None:
    """A rollout that was started to be staged, and was not activated yet.

    Raises:
        ConflictError: it was not, or it was.
    """
    options = connection.execute(sa.select(rollouts.c.options).where(rollouts.c.rollout_id == rollout_id)).scalar()
    if not (options or {}).get("stage"):
        raise ConflictError(f"Rollout {rollout_id} was started without --stage: there is nothing to activate.")
    query = sa.select(rollout_states.c.activated).where(rollout_states.c.rollout_id == rollout_id)
    if connection.execute(query).scalar():
        raise ConflictError(f"Rollout {rollout_id} is activated already: its waves open by themselves.")


def _wave_to_approve(connection: sa.Connection, rollout_id: str) -> int:
    """The wave that waits for approval now; saying so twice approves the same one.

    Raises:
        ConflictError: none does.
    """
    columns = rollout_states.c
    query = sa.select(columns.approval_wave, columns.approved_wave).where(columns.rollout_id == rollout_id)
    row = connection.execute(query).first()
    if row is None or row.approval_wave <= row.approved_wave:
        raise ConflictError(
            f"No wave of rollout {rollout_id} waits for approval: `edge-registry rollout status {rollout_id}` tells "
            "what it waits for."
        )
    return int(row.approval_wave)


def _coming_state(connection: sa.Connection, rollout_id: str) -> RolloutState:
    row = connection.execute(sa.select(rollout_states).where(rollout_states.c.rollout_id == rollout_id)).first()
    state = RolloutState(row.state) if row else RolloutState.PREPARING
    waiting = (
        sa.select(rollout_commands.c.action, rollout_commands.c.profile)
        .where(rollout_commands.c.rollout_id == rollout_id)
        .where(rollout_commands.c.command_id > (row.last_command_id if row else 0))
        .order_by(rollout_commands.c.command_id)
    )
    for word, profile in connection.execute(waiting):
        action = RolloutAction(word)
        if state not in allowed(action, profile):
            continue
        if action is RolloutAction.RETRY and state is RolloutState.FINISHED:
            state = RolloutState.RUNNING
        elif action is RolloutAction.RESUME and profile is None:
            state = RolloutState.RUNNING if row and row.wave >= 0 else RolloutState.PREPARING
        elif profile is None:
            state = _LEADS_TO.get(action, state)
    return state

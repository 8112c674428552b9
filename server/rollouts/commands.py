"""What an operator says to a rollout or to one of its lanes, each word obeyed exactly once. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from edge_agent.protocol.states import DeploymentState
from server.rollouts import asking, staging, stopping
from server.rollouts.facts import ABORTED_LANE, ROLLED_BACK_LANE, TIMED_OUT, Facts, Why
from server.rollouts.gate import SENT_BACK, lane_of
from server.rollouts.going_back import roll_back, withdraw
from server.rollouts.offering import is_staging
from server.rollouts.wording import counted, will_not_get_it
from server.schemas.rollouts import RolloutAction, RolloutState

if TYPE_CHECKING:
    from server.rollouts.facts import Command, Deployment
    from server.rollouts.ledger import Ledger

OPEN = frozenset({RolloutState.PREPARING, RolloutState.STAGING, RolloutState.RUNNING})
NOT_ENDED = OPEN | {RolloutState.PAUSED}
NOT_WITHDRAWN = frozenset(RolloutState) - {RolloutState.ROLLING_BACK, RolloutState.ROLLED_BACK}
RETRIABLE = frozenset({RolloutState.STAGING, RolloutState.RUNNING, RolloutState.PAUSED, RolloutState.FINISHED})
ALLOWED: dict[RolloutAction, frozenset[RolloutState]] = {
    RolloutAction.PAUSE: OPEN,
    RolloutAction.RESUME: frozenset({RolloutState.PAUSED}),
    RolloutAction.ABORT: NOT_ENDED,
    RolloutAction.ROLLBACK: NOT_WITHDRAWN,
    RolloutAction.RETRY: RETRIABLE,
    RolloutAction.APPROVE: NOT_ENDED,
    RolloutAction.ACTIVATE: NOT_ENDED,
}
# A lane can be paused while the others go on, and the other way round.
ALLOWED_OF_LANE: dict[RolloutAction, frozenset[RolloutState]] = {
    RolloutAction.PAUSE: NOT_ENDED,
    RolloutAction.RESUME: NOT_ENDED,
    RolloutAction.ABORT: NOT_ENDED,
    RolloutAction.ROLLBACK: NOT_WITHDRAWN,
    RolloutAction.RETRY: RETRIABLE,
    RolloutAction.APPROVE: frozenset(),
    RolloutAction.ACTIVATE: frozenset(),
}


def allowed(action: RolloutAction, profile: str | None) -> frozenset[RolloutState]:
    """The states of a rollout in which a word means something, said to all of it or to a lane."""
    return (ALLOWED if profile is None else ALLOWED_OF_LANE)[action]


def obey(facts: Facts, ledger: Ledger, *, now: float) -> None:
    """Apply the commands that have not been applied yet, in order."""
    standing = ledger.standings[facts.rollout.rollout_id]
    for command in sorted(facts.commands, key=lambda command: command.command_id):
        if command.command_id <= standing.last_command_id:
            continue
        standing.last_command_id = command.command_id
        ledger.changed_standings.add(facts.rollout.rollout_id)
        action = next((known for known in RolloutAction if known == command.action), None)
        if action is None or standing.state not in allowed(action, command.profile):
            sentence = f"The command {command.action[:16]!r} changes nothing: the rollout is {standing.state}."
            ledger.decide(facts.rollout, "ignored", sentence, command_id=command.command_id)
        elif action is RolloutAction.APPROVE:
            _approve(command, facts, ledger)
        elif action is RolloutAction.ACTIVATE:
            _activate(command, facts, ledger)
        elif action is RolloutAction.RETRY:
            _retry(command, facts, ledger, now=now)
        elif command.profile is not None:
            _say_to_lane(action, command.profile, command, facts, ledger, now=now)
        else:
            _say_to_all(action, facts, ledger, command.command_id, now=now)


def _say_to_all(action: RolloutAction, facts: Facts, ledger: Ledger, command_id: int, *, now: float) -> None:
    rollout_id = facts.rollout.rollout_id
    if action is RolloutAction.PAUSE:
        state, sentence = RolloutState.PAUSED, "Paused by command: no offers and no new wave until it is resumed."
    elif action is RolloutAction.RESUME:
        opened = ledger.standings[rollout_id].wave >= 0
        state, sentence = RolloutState.RUNNING if opened else RolloutState.PREPARING, "Resumed by command."
    elif action is RolloutAction.ABORT:
        withdrawn = withdraw(ledger.rows_of(rollout_id), ledger, why=Why.ROLLOUT_STOPPED, now=now)
        state = RolloutState.ABORTED
        sentence = f"Aborted by command: {will_not_get_it(withdrawn)}, who has it keeps it."
    else:
        # the state first: what goes back must not come to rest on this very rollout
        ledger.stand(rollout_id, RolloutState.ROLLING_BACK, "")
        restored = roll_back(ledger.rows_of(rollout_id), ledger, why=Why.ROLLBACK, now=now)
        going = counted(restored, "device goes", "devices go")
        state, sentence = RolloutState.ROLLING_BACK, f"Rolling back by command: {going} back."
    if action in {RolloutAction.ABORT, RolloutAction.ROLLBACK}:
        asking.drop_all(facts, ledger)
    ledger.stand(rollout_id, state, sentence)
    ledger.decide(facts.rollout, action, sentence, command_id=command_id)


def _say_to_lane(
    action: RolloutAction, profile: str, command: Command, facts: Facts, ledger: Ledger, *, now: float
) -> None:
    """Pause, resume, abort or roll back one lane; the others don't notice."""
    standing = ledger.standings[facts.rollout.rollout_id]
    before = standing.lane(profile)
    rows = [row for row in ledger.rows_of(facts.rollout.rollout_id) if row.profile == profile]
    if before.ended == ROLLED_BACK_LANE or (before.ended and action is not RolloutAction.ROLLBACK):
        sentence = f"The command {action.value!r} changes nothing: lane {profile} has ended by an earlier one."
        ledger.decide(facts.rollout, "ignored", sentence, command_id=command.command_id, profile=profile)
        return
    if action in {RolloutAction.PAUSE, RolloutAction.RESUME}:
        after = replace(before, paused=action is RolloutAction.PAUSE)
        told = "is paused by command: no offers in it until it is resumed" if after.paused else "is resumed by command"
    elif action is RolloutAction.ABORT:
        after = replace(before, paused=False, ended=ABORTED_LANE)
        withdrawn = withdraw(rows, ledger, why=Why.LANE_ABORTED, now=now)
        told = f"is aborted by command: {will_not_get_it(withdrawn)}, who has it keeps it"
    else:
        # first, so that nothing comes to rest on this very lane
        after = standing.lanes[profile] = replace(before, paused=False, ended=ROLLED_BACK_LANE)
        going = counted(roll_back(rows, ledger, why=Why.LANE_ROLLBACK, now=now), "device goes", "devices go")
        told = f"is rolled back by command: {going} back"
    standing.lanes[profile] = after
    sentence = f"Lane {profile} {told}."
    ledger.decide(facts.rollout, action, sentence, command_id=command.command_id, profile=profile)


def _retry(command: Command, facts: Facts, ledger: Ledger, *, now: float) -> None:
    """Offer it once more to those that failed or timed out, in lanes that go on."""
    rollout_id = facts.rollout.rollout_id
    standing, stopped = ledger.standings[rollout_id], stopping.stopped_lanes(facts, ledger)
    failed = [
        row
        for row in ledger.rows_of(rollout_id)
        if command.profile in {None, row.profile}
        and _has_failed(row)
        and lane_of(row) not in stopped
        and not standing.lane(row.profile).ended
    ]
    for row in failed:
        row.retries = 0
        ledger.begin_again(row, why="tried again by command", now=now)
    lane = {} if command.profile is None else {"profile": command.profile}
    where = "" if command.profile is None else f" of lane {command.profile}"
    if not failed:
        sentence = f"The command 'retry' changes nothing: no device{where} has failed in a lane that goes on."
        ledger.decide(facts.rollout, "ignored", sentence, command_id=command.command_id, **lane)
        return
    sentence = f"Tried again by command: {counted(len(failed), 'device', 'devices')}{where} that failed or timed out."
    state = RolloutState.RUNNING if standing.state is RolloutState.FINISHED else standing.state
    ledger.stand(rollout_id, state, sentence)
    ledger.decide(facts.rollout, "retry", sentence, command_id=command.command_id, devices=len(failed), **lane)


def _has_failed(row: Deployment) -> bool:
    """Whether another try may help: a variant that was rejected is rejected again."""
    if row.state == DeploymentState.ROLLED_BACK:
        return row.reason not in SENT_BACK
    return row.state in {DeploymentState.FAILED, TIMED_OUT}


def _activate(command: Command, facts: Facts, ledger: Ledger) -> None:
    """Let devices answer with what they hold ready; said again, or to what was never staged, it changes nothing."""
    if is_staging(facts, ledger.standings[facts.rollout.rollout_id]):
        staging.activate(facts, ledger, "by command", command_id=command.command_id)
        return
    sentence = "The command 'activate' changes nothing: nothing of this rollout waits to be activated."
    ledger.decide(facts.rollout, "ignored", sentence, command_id=command.command_id)


def _approve(command: Command, facts: Facts, ledger: Ledger) -> None:
    """Let the wave open that was asked for; the word said again opens no other."""
    standing = ledger.standings[facts.rollout.rollout_id]
    wave = standing.approval_wave if command.wave is None else command.wave
    if wave != standing.approval_wave or wave <= standing.approved_wave:
        sentence = f"The approval of wave {wave + 1} changes nothing: it does not wait for one."
        ledger.decide(facts.rollout, "ignored", sentence, command_id=command.command_id)
        return
    standing.approved_wave = wave
    sentence = f"Wave {wave + 1} of {len(facts.rollout.waves)} was approved by command."
    ledger.stand(facts.rollout.rollout_id, standing.state, sentence)
    ledger.decide(facts.rollout, RolloutAction.APPROVE, sentence, command_id=command.command_id, wave=wave)

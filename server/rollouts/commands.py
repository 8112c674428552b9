"""What an operator says to a rollout, each word obeyed exactly once. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_agent.protocol.states import DeploymentState
from server.rollouts.facts import CANCELLED, CLOSED_STATES, FAILED_STATES, RUNNING, WAITING, Facts, Why
from server.rollouts.gate import bucket
from server.rollouts.going_back import roll_back
from server.rollouts.wording import counted, will_not_get_it
from server.schemas.rollouts import RolloutAction, RolloutState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from server.rollouts.facts import Command, Deployment
    from server.rollouts.ledger import Ledger

OPEN = frozenset({RolloutState.PREPARING, RolloutState.RUNNING})
ALLOWED: dict[RolloutAction, frozenset[RolloutState]] = {
    RolloutAction.PAUSE: OPEN,
    RolloutAction.RESUME: frozenset({RolloutState.PAUSED}),
    RolloutAction.ABORT: OPEN | {RolloutState.PAUSED},
    RolloutAction.ROLLBACK: frozenset(RolloutState) - {RolloutState.ROLLING_BACK, RolloutState.ROLLED_BACK},
    RolloutAction.APPROVE: OPEN | {RolloutState.PAUSED},
}


def obey(facts: Facts, ledger: Ledger, *, now: float) -> None:
    """Apply the commands that have not been applied yet, in order."""
    standing = ledger.standings[facts.rollout.rollout_id]
    for command in sorted(facts.commands, key=lambda command: command.command_id):
        if command.command_id <= standing.last_command_id:
            continue
        standing.last_command_id = command.command_id
        ledger.changed_standings.add(facts.rollout.rollout_id)
        action = next((known for known in RolloutAction if known == command.action), None)
        if action is None or standing.state not in ALLOWED[action]:
            sentence = f"The command {command.action[:16]!r} changes nothing: the rollout is {standing.state}."
            ledger.decide(facts.rollout, "ignored", sentence, command_id=command.command_id)
            continue
        if action is RolloutAction.APPROVE:
            _approve(command, facts, ledger)
        else:
            _apply(action, facts, ledger, command.command_id, now=now)


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


def _apply(action: RolloutAction, facts: Facts, ledger: Ledger, command_id: int, *, now: float) -> None:
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
        restored = roll_back(facts, ledger, now=now)
        going = counted(restored, "device goes", "devices go")
        state, sentence = RolloutState.ROLLING_BACK, f"Rolling back by command: {going} back."
    ledger.stand(rollout_id, state, sentence)
    ledger.decide(facts.rollout, action, sentence, command_id=command_id)


def withdraw(rows: Iterable[Deployment], ledger: Ledger, *, why: Why, detail: str = "", now: float) -> int:
    """Take the offer back from every device that does not have it yet; failed ones go back too, and stay failed.

    Returns:
        How many devices will not get it; those that failed are not among them.
    """
    withdrawn = 0
    for row in rows:
        if row.state in CLOSED_STATES or has_it(row):
            continue
        taken = row.state == WAITING or ledger.restore(row, now=now)
        if row.state in FAILED_STATES or bucket(row) == "failed":
            continue  # what failed keeps saying why
        withdrawn += taken
        ledger.set_state(row, CANCELLED, reason=why, detail=detail)
    return withdrawn


def has_it(row: Deployment) -> bool:
    """Whether a device runs it, or did when it was heard last, and has not failed with it."""
    if row.state in FAILED_STATES or row.state in CLOSED_STATES:
        return False
    return row.state in {RUNNING, DeploymentState.ACTIVE} or row.running_at is not None


def restore_failed(rows: Iterable[Deployment], ledger: Ledger, *, now: float) -> None:
    """The version is bad or unwanted: whoever failed with it shall run what was there before."""
    for row in rows:
        if row.state in FAILED_STATES:
            ledger.restore(row, now=now)

"""Taking a version back: from who has it, from who was to get it, and when that is done. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_agent.protocol.states import DeploymentState
from server.rollouts.facts import (
    CANCELLED,
    CLOSED_STATES,
    FAILED_STATES,
    ROLLING_BACK,
    RUNNING,
    WAITING,
    Deployment,
    Facts,
    Why,
)
from server.rollouts.gate import bucket
from server.schemas.rollouts import RolloutState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from server.rollouts.facts import Heard
    from server.rollouts.ledger import Ledger


def roll_back(rows: Iterable[Deployment], ledger: Ledger, *, why: Why, now: float) -> int:
    """Every device that was touched shall run again what it ran before; how many have to change."""
    restored = 0
    for row in rows:
        ready = ledger.is_staged(row)  # it answered nobody: there is nothing to go back from
        if ledger.restore(row, now=now) and not ready:
            restored += 1
            if row.state not in FAILED_STATES:  # what failed keeps saying why
                row.offered_generation, row.changed_at = ledger.next_generation(row.device_id), now
                ledger.set_state(row, ROLLING_BACK, reason=why)
        elif row.state == WAITING or (ready and row.state not in FAILED_STATES):
            ledger.set_state(row, CANCELLED, reason=why)
    return restored


def follow(facts: Facts, ledger: Ledger, *, epoch: int, now: float) -> None:
    """Write down who has gone back, and say `rolled_back` once nobody is waited for any more."""
    rollout = facts.rollout
    standing = ledger.standings[rollout.rollout_id]
    note_returned(facts, ledger, epoch=epoch)
    rows = [row for row in ledger.rows_of(rollout.rollout_id) if row.reason == Why.ROLLBACK]
    behind = [row for row in rows if row.state == ROLLING_BACK]
    if standing.state is not RolloutState.ROLLING_BACK or any(_is_waited_for(row, facts, now=now) for row in behind):
        return
    back = sum(row.state == DeploymentState.ROLLED_BACK for row in rows)
    sentence = f"Rolled back: {back} of {back + len(behind)} devices run again what they ran before" + (
        f"; {', '.join(row.device_id for row in behind[:3])}{' and others' if len(behind) > 3 else ''}"  # noqa: PLR2004
        " did not say so in time, and will once heard."
        if behind
        else "."
    )
    ledger.stand(rollout.rollout_id, RolloutState.ROLLED_BACK, sentence)
    ledger.decide(rollout, "rolled_back", sentence, back=back, behind=len(behind))


def note_returned(facts: Facts, ledger: Ledger, *, epoch: int) -> None:
    """Write down who has gone back, by an operator's word, to all or to a lane, or a gate's."""
    for row in ledger.rows_of(facts.rollout.rollout_id):
        if row.state == ROLLING_BACK and _has_gone_back(row, facts.heard.get(row.device_id), ledger, epoch=epoch):
            ledger.set_state(row, DeploymentState.ROLLED_BACK, reason=row.reason)


def _has_gone_back(row: Deployment, heard: Heard | None, ledger: Ledger, *, epoch: int) -> bool:
    """Whether a device has read that it shall go back, has ended this deployment, and runs what it is wanted to run."""
    if heard is None or heard.observed < (epoch, row.offered_generation or 0):
        return False
    status = heard.deployments.get(row.deployment_id)
    if status is not None and (status.serving or status.state == DeploymentState.ACTIVE):
        return False
    wanted = ledger.wanted.get(row.device_id, {}).get(row.model)
    before = ledger.get(wanted.deployment_id) if wanted else None
    return before is None or before.state == RUNNING


def _is_waited_for(row: Deployment, facts: Facts, *, now: float) -> bool:
    """A device that is silent, or comes no further, must not hold the word back for ever."""
    options, heard = facts.rollout.options, facts.heard.get(row.device_id)
    since = max(row.changed_at or now, facts.listening_since)
    silent_s = now - max(since, heard.last_seen_at if heard else 0.0)
    patience_s = max(options.silence_deadline_s, 2 * facts.status_interval_s)
    return silent_s <= patience_s and now - since <= max(options.progress_deadline_s, patience_s)


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

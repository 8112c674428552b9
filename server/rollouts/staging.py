"""Download now, activate later (docs/adr/0013-what-lies-ready-answers-nobody.md). Pure.

While it is staged every device of the plan fetches the version and proves it, lane by lane and at its pace; what it
runs stays what it is. Activated, its waves open as those of any rollout, and swap what lies ready.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from server.rollouts import gate, offering
from server.rollouts.facts import NO_VARIANT, WAITING
from server.rollouts.wording import counted
from server.schemas.rollouts import RolloutState
from server.windows import text_of_moment

if TYPE_CHECKING:
    from server.rollouts.facts import Facts
    from server.rollouts.gate import WaveCounts
    from server.rollouts.ledger import Ledger


def is_time(facts: Facts, ledger: Ledger, *, now: float) -> bool:
    """Whether the time has come that the plan names; then it is activated."""
    activate_at = facts.rollout.options.activate_at
    if not activate_at or now < activate_at:
        return False
    activate(facts, ledger, f"at its time, {text_of_moment(activate_at)}")
    return True


def activate(facts: Facts, ledger: Ledger, how: str, **numbers: float | str) -> None:
    """Let its waves open from now on: whoever holds it ready swaps when its wave does, whoever does not fetches it."""
    rollout, standing = facts.rollout, ledger.standings[facts.rollout.rollout_id]
    standing.activated, standing.settled_at = True, None
    ledger.changed_standings.add(rollout.rollout_id)
    counts = gate.count_wave(ledger.rows_of(rollout.rollout_id))
    sentence = f"Activated {how}: {_told(counts)}."
    state = RolloutState.RUNNING if standing.state is RolloutState.STAGING else standing.state
    ledger.stand(rollout.rollout_id, state, sentence)
    ledger.decide(rollout, "activated", sentence, **numbers, **counts.numbers())


def go_on(facts: Facts, ledger: Ledger, *, now: float) -> None:
    """Let devices lay it ready that have not yet, and tell once that nobody is left who could."""
    rollout, standing = facts.rollout, ledger.standings[facts.rollout.rollout_id]
    for row in ledger.rows_of(rollout.rollout_id):
        if row.state == WAITING and facts.choices[row.profile].variant is None:
            ledger.set_state(row, NO_VARIANT, reason="no_variant", detail=facts.choices[row.profile].refusal)
    waits = offering.offer_due(facts, ledger, now=now)
    rows = ledger.rows_of(rollout.rollout_id)
    counts = gate.count_wave(rows)
    settled = not any(
        gate.bucket(row) == "in_progress" or (row.state == WAITING and not standing.lane(row.profile).held)
        for row in rows
    )
    sentence = _told(counts)
    if waiting := waits.told(facts, wave=0):
        sentence += f"; {waiting}"
    activate_at = rollout.options.activate_at
    how = f"it activates at {text_of_moment(activate_at)}" if activate_at else "it answers nobody until"
    sentence = f"Staging: {sentence}; {how}{', or at' if activate_at else ''} `rollout activate {rollout.rollout_id}`."
    ledger.stand(rollout.rollout_id, RolloutState.STAGING, sentence)
    settled_at = (standing.settled_at or now) if settled else None
    if settled_at != standing.settled_at:
        standing.settled_at = settled_at
        ledger.changed_standings.add(rollout.rollout_id)
        if settled:
            ledger.decide(rollout, "staged", sentence, **counts.numbers())


def _told(counts: WaveCounts) -> str:
    """Half a sentence on all devices of the plan."""
    said = f"{counts.staged} of {counted(counts.devices, 'device holds', 'devices hold')} it ready"
    others = {
        "on the way": counts.in_progress,
        "failed": counts.failed + counts.refused,
        "not heard of": counts.timed_out,
        "without a variant": counts.no_variant,
        "waiting": counts.waiting,
    }
    return ", ".join([said, *(f"{number} {what}" for what, number in others.items() if number)])

"""Rollouts gated on what devices measure (docs/adr/0007-what-a-measurement-stops.md). Pure.

A gate stops a lane as soon as the evidence is there, whatever wave is open; too little data is neither good nor bad: it
holds the next wave until a deadline.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from server.rollouts import gate, going_back, health
from server.rollouts.facts import ROLLING_BACK, RUNNING, Deployment, Facts, GateStop, Why
from server.rollouts.wording import counted, listed
from server.schemas.rollouts import RolloutState

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from server.rollouts.gate import Lane
    from server.rollouts.health import LaneHealth
    from server.rollouts.ledger import Ledger


def look(facts: Facts, ledger: Ledger, *, now: float) -> None:
    """Stop each lane whose devices have shown that its variant is wrong or slow, and send them back."""
    standing = ledger.standings[facts.rollout.rollout_id]
    for lane, found in lane_health(facts, ledger).items():
        if not found.cause or standing.stop_of(lane) is not None:
            continue
        wave = max(0, standing.wave)
        standing.gate_stops += (GateStop(lane.profile, lane.variant_id, wave, found.cause, str(found.figures["gate"])),)
        ledger.changed_standings.add(facts.rollout.rollout_id)
        back, kept = _send_back(lane, facts, ledger, now=now)
        sentence = f"Lane {lane.profile}: {found.cause}; {counted(back, 'device goes', 'devices go')} back"
        sentence += (
            f", {counted(kept, 'has nothing to go back to and keeps', 'have nothing to go back to and keep')} it."
            if kept
            else "."
        )
        ledger.decide(
            facts.rollout,
            "gate_failed",
            sentence,
            wave=wave,
            profile=lane.profile,
            variant_id=lane.variant_id,
            back=back,
            kept=kept,
            **found.figures,
        )
        if standing.state is RolloutState.FINISHED:
            ledger.stand(facts.rollout.rollout_id, standing.state, f"{standing.reason} Since then: {sentence}")


def lane_health(facts: Facts, ledger: Ledger) -> dict[Lane, LaneHealth]:
    """Every lane of which something was measured, by those who run the variant or by shadows."""
    rows = ledger.rows_of(facts.rollout.rollout_id)
    if not facts.measured and not any(row.shadow is not None for row in rows):
        return {}
    lanes: dict[Lane, list[Deployment]] = {}
    for row in rows:
        if row.variant_id is not None:
            lanes.setdefault(gate.lane_of(row), []).append(row)
    profiles = {row.profile for row in rows}
    return {
        lane: health.examine(
            [facts.measured[row.deployment_id] for row in members if row.deployment_id in facts.measured],
            facts.rollout.options,
            lanes=max(len(profiles), len(lanes)),
            shadows=[row.shadow for row in members if row.shadow is not None],
        )
        for lane, members in sorted(lanes.items())
    }


def is_held(facts: Facts, ledger: Ledger, *, now: float) -> bool:
    """Whether the next wave waits: for the voices of the one that is open, its measurements, or what they decide."""
    return (
        _has_fallen_silent(facts, ledger, now=now)
        or _waits_for_samples(facts, ledger, now=now)
        or _waits_for_a_decision(facts, ledger, now=now)
    )


def silence_s(facts: Facts) -> float:
    """For how long a device that runs it may say nothing; after that nobody knows whether it still does."""
    return max(facts.rollout.options.silence_deadline_s, 2 * facts.status_interval_s)


def unheard(rows: Iterable[Deployment], facts: Facts, *, now: float) -> list[Deployment]:
    """Those that run it by what they said last, and have said nothing for too long since."""
    heard_since = now - silence_s(facts)
    if facts.listening_since >= heard_since:
        return []  # it is the registry that could not hear
    return [
        row
        for row in rows
        if row.state == RUNNING
        and (row.device_id not in facts.heard or facts.heard[row.device_id].last_seen_at < heard_since)
    ]


def _running(facts: Facts, ledger: Ledger) -> list[Deployment]:
    """Who of the open wave runs it, in lanes that go on: what others lack holds up nobody."""
    standing = ledger.standings[facts.rollout.rollout_id]
    return [
        row
        for row in ledger.rows_of(facts.rollout.rollout_id)
        if row.wave == standing.wave
        and row.state == RUNNING
        and not standing.lane(row.profile).held
        and not standing.lane(row.profile).ended
    ]


def _has_fallen_silent(facts: Facts, ledger: Ledger, *, now: float) -> bool:
    """Whether fewer devices of a lane are still heard than the quorum: an operator decides, once for each wave."""
    rollout, standing = facts.rollout, ledger.standings[facts.rollout.rollout_id]
    if not rollout.options.quorum or standing.wave < 0 or standing.unmeasured_wave == standing.wave:
        return False
    rows = _running(facts, ledger)
    silent = {row.deployment_id for row in unheard(rows, facts, now=now)}
    lanes: dict[str, list[bool]] = {}
    for row in rows:
        lanes.setdefault(row.profile, []).append(row.deployment_id not in silent)
    short = sorted(profile for profile, heard in lanes.items() if sum(heard) < rollout.options.quorum * len(heard))
    if not short:
        return False
    standing.unmeasured_wave = standing.wave
    ledger.changed_standings.add(rollout.rollout_id)
    sentence = (
        f"Of the {counted(len(rows), 'device', 'devices')} of wave {standing.wave + 1} that ran it {len(silent)} said "
        f"nothing for more than {silence_s(facts):g} s; in {listed(short)} fewer than the quorum are heard"
    )
    sentence += _pause(short, lanes, sentence, facts, ledger)
    ledger.decide(rollout, "fell_silent", sentence, wave=standing.wave, running=len(rows), silent=len(silent))
    return True


def _pause(short: list[str], lanes: Collection[str], sentence: str, facts: Facts, ledger: Ledger) -> str:
    """Pause the lanes of which too little is known; all of it, where that is every one. The rest of the sentence."""
    rollout_id, standing = facts.rollout.rollout_id, ledger.standings[facts.rollout.rollout_id]
    if len(short) == len(lanes):
        paused = f": paused, `rollout resume {rollout_id}` goes on without."
        ledger.stand(rollout_id, RolloutState.PAUSED, sentence + paused)
        return paused
    for profile in short:
        standing.lanes[profile] = replace(standing.lane(profile), paused=True)
    ledger.changed_standings.add(rollout_id)
    return f": paused there, `rollout resume {rollout_id} --profile {short[0]}` goes on without."


def _waits_for_samples(facts: Facts, ledger: Ledger, *, now: float) -> bool:
    """Whether somebody of the open wave has not measured enough; past the deadline the quorum decides."""
    rollout, standing = facts.rollout, ledger.standings[facts.rollout.rollout_id]
    rows = _running(facts, ledger)
    missing = [row for row in rows if row.deployment_id in facts.expected]
    if not missing:
        return False
    deadline_s = rollout.options.gate_deadline_s
    if now - max(facts.listening_since, *(row.running_at or 0.0 for row in rows)) <= deadline_s:
        number = counted(len(missing), "device of it has", "devices of it have")
        ledger.stand(
            rollout.rollout_id,
            standing.state,
            f"Wave {standing.wave + 1} runs; the next waits at most {deadline_s:g} s for measurements: "
            f"{number} not answered {rollout.options.min_inferences} inferences yet.",
        )
        return True
    if standing.unmeasured_wave == standing.wave:
        return False  # told, and where it had to pause an operator has resumed it
    standing.unmeasured_wave = standing.wave
    ledger.changed_standings.add(rollout.rollout_id)
    return _after_deadline(facts, ledger, rows, missing)


def _after_deadline(facts: Facts, ledger: Ledger, rows: list[Deployment], missing: list[Deployment]) -> bool:
    """By the quorum of each lane: go on with what is known, or ask the operator."""
    rollout, standing = facts.rollout, ledger.standings[facts.rollout.rollout_id]
    lanes: dict[str, list[bool]] = {}
    for row in rows:
        lanes.setdefault(row.profile, []).append(row.deployment_id in facts.measured)
    short = sorted(profile for profile, told in lanes.items() if sum(told) < rollout.options.quorum * len(told))
    measured = sum(row.deployment_id in facts.measured for row in rows)
    sentence = (
        f"Wave {standing.wave + 1} was measured on {measured} of {len(rows)} devices within "
        f"{rollout.options.gate_deadline_s:g} s"
    )
    numbers: dict[str, float] = {"measured": measured, "running": len(rows), "missing": len(missing)}
    if not short:
        ledger.decide(rollout, "unmeasured", f"{sentence}: it goes on.", wave=standing.wave, **numbers)
        return False
    sentence += f", in {listed(short)} on fewer than the quorum"
    sentence += _pause(short, lanes, sentence, facts, ledger)
    ledger.decide(rollout, "unmeasured", sentence, wave=standing.wave, **numbers)
    return True


def _waits_for_a_decision(facts: Facts, ledger: Ledger, *, now: float) -> bool:
    """Whether a lane looks far worse than is allowed, though no gate is sure; past the deadline it is paused."""
    rollout, standing = facts.rollout, ledger.standings[facts.rollout.rollout_id]
    deadline_s = rollout.options.gate_deadline_s
    if not deadline_s or standing.wave < 0:
        return False
    for lane, found in lane_health(facts, ledger).items():
        of_lane = standing.lane(lane.profile)
        if not found.doubt or of_lane.held or of_lane.ended or of_lane.undecided == lane.variant_id:
            continue
        if standing.stop_of(lane) is not None:
            continue
        rows = [row for row in ledger.rows_of(rollout.rollout_id) if gate.lane_of(row) == lane and row.state == RUNNING]
        if rows and now - max(facts.listening_since, *(row.running_at or 0.0 for row in rows)) <= deadline_s:
            sentence = (
                f"Wave {standing.wave + 1} runs; the next waits at most {deadline_s:g} s for more to be known of "
            )
            ledger.stand(rollout.rollout_id, standing.state, f"{sentence}lane {lane.profile}: {found.doubt}.")
            return True
        if rows:
            _pause_undecided(lane, found, facts, ledger)
            return True  # whom the next wave is for has changed
    return False


def _pause_undecided(lane: Lane, found: LaneHealth, facts: Facts, ledger: Ledger) -> None:
    """An operator decides what measurements could not; other lanes go on."""
    rollout, standing = facts.rollout, ledger.standings[facts.rollout.rollout_id]
    before = standing.lane(lane.profile)
    standing.lanes[lane.profile] = replace(before, paused=True, undecided=lane.variant_id)
    ledger.changed_standings.add(rollout.rollout_id)
    sentence = (
        f"Lane {lane.profile}: {found.doubt}, and that was not decided within {rollout.options.gate_deadline_s:g} s: "
        f"paused, `rollout resume {rollout.rollout_id} --profile {lane.profile}` goes on."
    )
    known = {"profile": lane.profile, "variant_id": lane.variant_id}
    ledger.decide(rollout, "undecided", sentence, wave=standing.wave, **known, **found.figures)


def tell_lanes(facts: Facts, ledger: Ledger) -> None:
    """Record what is known of each lane, before a wave opens on it."""
    standing = ledger.standings[facts.rollout.rollout_id]
    for lane, found in lane_health(facts, ledger).items():
        if (found.measured or found.shadows) and standing.stop_of(lane) is None:
            sentence = f"Lane {lane.profile} after wave {standing.wave + 1}: {found.told()}."
            ledger.decide(
                facts.rollout,
                "lane_measured",
                sentence,
                wave=standing.wave,
                profile=lane.profile,
                variant_id=lane.variant_id,
                **found.figures,
            )


def _send_back(lane: Lane, facts: Facts, ledger: Ledger, *, now: float) -> tuple[int, int]:
    """Who runs the variant shall run the last good version again; who has none keeps it. How many of each."""
    back = kept = 0
    for row in ledger.rows_of(facts.rollout.rollout_id):
        if row.variant_id is None or gate.lane_of(row) != lane or not going_back.has_it(row):
            continue
        if not ledger.is_wanted(row):
            continue  # a newer rollout has it, or it goes back already
        if ledger.has_last_good(row):
            ledger.restore(row, now=now)
            row.offered_generation, row.changed_at = ledger.next_generation(row.device_id), now
            ledger.set_state(row, ROLLING_BACK, reason=Why.GATE)
            back += 1
        else:
            kept += 1
    return back, kept

"""A lane with no variant left asks the compressor for one, and goes on with it (docs/adr/0014). Pure.

It is bounded: by the number of asks of a lane, by a deadline for each, and by what its devices have rejected, which is
never given again. The ask is written with the decision and with the job, in one transaction: a controller that was
killed reads that it has asked.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from edge_agent.protocol.states import DeploymentState, Reason
from server.rollouts import gate, retrying
from server.rollouts.facts import CLOSED_STATES, ROLLING_BACK, WAITING, Ask, GateStop, Why
from server.rollouts.going_back import has_it
from server.rollouts.wording import counted
from server.schemas.rollouts import RolloutState
from server.windows import text_of_moment

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from server.rollouts.facts import AskedJob, Deployment, Facts, LaneStanding, Standing, VariantFact
    from server.rollouts.gate import Lane, LaneStop
    from server.rollouts.ledger import Ledger

# A shadow's latency is that of cold caches: it stops a lane, and is no figure that a search could aim at.
LATENCY_GATES: Final = frozenset({"slower", "over_limit"})
UNANSWERED: Final = "unanswered"  # the gate of a lane that waited for the compressor in vain
UNDER_WAY: Final = frozenset({"queued", "running"})


@dataclass(frozen=True, slots=True)
class Wish:
    """The search that an ask is: what the worker needs to know."""

    job_id: str
    rollout_id: str
    model: str
    version: str
    profile: str
    number: int
    seconds: float
    seed: int
    latency_p95_ms: float | None
    until_fits: bool


def ask(lane: Lane, stop: LaneStop, facts: Facts, ledger: Ledger, *, now: float) -> bool:
    """Ask for a variant for a lane that would stop; whether it waits for one now instead."""
    rollout, options = facts.rollout, facts.rollout.options
    standing = ledger.standings[rollout.rollout_id]
    before = standing.lane(lane.profile)
    rows = [row for row in ledger.rows_of(rollout.rollout_id) if row.variant_id and gate.lane_of(row) == lane]
    too_slow = _is_too_slow(lane, standing, rows)
    if (
        not options.ask_compressor_s
        or before.waits_for is not None
        or before.ended
        or len(before.asks) >= options.ask_times
    ):
        return False
    if not too_slow and (standing.stop_of(lane) is not None or not any(map(retrying.rejects, rows))):
        return False  # what fails for another reason, another file would not mend
    rejected = (*(one for one in before.rejected if one != lane.variant_id), lane.variant_id)
    number = len(before.asks) + 1
    made = Ask(
        number=number,
        job_id=_digest(rollout.rollout_id, lane.profile, number)[:32],
        variant_id=lane.variant_id,
        wave=stop.wave,
        cause=stop.cause,
        until=now + options.ask_deadline_s,
        rejected=len(rejected),
        latency_p95_ms=_most_ms(rows, facts) if standing.stop_of(lane) is not None else None,
    )
    standing.lanes[lane.profile] = replace(before, rejected=rejected, asks=(*before.asks, made))
    ledger.changed_standings.add(rollout.rollout_id)
    ledger.wishes.append(
        Wish(
            job_id=made.job_id,
            rollout_id=rollout.rollout_id,
            model=rollout.model,
            version=rollout.version,
            profile=lane.profile,
            number=number,
            seconds=options.ask_compressor_s,
            # another one for each ask: a search of the same seed would go on where an earlier one has ended
            seed=int(_digest(rollout.rollout_id, lane.profile, number)[:7], 16),
            latency_p95_ms=made.latency_p95_ms,
            # a file that answers wrongly there fits as far as is known: the first that fits may be that very one
            until_fits=too_slow,
        )
    )
    waiting = _make_wait(lane, rows, facts, ledger, now=now)
    _tell_ask(lane, made, facts, ledger, waiting=waiting)
    return True


def follow(facts: Facts, ledger: Ledger, *, now: float) -> frozenset[Lane]:
    """Take up what the compressor has found, or end the wait; the lanes that stop then as they would have before."""
    standing = ledger.standings[facts.rollout.rollout_id]
    stopped = []
    for profile, lane in sorted(standing.lanes.items()):
        if (waits_for := lane.waits_for) is None:
            continue
        job = facts.asked.get(waits_for.job_id)
        if lane.ended:
            _close(profile, "dropped", facts, ledger)
        elif job is not None and job.state == "done":
            found = None if job.sentence else retrying.next_best(facts, standing, profile)
            if found is None:
                said = job.sentence or "it knows of nothing that the lane has not rejected already"
                stopped.append(_give_up(profile, "nothing", f"has found no variant: {said}", facts, ledger))
            else:
                _go_on(profile, found, facts, ledger, now=now)
        elif job is not None and job.state not in UNDER_WAY:
            said = job.sentence or f"it is {job.state}"
            stopped.append(_give_up(profile, "failed", f"has ended without a variant: {said}", facts, ledger))
        elif now > waits_for.until:
            wait_s = facts.rollout.options.ask_deadline_s
            stopped.append(_give_up(profile, "late", f"has not ended within {wait_s:g} s", facts, ledger))
    return frozenset(stopped)


def drop_all(facts: Facts, ledger: Ledger) -> None:
    """The rollout ends otherwise: none of its lanes waits any more, and nothing may say that one does."""
    for profile, lane in sorted(ledger.standings[facts.rollout.rollout_id].lanes.items()):
        if lane.waits_for is not None:
            _close(profile, "dropped", facts, ledger)


def ask_after_the_end(facts: Facts, ledger: Ledger, *, said: Iterable[Lane], now: float) -> None:
    """A gate that stops a lane of a rollout which has finished: where that asks, the rollout goes on."""
    standing, known = ledger.standings[facts.rollout.rollout_id], set(said)
    if standing.state is not RolloutState.FINISHED:
        return
    for stop in standing.gate_stops:
        lane = gate.Lane(stop.profile, stop.variant_id)
        if lane not in known and ask(lane, gate.LaneStop(stop.wave, stop.cause), facts, ledger, now=now):
            ledger.stand(facts.rollout.rollout_id, RolloutState.RUNNING, told(facts, standing))


def told(facts: Facts, standing: Standing) -> str:
    """A sentence: which lanes wait for which jobs; empty where none does."""
    waits = [
        f"lane {profile} waits for the compressor (job {one.job_id}, {_told_of_job(facts.asked.get(one.job_id))}) "
        f"until {text_of_moment(one.until)} at most"
        for profile, lane in sorted(standing.lanes.items())
        if (one := lane.waits_for) is not None
    ]
    sentence = ", and ".join(waits)
    return f"{sentence[0].upper()}{sentence[1:]}." if sentence else ""


def without_hope(
    stops: Mapping[Lane, LaneStop], lanes: Mapping[str, LaneStanding], *, found: bool
) -> dict[Lane, LaneStop]:
    """Those of the stopped lanes that do not wait for the compressor.

    Args:
        stops: of a rollout.
        lanes: what became of its lanes, by profile.
        found: whether those that stopped with one variant and have been found another are left out as well.
    """
    outcomes = {"", "found"} if found else {""}
    answered = {
        gate.Lane(profile, one.variant_id)
        for profile, lane in lanes.items()
        for one in lane.asks
        if one.outcome in outcomes
    }
    return {lane: stop for lane, stop in stops.items() if lane not in answered}


def _is_too_slow(lane: Lane, standing: Standing, rows: Iterable[Deployment]) -> bool:
    stop = standing.stop_of(lane)
    if stop is not None:
        return stop.gate in LATENCY_GATES
    return any(retrying.rejects(row) and row.reason == Reason.LATENCY_LIMIT for row in rows)


def _most_ms(rows: Sequence[Deployment], facts: Facts) -> float | None:
    """What the p95 of these devices was before, with what it may be longer; None: nothing was measured before."""
    measured = [facts.measured[row.deployment_id] for row in rows if row.deployment_id in facts.measured]
    before = [one.before.p95_ms for one in measured if one.before is not None and one.before.p95_ms]
    if not before:
        return None
    return math.exp(math.fsum(map(math.log, before)) / len(before)) * (1 + facts.rollout.options.max_slowdown)


def _make_wait(lane: Lane, rows: Iterable[Deployment], facts: Facts, ledger: Ledger, *, now: float) -> int:
    """Who was offered the variant and does not run it waits, with what it ran before; how many of the lane wait now."""
    for row in rows:
        if row.state not in CLOSED_STATES | {WAITING} and not has_it(row) and not _is_sent_back(row):
            row.retries = 0
            ledger.begin_again(row, why=f"{lane.variant_id} was rejected in its lane", now=now)
    of_lane = [row for row in ledger.rows_of(facts.rollout.rollout_id) if row.profile == lane.profile]
    return sum(row.state == WAITING or _is_sent_back(row) for row in of_lane)


def _is_sent_back(row: Deployment) -> bool:
    """By a gate: it runs what it ran before, or will."""
    return row.reason == Why.GATE and row.state in {ROLLING_BACK, DeploymentState.ROLLED_BACK}


def _tell_ask(lane: Lane, made: Ask, facts: Facts, ledger: Ledger, *, waiting: int) -> None:
    options = facts.rollout.options
    aim = f" with a p95 of at most {made.latency_p95_ms:.3g} ms there" if made.latency_p95_ms is not None else ""
    sentence = (
        f"Lane {lane.profile}: {made.cause}; no variant is left to try, so the compressor is asked for one{aim} (job "
        f"{made.job_id}, ask {made.number} of {options.ask_times}, a search of {options.ask_compressor_s:g} s): "
        f"{counted(waiting, 'device waits', 'devices wait')} until {text_of_moment(made.until)} at most."
    )
    numbers: dict[str, float | str] = {
        "wave": made.wave,
        "profile": lane.profile,
        "variant_id": lane.variant_id,
        "job_id": made.job_id,
        "ask": made.number,
        "budget_s": options.ask_compressor_s,
        "until": made.until,
        "waiting": waiting,
    }
    if made.latency_p95_ms is not None:
        numbers["latency_p95_ms"] = made.latency_p95_ms
    ledger.decide(facts.rollout, "compressor_asked", sentence, **numbers)


def _go_on(profile: str, found: VariantFact, facts: Facts, ledger: Ledger, *, now: float) -> None:
    """Everybody of the lane who does not run what was rejected is given what was found, wave by wave from the first."""
    made = _close(profile, "found", facts, ledger)
    getting = [row for row in ledger.rows_of(facts.rollout.rollout_id) if row.profile == profile]
    for row in [row for row in getting if _is_sent_back(row)]:
        row.retries = 0
        ledger.begin_again(row, why=f"{made.variant_id} was taken back in its lane", now=now)
    waiting = sum(row.state == WAITING for row in getting)
    sentence = (
        f"Lane {profile}: job {made.job_id} has found {found.variant_id}"
        f"{', which is unproven there' if found.unproven else ''}{retrying.price(found)}; "
        f"{counted(waiting, 'device gets', 'devices get')} it, wave by wave."
    )
    _tell_answer(profile, made, sentence, facts, ledger, found=found.variant_id, waiting=waiting)


def _give_up(profile: str, outcome: str, why: str, facts: Facts, ledger: Ledger) -> Lane:
    """Stop the lane, by the variant that it would be given now: nothing is left that it may try."""
    standing = ledger.standings[facts.rollout.rollout_id]
    made = _close(profile, outcome, facts, ledger)
    given = retrying.variant_of_lane(facts, standing, profile)
    cause = f"{made.cause}, and job {made.job_id} {why.rstrip('.')}"
    lane = gate.Lane(profile, given.variant_id if given is not None else made.variant_id)
    before = tuple(stop for stop in standing.gate_stops if (stop.profile, stop.variant_id) != lane)
    standing.gate_stops = (*before, GateStop(*lane, made.wave, cause, gate=UNANSWERED))
    sentence = f"Lane {profile}: job {made.job_id} {why.rstrip('.')}; it waits no longer."
    _tell_answer(profile, made, sentence, facts, ledger, outcome=outcome)
    return lane


def _close(profile: str, outcome: str, facts: Facts, ledger: Ledger) -> Ask:
    standing = ledger.standings[facts.rollout.rollout_id]
    lane = standing.lane(profile)
    made = replace(lane.asks[-1], outcome=outcome)
    standing.lanes[profile] = replace(lane, asks=(*lane.asks[:-1], made))
    ledger.changed_standings.add(facts.rollout.rollout_id)
    return made


def _tell_answer(profile: str, made: Ask, sentence: str, facts: Facts, ledger: Ledger, **numbers: float | str) -> None:
    known: dict[str, float | str] = {"wave": made.wave, "profile": profile, "job_id": made.job_id, "ask": made.number}
    ledger.decide(facts.rollout, "compressor_answered", sentence, **known, **numbers)


def _told_of_job(job: AskedJob | None) -> str:
    return "queued" if job is None else job.state


def _digest(rollout_id: str, profile: str, number: int) -> str:
    return hashlib.sha256(f"{rollout_id}:{profile}:ask:{number}".encode()).hexdigest()

"""What failures stop: the lane that they are in, or the whole rollout (docs/adr/0004-what-a-failure-stops.md). Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from server.rollouts import asking, gate, going_back, retrying
from server.rollouts.facts import CLOSED_STATES, WAITING, Deployment, Facts, Why
from server.rollouts.gate import LaneStop
from server.rollouts.plan import in_plan_order
from server.rollouts.wording import counted, will_not_get_it
from server.schemas.rollouts import RolloutState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from server.rollouts.gate import Lane
    from server.rollouts.ledger import Ledger


def stopped_lanes(facts: Facts, ledger: Ledger) -> Mapping[Lane, LaneStop]:
    """The lanes that may not go on, by what is written now."""
    standing = ledger.standings[facts.rollout.rollout_id]
    measured = {
        gate.Lane(stop.profile, stop.variant_id): LaneStop(stop.wave, stop.cause) for stop in standing.gate_stops
    }
    rows = [row for row in ledger.rows_of(facts.rollout.rollout_id) if row.variant_id is not None]
    if not any(gate.bucket(row) in {"failed", "refused"} for row in rows):
        return measured  # nearly always, and then a large fleet need not be sorted
    rows = in_plan_order(rows, seed=facts.rollout.seed)
    return measured | gate.stopped_lanes(rows, max_failures=facts.rollout.options.max_failures)


def stop_what_is_bad(facts: Facts, ledger: Ledger, *, said: Mapping[Lane, LaneStop], now: float) -> bool:
    """Stop what may not go on; whether that is the whole rollout.

    Args:
        facts: of this rollout.
        ledger: with what its devices said last.
        said: the lanes that had stopped when this tick began: that was told then.
        now: seconds since 1970.
    """
    stops = _stops_without_another_variant(facts, ledger, said, now=now)
    lanes: dict[Lane, list[Deployment]] = {}
    for row in ledger.rows_of(facts.rollout.rollout_id):
        if row.state not in CLOSED_STATES and not _is_refused(row, facts):
            lanes.setdefault(_lane_of(row, facts, ledger), []).append(row)
    reason = _reason_to_stop(facts, lanes, stops, new=[stop for lane, stop in stops.items() if lane not in said])
    if reason:
        stop_rollout(facts, ledger, f"Stopped: {reason}.", now=now)
        return True
    for lane, stop in stops.items():
        members = lanes.get(lane, [])
        running = sum(going_back.has_it(row) and row.reason != Why.GATE for row in members)
        others = going_back.withdraw(members, ledger, why=Why.LANE_STOPPED, detail=stop.cause, now=now)
        if lane not in said:
            _tell_stop(lane, stop, facts, ledger, others=others, running=running)
    return False


def stop_after_the_end(facts: Facts, ledger: Ledger, *, said: Mapping[Lane, LaneStop], now: float) -> None:
    """Where a rollout has finished, nobody gets any more what has stopped a lane: not one that was silent till now.

    Args:
        facts: of this rollout.
        ledger: with what its devices said last.
        said: the lanes that had stopped when this tick began: that was told then.
        now: seconds since 1970.
    """
    rollout_id = facts.rollout.rollout_id
    standing = ledger.standings[rollout_id]
    if standing.state is not RolloutState.FINISHED:
        return
    for lane, stop in stopped_lanes(facts, ledger).items():
        rows = [row for row in ledger.rows_of(rollout_id) if row.variant_id is not None and gate.lane_of(row) == lane]
        others = going_back.withdraw(rows, ledger, why=Why.LANE_STOPPED, detail=stop.cause, now=now)
        if lane in said or (standing.stop_of(lane) is not None and not others):
            continue  # its gate has told all there is
        running = sum(going_back.has_it(row) and row.reason != Why.GATE for row in rows)
        sentence = _tell_stop(lane, stop, facts, ledger, others=others, running=running)
        ledger.stand(rollout_id, standing.state, f"{standing.reason} Since then: {sentence}")


def _tell_stop(lane: Lane, stop: LaneStop, facts: Facts, ledger: Ledger, *, others: int, running: int) -> str:
    sentence = f"Lane {lane.profile} stops: {stop.cause}; {will_not_get_it(others, other=True)}"
    sentence += f", {counted(running, 'that runs it keeps', 'that run it keep')} it." if running else "."
    ledger.decide(facts.rollout, "lane_stopped", sentence, wave=stop.wave, profile=lane.profile, withdrawn=others)
    return sentence


def _stops_without_another_variant(
    facts: Facts, ledger: Ledger, said: Mapping[Lane, LaneStop], *, now: float
) -> Mapping[Lane, LaneStop]:
    """The lanes that stop, after those that can have been given another variant, or have asked for one."""
    stops = stopped_lanes(facts, ledger)
    standing = ledger.standings[facts.rollout.rollout_id]
    helped = [
        (standing.stop_of(lane) is None and retrying.try_next_variant(lane, stop, facts, ledger, now=now))
        or asking.ask(lane, stop, facts, ledger, now=now)
        for lane, stop in stops.items()
        if lane not in said
    ]
    if any(helped):
        stops = stopped_lanes(facts, ledger)
    return asking.without_hope(stops, standing.lanes, found=False)


def _reason_to_stop(
    facts: Facts, lanes: Mapping[Lane, list[Deployment]], stops: Mapping[Lane, LaneStop], *, new: list[LaneStop]
) -> str:
    """Why nobody at all may go on, as half a sentence; empty where somebody may."""
    if new and lanes.keys() <= stops.keys():
        return ("no lane goes on; " if len(stops) > 1 else "") + "; ".join(stop.cause for stop in new)
    rows = [row for lane, members in lanes.items() if lane not in stops for row in members]
    allowed = facts.rollout.options.max_failures
    if sum(gate.bucket(row) == "failed" for row in rows) <= allowed:
        return ""
    return gate.scattered_failures(in_plan_order(rows, seed=facts.rollout.seed), max_failures=allowed)


def stop_rollout(facts: Facts, ledger: Ledger, sentence: str, *, now: float) -> None:
    """Nobody else gets it; who runs it keeps it."""
    rows = ledger.rows_of(facts.rollout.rollout_id)
    reached = [row for row in rows if row.wave <= ledger.standings[facts.rollout.rollout_id].wave]
    ledger.stand(facts.rollout.rollout_id, RolloutState.STOPPED, sentence)
    ledger.decide(facts.rollout, "stopped", sentence, **gate.count_wave(reached).numbers())
    going_back.withdraw(rows, ledger, why=Why.ROLLOUT_STOPPED, now=now)
    asking.drop_all(facts, ledger)


def _is_refused(row: Deployment, facts: Facts) -> bool:
    """Whether nothing fits its profile, though its wave has not opened and nobody has written so yet."""
    choice = facts.choices.get(row.profile)
    return row.state == WAITING and choice is not None and choice.variant is None


def _lane_of(row: Deployment, facts: Facts, ledger: Ledger) -> Lane:
    """Where a device has its variant from, or would get it from if its turn came now."""
    if row.state != WAITING:
        return gate.lane_of(row)
    if ledger.standings[row.rollout_id].lane(row.profile).waits_for is not None:
        return gate.Lane(row.profile, "")  # nobody knows yet
    variant = retrying.variant_of_lane(facts, ledger.standings[row.rollout_id], row.profile)
    return gate.Lane(row.profile, variant.variant_id if variant else "")

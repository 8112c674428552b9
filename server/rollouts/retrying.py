"""A device that failed is offered the variant again; a lane that rejects a variant is given the next. Pure."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from edge_agent.protocol.states import DeploymentState
from server.rollouts import gate
from server.rollouts.facts import CLOSED_STATES, WAITING, ChoiceFact
from server.rollouts.going_back import has_it
from server.rollouts.verify import speaks_against_variant
from server.rollouts.wording import counted
from server.windows import text_of_moment

if TYPE_CHECKING:
    from server.rollouts.facts import Deployment, Facts, Standing, VariantFact
    from server.rollouts.gate import Lane, LaneStop
    from server.rollouts.ledger import Ledger

RETRY_CAP_S: Final = 3600.0


def back_off_s(first_s: float, *, retries: int, chance: float) -> float:
    """How long a device rests before it is tried again: doubles with each try, has a cap, and is spread.

    Args:
        first_s: before the first try, at most.
        retries: that have failed already.
        chance: in [0, 1): where in the upper half of the time this device comes.
    """
    longest_s: float = min(RETRY_CAP_S, first_s * 2 ** min(retries, 30))
    return longest_s * (0.5 + chance / 2)


def try_failed_again(facts: Facts, ledger: Ledger, *, now: float) -> None:
    """Whoever failed and may try again waits for a while, with what it ran before."""
    options, standing = facts.rollout.options, ledger.standings[facts.rollout.rollout_id]
    for row in ledger.rows_of(facts.rollout.rollout_id):
        if row.state != DeploymentState.FAILED or row.retries >= options.max_retries or not ledger.is_wanted(row):
            continue
        if standing.lane(row.profile).ended or standing.stop_of(gate.lane_of(row)) is not None:
            continue
        rest_s = back_off_s(options.retry_first_s, retries=row.retries, chance=_chance(row.deployment_id))
        row.retries += 1
        said = f"{row.reason}: {row.detail}" if row.detail else row.reason
        again = f"try {row.retries} of {options.max_retries} after the failure begins at {text_of_moment(now + rest_s)}"
        numbers: dict[str, float | str] = {
            "wave": row.wave,
            "profile": row.profile,
            "retries": row.retries,
            "rest_s": rest_s,
        }
        ledger.begin_again(row, why=f"{said}; {again}", retry_at=now + rest_s, now=now)
        ledger.decide(facts.rollout, "retry", f"{row.device_id} failed ({said}): {again}.", **numbers)


def variant_of_lane(facts: Facts, standing: Standing, profile: str) -> VariantFact | None:
    """What a lane is given now: the best that none of its devices has rejected; None where nothing fits or is built."""
    return next_best(facts, standing, profile) or facts.choices.get(profile, ChoiceFact()).variant


def next_best(facts: Facts, standing: Standing, profile: str) -> VariantFact | None:
    """The best that none of the devices of a lane has rejected; None where nothing is left."""
    return _next_best(facts.choices.get(profile, ChoiceFact()), standing.lane(profile).rejected)


def try_next_variant(lane: Lane, stop: LaneStop, facts: Facts, ledger: Ledger, *, now: float) -> bool:
    """Give a lane that would stop, because devices reject its variant, the next best; whether there is one left."""
    standing = ledger.standings[facts.rollout.rollout_id]
    rows = [row for row in ledger.rows_of(facts.rollout.rollout_id) if row.variant_id and gate.lane_of(row) == lane]
    known = standing.lane(lane.profile)
    rejected = (*known.rejected, lane.variant_id)
    following = _next_best(facts.choices.get(lane.profile, ChoiceFact()), rejected)
    # what a search has found begins the count anew
    tried = len(rejected) - 1 - (known.asks[-1].rejected if known.asks else 0)
    left = facts.rollout.options.other_variants - tried
    if following is None or left <= 0 or not any(rejects(row) for row in rows):
        return False
    standing.lanes[lane.profile] = replace(known, rejected=rejected)
    ledger.changed_standings.add(facts.rollout.rollout_id)
    getting = [row for row in rows if row.state not in CLOSED_STATES | {WAITING} and not has_it(row)]
    for row in getting:
        row.retries = 0
        ledger.begin_again(row, why=f"{lane.variant_id} was rejected in its lane", now=now)
    numbers: dict[str, float | str] = {"wave": stop.wave, "profile": lane.profile, "left": left - 1}
    sentence = (
        f"Lane {lane.profile}: {stop.cause}; {counted(len(getting), 'device that had it tries', 'that had it try')} "
        f"{following.variant_id} next{price(following)}, "
        f"{counted(left - 1, 'more variant', 'more variants')} may follow."
    )
    ledger.decide(
        facts.rollout, "next_variant", sentence, variant_id=lane.variant_id, next=following.variant_id, **numbers
    )
    return True


def price(variant: VariantFact) -> str:
    """In brackets, what it may lose; empty where that is little."""
    return f" (it {variant.caveat})" if variant.caveat else ""


def rejects(row: Deployment) -> bool:
    """Whether the variant can't run there, not just for want of room on one device."""
    return row.state == DeploymentState.REJECTED and speaks_against_variant(row)


def _next_best(choice: ChoiceFact, rejected: tuple[str, ...]) -> VariantFact | None:
    candidates = (choice.variant, *choice.others)
    return next((one for one in candidates if one is not None and one.variant_id not in rejected), None)


def _chance(name: str) -> float:
    """In [0, 1): the same for the same name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) / 2**32

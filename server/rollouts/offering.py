"""Who is offered the version in this tick, and what everyone else of the open waves waits for. Pure.

First what holds a single device (its window), then the turns of its lane, then what holds all of them: the pace and the
places in progress. What is held is offered later, in the order of the plan.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from edge_agent.protocol.states import Reason
from server.rollouts import gate
from server.rollouts.facts import FAILED_STATES, WAITING
from server.rollouts.plan import in_plan_order
from server.rollouts.retrying import variant_of_lane
from server.rollouts.shadows import plan_of
from server.rollouts.verify import proven_on_device
from server.rollouts.wording import counted, listed
from server.windows import is_open, next_opening, parse_window, text_of_moment, zone_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from server.rollouts.facts import Deployment, Facts, Standing, VariantFact
    from server.rollouts.ledger import Ledger

MINUTE_S: Final = 60.0


@dataclass(slots=True)
class Waits:
    """What devices of the open waves wait for; each is counted once."""

    window: int = 0
    opens_at: float | None = None
    """When the first of their windows opens."""
    retry: int = 0
    retry_at: float | None = None
    """When the first that has failed is tried again."""
    above: dict[str, int] = field(default_factory=dict)
    """By rollout: for one with a higher priority, which has them still."""
    paused: dict[str, int] = field(default_factory=dict)
    """By profile: in lanes that an operator has paused."""
    compressor: dict[str, int] = field(default_factory=dict)
    """By profile: in lanes that have asked for a variant."""
    pace: int = 0
    places: int = 0
    deferred: int = 0
    """For an app on them, which has asked for time before the swap."""
    deferred_why: str = ""
    """What the first of them says."""

    def told(self, facts: Facts, *, wave: int) -> str:
        """Half a sentence; empty where nobody waits for any of these."""
        said = []
        if self.window:
            opens = f", which opens at {text_of_moment(self.opens_at)} first" if self.opens_at is not None else ""
            said.append(f"{counted(self.window, 'device waits', 'devices wait')} for the window{opens}")
        if self.retry:
            again = f", the first at {text_of_moment(self.retry_at)}" if self.retry_at is not None else ""
            said.append(f"{counted(self.retry, 'device that failed is', 'devices that failed are')} tried again{again}")
        for rollout_id, number in sorted(self.above.items()):
            waiting = counted(number, "device waits", "devices wait")
            said.append(f"{waiting} for rollout {rollout_id}, which has a higher priority")
        for profile, number in sorted(self.paused.items()):
            said.append(f"{counted(number, 'device waits', 'devices wait')} in lane {profile}, which is paused")
        for profile, number in sorted(self.compressor.items()):
            said.append(f"{counted(number, 'device waits', 'devices wait')} in lane {profile} for the compressor")
        if self.pace:
            pace = pace_of(facts, wave=wave)
            said.append(f"{counted(self.pace, 'device waits', 'devices wait')} for the pace of {pace} a minute")
        if self.places:
            most = facts.rollout.options.max_in_progress
            said.append(f"{counted(self.places, 'device waits', 'devices wait')} for one of {most} places in progress")
        if self.deferred:
            among = "for example: " if self.deferred > 1 else ""
            waiting = counted(self.deferred, "device defers the swap", "devices defer the swap")
            said.append(f"{waiting} ({among}{self.deferred_why})")
        return listed(said)


@dataclass(frozen=True, slots=True)
class _Turn:
    row: Deployment
    variant: VariantFact
    canary: bool


def offer_due(facts: Facts, ledger: Ledger, *, now: float) -> Waits:
    """Offer the version to everyone whose turn has come: to run it, or, while it is staged, to hold it ready."""
    rows = ledger.rows_of(facts.rollout.rollout_id)
    staging = is_staging(facts, ledger.standings[facts.rollout.rollout_id])
    waits, shadow, max_defer_s = _deferred(rows), plan_of(facts.rollout), facts.rollout.options.max_defer_s
    pace, places = _room(facts, ledger, rows, now=now)
    for turn in _turns(facts, ledger, rows, waits, now=now):
        if pace <= 0:
            waits.pace += 1
            continue
        if places <= 0 and turn.row.takes_place:
            waits.places += 1
            continue
        if staging:
            offered = ledger.stage(turn.row, turn.variant, max_defer_s=max_defer_s, now=now)
        else:
            offered = ledger.offer(turn.row, turn.variant, shadow=shadow, max_defer_s=max_defer_s, now=now)
        if offered:
            pace, places = pace - 1, places - turn.row.takes_place
            _note_canary(turn, facts, ledger)
    return waits


def is_staging(facts: Facts, standing: Standing) -> bool:
    """Whether devices fetch and prove it, and nobody may answer with it yet."""
    return facts.rollout.options.stage and not standing.activated


def has_turn_to_come(row: Deployment, ledger: Ledger) -> bool:
    """Whether a device is still to be told that it shall run it; not one where it failed when it was staged."""
    return row.state == WAITING or (
        ledger.is_staged(row) and gate.bucket(row) in {"staged", "in_progress", "timed_out"}
    )


def _deferred(rows: Iterable[Deployment]) -> Waits:
    deferring = [row for row in rows if row.reason == Reason.DEFERRED and gate.bucket(row) == "in_progress"]
    return Waits(deferred=len(deferring), deferred_why=min((row.detail for row in deferring), default=""))


def pace_of(facts: Facts, *, wave: int) -> int | None:
    """How many devices may be offered it in any minute while this wave is the last open one."""
    options = facts.rollout.options
    return pace_in_wave(options.pace_per_minute, options.pace_growth, wave=wave)


def pace_in_wave(pace_per_minute: int | None, growth: float, *, wave: int) -> int | None:
    """The pace of a wave: at least one device a minute.

    >>> [pace_in_wave(10, 2.0, wave=wave) for wave in range(3)]
    [10, 20, 40]
    """
    return None if pace_per_minute is None else max(1, int(min(1e9, pace_per_minute * growth ** max(0, wave))))


def takes_place(row: Deployment) -> bool:
    """Whether a device takes one of the places in progress: not who runs it already, nor who has failed before."""
    return row.takes_place and row.running_at is None and gate.bucket(row) == "in_progress"


def _room(facts: Facts, ledger: Ledger, rows: Sequence[Deployment], *, now: float) -> tuple[float, float]:
    """How many more may be offered it: by the pace, and by the places."""
    pace = pace_of(facts, wave=ledger.standings[facts.rollout.rollout_id].wave)
    most = facts.rollout.options.max_in_progress
    latest = sum(row.opened_at is not None and row.opened_at > now - MINUTE_S for row in rows) if pace else 0
    under_way = sum(takes_place(row) for row in rows) if most else 0
    return (float("inf") if pace is None else pace - latest), (float("inf") if most is None else most - under_way)


def _turns(facts: Facts, ledger: Ledger, rows: Sequence[Deployment], waits: Waits, *, now: float) -> Iterable[_Turn]:
    """Whose turn it is in each lane of the open waves, in the order of the plan."""
    standing = ledger.standings[facts.rollout.rollout_id]
    staging = is_staging(facts, standing)
    # nobody is put at risk by what lies ready, so staging does not wait wave by wave, nor for a window
    last = len(facts.rollout.waves) - 1 if staging else standing.wave
    due = {
        row.deployment_id
        for row in rows
        if row.wave <= last and (row.state == WAITING if staging else has_turn_to_come(row, ledger))
    }
    waiting = [row for row in rows if row.deployment_id in due]
    held = _resting(waiting, standing, waits, ledger.holders_above(facts.rollout.rollout_id), now=now)
    if not staging:
        held |= _outside_window(facts, [row for row in waiting if row.device_id not in held], waits, now=now)
    behind = {} if staging else _waves_behind(rows, standing)
    lanes: dict[tuple[int, str], list[Deployment]] = {}
    for row in in_plan_order(rows, seed=facts.rollout.seed):
        if row.wave <= behind.get(row.profile, last) and row.device_id not in held:
            lanes.setdefault((0 if staging else row.wave, row.profile), []).append(row)
    turns: dict[str, _Turn] = {}
    for (lane_wave, profile), members in lanes.items():
        variant = variant_of_lane(facts, standing, profile)
        if variant is None or not any(row.deployment_id in due for row in members):
            continue
        # who runs a variant that others have rejected says nothing of the next
        lane = [row for row in members if row.variant_id in {None, variant.variant_id}]
        proven = any(_has_proven(facts, row, variant, ready=staging) for row in rows)
        # where all of the first wave were silent nobody knows more than before it; staging has no first wave
        few = lane_wave or staging
        first = gate.vanguard(sum(row.profile == profile for row in rows)) if few else None
        turn, canary = gate.lane_turn(lane, due, unproven=variant.unproven, proven=proven, first=first)
        turns |= {row.deployment_id: _Turn(row, variant, canary) for row in turn}
    ordered = in_plan_order((turn.row for turn in turns.values()), seed=facts.rollout.seed)
    return [turns[row.deployment_id] for row in ordered]


def _waves_behind(rows: Iterable[Deployment], standing: Standing) -> dict[str, int]:
    """By profile: the first wave in which somebody is still to get it: a lane that was held catches up in order."""
    behind: dict[str, int] = {}
    for row in rows:
        if gate.is_to_come(row):
            behind[row.profile] = min(row.wave, behind.get(row.profile, standing.wave))
    return behind


def _resting(
    waiting: Iterable[Deployment], standing: Standing, waits: Waits, above: Mapping[str, str], *, now: float
) -> set[str]:
    """The devices whose lane is held, that rest after a failure, or that another rollout goes first with."""
    held = set()
    for row in waiting:
        if standing.lane(row.profile).paused:
            waits.paused[row.profile] = waits.paused.get(row.profile, 0) + 1
        elif standing.lane(row.profile).waits_for is not None:
            waits.compressor[row.profile] = waits.compressor.get(row.profile, 0) + 1
        elif row.retry_at is not None and row.retry_at > now:
            waits.retry += 1
            waits.retry_at = min(row.retry_at, waits.retry_at or row.retry_at)
        elif (rollout_id := above.get(row.device_id)) is not None:
            waits.above[rollout_id] = waits.above.get(rollout_id, 0) + 1
        else:
            continue
        held.add(row.device_id)
    return held


def _outside_window(facts: Facts, waiting: Iterable[Deployment], waits: Waits, *, now: float) -> set[str]:
    """The devices whose window is closed now."""
    options = facts.rollout.options
    if not options.window:
        return set()
    window = parse_window(options.window)
    zones: dict[str, list[str]] = {}
    for row in waiting:
        zone = zone_of(facts.time_zones.get(row.device_id), default=options.time_zone)
        zones.setdefault(zone, []).append(row.device_id)
    closed = {zone: devices for zone, devices in zones.items() if not is_open(window, zone, now=now)}
    waits.window = sum(map(len, closed.values()))
    waits.opens_at = min((next_opening(window, zone, now=now) for zone in closed), default=None)
    return {device for devices in closed.values() for device in devices}


def _note_canary(turn: _Turn, facts: Facts, ledger: Ledger) -> None:
    turn.row.canary = turn.canary
    if turn.canary:
        profile, device = turn.row.profile, turn.row.device_id
        sentence = f"{turn.variant.variant_id} is unproven on {profile}: {device} goes first in its lane."
        ledger.decide(facts.rollout, "lane_first", sentence, wave=turn.row.wave, profile=profile)


def _has_proven(facts: Facts, row: Deployment, variant: VariantFact, *, ready: bool) -> bool:
    """Whether a device has shown that others may follow; `ready`: it is enough that it holds the variant ready."""
    if row.variant_id != variant.variant_id or row.state in FAILED_STATES:
        return False
    if ready and gate.bucket(row) == "staged":
        return True  # without room for two runners it is proven only when it is activated
    return row.running_at is not None or proven_on_device(row, facts.heard.get(row.device_id))

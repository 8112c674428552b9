"""When a wave holds, when it opens, and when a lane or a whole rollout must stop. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from edge_agent.protocol.states import DeploymentState, Reason
from server.rollouts.facts import (
    CANCELLED,
    CLOSED_STATES,
    FAILED_STATES,
    NO_VARIANT,
    RUNNING,
    TIMED_OUT,
    WAITING,
    Deployment,
    Why,
)
from server.rollouts.verify import speaks_against_variant

if TYPE_CHECKING:
    from collections.abc import Container, Iterable


# It did not fail there: it was asked to go back.
SENT_BACK = frozenset({Why.ROLLBACK, Why.GATE, Why.LANE_ROLLBACK})


@dataclass(frozen=True, slots=True)
class WaveCounts:
    """The devices of one wave; each is in exactly one count."""

    devices: int = 0
    waiting: int = 0
    in_progress: int = 0
    staged: int = 0
    """Hold it ready, and wait to be activated."""
    running: int = 0
    failed: int = 0
    """Failures that count against their lane; devices lost or stuck after they took the offer are among them."""
    refused: int = 0
    """The first of a lane that found the variant unfit: this stops the lane, whatever is allowed."""
    timed_out: int = 0
    """Never took the offer."""
    no_variant: int = 0
    left: int = 0
    """Cancelled, removed, taken over by a newer rollout, or sent back by a gate."""

    @property
    def settled(self) -> bool:
        """Whether nobody is on the way any more."""
        return self.waiting == 0 and self.in_progress == 0 and self.staged == 0

    def numbers(self) -> dict[str, float | int | str]:
        """The counts, for a decision."""
        return {name: getattr(self, name) for name in self.__slots__}


def count_wave(rows: Iterable[Deployment]) -> WaveCounts:
    """Count one wave."""
    return count_alike((row, 1) for row in rows)


def count_alike(groups: Iterable[tuple[Deployment, int]]) -> WaveCounts:
    """Count one wave of which each row stands for so many that are alike in state, reason and canary."""
    counts = dict.fromkeys(WaveCounts.__slots__, 0)
    for row, number in groups:
        counts["devices"] += number
        counts[bucket(row)] += number
    return WaveCounts(**counts)


_BUCKETS = {WAITING: "waiting", RUNNING: "running", NO_VARIANT: "no_variant"}


def bucket(row: Deployment) -> str:
    """The count of WaveCounts that a deployment belongs to."""
    if row.state in FAILED_STATES:
        return "refused" if is_lane_verdict(row) else "failed" if row.reason not in SENT_BACK else "left"
    if row.state == TIMED_OUT:
        return "failed" if row.reason in {Why.LOST, Why.STUCK} else "timed_out"
    if row.state in {CANCELLED, DeploymentState.SUPERSEDED} or row.reason in {Why.GATE, Why.LANE_ROLLBACK}:
        return "left"
    if row.state == DeploymentState.STAGED and row.reason == Reason.HELD:
        return "staged"
    return _BUCKETS.get(row.state, "in_progress")


def is_to_come(row: Deployment) -> bool:
    """Whether a device is still to get it, or on its way and has never run it."""
    return row.state == WAITING or (row.running_at is None and bucket(row) in {"in_progress", "staged"})


def is_lane_verdict(row: Deployment) -> bool:
    """Whether this is the first device of a lane, which found that the variant is unfit for its profile."""
    return row.canary and speaks_against_variant(row)


class Lane(NamedTuple):
    """Devices of one kind that get the same file: what one of them meets, the others will."""

    profile: str
    variant_id: str


@dataclass(frozen=True, slots=True)
class LaneStop:
    """Why a lane may not go on."""

    wave: int
    cause: str
    """Half a sentence."""


def lane_of(row: Deployment) -> Lane:
    """The lane of a deployment that was offered."""
    return Lane(row.profile, row.variant_id or "")


def stopped_lanes(rows: Iterable[Deployment], *, max_failures: int) -> dict[Lane, LaneStop]:
    """The lanes in which the first device refused, or more devices of one wave failed than may.

    Args:
        rows: of one rollout, in the order of the plan.
        max_failures: how many devices of a lane may fail in one wave.
    """
    stops: dict[Lane, LaneStop] = {}
    offered: dict[tuple[Lane, int], list[Deployment]] = {}
    for row in rows:
        if row.variant_id is not None:
            offered.setdefault((lane_of(row), row.wave), []).append(row)
    for (lane, wave), members in offered.items():
        verdict = next((row for row in members if is_lane_verdict(row)), None)
        failed = [row for row in members if bucket(row) == "failed"]
        if verdict is not None:
            said = f"{verdict.reason}: {verdict.detail}" if verdict.detail else verdict.reason
            stops.setdefault(lane, LaneStop(wave, f"{verdict.device_id} refuses {lane.variant_id} ({said})"))
        elif len(failed) > max_failures:
            cause = _told(failed, len(members), wave, f" in lane {lane.profile}", max_failures)
            stops.setdefault(lane, LaneStop(wave, cause))
    return stops


def scattered_failures(rows: Iterable[Deployment], *, max_failures: int) -> str:
    """Half a sentence if more devices of one wave failed than may, over all lanes that go on; else empty.

    Where no lane has too many of them none is to blame: it is the version.
    """
    waves: dict[int, list[Deployment]] = {}
    for row in rows:
        waves.setdefault(row.wave, []).append(row)
    for wave, members in sorted(waves.items()):
        failed = [row for row in members if bucket(row) == "failed"]
        if len(failed) > max_failures:
            where = f" in {len({lane_of(row) for row in failed})} lanes"
            return _told(failed, len(members), wave, where, max_failures)
    return ""


def _told(failed: list[Deployment], devices: int, wave: int, where: str, max_failures: int) -> str:
    first = failed[0]
    why = f"{first.device_id}: {first.reason}" + (f", {first.detail}" if first.detail else "")
    number = f"{len(failed)} of {devices} devices of wave {wave + 1}{where} failed"
    return f"{number}, {max_failures} are allowed; the first is {why}"


def vanguard(devices: int) -> int:
    """How many of a lane go first in a later wave, where nobody of it runs the variant yet: of so many devices."""
    return max(3, math.ceil(devices / 100))


def lane_turn(
    lane: list[Deployment], due: Container[str], *, unproven: bool, proven: bool, first: int | None = None
) -> tuple[list[Deployment], bool]:
    """Who of a lane is offered now.

    Args:
        lane: the deployments of one wave with one profile, in the order of the plan.
        due: the ids of those among them that wait to be offered it.
        unproven: no figure of this kind of device says yet that the variant meets its limits.
        proven: a device of this rollout has passed the self-test with it.
        first: how many go first while it is not proven; None: all of this wave, as the plan says.

    Returns:
        The deployments to offer, and whether the (only) one goes first for its lane.
    """
    waiting = [row for row in lane if row.deployment_id in due]
    ahead = 1 if unproven else first
    if proven or ahead is None:
        return waiting, False
    if any(_may_still_prove(row) for row in lane if row.deployment_id not in due):
        return [], False
    return waiting[:ahead], unproven


def _may_still_prove(row: Deployment) -> bool:
    return row.state not in {WAITING, TIMED_OUT} and row.state not in CLOSED_STATES and row.state not in FAILED_STATES

"""When a wave holds, when it opens, and when a rollout must stop. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge_agent.protocol.states import DeploymentState
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
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class WaveCounts:
    """The devices of one wave; each is in exactly one count."""

    devices: int = 0
    waiting: int = 0
    in_progress: int = 0
    running: int = 0
    failed: int = 0
    """Failures that count against the rollout; devices lost or stuck after they took the offer are among them."""
    refused: int = 0
    """The first of a lane that found the variant unfit: this stops the lane, not the rollout."""
    timed_out: int = 0
    """Never took the offer."""
    no_variant: int = 0
    left: int = 0
    """Cancelled, removed, or taken over by a newer rollout."""

    @property
    def settled(self) -> bool:
        """Whether nobody is on the way any more."""
        return self.waiting == 0 and self.in_progress == 0

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
        return "refused" if is_lane_verdict(row) else "failed" if row.reason != Why.ROLLBACK else "left"
    if row.state == TIMED_OUT:
        return "failed" if row.reason in {Why.LOST, Why.STUCK} else "timed_out"
    if row.state in {CANCELLED, DeploymentState.SUPERSEDED}:
        return "left"
    return _BUCKETS.get(row.state, "in_progress")


def is_lane_verdict(row: Deployment) -> bool:
    """Whether this is the first device of a lane, which found that the variant is unfit for its profile."""
    return row.canary and speaks_against_variant(row)


def too_many_failures(counts: WaveCounts, *, max_failures: int) -> bool:
    """Whether a wave must stop its rollout."""
    return counts.failed > max_failures


def lane_turn(lane: list[Deployment], *, unproven: bool, proven: bool) -> tuple[list[Deployment], bool]:
    """Who of a lane is offered now.

    Args:
        lane: the deployments of one wave with one profile, in the order of the plan.
        unproven: no figure of this kind of device says yet that the variant meets its limits.
        proven: a device of this rollout has passed the self-test with it.

    Returns:
        The deployments to offer, and whether the (only) one goes first for its lane.
    """
    waiting = [row for row in lane if row.state == WAITING]
    if proven or not unproven:
        return waiting, False
    if any(_may_still_prove(row) for row in lane):
        return [], False
    return waiting[:1], True


def _may_still_prove(row: Deployment) -> bool:
    return row.state not in {WAITING, TIMED_OUT} and row.state not in CLOSED_STATES and row.state not in FAILED_STATES

"""Shadows in a rollout: what devices are asked for, what they found, and what that says of a lane. Pure.

A device refuses by itself what disagrees or fails there (`edge_agent/deployments/shadowing.py`); these rules put many
devices together, and so see less: a small loss of agreement, and how much slower the variant is.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from edge_agent.protocol.shadow import ShadowOutcome, ShadowPlan, ShadowReport
from server.rollouts.evidence import evidence_of_share, mean_at_least, share_at_least
from server.rollouts.wording import percent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge_agent.protocol.messages import DeploymentStatus
    from server.rollouts.facts import Deployment, Rollout
    from server.rollouts.ledger import Ledger
    from server.schemas.rollouts import RolloutOptions

GATES: Final = 2
LEAST_ALLOWED: Final = 0.001  # share of samples that may disagree, where none may: the evidence needs some
UNKNOWN: Final = "no shadow was reported: the agent there is too old to run one"


def plan_of(rollout: Rollout) -> ShadowPlan | None:
    """What each device is asked to do before the version answers anyone."""
    options = rollout.options
    if not options.shadow_s:
        return None
    return ShadowPlan(
        deadline_s=options.shadow_s,
        samples=options.shadow_samples,
        cpu_share=options.shadow_cpu,
        least_agreement=options.shadow_agreement,
        tolerance=options.shadow_tolerance,
        scores=rollout.scores,
        hold=options.shadow_hold,
    )


def note(row: Deployment, status: DeploymentStatus | None, ledger: Ledger) -> None:
    """Write down what a shadow found once it has ended; that nobody reports one, once the device runs the variant."""
    found = status.shadow if status is not None else None
    if found is None and row.running_at is not None and row.shadow is None and ledger.asks_for_shadow(row):
        found = ShadowReport(outcome=ShadowOutcome.SKIPPED, detail=UNKNOWN)
    if found is None or found.outcome is ShadowOutcome.RUNNING or found == row.shadow:
        return
    row.shadow = found
    ledger.changed_deployments.add(row.deployment_id)


def disagrees(shadows: Sequence[ShadowReport], options: RolloutOptions, alpha: float) -> tuple[str, float]:
    """Fewer samples agree with the active version than may: why that is so, and the share that surely does not."""
    shares = [1 - found.agreement for found in shadows if found.agreement is not None]
    allowed = max(LEAST_ALLOWED, 1 - options.shadow_agreement)
    if not shares or evidence_of_share(shares, allowed=allowed) < 1 / alpha:
        return "", 0.0
    bound = share_at_least(shares, alpha=alpha)
    said = f"at least {percent(bound)} of answers are others than the active version's, on {len(shares)} shadows"
    return f"{said}, {percent(1 - options.shadow_agreement)} may", bound


def slower_as_shadow(shadows: Sequence[ShadowReport], options: RolloutOptions, alpha: float) -> tuple[str, float]:
    """Both its median and its p95 are longer than the active version's on the same requests."""
    ratios = _log_ratios(shadows)
    bound = math.expm1(min(700.0, mean_at_least(ratios, alpha=alpha)))
    if bound <= options.shadow_max_slowdown:
        return "", bound
    said = f"it takes at least {percent(bound)} longer than the active version on the same requests"
    return f"{said}, on {len(ratios)} shadows, {percent(options.shadow_max_slowdown)} may be", bound


def figures(shadows: Sequence[ShadowReport]) -> dict[str, float | int | str]:
    """For a decision."""
    if not shadows:
        return {}
    compared = [found.agreement for found in shadows if found.agreement is not None]
    found: dict[str, float | int | str] = {"shadows": len(compared), "shadow_samples": sum(s.samples for s in shadows)}
    if compared:
        found["shadow_agreement"] = math.fsum(compared) / len(compared)
    if ratios := _log_ratios(shadows):
        found["shadow_slowdown"] = math.expm1(math.fsum(ratios) / len(ratios))
    return found


def told(shadows: Sequence[ShadowReport]) -> list[str]:
    """Parts of a sentence."""
    if not shadows:
        return []
    known = figures(shadows)
    said = []
    if "shadow_agreement" in known:
        said.append(f"{100 * float(known['shadow_agreement']):.4g} % of answers agree on {known['shadows']} shadows")
    if "shadow_slowdown" in known:
        change = float(known["shadow_slowdown"])
        said.append(f"{percent(abs(change))} {'slower' if change >= 0 else 'faster'} there")
    without = [found for found in shadows if found.outcome in {ShadowOutcome.SKIPPED, ShadowOutcome.INCONCLUSIVE}]
    if without:
        said.append(f"{len(without)} went on without enough of a shadow (the first: {without[0].detail})")
    return said


def _log_ratios(shadows: Sequence[ShadowReport]) -> list[float]:
    """Of each device how much longer an invocation takes, by the median or the p95, whichever speaks for the variant.

    A shadow is invoked now and then, with cold caches and beside the one that answers: its p95 alone may be far longer
    for the very same file.
    """
    return [
        math.log(min(found.p50_ms / found.active_p50_ms, found.p95_ms / found.active_p95_ms))
        for found in shadows
        if min(found.p50_ms, found.active_p50_ms, found.p95_ms, found.active_p95_ms) > 0
    ]

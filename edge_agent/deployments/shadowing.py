"""Whether a proven variant runs as a shadow first, and what is concluded from that. No IO.

The device decides by itself, because a shadow must end without a network, too. It judges what it can: agreement and
errors. How much slower a variant is one device can't tell from noise; that is for the registry, which has many.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from edge_agent.protocol.shadow import ShadowOutcome, ShadowReport
from edge_agent.protocol.states import Reason

if TYPE_CHECKING:
    from edge_agent.deployments.ledger import Ledger
    from edge_agent.deployments.records import DeploymentRecord
    from edge_agent.protocol.manifest import VariantManifest
    from edge_agent.protocol.shadow import ShadowPlan

DOUBT: Final = 0.01  # a variant that agrees as asked is refused with at most this probability
SHADOW_LIMIT: Final = 3  # shadows that may begin without an end, as when the device restarts again and again
NO_ROOM: Final = "shadow skipped: RAM holds no second runner"
REFUSING: Final = {
    ShadowOutcome.DISAGREED: Reason.SHADOW_DISAGREES,
    ShadowOutcome.FAILED: Reason.SHADOW_FAILED,
}


def skipped(detail: str) -> ShadowReport:
    """The report of a shadow that never ran."""
    return ShadowReport(outcome=ShadowOutcome.SKIPPED, detail=detail)


def why_not(record: DeploymentRecord, manifest: VariantManifest, active: VariantManifest | None) -> str:
    """Why a variant can't run as a shadow of the active one; empty if it can."""
    if active is None:
        return "shadow skipped: nothing answers for this model yet that it could be compared with"
    if active.signature != manifest.signature:
        return "shadow skipped: its signature is another than the active one's, so its answers can't be compared"
    if active == manifest:
        return "shadow skipped: this very variant answers already"
    hold = record.wanted.shadow is not None and record.wanted.shadow.hold
    if record.shadows >= SHADOW_LIMIT and not hold:
        return f"shadow skipped: {record.shadows} began, and each was interrupted before its end"
    return ""


def judged(plan: ShadowPlan, report: ShadowReport, *, over: bool) -> ShadowReport:
    """A report with the outcome that follows from it; `running` if that needs more.

    Args:
        plan: what is asked.
        report: what is known.
        over: the deadline has passed.
    """
    if not over and report.samples < plan.samples:
        return report
    outcome, detail = _verdict(plan, report)
    return report.model_copy(update={"outcome": outcome, "detail": detail})


def chance_of_agreeing(agreed: int, samples: int, *, share: float) -> float:
    """The probability that so few or fewer of the samples agree, if in the long run this share does (binomial)."""
    if agreed >= samples:
        return 1.0
    if share >= 1:
        return 0.0
    logs = [
        math.lgamma(samples + 1)
        - math.lgamma(number + 1)
        - math.lgamma(samples - number + 1)
        + number * math.log(share)
        + (samples - number) * math.log1p(-share)
        for number in range(agreed + 1)
    ]
    highest = max(logs)
    return min(1.0, math.exp(highest) * math.fsum(math.exp(log - highest) for log in logs))


def _verdict(plan: ShadowPlan, report: ShadowReport) -> tuple[ShadowOutcome, str]:
    told = f"{report.agreed} of {report.samples} samples agree with the active version"
    if report.errors:
        number = f"{report.errors} of {report.sampled} requests that the active version answered"
        return ShadowOutcome.FAILED, f"as a shadow it gave no finite answer to {number}"
    if chance_of_agreeing(report.agreed, report.samples, share=plan.least_agreement) < DOUBT:
        asked = f"a share of {plan.least_agreement:.4g} should"
        return ShadowOutcome.DISAGREED, f"as a shadow {told}, {asked}; {_worst(report)}"
    if report.samples < plan.samples:
        number = f"{report.samples} of {plan.samples} samples"
        why = "" if report.requests else ": no request came"
        if report.too_large:
            why = f": {report.too_large} requests were too large to be copied"
        return ShadowOutcome.INCONCLUSIVE, f"shadow: {number} were compared within {plan.deadline_s:.0f} s{why}"
    return ShadowOutcome.AGREED, f"shadow: {told}"


def _worst(report: ShadowReport) -> str:
    """Which output is most often another."""
    output = min(report.outputs, key=lambda output: output.agreed)
    return f"output {output.name} differs in {report.samples - output.agreed}"


class Shadows:
    """The shadows under way: their deadlines, and what is known of each."""

    def __init__(self, ledger: Ledger) -> None:
        self.until: dict[str, float] = {}  # monotonic; of one that holds beyond it there is none
        self._ledger = ledger
        self._known: dict[str, ShadowReport] = {}
        self._over: set[str] = set()

    def begin(self, deployment_id: str, plan: ShadowPlan) -> None:
        """Its runner compares from now on."""
        self.until[deployment_id] = self._ledger.moment.now_s + plan.deadline_s
        self._known[deployment_id] = ShadowReport()
        self._over.discard(deployment_id)

    def tell(self, deployment_id: str, report: ShadowReport) -> bool:
        """What its runner has found; whether it is the first thing."""
        if (known := self._known.get(deployment_id)) is None:
            return False
        self._known[deployment_id] = report.model_copy(update={"outcome": ShadowOutcome.RUNNING, "detail": ""})
        return not known.samples and bool(report.samples)

    def pass_deadlines(self) -> None:
        """Note whose time is over."""
        now_s = self._ledger.moment.now_s
        for deployment_id in [name for name, at_s in self.until.items() if at_s <= now_s]:
            del self.until[deployment_id]
            self._over.add(deployment_id)

    def verdict(self, record: DeploymentRecord) -> ShadowReport | None:
        """The report that ends the shadow; None while it goes on."""
        plan, known = record.wanted.shadow, self._known.get(record.deployment_id)
        if plan is None or known is None:
            return None
        found = judged(plan, known, over=record.deployment_id in self._over)
        if found.outcome is ShadowOutcome.RUNNING or (found.outcome is ShadowOutcome.INCONCLUSIVE and plan.hold):
            return None
        return found

    def report_of(self, record: DeploymentRecord) -> ShadowReport | None:
        """What the registry is told of a shadow."""
        return self._known.get(record.deployment_id, record.shadow)

    def forget(self, deployment_id: str) -> None:
        """It is no shadow any more."""
        self.until.pop(deployment_id, None)
        self._known.pop(deployment_id, None)
        self._over.discard(deployment_id)

"""What devices measured of a variant, judged for one lane: is it wrong, or slow? Pure.

Each device counts once, with what it measured first: its first `min_inferences` attempts with the variant beside those
before. So the devices of a lane are independent, and a lane may be looked at whenever one more has come.

Some times later it counts once more, for what only grows bad with time; each time is a test of its own. What was
measured before is days old then, and the load of a fleet changes with the hour: only a p95 that is far longer counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from server.rollouts import shadows as of_shadows
from server.rollouts.evidence import evidence_of_share, mean_at_least, share_at_least
from server.rollouts.wording import counted, percent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edge_agent.protocol.shadow import ShadowReport
    from server.schemas.rollouts import RolloutOptions

# A healthy rollout is stopped by mistake with this probability at most, all gates, lanes and looks taken together.
FALSE_ALARM_BUDGET: Final = 0.01
# Since a device began to run the variant; the first of its attempts after each, before the next, make a sample.
LATER_S: Final = (3600.0, 86400.0, 3 * 86400.0)
LATER_SHARE: Final = 0.1  # of that budget, for each of these; the rest is for what devices measure first
GATES: Final = 4
P95_SHARE: Final = 0.05  # of the requests that may take longer than a limit of the p95
# An estimate so far above what is allowed, as a share of the p95 before, holds the next wave though its bound decides
# nothing: a healthy version does not scatter by as much on one or two devices.
FAR_SLOWER: Final = 0.5


@dataclass(frozen=True, slots=True)
class Sample:
    """What one device measured of one variant."""

    attempts: int
    """Requests that reached the model."""
    failures: int
    """Of these: the model failed, or answered with what is no finite number."""
    p95_ms: float | None
    """Of the invocation alone."""
    over_limit: float | None = None
    """Share of the answers that took longer than the profile's limit; None without a limit."""

    @property
    def failure_share(self) -> float:
        """In [0, 1]."""
        return min(1.0, self.failures / self.attempts) if self.attempts else 0.0


@dataclass(frozen=True, slots=True)
class Measured:
    """One device: the variant, and what it ran before if that was measured well enough to compare."""

    now: Sample
    before: Sample | None = None
    later: tuple[Sample | None, ...] = ()
    """For each of `LATER_S` that has come; None: too little was measured then."""


@dataclass(frozen=True, slots=True)
class LaneHealth:
    """What is known of a lane."""

    measured: int
    """Devices."""
    cause: str = ""
    """Half a sentence that says why the lane may not go on; empty while it may."""
    figures: Mapping[str, float | int | str] = field(default_factory=dict)
    shadows: Sequence[ShadowReport] = ()
    """Of its devices."""
    doubt: str = ""
    """Half a sentence: what looks far worse than allowed, and is not decided; empty where nothing does."""

    def told(self) -> str:
        """Half a sentence with its figures."""
        return ", ".join([*self._measured(), *of_shadows.told(self.shadows)]) or "nothing measured yet"

    def _measured(self) -> list[str]:
        if not self.measured:
            return []
        said = [f"{self.measured} measured", f"{percent(self.figures['failure_share'])} of inferences fail"]
        if "failure_share_before" in self.figures:
            said[-1] += f" (before: {percent(self.figures['failure_share_before'])})"
        if "slowdown" in self.figures:
            change = float(self.figures["slowdown"])
            said.append(f"p95 {percent(abs(change))} {'slower' if change >= 0 else 'faster'} than before")
        return said


def examine(
    devices: Sequence[Measured], options: RolloutOptions, *, lanes: int, shadows: Sequence[ShadowReport] = ()
) -> LaneHealth:
    """Judge a lane by the devices that have measured enough.

    Args:
        devices: of this lane, all waves together.
        options: what is allowed.
        lanes: how many the rollout has; they share the budget of false alarms.
        shadows: what its devices found before the variant answered anyone, where that was asked for.
    """
    gates = GATES + (of_shadows.GATES if options.shadow_s else 0)
    alpha = FALSE_ALARM_BUDGET / (gates * max(1, lanes))
    figures = _figures(devices) | of_shadows.figures(shadows)
    first = alpha * (1 - LATER_SHARE * len(LATER_S))
    findings = _findings(devices, options, first) | {
        "disagrees": of_shadows.disagrees(shadows, options, first),
        "slower_as_shadow": of_shadows.slower_as_shadow(shadows, options, first),
    }
    for gate, (cause, bound) in findings.items():
        if cause:
            return LaneHealth(len(devices), cause, {**figures, "gate": gate, "at_least": bound}, shadows)
    far = options.model_copy(update={"max_slowdown": options.max_slowdown + FAR_SLOWER})
    for place, later_s in enumerate(LATER_S):
        for gate, (cause, bound) in _findings(_at(devices, place), far, alpha * LATER_SHARE).items():
            if cause:
                told = f"{later_s / 3600:g} h after devices began to run it {cause}"
                found = {**figures, "gate": gate, "at_least": bound, "later_s": later_s}
                return LaneHealth(len(devices), told, found, shadows)
    return LaneHealth(len(devices), "", figures, shadows, doubt=_doubt(devices, options))


def _at(devices: Sequence[Measured], place: int) -> list[Measured]:
    """Those that have measured enough at one of the later times, with that in place of what they measured first."""
    samples = [(device, device.later[place]) for device in devices if len(device.later) > place]
    return [Measured(sample, device.before) for device, sample in samples if sample is not None]


def _findings(devices: Sequence[Measured], options: RolloutOptions, alpha: float) -> dict[str, tuple[str, float]]:
    """By gate: half a sentence that says why a lane may not go on, and the bound; empty and 0 where it may."""
    return {
        "failing": _failing(devices, options, alpha),
        "failing_more": _failing_more(devices, options, alpha),
        "slower": _slower(devices, options, alpha),
        "over_limit": _over_limit(devices, options, alpha),
    }


def _failing(devices: Sequence[Measured], options: RolloutOptions, alpha: float) -> tuple[str, float]:
    """Too many inferences fail, whatever they did before: finds on three devices what fails everywhere."""
    shares = [device.now.failure_share for device in devices]
    allowed = options.max_error_rate
    before = [device.before.failure_share for device in devices if device.before is not None]
    if before:  # what failed often already may go on to do so
        allowed = max(allowed, math.fsum(before) / len(before) + options.max_error_rise)
    if not 0 < allowed < 1 or evidence_of_share(shares, allowed=allowed) < 1 / alpha:
        return "", 0.0
    bound = share_at_least(shares, alpha=alpha)
    return f"at least {percent(bound)} of inferences fail on {len(shares)} devices, {percent(allowed)} may", bound


def _failing_more(devices: Sequence[Measured], options: RolloutOptions, alpha: float) -> tuple[str, float]:
    """More inferences fail than with the previous version on the same devices."""
    rises = [device.now.failure_share - device.before.failure_share for device in devices if device.before is not None]
    bound = mean_at_least(rises, alpha=alpha)
    if bound <= options.max_error_rise:
        return "", bound
    said = f"the share of failed inferences is at least {100 * bound:.2g} points higher than before"
    return f"{said} on {len(rises)} devices, {100 * options.max_error_rise:.2g} may be", bound


def _slower(devices: Sequence[Measured], options: RolloutOptions, alpha: float) -> tuple[str, float]:
    """The p95 is worse than that of the previous version on the same devices."""
    ratios = _log_ratios(devices)
    bound = math.expm1(min(700.0, mean_at_least(ratios, alpha=alpha)))
    if bound <= options.max_slowdown:
        return "", bound
    said = f"the p95 is at least {percent(bound)} longer than before on {len(ratios)} devices"
    return f"{said}, {percent(options.max_slowdown)} may be", bound


def _over_limit(devices: Sequence[Measured], _options: RolloutOptions, alpha: float) -> tuple[str, float]:
    """More than a twentieth of the answers take longer than the profile's limit of the p95."""
    shares = [device.now.over_limit for device in devices if device.now.over_limit is not None]
    if not shares or evidence_of_share(shares, allowed=P95_SHARE) < 1 / alpha:
        return "", 0.0
    bound = share_at_least(shares, alpha=alpha)
    said = f"at least {percent(bound)} of answers take longer than the profile's p95 limit on {len(shares)} devices"
    return f"{said}, {percent(P95_SHARE)} may", bound


def _doubt(devices: Sequence[Measured], options: RolloutOptions) -> str:
    """A p95 that looks far longer than may be, on devices too few or too different for `_slower` to be sure.

    The other gates need none: three devices are enough for them to find what is far beyond.
    """
    ratios = _log_ratios(devices)
    slowdown = math.expm1(min(700.0, math.fsum(ratios) / len(ratios))) if ratios else 0.0
    if slowdown <= options.max_slowdown + FAR_SLOWER:
        return ""
    compared = counted(len(ratios), "device", "devices")
    said = f"the p95 is {percent(slowdown)} longer than before on {compared}"
    return f"{said}, {percent(options.max_slowdown)} may be"


def _figures(devices: Sequence[Measured]) -> dict[str, float | int | str]:
    if not devices:
        return {}
    figures: dict[str, float | int | str] = {
        "measured": len(devices),
        "attempts": sum(device.now.attempts for device in devices),
        "failure_share": math.fsum(device.now.failure_share for device in devices) / len(devices),
    }
    before = [device.before.failure_share for device in devices if device.before is not None]
    if before:
        figures["failure_share_before"] = math.fsum(before) / len(before)
    if ratios := _log_ratios(devices):
        figures["slowdown"] = math.expm1(math.fsum(ratios) / len(ratios))
    return figures


def _log_ratios(devices: Sequence[Measured]) -> list[float]:
    return [
        math.log(device.now.p95_ms / device.before.p95_ms)
        for device in devices
        if device.before is not None and device.now.p95_ms and device.before.p95_ms
    ]

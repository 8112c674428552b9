"""What one device's report says of its deployment. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge_agent.protocol.states import DeploymentState, Reason
from server.rollouts.facts import (
    DEVICE_REASONS,
    FAILED_STATES,
    OFFERED,
    PASSING_REASONS,
    RETRYING,
    RUNNING,
    TIMED_OUT,
    Deployment,
    Why,
)

if TYPE_CHECKING:
    from edge_agent.protocol.messages import DeploymentStatus
    from server.rollouts.facts import Heard, VariantFact
    from server.schemas.rollouts import RolloutOptions

# A device that reports one of these, or nothing, has not brought the variant onto its disk yet.
_FETCHING = frozenset({DeploymentState.QUEUED, DeploymentState.DOWNLOADING})


@dataclass(frozen=True, slots=True)
class Judgement:
    """Where a deployment stands, by what is known now."""

    state: str
    reason: str = "none"
    detail: str = ""


def judge(
    row: Deployment,
    heard: Heard | None,
    variant: VariantFact | None,
    options: RolloutOptions,
    *,
    status_interval_s: float = 0.0,
    listening_since: float = 0.0,
    epoch: int,
    now: float,
) -> Judgement:
    """Judge a deployment that its device shall run; time in which nobody was heard does not count."""
    found = _reported(row, heard, variant, options, listening_since=listening_since, now=now)
    if found.state == RUNNING or found.state in FAILED_STATES:
        return found
    silent_s = now - max(row.opened_at or now, heard.last_seen_at if heard else 0.0, listening_since)
    took = heard is not None and heard.observed >= (epoch, row.offered_generation or 0)
    if silent_s <= options.silence_deadline_s:
        if found.state == DeploymentState.ACTIVE and (variant is None or variant.model_file_sha256 is None):
            return found  # it is the registry that can't go on
        if found.state == RETRYING or (found.state == DeploymentState.SHADOWING and options.shadow_hold):
            return found  # it has a patience of its own; or it waits as long as it takes, as was asked
        patience_s = max(options.progress_deadline_s, 2 * status_interval_s)
        patience_s += options.shadow_s if found.state == DeploymentState.SHADOWING else 0
        patience_s += options.max_defer_s if found.reason == Reason.DEFERRED else 0  # it says whom it waits for
        return _stuck(row, found, took=took, patience_s=patience_s, listening_since=listening_since, now=now) or found
    if took:
        # before two intervals are over it need not have said anything, and to be lost is a failure
        patience_s = max(options.silence_deadline_s, 2 * status_interval_s)
        if silent_s <= patience_s:
            return found
        return Judgement(TIMED_OUT, Why.LOST, f"took the offer, then was silent for more than {patience_s:g} s")
    return Judgement(TIMED_OUT, Why.SILENT, f"not heard within {options.silence_deadline_s:g} s of the offer")


def judge_ready(
    row: Deployment,
    heard: Heard | None,
    variant: VariantFact | None,
    options: RolloutOptions,
    *,
    listening_since: float = 0.0,
    now: float,
) -> Judgement:
    """Judge a deployment that shall lie ready on its device.

    Who answers as before is in no danger: it may take its time, and be away; only that is told of it.
    """
    found = _reported(row, heard, variant, options, listening_since=listening_since, now=now)
    if found.state in FAILED_STATES or (found.state, found.reason) == (DeploymentState.STAGED, Reason.HELD):
        return found
    silent_s = now - max(row.opened_at or now, heard.last_seen_at if heard else 0.0, listening_since)
    if silent_s > options.silence_deadline_s:
        return Judgement(TIMED_OUT, Why.SILENT, f"not heard for more than {options.silence_deadline_s:g} s")
    offered_at = max(row.opened_at or now, listening_since)
    if found.state != OFFERED or now - offered_at <= options.progress_deadline_s:
        return found
    detail = f"is heard, but says nothing of it after {options.progress_deadline_s:g} s: its agent may be too old to"
    return Judgement(TIMED_OUT, Why.IGNORED, f"{detail} stage, and fetches it when it is activated")


def _reported(
    row: Deployment,
    heard: Heard | None,
    variant: VariantFact | None,
    options: RolloutOptions,
    *,
    listening_since: float,
    now: float,
) -> Judgement:
    """What a device has said, with patience where it tries again by itself."""
    status = heard.deployments.get(row.deployment_id) if heard else None
    found = _by_report(status, variant, options, verified=row.state == RUNNING)
    tried_since = retrying_since(row, status, now=now)
    tried_since = None if tried_since is None else max(tried_since, listening_since)
    return _with_patience(found, retrying_since=tried_since, options=options, now=now)


def retrying_since(row: Deployment, status: DeploymentStatus | None, *, now: float) -> float | None:
    """Since when a device tries in vain to fetch what it was offered; None once it has it, or before it failed."""
    if status is not None and status.state == DeploymentState.FAILED and status.reason in PASSING_REASONS:
        return now if row.retrying_since is None else row.retrying_since
    return row.retrying_since if status is None or status.state in _FETCHING else None


def _with_patience(found: Judgement, *, retrying_since: float | None, options: RolloutOptions, now: float) -> Judgement:
    """A failure that the device itself tries to mend becomes one when it has tried for long enough."""
    passing = found.state == DeploymentState.FAILED and found.reason in PASSING_REASONS
    if not passing or retrying_since is None:
        return found
    patience_s = options.retry_patience_s
    said = f"{found.reason}: {found.detail}" if found.detail else found.reason
    if now - retrying_since > patience_s:
        return Judgement(found.state, found.reason, f"{found.detail or said} (tried for more than {patience_s:g} s)")
    return Judgement(RETRYING, found.reason, f"{said}; it tries again, and has failed after {patience_s:g} s of that")


def _stuck(
    row: Deployment, found: Judgement, *, took: bool, patience_s: float, listening_since: float, now: float
) -> Judgement | None:
    """The verdict on a device that is heard, and has said the same for too long: it would hold its wave for ever.

    Any other word of it begins the time anew: also that of a device which comes back after a long silence.
    """
    said = f"{found.state} ({found.detail})" if found.detail else found.state
    verdict = Judgement(
        TIMED_OUT,
        Why.STUCK if took else Why.IGNORED,
        f"took the offer, then was {said} for more than {patience_s:g} s"
        if took
        else f"is heard, but did not take the offer within {patience_s:g} s",
    )
    before = Judgement(row.state, row.reason, row.detail)
    if before == verdict:
        return verdict
    since = max(row.opened_at or now, row.changed_at or 0.0, listening_since)
    return verdict if before == found and now - since > patience_s else None


def missing_proof(
    status: DeploymentStatus, variant: VariantFact | None, options: RolloutOptions, *, verified: bool
) -> str:
    """What an active deployment lacks to count as running; empty when it lacks nothing.

    `verified`: it did count until now, so that it does not lose that because the registry can't read a manifest.
    """
    if not status.serving:
        return "active, but nothing serves it now"
    wanted = variant.model_file_sha256 if variant is not None else None
    if wanted is None and not verified:
        return "active, but its manifest can't be read now to compare the file with"
    if wanted is not None and status.file_sha256 != wanted:
        return f"active, but serves file {(status.file_sha256 or 'unknown')[:12]}, not {wanted[:12]}"
    if status.self_test is None or not status.self_test.passed:
        return "active, but reports no self-test that passed"
    if status.inferences < options.probe_inferences:
        return f"active, answered {status.inferences} of {options.probe_inferences} inferences"
    return ""


def proven_on_device(row: Deployment, heard: Heard | None) -> bool:
    """Whether a device has shown that this variant passes its self-test there."""
    status = heard.deployments.get(row.deployment_id) if heard else None
    return status is not None and status.self_test is not None and status.self_test.passed


def speaks_against_variant(row: Deployment) -> bool:
    """Whether this failure tells something of the variant, not just of one device or its network."""
    return row.state in FAILED_STATES and row.reason not in DEVICE_REASONS


def _by_report(
    status: DeploymentStatus | None, variant: VariantFact | None, options: RolloutOptions, *, verified: bool
) -> Judgement:
    # a device that says `superseded` of what is wanted has not seen that it is wanted again
    if status is None or status.state == DeploymentState.SUPERSEDED:
        return Judgement(OFFERED)
    if status.state != DeploymentState.ACTIVE:
        return Judgement(status.state, status.reason, status.detail)
    lacking = missing_proof(status, variant, options, verified=verified)
    return Judgement(DeploymentState.ACTIVE, detail=lacking) if lacking else Judgement(RUNNING, detail=status.detail)

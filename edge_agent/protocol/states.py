"""States of a Deployment and the reasons for them, as data. Wire strings: never renamed, never reused."""

from __future__ import annotations

from enum import StrEnum


class DeploymentState(StrEnum):
    """Where one device stands in its attempt at one Variant."""

    QUEUED = "queued"
    DOWNLOADING = "downloading"
    VERIFYING = "verifying"
    STAGED = "staged"
    SELF_TESTING = "self_testing"
    SHADOWING = "shadowing"
    ACTIVE = "active"
    FAILED = "failed"
    REJECTED = "rejected"
    ROLLED_BACK = "rolled_back"
    SUPERSEDED = "superseded"
    ALREADY_INSTALLED = "already_installed"


class Reason(StrEnum):
    """Why a deployment is where it is."""

    NONE = "none"
    DIGEST_MISMATCH = "digest_mismatch"
    MANIFEST_INVALID = "manifest_invalid"
    OBJECT_NOT_FOUND = "object_not_found"
    OBJECT_GONE = "object_gone"
    TRANSFER_FAILED = "transfer_failed"
    STORAGE_BUDGET = "storage_budget"
    DISK_FULL = "disk_full"
    RUNTIME_MISSING = "runtime_missing"
    LOAD_FAILED = "load_failed"
    RUNNER_CRASHED = "runner_crashed"
    RUNNER_HUNG = "runner_hung"
    MEMORY_LIMIT = "memory_limit"
    GOLDEN_MISMATCH = "golden_mismatch"
    LATENCY_LIMIT = "latency_limit"
    SHADOW_DISAGREES = "shadow_disagrees"
    SHADOW_FAILED = "shadow_failed"
    CRASH_LOOP = "crash_loop"
    DEFERRED = "deferred"  # not a failure: an app has asked to wait before the swap
    HELD = "held"  # not a failure: it lies ready, and the registry has not said yet that it shall answer
    UNSUPPORTED_VERSION = "unsupported_version"
    INTERNAL = "internal"


# The transition table. A state is persisted before its work runs; whatever a crash interrupts begins that state again.
TRANSITIONS: dict[DeploymentState, frozenset[DeploymentState]] = {
    DeploymentState.QUEUED: frozenset(
        {
            DeploymentState.DOWNLOADING,
            DeploymentState.ALREADY_INSTALLED,
            DeploymentState.REJECTED,
            DeploymentState.FAILED,
            DeploymentState.SUPERSEDED,
        }
    ),
    DeploymentState.DOWNLOADING: frozenset(
        {DeploymentState.VERIFYING, DeploymentState.FAILED, DeploymentState.REJECTED, DeploymentState.SUPERSEDED}
    ),
    DeploymentState.VERIFYING: frozenset(
        {
            DeploymentState.STAGED,
            DeploymentState.DOWNLOADING,
            DeploymentState.FAILED,
            DeploymentState.REJECTED,
            DeploymentState.SUPERSEDED,
        }
    ),
    DeploymentState.STAGED: frozenset(
        {DeploymentState.SELF_TESTING, DeploymentState.FAILED, DeploymentState.REJECTED, DeploymentState.SUPERSEDED}
    ),
    # back to `staged`: an app has asked for more time before the swap, or it was proven ahead of its activation
    DeploymentState.SELF_TESTING: frozenset(
        {
            DeploymentState.STAGED,
            DeploymentState.SHADOWING,
            DeploymentState.ACTIVE,
            DeploymentState.FAILED,
            DeploymentState.REJECTED,
            DeploymentState.SUPERSEDED,
        }
    ),
    # proven, and its runner is fed with copies of what the active one answers; after a restart it is proven again
    DeploymentState.SHADOWING: frozenset(
        {
            DeploymentState.STAGED,
            DeploymentState.SELF_TESTING,
            DeploymentState.ACTIVE,
            DeploymentState.FAILED,
            DeploymentState.REJECTED,
            DeploymentState.SUPERSEDED,
        }
    ),
    DeploymentState.ACTIVE: frozenset({DeploymentState.ROLLED_BACK, DeploymentState.SUPERSEDED}),
    # bytes on disk, runner to be started and proven again
    DeploymentState.ALREADY_INSTALLED: frozenset(
        {
            DeploymentState.STAGED,
            DeploymentState.SELF_TESTING,
            DeploymentState.ACTIVE,
            DeploymentState.FAILED,
            DeploymentState.REJECTED,
            DeploymentState.SUPERSEDED,
        }
    ),
    DeploymentState.FAILED: frozenset({DeploymentState.QUEUED, DeploymentState.SUPERSEDED}),
    DeploymentState.REJECTED: frozenset({DeploymentState.SUPERSEDED}),
    DeploymentState.ROLLED_BACK: frozenset({DeploymentState.SUPERSEDED}),
    # wanted once more, or fallen back to when the one that followed it failed
    DeploymentState.SUPERSEDED: frozenset({DeploymentState.QUEUED, DeploymentState.ALREADY_INSTALLED}),
}

# Where an attempt comes to rest. None is for ever: a failed one is tried again, and a superseded one may be wanted once
# more, so whoever keeps such a record must let it come back to life.
FINAL_STATES = frozenset(
    {
        DeploymentState.ACTIVE,
        DeploymentState.FAILED,
        DeploymentState.REJECTED,
        DeploymentState.ROLLED_BACK,
        DeploymentState.SUPERSEDED,
    }
)


def may_follow(before: DeploymentState, after: DeploymentState) -> bool:
    """Whether the table allows this step."""
    return after in TRANSITIONS[before]

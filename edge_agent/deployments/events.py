"""What the core is told, and what it asks for: plain values, no behaviour.

Actions are carried out in their order; a `Persist` is on disk before the next action begins.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_agent.deployments.records import Accepted, Deferral, DeploymentRecord, ModelSlot
    from edge_agent.protocol.delta import Delta
    from edge_agent.protocol.manifest import ObjectDescriptor, VariantManifest
    from edge_agent.protocol.messages import Desired, SelfTestReport
    from edge_agent.protocol.profile import Limits
    from edge_agent.protocol.shadow import ShadowPlan, ShadowReport
    from edge_agent.protocol.states import Reason


@dataclass(frozen=True, slots=True)
class Moment:
    """The surroundings of an event: time, and what the machine has left."""

    now_s: float  # monotonic: intervals survive a clock that jumps
    unix_s: float = 0.0  # for people and for the registry only
    memory_available_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a transfer is."""

    done_bytes: int
    received_bytes: int


@dataclass(frozen=True, slots=True)
class DesiredReceived:
    """The registry says what this device shall run."""

    desired: Desired


@dataclass(frozen=True, slots=True)
class ManifestArrived:
    """A manifest, its bytes verified against their name."""

    manifest_sha256: str
    manifest: VariantManifest


@dataclass(frozen=True, slots=True)
class ManifestFailed:
    """A manifest can't be had, or can't be read."""

    manifest_sha256: str
    reason: Reason
    detail: str = ""
    again: bool = True  # False: the registry or the store has refused, and would again


@dataclass(frozen=True, slots=True)
class TransferDone:
    """Every block of an object is on disk."""

    object_sha256: str
    bytes_received: int = 0


@dataclass(frozen=True, slots=True)
class TransferFailed:
    """An object can't be had now."""

    object_sha256: str
    reason: Reason
    detail: str = ""
    bytes_received: int = 0
    again: bool = True  # False: the registry or the store has refused, and would again


@dataclass(frozen=True, slots=True)
class Unpacked:
    """A variant is installed: unpacked, verified, fsynced, renamed."""

    manifest_sha256: str


@dataclass(frozen=True, slots=True)
class UnpackFailed:
    """An object did not become a variant."""

    manifest_sha256: str
    reason: Reason
    detail: str = ""


@dataclass(frozen=True, slots=True)
class RunnerProven:
    """A runner has loaded its file and passed its self-test."""

    deployment_id: str
    report: SelfTestReport


@dataclass(frozen=True, slots=True)
class RunnerServing:
    """A runner accepts connections."""

    deployment_id: str


@dataclass(frozen=True, slots=True)
class RunnerRefused:
    """A runner has said why it can't serve, and has left."""

    deployment_id: str
    reason: Reason
    detail: str = ""
    report: SelfTestReport | None = None


@dataclass(frozen=True, slots=True)
class RunnerNotStarted:
    """The device has no process or memory for a runner now: nothing is known of the variant."""

    deployment_id: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class RunnerExited:
    """A runner has left, asked or not."""

    deployment_id: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class RunnerHung:
    """A runner gave no sign of life and was killed."""

    deployment_id: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class RunnerBeat:
    """A sign of life."""

    deployment_id: str
    inferences: int


@dataclass(frozen=True, slots=True)
class ShadowCompared:
    """What a runner has found as a shadow so far."""

    deployment_id: str
    report: ShadowReport


@dataclass(frozen=True, slots=True)
class DeferAsked:
    """An app asks to wait before anything is swapped, or asks for more time."""

    deferral: Deferral


@dataclass(frozen=True, slots=True)
class DeferEnded:
    """An app needs no more time."""

    token: str


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Event = (
    DesiredReceived
    | ManifestArrived
    | ManifestFailed
    | TransferDone
    | TransferFailed
    | Unpacked
    | UnpackFailed
    | RunnerProven
    | RunnerServing
    | RunnerRefused
    | RunnerNotStarted
    | RunnerExited
    | RunnerHung
    | RunnerBeat
    | ShadowCompared
    | DeferAsked
    | DeferEnded
    | Tick
)


@dataclass(frozen=True, slots=True)
class Persist:
    """Write these in one transaction."""

    records: tuple[DeploymentRecord, ...] = ()
    forgotten: tuple[str, ...] = ()
    slots: tuple[ModelSlot, ...] = ()
    emptied: tuple[str, ...] = ()  # models that have no slot any more
    accepted: Accepted | None = None
    deferrals: tuple[Deferral, ...] | None = None  # all of them; None: as they were


@dataclass(frozen=True, slots=True)
class FetchManifest:
    """Get a manifest by its sha256, from disk or from the registry."""

    manifest_sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class StartTransfer:
    """Fetch an object, whole or a delta; what is on disk already is verified and kept."""

    manifest_sha256: str
    manifest: VariantManifest
    object: ObjectDescriptor


@dataclass(frozen=True, slots=True)
class CancelTransfer:
    """Stop fetching; the blocks stay until garbage is collected."""

    object_sha256: str


@dataclass(frozen=True, slots=True)
class Unpack:
    """Turn a complete object into an installed variant.

    `delta`: what that object is, and `base_sha256` the manifest of the installed variant that it is applied to.
    """

    manifest_sha256: str
    manifest: VariantManifest
    delta: Delta | None = None
    base_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class StartRunner:
    """Start a runner for an installed variant.

    `proving`: the whole self-test within `limits`; otherwise it was proven here before and only has to come up.
    `shadow`: what it does then, until it is activated or stopped.
    """

    deployment_id: str
    manifest_sha256: str
    manifest: VariantManifest
    limits: Limits
    proving: bool
    shadow: ShadowPlan | None = None


@dataclass(frozen=True, slots=True)
class Shadow:
    """Let whoever answers for its model copy requests to the proven runner of this deployment, as long as it lives."""

    deployment_id: str


class Leave(Enum):
    """What a runner that is told to leave still does."""

    CONNECTIONS = "connections"  # answer every client until it has gone, or the drain's time is over
    REQUESTS = "requests"  # answer what is under way; idle connections are closed in a moment
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class StopRunner:
    """Let a runner leave."""

    deployment_id: str
    after: Leave = Leave.CONNECTIONS


@dataclass(frozen=True, slots=True)
class Activate:
    """Point at this deployment, let its runner accept, then let the old runner go."""

    deployment_id: str
    manifest_sha256: str
    manifest: VariantManifest
    retire: str | None = None


@dataclass(frozen=True, slots=True)
class Deactivate:
    """Nobody answers for this model any more."""

    model: str


@dataclass(frozen=True, slots=True)
class CollectGarbage:
    """Remove variants and transfers that nobody needs."""

    keep_manifests: frozenset[str]
    keep_objects: frozenset[str] | None  # None: all


@dataclass(frozen=True, slots=True)
class SetWindow:
    """Cut telemetry into windows of this length."""

    window_s: float


@dataclass(frozen=True, slots=True)
class Report:
    """Something changed that the registry should know."""


Action = (
    Persist
    | FetchManifest
    | StartTransfer
    | CancelTransfer
    | Unpack
    | StartRunner
    | Shadow
    | StopRunner
    | Activate
    | Deactivate
    | CollectGarbage
    | SetWindow
    | Report
)

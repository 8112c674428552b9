"""What the agent remembers of its deployments: the rows of the state store, and the rules on reasons."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from edge_agent.protocol.base import Bytes, Count, Name, Seconds, Sha256, Wire
from edge_agent.protocol.delta import Fetched
from edge_agent.protocol.messages import DesiredDeployment, SelfTestReport, UnixTime
from edge_agent.protocol.shadow import ShadowReport
from edge_agent.protocol.states import DeploymentState, Reason

MOST_DEFER_S = 86_400.0  # an app that needs longer asks again

# Trying again can't change these: the publisher must send something else.
FINAL_REASONS = frozenset(
    {
        Reason.DIGEST_MISMATCH,
        Reason.MANIFEST_INVALID,
        Reason.OBJECT_GONE,
        Reason.RUNTIME_MISSING,
        Reason.LOAD_FAILED,
        Reason.MEMORY_LIMIT,
        Reason.GOLDEN_MISMATCH,
        Reason.LATENCY_LIMIT,
        Reason.SHADOW_DISAGREES,
        Reason.SHADOW_FAILED,
        Reason.UNSUPPORTED_VERSION,
    }
)

# Every try of these costs the network and the registry, so there is an end to them.
NETWORK_REASONS = frozenset({Reason.TRANSFER_FAILED, Reason.OBJECT_NOT_FOUND})
# Its files are still to be fetched in these.
FETCHING = frozenset({DeploymentState.QUEUED, DeploymentState.DOWNLOADING, DeploymentState.VERIFYING})

# Its files are here and are still to be proven in these.
TO_TEST = frozenset(
    {
        DeploymentState.STAGED,
        DeploymentState.ALREADY_INSTALLED,
        DeploymentState.SELF_TESTING,
        DeploymentState.SHADOWING,
    }
)

UNFINISHED = FETCHING | TO_TEST


class Deferral(Wire):
    """What an app has asked for: no swap for now."""

    token: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]  # who has it may end or renew it
    model: Name | None = None  # None: no model here
    for_s: Annotated[float, Field(gt=0, le=MOST_DEFER_S, allow_inf_nan=False)]
    until: UnixTime  # by this device's clock when it was asked for
    reason: Annotated[str, Field(min_length=1, max_length=200)]


class DeploymentRecord(Wire):
    """One deployment as this device knows it."""

    wanted: DesiredDeployment
    held: bool = False  # it shall lie ready, and answer nobody yet
    state: DeploymentState = DeploymentState.QUEUED
    reason: Reason = Reason.NONE
    detail: Annotated[str, Field(max_length=512)] = ""
    attempt: Count = 0  # how often it began anew after a failure
    tests: Count = 0  # self-tests begun: a counter breaks loops
    bytes_total: Bytes = 0
    bytes_received: Bytes = 0
    delta_sha256: Sha256 | None = None  # the delta's object that is fetched; None: the whole
    fetched: Fetched = Fetched.WHOLE
    delta_detail: Annotated[str, Field(max_length=512)] = ""  # why a delta did not do
    self_test: SelfTestReport | None = None
    shadows: Count = 0  # shadows begun: a counter breaks loops
    shadow: ShadowReport | None = None
    file_sha256: Sha256 | None = None
    inferences: Count = 0  # by runners that have left; the living one counts its own
    deferred_at: UnixTime | None = None  # when it first waited for an app
    deferred_by: Deferral | None = None  # that it waits for now
    overridden: Annotated[str, Field(max_length=512)] = ""  # an app asks for more time than the rollout gives
    changed_at: UnixTime = 0.0

    @property
    def deployment_id(self) -> str:
        """Its name."""
        return self.wanted.deployment_id

    @property
    def model(self) -> str:
        """The model that it is a variant of."""
        return self.wanted.model


class ModelSlot(Wire):
    """Which deployment answers for a model, and which one it would fall back to."""

    model: Name
    active: Name | None = None
    previous: Name | None = None


class Accepted(Wire):
    """The highest desired state that was accepted: an older one is never believed again."""

    epoch: Count = 0
    generation: Count = 0
    status_interval_s: Seconds = 30.0
    telemetry_window_s: Seconds = 10.0
    wanted: tuple[Name, ...] = ()

    @property
    def order(self) -> tuple[int, int]:
        """What decides which of two is the later one."""
        return self.epoch, self.generation


class Snapshot(Wire):
    """All that survives a restart."""

    accepted: Accepted = Accepted()
    records: tuple[DeploymentRecord, ...] = ()
    slots: tuple[ModelSlot, ...] = ()
    deferrals: tuple[Deferral, ...] = ()

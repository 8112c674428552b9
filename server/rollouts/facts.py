"""What the rules of a rollout look at, free of any table: plans, devices, choices, and what devices reported."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from edge_agent.protocol.profile import Limits
from edge_agent.protocol.states import DeploymentState, Reason
from server.schemas.rollouts import RolloutState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edge_agent.protocol.delta import Delta
    from edge_agent.protocol.messages import DeploymentStatus, DesiredDeployment
    from edge_agent.protocol.shadow import ShadowReport
    from server.rollouts.health import Measured
    from server.schemas.rollouts import RolloutOptions, Wave

# What a row of the deployments table can say beside the states that devices report.
WAITING = "waiting"  # planned; its wave or its turn has not come
OFFERED = "offered"  # in the device's desired state; nothing heard yet
RUNNING = "running"  # verified: right file, self-test passed, serving, enough inferences answered
RETRYING = "retrying"  # the transfer failed, and the device tries again: no failure yet
ROLLING_BACK = "rolling_back"  # it shall go back, and has not said yet that it has
TIMED_OUT = "timed_out"  # silent, or without progress, beyond the deadline
NO_VARIANT = "no_variant"  # nothing fits its profile: counted apart
CANCELLED = "cancelled"  # it will not be offered, or the offer was withdrawn before it ran

FAILED_STATES = frozenset({DeploymentState.FAILED, DeploymentState.REJECTED, DeploymentState.ROLLED_BACK})
CLOSED_STATES = frozenset({NO_VARIANT, CANCELLED, DeploymentState.SUPERSEDED})


class Why(StrEnum):
    """Reasons that the registry adds to those of devices (`Reason`); wire strings."""

    SILENT = "silent"  # never took the offer
    LOST = "lost"  # took it, then fell silent
    IGNORED = "ignored"  # is heard, and does not take the offer
    STUCK = "stuck"  # took it, is heard, and comes no further
    LANE_STOPPED = "lane_stopped"
    ROLLOUT_STOPPED = "rollout_stopped"
    ROLLBACK = "rollback"
    REMOVED = "device_removed"
    TOO_MANY_MODELS = "too_many_models"
    NEWER_ROLLOUT = "newer_rollout"
    HIGHER_PRIORITY = "higher_priority"  # an older rollout of the model took the device
    GATE = "gate"  # what devices measured speaks against the variant of its lane
    LANE_ABORTED = "lane_aborted"  # by an operator
    LANE_ROLLBACK = "lane_rollback"  # by an operator


# These speak of the device or the road to it; every other reason speaks against the variant.
DEVICE_REASONS = frozenset(
    {
        Reason.STORAGE_BUDGET,
        Reason.DISK_FULL,
        Reason.TRANSFER_FAILED,
        Reason.OBJECT_NOT_FOUND,
        Reason.OBJECT_GONE,
        Reason.UNSUPPORTED_VERSION,
    }
)

# `failed` with one of these is what time may mend: the device goes on trying, and its transfer begins where it ended.
PASSING_REASONS = frozenset({Reason.TRANSFER_FAILED, Reason.OBJECT_NOT_FOUND, Reason.DISK_FULL})


@dataclass(frozen=True, slots=True)
class DeviceFact:
    """A device that the selector can choose."""

    device_id: str
    profile: str
    labels: Mapping[str, str]
    removed: bool = False


@dataclass(frozen=True, slots=True)
class VariantFact:
    """What a profile gets."""

    variant_id: str
    manifest_sha256: str
    manifest_bytes: int
    unproven: bool
    rank: int | None = None
    """Its place in the last build for its profile, 0 is chosen; None: it misses a limit, or is of an earlier build."""
    caveat: str = ""
    """For people, what "it" may lose, where that is more than goes unsaid."""
    model_file_sha256: str | None = None
    """None: the manifest could not be read yet, so nobody can be verified."""
    limits: Limits = field(default_factory=Limits)
    deltas: tuple[Delta, ...] = ()
    """From what devices of its lane run, to it."""


@dataclass(frozen=True, slots=True)
class ChoiceFact:
    """What the search decided for one profile: a variant, or a refusal in one sentence."""

    variant: VariantFact | None = None
    refusal: str = ""
    others: tuple[VariantFact, ...] = ()
    """What else would do, the best first: for a lane whose devices reject the variant."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What a device said last."""

    last_seen_at: float
    observed: tuple[int, int] = (0, 0)
    deployments: Mapping[str, DeploymentStatus] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Command:
    """What an operator said, in order."""

    command_id: int
    action: str
    wave: int | None = None
    """The wave that is approved."""
    profile: str | None = None
    """The lane that is meant; None: all of it."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """The plan as it was asked for; never changes."""

    rollout_id: str
    model: str
    version: str
    selector: str
    waves: tuple[Wave, ...]
    seed: int
    options: RolloutOptions
    created_at: float
    scores: bool = False
    """Its outputs are scores of classes: a shadow is compared by the highest."""

    @property
    def age_order(self) -> tuple[float, str]:
        """The later rollout of a model has the greater one."""
        return self.created_at, self.rollout_id

    @property
    def turn_order(self) -> tuple[int, float, str]:
        """The greatest is looked at first in a tick: a higher priority, then the later one."""
        return self.options.priority, *self.age_order


@dataclass(frozen=True, slots=True)
class GateStop:
    """A lane that goes no further, because its devices measured that the variant is wrong or slow."""

    profile: str
    variant_id: str
    wave: int
    cause: str
    """Half a sentence."""
    gate: str = ""
    """What found it, as `LaneHealth.figures` names it."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A lane with no variant left has asked the compressor for one (docs/adr/0014)."""

    number: int
    """Of the asks of its lane, from 1."""
    job_id: str
    variant_id: str
    """What was rejected or taken back last."""
    wave: int
    cause: str
    """Half a sentence: why it was."""
    until: float
    """The job must have ended by then."""
    rejected: int
    """How many variants the lane had rejected by then, this one among them."""
    latency_p95_ms: float | None = None
    """What devices must reach, by what they measured; None: the profile's own limit, if it has one."""
    outcome: str = ""
    """Empty while it waits; else `found`, `nothing`, `failed`, `late` or `dropped`."""


@dataclass(frozen=True, slots=True)
class LaneStanding:
    """What became of one lane apart from the others."""

    paused: bool = False
    """By an operator; or because of `undecided`."""
    ended: str = ""
    """`aborted` or `rolled_back`, by an operator; empty while it goes on."""
    rejected: tuple[str, ...] = ()
    """Variants that its devices have rejected, in this order: none of them is given again."""
    asks: tuple[Ask, ...] = ()
    """What the compressor was asked for on its behalf."""
    undecided: str = ""
    """The variant that looked far worse than is allowed when the time to decide was over; told once."""

    @property
    def waits_for(self) -> Ask | None:
        """The ask that is not answered yet."""
        return self.asks[-1] if self.asks and not self.asks[-1].outcome else None

    @property
    def held(self) -> bool:
        """Whether nobody of it is offered anything now, and no other lane waits for it."""
        return self.paused or self.waits_for is not None


ROLLED_BACK_LANE = "rolled_back"
ABORTED_LANE = "aborted"


@dataclass(slots=True)
class Standing:
    """Where a rollout stands: a row of rollout_states."""

    state: RolloutState = RolloutState.PREPARING
    wave: int = -1
    reason: str = ""
    last_command_id: int = 0
    planned: bool = False
    gate_stops: tuple[GateStop, ...] = ()
    """The lanes that measurements have stopped."""
    unmeasured_wave: int = -1
    """The latest wave of which too little was measured within the deadline; it holds the next one no more."""
    settled_at: float | None = None
    """Since when nobody of the open wave is on the way; None while somebody is."""
    approval_wave: int = -1
    """The wave that waits for an operator's approval, or did last."""
    approved_wave: int = -1
    """The latest wave that an operator has approved."""
    activated: bool = False
    """What devices hold ready may answer: its waves open."""
    lanes: dict[str, LaneStanding] = field(default_factory=dict)
    """By profile: lanes of which there is something to say."""

    def lane(self, profile: str) -> LaneStanding:
        """What became of a lane."""
        return self.lanes.get(profile, LaneStanding())

    def stop_of(self, lane: tuple[str, str]) -> GateStop | None:
        """Why measurements have stopped a lane (profile, variant id); None where they have not."""
        return next((stop for stop in self.gate_stops if (stop.profile, stop.variant_id) == lane), None)


@dataclass(slots=True)
class Deployment:
    """One device's attempt: a row of deployments."""

    deployment_id: str
    rollout_id: str
    device_id: str
    wave: int
    profile: str
    model: str
    version: str
    variant_id: str | None = None
    state: str = WAITING
    reason: str = "none"
    detail: str = ""
    previous: DesiredDeployment | None = None
    offered_generation: int | None = None
    canary: bool = False
    opened_at: float | None = None
    running_at: float | None = None
    retrying_since: float | None = None
    """When the first of the tries failed that have brought nothing onto its disk yet."""
    attempt: int = 0
    """Counts what was offered before in this rollout and failed there; each attempt has an id of its own."""
    retries: int = 0
    """Attempts with the same variant after a failure, one after the other."""
    retry_at: float | None = None
    """It waits until then, because it has failed."""
    takes_place: bool = True
    """False in the penalty box: who has failed or timed out once takes no place among those in progress any more."""
    shadow: ShadowReport | None = None
    """What its shadow found, once that has ended."""
    changed_at: float | None = None
    """When its row was last written: since then its device has said the same."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided, with its numbers, in one sentence."""

    rollout_id: str
    action: str
    sentence: str
    numbers: Mapping[str, float | int | str]


@dataclass(frozen=True, slots=True)
class AskedJob:
    """What became of the job of an ask."""

    state: str
    """`queued`, `running`, `done`, `failed`; what else it may be is an end without a variant."""
    sentence: str = ""
    """Why there is no variant: the error of the job, or the refusal of the profile."""


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a tick reads of one rollout; nothing in it changes while the rules run."""

    rollout: Rollout
    targets: tuple[DeviceFact, ...] = ()
    """The devices that the selector matches now: to plan, and for those that join later where they may."""
    removed: frozenset[str] = frozenset()
    choices: Mapping[str, ChoiceFact] = field(default_factory=dict)
    """By profile."""
    variants: Mapping[tuple[str, str], VariantFact] = field(default_factory=dict)
    """By profile and variant id: those that some deployment of this rollout has."""
    build_failures: Mapping[str, str] = field(default_factory=dict)
    """By profile: the sentence of a job that failed, when no other is under way."""
    heard: Mapping[str, Heard] = field(default_factory=dict)
    """By device."""
    measured: Mapping[str, Measured] = field(default_factory=dict)
    """By deployment: of each device that has answered enough inferences with the variant."""
    expected: frozenset[str] = frozenset()
    """Deployments of devices that are in use and have not answered enough yet."""
    commands: tuple[Command, ...] = ()
    asked: Mapping[str, AskedJob] = field(default_factory=dict)
    """By job id: of the asks of its lanes."""
    deltas_until: float | None = None
    """Deltas are being made; it waits for them until then. None: nobody makes any."""
    time_zones: Mapping[str, str] = field(default_factory=dict)
    """By device: its label `tz`, where it has one."""
    status_interval_s: float = 0.0
    """How often devices report; who has not reported for two of these may be lost, not before."""
    listening_since: float = 0.0
    """The registry hears devices since then: before it nobody's silence, and no lack of news, was a device's fault."""

"""Rollouts: the plan, its state, and what each device made of it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from edge_agent.protocol.base import Name
from edge_agent.protocol.shadow import MAX_SAMPLES, ShadowReport
from server.schemas.common import Document, RequestDocument
from server.schemas.search import MAX_SECONDS
from server.windows import check_zone, parse_window

MAX_WAVES = 32


def _check_window(text: str) -> str:
    return str(parse_window(text)) if text else text


WindowText = Annotated[str, Field(max_length=32), AfterValidator(_check_window)]
ZoneName = Annotated[str, Field(max_length=63), AfterValidator(check_zone)]
WaveNumber = Annotated[int, Field(ge=1, le=MAX_WAVES)]


class Wave(RequestDocument):
    """The share of the fleet that has been offered the version once this wave is open: a percentage or a count."""

    percent: float | None = Field(default=None, gt=0, le=100)
    count: int | None = Field(default=None, gt=0, le=1_000_000)

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.percent is None) == (self.count is None):
            raise ValueError("a wave is either a percentage (10%) or a count (5)")
        return self


class RolloutOptions(RequestDocument):
    """How a rollout behaves."""

    probe_inferences: int = Field(default=0, ge=0, description="inferences a device must have answered to be running")
    max_failures: int = Field(
        default=0, ge=0, description="devices of a lane that may fail in one wave; one more stops the lane"
    )
    silence_deadline_s: float = Field(
        default=600.0, gt=0, description="a device that is silent for so long is timed out"
    )
    retry_patience_s: float = Field(
        default=300.0,
        ge=0,
        description="a device whose transfer fails tries again; it counts as failed once it has tried for so long",
    )
    progress_deadline_s: float = Field(
        default=3600.0, gt=0, description="a device that reports the same state for so long, and does not run, is stuck"
    )
    min_inferences: int = Field(
        default=200, ge=0, description="inferences that a device must have answered to be measured; 0: no gates"
    )
    max_error_rate: float = Field(
        default=0.02, gt=0, lt=1, description="share of a lane's inferences that may fail, whatever failed before"
    )
    max_error_rise: float = Field(
        default=0.002, ge=0, le=1, description="by how much that share may be above the previous version's"
    )
    max_slowdown: float = Field(
        default=0.1, ge=0, le=100, description="share by which p95 may be longer than the previous version's"
    )
    shadow_s: float = Field(
        default=0.0,
        ge=0,
        le=30 * 86400,
        description="longest time that a device runs it beside the active version before it answers anyone; 0: none",
    )
    shadow_cpu: float = Field(
        default=0.2, ge=0.01, le=1, description="share of one core that a shadow may take, on average"
    )
    shadow_samples: int = Field(
        default=200, ge=1, le=MAX_SAMPLES, description="answers to compare; a shadow that has so many ends"
    )
    shadow_agreement: float = Field(
        default=0.98, gt=0, le=1, description="share of them that must agree with the active version's"
    )
    shadow_tolerance: float = Field(
        default=0.05, ge=0, le=1, description="difference at which numbers still agree, as a share of their range"
    )
    shadow_max_slowdown: float = Field(
        default=0.5, ge=0, le=100, description="share by which a lane's shadows may be slower on the same requests"
    )
    shadow_hold: bool = Field(
        default=False, description="with too little to compare wait on; without it the device goes on and says so"
    )
    max_defer_s: float = Field(
        default=3600.0,
        ge=0,
        le=30 * 86400,
        description="longest time that apps on a device may make it wait before the swap; 0: none",
    )
    gate_deadline_s: float = Field(
        default=600.0, ge=0, description="how long the next wave waits for devices in use to be measured"
    )
    quorum: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of a lane that must be measured by then, and heard; with less it pauses",
    )
    start_at: float = Field(
        default=0.0, ge=0, le=32503680000, description="seconds since 1970; nobody is offered it before"
    )
    stage: bool = Field(
        default=False, description="every device fetches and proves it first; it answers only once that is activated"
    )
    activate_at: float = Field(
        default=0.0, ge=0, le=32503680000, description="seconds since 1970; it activates by itself then; 0: by command"
    )
    window: WindowText = Field(
        default="",
        description="22:00-04:00: a device is told to run it at this time of its day only; empty: at any time",
    )
    time_zone: ZoneName = Field(default="UTC", description="of devices without a label tz; for the window")
    soak_s: float = Field(default=0.0, ge=0, description="how long a wave runs before the next one opens")
    pace_per_minute: int | None = Field(
        default=None, ge=1, le=1_000_000, description="devices that are offered it in any minute at most"
    )
    pace_growth: float = Field(
        default=1.0, gt=0, le=100, description="factor by which that is more in each wave than in the one before"
    )
    max_in_progress: int | None = Field(
        default=None, ge=1, le=1_000_000, description="devices that may be on the way at once; who fails takes no place"
    )
    max_retries: int = Field(
        default=0, ge=0, le=20, description="how often a device that failed is tried again before it counts as failed"
    )
    retry_first_s: float = Field(
        default=60.0, gt=0, le=3600, description="longest rest before the first of these tries; doubles, up to an hour"
    )
    other_variants: int = Field(
        default=2, ge=0, le=10, description="how many other variants a lane tries whose devices reject one"
    )
    ask_compressor_s: float = Field(
        default=0.0,
        ge=0,
        le=MAX_SECONDS,
        description="a lane with no variant left has one searched for so long, for what its devices measured; 0: never",
    )
    ask_times: int = Field(default=2, ge=1, le=5, description="how often a lane asks for a variant at most")
    ask_deadline_s: float = Field(
        default=7200.0, gt=0, le=30 * 86400, description="how long a lane waits for that job, its turn included"
    )
    priority: int = Field(
        default=0, ge=-100, le=100, description="while a rollout with a higher one has a device, this one waits for it"
    )
    join_later: bool = Field(
        default=False, description="devices that match later join the wave that is open then; needs a last wave of 100%"
    )
    approve_waves: tuple[WaveNumber, ...] = Field(
        default=(), max_length=MAX_WAVES, description="waves, from 1, that open only once an operator has approved"
    )


class RolloutRequest(RequestDocument):
    """Start a rollout of MODEL@VERSION to the devices that match the selector."""

    model: Name
    version: Name
    selector: str = Field(default="", max_length=512, description="site=berlin,ring!=stable,profile=pi-4; empty: all")
    waves: tuple[Wave, ...] = Field(default=(Wave(percent=100.0),), min_length=1, max_length=MAX_WAVES)
    seed: int = 0
    options: RolloutOptions = RolloutOptions()

    @model_validator(mode="after")
    def _approves_waves_that_there_are(self) -> Self:
        beyond = [number for number in self.options.approve_waves if number > len(self.waves)]
        if beyond:
            raise ValueError(f"approve_waves names wave {beyond[0]}, but there are {len(self.waves)}")
        return self

    @model_validator(mode="after")
    def _activates_only_what_was_staged(self) -> Self:
        if self.options.activate_at and not self.options.stage:
            raise ValueError("activate_at means something only with stage")
        return self

    @model_validator(mode="after")
    def _who_joins_later_is_known_by_not_being_there(self) -> Self:
        if self.options.join_later and self.waves[-1].percent != 100:  # noqa: PLR2004  all of them
            raise ValueError("join_later needs a last wave of 100%: else those that the plan leaves out would join")
        return self


class RolloutState(StrEnum):
    """Where a rollout stands."""

    PREPARING = "preparing"  # variants are being built
    STAGING = "staging"  # devices fetch and prove it; no wave opens before it is activated
    RUNNING = "running"
    PAUSED = "paused"
    FINISHED = "finished"
    STOPPED = "stopped"  # by itself: too many failures
    ABORTED = "aborted"
    ROLLING_BACK = "rolling_back"  # devices are on their way back to what they ran before
    ROLLED_BACK = "rolled_back"  # they have said that they run it


class RolloutAction(StrEnum):
    """What an operator can say to a rollout."""

    PAUSE = "pause"
    RESUME = "resume"
    ABORT = "abort"  # offer it to nobody else; who has it keeps it
    ROLLBACK = "rollback"  # every device goes back to what it ran before
    RETRY = "retry"  # offer it again to those that failed or timed out
    APPROVE = "approve"  # open the wave that waits for it
    ACTIVATE = "activate"  # what devices hold ready may answer, wave by wave


class DeploymentView(Document):
    """One device in a rollout."""

    deployment_id: Name
    device_id: Name
    profile: Name
    wave: int
    variant_id: Name | None = None
    state: str
    reason: str = "none"
    detail: str = ""
    attempt: int = 0  # from 0; each has a deployment id of its own
    opened_at: float | None = None
    running_at: float | None = None
    shadow: ShadowReport | None = None  # what it found beside the active version, once that has ended


class WaveView(Document):
    """Counts of one wave."""

    wave: int
    devices: int
    waiting: int
    in_progress: int
    staged: int = 0  # hold it ready, and wait to be activated
    running: int
    failed: int
    timed_out: int
    no_variant: int
    refused: int = 0  # the first of a lane found the variant unfit: stops the lane, whatever is allowed
    left: int = 0  # cancelled, removed, or taken over by a newer rollout


class LaneStopView(Document):
    """A lane that goes no further: nobody else with this profile gets this variant in this rollout."""

    profile: Name
    variant_id: Name
    wave: int
    cause: str


class AskView(Document):
    """A search that the controller asked for because a lane had no variant left."""

    number: int  # of its lane, from 1
    job_id: str
    variant_id: Name  # what was rejected or taken back last
    cause: str
    until: float
    latency_p95_ms: float | None = None  # what devices must reach, by what they measured
    outcome: str = ""  # empty while it waits; found | nothing | failed | late | dropped


class LaneView(Document):
    """What became of a lane apart from the others."""

    profile: Name
    paused: bool = False
    ended: str = ""  # aborted | rolled_back, by an operator
    rejected: tuple[Name, ...] = ()  # variants that its devices have rejected
    asks: tuple[AskView, ...] = ()
    undecided: str = ""  # the variant that looked far worse than is allowed when the time to decide was over


class DecisionView(Document):
    """What the controller decided, and the sentence that says why."""

    at: float
    action: str
    sentence: str
    numbers: dict[str, float | int | str] = Field(default_factory=dict, description="what caused it")


class DecisionNotice(Document):
    """A decision as a webhook is told of it; the same `id` and `at` once more: the same decision told again."""

    id: int
    at: float
    rollout_id: str
    model: Name
    version: Name
    action: str
    sentence: str
    numbers: dict[str, float | int | str] = Field(default_factory=dict, description="what caused it")


class Rollout(Document):
    """A rollout with its waves."""

    rollout_id: str
    model: Name
    version: Name
    selector: str
    state: RolloutState
    reason: str = ""
    wave: int = -1
    approval_wave: int | None = None  # index of the wave that waits for `approve`
    waves: tuple[WaveView, ...] = ()
    stopped_lanes: tuple[LaneStopView, ...] = ()
    lanes: tuple[LaneView, ...] = ()  # those of which there is something to say
    decisions: tuple[DecisionView, ...] = ()
    deployments: tuple[DeploymentView, ...] = ()
    created_at: float
    updated_at: float


class DeviceForecast(Document):
    """What one device would get."""

    device_id: Name
    profile: Name
    wave: int
    variant_id: Name | None = None
    refusal: str = ""  # why nothing fits its profile
    to_be_built: bool = False  # nobody knows yet what its profile gets
    already: bool = False  # it runs this very variant: nothing is downloaded
    download_bytes: int = 0
    earliest_at: float | None = None  # if all before it goes well at once; None: it gets nothing


class WaveForecast(Document):
    """What one wave would come to."""

    wave: int
    devices: int
    no_variant: int = 0
    to_be_built: int = 0
    already: int = 0
    download_bytes: int = 0
    earliest_at: float | None = None  # when its first device would be offered it
    latest_at: float | None = None  # when its last would, if nothing holds it up
    approval: bool = False  # it opens when an operator says so, whatever the time
    activation: bool = False  # it opens when an operator activates what is staged


class RolloutForecast(Document):
    """What a rollout would do if it began now; nothing was written."""

    model: Name
    version: Name
    selector: str
    download_bytes: int
    staged_from: float | None = None  # when devices would begin to fetch it; None: when they are told to run it
    beyond: int = 0  # devices that match and are in no wave
    waves: tuple[WaveForecast, ...] = ()
    devices: tuple[DeviceForecast, ...] = ()


class ActionRequest(RequestDocument):
    """Say something to a rollout."""

    action: RolloutAction
    profile: Name | None = Field(default=None, description="the lane that is meant; without it, all of the rollout")

"""What goes into a job and what comes out of it, as JSON files; of searches: `search_contract`.

pydantic only: whoever starts a job imports just these two.

`python -m compressors.job inspect|build|search|report|delta REQUEST.json RESULT.json`. While it runs it writes one
`ProgressLine` a line to stdout. It ends with 0 and the result of its kind, or with 2 and a `JobFailure`.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from edge_agent.protocol.base import Name, Sha256
from edge_agent.protocol.delta import Delta
from edge_agent.protocol.profile import Delegate, DeviceProfile, RuntimeName
from edge_agent.protocol.signature import ModelSignature

FAILED_EXIT_CODE = 2


class Part(BaseModel):
    """A part of a request or a result."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Task(StrEnum):
    """What a model is for."""

    CLASSIFICATION = "classification"
    REGRESSION = "regression"
    RANKING = "ranking"


class Origin(StrEnum):
    """How a figure was obtained."""

    DEVICE = "device"
    HOST = "host"
    PREDICTED = "predicted"


class Figure(Part):
    """A number with its origin and, where there is one, its 95 % confidence interval."""

    value: float
    origin: Origin = Origin.HOST
    low: float | None = None
    high: float | None = None
    device_variants: int | None = None  # that calibrate a prediction, measured by devices; None: published figures do

    @property
    def interval(self) -> tuple[float, float] | None:
        """Both ends, where there are any."""
        return None if self.low is None or self.high is None else (self.low, self.high)


# Where steps train; auto: on a GPU where there is one. All else is computed on the CPU.
ComputeDevice = Literal["cpu", "cuda", "auto"]


class Inputs(Part):
    """The files that a job works on; paths are readable by the job."""

    model: Name
    version: Name
    model_path: Path
    data_path: Path
    train_path: Path | None = None
    task: Task
    metric: str
    labels: tuple[str, ...] = ()


class InspectRequest(Part):
    """Look into an upload: may it be loaded, what does it take and give, does the data fit."""

    kind: Literal["inspect"] = "inspect"
    inputs: Inputs


class SplitCounts(Part):
    """Rows of each split, and how many groups (sources) there are."""

    calibration: int
    selection: int
    test: int
    groups: int


class TrainingCounts(Part):
    """Rows of `--train`. `left_out`: rows that are also in the selection or test split, and are not trained on."""

    rows: int
    labelled: int
    left_out: int


class InspectResult(Part):
    """What an upload is."""

    signature: ModelSignature
    parameters: int
    splits: SplitCounts
    training: TrainingCounts | None = None
    labels: tuple[str, ...]


class StepSpec(Part):
    """One step of a recipe. `max_drop`: the recipe ends where the metric on the selection split has lost more."""

    step: Name
    parameters: dict[str, JsonValue] = {}
    max_drop: Annotated[float | None, Field(allow_inf_nan=False)] = None


# What runtime, delegate and hash leave of a variant's id.
RecipeName = Annotated[Name, Field(max_length=31)]


class Recipe(Part):
    """Compression steps in their order, under a name."""

    name: RecipeName
    steps: Annotated[tuple[StepSpec, ...], Field(min_length=1, max_length=32)]


class HostRun(Part):
    """What an earlier build measured on a host with a file, which CPU that host had, and what kind of file it is."""

    cpu_model: str
    runtime: RuntimeName
    delegate: Delegate
    last_step: Name  # of its recipe
    p50_ms: float


class DeviceFigure(Part):
    """The latency of a variant, of any model, on devices of a profile. With `host` it calibrates predictions."""

    profile: Name
    variant_id: Name
    p95_ms: float
    host: HostRun | None = None


class BuildRequest(Part):
    """Build variants with some recipes, measure them on some runtimes, judge them for some profiles."""

    kind: Literal["build"] = "build"
    inputs: Inputs
    profiles: Annotated[tuple[DeviceProfile, ...], Field(min_length=1)]
    recipes: tuple[Name | Recipe, ...] = ()  # empty: those that suit every task
    pythons: dict[RuntimeName, Path]  # the Python executable that has each runtime
    output_dir: Path  # objects and manifests are written here, named by their sha256
    cache_dir: Path | None = None
    host_cpu_model: str | None = None  # as a profile would name this machine's CPU
    device_figures: tuple[DeviceFigure, ...] = ()
    measure_again: bool = False  # what earlier builds measured here is not believed, and replaced
    threads: int = 1
    seed: int = 0
    device: ComputeDevice = "cpu"


class Verdict(StrEnum):
    """How a candidate stands against a profile's limits."""

    FITS = "fits"
    UNPROVEN = "unproven"
    MISSES = "misses"
    UNMEASURED = "unmeasured"


class StepRecord(Part):
    """What one step of a recipe did. `layers`: what it did to each layer, by the layer's name."""

    step: Name
    parameters: dict[str, JsonValue] = {}  # as the recipe gave them
    seconds: float
    summary: str
    layers: dict[str, str] = {}
    figures: dict[str, float] = {}  # what a compiler reported, by name with its unit
    warning: str = ""  # of the data that it was given
    metric: float | None = None  # on the selection split after this step, where the recipe asked for it


class BuiltVariant(Part):
    """A candidate for a profile, with everything measured about it."""

    profile: Name
    variant_id: Name
    recipe: Name
    runtime: RuntimeName
    delegate: Delegate
    verdict: Verdict
    chosen: bool
    rank: int | None = None  # 0 is chosen, 1 would be without it; None: it may not be given
    caveat: str = ""  # for people, what it may lose, where that is more than goes unsaid
    reason: str = ""
    manifest_sha256: Sha256 | None = None
    manifest_bytes: int | None = None
    object_sha256: Sha256 | None = None
    raw_bytes: int | None = None
    wire_bytes: int | None = None
    macs: int | None = None
    operators: int | None = None
    quantized_operators: int | None = None
    delegate_partitions: int | None = None
    load_ms: Figure | None = None
    latency_p50_ms: Figure | None = None
    latency_p95_ms: Figure | None = None
    peak_rss_bytes: Figure | None = None
    host_cpu_model: str | None = None  # what measured the figures of the origin `host`
    metric: Figure | None = None
    metric_drop: Figure | None = None
    agreement: Figure | None = None
    steps: tuple[StepRecord, ...] = ()


class RefusedProfile(Part):
    """Why no candidate fits a profile: the limit that binds and the nearest miss."""

    limit: str
    allowed: float
    nearest: float
    nearest_variant_id: str | None = None
    sentence: str


class ProfileChoice(Part):
    """What a profile gets."""

    profile: Name
    variant_id: Name | None = None
    reason: str = ""  # why this variant, and what the nearest alternative lost on
    refusal: RefusedProfile | None = None


class BuildResult(Part):
    """All candidates and the choices. Files lie in the request's `output_dir` under their sha256."""

    float_metric: Figure
    variants: tuple[BuiltVariant, ...]
    choices: tuple[ProfileChoice, ...]


class ReportRequest(Part):
    """Hold one variant of a profile against the float model, on the test rows and on changed ones; write the pages."""

    kind: Literal["report"] = "report"
    inputs: Inputs
    variant: BuiltVariant  # as its build told of it
    others: tuple[BuiltVariant, ...] = ()  # the profile's other candidates, for the picture of what can be had
    manifest_path: Path
    object_path: Path  # of the variant, as it travels
    shifted_path: Path | None = None  # the user's own second set: the same inputs and target
    pythons: dict[RuntimeName, Path]  # the Python executable that has each runtime
    output_dir: Path  # the pages are written here
    cache_dir: Path | None = None
    host_cpu_model: str | None = None  # as a profile would name this machine's CPU
    measure_again: bool = False  # what earlier jobs measured here is not believed, and replaced
    threads: int = 1
    seed: int = 0


class ReportResult(Part):
    """What a report comes to; its files lie in the request's `output_dir`."""

    label: str
    sentence: str
    loses_points: bool  # more than one point of the metric
    files: tuple[str, ...]


class PackedPaths(Part):
    """A packed variant as two files: its manifest, and its object as it travels."""

    manifest_path: Path
    object_path: Path


class DeltaPair(Part):
    """A variant that devices have, and one that they shall have."""

    base: PackedPaths
    variant: PackedPaths
    memory_bytes: int  # what a device may spend on applying the delta


class DeltaRequest(Part):
    """Make deltas, where they are worthwhile."""

    kind: Literal["delta"] = "delta"
    pairs: tuple[DeltaPair, ...]
    output_dir: Path  # deltas are written here, named by their sha256


class MadeDelta(Part):
    """A delta, or None where it is not worthwhile or takes more memory than there is."""

    whole_bytes: int
    delta: Delta | None = None


class DeltaResult(Part):
    """What became of each pair, in their order."""

    made: tuple[MadeDelta, ...]


class FailureBody(Part):
    """Why the job could not be done: a code for programs and one sentence for people."""

    code: str
    message: str


class JobFailure(Part):
    """The result file of a job that failed."""

    error: FailureBody


class FrontLine(Part):
    """A trial of the running front, for people."""

    trial: int
    recipe: Name
    latency_p50_ms: float
    predicted_p95_ms: float | None = None
    download_bytes: int
    metric: float
    metric_drop: float
    verdict: Verdict


class ProgressLine(Part):
    """How far the job is."""

    stage: str
    done: int
    of: int
    front: tuple[FrontLine, ...] = ()  # of a search: what no other trial beats so far

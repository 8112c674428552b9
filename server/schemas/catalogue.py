"""Models, versions, variants, jobs."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, JsonValue, StrictBool, model_validator

from edge_agent.protocol.base import Name, Sha256
from edge_agent.protocol.profile import Delegate, RuntimeName
from edge_agent.protocol.signature import ModelSignature
from server.schemas.common import ComputeDevice, Document, ErrorBody, Figure, RequestDocument, Verdict
from server.schemas.recipes import Recipe
from server.schemas.search import FrontLine

MAX_OWN_RECIPES = 32
ONE_LINE = r"^[^\x00-\x1f\x7f]*$"


class Task(StrEnum):
    """What a model is for; it decides which metrics fit."""

    CLASSIFICATION = "classification"
    REGRESSION = "regression"
    RANKING = "ranking"


class Preprocessing(RequestDocument):
    """What an app must do before it sends an input: `(value - mean) / std`, in the layout that the signature shows."""

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    layout: str = Field(default="", max_length=16, description="for example NCHW")
    note: str = Field(default="", max_length=512)


class PushForm(RequestDocument):
    """The fields beside the files of a push."""

    task: Task
    metric: str = Field(max_length=16)
    preprocessing: Preprocessing = Preprocessing()
    labels: tuple[str, ...] = ()


class Splits(Document):
    """Rows of each split; test is read once, for the report."""

    calibration: int
    selection: int
    test: int
    groups: int


class ModelVersion(Document):
    """One immutable version of a model."""

    model: Name
    version: Name
    task: Task
    metric: str
    signature: ModelSignature
    preprocessing: Preprocessing
    labels: tuple[str, ...]
    splits: Splits
    parameters: int
    source_sha256: Sha256
    source_bytes: int
    eval_sha256: Sha256
    train_sha256: Sha256 | None = None
    created_at: float
    retired_at: float | None = None  # out of use since then: nothing new is built or rolled out of it


class JobState(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class JobProgress(Document):
    """How far a job is: `done` of `of` steps, the current one named."""

    stage: str = ""
    done: int = 0
    of: int = 0
    front: tuple[FrontLine, ...] = ()  # of a search: what no other trial beats so far


class Job(Document):
    """Work that a worker does in a limited subprocess."""

    job_id: str
    kind: str
    model: Name
    version: Name
    state: JobState
    progress: JobProgress = JobProgress()
    error: ErrorBody | None = None
    stopping: bool = False  # it was cancelled, and the worker that does it has not stopped it yet
    created_at: float
    finished_at: float | None = None


class JobCancellation(RequestDocument):
    """That a job shall not be done, or not be done to its end."""

    cancelled_by: str = Field(
        default="", max_length=128, pattern=ONE_LINE, description="who says so; whoever waits for the job reads it"
    )


class Step(Document):
    """What one step of a recipe did."""

    step: Name
    parameters: dict[str, JsonValue] = Field(default_factory=dict)  # as the recipe gave them
    seconds: float
    summary: str
    layers: dict[str, str] = Field(default_factory=dict)  # what it did to each, by its name
    figures: dict[str, float] = Field(default_factory=dict)  # what a compiler reported, by name with its unit
    metric: float | None = None  # on the selection split after it, where the recipe asked for that


class VariantDelta(Document):
    """From a variant that devices run: a delta, or, without `wire_bytes`, that it was not worthwhile."""

    base_version: Name | None = None  # None: of a variant that was built again since
    base_variant_id: Name | None = None
    base_manifest_sha256: Sha256
    wire_bytes: int | None = None
    memory_bytes: int | None = None  # what applying it takes on a device


class Variant(Document):
    """A candidate for a profile, with everything measured about it."""

    model: Name
    version: Name
    profile: Name
    variant_id: Name
    recipe: Name
    runtime: RuntimeName
    delegate: Delegate
    verdict: Verdict
    chosen: bool
    rank: int | None = None  # in the last build: 0 is chosen, 1 would be without it; None: it may not be given
    caveat: str = ""  # for people, what it may lose, where that is more than goes unsaid
    reason: str = ""  # one sentence: why it misses, or was not measured
    manifest_sha256: Sha256 | None = None
    object_sha256: Sha256 | None = None
    raw_bytes: int | None = None  # of the model file
    wire_bytes: int | None = None  # of the object as it travels
    macs: int | None = None
    quantized_operators: int | None = None
    operators: int | None = None
    delegate_partitions: int | None = None
    load_ms: Figure | None = None
    latency_p50_ms: Figure | None = None
    latency_p95_ms: Figure | None = None
    peak_rss_bytes: Figure | None = None
    host_cpu_model: str | None = None  # what measured the figures of the origin `host`; None: it is not known
    metric: Figure | None = None
    metric_drop: Figure | None = None  # loss against float, in units of the metric; positive is worse
    agreement: Figure | None = None
    steps: tuple[Step, ...] = ()  # only where they are asked for: they name every layer
    deltas: tuple[VariantDelta, ...] = ()
    created_at: float = 0.0


class Refusal(Document):
    """Why a profile gets no variant: the limit that binds and how near the nearest miss came."""

    limit: str  # for example download_bytes
    allowed: float
    nearest: float
    nearest_variant_id: str | None = None
    sentence: str


class Choice(Document):
    """What a profile gets of a model version."""

    model: Name
    version: Name
    profile: Name
    variant_id: Name | None = None
    reason: str = ""  # one sentence: why this variant, and what the nearest alternative lost on
    refusal: Refusal | None = None


class PushAccepted(Document):
    """The bytes are stored; the job looks into them. The version exists once the job is done."""

    model: Name
    version: Name
    job_id: str


class BuildRequest(RequestDocument):
    """Ask for variants of a model version: for all profiles and with the usual recipes, or for and with those named."""

    profiles: tuple[Name, ...] = ()
    recipes: tuple[Name, ...] = Field(
        default=(), description="ready-made ones; `GET /v1/recipes` tells which there are"
    )
    own_recipes: Annotated[tuple[Recipe, ...], Field(max_length=MAX_OWN_RECIPES)] = ()
    device: ComputeDevice = Field(default="cpu", description="where recipes train; `auto`: on a GPU where there is one")
    again: StrictBool = Field(
        default=False, description="build even if the same work is done already, and measure again"
    )

    @model_validator(mode="after")
    def _named_apart(self) -> Self:
        names = [*set(self.recipes), *(recipe.name for recipe in self.own_recipes)]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two recipes have the name {twice}: rename one of them")
        return self

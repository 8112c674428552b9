"""Searches for the recipe that suits a profile best: what is asked for, how far it is, what was found."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, StrictBool, model_validator

from edge_agent.protocol.base import Milliseconds, Name, Sha256
from edge_agent.protocol.profile import Delegate, RuntimeName
from server.schemas.common import ComputeDevice, Document, Figure, RequestDocument, Verdict
from server.schemas.recipes import ToldRecipe

MAX_TRIALS = 2000  # the latency table of so many fits into a body of the API
MAX_SECONDS = 7 * 24 * 3600.0


class Latency(Document):
    """How fast a recipe's file ran, and where: a row of a recorded latency table."""

    runtime: RuntimeName
    delegate: Delegate
    p50_ms: Milliseconds
    p95_ms: Milliseconds
    p50_interval_ms: tuple[Milliseconds, Milliseconds] | None = None
    ram_bytes: Annotated[int, Field(ge=0)] | None = None
    host_cpu_model: Annotated[str, Field(max_length=128)] | None = None  # of what ran it
    predicted_p95_ms: Figure | None = None  # on the profile's CPU, where that is another one
    expected_ms: Milliseconds | None = None  # there, by what its devices measured: what a search makes small


Latencies = Annotated[dict[Sha256, Latency], Field(max_length=MAX_TRIALS)]


class SearchForm(RequestDocument):
    """Ask for a search for one profile, bounded in seconds, in trials, or in both."""

    profile: Name
    seconds: Annotated[float | None, Field(gt=0, le=MAX_SECONDS)] = None
    trials: Annotated[int | None, Field(ge=1, le=MAX_TRIALS)] = None
    until_fits: StrictBool = Field(default=False, description="end as soon as a recipe meets every limit for certain")
    seed: Annotated[int, Field(ge=0, le=(1 << 31) - 1)] = 0
    replay: Latencies | None = Field(default=None, description="latencies of an earlier search, in place of measuring")
    device: ComputeDevice = Field(default="cpu", description="where recipes train; `auto`: on a GPU where there is one")
    again: StrictBool = Field(
        default=False, description="even if the same search is done already; it goes on where it ended"
    )

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.seconds is None and self.trials is None:
            raise ValueError("a search needs an end: give it seconds, trials or both")
        return self


class FrontLine(Document):
    """A trial of the running front."""

    trial: int
    recipe: Name
    latency_p50_ms: float
    predicted_p95_ms: float | None = None
    download_bytes: int
    metric: float
    metric_drop: float
    verdict: Verdict = Verdict.UNMEASURED  # of a search that is older than this field


class TrialFigures(Document):
    """What is known of the file that a recipe made; the metric is that of the selection split."""

    latency: Latency
    raw_bytes: int
    download_bytes: int
    storage_bytes: int
    macs: int | None = None
    metric: Figure
    metric_drop: float


class SearchTrial(Document):
    """One recipe that was tried."""

    number: int
    recipe: ToldRecipe
    figures: TrialFigures | None = None
    verdict: Verdict = Verdict.UNMEASURED
    excesses: dict[str, float] = Field(default_factory=dict)  # limits missed: its value as a multiple of the limit
    refusal: str = ""  # why there are no figures
    seconds: float = 0.0


class Search(Document):
    """What a search has found; `latencies` is what `replay` of another one takes."""

    job_id: str
    model: Name
    version: Name
    profile: Name
    seed: int
    metric: str
    float_metric: Figure
    trials: tuple[SearchTrial, ...]
    front: tuple[int, ...]  # numbers of the trials that no other beats, of those that may be offered
    best: int | None = None
    reason: str = ""
    notes: tuple[str, ...] = ()
    latencies: Latencies

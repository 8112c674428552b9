"""What goes into a search and what comes out of it: the part of `contract` that is about trials of recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, model_validator

from compressors.contract import (
    BuildResult,
    ComputeDevice,
    DeviceFigure,
    Figure,
    Inputs,
    Part,
    Recipe,
    RefusedProfile,
    Verdict,
)
from edge_agent.protocol.base import Sha256
from edge_agent.protocol.profile import Delegate, DeviceProfile, RuntimeName


class Latency(Part):
    """How fast a recipe's file ran, and where: a row of a recorded latency table."""

    runtime: RuntimeName
    delegate: Delegate
    p50_ms: float
    p95_ms: float
    p50_interval_ms: tuple[float, float] | None = None  # 95 % interval of the median
    ram_bytes: int | None = None  # what load and runs add to the process
    host_cpu_model: str | None = None  # of what ran it; a table that is replayed may come from another machine
    predicted_p95_ms: Figure | None = None  # on the profile's CPU, where that is another one
    expected_ms: float | None = None  # there, by what its devices measured: what a search makes small in place of p50


class TrialFigures(Part):
    """What is known of the file that a recipe made; the metric is that of the selection split."""

    latency: Latency
    raw_bytes: int  # of the model file
    download_bytes: int  # of the object as it travels
    storage_bytes: int  # of what lies on the device
    macs: int | None = None
    metric: Figure
    metric_drop: float  # against the float model, in units of the metric; negative is better
    metric_drop_interval: tuple[float, float] | None = None  # 95 %, of the difference on the same rows
    metric_sources: int | None = None  # independent ones that tell the drop; None: it answers as the float model does
    noise_db: float | None = None  # of its answers against the float model's; known where too few sources tell a drop

    @property
    def objectives(self) -> tuple[float, float, float]:
        """What a search makes small: latency, download, and what is lost.

        Where too few sources tell drops apart, noise does: on six photos a network of 7 dB was by luck the most right.
        """
        expected_ms = self.latency.expected_ms
        lost = self.metric_drop if self.noise_db is None else self.noise_db
        return self.latency.p50_ms if expected_ms is None else expected_ms, float(self.download_bytes), lost


class Trial(Part):
    """One recipe that a search has tried."""

    number: int
    parameters: dict[str, JsonValue]  # what was chosen of the space
    recipe: Recipe
    figures: TrialFigures | None = None
    verdict: Verdict = Verdict.UNMEASURED
    excesses: dict[str, float] = Field(
        default_factory=dict
    )  # limits of the profile that it misses: its value as a multiple of the limit
    unasked_points: float | None = None  # of the metric, by which it may break what the profile allows
    refusal: str = ""  # why there are no figures
    seconds: float = 0.0

    @property
    def fits(self) -> bool:
        """Whether no limit is missed, as far as is known here."""
        return self.verdict in {Verdict.FITS, Verdict.UNPROVEN}

    @property
    def meets_all(self) -> bool:
        """Whether every limit is met for certain, and no more is lost than the profile allows."""
        return self.verdict is Verdict.FITS and self.unasked_points is None


Latencies = dict[Sha256, Latency]  # by the hash of a recipe's steps, `recipes.recipe_hash`


class SearchBudget(Part):
    """When a search ends, whatever comes first; at least one of time and trials is bounded."""

    seconds: Annotated[float | None, Field(gt=0, allow_inf_nan=False)] = None  # of all runs of a search that goes on
    trials: Annotated[int | None, Field(ge=1, le=10_000)] = None
    until_fits: bool = False  # as soon as the usual recipes are tried and one meets every limit

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.seconds is None and self.trials is None:
            raise ValueError("a search needs an end: give its budget seconds, trials or both")
        return self


class SearchRequest(Part):
    """Try recipes for one profile, within its limits, until the budget is spent."""

    kind: Literal["search"] = "search"
    inputs: Inputs
    profile: DeviceProfile
    budget: SearchBudget
    seed: Annotated[int, Field(ge=0, le=(1 << 31) - 1)] = 0
    replay: Latencies | None = None  # latencies that an earlier search has recorded, in place of measured ones
    pythons: dict[RuntimeName, Path]  # the Python executable that has each runtime
    output_dir: Path | None = None  # where the variants of the front are written; None: the test split is not read
    cache_dir: Path | None = None  # with it a search that was killed goes on
    host_cpu_model: str | None = None  # as a profile would name this machine's CPU
    device_figures: tuple[DeviceFigure, ...] = ()
    threads: int = 1
    device: ComputeDevice = "cpu"


class SearchResult(Part):
    """What a search has found."""

    metric: str
    float_metric: Figure  # of the float model, on the selection split
    seed: int
    trials: tuple[Trial, ...]
    front: tuple[int, ...]  # numbers of the trials that no other beats, of those that may be offered
    best: int | None  # the trial that the profile would get
    reason: str = ""  # why that one, and what came next
    refusal: RefusedProfile | None = None  # where none meets the limits: the one that binds and the nearest miss
    latencies: Latencies  # for `replay`
    notes: tuple[str, ...] = ()  # what was left out of the space, and why
    build: BuildResult | None = (
        None  # the front's variants, judged with the test split; where an `output_dir` was given
    )

"""What a report says about one variant, as data. pydantic only, like `contract`."""

from __future__ import annotations

from enum import StrEnum

from compressors.contract import Figure, Origin, Part, StepRecord, Verdict


class Label(StrEnum):
    """What a variant is good for."""

    FASTER = "faster"
    SMALLER = "smaller"
    DOWNLOAD_ONLY = "download only"
    NOT_WORTH_IT = "not worth it"
    THE_FLOAT_MODEL = "the float model"  # it is the file that the others are held against


class Verdicted(Part):
    """A label with the figure that earned it."""

    label: Label
    sentence: str
    loses_points: bool  # more than one point of the metric


class Compared(Part):
    """A number of the float model and of the variant; `change` is the loss, negative is better."""

    name: str
    before: float
    after: float
    loss: float


class ComparedFigure(Part):
    """The same with intervals; that of the loss is narrower than the two others tell, because the rows are the same."""

    name: str
    before: Figure
    after: Figure
    loss: Figure


class SliceFigure(Part):
    """A part of the data."""

    name: str
    rows: int
    metric: str
    before: float
    after: float
    loss: float


class ShiftFigure(Part):
    """The metric on rows that were changed, and how often both models still agree there."""

    name: str
    before: float
    after: float
    loss: float
    agreement: float


class Flips(Part):
    """Answers that changed; see `flips`."""

    rows: int
    changed: int
    to_right: int
    to_wrong: int


class Sensitivity(Part):
    """What quantizing one layer alone does: signal to noise of the model's output, in dB; the lower, the worse."""

    layer: str
    weights_db: float
    activations_db: float
    both_db: float  # the noise of the two, added
    top_eigenvalue: float | None = None  # of the Hessian of the loss in its weights; None: it was not computed
    trace: float | None = None


class Candidate(Part):
    """One of all that the profile could have; the metric is that of the test split, as its build told."""

    recipe: str
    target: str  # runtime and delegate
    verdict: Verdict
    latency_p50_ms: float
    download_bytes: int
    metric: float
    on_front: bool  # of those that miss no limit, none is better in one of the three and nowhere worse
    reported: bool  # it is the variant that the report is about


class Size(Part):
    """What a variant weighs, beside the float model on the same runtime."""

    raw_bytes: int
    wire_bytes: int
    macs: int | None
    latency_p50_ms: float | None
    latency_origin: Origin = Origin.HOST
    peak_rss_bytes: int | None = None


class Evidence(Part):
    """All of it."""

    model: str
    version: str
    profile: str
    variant_id: str
    recipe: str
    chosen: bool  # the profile gets it
    limits_verdict: Verdict  # how it stands against the profile's limits, as its build judged it
    limits_reason: str = ""  # and why
    target: str  # runtime and delegate
    task: str
    rows: int  # of the test split
    float_size: Size
    size: Size
    latency_p95_ms: Figure | None = None  # as the profile's limit was judged by
    decision: ComparedFigure
    ranking: ComparedFigure | None
    calibration_error: Compared | None
    agreement: float
    flips: Flips
    slices: tuple[SliceFigure, ...]
    shifts: tuple[ShiftFigure, ...]
    attribution_correlation: float | None
    sensitivity: tuple[Sensitivity, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    steps: tuple[StepRecord, ...] = ()
    notes: tuple[str, ...] = ()  # what is left out, and why
    verdict: Verdicted

"""The tables of a report: rows of text out of figures, for every page alike. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from compressors.contract import Origin

if TYPE_CHECKING:
    from compressors.contract import Figure
    from compressors.reporting.evidence import ComparedFigure, Evidence

MAX_SLICES = 12
MAX_LAYERS = 20
THOUSAND = 1000


@dataclass(frozen=True)
class Table:
    """A heading, what it says in one sentence, the columns, and the rows."""

    title: str
    sentence: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    picture: str = ""  # its name, where there is one


def tables_of(evidence: Evidence) -> list[Table]:
    """All tables that have rows, in the order of the page."""
    made = [
        _candidates(evidence),
        _sizes(evidence),
        _answers(evidence),
        _flips(evidence),
        _slices(evidence),
        _shifts(evidence),
        _sensitivity(evidence),
        _steps(evidence),
    ]
    return [table for table in made if table.rows]


def _candidates(evidence: Evidence) -> Table:
    return Table(
        "What can be had",
        f"All that was built for {evidence.profile} and ran here. Latency is that of the host; the metric is that of "
        "the test split. Unbeaten: none that misses no limit is better in one of the three and nowhere worse. The "
        "picture leaves out what differs from the float model by more than a fifth of the metric.",
        ("", "recipe", "runs on", "limits", "latency p50, ms", "download, bytes", evidence.decision.name),
        tuple(
            (
                "this one" if one.reported else "unbeaten" if one.on_front else "",
                one.recipe,
                one.target,
                one.verdict,
                _number(one.latency_p50_ms),
                _count(one.download_bytes),
                _number(one.metric),
            )
            for one in evidence.candidates
        ),
        "pareto",
    )


def _sizes(evidence: Evidence) -> Table:
    before, after = evidence.float_size, evidence.size
    rows = [
        ("file on the device, bytes", _count(before.raw_bytes), _count(after.raw_bytes)),
        ("download, bytes", _count(before.wire_bytes), _count(after.wire_bytes)),
        ("multiply-accumulates of a sample", _count(before.macs), _count(after.macs)),
        (f"latency p50, ms ({after.latency_origin})", _number(before.latency_p50_ms), _number(after.latency_p50_ms)),
        ("memory that loading and running add, bytes", _count(before.peak_rss_bytes), _count(after.peak_rss_bytes)),
    ]
    if (judged := evidence.latency_p95_ms) is not None:
        rows.append((f"latency p95, ms, as judged for {evidence.profile} ({_origin(judged)})", "", _interval(judged)))
    said = f"Measured on {evidence.target}. Multiplications are not time: read both."
    if judged is not None and judged.origin is Origin.PREDICTED:
        said += f" No {evidence.profile} had told of this file when it was judged: its p95 is predicted."
    return Table(
        "Size and time",
        said,
        ("", "float", "this variant"),
        tuple(rows),
        "size",
    )


def _answers(evidence: Evidence) -> Table:
    rows = [("decision", *_figures(evidence.decision))]
    if evidence.ranking is not None:
        rows.append(("ranking", *_figures(evidence.ranking)))
    if (error := evidence.calibration_error) is not None:
        rows.append(("confidence", error.name, _number(error.before), _number(error.after), _loss(error.loss)))
    rows.append(("agreement", "with the float model", "", _number(evidence.agreement), ""))
    if evidence.attribution_correlation is not None:
        correlation = _number(evidence.attribution_correlation)
        rows.append(("interpretability", "correlation of what matters", "", correlation, ""))
    return Table(
        "How right it is",
        f"On the {evidence.rows:,} rows of the test split, which no step or search has seen, with 95 % intervals. A "
        "decision does not say how near it was to falling the other way, so a metric of order stands beside it.",
        ("", "metric", "float", "this variant", "loss"),
        tuple(rows),
    )


def _figures(compared: ComparedFigure) -> tuple[str, str, str, str]:
    return compared.name, _interval(compared.before), _interval(compared.after), _lost(compared.loss)


def _flips(evidence: Evidence) -> Table:
    flips = evidence.flips
    row = (_count(flips.rows), _count(flips.changed), _count(flips.to_right), _count(flips.to_wrong))
    return Table(
        "Answers that changed",
        "Decisions that fell the other way; for numbers, answers that moved by more than a tenth of the spread; in a "
        "ranking, rows that came among the first of their query or left them.",
        ("rows", "changed", "to right", "to wrong"),
        (row,),
    )


def _slices(evidence: Evidence) -> Table:
    return Table(
        "Parts of the data",
        f"Those that lose most, of {len(evidence.slices)} that were looked at. Among many, one is the worst by chance: "
        "compare with the intervals above.",
        ("part", "rows", "metric", "float", "this variant", "loss"),
        tuple(
            (one.name, _count(one.rows), one.metric, _number(one.before), _number(one.after), _loss(one.loss))
            for one in evidence.slices[:MAX_SLICES]
        ),
        "slices",
    )


def _shifts(evidence: Evidence) -> Table:
    return Table(
        "Other rows than it was made with",
        f"The same rows, changed: {evidence.decision.name} of both models, and how often they still agree.",
        ("change", "float", "this variant", "loss", "agreement"),
        tuple(
            (one.name, _number(one.before), _number(one.after), _loss(one.loss), _number(one.agreement))
            for one in evidence.shifts
        ),
        "shifts",
    )


def _sensitivity(evidence: Evidence) -> Table:
    rows = sorted(evidence.sensitivity, key=lambda one: one.both_db)[:MAX_LAYERS]
    said = (
        "Signal to noise of the float model's output when this layer alone is quantized to 8 bits, simulated on rows "
        "of the selection split; the lower, the worse. Both: the noise of the two, added."
    )
    columns = ("layer", "weights, dB", "activations, dB", "both, dB")
    cells = [(one.layer, _number(one.weights_db), _number(one.activations_db), _number(one.both_db)) for one in rows]
    if not any(one.trace is not None for one in rows):
        return Table("Layers", said, columns, tuple(cells), "sensitivity")
    said += (
        " Eigenvalue and trace: the largest eigenvalue and the trace of the Hessian of the loss in the layer's "
        "weights, on labelled calibration rows; the larger, the more the loss rises when the weights move."
    )
    known = [(_number(one.top_eigenvalue), _number(one.trace)) for one in rows]
    wide = tuple((*few, *more) for few, more in zip(cells, known, strict=True))
    return Table("Layers", said, (*columns, "eigenvalue", "trace"), wide, "sensitivity")


def _steps(evidence: Evidence) -> Table:
    return Table(
        "What was done",
        f"The steps of the recipe {evidence.recipe}.",
        ("step", "seconds", "what it did"),
        tuple((step.step, f"{step.seconds:.1f}", step.summary) for step in evidence.steps),
    )


def _interval(figure: Figure) -> str:
    if figure.low is None or figure.high is None:
        return _number(figure.value)
    return f"{_number(figure.value)} ({_number(figure.low)} to {_number(figure.high)})"


def _origin(latency: Figure) -> str:
    """How a latency was obtained, and what a prediction of it stands on."""
    if latency.origin is not Origin.PREDICTED:
        return latency.origin
    count = latency.device_variants
    if count is None:
        return "predicted from published figures"
    return f"predicted from {count} variant{'' if count == 1 else 's'} that devices measured"


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _loss(value: float) -> str:
    """To a hundredth of a point."""
    return _number(value) if abs(value) >= 1 else f"{value + 0.0:.4f}".replace("-0.0000", "0.0000")


def _lost(figure: Figure) -> str:
    if figure.low is None or figure.high is None:
        return _loss(figure.value)
    return f"{_loss(figure.value)} ({_loss(figure.low)} to {_loss(figure.high)})"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= THOUSAND else f"{value:.4g}"

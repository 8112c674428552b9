"""The pictures of a report, as SVG: drawn without a display, and the same each time."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.axes import Axes

    from compressors.reporting.evidence import Evidence

BEFORE, AFTER, GREY = "#8a8f98", "#1f6f8b", "#c9ccd1"
MAX_BARS = 12
NAME_HEIGHTS = (6, -14, 18, -26, 30, -38)  # points above a candidate: neighbours shall not cover each other
SHOWN_CHANGE = 0.2  # of the float model's metric
LEAST_SPAN = 0.04  # of that metric, along the axis
LOGARITHMIC = 8.0  # times the least latency
STYLE: dict[Any, Any] = {
    "text.parse_math": False,  # names of layers and classes are not formulas
    "svg.hashsalt": "shoal",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def pictures_of(evidence: Evidence) -> dict[str, str]:
    """SVG by name; a picture that has nothing to show is not among them."""
    drawn = {
        "pareto": _pareto(evidence),
        "size": _sizes(evidence),
        "slices": _slices(evidence),
        "shifts": _shifts(evidence),
        "sensitivity": _sensitivity(evidence),
    }
    return {name: svg for name, svg in drawn.items() if svg}


def _svg(width: float, height: float, draw: Callable[[Axes], None]) -> str:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure.subplots())
        held = io.StringIO()
        figure.savefig(held, format="svg", metadata={"Date": None, "Creator": None})
    text = held.getvalue()
    return text[text.index("<svg") :]


def _pareto(evidence: Evidence) -> str:
    """Latency and metric of the candidates; what is broken would squeeze all others into a corner."""
    reference = evidence.decision.before.value
    points = [
        one
        for one in evidence.candidates
        if one.reported or abs(one.metric - reference) <= SHOWN_CHANGE * abs(reference)
    ]
    if len(points) < 2:  # noqa: PLR2004  one point has no front
        return ""
    largest = max(point.download_bytes for point in points)

    def draw(axes: Axes) -> None:
        named = 0
        for point in points:
            place = (point.latency_p50_ms, point.metric)
            color = AFTER if point.reported else BEFORE if point.on_front else GREY
            size, z = 20 + 80 * point.download_bytes / largest, 3 if point.reported else 2
            axes.scatter(*place, s=size, color=color, zorder=z)
            if point.reported or point.on_front:
                offset = (6, NAME_HEIGHTS[named % len(NAME_HEIGHTS)])
                name = f"{point.recipe}, {point.target}"
                axes.annotate(name, place, xytext=offset, textcoords="offset points", color=color)
                named += 1
        if max(one.latency_p50_ms for one in points) > LOGARITHMIC * min(one.latency_p50_ms for one in points):
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:g}")
        else:
            axes.set_xlim(left=0)
        axes.margins(x=0.25, y=0.15)
        low, high = axes.get_ylim()
        short = max(0.0, LEAST_SPAN * abs(reference) - (high - low)) / 2  # what differs by nothing shall look so
        axes.set_ylim(low - short, high + short)
        axes.set_xlabel("latency p50, ms (area: bytes to download)")
        axes.set_ylabel(f"{evidence.decision.name} on the test split")

    return _svg(6, 3.4, draw)


def _sizes(evidence: Evidence) -> str:
    before, after = evidence.float_size, evidence.size
    shares = {"file": after.raw_bytes / before.raw_bytes, "download": after.wire_bytes / before.wire_bytes}
    if after.macs and before.macs:
        shares["multiplications"] = after.macs / before.macs
    if after.latency_p50_ms is not None and before.latency_p50_ms:
        shares["latency p50"] = after.latency_p50_ms / before.latency_p50_ms

    def draw(axes: Axes) -> None:
        bars = axes.barh(list(shares), list(shares.values()), color=AFTER, height=0.6)
        axes.bar_label(bars, fmt="%.2f", padding=3)
        axes.axvline(1.0, color=BEFORE, linestyle="--", linewidth=1)
        axes.invert_yaxis()
        axes.set_xlabel("share of the float model's")
        axes.set_xlim(0, max(1.15, 1.15 * max(shares.values())))

    return _svg(6, 0.6 + 0.4 * len(shares), draw)


def _slices(evidence: Evidence) -> str:
    worst = evidence.slices[:MAX_BARS]
    return _losses([one.name for one in worst], [one.loss for one in worst], worst[0].metric) if worst else ""


def _shifts(evidence: Evidence) -> str:
    shifts = evidence.shifts
    return _losses([one.name for one in shifts], [one.loss for one in shifts], evidence.decision.name) if shifts else ""


def _losses(names: Sequence[str], losses: Sequence[float], metric: str) -> str:
    def draw(axes: Axes) -> None:
        axes.barh(names, losses, color=AFTER, height=0.6)
        axes.axvline(0.0, color=BEFORE, linewidth=1)
        axes.invert_yaxis()
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel(f"loss of {metric} against the float model")

    return _svg(6, 0.7 + 0.28 * len(names), draw)


def _sensitivity(evidence: Evidence) -> str:
    worst = sorted(evidence.sensitivity, key=lambda one: one.both_db)[:MAX_BARS]
    if not worst:
        return ""
    kinds = (
        ("weights", GREY, [one.weights_db for one in worst]),
        ("activations", BEFORE, [one.activations_db for one in worst]),
        ("both", AFTER, [one.both_db for one in worst]),
    )

    def draw(axes: Axes) -> None:
        for offset, (label, color, values) in enumerate(kinds):
            places = [place + 0.26 * (offset - 1) for place in range(len(worst))]
            axes.barh(places, values, color=color, height=0.24, label=label)
        axes.set_yticks(range(len(worst)), [one.layer for one in worst])
        axes.invert_yaxis()
        axes.set_xlabel("signal to noise of the output when this layer alone is quantized, dB")
        axes.legend(frameon=False, fontsize=8, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))

    return _svg(6, 0.9 + 0.36 * len(worst), draw)

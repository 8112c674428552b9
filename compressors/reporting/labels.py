"""One word for a variant, with the figure that earned it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compressors.building.judge import UNASKED_DROP
from compressors.reporting.evidence import Label, Verdicted

if TYPE_CHECKING:
    from compressors.metrics import Metric

GAIN = 0.9  # of the float model's figure: less is noise, or not worth an update
POINT = 0.01  # of a bounded metric; of the others this share of the float model's value
FLOAT = (Label.THE_FLOAT_MODEL, "the file that every other variant is held against")


def loss_share(metric: Metric, float_value: float, loss: float) -> float:
    """A loss as labels take it: 0.01 is one point; of an unbounded metric the share of the float model's value."""
    return loss if metric.bounded else loss / (abs(float_value) or 1.0)


def labelled(
    *,
    latency: float | None,
    cpu_model: str | None,
    raw_bytes: float,
    wire_bytes: float,
    loss: float,
    is_float: bool = False,
) -> Verdicted:
    """What a variant is good for.

    Args:
        latency: its latency as a share of the float model's on the same runtime; None: not measured.
        cpu_model: of the host that measured both, which may be no CPU of the profile's; None: not known.
        raw_bytes: its file on the device, as such a share.
        wire_bytes: its download, as such a share.
        loss: of the metric, as `loss_share` gives it.
        is_float: it is the float model's own file: what its figures differ by is noise, unless it loses.
    """
    host = "on the host" if cpu_model is None else f"on the host ({cpu_model})"
    label, sentence = FLOAT if is_float else _gain(latency, raw_bytes, wire_bytes, host)
    if latency is not None and latency * GAIN > 1 and not is_float:
        sentence += f", and {latency:.2f} times its latency {host}"
    if loss > UNASKED_DROP:
        label = Label.NOT_WORTH_IT
    if loss > POINT:
        sentence += f"; it loses {100 * loss:.1f} points"
    return Verdicted(label=label, sentence=sentence, loses_points=loss > POINT)


def _gain(latency: float | None, raw_bytes: float, wire_bytes: float, host: str) -> tuple[Label, str]:
    if latency is not None and latency <= GAIN:
        return Label.FASTER, f"{latency:.2f} of the float model's latency on the same runtime, {host}"
    if raw_bytes <= GAIN:
        return Label.SMALLER, f"{raw_bytes:.2f} of the float model's file"
    if wire_bytes <= GAIN:
        return Label.DOWNLOAD_ONLY, f"{wire_bytes:.2f} of the float model's download, and as large on the device"
    return Label.NOT_WORTH_IT, "neither faster, nor smaller, nor quicker to download than the float model"

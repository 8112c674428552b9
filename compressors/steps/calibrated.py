"""Which way of calibrating suits a network: each is tried, and measured on the selection rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from compressors.calibration.ranges import range_of
from compressors.calibration.rows import part_of
from compressors.measuring.fidelity import snr_db
from compressors.metrics import value_of
from compressors.step import Form, ModelFile
from edge_agent.protocol.profile import Delegate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from compressors.calibration.histogram import Histogram
    from compressors.calibration.ranges import Range, Rule
    from compressors.step import Context, Model

MAX_ROWS = 256


@dataclass(frozen=True)
class Candidate:
    """A file, and how near its answers on selection rows are to those of the float model."""

    rule: Rule
    file: bytes
    snr_db: float
    metric: float

    def __str__(self) -> str:
        """As the record tells it."""
        return f"{self.rule} {self.snr_db:.1f} dB ({self.metric:.4g})"


def candidates(
    model: Model,
    context: Context,
    histograms: Mapping[str, Histogram],
    rules: Sequence[Rule],
    *,
    percentile: float,
    quantize: Callable[[Mapping[str, Range]], bytes],
) -> list[Candidate]:
    """A file for each rule, the best first.

    What is best is decided by the signal-to-noise ratio of the first output: the metric of a few hundred rows moves in
    steps of a row, and would choose by chance.
    """
    from compressors.measuring.scoring import outputs_of  # noqa: PLC0415  it knows the forms of steps, and steps know this

    rows = part_of(context.selection, MAX_ROWS)
    name = model.network.signature.outputs[0].name
    expected = (context.teacher or model.network).run(rows.inputs)[name]
    found = []
    for rule in rules:
        file = quantize({name: range_of(one, rule, percentile=percentile) for name, one in histograms.items()})
        quantized = replace(model, file=ModelFile(Form.LITERT, file))
        given = outputs_of(quantized, rows, Delegate.XNNPACK)[name]
        metric = value_of(context.metric, given, rows.target, query=rows.query)
        found.append(Candidate(rule, file, snr_db(expected, given), metric))
    return sorted(found, key=lambda one: -one.snr_db)

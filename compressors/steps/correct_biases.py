"""Empirical bias correction, kept where it measures better; see `compressors.repairs.bias_correction`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from compressors.calibration.rows import part_of
from compressors.network.folding import fold_batch_norms
from compressors.network.layers import graph_of
from compressors.repairs.bias_correction import add_to_biases, shifts_of
from compressors.simulation import ranges_of, simulated
from compressors.step import Form, Step
from compressors.steps.repaired import RepairParameters, kept_if_better, left_out

if TYPE_CHECKING:
    from compressors.step import Context, Model, Outcome


class CorrectBiasesParameters(RepairParameters):
    """Those of every repair; `rows`: of calibration that the means are taken from."""

    rows: Annotated[int, Field(ge=8, le=4096)] = 64


def correct_biases(model: Model, context: Context, parameters: CorrectBiasesParameters) -> Outcome:
    """Fold batch-norms and correct; see `Step`."""
    module = fold_batch_norms(graph_of(model.network.module))
    folded = replace(model.network, module=module)
    scheme = parameters.scheme()
    rounding = simulated(module, scheme, ranges_of(folded, context.calibration))
    shifts = shifts_of(folded, rounding, part_of(context.calibration, parameters.rows))
    if not shifts:
        return left_out(model, "no layer has a bias to correct")
    add_to_biases(module, shifts)
    layers = {name: f"bias moved by up to {float(shift.abs().max()):.3g}" for name, shift in shifts.items()}
    return kept_if_better(model, context, module, scheme, layers)


STEP = Step("correct-biases", CorrectBiasesParameters, correct_biases, takes=Form.NETWORK, gives=Form.NETWORK)

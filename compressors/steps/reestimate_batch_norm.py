"""Batch-norm re-estimation, kept where it measures better; see `compressors.repairs.batch_norm`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from compressors.calibration.rows import part_of
from compressors.network.layers import graph_of
from compressors.rehydrate import clone
from compressors.repairs.batch_norm import move_statistics, norms_of, reestimate
from compressors.simulation.simulate import round_weights
from compressors.step import Form, Step
from compressors.steps.repaired import RepairParameters, kept_if_better, left_out

if TYPE_CHECKING:
    from compressors.step import Context, Model, Outcome


class ReestimateBatchNormParameters(RepairParameters):
    """Those of every repair; `rows`: of calibration that the statistics are taken from."""

    rows: Annotated[int, Field(ge=8, le=4096)] = 256


def reestimate_batch_norm(model: Model, context: Context, parameters: ReestimateBatchNormParameters) -> Outcome:
    """Take the statistics anew, of a network with rounded weights; see `Step`."""
    names = norms_of(model.network.module)
    if not names:
        return left_out(model, "the network has no batch-norm: re-estimate before they are folded")
    rounding = clone(graph_of(model.network.module))
    scheme = parameters.scheme()
    if scheme.weights is not None:
        round_weights(rounding, scheme.weights, per_channel=scheme.per_channel)
    reestimate(replace(model.network, module=rounding), part_of(context.calibration, parameters.rows))
    repaired = clone(graph_of(model.network.module))
    move_statistics(rounding, repaired)
    return kept_if_better(model, context, repaired, scheme, dict.fromkeys(names, "statistics taken anew"))


STEP = Step(
    "reestimate-batch-norm",
    ReestimateBatchNormParameters,
    reestimate_batch_norm,
    takes=Form.NETWORK,
    gives=Form.NETWORK,
)

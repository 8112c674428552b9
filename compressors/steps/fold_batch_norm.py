"""Batch-norms become part of the layers before them, so that later steps see the weights that the device will see."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from compressors.network.folding import fold_batch_norms
from compressors.network.layers import graph_of
from compressors.repairs.batch_norm import norms_of
from compressors.step import Form, Outcome, Parameters, Step
from compressors.steps.repaired import left_out

if TYPE_CHECKING:
    from compressors.step import Context, Model


class FoldBatchNormParameters(Parameters):
    """None."""


def fold(model: Model, _context: Context, _parameters: FoldBatchNormParameters) -> Outcome:
    """Fold what can be folded; see `Step`."""
    module = fold_batch_norms(graph_of(model.network.module))
    before, after = norms_of(model.network.module), norms_of(module)
    gone = sorted(before.keys() - after.keys())
    if not gone:
        return left_out(model, "no batch-norm follows a layer that it can be folded into")
    left = sum(weight.numel() for weight in module.parameters())
    network = replace(model.network, module=module, parameters=left)
    return Outcome(
        replace(model, network=network),
        f"{len(gone)} of {len(before)} batch-norms folded",
        dict.fromkeys(gone, "folded"),
    )


STEP = Step("fold-batch-norm", FoldBatchNormParameters, fold, takes=Form.NETWORK, gives=Form.NETWORK)

"""Cross-layer equalisation, kept where it measures better; see `compressors.repairs.equalize`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import torch

from compressors.calibration.rows import part_of
from compressors.network.folding import fold_batch_norms
from compressors.network.layers import graph_of
from compressors.repairs.equalize import equalize, pairs_of
from compressors.simulation.simulate import BATCH, MAX_ROWS
from compressors.step import Form, Step
from compressors.steps.repaired import RepairParameters, kept_if_better, left_out

if TYPE_CHECKING:
    from torch import fx

    from compressors.inputs.program import FloatModel
    from compressors.step import Context, Model, Outcome


class EqualizeLayersParameters(RepairParameters):
    """Those of every repair; `relu6`: `bound` keeps channels below the cap, `skip` leaves such pairs alone."""

    relu6: Literal["bound", "skip"] = "bound"


def equalize_layers(model: Model, context: Context, parameters: EqualizeLayersParameters) -> Outcome:
    """Fold batch-norms and equalise; see `Step`."""
    module = fold_batch_norms(graph_of(model.network.module))
    pairs = pairs_of(module, through_caps=parameters.relu6 == "bound")
    if not pairs:
        return left_out(model, "no two layers follow each other with a ReLU at most between them")
    folded = replace(model.network, module=module)
    tops = _highest(folded, context, {pair.capped for pair in pairs if pair.capped is not None})
    narrowed = equalize(module, pairs, tops)
    layers = {
        name: f"ranges of its channels {times:.3g} times nearer to each other" for name, times in narrowed.items()
    }
    return kept_if_better(model, context, module, parameters.scheme(), layers)


def _highest(folded: FloatModel, context: Context, names: set[str]) -> dict[str, torch.Tensor]:
    """What each channel of some nodes is at most on calibration rows."""
    found: dict[str, torch.Tensor] = {}
    graph = graph_of(folded.module)
    watched = [node for node in graph.graph.nodes if node.name in names]

    class Noting(torch.fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401
            values = super().run_node(n)
            if n in watched:
                top = values.transpose(0, 1).flatten(1).amax(1)
                found[n.name] = torch.maximum(found[n.name], top) if n.name in found else top
            return values

    rows = part_of(context.calibration, MAX_ROWS)
    interpreter = Noting(graph)
    with torch.no_grad():
        for start in range(0, rows.rows, BATCH):
            interpreter.run(*(torch.from_numpy(array[start : start + BATCH]) for array in rows.inputs.values()))
    return found


STEP = Step("equalize-layers", EqualizeLayersParameters, equalize_layers, takes=Form.NETWORK, gives=Form.NETWORK)

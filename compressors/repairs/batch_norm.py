"""Batch-norm re-estimation: the statistics that a batch-norm takes out are taken anew, of what it sees now.

Rounded, pruned or shared weights give a layer's outputs another mean and variance than training did.
Source: Sun et al. 2019, arXiv:1904.10584; Nagel et al. 2022, arXiv:2203.11086.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from torch import fx

    from compressors.data.evaluation_rows import Split
    from compressors.inputs.program import FloatModel

BATCH = 64
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def norms_of(network: nn.Module) -> dict[str, nn.Module]:
    """The batch-norms that keep statistics, by name."""
    return {
        name: layer
        for name, layer in network.named_modules()
        if isinstance(layer, NORMS) and layer.running_mean is not None
    }


def reestimate(rounding: FloatModel, rows: Split) -> None:
    """Take the statistics of a network's batch-norms anew, in place: the mean over all batches of some rows."""
    norms = [layer for layer in norms_of(rounding.module).values() if isinstance(layer, NORMS)]
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.reset_running_stats()
        layer.momentum = None  # a mean over batches, not a moving one
        layer.train()
    rounding.run(rows.inputs, batch=min(BATCH, rows.rows))
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
        layer.eval()


def move_statistics(source: fx.GraphModule, target: fx.GraphModule) -> None:
    """Copy the statistics of one network's batch-norms into its twin's."""
    taken = norms_of(source)
    for name, layer in norms_of(target).items():
        layer.load_state_dict(
            taken[name].state_dict()
            | {key: value for key, value in layer.state_dict().items() if key in {"weight", "bias"}}
        )

"""What a unit of channels is worth: by the size of its weights, by chance, or by the loss that its going would cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from compressors.pruning.gates import gated, open_gate, readers

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from compressors.pruning.coupling import Coupling
    from compressors.training.row_losses import LossBatch


def magnitude(network: nn.Module, couplings: Sequence[Coupling], *, norm: int) -> dict[Coupling, torch.Tensor]:
    """The norm of all weights that go with a unit, in multiples of its coupling's mean.

    Source: Fang et al. 2023, arXiv:2301.12900, section 3.3, with the mean as the normaliser.
    """
    return {coupling: _by_mean(_weight_norms(network, coupling, norm)) for coupling in couplings}


def at_random(couplings: Sequence[Coupling], generator: torch.Generator) -> dict[Coupling, torch.Tensor]:
    """Uniform numbers: what any method has to beat."""
    return {coupling: torch.rand(coupling.units, generator=generator) for coupling in couplings}


def fisher(
    network: nn.Module, couplings: Sequence[Coupling], batches: Iterable[LossBatch]
) -> dict[Coupling, torch.Tensor]:
    """Half the mean square of each sample's derivative by a factor before all that reads a unit.

    That is the second-order cost of setting the factor to 0 (optimal brain damage), with the Fisher information for
    the Hessian; unlike a sum over single weights it keeps their products within a unit. Every sample counts: Torch-
    Pruning 1.6.1's own `GroupHessianImportance` keeps the last only.

    Args:
        network: in evaluation mode, so that samples do not see each other; not modified.
        couplings: what is scored.
        batches: rows, with the loss of the network's answers.

    Source: LeCun et al. 1989, "Optimal Brain Damage"; Liu et al. 2021, "Group Fisher Pruning", arXiv:2108.00708.
    """
    sides = {coupling: readers(network, coupling) for coupling in couplings}
    layers = sorted({side.layer for found in sides.values() for side in found})
    total = {coupling: torch.zeros(coupling.units, dtype=torch.float64) for coupling in couplings}
    samples = 0
    for batch in batches:
        rows = batch.rows
        gates = {name: open_gate(network.get_submodule(name), rows=rows).requires_grad_() for name in layers}
        with gated(network, gates), torch.enable_grad():
            found = torch.autograd.grad(batch.loss(network(*batch.inputs)), list(gates.values()))
        slopes = dict(zip(layers, found, strict=True))
        samples += rows
        for coupling in couplings:
            by_root = torch.zeros(rows, coupling.channels)
            for side in sides[coupling]:
                by_root.index_add_(1, torch.tensor(side.roots), slopes[side.layer][:, list(side.channels)])
            by_unit = by_root.reshape(rows, coupling.groups, coupling.units).sum(1)
            total[coupling] += by_unit.double().square().sum(0)
    return {coupling: (0.5 * values / max(samples, 1)).float() for coupling, values in total.items()}


def _weight_norms(network: nn.Module, coupling: Coupling, norm: int) -> torch.Tensor:
    """The sum over a unit's weights of |weight| to the power of `norm`, shape (units,)."""
    total = torch.zeros(coupling.channels)
    for side in coupling.sides:
        layer: Any = network.get_submodule(side.layer)
        powers = layer.weight.detach().abs().pow(norm)
        axis = _axis(layer, is_input=side.is_input)
        values = powers.movedim(axis, 0).flatten(1).sum(1) if powers.dim() > 1 else powers
        if side.is_input and len(values) * getattr(layer, "groups", 1) > len(values):
            values = values.repeat(layer.groups)  # each group of a convolution counts its inputs anew
        total.index_add_(0, torch.tensor(side.roots), values[list(side.channels)])
    return total.reshape(coupling.groups, coupling.units).sum(0)


def _axis(layer: Any, *, is_input: bool) -> int:  # noqa: ANN401
    return int(is_input) ^ int(getattr(layer, "transposed", False))


def _by_mean(values: torch.Tensor) -> torch.Tensor:
    mean = values.mean()
    return values / mean if mean > 0 else values  # all zero: pruned before, or dead

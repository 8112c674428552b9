"""How sharply the loss rises when the weights of a layer move: largest eigenvalue and trace of the layer's Hessian.

Neither needs the Hessian itself, only its product with a vector. Source: Yao et al. 2020, "PyHessian",
arXiv:1912.07145; the mean trace as a layer's sensitivity: Dong et al. 2020, "HAWQ-V2", arXiv:1911.03852.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from compressors.network.layers import weighted_layers
from compressors.rehydrate import clone
from compressors.running import operators_may_refuse

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import nn

    from compressors.training.row_losses import LossBatch

    Product = Callable[[Mapping[str, torch.Tensor], Sequence[str]], dict[str, torch.Tensor]]

MAX_POWER_STEPS = 20
SETTLED = 0.02  # relative change of the eigenvalue at which power iteration ends
PROBES = 8  # random vectors of Hutchinson's estimate
_CANT = "the Hessian can't be computed"
_ADVICE = "leave the step out, or prune by magnitude"


@dataclass(frozen=True)
class Curvature:
    """Of the mean loss over some rows, in the weights of one layer."""

    top_eigenvalue: float  # the one of largest size; below zero where the loss is no bowl
    trace: float
    weights: int

    def cost_of(self, squared_change: float) -> float:
        """What moving the weights by so much, summed squares, is expected to add to the loss."""
        return 0.5 * self.trace / self.weights * squared_change

    def __str__(self) -> str:
        return f"Hessian: top eigenvalue {self.top_eigenvalue:.3g}, trace {self.trace:.3g}"


def curvature_of(network: nn.Module, batches: Sequence[LossBatch], *, seed: int = 0) -> dict[str, Curvature]:
    """The curvature of each layer with weights; a layer that the loss does not reach has none.

    Args:
        network: in evaluation mode; not modified.
        batches: rows with the loss of the network's answers.
        seed: of the random vectors.

    Raises:
        ModelRunError: an operator has no second derivative.
    """
    copied = clone(network)
    weights: dict[str, torch.Tensor] = {}
    for name, layer in weighted_layers(copied):
        parameter = layer.get_parameter("weight")
        if not any(parameter is one for one in weights.values()):
            weights[name] = parameter.requires_grad_()
    with torch.enable_grad(), operators_may_refuse(_CANT, _ADVICE):
        product = _products(copied, weights, batches)
        generator = torch.Generator().manual_seed(seed)
        traces = _traces(product, weights, generator)
        return {
            name: Curvature(_top_eigenvalue(product, name, weights[name], generator), trace, weights[name].numel())
            for name, trace in traces.items()
        }


def _products(network: nn.Module, weights: Mapping[str, torch.Tensor], batches: Sequence[LossBatch]) -> Product:
    """The Hessian of some layers, their block of it, times a vector."""
    rows = sum(batch.rows for batch in batches)

    def product(vectors: Mapping[str, torch.Tensor], names: Sequence[str]) -> dict[str, torch.Tensor]:
        chosen = [weights[name] for name in names]
        total = {name: torch.zeros_like(weights[name]) for name in names}
        for batch in batches:
            loss = batch.loss(network(*batch.inputs)) / rows
            slopes = torch.autograd.grad(loss, chosen, create_graph=True, materialize_grads=True)
            along = sum((slope * vectors[name]).sum() for name, slope in zip(names, slopes, strict=True))
            if not isinstance(along, torch.Tensor) or not along.requires_grad:
                continue  # the loss does not depend on these weights, or in a straight line
            found = torch.autograd.grad(along, chosen, materialize_grads=True)
            for name, one in zip(names, found, strict=True):
                total[name] += one
        return total

    return product


def _traces(product: Product, weights: Mapping[str, torch.Tensor], generator: torch.Generator) -> dict[str, float]:
    """Hutchinson: the mean of v^T H v over vectors of random signs.

    Each layer for itself: with one vector for all, what goes from layer to layer cancels out on the mean only, and a
    flat layer's trace drowns in the noise of a sharp one.
    """
    total = dict.fromkeys(weights, 0.0)
    for name, weight in weights.items():
        for _ in range(PROBES):
            signs = torch.randint(0, 2, weight.shape, generator=generator).to(weight.dtype) * 2 - 1
            total[name] += float((product({name: signs}, [name])[name] * signs).sum()) / PROBES
    return total


def _top_eigenvalue(product: Product, name: str, weight: torch.Tensor, generator: torch.Generator) -> float:
    """Power iteration, ended when the Rayleigh quotient has settled."""
    vector = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
    value = 0.0
    for _ in range(MAX_POWER_STEPS):
        vector = vector / torch.linalg.vector_norm(vector)
        found = product({name: vector}, [name])[name]
        before, value = value, float((vector * found).sum())
        if float(torch.linalg.vector_norm(found)) == 0.0 or abs(value - before) <= SETTLED * abs(value):
            break
        vector = found
    return value

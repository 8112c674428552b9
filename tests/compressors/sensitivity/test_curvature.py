from __future__ import annotations

import math

import pytest
import torch

from compressors.sensitivity.curvature import curvature_of
from compressors.training.row_losses import LossBatch, loss_batches
from tests.compressors.pruning_networks import Residual, context_for, network_of


def batches_of(inputs: torch.Tensor, pieces: int) -> list[LossBatch]:
    """Half the squared outputs: the Hessian of a linear layer's weights is the moment of its inputs, once an output."""
    return [LossBatch((piece,), len(piece), lambda outputs: 0.5 * (outputs**2).sum()) for piece in inputs.chunk(pieces)]


@pytest.mark.parametrize("pieces", [1, 3])
def test_curvature_of_a_quadratic_loss_is_that_of_its_inputs(pieces: int) -> None:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(300, 6, generator=generator) * torch.tensor([3.0, 1, 1, 1, 1, 1])
    layer = torch.nn.Linear(6, 4, bias=False)
    found = curvature_of(torch.nn.Sequential(layer), batches_of(inputs, pieces))["0"]
    moment = inputs.T @ inputs / 300
    assert found.top_eigenvalue == pytest.approx(float(torch.linalg.eigvalsh(moment)[-1]), rel=0.05)
    assert found.trace == pytest.approx(4 * float(moment.trace()), rel=0.1)
    assert found.cost_of(2.0) == pytest.approx(found.trace / 24)
    assert layer.weight.grad is None


def test_layer_that_the_loss_does_not_reach_is_flat() -> None:
    found = curvature_of(network_of(Residual()).module, [])
    assert all(one.trace == 0.0 and one.top_eigenvalue == 0.0 for one in found.values())


def test_curvature_of_a_network_is_finite_and_repeats() -> None:
    network = network_of(Residual())
    context = context_for(network)
    batches = list(
        loss_batches(network.module, context.calibration, context.task, context.metric, max_rows=32, batch_size=16)
    )
    first, again = (curvature_of(network.module, batches, seed=3) for _ in range(2))
    assert first == again
    assert all(math.isfinite(one.trace) and math.isfinite(one.top_eigenvalue) for one in first.values())


def test_flat_layer_is_not_drowned_by_a_sharp_one() -> None:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(64, 6, generator=generator)
    sharp, flat = torch.nn.Linear(6, 6, bias=False), torch.nn.Linear(6, 6, bias=False)
    with torch.no_grad():
        sharp.weight.mul_(0.01)  # its outputs are the inputs of the other
        flat.weight.mul_(100.0)
    network = torch.nn.Sequential(sharp, flat)
    with torch.no_grad():
        seen = sharp(inputs)
    traces = [curvature_of(network, batches_of(inputs, 1), seed=seed)["1"].trace for seed in range(3)]
    assert traces == pytest.approx([6 * float((seen**2).sum()) / 64] * 3, rel=0.3)

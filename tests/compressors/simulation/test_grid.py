from __future__ import annotations

import numpy as np
import pytest
import torch

from compressors.simulation import Grid, bounds_of, rounded
from compressors.simulation.grid import RoundedActivation

VALUES = torch.randn(6, 40, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 2, 6)[:, None]


@pytest.mark.parametrize("bits", [2, 3, 4, 8, 11, 16])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "affine"])
@pytest.mark.parametrize("axis", [None, 0], ids=["tensor", "channel"])
def test_rounded_values_are_few_and_at_most_half_a_step_away(bits: int, axis: int | None, *, symmetric: bool) -> None:
    grid = Grid(bits, symmetric)
    low, high = bounds_of(VALUES, axis)
    given = rounded(VALUES, low, high, grid)
    for channel in given if axis == 0 else [given]:
        assert len(channel.unique()) <= 2**bits - symmetric
    span = 2 * torch.maximum(-low, high) if symmetric else high - low
    step = span / (grid.highest - grid.lowest)
    # an affine zero is moved onto the grid, which may push an end half a step further out
    assert ((given - VALUES).abs() <= step * (0.5 if symmetric else 1.0) * 1.001).all()


def test_channel_of_zeros_stays_zero_and_gives_no_nan() -> None:
    values = VALUES.clone()
    values[2] = 0.0
    for symmetric in (True, False):
        given = rounded(values, *bounds_of(values, 0), Grid(8, symmetric))
        assert torch.isfinite(given).all()
        assert (given[2] == 0.0).all()


def test_gradients_pass_straight_through_within_the_range_and_not_beyond() -> None:
    values = torch.tensor([-2.0, -0.5, 0.3, 3.0], requires_grad=True)
    rounded(values, torch.tensor(-1.0), torch.tensor(1.0), Grid(8, symmetric=True)).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [0.0, 1.0, 1.0, 0.0]


def test_activation_is_rounded_alike_when_it_runs_and_when_it_is_exported() -> None:
    layer = RoundedActivation(-1.3, 2.9, Grid(5, symmetric=False))
    program = torch.export.export(layer, (VALUES,))
    assert np.allclose(program.module()(VALUES).numpy(), layer(VALUES).numpy(), atol=1e-6)
    assert len(layer(VALUES).unique()) <= 2**5

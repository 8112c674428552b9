"""Linear quantization of tensors: `x_q = round(x / s)`. Pure: tensors in, tensors out.

Source: Jacob et al. 2018, arXiv:1712.05877; Bengio et al. 2013, arXiv:1308.3432 (straight-through gradients).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

TINIEST = 1e-12  # a smaller range is taken for none: no 0/0


@dataclass(frozen=True)
class Grid:
    """The values that a quantized tensor can have.

    A symmetric grid has zero in its middle and leaves its lowest integer out, as LiteRT wants it for weights.
    """

    bits: int
    symmetric: bool

    @property
    def lowest(self) -> int:
        """The smallest integer."""
        return -(1 << (self.bits - 1)) + self.symmetric

    @property
    def highest(self) -> int:
        """The largest integer."""
        return (1 << (self.bits - 1)) - 1


def bounds_of(values: torch.Tensor, axis: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """The least and greatest value, zero counted in; one for each index of `axis`, and of the values' rank."""
    others = [dimension for dimension in range(values.dim()) if dimension != axis]
    if not others:
        return values.clamp(max=0.0), values.clamp(min=0.0)
    return values.amin(others, keepdim=True).clamp(max=0.0), values.amax(others, keepdim=True).clamp(min=0.0)


def rounded(values: torch.Tensor, low: torch.Tensor, high: torch.Tensor, grid: Grid) -> torch.Tensor:
    """The values on the grid that spans a range; gradients pass straight through what lies within.

    Args:
        values: float32.
        low: at most zero; broadcasts against `values`.
        high: at least zero. A range that is empty (pruning makes such channels) leaves zeros.
        grid: how fine.
    """
    return _on_grid(values, *scale_and_zero(low, high, grid), grid)


def _on_grid(values: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, grid: Grid) -> torch.Tensor:
    levels = torch.clamp(_round(values / scale) + zero, grid.lowest, grid.highest)
    return (levels - zero) * scale


def scale_and_zero(low: torch.Tensor, high: torch.Tensor, grid: Grid) -> tuple[torch.Tensor, torch.Tensor]:
    """The width of a step, and the integer that stands for zero, for a range and its grid."""
    if grid.symmetric:
        return (torch.maximum(-low, high) / grid.highest).clamp(min=TINIEST), torch.zeros_like(low)
    scale = ((high - low) / (grid.highest - grid.lowest)).clamp(min=TINIEST)
    return scale, torch.round(grid.lowest - low / scale).clamp(grid.lowest, grid.highest)


def _round(values: torch.Tensor) -> torch.Tensor:
    return values + (torch.round(values) - values).detach()


class RoundedActivation(nn.Module):
    """An activation on its grid, with a range that is fixed; gradients pass straight through what lies within."""

    scale: torch.Tensor
    zero: torch.Tensor

    def __init__(self, low: float, high: float, grid: Grid) -> None:
        """Zero is counted into the range."""
        super().__init__()
        self.grid = grid
        scale, zero = scale_and_zero(torch.tensor(min(low, 0.0)), torch.tensor(max(high, 0.0)), grid)
        self.register_buffer("scale", scale)
        self.register_buffer("zero", zero.to(torch.int32))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """The values on the grid; converters know no fused operator for it."""
        if torch.compiler.is_compiling():
            return _on_grid(values, self.scale, self.zero, self.grid)
        return torch.fake_quantize_per_tensor_affine(values, self.scale, self.zero, self.grid.lowest, self.grid.highest)


class RoundedWeight(nn.Module):
    """A weight on its grid, whose range follows the weight: a parametrization."""

    def __init__(self, axis: int | None, grid: Grid) -> None:
        """`axis` has a scale for each index; None gives one to the tensor."""
        super().__init__()
        self.axis, self.grid = axis, grid

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight on the grid."""
        low, high = bounds_of(weight.detach(), self.axis)
        return rounded(weight, low, high, self.grid)

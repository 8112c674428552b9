"""How channels and strides follow the width of a student and the size of its pictures."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

LEAST_SIDE = 3  # of the last feature map: below, hardly anything is left to look at
LEAST_SHARE = 0.9  # rounding takes no more than a tenth of the channels


def divisible(channels: float, multiple: int = 8) -> int:
    """The nearest multiple, which kernels are quick with; not much less than asked for, and never nothing."""
    rounded = max(multiple, int(channels + multiple / 2) // multiple * multiple)
    return rounded + multiple if rounded < LEAST_SHARE * channels else rounded


def strides_within(side: int, strides: Sequence[int]) -> list[int]:
    """The strides of a family, its first ones taken away where the pictures are too small for all of them."""
    left = list(strides)
    while side / prod(left) < LEAST_SIDE and prod(left) > 1:
        left[next(i for i, stride in enumerate(left) if stride > 1)] = 1
    return left

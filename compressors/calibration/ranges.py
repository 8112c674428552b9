"""Where to clip a tensor before it is quantized. Pure: a histogram in, a range out.

A wide range keeps the rare large values and makes every step coarse; a narrow one clips them. `min-max` clips nothing,
`percentile` clips a fixed share, `mse` and `entropy` look for the range that is best by their measure.
Source: Krishnamoorthi 2018, arXiv:1806.08342; Nagel et al. 2021, arXiv:2106.08295 (mse); Migacz 2017, "8-bit inference
with TensorRT" (entropy).
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from compressors.calibration.histogram import Histogram

    Floats = NDArray[np.float64]
    Loss = Callable[[Floats, Floats, float, float], float]

LEVELS = 255  # steps between the ends of 8 bits
SHRINKS = np.linspace(1.0, 0.1, 46)
ROUNDS = 2  # of shrinking the upper and then the lower end
TINIEST = 1e-6  # a narrower range is widened: its scale would overflow the integers that are divided by it
_ALMOST_ZERO = 1e-12


class Rule(StrEnum):
    """How a range is chosen."""

    MIN_MAX = "min-max"
    PERCENTILE = "percentile"
    MSE = "mse"
    ENTROPY = "entropy"


class Range(NamedTuple):
    """The ends between which a tensor is quantized; zero lies within."""

    low: float
    high: float


def range_of(histogram: Histogram, rule: Rule, *, percentile: float) -> Range:
    """The range of a tensor by a rule.

    Args:
        histogram: what the tensor was; for min-max its extremes are enough.
        rule: how to choose.
        percentile: the share of values in percent that the rule of that name keeps.

    Returns:
        Zero lies within, because padding and ReLU need it exactly. A tensor that was always zero gets [0, 1]: no 0/0.
    """
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    if rule is Rule.PERCENTILE:
        beyond = (1.0 - percentile / 100.0) / 2.0
        low, high = max(low, histogram.quantile(beyond)), min(high, histogram.quantile(1.0 - beyond))
    elif rule is not Rule.MIN_MAX:
        values, counts = histogram.occupied()
        low, high = _best(values, counts, low, high, squared_error if rule is Rule.MSE else divergence)
    return guarded(Range(float(min(low, 0.0)), float(max(high, 0.0))))


def guarded(wanted: Range) -> Range:
    """A range that can be divided by: one that is all but empty is widened."""
    if max(-wanted.low, wanted.high) <= _ALMOST_ZERO:
        return Range(0.0, 1.0)
    if wanted.high - wanted.low < TINIEST:
        return Range(wanted.low, wanted.low + TINIEST) if wanted.high > 0.0 else Range(-TINIEST, wanted.high)
    return wanted


def _best(values: Floats, counts: Floats, low: float, high: float, loss: Loss) -> Range:
    """Shrink one end and then the other, each to where the loss is least."""
    best = Range(low, high)
    for _ in range(ROUNDS):
        tops = [Range(best.low, high * shrink) for shrink in SHRINKS] if high > 0.0 else [best]
        best = min(tops, key=lambda one: loss(values, counts, one.low, one.high))
        floors = [Range(low * shrink, best.high) for shrink in SHRINKS] if low < 0.0 else [best]
        best = min(floors, key=lambda one: loss(values, counts, one.low, one.high))
    return best


def squared_error(values: Floats, counts: Floats, low: float, high: float) -> float:
    """The mean squared difference that rounding and clipping to 8 bits make."""
    step = (high - low) / LEVELS
    if step <= 0.0:
        return float("inf")
    levels = np.clip(np.rint((values - low) / step), 0, LEVELS)
    return float(counts @ (levels * step + low - values) ** 2 / counts.sum())


def divergence(values: Floats, counts: Floats, low: float, high: float) -> float:
    """Kullback-Leibler divergence between the clipped distribution and what 8 bits leave of it.

    Clipped values are counted at the ends; within a level the values that occur are taken as equally likely. The value
    nearest to zero is left out: zero is always exact, and after a ReLU it would outweigh everything else.
    """
    step = (high - low) / LEVELS
    if step <= 0.0:
        return float("inf")
    counts = np.where(np.abs(values) == np.abs(values).min(), 0.0, counts)
    values, counts = values[counts > 0.0], counts[counts > 0.0]
    inside = (values >= low) & (values <= high)
    if not inside.any():
        return float("inf")
    kept = counts[inside]
    wanted = kept.copy()
    wanted[0] += counts[values < low].sum()
    wanted[-1] += counts[values > high].sum()
    level = np.clip(np.rint((values[inside] - low) / step), 0, LEVELS).astype(np.int64)
    mass = np.bincount(level, weights=kept, minlength=LEVELS + 1)
    members = np.bincount(level, minlength=LEVELS + 1)
    given = (mass / np.maximum(members, 1))[level]
    wanted, given = wanted / wanted.sum(), given / given.sum()
    return float(np.sum(wanted * np.log(wanted / given)))
